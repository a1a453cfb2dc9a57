"""Calls of a function that nobody can differentiate: counted, limited, in processes if asked, its faults caught."""

from __future__ import annotations

import hashlib
import math
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as Late
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import cloudpickle  # type: ignore[import-untyped]
import numpy as np

from rl.errors import UserError

Array = np.ndarray
Fault = Literal["raise", "skip", "worst"]


class BudgetSpent(UserError):
    """The black box may not be asked any more."""


@dataclass
class CallLedger:
    """What a black box was asked so far."""

    evaluations: int = 0
    """Costs asked for: one a row, or one a set where only the set has a cost. Those that failed are among them."""
    failures: int = 0
    """Evaluations that raised, came too late or gave no finite number."""
    cached: int = 0
    """Costs that were known already; they are no evaluations."""
    seconds: float = 0.0
    """Time spent waiting for the black box."""

    def __str__(self) -> str:
        """For people."""
        return (
            f"{self.evaluations:,} evaluations, {self.failures:,} failed, {self.cached:,} known before, "
            f"{self.seconds:.1f} s in the black box"
        )


class BlackBox:
    """A cost function behind a ledger.

    Args:
        cost_fn: `cost_fn(output, context, private) -> costs`, NumPy in, lower is better.
        batched: it takes B rows and returns [B]; otherwise one row a call, and returns a number.
        per: "sample": a cost a row; "batch": one number for all the rows of a call, which is one evaluation.
        workers: processes that it runs in; 0 runs it here. They import the main module anew, so a script that asks for
            them keeps its calls under `if __name__ == "__main__":`.
        timeout: seconds that one call may take; needs a worker, for only a process can be ended.
        on_fault: what a call that raises, is late or gives NaN or infinity does: "raise" hands it on as an error;
            "skip" leaves its rows out; "worst" gives them `worst_cost`.
        worst_cost: None takes the largest cost seen so far, and leaves the row out as long as there is none.
        budget: evaluations in all; None sets no limit.
        cache: costs of so many different rows are remembered (for `per="sample"`); a function that is noisy wants 0.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        cost_fn: Callable[..., Any],
        batched: bool = True,
        per: Literal["sample", "batch"] = "sample",
        workers: int = 0,
        timeout: float | None = None,
        on_fault: Fault = "raise",
        worst_cost: float | None = None,
        budget: int | None = None,
        cache: int = 0,
    ) -> None:
        if not callable(cost_fn):
            raise UserError(f"cost_fn must be a function of (output, context, private), got {cost_fn!r}")
        if on_fault not in get_args(Fault):
            raise UserError(f"on_fault must be one of {', '.join(get_args(Fault))}, got {on_fault!r}")
        for name, least, value in (("workers", 0, workers), ("cache", 0, cache), ("budget", 0, budget)):
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, got {value}")
        if timeout is not None and not timeout > 0:
            raise UserError(f"timeout must be above 0 seconds, got {timeout}")
        if timeout is not None and not workers:
            raise UserError("timeout needs workers of at least 1: a function that runs here cannot be ended")
        if cache and per == "batch":
            raise UserError("cache is for per='sample': the same set hardly ever comes twice")
        self.cost_fn, self.batched, self.per, self.workers, self.timeout = cost_fn, batched, per, workers, timeout
        self.on_fault, self.budget = on_fault, budget
        self.worst_cost, self._largest = worst_cost, -math.inf
        self.ledger = CallLedger()
        self.known: OrderedDict[bytes, float] = OrderedDict()
        self.cache = cache
        self._pool: Any = None

    def __call__(self, outputs: Sequence[Any], context: Any, private: Any, rows: int) -> tuple[Array, Array]:
        """Asks for costs.

        Args:
            outputs: M variants, each as `cost_fn` takes it: an array of `rows` rows, or a tuple of such.
            context: rows that are the same for every variant, or None.
            private: the same, anything that a row's index picks from.
            rows: B.

        Returns:
            cost [M, B] (or [M] where only a set has a cost) float64, and whether it counts, bool of the same shape.

        Raises:
            BudgetSpent: before anything is asked that the budget has no room for.
            UserError: `cost_fn` gives another shape; or it is late or gives no finite number, where that is raised.
        """
        if self.per == "batch":
            jobs = [(output, context, private) for output in outputs]
            return self._answers(jobs, [1] * len(jobs))
        keys = [
            [self._key(output, context, private, i) for i in range(rows)] if self.cache else [] for output in outputs
        ]
        cost, counts = np.full((len(outputs), rows), np.nan), np.zeros((len(outputs), rows), dtype=bool)
        for m, row_keys in enumerate(keys):
            for i, key in enumerate(row_keys):
                if key in self.known:
                    self.known.move_to_end(key)
                    cost[m, i], counts[m, i] = self.known[key], True
        self.ledger.cached += int(counts.sum())
        wanted = [np.flatnonzero(~row) for row in counts]
        parts = [(m, part) for m, row in enumerate(wanted) for part in self._parts(row)]
        jobs = [tuple(self._rows(value, part) for value in (outputs[m], context, private)) for m, part in parts]
        sizes = [len(part) for _, part in parts]
        said, fine = self._answers(jobs, sizes)
        start = 0
        for (m, part), size in zip(parts, sizes, strict=True):
            cost[m, part], counts[m, part] = said[start : start + size], fine[start : start + size]
            start += size
            for i in part if self.cache else ():
                if counts[m, i]:
                    self.known[keys[m][i]] = float(cost[m, i])
        while len(self.known) > self.cache:
            self.known.popitem(last=False)
        return cost, counts

    def close(self) -> None:
        """Ends the worker processes; a later call starts new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has processes of its own."""
        return self.__dict__ | {"_pool": None}

    def state(self) -> dict[str, Any]:
        """The ledger and the largest cost so far, as JSON."""
        largest = self._largest if math.isfinite(self._largest) else None
        return {"ledger": asdict(self.ledger), "largest": largest}

    def load_state(self, meta: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.ledger = CallLedger(**meta["ledger"])
        self._largest = -math.inf if meta["largest"] is None else meta["largest"]

    def _rows(self, values: Any, rows: Array) -> Any:
        """What a call gets of them: the rows, or the only row itself."""
        taken = _take(values, rows)
        if self.batched or taken is None:
            return taken
        return tuple(part[0] for part in taken) if isinstance(taken, tuple) else taken[0]

    def _parts(self, rows: Array) -> list[Array]:
        """Splits rows into calls: one by one, or as many a call as keep all workers busy."""
        if not len(rows):
            return []
        return np.array_split(rows, len(rows) if not self.batched else min(max(self.workers, 1), len(rows)))

    def _answers(self, jobs: list[tuple[Any, ...]], sizes: list[int]) -> tuple[Array, Array]:
        """Costs of calls that are worth so many evaluations each, one behind the other, and which of them count."""
        asked = sum(sizes)
        if self.budget is not None and self.ledger.evaluations + asked > self.budget:
            raise BudgetSpent(
                f"the budget is {self.budget} evaluations: {self.ledger.evaluations} were made and {asked} more are due"
            )
        self.ledger.evaluations += asked
        begun = time.perf_counter()
        try:
            said = self._in_workers(jobs) if self.workers else [_attempt(self.cost_fn, job) for job in jobs]
        finally:
            self.ledger.seconds += time.perf_counter() - begun
        cost = np.concatenate([self._checked(*pair) for pair in zip(said, sizes, strict=True)] or [np.empty(0)])
        fine = np.isfinite(cost)
        self.ledger.failures += int((~fine).sum())
        if fine.any():
            self._largest = max(self._largest, float(cost[fine].max()))
        if fine.all() or self.on_fault == "skip":
            return cost, fine
        if self.on_fault == "raise":
            faults = [fault for fault in said if isinstance(fault, Exception)]
            if faults:
                raise faults[0]
            raise UserError(f"cost_fn gave {cost[~fine][0]}: a cost must be a finite number")
        worst = self._largest if self.worst_cost is None else self.worst_cost
        return np.where(fine, cost, worst), fine | math.isfinite(worst)

    def _checked(self, said: Any, size: int) -> Array:
        """What a call gave as [size] float64; NaN where it failed. Raises UserError for another shape."""
        if isinstance(said, Exception):
            return np.full(size, np.nan)
        try:
            cost = np.asarray(said, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"cost_fn gave {said!r}: it must give numbers") from error
        if cost.size != size or cost.ndim > 2:
            wanted = f"{size} costs, one a row" if self.per == "sample" and self.batched else "one number"
            raise UserError(f"cost_fn gave shape {cost.shape}: it must give {wanted}")
        return cost.reshape(size)

    def _in_workers(self, jobs: list[tuple[Any, ...]]) -> list[Any]:
        import multiprocessing  # only here: most black boxes need no processes

        from pebble import ProcessExpired, ProcessPool

        if self._pool is None:
            fresh = multiprocessing.get_context("spawn")  # a fork would take torch's threads along, half alive
            installed = (cloudpickle.dumps(self.cost_fn),)
            self._pool = ProcessPool(self.workers, context=fresh, initializer=_install, initargs=installed)
        futures = [self._pool.schedule(_work, args=(job,), timeout=self.timeout) for job in jobs]
        said: list[Any] = []
        for future in futures:
            try:
                said.append(future.result())
            except Late:
                said.append(UserError(f"cost_fn took longer than its timeout of {self.timeout} s"))
            except ProcessExpired as error:
                said.append(UserError(f"the process that cost_fn ran in ended: {error}"))
        return said

    def _key(self, output: Any, context: Any, private: Any, row: int) -> bytes:
        """What tells a row's question from others."""
        parts = (_take(part, np.array([row])) for part in (output, context, private))
        return hashlib.blake2b(cloudpickle.dumps(tuple(parts)), digest_size=16).digest()


_installed: Callable[..., Any]


def _install(pickled: bytes) -> None:
    global _installed
    _installed = cloudpickle.loads(pickled)


def _work(job: tuple[Any, ...]) -> Any:
    """What it gives, or the exception, in a form that comes through to another process."""
    said = _attempt(_installed, job)
    if isinstance(said, Exception):
        try:
            pickle.loads(pickle.dumps(said))
        except Exception:  # a class of the user's own script, say
            return UserError(f"cost_fn raised {type(said).__name__}: {said}")
    return said


def _attempt(cost_fn: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    """What it gives, or the exception that it raises."""
    try:
        return cost_fn(*job)
    except Exception as error:
        return error


def _take(values: Any, rows: Array) -> Any:
    """Rows of an array, of a tuple of arrays, of any other sequence; None stays None."""
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        return values[rows]
    if isinstance(values, tuple):
        return tuple(_take(value, rows) for value in values)
    return [values[i] for i in rows]

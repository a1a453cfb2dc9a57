"""Calls of a function that nobody can differentiate: counted, limited, in processes if asked, its faults caught."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import signal
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any, Literal, get_args

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from torch import Tensor

from costgrad.rl.data import to_numpy
from costgrad.rl.errors import UserError

Array = np.ndarray
Fault = Literal["raise", "skip", "worst"]
LARGEST = float(np.finfo(np.float32).max)  # that C can learn from


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
        for name, value in (("workers", workers), ("cache", cache), ("budget", budget)):
            if value is not None and (not isinstance(value, Integral) or value < 0):
                raise UserError(f"{name} must be a whole number of at least 0, got {value}")
        if worst_cost is not None and not abs(worst_cost) <= LARGEST:
            raise UserError(f"worst_cost must be a finite number, of float32, got {worst_cost}")
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
            private: the same, anything that a row's index picks from; a tuple of arrays and lists is columns.
            rows: B.

        Returns:
            cost [M, B] (or [M] where only a set has a cost) float64, and whether it counts, bool of the same shape.

        Raises:
            BudgetSpent: before anything is asked that the budget has no room for.
            UserError: `cost_fn` gives another shape; or it is late or gives no finite number, where that is raised.
        """
        if self.per == "batch":  # what a function does to its arrays is its own affair, as with rows
            jobs = [tuple(_copied(value) for value in (output, context, private)) for output in outputs]
            cost, counts, _ = self._answers(jobs, [1] * len(jobs))
            return cost, counts
        private = list(private) if isinstance(private, tuple) and not columns(private) else private
        keys = [
            [self._key(output, context, private, i) for i in range(rows)] if self.cache else [] for output in outputs
        ]
        cost, counts = np.full((len(outputs), rows), np.nan), np.zeros((len(outputs), rows), dtype=bool)
        for m, row_keys in enumerate(keys):
            for i, key in enumerate(row_keys):
                if key in self.known:
                    self.known.move_to_end(key)
                    cost[m, i], counts[m, i] = self.known[key], True
        known = int(counts.sum())
        wanted = [np.flatnonzero(~row) for row in counts]
        parts = [(m, part) for m, row in enumerate(wanted) for part in self._parts(row)]
        jobs = [tuple(self._rows(value, part) for value in (outputs[m], context, private)) for m, part in parts]
        sizes = [len(part) for _, part in parts]
        said, fine, told = self._answers(jobs, sizes)
        self.ledger.cached += known
        start = 0
        for (m, part), size in zip(parts, sizes, strict=True):
            cost[m, part], counts[m, part] = said[start : start + size], fine[start : start + size]
            for i, own in zip(part, told[start : start + size], strict=True) if self.cache else ():
                if own:
                    self.known[keys[m][i]] = float(cost[m, i])
            start += size
        while len(self.known) > self.cache:
            self.known.popitem(last=False)
        return cost, counts

    def close(self) -> None:
        """Ends the worker processes; a later call starts new ones."""
        if self._pool is not None:
            _end(self._pool)
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
        return tuple(None if part is None else part[0] for part in taken) if isinstance(taken, tuple) else taken[0]

    def _parts(self, rows: Array) -> list[Array]:
        """Splits rows into calls: one by one, or as many a call as keep all workers busy."""
        if not len(rows):
            return []
        return np.array_split(rows, len(rows) if not self.batched else min(max(self.workers, 1), len(rows)))

    def _answers(self, jobs: list[tuple[Any, ...]], sizes: list[int]) -> tuple[Array, Array, Array]:
        """Costs of calls that are worth so many evaluations each, one behind the other.

        Returns:
            these, which of them count, and which `cost_fn` gave itself.
        """
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
        fine = np.abs(cost) <= LARGEST
        self.ledger.failures += int((~fine).sum())
        if fine.any():
            self._largest = max(self._largest, float(cost[fine].max()))
        if fine.all() or self.on_fault == "skip":
            return cost, fine, fine
        if self.on_fault == "raise":
            faults = [fault for fault in said if isinstance(fault, Exception)]
            if faults:
                raise faults[0]
            raise UserError(f"cost_fn gave {cost[~fine][0]}: a cost must be a finite number, of float32")
        worst = self._largest if self.worst_cost is None else self.worst_cost
        return np.where(fine, cost, worst), fine | math.isfinite(worst), fine

    def _checked(self, said: Any, size: int) -> Array:
        """What a call gave as [size] float64; NaN where it failed. Raises UserError for another shape."""
        if isinstance(said, Exception):
            return np.full(size, np.nan)
        try:
            given = np.asarray(to_numpy(said) if isinstance(said, Tensor) else said)
            if np.iscomplexobj(given):
                raise TypeError("complex")
            cost = given.astype(np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # the last of a list of Tensors with a graph
            raise UserError(f"cost_fn gave {said!r}: it must give numbers") from error
        if cost.size != size or cost.ndim > 2:
            wanted = f"{size} costs, one a row" if self.per == "sample" and self.batched else "one number"
            raise UserError(f"cost_fn gave shape {cost.shape}: it must give {wanted}")
        return cost.reshape(size)

    def _in_workers(self, jobs: list[tuple[Any, ...]]) -> list[Any]:
        import multiprocessing  # only here: most black boxes need no processes

        from pebble import ProcessExpired, ProcessPool

        sent = [_pickled(job, "private cannot be sent to workers") for job in jobs]  # outputs and context always can
        if self._pool is None:
            fresh = multiprocessing.get_context("spawn")  # a fork would take torch's threads along, half alive
            installed = (_pickled(self.cost_fn, "cost_fn cannot be sent to workers"),)
            self._pool = ProcessPool(self.workers, context=fresh, initializer=_install, initargs=installed)
            weakref.finalize(self, _end, self._pool)  # one that is dropped leaves no processes behind
        futures = [self._pool.schedule(_work, args=(job,), timeout=self.timeout) for job in sent]
        said: list[Any] = []
        for future in futures:
            try:
                said.append(future.result())
            except Late:
                said.append(UserError(f"cost_fn took longer than its timeout of {self.timeout} s"))
            except ProcessExpired as error:
                said.append(UserError(f"the process that cost_fn ran in ended: {error}"))
            except BrokenExecutor as error:
                raise UserError(
                    "no worker started: a script that asks for them keeps its calls under "
                    f'if __name__ == "__main__": ({error})'
                ) from error
        return said

    def _key(self, output: Any, context: Any, private: Any, row: int) -> bytes:
        """What tells a row's question from others."""
        parts = (_take(part, np.array([row])) for part in (output, context, private))
        return hashlib.blake2b(_pickled(tuple(parts), "cache cannot remember private"), digest_size=16).digest()


_installed: Callable[..., Any]


def _install(pickled: bytes) -> None:
    """The first thing that a worker does. Programs that the function starts end with the worker."""
    global _installed
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    _installed = cloudpickle.loads(pickled)


def _end(pool: Any) -> None:
    pool.stop()
    pool.join()


def _pickled(value: Any, fault: str) -> bytes:
    """With the classes of the user's own script, the same for `cost_fn` and what it gets. Raises UserError."""
    try:
        return cloudpickle.dumps(value)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise UserError(f"{fault}: {error}") from error


def _work(job: bytes) -> Any:
    """What it gives, or the exception, in a form that comes through to another process."""
    said = _attempt(_installed, cloudpickle.loads(job))
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
    except SystemExit as error:  # a program made into a function, say: not the end of this one
        return UserError(f"cost_fn called exit ({error.code})")
    except Exception as error:
        return error


def columns(private: Any) -> bool:
    """Whether a tuple holds columns of rows, and is not itself rows."""
    return isinstance(private, tuple) and all(
        isinstance(column, np.ndarray | Tensor | list | tuple) or column is None for column in private
    )


def _copied(values: Any) -> Any:
    """Arrays, and those in a tuple, in memory of their own; other things as they are."""
    if isinstance(values, tuple):
        return tuple(map(_copied, values))
    return values.copy() if isinstance(values, np.ndarray) else values


def _take(values: Any, rows: Array) -> Any:
    """Rows of an array, of a tuple of arrays, of any other sequence; None stays None."""
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        return values[rows]
    if isinstance(values, tuple):
        return tuple(_take(value, rows) for value in values)
    return [values[i] for i in rows]

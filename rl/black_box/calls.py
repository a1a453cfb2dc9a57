"""Calls of a black-box cost function: counted, with a budget, a cache, worker processes and error handling."""

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
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures import TimeoutError as Late
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any, Literal, get_args

import cloudpickle
import numpy as np
from torch import Tensor

from costgrad.rl.data import to_numpy
from costgrad.rl.errors import UserError

Array = np.ndarray
Fault = Literal["raise", "skip", "worst"]
ENDED = object()  # instead of a result: the worker process ended in the call
LARGEST = float(np.finfo(np.float32).max)  # the largest cost that C can learn from


class BudgetSpent(UserError):
    """The evaluation budget is used up."""


@dataclass
class CallLedger:
    """Counts the evaluations of a black box."""

    evaluations: int = 0
    """Evaluations, failed ones included: one per row, or one per set where only the set has a cost."""
    failures: int = 0
    """Evaluations that raised, timed out or returned no finite number."""
    cached: int = 0
    """Costs taken from the cache; they do not count as evaluations."""
    seconds: float = 0.0
    """Time spent waiting for the black box."""

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.evaluations:,} evaluations, {self.failures:,} failed, {self.cached:,} cached, "
            f"{self.seconds:.1f} s in the black box"
        )


class BlackBox:
    """A cost function with a ledger of its evaluations.

    Args:
        cost_fn: `cost_fn(output, context, private) -> costs`, NumPy in, lower is better.
        batched: whether `cost_fn` takes B rows and returns [B]; otherwise it takes one row and returns a number.
        per: "sample": one cost per row; "batch": one cost for all rows of a call, which is one evaluation.
        workers: worker processes; 0 calls `cost_fn` in this process. Workers import the main module, so a script must
            guard its calls by `if __name__ == "__main__":`.
        timeout: seconds per call; needs workers, because only a process can be stopped.
        on_fault: what to do if a call raises, times out or returns NaN or infinity: "raise" an error, "skip" its rows,
            or give them the "worst" cost.
        worst_cost: of on_fault="worst"; None takes the largest cost so far, and skips rows as long as there is none.
        budget: maximum number of evaluations; None sets no limit.
        cache: number of rows whose costs are cached (for `per="sample"`); use 0 for noisy functions.

    Raises:
        UserError: invalid arguments.
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
            raise UserError(f"worst_cost must be a finite number in float32, got {worst_cost}")
        if timeout is not None and not timeout > 0:
            raise UserError(f"timeout must be above 0 seconds, got {timeout}")
        if timeout is not None and not workers:
            raise UserError("timeout needs workers of at least 1: a call in this process cannot be stopped")
        if cache and per == "batch":
            raise UserError("cache is for per='sample': the same set is rarely evaluated twice")
        self.cost_fn, self.batched, self.per, self.workers, self.timeout = cost_fn, batched, per, workers, timeout
        self.on_fault, self.budget = on_fault, budget
        self.worst_cost, self._largest = worst_cost, -math.inf
        self.ledger = CallLedger()
        self._cached: OrderedDict[bytes, float] = OrderedDict()
        self.cache = cache
        self._pool: Any = None
        self._worked = False  # whether a worker has ever answered

    def __call__(self, outputs: Sequence[Any], context: Any, private: Any, rows: int) -> tuple[Array, Array]:
        """Evaluates costs, or takes them from the cache.

        Args:
            outputs: M variants, each as `cost_fn` takes it: an array of `rows` rows, or a tuple of such.
            context: rows that are the same for every variant, or None.
            private: also the same for every variant, indexed by row; a tuple of arrays and lists is columns.
            rows: B.

        Returns:
            cost [M, B] (or [M] where only a set has a cost) float64, and whether it is valid, bool of the same shape.

        Raises:
            BudgetSpent: the budget is too small; raised before any evaluation.
            UserError: `cost_fn` returns a wrong shape; or with on_fault="raise", it fails, see there.
        """
        if self.per == "batch":  # copies: `cost_fn` may write to its arguments
            jobs = [tuple(_copied(value) for value in (output, context, private)) for output in outputs]
            cost, valid, _ = self._evaluate(jobs, [1] * len(jobs), [f"set {m}" for m in range(len(jobs))])
            return cost, valid
        private = list(private) if isinstance(private, tuple) and not columns(private) else private
        keys = [
            [self._key(output, context, private, i) for i in range(rows)] if self.cache else [] for output in outputs
        ]
        cost, valid = np.full((len(outputs), rows), np.nan), np.zeros((len(outputs), rows), dtype=bool)
        for m, row_keys in enumerate(keys):
            for i, key in enumerate(row_keys):
                if key in self._cached:
                    self._cached.move_to_end(key)
                    cost[m, i], valid[m, i] = self._cached[key], True
        cached = int(valid.sum())
        missing = [np.flatnonzero(~row) for row in valid]
        parts = [(m, part) for m, row in enumerate(missing) for part in self._parts(row)]
        jobs = [tuple(self._rows(value, part) for value in (outputs[m], context, private)) for m, part in parts]
        sizes = [len(part) for _, part in parts]
        variants = [f" of variant {m}" if len(outputs) > 1 else "" for m in range(len(outputs))]
        names = [f"row {i}{variants[m]}" for m, part in parts for i in part]
        costs, ok, cacheable = self._evaluate(jobs, sizes, names)
        self.ledger.cached += cached
        start = 0
        for (m, part), size in zip(parts, sizes, strict=True):
            cost[m, part], valid[m, part] = costs[start : start + size], ok[start : start + size]
            for i, store in zip(part, cacheable[start : start + size], strict=True) if self.cache else ():
                if store:
                    self._cached[keys[m][i]] = float(cost[m, i])
            start += size
        while len(self._cached) > self.cache:
            self._cached.popitem(last=False)
        return cost, valid

    def close(self) -> None:
        """Stops the worker processes; a later call starts new ones."""
        if self._pool is not None:
            _end(self._pool)
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the workers: a copy starts its own."""
        return self.__dict__ | {"_pool": None}

    def state(self) -> dict[str, Any]:
        """The ledger and the largest cost so far, as JSON."""
        largest = self._largest if math.isfinite(self._largest) else None
        return {"ledger": asdict(self.ledger), "largest": largest}

    def load_state(self, meta: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.ledger = CallLedger(**meta["ledger"])
        self._largest = -math.inf if meta["largest"] is None else meta["largest"]

    def _rows(self, values: Any, rows: Array) -> Any:
        """The argument of a call: rows if batched, else the single row without its axis."""
        picked = _take(values, rows)
        if self.batched or picked is None:
            return picked
        return tuple(None if part is None else part[0] for part in picked) if isinstance(picked, tuple) else picked[0]

    def _parts(self, rows: Array) -> list[Array]:
        """Splits rows into calls: one row each, or if batched one call per worker."""
        if not len(rows):
            return []
        return np.array_split(rows, len(rows) if not self.batched else min(max(self.workers, 1), len(rows)))

    def _evaluate(self, jobs: list[tuple[Any, ...]], sizes: list[int], names: list[str]) -> tuple[Array, Array, Array]:
        """Runs calls that are `sizes` evaluations each, `names` of which are for people.

        Returns:
            costs, concatenated over the calls; which are valid; which are cacheable, for they come from `cost_fn`.
        """
        requested = sum(sizes)
        if self.budget is not None and self.ledger.evaluations + requested > self.budget:
            raise BudgetSpent(
                f"the budget is {self.budget} evaluations: "
                f"{self.ledger.evaluations} were made and {requested} more are due"
            )
        self.ledger.evaluations += requested
        start = time.perf_counter()
        try:
            results = (
                self._in_workers(jobs, sizes, names) if self.workers else [_attempt(self.cost_fn, job) for job in jobs]
            )
        finally:
            self.ledger.seconds += time.perf_counter() - start
        cost = np.concatenate([self._checked(*pair) for pair in zip(results, sizes, strict=True)] or [np.empty(0)])
        valid = np.abs(cost) <= LARGEST
        self.ledger.failures += int((~valid).sum())
        if valid.any():
            self._largest = max(self._largest, float(cost[valid].max()))
        if valid.all() or self.on_fault == "skip":
            return cost, valid, valid
        if self.on_fault == "raise":
            faults = [fault for fault in results if isinstance(fault, Exception)]
            if faults:
                raise faults[0]
            raise UserError(f"cost_fn returned {cost[~valid][0]}: a cost must be a finite number in float32")
        worst = self._largest if self.worst_cost is None else self.worst_cost
        return np.where(valid, cost, worst), valid | math.isfinite(worst), valid

    def _checked(self, result: Any, size: int) -> Array:
        """The result of a call as [size] float64; NaN if it failed. Raises UserError for a wrong shape."""
        if isinstance(result, Exception):
            return np.full(size, np.nan)
        try:
            given = np.asarray(to_numpy(result) if isinstance(result, Tensor) else result)
            if np.iscomplexobj(given):
                raise TypeError("complex")
            cost = given.astype(np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a list of Tensors with a graph
            raise UserError(f"cost_fn returned {result!r}: it must return numbers") from error
        if cost.size != size or cost.ndim > 2:
            wanted = f"{size} costs, one per row" if self.per == "sample" and self.batched else "one number"
            raise UserError(f"cost_fn returned shape {cost.shape}: it must return {wanted}")
        return cost.reshape(size)

    def _in_workers(self, jobs: list[tuple[Any, ...]], sizes: list[int], names: list[str]) -> list[Any]:
        """The result of each call, or what it raised.

        A call whose worker ended is made once more, row by row where it has several: a worker that was killed costs
        nothing, and a row that ends its worker again is named.
        """
        results = self._in_pool(jobs)
        ended = [i for i, result in enumerate(results) if result is ENDED]
        if not ended:
            return results
        by_row = self.batched and self.per == "sample"
        again: list[tuple[Any, ...]] = []
        for i in ended:
            rows = [np.array([k]) for k in range(sizes[i])]
            again += [tuple(_take(value, row) for value in jobs[i]) for row in rows] if by_row else [jobs[i]]
        answers, start = self._in_pool(again), np.cumsum([0, *sizes])
        for i in ended:
            of_job, answers = answers[: sizes[i]], answers[sizes[i] :]
            for k, answer in enumerate(of_job):
                if answer is ENDED:
                    of_job[k] = UserError(f"the process that cost_fn ran in ended twice, on {names[start[i] + k]}")
            results[i] = self._joined(of_job) if by_row else of_job[0]
        return results

    def _joined(self, answers: list[Any]) -> Any:
        """The result of a call from those of its rows; with on_fault="raise" what the first row raised."""
        fault = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if fault is not None and self.on_fault == "raise":
            return fault
        return np.concatenate([self._checked(answer, 1) for answer in answers])

    def _in_pool(self, jobs: list[tuple[Any, ...]]) -> list[Any]:
        """The result of each call, what it raised, or ENDED where its worker ended; a pool that broke is replaced."""
        from pebble import ProcessExpired

        sent = [_pickled(job, "private cannot be sent to workers") for job in jobs]  # outputs and context always can be
        for attempt in (1, 2):
            try:
                pool = self._started()
                futures = [pool.schedule(_work, args=(job,), timeout=self.timeout) for job in sent]
            except (BrokenExecutor, RuntimeError) as error:  # its workers ended while nothing was asked of them
                self.close()
                if attempt == 2:
                    raise self._no_worker(error) from error
                continue
            break
        results: list[Any] = []
        for future in futures:
            try:
                results.append(future.result())
            except Late:
                results.append(UserError(f"cost_fn took longer than its timeout of {self.timeout} s"))
            except ProcessExpired:
                results.append(ENDED)
            except (BrokenExecutor, CancelledError) as error:
                if not self._worked:
                    raise self._no_worker(error) from error
                results.append(ENDED)
        self._worked = self._worked or any(result is not ENDED for result in results)
        return results

    def _started(self) -> Any:
        """The pool, a new one where there is none or where it broke."""
        import multiprocessing  # only here: most black boxes need no processes

        from pebble import ProcessPool

        if self._pool is not None and not self._pool.active:
            self.close()
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in a broken state
            installed = (_pickled(self.cost_fn, "cost_fn cannot be sent to workers"),)
            self._pool = ProcessPool(self.workers, context=spawn, initializer=_install, initargs=installed)
            weakref.finalize(self, _end, self._pool)  # stops the workers when the object is garbage-collected
        return self._pool

    @staticmethod
    def _no_worker(error: Exception) -> UserError:
        return UserError(
            f'no worker started: a script with workers must guard its calls by if __name__ == "__main__": ({error})'
        )

    def _key(self, output: Any, context: Any, private: Any, row: int) -> bytes:
        """The cache key of a row: a hash of its inputs."""
        parts = (_take(part, np.array([row])) for part in (output, context, private))
        return hashlib.blake2b(_pickled(tuple(parts), "cache cannot remember private"), digest_size=16).digest()


_installed: Callable[..., Any]


def _install(pickled: bytes) -> None:
    """Initialises a worker. Programs that `cost_fn` starts are killed with the worker."""
    global _installed
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    _installed = cloudpickle.loads(pickled)


def _end(pool: Any) -> None:
    pool.stop()
    pool.join()


def _pickled(value: Any, fault: str) -> bytes:
    """Pickles by value the classes of the user's own script, for `cost_fn` and its arguments. Raises UserError."""
    try:
        return cloudpickle.dumps(value)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise UserError(f"{fault}: {error}") from error


def _work(job: bytes) -> Any:
    """Runs a call in a worker: its result, or the exception in a form that can be pickled."""
    result = _attempt(_installed, cloudpickle.loads(job))
    if isinstance(result, Exception):
        try:
            pickle.loads(pickle.dumps(result))
        except Exception:  # a class of the user's own script, say
            return UserError(f"cost_fn raised {type(result).__name__}: {result}")
    return result


def _attempt(cost_fn: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    """The result of a call, or the exception that it raises."""
    try:
        return cost_fn(*job)
    except SystemExit as error:  # `cost_fn` called sys.exit, which must not end this process
        return UserError(f"cost_fn called exit ({error.code})")
    except Exception as error:
        return error


def columns(private: Any) -> bool:
    """Whether it is a tuple of columns rather than rows."""
    return isinstance(private, tuple) and all(
        isinstance(column, np.ndarray | Tensor | list | tuple) or column is None for column in private
    )


def _copied(values: Any) -> Any:
    """Copies of arrays, also within a tuple; other values unchanged."""
    if isinstance(values, tuple):
        return tuple(map(_copied, values))
    return values.copy() if isinstance(values, np.ndarray) else values


def _take(values: Any, rows: Array) -> Any:
    """Rows of an array, a tuple of arrays or another sequence; None stays None."""
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        return values[rows]
    if isinstance(values, tuple):
        return tuple(_take(value, rows) for value in values)
    return [values[i] for i in rows]

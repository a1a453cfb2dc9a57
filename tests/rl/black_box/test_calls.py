"""The black box's calls: the ledger against the black box's own count, faults, budget, cache, workers, time-outs."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from costgrad.rl.black_box.calls import BlackBox, BudgetSpent
from costgrad.rl.errors import UserError


class Counting:
    """Costs are the first column; it counts its rows, in a file if it runs elsewhere."""

    def __init__(self, path: Path | None = None) -> None:
        self.rows, self.path = 0, path

    def __call__(self, output: Any, context: Any, private: Any) -> Any:
        output = np.atleast_2d(output)
        self.rows += len(output)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write("x" * len(output))
        if (output[:, 0] == 13).any():
            raise ValueError("thirteen")
        if (output[:, 0] == 99).any():
            time.sleep(60)
        return np.where(output[:, 0] == 7, np.nan, output[:, 0])


def numbers(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


@pytest.mark.parametrize("batched", [True, False])
def test_the_ledger_equals_the_calls_of_the_black_box(batched: bool) -> None:
    counting = Counting()
    box = BlackBox(lambda o, c, p: counting(o, c, p) if batched else counting(o, c, p)[0], batched=batched)
    cost, counts = box([numbers(1, 2, 3), numbers(4, 5, 6)], None, None, 3)
    assert cost.tolist() == [[1, 2, 3], [4, 5, 6]] and counts.all()
    assert box.ledger.evaluations == counting.rows == 6 and box.ledger.failures == 0 and box.ledger.seconds > 0


def test_context_and_private_are_given_by_row() -> None:
    seen: list[Any] = []

    def cost_fn(output: Any, context: Any, private: Any) -> float:
        seen.append((float(output[0]), float(context), private))
        return 0.0

    BlackBox(cost_fn, batched=False)([numbers(1, 2)], np.array([10.0, 20.0]), ["a", "b"], 2)
    assert seen == [(1, 10, "a"), (2, 20, "b")]


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_raise_are_skipped_or_cost_the_worst(workers: int, tmp_path: Path) -> None:
    outputs = [numbers(1, 13, 3, 7)]
    for on_fault, expected, counted in (("skip", None, [1, 0, 1, 0]), ("worst", [1, 3, 3, 3], [1] * 4)):
        path = tmp_path / on_fault
        box = BlackBox(Counting(path), batched=False, on_fault=on_fault, workers=workers)  # type: ignore[arg-type]
        cost, counts = box(outputs, None, None, 4)
        assert counts[0].tolist() == [bool(c) for c in counted]
        if expected:
            assert cost[0].tolist() == expected
        assert (box.ledger.evaluations, box.ledger.failures) == (4, 2) and len(path.read_text()) == 4
        box.close()
    box = BlackBox(Counting(), batched=False, workers=workers)
    with pytest.raises(ValueError, match="thirteen"):
        box([numbers(1, 13)], None, None, 2)
    assert (box.ledger.evaluations, box.ledger.failures) == (2, 1)
    with pytest.raises(UserError, match="cost_fn returned nan: a cost must be a finite number"):
        box([numbers(7)], None, None, 1)
    box.close()


def test_an_exception_that_cannot_be_pickled_is_a_fault_like_any_other() -> None:
    class Broke(Exception):
        """Of a class that only this function knows."""

    def cost_fn(output: Any, context: Any, private: Any) -> float:
        raise Broke("a pipe")

    box = BlackBox(cost_fn, batched=False, workers=1, on_fault="skip")
    assert not box([numbers(1, 2)], None, None, 2)[1].any() and box.ledger.failures == 2
    box.close()
    strict = BlackBox(cost_fn, batched=False, workers=1)
    with pytest.raises(UserError, match="cost_fn raised Broke: a pipe"):
        strict([numbers(1)], None, None, 1)
    strict.close()


def test_worst_cost_given_and_without_any_cost_so_far() -> None:
    _, counts = BlackBox(Counting(), on_fault="worst")([numbers(7, 7)], None, None, 2)
    assert not counts.any()
    cost, counts = BlackBox(Counting(), on_fault="worst", worst_cost=50.0)([numbers(7, 2)], None, None, 2)
    assert counts.all() and cost.tolist() == [[50, 2]]


def test_a_call_that_hangs_is_ended_and_the_next_one_works() -> None:
    box = BlackBox(Counting(), batched=False, workers=1, timeout=1.0, on_fault="skip")
    begun = time.perf_counter()
    cost, counts = box([numbers(1, 99, 3)], None, None, 3)
    assert counts.tolist() == [[True, False, True]] and cost[0, [0, 2]].tolist() == [1, 3]
    assert (box.ledger.evaluations, box.ledger.failures) == (3, 1) and time.perf_counter() - begun < 40
    assert box([numbers(5)], None, None, 1)[0].tolist() == [[5]]
    box.close()
    strict = BlackBox(Counting(), batched=False, workers=1, timeout=1.0)
    with pytest.raises(UserError, match=r"cost_fn took longer than its timeout of 1.0 s"):
        strict([numbers(99)], None, None, 1)
    strict.close()


@pytest.fixture
def started() -> Callable[[], list[psutil.Process]]:
    """The worker processes that were started in this test; those of others may still be on their way out."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}

    def running() -> list[psutil.Process]:
        found = []
        for p in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a zombie too
                if p.pid not in before and "multiprocessing-fork" in str(p.cmdline()):
                    found.append(p)
        return found

    return running


class Deadly:
    """The output is the cost; 13 ends the process, 7 does so the first time only."""

    def __init__(self, seen: Path) -> None:
        self.seen = seen

    def __call__(self, output: Any, context: Any, private: Any) -> Any:
        if (output == 13).any() or ((output == 7).any() and not self.seen.exists()):
            self.seen.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return output[..., 0]


def test_workers_that_are_killed_cost_nothing(tmp_path: Path, started: Callable[[], list[psutil.Process]]) -> None:
    """Between two calls or in one: the row is evaluated again, once."""
    box = BlackBox(Deadly(tmp_path / "seen"), batched=False, workers=2)
    for _ in range(2):
        assert box([numbers(1, 2)], None, None, 2)[0].tolist() == [[1, 2]]
        started()[0].kill()
    for process in started():
        process.kill()
    time.sleep(0.5)  # the pool notices, and calls itself broken
    assert box([numbers(1, 7, 3)], None, None, 3)[0].tolist() == [[1, 7, 3]] and (tmp_path / "seen").exists()
    assert (box.ledger.evaluations, box.ledger.failures) == (7, 0)
    box.close()


@pytest.mark.parametrize(("batched", "on_fault"), [(True, "skip"), (False, "raise")])
def test_a_row_that_ends_its_worker_each_time_is_named_and_the_others_count(
    batched: bool, on_fault: Any, tmp_path: Path
) -> None:
    rows = [numbers(1, 2, 13, 4), numbers(5, 6, 8, 9)]
    box = BlackBox(Deadly(tmp_path / "seen"), batched=batched, workers=2, on_fault=on_fault)
    if on_fault == "raise":
        with pytest.raises(UserError, match=r"the process that cost_fn ran in ended twice, on row 2 of variant 0$"):
            box(rows, None, None, 4)
    else:
        cost, counts = box(rows, None, None, 4)
        assert counts.tolist() == [[True, True, False, True], [True] * 4] and cost[1].tolist() == [5, 6, 8, 9]
        assert cost[0, [0, 1, 3]].tolist() == [1, 2, 4]
    assert (box.ledger.evaluations, box.ledger.failures) == (8, 1)
    assert box([numbers(5)], None, None, 1)[0].tolist() == [[5]]  # the next call works
    box.close()


def alive(name: str) -> int:
    """Processes of that name that run."""
    return sum(p.name() == name and p.status() != psutil.STATUS_ZOMBIE for p in psutil.process_iter())


def test_programs_that_a_hanging_call_started_end_with_it() -> None:
    def cost_fn(output: Any, context: Any, private: Any) -> float:
        subprocess.run(["sleep", "77"], check=False)
        return 0.0

    before = alive("sleep")
    box = BlackBox(cost_fn, batched=False, workers=1, timeout=2.0, on_fault="skip")
    assert not box([numbers(1)], None, None, 1)[1].any()
    box.close()
    assert alive("sleep") <= before


def test_garbage_collection_stops_the_workers(started: Callable[[], list[psutil.Process]]) -> None:
    box = BlackBox(lambda o, c, p: o[:, 0], workers=1)
    box([numbers(1)], None, None, 1)
    (worker,) = started()
    del box
    gc.collect()
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_that_exits_does_not_end_the_program(workers: int) -> None:
    box = BlackBox(lambda o, c, p: sys.exit("bad input"), workers=workers)
    with pytest.raises(UserError, match=r"cost_fn called exit \(bad input\)"):
        box([numbers(1)], None, None, 1)
    box.close()


def test_the_budget_is_never_exceeded() -> None:
    counting = Counting()
    box = BlackBox(counting, budget=5)
    box([numbers(1, 2, 3)], None, None, 3)
    with pytest.raises(BudgetSpent, match="the budget is 5 evaluations: 3 were made and 3 more are due"):
        box([numbers(1, 2, 3)], None, None, 3)
    assert box.ledger.evaluations == counting.rows == 3
    box([numbers(1, 2)], None, None, 2)


def test_cached_costs_are_not_evaluated_again() -> None:
    counting = Counting()
    box = BlackBox(counting, cache=3)
    box([numbers(1, 2)], None, [0, 0], 2)
    cost, counts = box([numbers(2, 3)], None, [0, 0], 2)
    assert cost.tolist() == [[2, 3]] and counts.all()
    assert (counting.rows, box.ledger.evaluations, box.ledger.cached) == (3, 3, 1)
    box([numbers(2)], None, [1], 1)  # the same output, but another private part
    assert counting.rows == 4
    box([numbers(1)], None, [0], 1)  # the oldest was forgotten
    assert counting.rows == 5


def test_failures_are_not_cached_and_refused_evaluations_are_not_counted() -> None:
    asked = []

    def once(output: Any, context: Any, private: Any) -> Any:
        asked.append(len(output))
        return np.where(len(asked) == 1, np.nan, output[:, 0])

    box = BlackBox(once, cache=10, on_fault="worst", worst_cost=9.0, budget=4)
    assert box([numbers(1, 2)], None, None, 2)[0].tolist() == [[9, 9]]
    assert box([numbers(1, 2)], None, None, 2)[0].tolist() == [[1, 2]] and asked == [2, 2]
    for _ in range(3):
        with pytest.raises(BudgetSpent):
            box([numbers(1, 2, 3)], None, None, 3)
    assert (box.ledger.evaluations, box.ledger.failures, box.ledger.cached) == (4, 2, 0)


def test_a_function_may_write_to_its_arguments() -> None:
    def median(output: Any, context: Any, private: Any) -> float:
        output.sort(0)
        context -= 1
        private[0][:] = 0
        return float(output[len(output) // 2, 0])

    output, context, private = numbers(3, 1, 2), numbers(1, 1, 1), (np.ones(3), None)
    cost, _ = BlackBox(median, per="batch")([output, output], context, private, 3)
    assert cost.tolist() == [2, 2] and output.ravel().tolist() == [3, 1, 2]
    assert context.sum() == 3 and private[0].sum() == 3


def test_a_tuple_is_columns_of_arrays_and_lists_or_rows_of_anything_else() -> None:
    seen: list[Any] = []

    def cost(output: Any, context: Any, private: Any) -> Any:
        seen.append(private)
        return output[..., 0]

    BlackBox(cost)([numbers(1, 2)], None, ("a.png", "bb.png"), 2)
    BlackBox(cost, batched=False)([numbers(1, 2)], None, (5, 6), 2)
    BlackBox(cost, batched=False)([numbers(1, 2)], None, (np.arange(2), ["x", "y"], None), 2)
    assert seen == [["a.png", "bb.png"], 5, 6, (0, "x", None), (1, "y", None)]


def test_a_set_is_one_evaluation() -> None:
    box = BlackBox(lambda o, c, p: float(o.sum()), per="batch")
    cost, counts = box([numbers(1, 2, 3), numbers(4, 5, 6)], None, None, 3)
    assert cost.tolist() == [6, 15] and counts.all() and box.ledger.evaluations == 2


def test_workers_share_a_batch_and_a_closure_reaches_them() -> None:
    offset = 10
    box = BlackBox(lambda o, c, p: o[:, 0] + offset, workers=2)
    assert box([numbers(1, 2, 3)], None, None, 3)[0].tolist() == [[11, 12, 13]]
    assert box.ledger.evaluations == 3
    box.close()


def test_a_class_of_the_users_script_is_one_class_in_a_worker(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import numpy as np\n"
        "from costgrad.rl.black_box.calls import BlackBox\n"
        "class Order: ...\n"
        "def cost(output, context, private):\n"
        "    return [float(isinstance(order, Order)) for order in private]\n"
        "if __name__ == '__main__':\n"
        "    box = BlackBox(cost, workers=1)\n"
        "    print(box([np.zeros((2, 1))], None, [Order(), Order()], 2)[0].tolist())\n"
        "    box.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=environment)
    assert out.stdout == "[[1.0, 1.0]]\n", out.stderr


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"timeout": 1.0}, "timeout needs workers"),
        ({"timeout": 0.0, "workers": 1}, "timeout must be above 0"),
        ({"cache": 1, "per": "batch"}, "cache is for per='sample'"),
        ({"on_fault": "ignore"}, "on_fault must be one of raise, skip, worst, got 'ignore'"),
        ({"workers": -1}, "workers must be a whole number of at least 0, got -1"),
        ({"workers": 1.5}, "workers must be a whole number of at least 0, got 1.5"),
        ({"worst_cost": 1e40}, "worst_cost must be a finite number in float32, got 1e"),
    ],
)
def test_arguments_that_do_not_fit(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        BlackBox(Counting(), **settings)


def test_a_wrong_shape_is_refused_whatever_on_fault_is() -> None:
    with pytest.raises(UserError, match=r"cost_fn returned shape \(2,\): it must return 3 costs, one per row"):
        BlackBox(lambda o, c, p: o[:2, 0], on_fault="skip")([numbers(1, 2, 3)], None, None, 3)
    with pytest.raises(UserError, match="it must return numbers"):
        BlackBox(lambda o, c, p: "much", on_fault="skip")([numbers(1)], None, None, 1)
    for given in (np.array([1j]), [torch.ones((), requires_grad=True)]):
        with pytest.raises(UserError, match="it must return numbers"):
            BlackBox(lambda o, c, p, given=given: given, on_fault="skip")([numbers(1)], None, None, 1)
    graph = torch.full((1,), 4.0, requires_grad=True)
    assert BlackBox(lambda o, c, p: graph * 2)([numbers(1)], None, None, 1)[0].tolist() == [[8]]
    with pytest.raises(UserError, match="a cost must be a finite number in float32"):
        BlackBox(lambda o, c, p: [1e40])([numbers(1)], None, None, 1)
    lock = threading.Lock()
    with pytest.raises(UserError, match="cost_fn cannot be sent to workers: cannot pickle"):
        BlackBox(lambda o, c, p: lock, workers=1)([numbers(1)], None, None, 1)
    with pytest.raises(UserError, match="private cannot be sent to workers: cannot pickle"):
        BlackBox(Counting(), workers=1)([numbers(1)], None, [lock], 1)
    with pytest.raises(UserError, match="cache cannot remember private: cannot pickle"):
        BlackBox(Counting(), cache=1)([numbers(1)], None, [lock], 1)

"""The black box's calls: the ledger against the black box's own count, faults, budget, cache, workers, time-outs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.black_box import BlackBox, BudgetSpent
from rl.errors import UserError


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
def test_the_ledger_is_what_the_black_box_counts_itself(batched: bool) -> None:
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
    with pytest.raises(UserError, match="cost_fn gave nan: a cost must be a finite number"):
        box([numbers(7)], None, None, 1)
    box.close()


def test_an_exception_that_cannot_leave_its_process_is_a_fault_like_any_other() -> None:
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


def test_a_worst_cost_of_ones_own_and_none_where_nothing_was_seen() -> None:
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


def test_the_budget_stops_before_it_is_passed() -> None:
    counting = Counting()
    box = BlackBox(counting, budget=5)
    box([numbers(1, 2, 3)], None, None, 3)
    with pytest.raises(BudgetSpent, match="the budget is 5 evaluations: 3 were made and 3 more are due"):
        box([numbers(1, 2, 3)], None, None, 3)
    assert box.ledger.evaluations == counting.rows == 3
    box([numbers(1, 2)], None, None, 2)


def test_what_is_known_is_not_asked_again() -> None:
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


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"timeout": 1.0}, "timeout needs workers"),
        ({"timeout": 0.0, "workers": 1}, "timeout must be above 0"),
        ({"cache": 1, "per": "batch"}, "cache is for per='sample'"),
        ({"on_fault": "ignore"}, "on_fault must be one of raise, skip, worst, got 'ignore'"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
    ],
)
def test_arguments_that_do_not_fit(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        BlackBox(Counting(), **settings)


def test_another_shape_is_refused_whatever_is_done_of_faults() -> None:
    with pytest.raises(UserError, match=r"cost_fn gave shape \(2,\): it must give 3 costs, one a row"):
        BlackBox(lambda o, c, p: o[:2, 0], on_fault="skip")([numbers(1, 2, 3)], None, None, 3)
    with pytest.raises(UserError, match="it must give numbers"):
        BlackBox(lambda o, c, p: "much", on_fault="skip")([numbers(1)], None, None, 1)

"""The memory of an on-policy agent: what goes in is copied, cost is -reward, terminated alone ends the cost."""

from __future__ import annotations

import torch

from rl.data import Rollout, Step, cost_of
from rl.rollout import RolloutMemory

GAMMA = 0.9


def step(t: int, **other: torch.Tensor) -> Step:
    """Two environments; every number says where it came from."""
    plain = {
        "obs": torch.full((2, 3), float(t)),
        "action": torch.tensor([t, t + 100]),
        "reward": torch.tensor([float(t), -2.0 * t]),
        "next_obs": torch.full((2, 3), t + 0.5),
        "terminated": torch.tensor([False, False]),
        "truncated": torch.tensor([False, False]),
        "valid": torch.tensor([True, True]),
    }
    return Step(**(plain | other), extra={})


def fill(*steps: Step) -> Rollout:
    memory = RolloutMemory(len(steps), GAMMA, torch.device("cpu"))
    for s in steps:
        assert not memory.full
        memory.add(s, {"sample": s.action * 2})
    assert memory.full
    return memory.take()


def test_rows_come_out_as_they_went_in() -> None:
    rollout = fill(step(0), step(1), step(2))
    assert rollout.obs.shape == (3, 2, 3) and rollout.obs[:, 0, 0].tolist() == [0, 1, 2]
    assert rollout.next_obs[:, 1, 2].tolist() == [0.5, 1.5, 2.5]
    assert rollout.action.tolist() == [[0, 100], [1, 101], [2, 102]] and rollout.action.dtype == torch.int64
    assert rollout.extra["sample"].tolist() == [[0, 200], [2, 202], [4, 204]]


def test_cost_is_minus_reward() -> None:
    assert cost_of(torch.tensor([1.0, -2.5])).tolist() == [-1.0, 2.5]
    assert fill(step(1), step(2)).cost.tolist() == [[-1.0, 2.0], [-2.0, 4.0]]


def test_only_termination_ends_the_cost_and_either_flag_cuts_the_trace() -> None:
    no, yes = torch.tensor([False, False]), torch.tensor([True, True])
    rollout = fill(
        step(0),
        step(1, terminated=yes),
        step(2, truncated=yes),
        step(3, terminated=yes, truncated=yes),
        step(4, terminated=torch.tensor([False, True]), truncated=no),
    )
    torch.testing.assert_close(rollout.discount[:, 1], torch.tensor([GAMMA, 0, GAMMA, 0, 0]))
    torch.testing.assert_close(rollout.discount[:, 0], torch.tensor([GAMMA, 0, GAMMA, 0, GAMMA]))
    assert rollout.done[:, 0].tolist() == [False, True, True, True, False]
    assert rollout.done[:, 1].tolist() == [False, True, True, True, True]


def test_reset_rows_weigh_nothing() -> None:
    rollout = fill(step(0), step(1, valid=torch.tensor([True, False])))
    assert rollout.valid.dtype == torch.float32
    assert rollout.valid.tolist() == [[1.0, 1.0], [1.0, 0.0]]


def test_memory_keeps_copies_of_arrays_that_are_overwritten() -> None:
    kept = fill(*(step(t) for t in range(3)))
    memory, shared, sample = RolloutMemory(3, GAMMA, torch.device("cpu")), step(0), torch.zeros(2, dtype=torch.int64)
    for t in range(3):
        for place, value in zip(shared[:-1], step(t)[:-1], strict=True):
            place.copy_(value)
        sample.copy_(2 * step(t).action)
        memory.add(shared, {"sample": sample})
    for place in shared[:-1]:
        place.fill_(1)
    overwritten = memory.take()
    for mine, theirs in zip(overwritten[:-1], kept[:-1], strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(overwritten.extra["sample"], kept.extra["sample"])


def test_memory_can_be_filled_again() -> None:
    memory = RolloutMemory(2, GAMMA, torch.device("cpu"))
    for first in (0, 10):
        for t in range(2):
            memory.add(step(first + t), {"sample": torch.zeros(2)})
        rollout = memory.take()
        assert rollout.obs[:, 0, 0].tolist() == [first, first + 1]
        assert not memory.full and memory.filled == 0

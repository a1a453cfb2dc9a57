"""The rollout buffer: inputs are copied, cost is -reward, only termination sets the discount to 0; minibatches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from costgrad.rl.buffers.rollout import RolloutMemory, minibatches
from costgrad.rl.data import Rollout, Step, cost_of

GAMMA = 0.9


def step(t: int, **other: np.ndarray) -> Step:
    """Two environments; every number says where it came from."""
    plain = {
        "obs": np.full((2, 3), t, np.float32),
        "action": np.array([t, t + 100]),
        "reward": np.array([t, -2.0 * t]),  # float64, as most environments give it
        "next_obs": np.full((2, 3), t + 0.5, np.float32),
        "terminated": np.array([False, False]),
        "truncated": np.array([False, False]),
        "valid": np.array([True, True]),
    }
    return Step(**(plain | other), extra={})


def fill(*steps: Step) -> Rollout:
    memory = RolloutMemory(len(steps), GAMMA)
    for s in steps:
        assert not memory.full
        memory.add(s, {"sample": s.action * 2})
    assert memory.full
    return memory.take()


def test_rows_come_out_as_they_went_in() -> None:
    rollout = fill(step(0), step(1), step(2))
    assert rollout.obs.shape == (3, 2, 3) and rollout.obs[:, 0, 0].tolist() == [0, 1, 2]
    assert rollout.next_obs[:, 1, 2].tolist() == [0.5, 1.5, 2.5]
    assert rollout.action.tolist() == [[0, 100], [1, 101], [2, 102]] and rollout.action.dtype == np.int64
    assert rollout.extra["sample"].tolist() == [[0, 200], [2, 202], [4, 204]]


def test_inputs_of_the_networks_are_float32() -> None:
    rollout = fill(step(1, terminated=np.array([True, False])))
    for name in ("obs", "cost", "discount", "next_obs", "valid"):
        assert getattr(rollout, name).dtype == np.float32, name


def test_cost_is_minus_reward() -> None:
    assert cost_of(np.array([1.0, -2.5])).tolist() == [-1.0, 2.5]
    assert fill(step(1), step(2)).cost.tolist() == [[-1.0, 2.0], [-2.0, 4.0]]


def test_only_termination_sets_the_discount_to_0_and_either_flag_cuts_the_trace() -> None:
    no, yes = np.array([False, False]), np.array([True, True])
    rollout = fill(
        step(0),
        step(1, terminated=yes),
        step(2, truncated=yes),
        step(3, terminated=yes, truncated=yes),
        step(4, terminated=np.array([False, True]), truncated=no),
    )
    np.testing.assert_allclose(rollout.discount[:, 1], [GAMMA, 0, GAMMA, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(rollout.discount[:, 0], [GAMMA, 0, GAMMA, 0, GAMMA], rtol=1e-6)
    assert rollout.done[:, 0].tolist() == [False, True, True, True, False]
    assert rollout.done[:, 1].tolist() == [False, True, True, True, True]


def test_reset_rows_have_weight_0() -> None:
    rollout = fill(step(0), step(1, valid=np.array([True, False])))
    assert rollout.valid.dtype == np.float32
    assert rollout.valid.tolist() == [[1.0, 1.0], [1.0, 0.0]]


def test_memory_keeps_copies_of_arrays_that_are_overwritten() -> None:
    kept = fill(*(step(t) for t in range(3)))
    memory, shared, sample = RolloutMemory(3, GAMMA), step(0), np.zeros(2, dtype=np.int64)
    for t in range(3):
        for place, value in zip(shared[:-1], step(t)[:-1], strict=True):
            place[...] = value
        sample[...] = 2 * step(t).action
        memory.add(shared, {"sample": sample})
    for place in shared[:-1]:
        place.fill(1)
    overwritten = memory.take()
    for mine, theirs in zip(overwritten[:-1], kept[:-1], strict=True):
        assert np.array_equal(mine, theirs)
    assert np.array_equal(overwritten.extra["sample"], kept.extra["sample"])


def test_memory_can_be_filled_again() -> None:
    memory = RolloutMemory(2, GAMMA)
    for first in (0, 10):
        for t in range(2):
            memory.add(step(first + t), {"sample": np.zeros(2)})
        rollout = memory.take()
        assert rollout.obs[:, 0, 0].tolist() == [first, first + 1]
        assert not memory.full and memory.filled == 0


def test_clear_drops_all_steps_and_num_envs_may_grow() -> None:
    memory = RolloutMemory(2, GAMMA)
    memory.add(step(0), {"sample": np.zeros(2)})
    memory.clear()
    assert memory.filled == 0
    double = [Step(*(np.concatenate((part, part)) for part in step(t)[:-1]), extra={}) for t in (5, 6)]
    for s in double:
        memory.add(s, {"sample": np.zeros(4)})
    rollout = memory.take()
    assert rollout.obs.shape == (2, 4, 3) and rollout.obs[:, 3, 0].tolist() == [5, 6]


# Minibatches ----------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    x: torch.Tensor  # [B, 2]
    index: torch.Tensor  # [B]
    weight: torch.Tensor  # [B]


def rows_of(count: int, without: tuple[int, ...] = ()) -> Rows:
    index = torch.arange(count)
    weight = torch.ones(count)
    weight[list(without)] = 0
    return Rows(torch.stack((index, -index), -1).float(), index, weight / weight.sum())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("count", "size", "sizes"), [(12, 4, [4, 4, 4]), (10, 4, [4, 4, 2]), (5, 4, [4, 1])])
def test_minibatches_hold_every_row_once_and_its_columns_together(count: int, size: int, sizes: list[int]) -> None:
    parts = list(minibatches(rows_of(count), size, generator()))
    assert [len(part.weight) for part in parts] == sizes
    index = torch.cat([part.index for part in parts])
    assert sorted(index.tolist()) == list(range(count)) and index.tolist() != list(range(count))
    for part in parts:
        assert isinstance(part, Rows)
        assert torch.equal(part.x, torch.stack((part.index, -part.index), -1).float())
        assert part.weight.sum().item() == pytest.approx(1)


def test_rows_that_fit_in_one_minibatch_are_not_shuffled() -> None:
    rows, draw = rows_of(4), generator()
    before = draw.get_state()
    for size in (4, 100):
        assert [part is rows for part in minibatches(rows, size, draw)] == [True]
    assert torch.equal(draw.get_state(), before)


def test_the_generator_decides_the_order_and_each_pass_has_its_own() -> None:
    def order(draw: torch.Generator) -> list[int]:
        return torch.cat([part.index for part in minibatches(rows_of(12), 4, draw)]).tolist()

    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw = generator(1)
    first, second = order(draw), order(draw)
    assert first == order(generator(1)) and first != second and first != order(generator(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_invalid_rows_have_weight_0_in_every_minibatch() -> None:
    counting: list[int] = []
    for part in minibatches(rows_of(12, without=(0, 3, 7)), 4, generator()):
        kept = part.weight > 0
        counting += part.index[kept].tolist()
        torch.testing.assert_close(part.weight[kept], torch.full((int(kept.sum()),), 1 / int(kept.sum())))
    assert sorted(counting) == [1, 2, 4, 5, 6, 8, 9, 10, 11]
    # A part of reset rows alone weighs nothing, and is no division by 0.
    weights = [part.weight for part in minibatches(rows_of(3, without=(0, 1)), 1, generator())]
    assert sorted(float(weight) for weight in weights) == [0.0, 0.0, 1.0]

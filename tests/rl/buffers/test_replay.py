"""The replay buffer: n-step returns by brute force, uniform and prioritised sampling, memory, resume."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import costgrad.rl.buffers.replay
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.buffers.sum_tree import SumTree
from costgrad.rl.data import Step
from costgrad.rl.errors import UserError

N = 3


def step(t: int, n: int = N, **parts: Any) -> Step:
    """Every number of it says which step and environment it is of."""
    name = 100.0 * t + np.arange(n)
    plain = Step(
        obs=np.stack((name, -name), 1).astype(np.float32),
        action=name[:, None].astype(np.float32) / 1e4,
        reward=-name - 1,
        next_obs=np.stack((name + 100, -name - 100), 1).astype(np.float32),
        terminated=np.zeros(n, dtype=bool),
        truncated=np.zeros(n, dtype=bool),
        valid=np.ones(n, dtype=bool),
        extra={},
    )
    return plain._replace(**parts)


def stream(steps: int, seed: int = 0, share: float = 0.25) -> list[Step]:
    """Steps whose endings, of both kinds and both at once, fall anywhere."""
    draw = np.random.default_rng(seed)
    return [step(t, terminated=draw.random(N) < share, truncated=draw.random(N) < share) for t in range(steps)]


def brute_force(steps: list[Step], first: int, t: int, i: int, n: int, gamma: float) -> tuple[float, float, float]:
    """Cost, discount and the name of the next observation of what starts at step t, if the ring begins at `first`."""
    assert t >= first
    cost, k = 0.0, 0
    while True:
        row = steps[t + k]
        cost += gamma**k * -float(row.reward[i])
        k += 1
        if row.terminated[i] or row.truncated[i] or k == n or t + k == len(steps):
            return cost, 0.0 if row.terminated[i] else gamma**k, float(row.next_obs[i, 0])


@pytest.mark.parametrize("n_step", [1, 2, 3, 7])
@pytest.mark.parametrize("steps", [1, 4, 10, 23])
def test_every_row_by_brute_force_before_and_after_the_buffer_is_full(n_step: int, steps: int) -> None:
    """Ten steps fit in; after 23 the newest stands in the middle and the oldest 13 are gone."""
    memory, rows = Replay(10 * N, 0.9, n_step), stream(steps, seed=steps)
    for row in rows:
        memory.add(row)
    assert memory.size == min(steps, 10) * N
    batch = memory.batch(torch.arange(memory.size))
    seen = set()
    for b in range(memory.size):
        name = float(batch.obs[b, 0])
        t, i = int(name) // 100, int(name) % 100
        seen.add((t, i))
        cost, discount, following = brute_force(rows, max(0, steps - 10), t, i, n_step, 0.9)
        got = float(batch.cost[b]), float(batch.discount[b]), float(batch.next_obs[b, 0])
        assert got == pytest.approx((cost, discount, following), rel=1e-5)
        assert float(batch.action[b, 0]) == pytest.approx(name / 1e4, rel=1e-5)
    assert seen == {(t, i) for t in range(max(0, steps - 10), steps) for i in range(N)}


def test_truncation_is_not_termination_and_termination_wins_where_both_are_set() -> None:
    memory, ended = Replay(30, 0.9, 3), np.array([True, False, True])
    memory.add(step(0, terminated=ended, truncated=np.array([False, True, True])))
    memory.add(step(1))
    batch = memory.batch(torch.arange(3))
    torch.testing.assert_close(batch.discount, torch.tensor([0.0, 0.9, 0.0]))
    torch.testing.assert_close(batch.cost, torch.tensor([1.0, 2.0, 3.0]))  # nothing of the next episode


def test_what_is_put_in_is_copied() -> None:
    memory, row = Replay(30, 0.9), step(0)
    memory.add(row)
    for part in row[:-1]:
        part[...] = 77
    batch = memory.batch(torch.arange(3))
    assert batch.obs.abs().max() == 2 and batch.cost.tolist() == [1, 2, 3]


def test_rows_are_sampled_uniformly_and_reset_rows_never() -> None:
    memory = Replay(20 * N, 0.9, seed=3)
    for t in range(20):
        memory.add(step(t, valid=np.array([True, t % 5 != 0, True])))
    place = memory.draw(60_000)
    counts = torch.bincount(place, minlength=60)
    valid = memory.columns["valid"][:60]
    assert (counts[~valid] == 0).all() and valid.sum() == 56
    expected = 60_000 / 56
    chi_square = ((counts[valid] - expected) ** 2 / expected).sum()
    assert chi_square < 110  # of 55 degrees of freedom: once in 1e5
    weights = memory.sample(64).weight
    torch.testing.assert_close(weights, torch.full((64,), 1 / 64))


def test_a_reset_ends_unfinished_episodes() -> None:
    memory = Replay(30, 0.5, 4)
    memory.add(step(0))
    memory.add(step(1))
    memory.on_reset()
    memory.add(step(2))
    batch = memory.batch(torch.arange(9))
    torch.testing.assert_close(batch.discount, torch.tensor([0.25] * 3 + [0.5] * 6))
    assert batch.next_obs[0, 0] == 200 and batch.cost[0] == pytest.approx(1 + 0.5 * 101)


def test_a_restored_replay_continues_bit_for_bit() -> None:
    whole, fresh, rows = Replay(10 * N, 0.9, 3, seed=1), Replay(10 * N, 0.9, 3, seed=2), stream(40)
    for row in rows[:23]:
        whole.add(row)
    whole.draw(5)
    fresh.load_state_dict({name: value.clone() for name, value in whole.state_dict().items()})
    for row in rows[23:]:
        whole.add(row), fresh.add(row)
        for a, b in zip(whole.sample(16), fresh.sample(16), strict=True):
            assert torch.equal(a, b)


def test_an_empty_replay_and_one_half_full_can_be_saved() -> None:
    fresh = Replay(30, 0.9)
    fresh.load_state_dict(Replay(30, 0.9).state_dict())
    fresh.add(step(0))
    half = fresh.state_dict()
    assert len(half["cost"]) == N  # no more than what is filled
    again = Replay(30, 0.9)
    again.load_state_dict(half)
    again.add(step(1))
    assert again.size == 2 * N and again.batch(torch.arange(6)).cost.tolist() == [1, 2, 3, 101, 102, 103]


def test_a_buffer_larger_than_free_memory_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costgrad.rl.buffers.replay.psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    with pytest.raises(UserError, match=r"a replay of 1,000 transitions takes .* GiB .* are free: lower buffer_size"):
        Replay(1000, 0.9).add(step(0))
    Replay(250, 0.9).add(step(0))  # 34 bytes a row: less than nine tenths of what is free
    with pytest.raises(UserError, match="a replay of 250 transitions takes"):
        Replay(250, 0.9, priority=0.6).add(step(0))  # and 32 of its chances
    with pytest.raises(UserError, match=r"a replay of 1,000,000,000,000 transitions takes"):
        Replay(10**12, 0.9, priority=0.6).add(step(0))


def test_what_cannot_be_loaded_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Replay(1000, 0.9)
    for t in range(300):
        memory.add(step(t))
    saved = {name: value.clone() for name, value in memory.state_dict().items()}
    monkeypatch.setattr(costgrad.rl.buffers.replay.psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    with pytest.raises(UserError, match="a replay of 900 transitions takes"):
        Replay(1000, 0.9).load_state_dict(saved)


@pytest.mark.parametrize("steps", [10, 14, 20])
def test_a_full_buffer_cannot_be_loaded_into_a_larger_one(steps: int) -> None:
    """Rows that were never written would be drawn as the larger one fills up."""
    memory = Replay(10 * N, 0.9)
    for t in range(steps):
        memory.add(step(t))
    saved = {name: value.clone() for name, value in memory.state_dict().items()}
    for other in (20 * N, 10 * N - 1):
        with pytest.raises(ValueError, match=f"its replay had another capacity than {other}:"):
            Replay(other, 0.9).load_state_dict(saved)
    Replay(10 * N, 0.9).load_state_dict(saved)


def test_an_n_step_longer_than_episodes_takes_no_extra_time() -> None:
    folded, plain = (Replay(10 * N, 0.9, n_step) for n_step in (10**9, 10))
    for row in stream(10):
        folded.add(row)
        plain.add(row)
    batches = [memory.batch(torch.arange(10 * N)) for memory in (folded, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_more_environments_than_rows_are_refused() -> None:
    with pytest.raises(UserError, match="buffer_size must be at least the number of environments, 3: 2"):
        Replay(2, 0.9).add(step(0))


def test_images_stay_uint8() -> None:
    memory = Replay(6, 0.9)
    image = np.full((N, 4, 4, 3), 200, dtype=np.uint8)
    memory.add(step(0, obs=image, next_obs=image))
    assert memory.columns["obs"].dtype == torch.uint8 and memory.sample(4).obs.shape == (4, 4, 4, 3)


def test_num_envs_does_not_divide_the_capacity_and_changes() -> None:
    """Rows of 3 and then of 4 environments lie across the ring's end; what goes on, and what not, stays true."""
    memory = Replay(11, 0.5, 2)
    for t in range(5):
        memory.add(step(t))
    memory.on_reset()
    for t in range(5, 7):
        memory.add(step(t, 4))
    assert memory.size == 11
    names = [(t, i) for t in range(7) for i in range(3 if t < 5 else 4)][-11:]
    batch = memory.batch(torch.arange(11))
    found = {}
    for b in range(11):
        name = int(batch.obs[b, 0])
        found[name // 100, name % 100] = float(batch.cost[b]), float(batch.discount[b])
    assert sorted(found) == sorted(names)
    for (t, i), (cost, discount) in found.items():
        goes_on = (t in (3, 5)) or (t < 4 and (t + 1, i) in found)
        name = 100 * t + i + 1
        assert (cost, discount) == ((name + 0.5 * (name + 100), 0.25) if goes_on else (name, 0.5)), (t, i)


# Priorities -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 5, 64, 1000])
def test_the_tree_draws_what_the_running_sum_of_the_weights_would(rows: int) -> None:
    draw, tree = np.random.default_rng(rows), SumTree(rows)
    weight = draw.random(rows) * (draw.random(rows) < 0.7) + (np.arange(rows) == rows // 2)
    for part in np.array_split(draw.permutation(rows), 3):
        if len(part):
            tree.set(part, 7.0)
            tree.set(part, weight[part])
    assert tree.total == pytest.approx(weight.sum())
    np.testing.assert_array_equal(tree.weight(np.arange(rows)), weight)
    share = np.concatenate((draw.random(500), [0.0, np.nextafter(1, 0)]))
    expected = np.searchsorted(np.cumsum(weight), share[:500] * weight.sum(), side="right")
    got = tree.draw(share)
    assert (got[:500] == expected).mean() > 0.99  # rounding may decide at a border
    assert (weight[got] > 0).all()


def prioritised(priority: float = 0.6, correction: float = 0.4) -> tuple[Replay, np.ndarray]:
    """A replay of 30 rows, one of them a reset row, and C's errors on them."""
    memory = Replay(10 * N, 0.9, priority=priority, correction=correction, seed=5)
    for t in range(10):
        memory.add(step(t, valid=np.array([True, t != 4, True])))
    errors = np.abs(np.random.default_rng(0).normal(size=30)) + 0.01
    counted = np.flatnonzero(memory.columns["valid"][:30].numpy())
    memory.prioritise(torch.from_numpy(counted), torch.from_numpy(errors[counted] ** 2))
    errors[4 * N + 1] = 0.0
    return memory, errors


@pytest.mark.parametrize(("priority", "correction"), [(0.6, 0.4), (1.0, 1.0), (0.3, 0.0)])
def test_priorities_and_importance_weights_by_the_formula(priority: float, correction: float) -> None:
    memory, errors = prioritised(priority, correction)
    chance = np.where(errors > 0, (errors + 1e-6) ** priority, 0)
    chance /= chance.sum()
    place = memory.draw(100_000).numpy()
    counts = np.bincount(place, minlength=30)
    assert counts[13] == 0
    expected = 100_000 * chance
    assert ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum() < 70  # 28 degrees of freedom
    batch = memory.batch(torch.arange(12))
    weight = (30 * chance[:12]) ** -correction
    np.testing.assert_allclose(batch.weight.numpy(), weight / weight.max() / 12, rtol=1e-5)
    assert batch.indices.tolist() == list(range(12))


def test_with_beta_1_the_weighted_mean_is_that_of_uniform_sampling() -> None:
    """Negative control: without it, rows of large error weigh too much."""
    means = {}
    for correction in (1.0, 0.0):
        memory, errors = prioritised(1.0, correction)
        value, counted = torch.from_numpy(errors), errors > 0
        batch = memory.sample(200_000)
        means[correction] = ((value[batch.indices] * batch.weight).sum() / batch.weight.sum()).item()
    assert means[1.0] == pytest.approx(errors[counted].mean(), rel=0.02) and means[0.0] > 1.2 * errors[counted].mean()


def test_a_new_row_gets_the_largest_priority_so_far() -> None:
    memory, _ = prioritised(1.0)
    memory.prioritise(torch.tensor([2]), torch.tensor([81.0]))
    memory.add(step(10))
    assert memory.tree is not None
    np.testing.assert_allclose(memory.tree.weight(np.arange(N)), 9 + 1e-6)


def test_restored_priorities_continue_bit_for_bit() -> None:
    whole, _ = prioritised()
    fresh = Replay(10 * N, 0.9, priority=0.6, seed=9)
    fresh.load_state_dict({name: value.clone() for name, value in whole.state_dict().items()})
    whole.on_reset()
    for t in range(10, 30):
        for memory in (whole, fresh):
            memory.add(step(t))
        a, b = whole.sample(8), fresh.sample(8)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for memory in (whole, fresh):
            memory.prioritise(a.indices, a.cost.square() / 1e4)

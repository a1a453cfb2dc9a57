"""Returns against the definition, written out as a mixture of n-step returns over every way an episode can end."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from costgrad.rl.returns import gae, lambda_return, td_target

GAMMA = 0.9
ENDINGS = {"goes on": (False, False), "terminated": (True, False), "truncated": (False, True), "both": (True, True)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def going_on(terminated: Tensor) -> Tensor:
    """The discount: gamma, 0 where the task terminated."""
    return torch.where(terminated, torch.zeros((), dtype=torch.float64), GAMMA)


def every_ending(rows: int) -> tuple[Tensor, Tensor]:
    """All 4^T placements of the flags as columns: terminated, truncated [T, 4^T]."""
    flags = torch.tensor(list(product(ENDINGS.values(), repeat=rows)))  # [N, T, 2]
    return flags[..., 0].T, flags[..., 1].T


def n_step(cost: list[float], ended: list[bool], next_value: list[float], t: int, n: int) -> float:
    """n costs from row t on, then the value of where they led, unless the task ended there."""
    total = sum(GAMMA**k * cost[t + k] for k in range(n))
    return total if ended[t + n - 1] else total + GAMMA**n * next_value[t + n - 1]


def by_definition(cost: Tensor, terminated: Tensor, cut: Tensor, next_value: Tensor, lambda_: float) -> Tensor:
    """The weighted mean of all n-step returns up to the first cut or the rollout's end (Sutton & Barto, 12.3)."""
    returns = torch.empty_like(cost)
    for column in range(cost.shape[1]):
        c, v = cost[:, column].tolist(), next_value[:, column].tolist()
        ended, stops = terminated[:, column].tolist(), cut[:, column].tolist()
        for t in range(len(c)):
            longest = next((k + 1 for k in range(len(c) - t) if stops[t + k]), len(c) - t)
            mixture = sum((1 - lambda_) * lambda_ ** (n - 1) * n_step(c, ended, v, t, n) for n in range(1, longest))
            returns[t, column] = mixture + lambda_ ** (longest - 1) * n_step(c, ended, v, t, longest)
    return returns


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_lambda_return_is_the_mixture_of_n_step_returns_for_every_ending(rows: int, lambda_: float) -> None:
    terminated, truncated = every_ending(rows)
    shape = terminated.shape
    cost, next_value = random(*shape), random(*shape, seed=1)
    discount = going_on(terminated)
    got = lambda_return(cost, discount, next_value, terminated | truncated, lambda_)
    torch.testing.assert_close(got, by_definition(cost, terminated, terminated | truncated, next_value, lambda_))


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_both_flags_at_once_count_as_terminated(lambda_: float) -> None:
    # One row, cost 2, a value of 10 beyond it. Only a clock leaves that value in.
    for name, (terminated, truncated) in ENDINGS.items():
        discount = torch.where(torch.tensor([[terminated]]), 0.0, GAMMA)
        cut = torch.tensor([[terminated or truncated]])
        got = lambda_return(torch.tensor([[2.0]]), discount, torch.tensor([[10.0]]), cut, lambda_)
        assert got.item() == pytest.approx(2.0 if terminated else 11.0), name


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_the_return_of_a_constant_cost_is_c_over_one_minus_gamma_with_truncation(lambda_: float) -> None:
    cost = torch.full((50, 1), -3.0, dtype=torch.float64)
    clock = torch.zeros(50, 1, dtype=torch.bool)
    clock[9::10] = True
    value = torch.zeros((), dtype=torch.float64)
    for _ in range(400):  # to the fixed point of "C predicts the returns"
        returns = lambda_return(cost, torch.full_like(cost, GAMMA), value.expand(50, 1), clock, lambda_)
        value = returns.mean()
    torch.testing.assert_close(returns, torch.full_like(cost, -3.0 / (1 - GAMMA)))

    # Negative control: a clock taken for an ending makes the same task look far cheaper.
    wrong = lambda_return(cost, going_on(clock), torch.zeros_like(cost), clock, 1.0)
    assert wrong[0].item() == pytest.approx(-3.0 * (1 - GAMMA**10) / (1 - GAMMA))  # -19.5, not -30
    assert abs(wrong[0].item() + 30) > 10


def test_next_step_reset_row_does_not_leak_into_the_episode_before_it() -> None:
    # Rows 0-1: an episode that the clock ends. Row 2: its reset. Rows 3-4: the next episode.
    cut = torch.tensor([[False], [True], [False], [False], [False]])
    discount = torch.full((5, 1), GAMMA, dtype=torch.float64)
    cost, next_value = random(5, 1), random(5, 1, seed=1)
    for lambda_ in (0.5, 1.0):
        before = lambda_return(cost, discount, next_value, cut, lambda_)
        other_cost, other_value = cost.clone(), next_value.clone()
        other_cost[2:], other_value[2:] = 1e6, -1e6
        after = lambda_return(other_cost, discount, other_value, cut, lambda_)
        assert torch.equal(before[:2], after[:2])
        assert (before[2:] != after[2:]).all()
        leaking = lambda_return(other_cost, discount, other_value, torch.zeros_like(cut), lambda_)
        assert (leaking[:2] - before[:2]).abs().min() > 1e3  # negative control: without the cut it leaks


def test_the_end_of_the_rollout_bootstraps_from_next_value() -> None:
    cost, discount = torch.tensor([[1.0], [1.0]]), torch.full((2, 1), 0.5)
    got = lambda_return(cost, discount, torch.tensor([[100.0], [4.0]]), torch.zeros(2, 1, dtype=torch.bool), 1.0)
    assert got.squeeze(1).tolist() == [1 + 0.5 * (1 + 0.5 * 4), 1 + 0.5 * 4]


def setting() -> dict[str, Tensor]:
    terminated, truncated = every_ending(4)
    shape = terminated.shape
    return {
        "cost": random(*shape),
        "discount": going_on(terminated),
        "next_value": random(*shape, seed=1),
        "cut": terminated | truncated,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrays_and_tensors_give_the_same_numbers_and_keep_their_type(dtype: torch.dtype) -> None:
    s = {name: value if value.dtype == torch.bool else value.to(dtype) for name, value in setting().items()}
    value = random(*s["cost"].shape, seed=2).to(dtype)
    arrays = {name: value.numpy() for name, value in s.items()}
    for lambda_ in (0.0, 0.7, 1.0):
        pairs = [
            (lambda_return(**arrays, lambda_=lambda_), lambda_return(**s, lambda_=lambda_)),
            (gae(**arrays, value=value.numpy(), lambda_=lambda_), gae(**s, value=value, lambda_=lambda_)),
            (td_target(*list(arrays.values())[:3]), td_target(*list(s.values())[:3])),
        ]
        for array, tensor in pairs:
            assert isinstance(array, np.ndarray) and isinstance(tensor, Tensor)
            assert tensor.dtype == dtype and array.dtype == tensor.numpy().dtype
            assert np.array_equal(array, tensor.numpy())
    # Negative control: float32 is told apart from float64 by as little as its rounding.
    other = lambda_return(**setting(), lambda_=0.7)
    same = np.array_equal(lambda_return(**arrays, lambda_=0.7), other.numpy())
    assert same == (dtype == torch.float64)


def test_inputs_are_not_changed() -> None:
    for s in (setting(), {name: value.numpy() for name, value in setting().items()}):
        before = {name: np.asarray(value).copy() for name, value in s.items()}
        lambda_return(**s, lambda_=0.7)
        gae(**s, value=s["next_value"], lambda_=0.7)
        assert all(np.array_equal(before[name], np.asarray(value)) for name, value in s.items())


def test_lambda_zero_is_the_td_target() -> None:
    s = setting()
    torch.testing.assert_close(
        lambda_return(**s, lambda_=0.0), td_target(s["cost"], s["discount"], s["next_value"]), rtol=0, atol=1e-14
    )


def test_gae_of_lambda_0_is_the_td_error_and_of_1_the_return_minus_the_value() -> None:
    terminated, truncated = every_ending(4)
    cut = terminated | truncated
    cost, states = random(*cut.shape), random(cut.shape[0] + 1, cut.shape[1], seed=1)
    value, next_value = states[:-1], states[1:]  # consistent along an episode, as GAE's telescoping needs
    discount = going_on(terminated)
    error = cost + discount * next_value - value
    torch.testing.assert_close(gae(cost, discount, value, next_value, cut, 0.0), error)
    full = by_definition(cost, terminated, cut, next_value, 1.0)
    torch.testing.assert_close(gae(cost, discount, value, next_value, cut, 1.0), full - value)
    # 1506.02438, eq. 16: the discounted sum of the TD errors up to the cut.
    for lambda_ in (0.5, 1.0):
        got = gae(cost, discount, value, next_value, cut, lambda_)
        for t in range(len(cost)):
            alive, total = torch.ones(cut.shape[1], dtype=torch.float64), torch.zeros(cut.shape[1], dtype=torch.float64)
            for k in range(t, len(cost)):
                total += alive * (GAMMA * lambda_) ** (k - t) * error[k]
                alive *= (~cut[k]).double()
            torch.testing.assert_close(got[t], total)


def test_shapes_that_do_not_agree_are_refused() -> None:
    row = torch.zeros(3)
    with pytest.raises(AssertionError, match=r"\[T, N\]"):
        lambda_return(row, row, row, row.bool(), 0.5)
    with pytest.raises(AssertionError, match="one shape"):
        lambda_return(torch.zeros(3, 2), torch.zeros(3, 1), torch.zeros(3, 2), torch.zeros(3, 2).bool(), 0.5)

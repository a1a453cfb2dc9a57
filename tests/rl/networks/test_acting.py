"""Acting: the policy's own density whatever the noise remembers, one draw a rollout, people's calls apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from costgrad.rl.networks.acting import Acting
from costgrad.rl.networks.actor import actor_for
from costgrad.rl.spaces import Codec

OBS = spaces.Box(-10, 10, (2,), np.float32)
SPACES: dict[str, Any] = {"discrete": spaces.Discrete(3, start=5), "box": spaces.Box(0, 4, (2,), np.float32)}
T = 25


def acting(space: str = "box", correlation: float = 0.0, seed: int = 0) -> Acting:
    codec = Codec(OBS, SPACES[space])
    draw = torch.Generator().manual_seed(1)
    actor = actor_for(codec, (8,), "tanh", False, 0.3, draw)
    with torch.no_grad():
        for parameter in actor.net.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=draw))
    return Acting(codec, actor, None, T, seed, correlation)


def explored(a: Acting, rollouts: int, rows: int = 400) -> np.ndarray:
    """Samples [rollouts * T, rows, ...] on one and the same observation."""
    obs = np.ones((rows, 2), np.float32)
    return np.stack([a.explore(obs)[0] for _ in range(rollouts * T)])


def noise_of(samples: np.ndarray, a: Acting) -> np.ndarray:
    mean = a.best(np.ones((1, 2), np.float32))[0]
    return (samples - mean) / np.exp(0.3)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_noise_remembers_as_much_as_it_is_told_and_stays_standard_normal(correlation: float) -> None:
    a = acting(correlation=correlation)
    noise = noise_of(explored(a, 8), a)  # [200, 400, 2]
    independent = noise.size * (1 - correlation) / (1 + correlation)  # rows that would tell as much
    near = 4 / independent**0.5
    assert abs(noise.mean()) < near and abs(noise.var() - 1) < 1.5 * near
    assert (np.abs(noise.var((1, 2)) - 1) < 4 * (2 / 800) ** 0.5 * 1.2).all()  # at every step, the first as the last
    assert abs((noise**4).mean() - 3) < 10 * near
    for lag in (1, 2, 5, T + 1):  # across rollouts too
        assert (noise[lag:] * noise[:-lag]).mean() == pytest.approx(correlation**lag, abs=2 * near)
    first_of_rollouts = noise[T::T] * noise[T - 1 : -1 : T]
    assert first_of_rollouts.mean() == pytest.approx(correlation, abs=5 / first_of_rollouts.size**0.5)
    assert abs((noise[..., 0] * noise[..., 1]).mean()) < 2 * near  # neither dimensions nor environments are tied
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 2 * near


@pytest.mark.parametrize("correlation", [0.0, 0.8])
@pytest.mark.parametrize("space", ["box", "discrete"])
def test_actions_to_begin_with_are_uniform_and_remember_as_much(space: str, correlation: float) -> None:
    a = acting(space, correlation)
    drawn = np.stack([a.uniform(400) for _ in range(200)])  # [200, 400, ...]
    counts, _ = np.histogram(drawn, bins=3)
    np.testing.assert_allclose(counts / counts.sum(), 1 / 3, atol=0.01)
    same = (
        (drawn[1:] == drawn[:-1]).mean() if space == "discrete" else np.corrcoef(drawn[1:].flat, drawn[:-1].flat)[0, 1]
    )
    # Of normal quantiles: 6 / pi asin(c / 2); three Gumbel draws alike choose alike more often than not.
    least = 0.5 if space == "discrete" else 6 / np.pi * np.arcsin(0.4) - 0.02
    assert same > least if correlation else abs(same - (space == "discrete") / 3) < 0.02
    last = a._last
    a.explore(np.ones((400, 2), np.float32))
    assert correlation == 0 or last is not None


def test_fresh_episodes_begin_with_fresh_noise_perhaps_of_another_number() -> None:
    a = acting(correlation=0.99)
    before = noise_of(explored(a, 1), a)[-1]
    goes_on = noise_of(explored(a, 1), a)
    assert np.corrcoef(before.ravel(), goes_on[0].ravel())[0, 1] > 0.95
    a.on_reset()
    begun = noise_of(explored(a, 1), a)[0]
    assert abs(np.corrcoef(goes_on[-1].ravel(), begun.ravel())[0, 1]) < 0.15
    a.on_reset()
    assert explored(a, 1, rows=3).shape == (T, 3, 2)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_discrete_actions_follow_their_probabilities_whatever_the_correlation(correlation: float) -> None:
    a = acting("discrete", correlation=correlation)
    samples = explored(a, 4)
    with torch.no_grad():
        probs = a.actor(torch.ones(1, 2)).log_probs.exp()[0].numpy()  # type: ignore[union-attr]
    shares = np.bincount(samples.ravel(), minlength=3) / samples.size
    independent = samples.size * (1 - correlation) / (1 + correlation)  # draws that would tell as much
    near = 4 * 0.5 / independent**0.5
    np.testing.assert_allclose(shares, probs, atol=near)
    for t in (0, T, 2 * T - 1):  # at every step
        np.testing.assert_allclose(np.bincount(samples[t], minlength=3) / samples.shape[1], probs, atol=4 * 0.5 / 20)
    assert np.ptp(probs) > 0.1
    again = (samples[1:] == samples[:-1]).mean()
    chance = pytest.approx((probs**2).sum(), abs=near)
    assert again == chance if not correlation else again > 1.5 * (probs**2).sum()


def test_gumbel_noise_of_correlated_draws_is_gumbel_noise() -> None:
    a = acting("discrete", correlation=0.5)
    noise = np.sort(np.concatenate([a._draw(T, 2_000).ravel() for _ in range(2)])).astype(np.float64)
    expected = np.arange(1, len(noise) + 1) / len(noise)
    assert np.abs(np.exp(-np.exp(-noise)) - expected).max() < 4 / len(noise) ** 0.5  # Kolmogorov and Smirnov's distance
    tails = a.actor.noise_from(np.array([-9.0, 0.0, 9.0], np.float32))
    np.testing.assert_allclose(tails, [-3.7762, 0.36651, 43.6276], rtol=1e-3)


@pytest.mark.parametrize("space", SPACES)
def test_every_step_of_a_rollout_has_noise_of_its_own(space: str) -> None:
    samples = explored(acting(space), 2)
    assert len(np.unique(samples.reshape(len(samples), -1), axis=0)) == 2 * T
    assert np.array_equal(samples, explored(acting(space), 2))
    assert not np.array_equal(samples, explored(acting(space, seed=1), 2))


@pytest.mark.parametrize("space", SPACES)
def test_playing_draws_apart_from_training_and_speaks_the_environments_units(space: str) -> None:
    asked, quiet = acting(space), acting(space)
    explored(asked, 1), explored(quiet, 1)
    obs = np.ones((50, 2), np.float32)
    played = [asked.predict(obs, deterministic=False) for _ in range(2)]
    assert all(SPACES[space].contains(action) for action in played[0]) and not np.array_equal(*played)
    best = asked.predict(obs, deterministic=True)
    assert np.array_equal(best, asked.codec.env_action(asked.best(obs)[1])) and len(np.unique(best, axis=0)) == 1
    assert np.array_equal(explored(asked, 1), explored(quiet, 1))


def test_state_taken_up_draws_on_alike() -> None:
    first, fresh = acting(seed=1), acting(seed=2)
    explored(first, 1)
    fresh.load_state({name: value.clone() for name, value in first.state().items()}, steps=0)
    obs = np.ones((5, 2), np.float32)
    assert np.array_equal(first.predict(obs, False), fresh.predict(obs, False))
    assert np.array_equal(explored(first, 2), explored(fresh, 2))

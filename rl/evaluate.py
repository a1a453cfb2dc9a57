"""Evaluation of a policy: the returns of whole episodes, in environments that training never saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from costgrad.rl.errors import UserError
from costgrad.rl.factories import Factory, check_single_spaces, factory_of, vector_of
from costgrad.rl.ledger import StepLedger

# Evaluation environments are seeded from the training seed plus this, so that no start state is shared.
SEED_OFFSET = 1_000_000
MAX_AT_ONCE = 16  # environments that an evaluation makes

# 97.5 % points of Student's t for 1 to 10 degrees of freedom; beyond, an expansion around the normal's is exact enough.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


class NeverEnds(UserError):
    """Episodes that go on for longer than anybody waits."""


class Evaluation(NamedTuple):
    """Returns (sums of reward, undiscounted) of whole episodes."""

    mean: float
    std: float  # of the episodes around their mean (n - 1), 0 for a single one
    interval: tuple[float, float]  # 95 % Student-t interval of the mean; NaN for a single episode
    returns: list[float]  # one an episode
    lengths: list[int]  # in steps, of the same episodes

    def __str__(self) -> str:
        """One line for people."""
        low, high = self.interval
        interval = "" if np.isnan(low) else f", 95 % interval of the mean [{low:.6g}, {high:.6g}]"
        n = len(self.returns)
        return f"return {self.mean:.6g} +- {self.std:.6g} over {n} episode{'s' * (n > 1)}{interval}"


def evaluate(
    agent: Any,
    env: VectorEnv | gymnasium.Env | Factory | str,
    episodes: int = 10,
    deterministic: bool = True,
    seed: int | None = None,
    num_envs: int | None = None,
    max_steps: int = 100_000,
) -> Evaluation:
    """Runs whole episodes with `agent.predict`, which leaves the training state, normalisers and generators alone.

    Args:
        agent: has `predict(obs, state, episode_start, deterministic)`.
        env: a VectorEnv with `.factory`, a factory `make(num_envs, seed, render_mode)`, a class or function that makes
            one environment, or an id of gymnasium's: from these fresh environments are made and closed again. A plain
            VectorEnv or a single environment is reset and used itself.
        episodes: how many, shared out over the environments before the first one starts.
        deterministic: the policy's mode instead of a sample.
        seed: of the training run, by default `env.initial_seed` or 0; the evaluation is seeded from
            seed + 1,000,000, so that its start states are not those of the training.
        num_envs: how many at once where environments are made; by default min(episodes, 16).
        max_steps: of any one environment, for environments whose episodes may never end.
    Raises:
        UserError: `episodes` below 1, an episode that does not end, a reward or an observation that is not finite,
            an `env` that is none of these.
    """
    _check_positive("episodes", episodes)
    if seed is None:
        seed = getattr(env, "initial_seed", None) or 0
    make = factory_of(env)
    if make is None:
        assert isinstance(env, VectorEnv | gymnasium.Env)
        return run_episodes(agent, vector_of(env), episodes, deterministic, seed + SEED_OFFSET, max_steps)
    fresh = make(num_envs=num_envs or min(episodes, MAX_AT_ONCE), seed=seed + SEED_OFFSET, render_mode=None)
    try:
        return run_episodes(agent, fresh, episodes, deterministic, seed + SEED_OFFSET, max_steps)
    finally:
        fresh.close()


def run_episodes(
    agent: Any,
    env: VectorEnv,
    episodes: int,
    deterministic: bool,
    seed: int,
    max_steps: int = 100_000,
    ledger: StepLedger | None = None,
) -> Evaluation:
    """`evaluate` in the given environments, reset with exactly this seed.

    Each environment has a quota of episodes, fixed beforehand: taking whichever episodes end first would
    prefer the short ones. All steps go into the `ledger`, if there is one.
    """
    check_single_spaces(agent, env)
    n = env.num_envs
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    quota = np.full(n, episodes // n) + (np.arange(n) < episodes % n)
    total, length = np.zeros(n), np.zeros(n, dtype=np.int64)
    reset_row = np.zeros(n, dtype=bool)
    start = np.ones(n, dtype=bool)
    returns: list[list[float]] = [[] for _ in range(n)]
    lengths: list[list[int]] = [[] for _ in range(n)]

    obs, _ = env.reset(seed=seed)
    _check_finite(obs, quota > 0)
    state = None
    for _ in range(max_steps):
        action, state = agent.predict(obs, state, start, deterministic)
        obs, reward, terminated, truncated, info = env.step(action)
        done = np.logical_or(terminated, truncated)
        wanted = quota > 0
        if ledger is not None:
            ledger.evaluation += n - int(reset_row.sum())
        if not np.isfinite(reward[wanted]).all():
            bad = int(np.flatnonzero(wanted & ~np.isfinite(reward))[0])
            raise UserError(f"environment {bad} returned reward {reward[bad]} in an evaluation: it must be finite")
        _check_finite(obs, wanted)
        total += np.where(reset_row, 0.0, reward)
        length += ~reset_row
        for i in np.flatnonzero(done):
            if quota[i] > 0:
                quota[i] -= 1
                returns[i].append(float(total[i]))
                lengths[i].append(int(length[i]))
            total[i], length[i] = 0.0, 0
        if (restarted := info.get("process_restarted")) is not None:  # cut off: played again, not counted
            total[restarted], length[restarted] = 0.0, 0
        if not quota.any():
            return summary([r for rs in returns for r in rs], [k for ks in lengths for k in ks])
        start = done if restarted is None else done | restarted
        if mode == AutoresetMode.NEXT_STEP:
            start, reset_row = reset_row & ~done, done
        elif mode == AutoresetMode.DISABLED and done.any():
            obs, _ = env.reset(options={"reset_mask": done})
    raise NeverEnds(
        f"{int(quota.sum())} of {episodes} evaluation episodes had not ended after {max_steps} steps: "
        "give the environment a time limit, its argument max_episode_steps"
    )


def _check_finite(obs: Any, wanted: np.ndarray) -> None:
    """Raises UserError naming the first of the wanted rows of a batch of observations that holds NaN or infinity."""
    for part in obs.values() if isinstance(obs, Mapping) else obs if isinstance(obs, tuple) else (obs,):
        if isinstance(part, Mapping | tuple):
            _check_finite(part, wanted)
        elif isinstance(part, np.ndarray) and part.dtype.kind == "f" and not np.isfinite(part).all():
            bad = wanted & ~np.isfinite(part.reshape(len(part), -1)).all(1)
            if bad.any():
                i = int(np.flatnonzero(bad)[0])
                raise UserError(f"environment {i} returned observation {part[i]} in an evaluation: it must be finite")


def summary(returns: list[float], lengths: list[int]) -> Evaluation:
    """The evaluation of some episodes."""
    n = len(returns)
    mean = float(np.mean(returns))
    std = float(np.std(returns, ddof=1)) if n > 1 else 0.0
    half = t_quantile(n - 1) * std / np.sqrt(n) if n > 1 else float("nan")
    return Evaluation(mean, std, (float(mean - half), float(mean + half)), returns, lengths)


def t_quantile(freedom: int) -> float:
    """The 97.5 % point of Student's t, right to 3 digits after the point, for 1 or more degrees of freedom."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964  # Cornish-Fisher, Abramowitz and Stegun 26.7.5
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}")

"""Chooses the faster backend of sync (one process) and async (subprocesses), which give the same numbers."""

from __future__ import annotations

import os
import time

import gymnasium

from costgrad.envs.build import Builder, guard
from costgrad.envs.load import find

# Overhead of AsyncVectorEnv per step of an environment: pipes, pickling, process switches. Measured on two shared
# cores: CartPole-v1 28-65 us per step in sync, 280-490 us in async; steps of 1000 us were slower in async, steps of
# 3000 us faster.
ASYNC_OVERHEAD = 500e-6
_PROBE_SECONDS = 0.03  # time to measure steps for `auto`


def async_pays(step_seconds: float, num_envs: int, cores: int) -> bool:
    """Whether async is faster: N t / k + N c on k = min(cores, N) processes against N t in one.

    Args:
        step_seconds: t, of one step of one environment.
        num_envs: N.
        cores: available to this process.
    Returns:
        t (1 - 1/k) > c with c = `ASYNC_OVERHEAD`; False on one core.
    """
    k = min(cores, num_envs)
    return step_seconds * (1 - 1 / k) > ASYNC_OVERHEAD


def choose(builder: Builder, num_envs: int, seed: int) -> tuple[str, str]:
    """Chooses sync or async, and the reason. Both give the same numbers: a noisy measurement only affects speed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if num_envs == 1 or cores == 1 or builder.render_mode is not None:
        return "sync", "one environment" if num_envs == 1 else "one core" if cores == 1 else "rendering"
    env = builder()
    try:
        seconds = guard(find(builder.env).name, _step_seconds, env, seed, fails="cannot be stepped")
    finally:
        env.close()
    chosen = "async" if async_pays(seconds, num_envs, cores) else "sync"
    return chosen, f"a step takes {seconds * 1e6:.0f} us, processes would add {ASYNC_OVERHEAD * 1e6:.0f} us to it"


def _step_seconds(env: gymnasium.Env, seed: int) -> float:
    """The median time of a step with random actions, measured for `_PROBE_SECONDS`, at least two steps."""
    env.action_space.seed(seed)
    env.reset(seed=seed)
    times: list[float] = []
    while len(times) < 2 or (sum(times) < _PROBE_SECONDS and len(times) < 200):
        action = env.action_space.sample()
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        times.append(time.perf_counter() - start)
        if terminated or truncated:
            env.reset()
    return sorted(times)[(len(times) - 1) // 2]

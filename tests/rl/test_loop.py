"""The loop: one sequence of transitions whatever the autoreset mode, the final observation, exact counts."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from costgrad.rl.buffers.rollout import RolloutMemory
from costgrad.rl.data import Step
from costgrad.rl.errors import UserError
from costgrad.rl.loop import interact
from costgrad.rl.spaces import Codec

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


class Counter(gymnasium.Env):
    """obs = [which environment, episode, step]; reward = 100 episode + step + action / 10; ends as `endings` says."""

    def __init__(self, which: int = 0, endings: tuple[tuple[int, bool, bool], ...] = ((3, True, False),)) -> None:
        self.observation_space = spaces.Box(-1e6, 1e6, (3,), np.float32)
        self.action_space = spaces.Discrete(5)
        self.which, self.endings, self.episode = which, endings, -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        length, terminated, truncated = self.endings[self.episode % len(self.endings)]
        over = self.count >= length
        reward = 100.0 * self.episode + self.count + 0.1 * int(action)
        return self._obs(), reward, terminated and over, truncated and over, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.which, self.episode, self.count], dtype=np.float32)


ENDINGS = (
    ((3, True, False), (2, False, True), (1, True, True)),
    ((4, False, True), (1, False, True)),
    ((2, True, False),),
)


def counters(mode: AutoresetMode, copy: bool = True) -> VectorEnv:
    makers = [lambda i=i: Counter(i, ENDINGS[i]) for i in range(len(ENDINGS))]
    return SyncVectorEnv(makers, copy=copy, autoreset_mode=mode)


class Recorder:
    """Acts by a rule of the observation alone, and writes down every step it is shown."""

    def __init__(self, env: VectorEnv) -> None:
        self.codec = Codec(env.single_observation_space, env.single_action_space)
        self.steps: list[Step] = []
        self.acted_on: list[np.ndarray] = []

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        self.acted_on.append(obs.copy())
        return (obs.sum(1).astype(np.int64) * 3) % 5

    def on_reset(self) -> None:
        pass

    def observe(self, step: Step) -> None:
        self.steps.append(Step(*(value.copy() for value in step[:-1]), extra={}))

    def update(self) -> dict[str, Tensor]:
        return {"updates": torch.tensor(float(len(self.steps)))}


def record(env: VectorEnv, ticks: int) -> tuple[Recorder, list[Any]]:
    agent = Recorder(env)
    return agent, list(islice(interact(agent, env, seed=0), ticks))  # type: ignore[arg-type]


def transitions(agent: Recorder, i: int) -> list[tuple[Any, ...]]:
    """Environment i's transitions that count."""
    return [
        tuple(value[i].tolist() for value in (s.obs, s.action, s.reward, s.next_obs, s.terminated, s.truncated))
        for s in agent.steps
        if s.valid[i]
    ]


def test_all_autoreset_modes_give_the_same_transitions() -> None:
    runs = [record(counters(mode), 40)[0] for mode in MODES]
    for i in range(len(ENDINGS)):
        sequences = [transitions(agent, i) for agent in runs]
        shortest = min(len(s) for s in sequences)
        assert shortest >= 20
        for sequence in sequences[1:]:
            assert sequence[:shortest] == sequences[0][:shortest]


@pytest.mark.parametrize("mode", MODES)
def test_next_obs_is_the_final_one_and_the_next_episode_starts_with_its_first(mode: AutoresetMode) -> None:
    agent, _ = record(counters(mode), 30)
    for i, endings in enumerate(ENDINGS):
        rows = transitions(agent, i)
        for (obs, _, _, next_obs, terminated, truncated), following in pairwise(rows):
            assert next_obs[1] == obs[1] and next_obs[2] == obs[2] + 1  # the same episode, one step on
            length, ends, clock = endings[int(obs[1]) % len(endings)]
            over = next_obs[2] == length
            assert (terminated, truncated) == (over and ends, over and clock)
            assert following[0] == ([i, obs[1] + 1, 0.0] if over else next_obs)


def test_reset_rows_of_next_step_are_masked_and_nothing_else_is() -> None:
    agent, ticks = record(counters(AutoresetMode.NEXT_STEP), 30)
    done = np.stack([s.terminated | s.truncated for s in agent.steps])
    valid = np.stack([s.valid for s in agent.steps])
    assert valid[0].all()
    assert np.array_equal(valid[1:], ~done[:-1])
    assert ticks[-1].step == int(valid.sum()) < 3 * 30
    for mode in MODES[1:]:
        agent, ticks = record(counters(mode), 30)
        assert all(s.valid.all() for s in agent.steps)
        assert ticks[-1].step == 3 * 30


@pytest.mark.parametrize("mode", MODES)
def test_returns_and_lengths_are_those_of_whole_episodes(mode: AutoresetMode) -> None:
    agent, ticks = record(counters(mode), 30)
    expected: list[tuple[float, int]] = []
    for i in range(len(ENDINGS)):
        total, length = 0.0, 0
        for _, _, reward, _, terminated, truncated in transitions(agent, i):
            total, length = total + reward, length + 1
            if terminated or truncated:
                expected.append((total, length))
                total, length = 0.0, 0
    got = [pair for tick in ticks for pair in zip(tick.returns, tick.lengths, strict=True)]
    assert len(got) == len(expected) > 20
    for (a, n), (b, m) in zip(sorted(got), sorted(expected), strict=True):
        assert a == pytest.approx(b, rel=1e-5) and n == m


def test_steps_continue_from_the_given_one_and_metrics_pass_through() -> None:
    env = counters(AutoresetMode.SAME_STEP)
    ticks = list(islice(interact(Recorder(env), env, seed=0, step=1000), 3))  # type: ignore[arg-type]
    assert [tick.step for tick in ticks] == [1003, 1006, 1009]
    assert [tick.metrics["updates"].item() for tick in ticks] == [1, 2, 3]


class Overwriting(VectorEnv):
    """Hands out its own arrays and overwrites them at every step and reset, or copies, as told."""

    def __init__(self, copy: bool) -> None:
        self.num_envs, self.copy, self.rng = 2, copy, np.random.default_rng(0)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = spaces.Box(-10, 10, (3,), np.float32)
        self.single_action_space = spaces.Discrete(5)
        self.obs, self.reward = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
        self.terminated, self.truncated = np.zeros(2, np.bool_), np.zeros(2, np.bool_)
        self.final = np.zeros((2, 3), np.float32)

    def _out(self, array: np.ndarray) -> np.ndarray:
        return array.copy() if self.copy else array

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.obs[:] = self.rng.normal(size=(2, 3))
        return self._out(self.obs), {}

    def step(self, actions: Any) -> Any:
        self.reward[:] = self.rng.normal(size=2)
        self.terminated[:], self.truncated[:] = self.rng.random(2) < 0.3, self.rng.random(2) < 0.3
        self.final[:] = self.rng.normal(size=(2, 3))
        done = self.terminated | self.truncated
        self.obs[:] = np.where(done[:, None], self.rng.normal(size=(2, 3)), self.final)
        info = {"final_obs": self._out(self.final), "_final_obs": done}
        return *(self._out(a) for a in (self.obs, self.reward, self.terminated, self.truncated)), info


def test_an_environment_that_overwrites_its_arrays_gives_the_same_rollout() -> None:
    class Remembers(Recorder):
        def __init__(self, env: VectorEnv) -> None:
            super().__init__(env)
            self.memory = RolloutMemory(20, 0.9)

        def on_reset(self) -> None:
            pass

        def observe(self, step: Step) -> None:
            self.memory.add(step, {})

    rollouts = []
    for copy in (True, False):
        env = Overwriting(copy)
        agent = Remembers(env)
        for _ in islice(interact(agent, env, seed=0), 20):  # type: ignore[arg-type]
            pass
        rollouts.append(agent.memory.take())
    for name, first, second in zip(rollouts[0]._fields[:-1], rollouts[0], rollouts[1], strict=False):
        assert np.array_equal(first, second), name
    assert rollouts[0].done.any() and not rollouts[0].done.all()


def test_gymnasiums_vector_environment_without_copies_gives_the_same_transitions() -> None:
    for mode in MODES:
        plain, shared = (record(counters(mode, copy), 25)[0] for copy in (True, False))
        for i in range(len(ENDINGS)):
            assert transitions(plain, i) == transitions(shared, i)


class Broken(Counter):
    """Something is NaN or infinite in the fourth step of an episode."""

    what: Any = None

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        if self.count == 4 and self.what == "reward":
            reward = float("nan")
        if self.count == 4 and self.what == "infinite":
            reward = float("inf")
        if self.count == 4 and self.what == "large":
            reward = -1e39
        if self.count == 4 and self.what == "obs":
            obs[0] = np.nan
        return obs, reward, *rest


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["reward", "infinite", "large", "obs"])
def test_a_number_that_is_not_finite_is_reported_with_the_environments_index(what: str, mode: AutoresetMode) -> None:
    class Bad(Broken):
        pass

    Bad.what = what
    endings = ((10, True, False),)
    makers = [lambda: Counter(0, endings), lambda: Counter(1, endings), lambda: Bad(2, endings)]
    env = SyncVectorEnv(makers, autoreset_mode=mode)
    agent = Recorder(env)
    with pytest.raises(UserError, match=f"environment 2 returned {'observation' if what == 'obs' else 'reward'}.*9"):
        for _ in islice(interact(agent, env, seed=0), 20):  # type: ignore[arg-type]
            pass
    assert len(agent.steps) == 3  # the bad one did not reach the agent


def test_the_largest_number_of_float32_is_finite() -> None:
    class Largest(Counter):
        def step(self, action: Any) -> Any:
            obs, _, *rest = super().step(action)
            return obs, float(np.finfo(np.float32).max), *rest

    agent, ticks = record(SyncVectorEnv([lambda: Largest(0)]), 4)
    assert len(ticks) == len(agent.steps) == 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("episode", [0, 2])
def test_the_first_observation_of_an_episode_must_be_finite_too(episode: int, mode: AutoresetMode) -> None:
    class Bad(Counter):
        def _obs(self) -> np.ndarray:
            bad = self.episode == episode and self.count == 0
            return np.array([self.which, np.nan if bad else self.episode, self.count], dtype=np.float32)

    env = SyncVectorEnv([lambda: Counter(0), lambda: Bad(1)], autoreset_mode=mode)
    agent = Recorder(env)
    with pytest.raises(UserError, match="environment 1 returned observation"):
        for _ in islice(interact(agent, env, seed=0), 20):  # type: ignore[arg-type]
            pass
    assert all(np.isfinite(obs).all() for obs in agent.acted_on)


def test_environment_i_starts_from_seed_plus_i() -> None:
    seeds: list[Any] = []

    class Seeded(Counter):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            seeds.append(seed)
            return super().reset(seed=seed, options=options)

    env = SyncVectorEnv([Seeded] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    next(interact(Recorder(env), env, seed=40))  # type: ignore[arg-type]
    assert seeds == [40, 41, 42]

"""Rollouts of candidates: every episode counts once, for the candidate that played all of it."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from costgrad.rl.data import Step
from costgrad.rl.evaluate import run_episodes
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import IDLE, Population
from costgrad.rl.loop import interact
from costgrad.rl.spaces import Codec

ACTION = spaces.Box(-1, 1, (1,), np.float32)
OBS = spaces.Box(-1, 1, (2,), np.float32)
MODES = list(AutoresetMode)


class Diary(gymnasium.Env):
    """Lengths by its own list; the reward of a step is random; writes every episode down: actions, return, ending."""

    observation_space, action_space = OBS, ACTION

    def __init__(self, which: int, book: list[Any], lengths: tuple[int, ...]) -> None:
        self.which, self.book, self.lengths, self.episode = which, book, lengths, -1
        self.draw = np.random.default_rng(which)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.episode += 1
        self.actions: list[float] = []
        self.total = 0.0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.actions.append(float(action[0]))
        reward = float(self.draw.normal())
        self.total += reward
        over = len(self.actions) >= self.lengths[self.episode % len(self.lengths)]
        if over:
            self.book.append((self.which, tuple(self.actions), self.total))
        return np.zeros(2, np.float32), reward, over and self.episode % 2 == 0, over and self.episode % 2 == 1, {}


LENGTHS = ((3, 1, 7), (1, 1), (12, 2), (5, 9, 4))


def diaries(book: list[Any], mode: AutoresetMode, count: int = 4) -> SyncVectorEnv:
    makers = [lambda i=i: Diary(i, book, LENGTHS[i]) for i in range(count)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


class Player:
    """Generations of constant policies, each with an action of its own, and what the population said of them."""

    def __init__(self, size: int, episodes: int, normalize: bool = False) -> None:
        self.codec = Codec(OBS, ACTION)
        self.policies = Policies(self.codec, (), "tanh", normalize, 0)
        self.population = Population(self.policies, episodes, 0)
        self.size, self.number = size, 0
        self.played: list[tuple[list[float], np.ndarray]] = []
        self.fresh()

    def fresh(self) -> None:
        rows = np.zeros((self.size, self.policies.size), np.float32)
        self.number += 1
        rows[:, -1] = 0.01 * self.number + np.linspace(-1, 1, self.size)
        self.population.start(rows)

    def on_reset(self) -> None:
        self.population.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        return self.population.act(obs)

    def observe(self, step: Step) -> None:
        self.population.observe(step)

    def update(self) -> dict[str, Any]:
        if not self.population.done:
            return {}
        actions = np.tanh(self.population.candidates[:, -1]).tolist()
        self.played.append((actions, self.population.cost.copy()))
        metrics = self.population.metrics
        self.fresh()
        return metrics

    def predict(self, obs: Any, state: Any = None, *_: Any) -> tuple[np.ndarray, Any]:
        return self.policies.predict(obs), state


@pytest.mark.parametrize("episodes", [1, 3])
@pytest.mark.parametrize("envs", [1, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_every_episode_counts_once_for_its_candidate(mode: AutoresetMode, envs: int, episodes: int) -> None:
    book: list[Any] = []
    player, ends = Player(5, episodes), 0
    ticks = interact(player, diaries(book, mode, envs), seed=0)  # type: ignore[arg-type]
    for tick in islice(ticks, 1_000):  # far more than four generations take
        ends += len(tick.returns)
        if len(player.played) == 4:
            break
    assert len(player.played) == 4
    assert ends == len(book)
    assert all(len(set(actions)) == 1 for _, actions, _ in book)  # one policy from the first step to the last
    for actions, cost in player.played:
        for action, c in zip(actions, cost, strict=True):
            played = [total for _, acts, total in book if acts[0] == pytest.approx(action, abs=1e-6)]
            assert len(played) == episodes
            assert c == pytest.approx(-sum(played) / episodes)
    rested = Counter(acts[0] == 0.0 for _, acts, _ in book)
    assert rested[True] == 0 if envs == 1 else rested[True] > 0 or envs == 2


@pytest.mark.parametrize("mode", MODES)
def test_unfinished_episodes_are_played_again_after_a_reset(mode: AutoresetMode) -> None:
    book: list[Any] = []
    player = Player(4, 2)
    for part, ticks_count in enumerate((7, 5, 200)):  # other environments each time: fresh episodes, other numbers
        ticks = interact(player, diaries(book, mode, (4, 2, 3)[part]), seed=0)  # type: ignore[arg-type]
        for _ in range(ticks_count):
            next(ticks)
            if player.played:
                break
    (actions, cost), *_ = player.played
    for action, c in zip(actions, cost, strict=True):
        played = [total for _, acts, total in book if acts[0] == pytest.approx(action, abs=1e-6)]
        assert len(played) == 2 and c == pytest.approx(-sum(played) / 2)


def test_an_evaluation_between_two_steps_changes_nothing() -> None:
    costs = []
    for evaluated in (False, True):
        book: list[Any] = []
        player = Player(4, 1)
        ticks = interact(player, diaries(book, AutoresetMode.NEXT_STEP), seed=0)  # type: ignore[arg-type]
        for _ in range(30):
            next(ticks)
            if evaluated:
                run_episodes(player, diaries([], AutoresetMode.SAME_STEP), 2, True, 0)
        costs.append([cost for _, cost in player.played])
    assert len(costs[0]) > 1
    np.testing.assert_array_equal(costs[0], costs[1])


def test_the_fraction_of_idle_steps_is_that_of_the_records() -> None:
    book: list[Any] = []
    player = Player(5, 1)
    ticks = interact(player, diaries(book, AutoresetMode.SAME_STEP, 1), seed=0)  # type: ignore[arg-type]
    metrics = next(tick.metrics for tick in islice(ticks, 1_000) if tick.metrics)
    assert metrics["idle"] == 0
    # Two environments, one candidate: (3, 1, 7) plays it and the other rests for all of its three steps.
    player = Player(1, 1)
    ticks = interact(player, diaries(book, AutoresetMode.SAME_STEP, 2), seed=0)  # type: ignore[arg-type]
    metrics = next(tick.metrics for tick in islice(ticks, 1_000) if tick.metrics)
    assert metrics["idle"] == 0.5 and metrics["candidate_cost"] == metrics["cheapest_candidate_cost"]


def test_an_episode_belongs_to_one_policy() -> None:
    """The environment that rests when a generation ends goes on resting until its episode ends."""
    player = Player(1, 1)
    population, no, yes = player.population, np.zeros(2, np.bool_), np.ones(2, np.bool_)
    obs = np.zeros((2, 2), np.float32)

    def step(ended: list[bool], valid: np.ndarray = yes) -> None:
        action = player.act(obs)
        player.observe(Step(obs, action, np.ones(2), obs, np.array(ended), no, valid, {}))
        player.update()

    step([False, False])
    assert population._playing.tolist() == [0, IDLE]
    step([True, False])  # a generation ends, the next one is there
    step([False, False])
    assert population._playing.tolist() == [0, IDLE]
    step([True, True])  # now both are free
    assert len(player.played) == 2 and [cost.tolist() for _, cost in player.played] == [[-2.0], [-2.0]]
    step([False, False], np.array([True, False]))  # a reset row of the second one
    assert population._playing.tolist() == [0, IDLE]
    step([True, False])
    assert [cost.tolist() for _, cost in player.played][2:] == [[-2.0]]


def test_a_reset_row_costs_nothing_and_ends_nothing() -> None:
    player, obs, yes = Player(2, 1), np.zeros((1, 2), np.float32), np.ones(1, np.bool_)
    for reward, ended, valid in ((3.0, yes, yes), (50.0, ~yes, ~yes), (70.0, yes, ~yes), (5.0, yes, yes)):
        player.observe(Step(obs, player.act(obs), np.array([reward]), obs, ~yes, ended, valid, {}))
        player.update()
    assert [cost.tolist() for _, cost in player.played] == [[-3.0, -5.0]]


def test_observations_are_normalised_by_statistics_of_earlier_generations() -> None:
    player, obs = Player(2, 1, normalize=True), np.float32([[1, 5], [3, 7]])
    norm, no = player.policies.norm, np.zeros(2, np.bool_)
    assert norm is not None
    for ended in (no, ~no):
        player.observe(Step(obs, player.act(obs), np.ones(2), obs, ended, no, np.array([True, True]), {}))
        assert norm.count == 0
        player.update()
    assert norm.count == 4 and norm.mean.tolist() == [2.0, 6.0]
    player.observe(Step(obs + 90, player.act(obs), np.ones(2), obs, ~no, no, no, {}))  # reset rows
    assert player.policies.next_norm.count == 4

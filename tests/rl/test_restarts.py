"""A transition that was lost with its process is learnt from nowhere, and nothing is summed up across it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from costgrad.rl.buffers.hindsight import Hindsight
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.buffers.rollout import RolloutMemory
from costgrad.rl.data import Step
from costgrad.rl.evaluate import run_episodes
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import Population
from costgrad.rl.loop import interact
from costgrad.rl.norm import CostUnit
from costgrad.rl.returns import lambda_return
from costgrad.rl.spaces import Codec
from tests.fakes import fake

LOST = {3: 0, 4: 0, 9: 1, 13: 2}  # step: environment whose process is restarted
GARBAGE = 1e6  # reward of a lost transition: whatever sums it up shows
LENGTH = 7
N = 3


class Restarting(VectorEnv):
    """The observation is the number of the episode and the step in it; each step costs 1, an episode has 7 of them."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, goals: bool = False) -> None:
        self.num_envs, box = N, spaces.Box(-np.inf, np.inf, (2,), np.float32)
        goal = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        both = spaces.Dict({"observation": box, "achieved_goal": goal, "desired_goal": goal})
        self.goals = goals
        self.single_observation_space = both if goals else box
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, N)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, N)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.t, self.episode, self.steps = 0, np.arange(N), np.zeros(N, int)
        return self.obs(), {}

    def obs(self) -> Any:
        obs = np.stack([self.episode, self.steps], 1).astype(np.float32)
        if not self.goals:
            return obs
        return {"observation": obs, "achieved_goal": obs[:, :1], "desired_goal": np.full((N, 1), -1.0, np.float32)}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.ones(len(achieved))

    def step(self, action: Any) -> Any:
        lost = np.arange(N) == LOST.get(self.t, -1)
        self.t += 1
        self.steps += 1
        done = (self.steps == LENGTH) & ~lost
        final, info = self.obs(), {}
        ends = done | lost
        self.episode[ends] += N
        self.steps[ends] = 0
        reward = np.where(lost, GARBAGE, -1.0)
        if done.any():
            rows = {key: final[key] for key in final} if self.goals else final
            parts = [{key: rows[key][i] for key in rows} if self.goals else rows[i] for i in range(N)]
            info |= {"final_obs": np.array([*parts, None], object)[:N], "_final_obs": done}
        if lost.any():
            info["process_restarted"] = lost
        return self.obs(), reward, np.zeros(N, bool), done, info


class Recorder:
    """Keeps every step."""

    def __init__(self, env: VectorEnv) -> None:
        self.codec = Codec(env.single_observation_space, env.single_action_space)
        self.steps: list[Step] = []
        self.hindsight = None

    def on_reset(self) -> None:
        pass

    def act(self, obs: Any, explore: bool = True) -> Any:
        return np.zeros(len(obs), np.int64)

    def observe(self, step: Step) -> None:
        self.steps.append(Step(*(np.array(x) if isinstance(x, np.ndarray) else x for x in step)))

    def update(self) -> Any:
        return {}


def played(goals: bool = False, ticks: int = 20) -> tuple[list[Step], list[Any], Restarting, Recorder]:
    env = Restarting(goals)
    agent = Recorder(env)
    run = interact(agent, env, 0)
    return agent.steps, [next(run) for _ in range(ticks)], env, agent


def test_the_loop_counts_neither_the_step_nor_the_episode() -> None:
    steps, ticks, _, _ = played()
    invalid = {(t, int(i)) for t, step in enumerate(steps) for i in np.flatnonzero(~step.valid)}
    assert invalid == set(LOST.items())
    assert ticks[-1].step == 20 * N - len(LOST)
    assert {r for tick in ticks for r in tick.returns} == {-7.0} and {k for t in ticks for k in t.lengths} == {7}
    for step in steps:
        same = step.obs[:, 0] == step.next_obs[:, 0]
        assert (same == step.valid).all()  # only a lost transition joins two episodes
        assert (step.reward[step.valid] == -1).all()


@pytest.mark.parametrize("priority", [0.0, 0.6])
def test_n_step_returns_stop_before_a_lost_transition(priority: float) -> None:
    steps, *_ = played()
    memory = Replay(100, 0.5, n_step=3, priority=priority)
    for step in steps:
        memory.add(step)
    assert set(memory.sample(4000).cost.tolist()) == {1.0, 1.5, 1.75}  # never GARBAGE
    rows = torch.arange(20 * N)[memory.columns["valid"][: 20 * N]]
    batch = memory.batch(rows)
    for k, row in enumerate(rows.tolist()):
        t, i = divmod(row, N)
        until = t  # the last step of the sum, by what the environment did
        while until < min(t + 2, 19) and steps[until + 1].valid[i] and not steps[until].truncated[i]:
            until += 1
        count = until - t + 1
        assert batch.cost[k] == 2 - 0.5 ** (count - 1) and batch.discount[k] == 0.5**count
        assert batch.next_obs[k].tolist() == steps[until].next_obs[i].tolist()
        assert batch.next_obs[k][0] == batch.obs[k][0]


def test_lambda_returns_stop_before_a_lost_transition() -> None:
    steps, *_ = played()
    memory = RolloutMemory(20, 0.5)
    for step in steps:
        memory.add(step, {})
    rollout = memory.take()
    value = np.full(rollout.cost.shape, 10.0, np.float32)  # so that each bootstrap shows
    returns = lambda_return(rollout.cost, rollout.discount, value, rollout.done, 1.0)
    for t in range(20):
        for i in np.flatnonzero(steps[t].valid):
            until = t
            while until < 19 and steps[until + 1].valid[i] and not steps[until].truncated[i]:
                until += 1
            count = until - t + 1
            assert returns[t, i] == pytest.approx(2 - 0.5 ** (count - 1) + 0.5**count * 10)
    assert (rollout.valid == 0).sum() == len(LOST)


def test_the_unit_of_costs_sums_none_across_it() -> None:
    """Also where the lost transition is the first of a rollout."""
    steps, *_ = played()
    memory, unit = RolloutMemory(3, 1.0), CostUnit()
    for step in steps[6:12]:
        memory.add(step, {})
        if memory.full:
            rollout = memory.take()
            unit.update(rollout.cost, rollout.discount, rollout.done, rollout.valid)
    sums = [1, 2, 3, 4, 5, 6, 1, 1, 2, 1, 2, 1, 1, 2, 3, 4, 5]  # two ended, one was restarted, one ended
    assert float(unit.past.mean) == pytest.approx(np.mean(sums))


def test_hindsight_draws_no_goal_from_behind_a_lost_transition() -> None:
    steps, _, env, agent = played(goals=True)
    hindsight = Hindsight(agent.codec, 1e9)  # each row is relabelled
    hindsight.ask(env)
    memory = Replay(100, 0.5, hindsight=hindsight)
    for step in steps:
        memory.add(step)
    valid = torch.arange(20 * N)[memory.columns["valid"][: 20 * N]]
    goal = hindsight.goal(memory.columns, valid.repeat(200), memory.generator)
    episode = memory.columns["obs"][valid.repeat(200)][:, hindsight.goals.achieved]
    assert (goal == episode).all()  # what is achieved is the number of the episode
    again = Replay(100, 0.5, hindsight=Hindsight(agent.codec, 1e9))
    again.load_state_dict(memory.state_dict())
    assert (again.hindsight.goal(again.columns, valid.repeat(200), again.generator) == episode).all()  # type: ignore[union-attr]


def test_a_candidate_plays_an_episode_again_that_was_cut_off() -> None:
    env = Restarting()
    codec = Codec(env.single_observation_space, env.single_action_space)
    population = Population(Policies(codec, (4,), "tanh", False, 0), 2, 0)
    population.start(np.zeros((3, population.policies.size), np.float32))
    agent = Recorder(env)
    agent.act, agent.observe = lambda obs, explore=True: population.act(obs), population.observe  # type: ignore[method-assign]
    run = interact(agent, env, 0)
    for _ in range(40):
        next(run)
    assert population.done and population.cost.tolist() == [7, 7, 7]


def test_an_evaluation_plays_it_again_too() -> None:
    env = Restarting()
    result = run_episodes(fake(env), env, 9, True, 0)
    assert result.returns == [-7.0] * 9 and result.lengths == [7] * 9

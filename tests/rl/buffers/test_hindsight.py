"""Hindsight experience replay: relabelled rows by brute force, their costs, n steps, resume, invalid input."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from costgrad.agents import AGENTS
from costgrad.envs import make
from costgrad.envs.tasks.known import BitFlip, PointGoal
from costgrad.rl.buffers.hindsight import NONE, Hindsight
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.data import Step
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import evaluate
from costgrad.rl.loop import interact
from costgrad.rl.runs.train import train
from costgrad.rl.spaces import Codec
from tests.streams import SMALL, everything, same

N = 3
LINE = spaces.Box(-np.inf, np.inf, (1,))
SPACE = spaces.Dict({"observation": LINE, "achieved_goal": LINE, "desired_goal": LINE})  # flat: achieved, desired, obs
CODEC = Codec(SPACE, spaces.Box(-1, 1, (1,)))
GAMMA = 0.9
GOAL_AGENTS = [("sac", "BitFlip"), ("sac", "PointGoal"), ("td3", "PointGoal"), ("crossq", "BitFlip")]


class Line:
    """Goals are numbers: the reward is 7 for the goal itself and minus the distance elsewhere; goals of 5 k end it."""

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        distance = np.abs(achieved - desired)[..., 0]
        return np.where(distance == 0, 7.0, -distance)

    def compute_terminated(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        return ((achieved == desired) & (desired % 5 == 0))[..., 0]


class Scalar(Line):
    """Ends of one goal at a time, as in gymnasium-robotics."""

    def compute_terminated(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
        return bool(np.all(achieved == desired) and np.all(desired % 5 == 0))


def goal_step(t: int, n: int = N, **parts: Any) -> Step:
    """After step t environment i is at 100 t + i, which is its achieved goal; it was to come to -1."""
    place = 100.0 * np.arange(t, t + 2)[:, None] + np.arange(n)
    before, after = (np.stack((p, np.full(n, -1.0), p), 1).astype(np.float32) for p in place)
    action, reward = np.zeros((n, 1), np.float32), Line().compute_reward(after[:, :1], after[:, 1:2], {})
    flags = np.zeros((3, n), dtype=bool)
    flags[2] = True
    return Step(before, action, reward, after, *flags, extra={})._replace(**parts)


def memory(capacity: int, n_step: int = 1, ratio: float = 4, seed: int = 0, env: Any = None, **more: Any) -> Replay:
    hindsight = Hindsight(CODEC, ratio)
    hindsight.ask(env or Line())
    return Replay(capacity, GAMMA, n_step, seed, **more, hindsight=hindsight)


def stream(steps: int, seed: int = 0, share: float = 0.2) -> list[Step]:
    """Endings of both kinds anywhere; after an ending that a NEXT_STEP environment reports, a reset row."""
    draw, rows = np.random.default_rng(seed), list[Step]()
    reset = np.zeros(N, dtype=bool)
    for t in range(steps):
        ends = (draw.random((2, N)) < share) & ~reset
        rows.append(goal_step(t, terminated=ends[0], truncated=ends[1], valid=~reset))
        reset = (ends.any(0)) & (np.arange(N) == 1)  # environment 1 resets in a row of its own
    return rows


def after(rows: list[Step], t: int, i: int) -> list[int]:
    """The steps of the rest of an episode, step t included."""
    steps = [t]
    while not (rows[t].terminated[i] or rows[t].truncated[i]) and t + 1 < len(rows):
        t += 1
        steps.append(t)
    return steps


@pytest.mark.parametrize("env", [Line(), Scalar()])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("steps", [1, 6, 10, 24])
def test_relabelled_rows_by_brute_force(steps: int, n_step: int, env: Any) -> None:
    """Ten steps fit in: after 24 the ring has gone round. Goals of later steps alone, and all of them."""
    ring, rows = memory(10 * N, n_step, env=env, seed=steps), stream(steps, seed=steps)
    for row in rows:
        ring.add(row)
    met: dict[tuple[int, int], set[int]] = {}
    for _ in range(40):
        batch = ring.sample(50)
        for b in range(50):
            t, i = divmod(int(batch.obs[b, 2]), 100)
            rest, goal = after(rows, t, i), float(batch.obs[b, 1])
            assert batch.next_obs[b, 1] == goal and batch.obs[b, 0] == 100 * t + i  # where it was stays
            if b < 40:  # k of 1 + k
                s, j = divmod(int(goal), 100)
                assert j == i and s - 1 in rest
                met.setdefault((t, i), set()).add(s - 1)
            else:
                assert goal == -1.0
            cost, k = 0.0, 0
            while True:
                achieved = rows[t + k].next_obs[i : i + 1, :1]
                cost -= GAMMA**k * Line().compute_reward(achieved, np.array([[goal]]), {})[0]
                ended = bool(rows[t + k].terminated[i])
                if b < 40:
                    ended = bool(Line().compute_terminated(achieved, np.array([[goal]]), {})[0])
                k += 1
                if ended or k == n_step or t + k - 1 == rest[-1]:
                    break
            assert float(batch.cost[b]) == pytest.approx(cost, rel=1e-5)
            assert float(batch.discount[b]) == pytest.approx(0.0 if ended else GAMMA**k)
            assert int(batch.next_obs[b, 0]) == 100 * (t + k) + i
    kept = range(max(0, steps - 10), steps)
    assert met.keys() == {(t, i) for t in kept for i in range(N) if rows[t].valid[i]}
    assert all(there == set(after(rows, *row)) for row, there in met.items())  # every later one is met, no other


@pytest.mark.parametrize(("ratio", "rows", "relabelled"), [(4, 256, 205), (1, 256, 128), (8, 9, 8), (4, 1, 1)])
def test_the_share_that_is_relabelled(ratio: float, rows: int, relabelled: int) -> None:
    ring = memory(300, ratio=ratio)
    for t in range(20):
        ring.add(goal_step(t))
    batch = ring.sample(rows)
    assert int((batch.obs[:, 1] != -1).sum()) == relabelled


def test_later_rows_are_sampled_uniformly() -> None:
    ring = memory(60)
    for t in range(8):
        ring.add(goal_step(t))
    goal = ring.hindsight.goal(ring.columns, torch.full((50_000,), 3 * 2), ring.generator)[:, 0]
    counts = torch.bincount(((goal - 300) / 100).long(), minlength=6)
    assert len(counts) == 6 and ((counts - 40_000 / 6) ** 2 / (40_000 / 6)).sum() < 30  # 5 degrees of freedom


def test_without_compute_terminated_a_row_keeps_its_terminated() -> None:
    class Endless:
        compute_reward = Line().compute_reward

    ring = memory(30, ratio=1e9, env=Endless())
    ring.add(goal_step(0, terminated=np.array([False, True, False])))
    ring.add(goal_step(1))
    batch = ring.sample(200)
    ended = batch.obs[:, 2] == 1
    torch.testing.assert_close(batch.discount, torch.where(ended, 0.0, GAMMA))


def test_the_buffer_keeps_the_original_transitions() -> None:
    ring, plain = memory(30), Replay(30, GAMMA)
    for row in stream(14, seed=3):
        ring.add(row), plain.add(row)
    before = {name: column[:30].clone() for name, column in ring.columns.items()}  # the spare row may hold anything
    for _ in range(5):
        ring.sample(64)
    assert all(torch.equal(before[name], column[:30]) for name, column in ring.columns.items())
    for a, b in zip(ring.batch(torch.arange(30)), plain.batch(torch.arange(30)), strict=True):
        assert torch.equal(a, b)


def test_num_envs_changes_and_does_not_divide_the_capacity() -> None:
    """Episodes end where the run was cut; rows of 3 and of 4 lie across the ring's end."""
    ring = memory(23, ratio=1e9)
    for t in range(5):
        ring.add(goal_step(t))
    ring.on_reset()
    for t in range(5, 9):
        ring.add(goal_step(t, 4))
    for _ in range(20):
        batch = ring.sample(50)
        for place, goal in zip(batch.obs[:, 2].tolist(), batch.obs[:, 1].tolist(), strict=True):
            (t, i), (s, j) = divmod(int(place), 100), divmod(int(goal), 100)
            assert i == j and t <= s - 1 <= (4 if t < 5 else 8)


def test_a_buffer_smaller_than_two_steps() -> None:
    ring = memory(5, n_step=3, ratio=1e9)
    for t in range(7):
        ring.add(goal_step(t))
        for place, goal in ring.sample(30).obs[:, 1:].flip(1).tolist():
            assert int(goal) % 100 == int(place) % 100 and t - 1 <= int(goal) // 100 - 1 <= t


def test_more_episodes_than_were_allocated() -> None:
    ring, ended = memory(600, ratio=1e9), np.ones(N, dtype=bool)
    for t in range(150):
        ring.add(goal_step(t, truncated=ended))
    batch = ring.sample(300)
    assert torch.equal(batch.obs[:, 1], batch.obs[:, 2] + 100)
    wide = memory(3000, ratio=1e9)
    for t in range(2):
        wide.add(goal_step(t, 99, truncated=np.ones(99, dtype=bool)))
    assert torch.equal((batch := wide.sample(300)).obs[:, 1], batch.obs[:, 2] + 100)


@pytest.mark.parametrize("priority", [0.0, 0.6])
def test_a_restored_replay_with_goals_continues_bit_for_bit(priority: float) -> None:
    whole, fresh, rows = (
        memory(10 * N, 2, seed=1, priority=priority),
        memory(10 * N, 2, seed=2, priority=priority),
        stream(60, seed=8),
    )
    for row in rows[:23]:
        whole.add(row)
    whole.sample(5)
    fresh.load_state_dict({name: value.clone() for name, value in whole.state_dict().items()})
    whole.on_reset()  # as a run that was cut short does
    for row in rows[23:]:
        whole.add(row), fresh.add(row)
        for a, b in zip(whole.sample(16), fresh.sample(16), strict=True):
            assert torch.equal(a, b)
    assert same(dict(whole.state_dict()), dict(fresh.state_dict()))
    empty = memory(30)
    empty.load_state_dict(memory(30).state_dict())
    empty.add(rows[0])


# Among agents and environments ----------------------------------------------------------------------------------------


def agent_for(name: str, env: Any, seed: int = 0, **settings: Any) -> Any:
    cls, config = AGENTS[name]
    small = SMALL[name] | settings
    return cls(env.single_observation_space, env.single_action_space, config(**small), seed)


@pytest.mark.parametrize("backend", ["native", "sync"])
@pytest.mark.parametrize("env_id", ["costgrad/PointGoal-v0", "costgrad/BitFlip-v0"])
def test_every_backend_has_compute_reward(env_id: str, backend: str) -> None:
    env = make(env_id, 3, 1, backend=backend)
    task = PointGoal() if "Point" in env_id else BitFlip()
    env.reset(seed=0)
    for _ in range(6):
        obs, reward, terminated, *_ = env.step(env.action_space.sample())
        goals = obs["achieved_goal"], obs["desired_goal"]
        np.testing.assert_array_equal(env.compute_reward(*goals, {}), reward)
        np.testing.assert_array_equal(env.compute_terminated(*goals, {}), terminated)
        shuffled = goals[0], goals[1][::-1]
        np.testing.assert_array_equal(env.compute_reward(*shuffled, {}), task.compute_reward(*shuffled, {}))
    assert not hasattr(make("CartPole-v1", 1), "compute_reward")
    env.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("n_step", [1, 3])
def test_relabelled_costs_of_an_agents_batch_are_the_environments(mode: AutoresetMode, n_step: int) -> None:
    """Through loop, codec and ring, in every autoreset mode; the first rows relabelled, the last as they were."""
    task = PointGoal(size=2, radius=0.3, horizon=9)
    env = make(SyncVectorEnv([lambda: PointGoal(size=2, radius=0.3, horizon=9)] * 4, autoreset_mode=mode))
    agent = agent_for("td3", env, hindsight=3, learning_starts=10_000, n_step=n_step)
    ticks = interact(agent, env, seed=0)
    for _ in range(60):
        next(ticks)
    slices = agent.codec.obs.slices
    batch = agent.memory.sample(400)
    goal, got = batch.obs[:, slices["desired_goal"]].numpy(), batch.next_obs[:, slices["achieved_goal"]].numpy()
    own = agent.memory.columns["obs"][batch.indices][:, slices["desired_goal"]].numpy()
    changed = (goal != own).any(1)
    assert changed[:300].all() and not changed[300:].any()
    if n_step == 1:
        np.testing.assert_array_equal(batch.cost, -task.compute_reward(got, goal, {}))
    reached = batch.cost.numpy() == 0
    assert reached[:300].mean() > 1.5 * reached[300:].mean()
    # Negative control: the costs of the ring are those of other goals.
    assert not torch.equal(batch.cost[:300], agent.memory.batch(batch.indices).cost[:300])


@pytest.mark.parametrize(("name", "env_id"), GOAL_AGENTS)
def test_an_agent_with_goals_is_saved_and_continues_bit_for_bit(name: str, env_id: str, tmp_path: Path) -> None:
    envs = [make(f"costgrad/{env_id}-v0", 4, 0, backend="native") for _ in range(2)]
    agent = agent_for(name, envs[0], hindsight=4, n_step=2, normalize_obs=True)
    ticks = interact(agent, envs[0], seed=1)
    for _ in range(50):
        next(ticks)
    agent.save(tmp_path / "agent")
    again = AGENTS[name][0].load(tmp_path / "agent")
    assert same(everything(agent), everything(again)) and agent.codec.observation_space == again.codec.observation_space
    obs, _ = envs[1].reset(seed=5)
    np.testing.assert_array_equal(agent.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    assert evaluate(again, envs[1], 4).lengths  # no environment was asked for its reward
    with pytest.raises(UserError, match=r"hindsight has no compute_reward: train by costgrad\.train"):
        AGENTS[name][0].load(tmp_path / "agent").memory.sample(8)
    both = [interact(a, env, seed=2) for a, env in zip((agent, again), envs, strict=True)]
    for _ in range(30):
        assert same(*(next(ticks).metrics for ticks in both))
    assert same(everything(agent), everything(again))


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_takes_a_goal_environment_without_hindsight(name: str, tmp_path: Path) -> None:
    env = make("costgrad/PointGoal-v0", 4, 0, backend="sync")
    agent = agent_for(name, env)
    ticks = interact(agent, env, seed=1)
    for _ in range(60):
        next(ticks)
    agent.save(tmp_path / "agent")
    again = AGENTS[name][0].load(tmp_path / "agent")
    assert agent.codec.obs_shape == (9,) and same(everything(agent), everything(again))
    assert evaluate(again, env, 3).lengths == [40] * 3
    obs, _ = env.reset(seed=3)
    one = {key: value[2] for key, value in obs.items()}
    np.testing.assert_allclose(
        again.predict(one, deterministic=True)[0], agent.predict(obs, deterministic=True)[0][2], rtol=1e-5
    )


# Learning -------------------------------------------------------------------------------------------------------------

FAST = {"learning_starts": 500, "buffer_size": 20_000, "update_ratio": 0.25, "gamma": 0.97}
BITS: dict[str, Any] = {"hidden": (128,), "batch_size": 64, "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.02}
POINT: dict[str, Any] = {"hidden": (64, 64), "batch_size": 128, "actor_lr": 1e-3, "critic_lr": 1e-3, "tau": 0.01}
TASKS: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "sac": ("BitFlip", {"n": 8}, 5_000, BITS | {"alpha": 0.5, "alpha_lr": 1e-3, "entropy_target": 0.5}),
    "td3": ("PointGoal", {"size": 2}, 9_000, POINT | {"exploration_noise": 0.2}),
}


@pytest.mark.parametrize("name", ["sac", pytest.param("td3", marks=pytest.mark.slow)])
def test_a_task_is_learnt_in_hindsight_and_not_without(name: str) -> None:
    task, kwargs, steps, settings = TASKS[name]
    torch.set_num_threads(1)
    means = []
    for ratio in (4, 0):
        env = make(f"costgrad/{task}-v0", 8, 100, env_kwargs=kwargs, backend="native")
        agent = agent_for(name, env, 100, hindsight=ratio, **FAST | settings)
        train(agent, env, steps, progress=False)
        means.append(evaluate(agent, env, 100).mean)
        env.close()
    if name == "sac":
        assert means[0] > 1.15 * BitFlip(8).optimal_return() and means[1] < -6.5
    else:
        assert means[0] > -14 and means[1] < -35


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (LINE, "hindsight needs goals: observation space Box.* must be a Dict with achieved_goal and desired_goal"),
        (spaces.Dict({"achieved_goal": LINE}), "must be a Dict with achieved_goal and desired_goal"),
        (
            spaces.Dict(achieved_goal=LINE, desired_goal=spaces.Box(0, 1, (2,))),
            "two Boxes or MultiBinaries of the same",
        ),
        (spaces.Dict(achieved_goal=spaces.Discrete(2), desired_goal=spaces.Discrete(2)), "achieved_goal is Discrete"),
    ],
)
@pytest.mark.parametrize("name", ["sac", "td3", "crossq"])
def test_a_space_without_goals_is_refused(name: str, space: Any, message: str) -> None:
    cls, config = AGENTS[name]
    cls(space, CODEC.action_space, config(**SMALL[name]))
    with pytest.raises(UserError, match=message):
        cls(space, CODEC.action_space, config(**SMALL[name], hindsight=1))


class Wrong:
    """Its reward function gives whatever it is made with."""

    name = "wrong"

    def __init__(self, reward: Any, terminated: Any = None) -> None:
        self.compute_reward = lambda achieved, desired, info: reward(-np.abs(achieved - desired)[..., 0])
        if terminated is not None:
            self.compute_terminated = lambda achieved, desired, info: terminated(achieved)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Wrong(lambda r: r.sum()), r"compute_reward gave shape \(\) for 3 goals at once: it must be \(3,\)"),
        (Wrong(lambda r: r[:, None]), r"compute_reward gave shape \(3, 1\) for 3 goals at once"),
        (
            Wrong(lambda r: r * np.nan),
            r"gave nan for achieved_goal \[100.0\] and desired_goal \[-1.0\]: it must be fin",
        ),
        (Wrong(lambda r: r + np.inf), "gave inf for achieved_goal"),
        (Wrong(lambda r: {}["x"]), "compute_reward failed on goals of shape .3, 1.: KeyError: 'x'"),
        (Wrong(lambda r: r + 1), "compute_reward gave -100 where the environment gave reward -101: for hindsight they"),
        (Wrong(lambda r: r, lambda a: a), r"compute_terminated gave shape \(3, 1\) for 3 goals: it must be \(3,\) or"),
    ],
)
def test_an_invalid_reward_function_is_refused_at_the_first_step(env: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        memory(30, env=env).add(goal_step(0))
    assert "\n" not in str(caught.value)


def test_a_later_nan_is_refused_too() -> None:
    ring = memory(30, env=Wrong(lambda r: np.where(np.abs(r) < 50, np.nan, r)))
    ring.add(goal_step(0))
    with pytest.raises(UserError, match="compute_reward gave nan"):
        ring.sample(30)


def test_rewards_of_reset_rows_are_not_checked() -> None:
    ring = memory(30)
    ring.add(goal_step(0, reward=np.zeros(N), valid=np.zeros(N, dtype=bool)))
    with pytest.raises(UserError, match="for hindsight they must be equal"):
        ring.add(goal_step(1, reward=np.zeros(N)))


def test_an_environment_without_a_reward_function_is_refused() -> None:
    with pytest.raises(UserError, match=r"compute_reward\(achieved_goal, desired_goal, info\) of .*: Bare has none"):
        Hindsight(CODEC, 4).ask(type("Bare", (), {})())


def test_a_copied_agent_keeps_the_reward_function() -> None:
    hindsight = Hindsight(CODEC, 4)
    hindsight.ask(Line())
    goal = np.ones((2, 1), np.float32)
    assert deepcopy(hindsight).goals.judge(goal, goal, np.zeros(2, dtype=bool))[0].tolist() == [-7.0, -7.0]
    assert NONE == -1

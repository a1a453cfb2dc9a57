"""The tasks with a known optimum: formulas against simulation, the batched form against the single one."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import costgrad.envs.tasks.known
from costgrad.envs import EnvError, make
from costgrad.envs.tasks.batched import TaskVectorEnv
from costgrad.envs.tasks.known import LQR, BitFlip, Chain, ConstantCost, OneStepQuadratic, PointGoal

TASKS = [
    (ConstantCost, {"horizon": 7, "terminate": 0.2}),
    (Chain, {"n": 4, "horizon": 9}),
    (OneStepQuadratic, {"size": 3}),
    (LQR, {"horizon": 11}),
]
IDS = ["ConstantCost", "Chain", "OneStepQuadratic", "LQR", "Staircase", "Quantised", "BitFlip", "PointGoal"]


@pytest.mark.filterwarnings("ignore:.*(symmetric and normalized|infinity)")  # advice of the checker, on purpose not met
@pytest.mark.parametrize("name", IDS)
def test_registered_ids_pass_gymnasiums_checker_and_have_a_batched_form(name: str) -> None:
    check_env(gymnasium.make(f"costgrad/{name}-v0").unwrapped, skip_render_check=True)
    env = gymnasium.make_vec(f"costgrad/{name}-v0", num_envs=3)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
    assert obs in env.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (3,)


def test_registering_twice_is_registering_once() -> None:
    before = len(gymnasium.registry)
    costgrad.envs.tasks.known.register()
    assert len(gymnasium.registry) == before


@pytest.mark.parametrize(("task", "kwargs"), TASKS)
def test_one_row_of_the_batched_form_is_the_single_environment_bit_for_bit(task, kwargs) -> None:
    single, batched = task(**kwargs), TaskVectorEnv(task, 1, **kwargs)
    single.action_space.seed(1)
    obs, _ = single.reset(seed=5)
    rows, _ = batched.reset(seed=5)
    np.testing.assert_array_equal(rows[0], obs)
    ends = 0
    for _ in range(60):
        action = single.action_space.sample()
        obs, reward, terminated, truncated, _ = single.step(action)
        rows, rewards, terminateds, truncateds, info = batched.step(np.asarray(action)[None])
        assert (rewards[0], terminateds[0], truncateds[0]) == (reward, terminated, truncated)
        if terminated or truncated:
            ends += 1
            np.testing.assert_array_equal(info["final_obs"][0], obs)
            assert info["_final_obs"][0]
            obs, _ = single.reset()
        else:
            assert "final_obs" not in info
        np.testing.assert_array_equal(rows[0], obs)
    assert ends >= 2


@pytest.mark.parametrize(("task", "kwargs"), TASKS)
def test_each_row_of_the_batched_form_follows_its_own_state_and_action(task, kwargs) -> None:
    """Rows are told apart: given the same state, a single environment gets the reward that its row got."""
    kwargs = kwargs | ({"noise": 0.0} if task is LQR else {})
    batched, singles = TaskVectorEnv(task, 4, **kwargs), [task(**kwargs) for _ in range(4)]
    batched.reset(seed=3)
    batched.action_space.seed(3)
    for step in range(25):
        actions = batched.action_space.sample()
        for i, single in enumerate(singles):
            if step == 0:
                single.reset(seed=0)
            single.state, single.elapsed = batched.state[i : i + 1].copy(), int(batched.elapsed[i])
        rows, reward, terminated, truncated, info = batched.step(actions)
        for i, single in enumerate(singles):
            obs, r, term, trunc, _ = single.step(actions[i])
            if task is ConstantCost:  # its obs and ending are chance alone
                assert r == reward[i] and trunc == truncated[i]
                continue
            assert (r, term, trunc) == pytest.approx((reward[i], terminated[i], truncated[i]), abs=1e-12)
            np.testing.assert_allclose(obs, info["final_obs"][i] if term or trunc else rows[i], atol=1e-6)


def test_returned_arrays_are_never_written_again() -> None:
    for task, kwargs in TASKS:
        env = TaskVectorEnv(task, 3, **kwargs)
        env.action_space.seed(0)
        kept = [(env.reset(seed=0)[0],)]
        copies = [tuple(a.copy() for a in kept[0])]
        for _ in range(12):
            out = env.step(env.action_space.sample())[:4]
            kept.append(out)
            copies.append(tuple(a.copy() for a in out))
        for a, b in zip(kept, copies, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)


def test_constant_cost_sets_both_flags_on_one_step() -> None:
    env = TaskVectorEnv(ConstantCost, 5, horizon=1, terminate=1.0)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(np.zeros(5, dtype=int))
    assert terminated.all() and truncated.all() and info["_final_obs"].all()
    assert (reward == 1.0).all()


def test_constant_cost_value_and_return() -> None:
    task = ConstantCost(reward=2.0, horizon=3)
    assert task.value(0.9) == pytest.approx(20.0)
    assert task.optimal_return() == 6.0
    mortal = ConstantCost(reward=2.0, horizon=None, terminate=0.25)
    assert mortal.value(0.8) == pytest.approx(2 / (1 - 0.6))
    assert mortal.optimal_return() == pytest.approx(8.0)
    env = TaskVectorEnv(ConstantCost, 4000, reward=2.0, horizon=6, terminate=0.25)
    env.reset(seed=0)
    alive, total = np.ones(4000, bool), np.zeros(4000)
    for _ in range(6):
        _, reward, terminated, truncated, _ = env.step(np.zeros(4000, dtype=int))
        total += reward * alive
        alive &= ~(terminated | truncated)
    assert not alive.any()
    assert total.mean() == pytest.approx(env.task.optimal_return(), abs=4 * total.std() / np.sqrt(4000))


def test_chain_optimum_is_reached_by_going_right_and_by_nothing_else() -> None:
    task = Chain(n=5, horizon=20)
    assert task.optimal_return() == -4.0
    np.testing.assert_allclose(task.optimal_value(0.5), [-1.875, -1.75, -1.5, -1.0, 0.0])
    task.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        obs, reward, terminated, truncated, _ = task.step(1)
        rewards.append(reward)
    assert sum(rewards) == task.optimal_return() and not truncated and obs.argmax() == 4
    task.reset(seed=0)
    flags = [task.step(i % 2)[2:4] for i in range(20)]
    assert flags[-1] == (False, True) and not any(any(f) for f in flags[:-1])


def test_one_step_quadratic_mixes_each_context_with_its_neighbour() -> None:
    action = OneStepQuadratic(size=3).optimal_action(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]]))
    np.testing.assert_allclose(action, [[1.5, 2.0, 1.0], [1.0, 0.5, 0.0]])


def test_one_step_quadratic_optimum_and_two_worse_policies() -> None:
    env = TaskVectorEnv(OneStepQuadratic, 20_000, size=2, floor=1.5)
    task = env.task
    obs, _ = env.reset(seed=0)
    best = task.optimal_action(obs.astype(float))
    assert (best > task.action_space.low).all() and (best < task.action_space.high).all()
    obs, reward, terminated, truncated, _ = env.step(best)
    np.testing.assert_allclose(reward, task.optimal_return(), atol=1e-9)
    assert terminated.all() and not truncated.any()
    _, reward, *_ = env.step(np.ones((20_000, 2)))  # blind to the context: loses d (1 + 1/4) / 3
    assert reward.mean() == pytest.approx(-1.5 - 2 * 1.25 / 3, abs=0.03)
    state = env.state
    _, reward, *_ = env.step(task.optimal_action(state) + np.array([0.3, 0.0]))
    np.testing.assert_allclose(reward, -1.5 - 0.09, atol=1e-9)


def rollout_return(task: LQR, gain: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, float]:
    env = TaskVectorEnv(lambda: task, n)
    env.reset(seed=seed)
    total, largest = np.zeros(n), 0.0
    for t in range(task.horizon):
        action = -env.state @ gain.T
        largest = max(largest, float(np.abs(action).max()))
        _, reward, terminated, truncated, _ = env.step(action)
        total += reward
        assert not terminated.any() and truncated.all() == (t == task.horizon - 1)
    return total, largest


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_lqr_expected_return_agrees_with_simulation(scale: float) -> None:
    task = LQR(horizon=60)
    gain = scale * task.optimal_gain()
    total, largest = rollout_return(task, gain, 6000, seed=1)
    standard_error = total.std() / np.sqrt(len(total))
    assert abs(total.mean() - task.expected_return(gain)) < 4 * standard_error
    assert standard_error < 0.01 * abs(total.mean())
    assert largest < task.bound  # so the formula, which knows no bounds, holds


def test_lqr_gain_is_a_minimum_and_worse_gains_are_clearly_worse() -> None:
    task = LQR(horizon=2000)  # long, so that the stationary gain is the optimum but for the clock's end
    gain = task.optimal_gain()
    best = task.expected_return(gain)
    for change in ([[0.2, 0.0]], [[-0.2, 0.0]], [[0.0, 0.2]], [[0.0, -0.2]]):
        assert task.expected_return(gain + np.array(change)) < best
    assert task.expected_return(0.3 * gain) < 1.2 * best
    assert best == pytest.approx(task.best_return(), rel=1e-3)


def test_lqr_no_stationary_gain_beats_the_best_return_and_the_default_is_within_one_percent_of_it() -> None:
    task = LQR()
    assert task.optimal_return() < task.best_return()
    assert task.optimal_return() == pytest.approx(task.best_return(), rel=0.01)
    assert task.optimal_return(gamma=0.99) == pytest.approx(task.optimal_return(), rel=0.001)
    assert abs(task.optimal_return()) > 10


def test_lqr_cost_matrix_satisfies_bellmans_equation_at_any_state_and_action() -> None:
    task, gamma = LQR(), 0.95
    P, K = task.cost_matrix(gamma), task.optimal_gain(gamma)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(5, 2))

    def q(state: np.ndarray, action: np.ndarray) -> float:
        following = task.A @ state + task.B @ action
        return float(state @ task.Q @ state + action @ task.R @ action + gamma * following @ P @ following)

    for state in states:
        assert q(state, -K @ state) == pytest.approx(state @ P @ state, rel=1e-9)
        assert q(state, -K @ state + 0.1) > state @ P @ state
    # The value adds what the noise costs for ever: v = noise^2 tr P gamma / (1 - gamma).
    v = task.optimal_value(states, gamma) + np.einsum("ni,ij,nj->n", states, P, states)
    np.testing.assert_allclose(v, -(0.2**2) * np.trace(P) * 0.95 / 0.05, rtol=1e-9)


@pytest.mark.parametrize("limit", ["x", 0, -1, 1.5])
def test_max_episode_steps_is_a_whole_number_of_at_least_1(limit: object) -> None:
    with pytest.raises(EnvError, match=rf"max_episode_steps is {limit!r}: it must be a whole number of at least 1"):
        make("costgrad/LQR-v0", 2, env_kwargs={"max_episode_steps": limit})


def test_max_episode_steps_truncates_the_batched_form_too() -> None:
    env = TaskVectorEnv(LQR, 2, max_episode_steps=3)
    env.reset(seed=0)
    truncated = [env.step(np.zeros((2, 1)))[3].tolist() for _ in range(6)]
    assert truncated == [[False] * 2, [False] * 2, [True] * 2] * 2


# Tasks with goals -----------------------------------------------------------------------------------------------------

GOAL_TASKS = [(BitFlip, {"n": 5}), (PointGoal, {"size": 2, "radius": 0.3, "horizon": 9})]


def rows_of(obs: dict[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    return {key: part[i] for key, part in obs.items()}


@pytest.mark.parametrize(("task", "kwargs"), GOAL_TASKS)
def test_the_batched_form_of_a_goal_task_is_the_single_one(task, kwargs) -> None:
    single, batched = task(**kwargs), TaskVectorEnv(task, 1, **kwargs)
    single.action_space.seed(1)
    obs, rows = single.reset(seed=5)[0], batched.reset(seed=5)[0]
    ends = 0
    for _ in range(60):
        np.testing.assert_equal(rows_of(rows, 0), obs)
        action = single.action_space.sample()
        obs, *flags, _ = single.step(action)
        rows, *each, info = batched.step(np.asarray(action)[None])
        assert [value[0] for value in each] == flags[:1] + flags[1:]
        if flags[1] or flags[2]:
            ends += 1
            np.testing.assert_equal(info["final_obs"][0], obs)
            obs = single.reset()[0]
    assert ends >= 2


@pytest.mark.parametrize(("task", "kwargs"), GOAL_TASKS)
def test_the_reward_of_a_goal_task_is_what_compute_reward_says_of_one_and_of_many(task, kwargs) -> None:
    env = TaskVectorEnv(task, 50, **kwargs)
    env.action_space.seed(0)
    env.reset(seed=0)
    seen = set()
    for _ in range(40):
        obs, reward, terminated, _, info = env.step(env.action_space.sample())
        for i in range(50):
            last = info["final_obs"][i] if "_final_obs" in info and info["_final_obs"][i] else rows_of(obs, i)
            goals = last["achieved_goal"], last["desired_goal"]
            assert env.task.compute_reward(*goals, {}) == reward[i]
            assert env.task.compute_terminated(*goals, {}) == terminated[i]
            seen.add((float(reward[i]), bool(terminated[i])))
    assert seen == ({(-1.0, False), (0.0, True)} if task is BitFlip else {(-1.0, False), (0.0, False)})


def test_bits_flipped_one_after_the_other_reach_the_best_return() -> None:
    env = TaskVectorEnv(BitFlip, 4000, n=6)
    obs, _ = env.reset(seed=0)
    total, going = np.zeros(4000), np.ones(4000, dtype=bool)
    assert (obs["observation"] != obs["desired_goal"]).any(1).all()
    for _ in range(6):
        wrong = obs["observation"] != obs["desired_goal"]
        obs, reward, terminated, truncated, _ = env.step(wrong.argmax(1))
        total += reward * going
        going &= ~(terminated | truncated)
    assert not going.any()
    assert total.mean() == pytest.approx(env.task.optimal_return(), abs=4 * total.std() / np.sqrt(4000))
    assert BitFlip(2).optimal_return() == pytest.approx(1 - (1 + 1 + 2) / 3)


def test_a_point_that_goes_straight_has_the_best_return_and_none_has_a_better_one() -> None:
    env, rng = TaskVectorEnv(PointGoal, 500, size=2), np.random.default_rng(0)
    env.reset(seed=1)
    best, total, states = env.task.optimal_return(env.state), np.zeros((2, 500)), env.state.copy()
    for policy in range(2):
        env.state, env.elapsed = states.copy(), np.zeros(500, dtype=np.int64)
        for _ in range(env.task.horizon):
            start, goal = np.split(env.state, 2, axis=1)
            action = (goal - start) / env.task.STEP
            total[policy] += env.step(action + policy * rng.normal(size=action.shape))[1]
    np.testing.assert_allclose(total[0], best)  # it stops short where it must: the bound is met in each direction
    assert (total[1] <= best).all() and total[1].mean() < best.mean() - 0.5


@pytest.mark.parametrize(
    ("task", "kwargs", "message"),
    [
        (BitFlip, {"n": 1}, "BitFlip has n=1: it must have at least 2 bits"),
        (PointGoal, {"radius": 0.0}, "PointGoal has size=3 and radius=0.0: they must be at least 1, and more than 0"),
        (Chain, {"n": 1}, "Chain has n=1: it must have at least 2 states"),
        (ConstantCost, {"terminate": 2}, "terminate=2: it must be a probability"),
        (OneStepQuadratic, {"size": 0}, "size=0: it must be at least 1"),
    ],
)
def test_bad_arguments_are_named(task, kwargs, message) -> None:
    with pytest.raises(EnvError, match=message):
        task(**kwargs)

"""A Python cost function as an environment: units, forms, ends, and one clear line for each mistake."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env

from costgrad.envs import BlackBoxEnv, EnvError, cost_function, make
from costgrad.envs.tasks.batched import TaskVectorEnv
from costgrad.envs.tasks.costs import is_cost_function
from costgrad.envs.tasks.staircase import BEST_COST, CENTRE, quantised, staircase


@cost_function(low=[-1, 0], high=[3, 2])
def bowl(action):
    return ((action - 0.5) ** 2).sum()


def test_a_marked_function_can_still_be_called() -> None:
    assert bowl(np.array([0.5, 1.5])) == 1.0


def test_reward_is_minus_cost_in_the_functions_own_units_and_one_step_terminates() -> None:
    env = BlackBoxEnv(bowl)
    np.testing.assert_array_equal(env.action_space.low, [-1, 0])
    np.testing.assert_array_equal(env.action_space.high, [3, 2])
    obs, _ = env.reset(seed=0)
    assert obs.shape == (1,) and obs[0] == 0
    obs, reward, terminated, truncated, _ = env.step(np.array([2.5, 1.5], np.float32))
    assert (reward, terminated, truncated) == (-5.0, True, False)


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")
def test_gymnasiums_checker_passes() -> None:
    check_env(BlackBoxEnv(bowl, steps=3), skip_render_check=True)


def test_actions_stay_inside_the_bounds_as_the_user_wrote_them() -> None:
    seen = []
    env = BlackBoxEnv(lambda a: seen.append(a) or 0.0, low=0.7, high=0.8)
    env.reset(seed=0)
    env.step(env.action_space.low)
    env.step(env.action_space.high)
    assert [a.tolist() for a in seen] == [[0.7], [0.8]]
    assert float(env.action_space.low[0]) < 0.7  # float32 alone would have missed it


def test_context_is_what_the_function_got_and_a_new_one_comes_with_each_call() -> None:
    seen = []

    def cost(context, action):
        seen.append(context)
        return float(context.sum() + action[0])

    env = BlackBoxEnv(cost, low=-1, high=1, context=([-1, 5], [1, 6]), steps=3)
    obs, _ = env.reset(seed=2)
    given, flags = [obs], []
    for _ in range(3):
        obs, reward, terminated, truncated, _ = env.step(np.array([0.5]))
        assert reward == pytest.approx(-(given[-1].sum() + 0.5), rel=1e-6)
        given.append(obs)
        flags.append((terminated, truncated))
    np.testing.assert_allclose(given[:3], seen, rtol=1e-6)
    assert len({tuple(g) for g in given}) == 4
    assert flags == [(False, False), (False, False), (True, False)]
    assert env.observation_space == Box(np.array([-1, 5], "f4"), np.array([1, 6], "f4"))


def test_context_from_a_box_or_a_sampler() -> None:
    box = BlackBoxEnv(lambda c, a: 0.0, low=-1, high=1, context=Box(2.0, 3.0, (4,)))
    assert box.reset(seed=0)[0] in box.observation_space
    env = BlackBoxEnv(lambda c, a: c[0], low=-1, high=1, context=lambda rng: rng.integers(7, 9, size=3))
    obs, _ = env.reset(seed=0)
    assert obs.shape == (3,) and set(obs) <= {7.0, 8.0}
    assert env.step(np.zeros(1))[1] == -obs[0]


def test_a_state_may_start_at_one_point() -> None:
    env = BlackBoxEnv(lambda s, a: (s + a, 0.0), low=-1, high=1, start=([2, 3], [2, 3]), steps=2)
    assert env.reset(seed=0)[0].tolist() == [2.0, 3.0]


def test_a_function_with_state_is_truncated_by_its_steps_and_may_terminate() -> None:
    def walk(state, action):
        state = state + action
        return state, state[0] ** 2, state[0] > 2.5

    env = BlackBoxEnv(walk, low=-1, high=1, start=([1.0], [1.1]), steps=4)
    obs, _ = env.reset(seed=0)
    x = float(obs[0])
    obs, reward, terminated, truncated, _ = env.step(np.array([1.0]))
    assert (obs[0], reward) == (pytest.approx(x + 1), pytest.approx(-((x + 1) ** 2), rel=1e-6))
    assert not terminated and not truncated
    assert env.step(np.array([1.0]))[2:4] == (True, False)
    env.reset()
    assert [env.step(np.zeros(1))[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]
    env.reset()
    for _ in range(3):
        env.step(np.zeros(1))
    assert env.step(np.array([1.0]))[3]  # the clock
    env.reset()
    for _ in range(2):
        env.step(np.zeros(1))
    env.step(np.array([0.9]))
    assert env.step(np.array([1.0]))[2:4] == (True, True)  # the task and the clock end on one step


def test_a_batched_function_is_called_once_a_step_and_agrees_with_its_unbatched_self() -> None:
    calls = []

    def one(context, action):
        return (context[0] - action[0]) ** 2 + action[1]

    @cost_function(low=[-1, 0], high=[1, 2], context=([-1], [1]), batched=True)
    def many(context, action):
        calls.append(len(action))
        return (context[:, 0] - action[:, 0]) ** 2 + action[:, 1]

    fast = make(many, num_envs=6)
    slow = TaskVectorEnv(BlackBoxEnv, 6, cost_fn=one, low=[-1, 0], high=[1, 2], context=([-1], [1]))
    assert fast.backend == "native"
    np.testing.assert_array_equal(fast.reset(seed=1)[0], slow.reset(seed=1)[0])
    for _ in range(5):
        actions = fast.action_space.sample()
        a, b = fast.step(actions), slow.step(actions)
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_allclose(a[1], b[1], rtol=1e-12)
        assert a[2].all() and not a[3].any() and a[4]["_final_obs"].all()
    assert calls == [6] * 5


def test_a_batched_function_with_state() -> None:
    env = make(
        lambda state, action: (state + action, (state**2).sum(1), state[:, 0] > 0.5),
        num_envs=3,
        env_kwargs={"low": -1, "high": 1, "start": ([0], [1]), "steps": 5, "batched": True},
    )
    obs, _ = env.reset(seed=0)
    following, reward, terminated, _, info = env.step(np.full((3, 1), 0.25, np.float32))
    np.testing.assert_allclose(reward, -(obs[:, 0] ** 2), rtol=1e-6)
    np.testing.assert_array_equal(terminated, obs[:, 0] > 0.5)
    assert terminated.any() and not terminated.all()
    np.testing.assert_allclose(following[~terminated], obs[~terminated] + 0.25, rtol=1e-6)
    for i in np.flatnonzero(terminated):
        np.testing.assert_allclose(info["final_obs"][i], obs[i] + 0.25, rtol=1e-6)


@pytest.mark.parametrize(("function", "radius"), [(staircase, 0.5), (quantised, 0.25)])
def test_examples_are_flat_almost_everywhere_and_best_at_their_centre(function, radius) -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 3, (2000, 2))
    slope = (function(actions + 1e-7) - function(actions - 1e-7)) / 2e-7
    assert (slope == 0).mean() > 0.999
    assert function(CENTRE) == BEST_COST
    assert function(actions).min() == BEST_COST and function(actions).max() > 5
    near = CENTRE + rng.uniform(-1, 1, (100, 2)) * radius * 0.7
    assert (function(near) == BEST_COST).all()
    # From afar it is a bowl: what is further away costs more, by whole stairs.
    far = function(CENTRE + np.array([[0.0, 0], [-1.2, 0], [1.2, 0], [2.4, 0]]))
    assert far[0] < far[1] <= far[2] < far[3]


def test_cost_functions_are_distinguished_from_factories() -> None:
    assert is_cost_function(bowl, {})
    assert is_cost_function(lambda action: 0.0, {})
    assert not is_cost_function(lambda: None, {})
    assert not is_cost_function(lambda difficulty=1: None, {})
    assert not is_cost_function(lambda difficulty: None, {"difficulty": 2})
    assert not is_cost_function(lambda num_envs, render_mode: None, {})
    assert not is_cost_function(gymnasium.Env, {})


def fails(action):
    raise ZeroDivisionError("nothing there")


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        (lambda a: 0.0, {}, r"has no action bounds: write @cost_function\(low=..., high=...\)"),
        (lambda a: 0.0, {"low": 1, "high": 0}, "low must be below high"),
        (lambda a: 0.0, {"low": [0, 0], "high": [1, 1, 1]}, r"both must be \[A\] or a number"),
        (lambda a: 0.0, {"low": -np.inf, "high": 0}, "both must be finite"),
        (lambda a: 0.0, {"low": 0, "high": 1, "steps": 0}, "steps=0: it must be a whole number"),
        (lambda a: 0.0, {"low": 0, "high": 1, "steps": -2}, "steps=-2: it must be a whole number"),
        (lambda c, a: 0.0, {"low": 0, "high": 1, "context": 3}, r"must be \(low, high\), a Box or sample"),
        (lambda c, a: 0.0, {"low": 0, "high": 1, "context": (0, np.inf)}, "give a function sample"),
        (lambda c, a: 0.0, {"low": 0, "high": 1, "context": (0, 1), "start": (0, 1)}, "both context and start"),
        (lambda c, a: 0.0, {"low": 0, "high": 1, "start": (0, 1)}, "start but no steps"),
        (lambda a: 0.0, {"low": 0, "high": 1, "render_mode": "human"}, "cannot render 'human'"),
    ],
)
def test_bad_arguments_are_named(function, kwargs, message) -> None:
    with pytest.raises(EnvError, match=message) as caught:
        BlackBoxEnv(function, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        (fails, {}, r"cost function test_black_box.fails raised ZeroDivisionError: nothing there for action \[0.5\]"),
        (lambda a: np.nan, {}, r"returned cost nan for action \[0.5\]"),
        (lambda a: None, {}, "returned None as its cost: it must be a number"),
        (lambda a: "low", {}, "it must be a number"),
        (lambda a: [1.0, 2.0], {}, r"returned a cost of shape \(2,\): it must be \(\)"),
        (lambda a: a, {"batched": True}, r"returned a cost of shape \(1, 1\): it must be \(1,\)"),
        (lambda s, a: 1.0, {"start": (0, 1), "steps": 3}, r"it must return \(next_state, cost\)"),
        (lambda s, a: (np.zeros(3), 1.0), {"start": (0, 1), "steps": 3}, r"next state of shape \(3,\): it must be"),
        (lambda s, a: (s, 1.0, [True, False]), {"start": (0.5, 1), "steps": 3}, r"a terminated of shape \(2,\)"),
        (lambda s, a: (s, 1.0, None), {"start": (0.5, 1), "steps": 3}, "None as its terminated"),
        (lambda s, a: (s * np.inf, 1.0), {"start": (0.5, 1), "steps": 3}, "returned next state"),
    ],
)
def test_what_a_function_does_wrong_is_named_with_its_action(function, kwargs, message) -> None:
    env = BlackBoxEnv(function, low=0, high=1, **kwargs)
    env.reset(seed=0)
    with pytest.raises(EnvError, match=message):
        env.step(np.array([0.5]))


def test_the_row_that_went_wrong_is_named() -> None:
    env = make(lambda a: np.where(a[:, 0] > 0.7, np.nan, 0.0), 3, env_kwargs={"low": 0, "high": 1, "batched": True})
    env.reset(seed=0)
    with pytest.raises(EnvError, match=r"returned cost nan for action \[0.75\]"):
        env.step(np.array([[0.25], [0.75], [0.5]], np.float32))


def test_an_array_that_the_function_keeps_is_never_written() -> None:
    kept = np.full((3, 1), 7.0)
    kwargs = {"low": 0, "high": 1, "start": (0, 1), "steps": 1, "batched": True}
    env = make(lambda state, action: (kept, np.zeros(3)), 3, env_kwargs=kwargs)
    env.reset(seed=0)
    _, _, _, truncated, _ = env.step(env.action_space.sample())
    assert truncated.all() and (kept == 7.0).all()


def test_a_function_cannot_change_the_environment_through_its_arguments() -> None:
    def vandal(state, action):
        state += 100
        action += 100
        return state, 0.0

    env = BlackBoxEnv(vandal, low=0, high=1, start=(0, 1), steps=3)
    obs, _ = env.reset(seed=0)
    kept, action = obs.copy(), np.array([0.5])
    env.step(action)
    assert obs == kept and action[0] == 0.5

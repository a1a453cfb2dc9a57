"""Errors of a user's environment become one line that names them, in this process and in subprocesses."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from costgrad.envs import EnvError, make
from costgrad.envs.checked import CheckedEnv, CheckedVectorEnv
from costgrad.envs.tasks.lqr import LQR
from costgrad.rl.errors import UserError
from costgrad.rl.loop import interact
from costgrad.rl.spaces import Codec

PLACES = spaces.Dict({"place": spaces.Box(-1, 1, (3,)), "mode": spaces.Discrete(4, start=2)})


class Faulty(gymnasium.Env):
    """Right in all but `fault`, which a test gives as what to do with a step's (or a reset's) result."""

    observation_space: spaces.Space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)
    fault: Callable[..., Any] = staticmethod(lambda obs, *rest: (obs, *rest))
    first: Callable[..., Any] = staticmethod(lambda obs, info: (obs, info))
    at = 3  # the step that goes wrong

    def obs(self) -> Any:
        place = np.zeros(3, np.float32)
        return {"place": place, "mode": 2} if isinstance(self.observation_space, spaces.Dict) else place

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.first(self.obs(), {})

    def step(self, action: Any) -> Any:
        self.count += 1
        result = (self.obs(), 1.0, self.count == 5, False, {})
        return self.fault(*result) if self.count == self.at else result


def faulty(**attributes: Any) -> type[Faulty]:
    return type("Faulty", (Faulty,), {k: staticmethod(v) if callable(v) else v for k, v in attributes.items()})


def said(env: Callable[..., Any], backend: str = "sync") -> str:
    made = make(env, 2, backend=backend)
    try:
        with pytest.raises(EnvError) as caught:
            made.reset(seed=0)
            for _ in range(4):
                made.step(np.zeros(2, np.int64))
    finally:
        made.close()
    message = str(caught.value)
    assert "\n" not in message
    return message.split("Faulty.", 1)[1]


ANY = "(obs, reward, terminated, truncated, info), info a dict"
WRONG_STEPS: list[tuple[Callable[..., Any], str]] = [
    (
        lambda o, r, te, tr, i: (o, r, te, i),
        f"step returned 4 values (ndarray, float, bool, dict): it must return {ANY}",
    ),
    (
        lambda o, r, te, tr, i: (o, r, te, tr, None),
        f"step returned 5 values (ndarray, float, bool, bool, NoneType): it must return {ANY}",
    ),
    (lambda *all: None, f"step returned None: it must return {ANY}"),
    (
        lambda o, *rest: (np.zeros(4), *rest),
        "step returned obs type ndarray of shape (4,): it must have shape (3,), as the observation space says",
    ),
    (
        lambda o, *rest: (np.zeros((1, 3)), *rest),
        "step returned obs type ndarray of shape (1, 3): it must have shape (3,), as the observation space says",
    ),
    (lambda o, *rest: (None, *rest), "step returned obs None: it must have shape (3,), as the observation space says"),
    (
        lambda o, *rest: ([[1.0], [1.0, 2.0], 3.0], *rest),
        "step returned obs type list: it must have shape (3,), as the observation space says",
    ),
    (
        lambda o, r, *rest: (o, np.array([1.0]), *rest),
        "step returned reward type ndarray of shape (1,): it must be one number",
    ),
    (lambda o, r, *rest: (o, None, *rest), "step returned reward None: it must be one number"),
    (
        lambda o, r, *rest: (o, torch.ones((), requires_grad=True), *rest),
        "step returned reward type Tensor: it must be one number",
    ),
    (lambda o, r, *rest: (o, "1", *rest), "step returned reward '1': it must be one number"),
    (lambda o, r, te, *rest: (o, r, None, *rest), "step returned terminated None: it must be True or False"),
    (
        lambda o, r, te, tr, i: (o, r, te, np.zeros(2, bool), i),
        "step returned truncated type ndarray of shape (2,): it must be True or False",
    ),
]


@pytest.mark.parametrize(("fault", "message"), WRONG_STEPS, ids=range(len(WRONG_STEPS)))
def test_a_step_with_a_wrong_result_is_an_error_that_names_the_right_one(fault: Callable, message: str) -> None:
    assert said(faulty(fault=fault)) == message


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (lambda o, i: o, "reset returned type ndarray of shape (3,): it must return (obs, info), info a dict"),
        (
            lambda o, i: (o, None),
            "reset returned 2 values (ndarray, NoneType): it must return (obs, info), info a dict",
        ),
        (
            lambda o, i: (o[:2], i),
            "reset returned obs type ndarray of shape (2,): it must have shape (3,), as the observation space says",
        ),
    ],
)
def test_a_reset_with_a_wrong_result_is_an_error_that_names_the_right_one(first: Callable, message: str) -> None:
    assert said(faulty(first=first)) == message


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({"place": np.zeros(3)}, "obs a dict with place: it must be a dict with mode, place"),
        (np.zeros(4), "obs type ndarray of shape (4,): it must be a dict with mode, place"),
        (
            {"place": np.zeros(2), "mode": 2},
            "obs['place'] type ndarray of shape (2,): it must have shape (3,), as the observation space says",
        ),
        ({"place": np.zeros(3), "mode": 1}, "obs['mode'] 1: it must be a whole number from 2 to 5"),
        ({"place": np.zeros(3), "mode": 2.0}, "obs['mode'] 2.0: it must be a whole number from 2 to 5"),
        ({"place": np.zeros(3), "mode": 6}, "obs['mode'] 6: it must be a whole number from 2 to 5"),
    ],
)
def test_errors_name_the_entry_of_a_dict(obs: Any, message: str) -> None:
    assert said(faulty(observation_space=PLACES, fault=lambda o, *rest: (obs, *rest))) == f"step returned {message}"


def sensor_lost(*result: Any) -> None:
    raise RuntimeError("sensor lost,\nbattery at 3 %d")


def leaves(*result: Any) -> None:
    raise SystemExit(0)


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [(sensor_lost, "RuntimeError: sensor lost, battery at 3 %d"), (leaves, "SystemExit: 0")],
    ids=["raises", "leaves"],
)
def test_what_it_raises_is_named_with_its_line_in_any_process(fault: Callable, message: str, backend: str) -> None:
    line = inspect.getsourcelines(fault)[1] + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a worker's own log of it would be one
        assert said(faulty(fault=fault), backend) == f"step raised {message} (test_checked.py, line {line})"


def test_an_error_in_a_library_names_the_users_line() -> None:
    def fault(*result: Any) -> Any:
        return np.concatenate([np.zeros(2), np.linalg.inv(np.zeros((2, 2)))])

    line = inspect.getsourcelines(fault)[1] + 1
    assert said(faulty(fault=fault)) == f"step raised LinAlgError: Singular matrix (test_checked.py, line {line})"


def test_a_bug_of_the_library_keeps_its_traceback() -> None:
    env = CheckedEnv(LQR(), "LQR")
    env.reset(seed=0)
    with pytest.raises(Exception) as caught:
        env.step(np.zeros(7))  # what no agent gives
    assert not isinstance(caught.value, EnvError)


def test_valid_results_pass_unchanged() -> None:
    class Plain(Faulty):
        observation_space = PLACES

        def step(self, action: Any) -> Any:
            obs, _, ended, _, info = super().step(action)
            return obs, torch.tensor(2.0), np.bool_(ended), 0, info | {"more": 1}

    env = CheckedEnv(Plain(), "Plain")
    obs, info = env.reset(seed=0)
    assert info == {} and set(obs) == {"place", "mode"}
    for i in range(5):
        obs, reward, terminated, truncated, info = env.step(0)
        assert (reward, terminated, truncated, info) == (2.0, i == 4, 0, {"more": 1})
    listed = CheckedEnv(faulty(fault=lambda o, r, *rest: ([0, 0, 0], 1, *rest), at=1)(), "listed")
    listed.reset()
    assert listed.step(0)[:2] == ([0, 0, 0], 1)


@pytest.mark.parametrize("kind", ["observation_space", "action_space"])
def test_a_missing_space_is_named(kind: str) -> None:
    with pytest.raises(EnvError, match=rf"Faulty has {kind} None: it must be a gymnasium.Space, set in __init__"):
        make(faulty(**{kind: None}), 2, backend="sync")


class Many(SyncVectorEnv):
    """A VectorEnv of a user's own, with one column of its results changed."""

    def __init__(self, change: dict[str, Callable[[Any], Any]]) -> None:
        super().__init__([Faulty] * 3)
        self.change = change

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return self.change.get("first", lambda x: x)(obs), info

    def step(self, actions: Any) -> Any:
        *columns, info = super().step(actions)
        names = ("obs", "reward", "terminated", "truncated")
        return (*(self.change.get(k, lambda x: x)(v) for k, v in zip(names, columns, strict=True)), info)


class Still:
    """The least that the loop asks of an agent."""

    def __init__(self, env: VectorEnv) -> None:
        self.codec = Codec(env.single_observation_space, env.single_action_space)

    def on_reset(self) -> None:
        pass

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        return np.zeros(len(obs), np.int64)

    def observe(self, step: Any) -> None:
        pass

    def update(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("first", lambda x: x[0], "obs is a single one: it must be a batch of 3, one for each environment"),
        ("first", lambda x: x[:2], "obs is a batch of 2: it must be a batch of 3, one for each environment"),
        ("obs", lambda x: x[:, :2], r"obs has shape \(3, 2\): it must be \(3,\)"),
        ("reward", lambda x: x[:, None], r"reward of shape \(3, 1\): it must be an array of shape \(3,\)"),
        ("reward", lambda x: x.tolist(), r"reward of type list: it must be an array of shape \(3,\)"),
        ("terminated", lambda x: x[0], r"terminated of type bool: it must be an array of shape \(3,\)"),
        ("terminated", lambda x: x.astype(np.int8), "terminated of dtype int8: it must be bool"),
        ("truncated", lambda x: x.astype(np.float32), "truncated of dtype float32: it must be bool"),
        ("truncated", lambda x: x[:2], r"truncated of shape \(2,\): it must be an array of shape \(3,\)"),
    ],
)
def test_a_vector_env_of_a_wrong_form_is_reported_by_the_loop(column: str, change: Callable, message: str) -> None:
    env = Many({column: change})
    with pytest.raises(UserError, match=message):
        ticks = interact(Still(env), env, seed=0)
        next(ticks)
    right = Many({})
    assert next(interact(Still(right), right, seed=0)).step == 3


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    ("space", "dtype", "told"),
    [
        (spaces.Box(0, 255, (3,), np.uint8), np.float32, "obs of dtype float32: it must be uint8"),
        (spaces.Box(0, 255, (3,), np.uint8), np.int64, "obs of dtype int64: it must be uint8"),
        (spaces.MultiBinary(3), np.float64, "obs of dtype float64: it must be int8"),
        (spaces.Box(-1, 1, (3,)), np.complex64, "obs of dtype complex64: it must be float32"),
    ],
)
def test_numbers_of_another_kind_are_an_error_and_not_truncated(
    space: Any, dtype: Any, told: str, backend: str
) -> None:
    """A picture from 0 to 1 in a space of bytes would arrive as zeros from a process, and not at all without."""
    env = faulty(observation_space=space, obs=lambda self=None: np.zeros(3, dtype))
    assert told in said(env, backend)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.bool_])
def test_integers_for_floats_are_accepted(dtype: Any) -> None:
    env = make(faulty(obs=lambda self=None: np.ones(3, dtype)), 2, backend="sync")
    assert env.reset(seed=0)[0].dtype == np.float32 and (env.step(np.zeros(2, np.int64))[0] == 1).all()


class Ends(Faulty):
    """Its process goes, as that of a simulator that crashes."""

    def step(self, action: Any) -> Any:
        os._exit(7)


def test_a_dead_subprocess_is_an_error_and_the_others_are_stopped() -> None:
    env = make(Ends, 2, backend="async")
    env.reset(seed=0)
    processes = env.env.processes  # type: ignore[attr-defined]
    with pytest.raises(EnvError, match=r"the process of environment [01] ended \(exit code 7\)"):
        env.step(np.zeros(2, np.int64))
    env.close()
    assert not any(process.is_alive() for process in processes)


def test_errors_of_render_and_close_do_not_stop_a_run() -> None:
    def fails(self: Any = None) -> None:
        raise RuntimeError("no GPU")

    env = faulty(metadata={"render_modes": ["rgb_array"]}, render=fails, close=fails, render_mode="rgb_array")
    made = CheckedEnv(env(), "Faulty")
    with pytest.raises(EnvError, match=r"Faulty.render raised RuntimeError: no GPU \(test_checked.py, line"):
        made.render()
    with pytest.warns(UserWarning, match="Faulty.close raised RuntimeError: no GPU"):
        made.close()


class Batch(VectorEnv):
    """A user's own: right in all but `fault`, in its second step."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    fault = ""

    def __init__(self, num_envs: int = 2, fault: str = "") -> None:
        self.num_envs, self.fault, self.count, self.own = num_envs, fault, 0, "kept"
        self.single_observation_space, self.single_action_space = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros((self.num_envs, 3), np.float32), {}

    def step(self, actions: Any) -> Any:
        self.count += 1
        obs, none = self.reset()[0], np.zeros(self.num_envs, np.bool_)
        if self.count == 2 and self.fault == "raises":
            raise KeyError("boom")
        if self.count == 2 and self.fault == "shape":
            obs = obs[:, :2]
        return obs, np.ones(self.num_envs), none | (self.count == 2 and self.fault == "final"), none, {}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raises", r"Batch.step raised KeyError: 'boom' \(test_checked.py, line"),
        ("shape", r"Batch.step returned obs type ndarray of shape \(2, 2\): it must have shape \(2, 3\)"),
        ("final", "reset in the same step: their info must hold final_obs"),
    ],
)
def test_a_users_vector_env_is_checked_too(fault: str, told: str) -> None:
    for env in (make(Batch(fault=fault)), make(Batch, 2, env_kwargs={"fault": fault})):
        ticks = interact(Still(env), env, seed=0)
        next(ticks)
        with pytest.raises((EnvError, UserError), match=told):
            next(ticks)
        assert env.own == "kept"


def test_our_batches_are_not_wrapped() -> None:
    for name in ("CartPole-v1", "costgrad/LQR-v0"):
        assert not isinstance(make(name, 2).env, CheckedVectorEnv)

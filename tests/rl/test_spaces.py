"""The agent's units and the environment's: asymmetric boxes, shifted integers, one-hot observations, JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from costgrad.rl.errors import UserError
from costgrad.rl.spaces import Codec, device_of, space_from_json, space_to_json, to_agent, to_env

OBS = spaces.Box(-10, 10, (3,), np.float32)
BOX = spaces.Box(np.array([0, -3], np.float32), np.array([5, -1], np.float32))


def test_corners_and_middle_of_an_asymmetric_box() -> None:
    codec = Codec(OBS, BOX)
    agent = np.array([[-1, -1], [1, 1], [0, 0], [-1, 1]], np.float32)
    env = codec.env_action(agent)
    assert env.tolist() == [[0.0, -3.0], [5.0, -1.0], [2.5, -2.0], [0.0, -1.0]]
    assert env.dtype == np.float32
    assert codec.agent_action(env).tolist() == agent.tolist() and codec.agent_action(env).dtype == np.float32
    assert codec.action_bounds == ([0.0, -3.0], [5.0, -1.0])


@pytest.mark.parametrize(
    "box",
    [
        BOX,
        spaces.Box(-1, 1, (4,), np.float32),
        spaces.Box(-0.1, 1e4, (2, 3), np.float64),
        spaces.Box(0.7, 0.9, (), np.float32),
    ],
)
def test_box_actions_survive_the_round_trip_and_stay_in_bounds(box: spaces.Box) -> None:
    codec = Codec(OBS, box)
    inner = np.random.default_rng(0).uniform(-1, 1, (200, codec.action_size)).astype(np.float32)
    inner[0], inner[1] = -1, 1
    env = codec.env_action(inner)
    assert env.shape == (200, *box.shape) and env.dtype == box.dtype
    assert all(box.contains(np.asarray(a, dtype=box.dtype)) for a in env)
    np.testing.assert_allclose(codec.agent_action(env), inner, atol=1e-5, rtol=0)
    drawn = np.stack([box.sample() for _ in range(20)])
    np.testing.assert_allclose(codec.env_action(codec.agent_action(drawn)), drawn, rtol=1e-4, atol=1e-4)


def test_to_env_and_to_agent_are_inverse_and_differentiable() -> None:
    low, high = torch.tensor([0.0, -3.0]), torch.tensor([5.0, -1.0])
    action = torch.tensor([[0.3, -0.8]], requires_grad=True)
    env = to_env(action, low, high)
    torch.testing.assert_close(to_agent(env, low, high), action)
    assert torch.autograd.grad(env.sum(), action)[0].tolist() == [[2.5, 1.0]]


def test_discrete_actions_start_where_the_space_says() -> None:
    codec = Codec(OBS, spaces.Discrete(3, start=-1))
    assert codec.discrete and codec.action_size == 3
    assert codec.env_action(np.array([0, 1, 2])).tolist() == [-1, 0, 1]
    assert codec.agent_action([-1, 0, 1]).tolist() == [0, 1, 2] and codec.agent_action([0]).dtype == np.int64
    assert codec.action_bounds is None
    assert Codec(OBS, spaces.Discrete(3)).env_action(np.array([2, 0])).tolist() == [2, 0]


def test_discrete_observations_become_one_hot() -> None:
    codec = Codec(spaces.Discrete(4, start=5), BOX)
    assert codec.obs_shape == (4,)
    assert codec.obs(np.array([5, 8])).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiBinary(4),
        spaces.MultiBinary((2, 3)),
        spaces.Box(0, 255, (6, 5, 3), np.uint8),
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(0, 9, (3,), np.int64),
    ],
)
def test_observations_become_float32_bytes_stay_and_share_no_memory(space: Any) -> None:
    codec = Codec(space, BOX)
    raw = np.stack([space.sample() for _ in range(3)])
    obs = codec.obs(raw)
    assert obs.dtype == (np.uint8 if space.dtype == np.uint8 else np.float32)
    assert obs.shape == (3, *codec.obs_shape) == raw.shape
    np.testing.assert_allclose(obs, raw.astype(np.float32))
    before = obs.copy()
    raw[...] = 0
    assert np.array_equal(obs, before)
    already = np.ones((2, *codec.obs_shape), np.float32)
    kept = codec.obs(already)
    already[...] = 7
    assert (kept == 1).all()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(np.array([0, -np.inf], np.float32), np.array([np.inf, 3.5], np.float32)),
        BOX,
        spaces.Box(0, 255, (4, 4, 3), np.uint8),
        spaces.Box(-5, 7, (2, 2), np.int32),
        spaces.Discrete(4),
        spaces.Discrete(4, start=-2),
        spaces.MultiBinary(5),
        spaces.MultiBinary((2, 3)),
        spaces.Dict([("b", OBS), ("a", spaces.Discrete(3)), ("c", spaces.Dict(d=OBS))]),
    ],
)
def test_spaces_survive_json(space: Any) -> None:
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert again == space and again.dtype == space.dtype
    assert Codec(again, BOX).obs.slices == Codec(space, BOX).obs.slices  # in the same order


def test_a_dict_is_laid_flat_in_its_own_order() -> None:
    inner = spaces.Dict(d=spaces.Box(0, 255, (2,), np.uint8))
    parts = {"b": spaces.Box(-1, 1, (2, 2)), "a": spaces.Discrete(3, start=1), "c": inner}
    codec = Codec(spaces.Dict(list(parts.items())), BOX)
    assert codec.obs_shape == (9,)
    assert codec.obs.slices == {"b": slice(0, 4), "a": slice(4, 7), "c": slice(7, 9)}
    rows: dict[str, Any] = {"a": np.array([3, 1]), "b": np.arange(8.0).reshape(2, 2, 2)}
    rows["c"] = {"d": np.array([[200, 1], [0, 255]], np.uint8)}
    flat = [[0, 1, 2, 3, 0, 0, 1, 200, 1], [4, 5, 6, 7, 1, 0, 0, 0, 255]]
    obs = codec.obs(rows)
    assert obs.tolist() == flat and obs.dtype == np.float32
    single = {"a": rows["a"][1], "b": rows["b"][1], "c": {"d": rows["c"]["d"][1]}}
    assert codec.obs.stack([single, single]).tolist() == [flat[1]] * 2
    assert codec.obs.is_single(single) and not codec.obs.is_single(rows)
    assert codec.predict(middle_for_positive, single).tolist() == codec.predict(middle_for_positive, rows)[1].tolist()


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ([1.0], "obs has type list: it must be a dict with a, b"),
        ({"a": [0.0, 0.0]}, "obs has keys a: it must be a dict with a, b"),
        ({"a": [0.0], "b": 1}, r"obs\['a'\] has shape \(1,\): it must be \(2,\)"),
        ({"a": [0.0, 0.0], "b": [1, 1]}, "obs has entries of different numbers of rows: all must be single, or"),
        ({"a": [[0.0, 0.0]] * 3, "b": [1, 1]}, "obs has entries of different numbers of rows: all must be single, or"),
    ],
)
def test_predict_refuses_a_dict_that_does_not_fit(obs: Any, message: str) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(2)})
    with pytest.raises(UserError, match=message):
        Codec(space, BOX).predict(middle_for_positive, obs)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Dict({"a": spaces.Text(5)}), BOX, r"space of obs\['a'\] Text"),
        (spaces.Dict({"a": spaces.Dict({})}), BOX, r"space of obs\['a'\] Dict\(\) is not supported"),
        (spaces.Dict({}), BOX, "observation space Dict.. is not supported"),
        (spaces.Tuple((OBS, OBS)), BOX, "observation space"),
        (spaces.Text(5), BOX, "observation space"),
        (OBS, spaces.Box(-np.inf, np.inf, (2,)), "every bound of a Box must be finite"),
        (OBS, spaces.Box(-3.4e38, 3.4e38, (2,)), "every bound of a Box must be finite"),
        (OBS, spaces.Box(0, 1, (0,)), "an action must hold a number"),
        (OBS, spaces.Box(0, 5, (2,), np.int64), "must hold floats"),
        (OBS, spaces.Dict({"a": BOX}), "bounded Box, Discrete, MultiDiscrete or MultiBinary"),
    ],
)
def test_other_spaces_are_refused_in_one_clear_line(observation: Any, action: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Codec(observation, action)
    assert "\n" not in str(caught.value) and "must" in str(caught.value)


def test_other_spaces_have_no_json() -> None:
    with pytest.raises(UserError):
        space_to_json(spaces.Text(5))
    with pytest.raises(UserError):
        space_from_json({"type": "Text"})


def test_a_tensor_of_an_array_is_its_memory_on_the_cpu() -> None:
    codec, array = Codec(OBS, BOX), np.zeros((2, 3), np.float32)
    tensor = codec.tensor(array)
    assert tensor.shape == (2, 3) and tensor.dtype == torch.float32 and tensor.device == codec.device
    array[1, 2] = 5
    assert tensor[1, 2] == 5


def middle_for_positive(obs: np.ndarray) -> np.ndarray:
    """A policy of the agent's units: the sign of the observation's first entry, then 0."""
    return np.stack((np.sign(obs.reshape(len(obs), -1)[:, 0]), np.zeros(len(obs))), 1)


def test_predict_takes_one_observation_or_a_batch() -> None:
    codec = Codec(OBS, BOX)
    batch = codec.predict(middle_for_positive, np.array([[1, 0, 0], [-1, 0, 0]], np.float32))
    assert batch.tolist() == [[5.0, -2.0], [0.0, -2.0]]
    single = codec.predict(middle_for_positive, [1.0, 0.0, 0.0])
    assert single.shape == (2,) and single.tolist() == [5.0, -2.0]
    discrete = Codec(spaces.Discrete(3), spaces.Discrete(3, start=4))
    assert discrete.predict(lambda obs: obs.argmax(1), np.array([2, 0])).tolist() == [6, 4]
    assert discrete.predict(lambda obs: obs.argmax(1), 2) == 6


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 2, 3), (), (0, 3)])
def test_predict_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="obs has shape"):
        Codec(OBS, BOX).predict(middle_for_positive, np.zeros(shape))


def test_devices(monkeypatch: Any) -> None:
    """`auto` is what torch finds; what is not there is said as the command says it."""
    box = spaces.Box(-1, 1, (2,), np.float32)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Codec(box, box, "auto").device == torch.device("cpu") == Codec(box, box, torch.device("cpu")).device
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match=f"^device {name} is not there: torch finds no GPU .device cpu works every"):
            Codec(box, box, name)
    for name in ("gpu", "cuda:x", ""):
        with pytest.raises(UserError, match=f"device '{name}' is unknown: it must be auto, cpu, cuda or cuda:1"):
            Codec(box, box, name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_of("auto") == device_of("cuda") == torch.device("cuda")


@pytest.mark.parametrize("single", [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3), spaces.Text(3)])
def test_actions_of_a_whole_vector_env_are_told_from_one_s(single: Any) -> None:
    """Where no agent takes the space of a batch; that of a Box or of Discrete might be one environment's."""
    box = spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(UserError, match="of a VectorEnv, give single_observation_space and single_action_space"):
        Codec(box, batch_space(single, 4))


def test_observations_of_a_whole_vector_env_are_told_from_one_s() -> None:
    box = spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(UserError, match="of a VectorEnv, give single_observation_space"):
        Codec(batch_space(spaces.Discrete(3), 4), box)

"""The one place that knows the agent's units and the environment's.

The agent sees float observations of one shape, and acts in [-1, 1]^A or in {0, ..., n-1}. The environment has
asymmetric bounds, a `Discrete.start`, integer observations. Nothing else in `rl` or `agents` knows that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from rl.errors import Diverged, UserError

ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)


def to_env(action: ArrayOrTensor, low: ArrayOrTensor, high: ArrayOrTensor) -> ArrayOrTensor:
    """[-1, 1]^A -> [low, high]^A, affine; arrays or tensors, differentiable for tensors."""
    return low + (action + 1) * ((high - low) / 2)


def to_agent(action: ArrayOrTensor, low: ArrayOrTensor, high: ArrayOrTensor) -> ArrayOrTensor:
    """[low, high]^A -> [-1, 1]^A, the inverse of `to_env`; -1 in a dimension whose bounds are equal."""
    half = (high - low) / 2
    return (action - low) / (half + (half == 0)) - 1


class Codec:
    """Translates between one environment's spaces and the agent's.

    Args:
        observation_space: Box of any shape (flat vectors, images), Discrete (seen as one-hot), MultiBinary.
        action_space: bounded Box (flattened to A numbers in [-1, 1]) or Discrete (n choices).
        device: where the agent's tensors live.

    Raises:
        UserError: a space that no agent here can be trained on.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], device: str = "cpu") -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.device = torch.device(device)
        self._moves = self.device.type != "cpu"
        self.obs_shape = _obs_shape(observation_space)
        self.discrete = isinstance(action_space, spaces.Discrete)
        if isinstance(action_space, spaces.Discrete):
            self.action_size, self._start = int(action_space.n), int(action_space.start)
        elif isinstance(action_space, spaces.Box):
            if not action_space.is_bounded():
                raise UserError(
                    f"action space {action_space} is not supported: every bound of a Box must be finite "
                    "(gymnasium.wrappers.RescaleAction or a tighter Box gives it bounds)"
                )
            if not np.issubdtype(action_space.dtype, np.floating):
                raise UserError(f"action space {action_space} is not supported: a Box of actions must hold floats")
            self.action_size = int(np.prod(action_space.shape))
            self._low, self._high = np.asarray(action_space.low), np.asarray(action_space.high)
        else:
            raise UserError(f"action space {action_space} is not supported: it must be a bounded Box or Discrete")

    @property
    def action_bounds(self) -> tuple[list[float], list[float]] | None:
        """Flat low and high in the environment's units; None for discrete actions."""
        return None if self.discrete else (self._low.ravel().tolist(), self._high.ravel().tolist())

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the agent's device; on the CPU it shares the array's memory."""
        tensor = torch.from_numpy(array)
        return tensor.to(self.device) if self._moves else tensor

    def obs(self, obs: Any) -> np.ndarray:
        """A batch from the environment [N, ...] -> float32 [N, *obs_shape] that shares no memory with it."""
        if isinstance(self.observation_space, spaces.Discrete):
            return np.eye(self.obs_shape[0], dtype=np.float32)[np.asarray(obs) - int(self.observation_space.start)]
        # A copy even where nothing changes: an environment may overwrite its arrays at the next step.
        return np.array(obs, dtype=np.float32).reshape(-1, *self.obs_shape)

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """[N, A] in [-1, 1] or [N] int64 -> [N, *action_space.shape] in the environment's units and dtype."""
        if self.discrete:
            return action + self._start if self._start else action
        if not math.isfinite(action.sum()):
            raise Diverged("the policy gave an action that is not a number: it diverged, lower its learning rates")
        array = to_env(action.reshape(-1, *self._low.shape), self._low, self._high)
        # Rounding may put a saturated action one ulp outside the bounds, which strict environments refuse.
        return np.clip(array, self._low, self._high).astype(self._low.dtype, copy=False)

    def agent_action(self, action: Any) -> np.ndarray:
        """The inverse of `env_action`: [N, *action_space.shape] -> [N, A] float32 or [N] int64."""
        if self.discrete:
            return np.asarray(action, dtype=np.int64) - self._start
        array = to_agent(np.asarray(action, dtype=np.float64), self._low, self._high)
        return array.reshape(-1, self.action_size).astype(np.float32)

    def predict(self, policy: Callable[[np.ndarray], np.ndarray], obs: Any) -> np.ndarray:
        """Applies a policy of the agent's units to one observation or a batch of the environment's.

        Args:
            policy: [N, *obs_shape] -> [N, A] or [N].
            obs: [*observation_space.shape] or [N, *observation_space.shape], NumPy or lists.

        Returns:
            [*action_space.shape] or [N, *action_space.shape] in the environment's units.

        Raises:
            UserError: obs has another shape.
        """
        array, shape = np.asarray(obs), self.observation_space.shape or ()
        if array.shape not in (shape, (*array.shape[:1], *shape)) or array.size == 0:
            raise UserError(f"obs has shape {array.shape}: it must be {shape} or [N, *{shape}]")
        single = array.shape == shape
        action = self.env_action(policy(self.obs(array[None] if single else array)))
        return action[0] if single else action


def _obs_shape(space: Space[Any]) -> tuple[int, ...]:
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.Box | spaces.MultiBinary) and int(np.prod(space.shape)) > 0:
        return tuple(int(n) for n in space.shape) or (1,)
    raise UserError(
        f"observation space {space} is not supported: it must be a Box, Discrete or MultiBinary "
        "(gymnasium.wrappers.FlattenObservation turns most other spaces into a Box)"
    )


def space_to_json(space: Space[Any]) -> dict[str, Any]:
    """A space as plain JSON, for checkpoints; the inverse is `space_from_json`."""
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "low": space.low.astype(np.float64).ravel().tolist(),
            "high": space.high.astype(np.float64).ravel().tolist(),
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    raise UserError(f"space {space} is not supported: it must be a Box, Discrete or MultiBinary")


def space_from_json(spec: dict[str, Any]) -> Space[Any]:
    """The space that `space_to_json` described."""
    if spec["type"] == "Box":
        dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
        # Infinite bounds of an integer Box are not representable; gymnasium never holds any, so the cast is exact.
        low, high = (np.array(spec[key], dtype=np.float64).reshape(shape).astype(dtype) for key in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if spec["type"] == "Discrete":
        return spaces.Discrete(spec["n"], start=spec["start"])
    if spec["type"] == "MultiBinary":
        return spaces.MultiBinary(spec["shape"][0] if len(spec["shape"]) == 1 else spec["shape"])
    raise UserError(f"space type {spec['type']!r} is unknown: it must be Box, Discrete or MultiBinary")

"""The one place that knows the agent's units and the environment's.

The agent sees observations of one shape (rl/observations.py), and acts in [-1, 1]^A, in {0, ..., n-1}, or in D such
choices at once. The environment has asymmetric bounds, a `Discrete.start`, integer observations, bits in any shape, a
Dict of them. Nothing else in `rl` or `agents` knows that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from costgrad.rl.checks import LARGEST, UNFIT, short, whole
from costgrad.rl.errors import Diverged, UserError
from costgrad.rl.observations import Observations

BATCHED = "of a VectorEnv, give single_observation_space and single_action_space"
MOST_NUMBERS, MOST_AXES, DEPTH = 2**31, 16, 20  # of a space that is read from a file
ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)


def to_env(action: ArrayOrTensor, low: ArrayOrTensor, high: ArrayOrTensor) -> ArrayOrTensor:
    """[-1, 1]^A -> [low, high]^A, affine; arrays or tensors, differentiable for tensors."""
    return low + (action + 1) * ((high - low) / 2)


def to_agent(action: ArrayOrTensor, low: ArrayOrTensor, high: ArrayOrTensor) -> ArrayOrTensor:
    """[low, high]^A -> [-1, 1]^A, the inverse of `to_env`; -1 in a dimension whose bounds are equal."""
    half = (high - low) / 2
    return (action - low) / (half + (half == 0)) - 1


def device_of(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is a GPU where torch finds one, else the CPU.

    Raises:
        UserError: no such device, or "cuda" where torch finds no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device {name!r} is unknown: it must be auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name} is not there: torch finds no GPU (device cpu works everywhere)")
    return device


class Codec:
    """Translates between one environment's spaces and the agent's.

    Args:
        observation_space: Box of any shape (flat vectors, images), Discrete (seen as one-hot), MultiBinary, or a Dict
            of these (laid flat).
        action_space: bounded Box (flattened to A numbers in [-1, 1]), Discrete (n choices), MultiDiscrete or
            MultiBinary (flattened to D choices).
        device: where the agent's tensors live: "cpu", "cuda", "cuda:1", or "auto", a GPU where torch finds one.

    Attributes:
        device: the same as a torch.device.
        obs: from a batch of the environment's observations [N, ...] to the agent's [N, *obs_shape].
        choices: how many there are in each of the D choices, (n,) of a Discrete; () of a Box.
        multi: whether an action is a vector of choices [N, D], not one [N].
        action_size: n of a Discrete, A of a Box, the sum of `choices` of a vector of them.

    Raises:
        UserError: a space that no agent here can be trained on, or a device that is not there.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], device: str = "cpu") -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.device = device_of(device)
        self._moves = self.device.type != "cpu"
        self.obs = Observations(observation_space)
        self.obs_shape = self.obs.shape
        self.choices: tuple[int, ...] = ()
        self.multi = isinstance(action_space, spaces.MultiDiscrete | spaces.MultiBinary)
        self._start: Any = 0
        if isinstance(action_space, spaces.Discrete):
            self.choices, self._start = (int(action_space.n),), int(action_space.start)
        elif isinstance(action_space, spaces.MultiDiscrete):
            self.choices, self._start = tuple(action_space.nvec.ravel().tolist()), action_space.start.ravel()
        elif isinstance(action_space, spaces.MultiBinary):
            self.choices = (2,) * int(np.prod(action_space.shape))
        elif isinstance(action_space, spaces.Box):
            with np.errstate(over="ignore", invalid="ignore"):
                bounded = np.isfinite(action_space.high - action_space.low).all()
            if not bounded:  # largest numbers as bounds are none: half of their distance would be infinite
                raise UserError(
                    f"action space {action_space} is not supported: every bound of a Box must be finite "
                    "(gymnasium's ClipAction takes them away and is not needed here; without it, declare a tighter Box)"
                )
            if not np.issubdtype(action_space.dtype, np.floating):
                raise UserError(
                    f"action space {action_space} is not supported: a Box of actions must hold floats ({BATCHED})"
                )
            if not action_space.low.size:
                raise UserError(f"action space {action_space} is not supported: an action must hold a number")
            self._low, self._high = np.asarray(action_space.low), np.asarray(action_space.high)
        else:
            allowed = "a bounded Box, Discrete, MultiDiscrete or MultiBinary"
            raise UserError(f"action space {action_space} is not supported: it must be {allowed} ({BATCHED})")
        self.discrete = bool(self.choices)
        self.action_size = sum(self.choices) or int(np.prod(action_space.shape or ()))

    @property
    def first_choices(self) -> list[int]:
        """The environment's first number of each of the D choices of a MultiDiscrete or MultiBinary."""
        return (np.zeros(len(self.choices), dtype=np.int64) + self._start).tolist()

    @property
    def action_bounds(self) -> tuple[list[float], list[float]] | None:
        """Flat low and high in the environment's units; None for discrete actions."""
        return None if self.discrete else (self._low.ravel().tolist(), self._high.ravel().tolist())

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the agent's device; on the CPU it shares the array's memory."""
        tensor = torch.from_numpy(array)
        return tensor.to(self.device) if self._moves else tensor

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """[N, A] in [-1, 1], [N] or [N, D] int64 -> [N, *action_space.shape] in the environment's units and dtype."""
        if self.multi:
            return (action + self._start).astype(self.action_space.dtype).reshape(-1, *(self.action_space.shape or ()))
        if self.discrete:
            return action + self._start if self._start else action
        if not math.isfinite(action.sum()):
            raise Diverged("the policy gave an action that is not a number: it diverged, lower its learning rates")
        array = to_env(action.reshape(-1, *self._low.shape), self._low, self._high)
        # Rounding may put a saturated action one ulp outside the bounds, which strict environments refuse.
        return np.clip(array, self._low, self._high).astype(self._low.dtype, copy=False)

    def agent_action(self, action: Any) -> np.ndarray:
        """The inverse of `env_action`: [N, *action_space.shape] -> [N, A] float32, [N] or [N, D] int64."""
        if self.multi:
            return np.asarray(action, dtype=np.int64).reshape(-1, len(self.choices)) - self._start
        if self.discrete:
            return np.asarray(action, dtype=np.int64) - self._start
        array = to_agent(np.asarray(action, dtype=np.float64), self._low, self._high)
        return array.reshape(-1, self.action_size).astype(np.float32)

    def predict(self, policy: Callable[[np.ndarray], np.ndarray], obs: Any) -> np.ndarray:
        """Applies a policy of the agent's units to one observation or a batch of the environment's.

        Args:
            policy: [N, *obs_shape] -> [N, A] or [N].
            obs: [*observation_space.shape] or [N, *observation_space.shape], NumPy or lists; a dict of such for a Dict.

        Returns:
            [*action_space.shape] or [N, *action_space.shape] in the environment's units.

        Raises:
            UserError: obs has another shape.
        """
        single = self.obs.is_single(obs)
        action = self.env_action(policy(self.obs.stack([obs]) if single else self.obs(obs)))
        return action[0] if single else action


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
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = space.nvec.tolist(), space.start.tolist()
        return {"type": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": str(space.dtype)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[key, space_to_json(part)] for key, part in space.items()]}
    raise UserError(f"space {space} is not supported: it must be a Box, Discrete, MultiDiscrete, MultiBinary or Dict")


def space_from_json(spec: Any) -> Space[Any]:
    """The space that `space_to_json` described.

    Raises:
        UserError: it is no such description.
    """
    try:
        return _space(spec, DEPTH)
    except UNFIT as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{short(spec)} is no space: {reason[:100]}") from error


def flat_size(space: Space[Any]) -> int:
    """How many numbers a network reads of an observation, or gives for an action."""
    if isinstance(space, spaces.Dict):
        return sum(map(flat_size, space.values()))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return math.prod(space.shape or ())


def _space(spec: Any, depth: int) -> Space[Any]:
    """`space_from_json` of what is nested no deeper than `depth`. Raises what the reading of unfit data raises."""
    if depth == 0:
        raise ValueError("it is nested too deeply")
    kind = spec["type"]
    if kind == "Dict":  # its order is that of the agent's vector
        if any(not isinstance(key, str) for key, _ in spec["spaces"]):
            raise ValueError("a key of a Dict must be text")
        return spaces.Dict([(key, _space(part, depth - 1)) for key, part in spec["spaces"]])
    if kind == "Discrete":
        n = whole(spec["n"], "n", 1, MOST_NUMBERS)
        return spaces.Discrete(n, start=whole(spec["start"], "start", -LARGEST))
    if kind == "MultiDiscrete":
        nvec, start = (np.array(spec[key], dtype=np.int64) for key in ("nvec", "start"))
        if nvec.shape != start.shape or not nvec.size or nvec.min() < 1 or nvec.max() > MOST_NUMBERS:
            raise ValueError(f"nvec must be numbers from 1 to {MOST_NUMBERS:,}, each with a start")
        return spaces.MultiDiscrete(nvec, dtype=_dtype(spec["dtype"], np.integer).type, start=start)
    if kind not in ("Box", "MultiBinary"):
        allowed = "Box, Discrete, MultiDiscrete, MultiBinary or Dict"
        raise ValueError(f"space type {short(kind)} is unknown: it must be {allowed}")
    shape = tuple(whole(length, "a length of its shape", 0, MOST_NUMBERS) for length in spec["shape"])
    if len(shape) > MOST_AXES or math.prod(shape) > MOST_NUMBERS:
        raise ValueError(f"its shape has more than {MOST_AXES} axes or {MOST_NUMBERS:,} numbers")
    if kind == "MultiBinary":
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    dtype = _dtype(spec["dtype"], np.number)
    # Infinite bounds of an integer Box are not representable; gymnasium never holds any, so the cast is exact.
    low, high = (np.array(spec[key], dtype=np.float64).reshape(shape) for key in ("low", "high"))
    if not (low <= high).all():
        raise ValueError("a bound of it is not a number, or low is above high")
    if np.issubdtype(dtype, np.integer):
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        if low.size and not (low.min() >= least and high.max() <= most):
            raise ValueError(f"its bounds are outside of {dtype}")
        high = np.minimum(high, np.nextafter(float(most), 0)) if float(most) > most else high
    return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)


def _dtype(name: Any, kind: type[Any]) -> np.dtype[Any]:
    """A NumPy dtype of plain numbers. Raises ValueError."""
    if not isinstance(name, str) or not np.issubdtype(np.dtype(name), kind) or np.dtype(name).name != name:
        raise ValueError(f"dtype {short(name)} is none of numbers")
    return np.dtype(name)

"""Observations: from what the environment shows to one array of numbers for each.

Everything becomes float32, but bytes stay bytes: an image in a memory is then a quarter as large, and C and the actors
make float32 of the few rows that they see. The entries of a Dict are laid flat, one behind the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from rl.errors import UserError


class Observations:
    """Translates the observations of one environment.

    Args:
        space: Box of any shape (flat vectors, images), Discrete (seen as one-hot), MultiBinary, or a Dict of these.

    Attributes:
        shape: of one observation as the agent sees it.
        slices: where each entry of a Dict lies in the vector; {} of another space.

    Raises:
        UserError: a space that no agent here can be trained on.
    """

    def __init__(self, space: Space[Any]) -> None:
        self.space, self.slices = space, dict[str, slice]()
        if not isinstance(space, spaces.Dict):
            self.shape = _shape(space)
            return
        if not space.spaces:
            raise UserError(f"observation space {space} is not supported: it must have an entry")
        end = 0
        for key, part in space.items():
            start, end = end, end + int(np.prod(_shape(part, f"entry {key!r} of the ")))
            self.slices[key] = slice(start, end)
        self.shape = (end,)

    def __call__(self, obs: Any) -> np.ndarray:
        """A batch from the environment [N, ...] -> [N, *shape], float32 or uint8, that shares no memory with it."""
        if isinstance(self.space, spaces.Dict):
            parts = [_array(part, obs[key]) for key, part in self.space.items()]
            return np.concatenate([part.reshape(len(part), -1) for part in parts], 1, dtype=np.float32)
        return _array(self.space, obs)

    def stack(self, each: Sequence[Any]) -> np.ndarray:
        """Single observations from the environment, n of them -> [n, *shape]."""
        if isinstance(self.space, spaces.Dict):
            return self({key: np.stack([obs[key] for obs in each]) for key in self.space})
        return self(np.stack(each))

    def is_single(self, obs: Any) -> bool:
        """Whether it is one observation, not a batch.

        Raises:
            UserError: it is neither.
        """
        if not isinstance(self.space, spaces.Dict):
            return _is_single(self.space, obs, "obs")
        if not isinstance(obs, Mapping) or not obs.keys() >= self.space.keys():
            had = f"keys {', '.join(map(str, obs))}" if isinstance(obs, Mapping) else f"type {type(obs).__name__}"
            raise UserError(f"obs has {had}: it must be a dict with {', '.join(self.space)}")
        single = [_is_single(part, obs[key], f"obs[{key!r}]") for key, part in self.space.items()]
        rows = {len(obs[key]) for key in self.space} if not any(single) else {1}
        if len(set(single)) > 1 or len(rows) > 1:
            shapes = {key: np.shape(obs[key]) for key in self.space}
            raise UserError(f"obs has shapes {shapes}: all its entries must be single ones, or as many")
        return single[0]


def _array(space: Space[Any], obs: Any) -> np.ndarray:
    """[N, ...] -> [N, *shape], always a copy: an environment may overwrite its arrays at the next step."""
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[np.asarray(obs) - int(space.start)]
    stays = getattr(obs, "dtype", None) == np.uint8 and space.dtype == np.uint8
    return np.array(obs, dtype=np.uint8 if stays else np.float32).reshape(-1, *(space.shape or (1,)))


def _shape(space: Space[Any], what: str = "") -> tuple[int, ...]:
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.Box | spaces.MultiBinary) and int(np.prod(space.shape)) > 0:
        return tuple(int(n) for n in space.shape) or (1,)
    raise UserError(
        f"{what}observation space {space} is not supported: it must be a Box, Discrete or MultiBinary, or a Dict of "
        "these (gymnasium.wrappers.FlattenObservation turns most other spaces into a Box)"
    )


def _is_single(space: Space[Any], obs: Any, name: str) -> bool:
    array, shape = np.asarray(obs), space.shape or ()
    if array.shape not in (shape, (*array.shape[:1], *shape)) or array.size == 0:
        raise UserError(f"{name} has shape {array.shape}: it must be {shape} or [N, *{shape}]")
    return array.shape == shape

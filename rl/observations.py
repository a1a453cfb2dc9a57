"""Observations: from what the environment shows to one array of numbers for each.

Everything becomes float32, but bytes stay bytes: an image in a memory is then a quarter as large, and C and the actors
make float32 of the few rows that they see. The entries of a Dict are laid flat, one behind the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from costgrad.rl.errors import UserError


class Observations:
    """Translates the observations of one environment.

    Args:
        space: Box of any shape (flat vectors, images), Discrete (seen as one-hot), MultiBinary, or a Dict of these.
        name: of the observation, for people.

    Attributes:
        shape: of one observation as the agent sees it.
        slices: where each entry of a Dict lies in the vector; {} of another space.

    Raises:
        UserError: a space that no agent here can be trained on.
    """

    def __init__(self, space: Space[Any], name: str = "obs") -> None:
        self.space, self.name = space, name
        self.parts, self.slices = dict[str, Observations](), dict[str, slice]()
        self._bytes = isinstance(space, spaces.Box) and space.dtype == np.uint8
        self._first = int(space.start) if isinstance(space, spaces.Discrete) else None
        if isinstance(space, spaces.Dict) and space.spaces:
            end = 0
            for key, part in space.items():
                self.parts[key] = Observations(part, f"{name}[{key!r}]")
                start, end = end, end + int(np.prod(self.parts[key].shape))
                self.slices[key] = slice(start, end)
            self.shape: tuple[int, ...] = (end,)
        elif isinstance(space, spaces.Discrete):
            self.shape = (int(space.n),)
        elif isinstance(space, spaces.Box | spaces.MultiBinary) and int(np.prod(space.shape)) > 0:
            self.shape = tuple(int(n) for n in space.shape) or (1,)
        else:
            what = "observation space" if name == "obs" else f"space of {name}"
            raise UserError(
                f"{what} {space} is not supported: it must be a Box, Discrete or MultiBinary, or a Dict of these "
                "(of a VectorEnv, give single_observation_space; gymnasium.wrappers.FlattenObservation turns most "
                "others into a Box)"
            )

    def __call__(self, obs: Any) -> np.ndarray:
        """A batch from the environment [N, ...] -> [N, *shape], float32 or uint8, that shares no memory with it."""
        if self.parts:
            return _flat([part(obs[key]) for key, part in self.parts.items()])
        if self._first is not None:
            return np.eye(self.shape[0], dtype=np.float32)[np.asarray(obs) - self._first]
        stays = self._bytes and getattr(obs, "dtype", None) == np.uint8
        # A copy even where nothing changes: an environment may overwrite its arrays at the next step.
        return np.array(obs, dtype=np.uint8 if stays else np.float32).reshape(-1, *self.shape)

    def stack(self, each: Sequence[Any]) -> np.ndarray:
        """Single observations from the environment, n of them -> [n, *shape]."""
        if self.parts:
            return _flat([part.stack([obs[key] for obs in each]) for key, part in self.parts.items()])
        return self(np.stack(each))

    def check_rows(self, obs: Any, n: int) -> None:
        """Raises UserError where it is not a batch of n."""
        rows = self._rows(obs)
        if rows != n:
            had = "a single one" if rows is None else f"a batch of {rows}"
            hint = " (an agent is given single_observation_space and single_action_space)" if rows is None else ""
            raise UserError(f"{self.name} is {had}: it must be a batch of {n}, one for each environment{hint}")

    def is_single(self, obs: Any) -> bool:
        """Whether it is one observation, not a batch.

        Raises:
            UserError: it is neither.
        """
        return self._rows(obs) is None

    def _rows(self, obs: Any) -> int | None:
        """N of a batch, None of a single observation. Raises UserError."""
        if not self.parts:
            array, shape = np.asarray(obs), self.space.shape or ()
            if array.shape not in (shape, (*array.shape[:1], *shape)) or array.size == 0:
                raise UserError(f"{self.name} has shape {array.shape}: it must be {shape} or [N, *{shape}]")
            return None if array.shape == shape else len(array)
        if not isinstance(obs, Mapping) or not obs.keys() >= self.parts.keys():
            had = f"keys {', '.join(map(str, obs))}" if isinstance(obs, Mapping) else f"type {type(obs).__name__}"
            raise UserError(f"{self.name} has {had}: it must be a dict with {', '.join(self.parts)}")
        rows = {part._rows(obs[key]) for key, part in self.parts.items()}
        if len(rows) > 1:
            raise UserError(
                f"{self.name} has entries of different numbers of rows: all must be single, or batches of N"
            )
        return rows.pop()


def _flat(parts: list[np.ndarray]) -> np.ndarray:
    """[N, *shape] each -> [N, sum of their sizes] float32."""
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1, dtype=np.float32)

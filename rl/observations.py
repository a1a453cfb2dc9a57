"""Preprocessing of observations: each observation of an environment becomes one array.

Everything becomes float32, except that uint8 stays uint8: an image in a buffer then takes a quarter of the memory, and
C and the actors convert only the rows of a batch. The entries of a Dict are flattened and concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from torch import Tensor

from costgrad.rl.errors import UserError


class Observations:
    """Converts the observations of one environment to arrays.

    Args:
        space: Box of any shape (flat vectors, images), Discrete (becomes one-hot), MultiBinary, or a Dict of these.
        name: of the observation, in error messages.

    Attributes:
        shape: of one converted observation.
        slices: of each entry of a Dict within the flat vector; {} for other spaces.

    Raises:
        UserError: the space is not supported.
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
        """A batch from the environment [N, ...] -> a copy [N, *shape], float32 or uint8."""
        if self.parts:
            return _flat([part(obs[key]) for key, part in self.parts.items()])
        if self._first is not None:
            return np.eye(self.shape[0], dtype=np.float32)[np.asarray(obs) - self._first]
        keep_uint8 = self._bytes and getattr(obs, "dtype", None) == np.uint8
        # Always a copy: an environment may overwrite its arrays in the next step.
        return np.array(obs, dtype=np.uint8 if keep_uint8 else np.float32).reshape(-1, *self.shape)

    def stack(self, each: Sequence[Any]) -> np.ndarray:
        """Stacks n single observations from the environment: -> [n, *shape]."""
        if self.parts:
            return _flat([part.stack([obs[key] for obs in each]) for key, part in self.parts.items()])
        return self(np.stack(each))

    def split(self, x: Tensor) -> Any:
        """A batch as an encoder reads it: [B, *shape] as it is; of a Dict space [B, n] -> a dict of [B, ...]."""
        if not self.parts:
            return x
        x = x.flatten(1)
        return {key: part.split(x[:, self.slices[key]].reshape(-1, *part.shape)) for key, part in self.parts.items()}

    def check_rows(self, obs: Any, n: int) -> None:
        """Raises UserError unless `obs` is a batch of n."""
        rows = self._rows(obs)
        if rows != n:
            found = "a single one" if rows is None else f"a batch of {rows}"
            hint = " (an agent is given single_observation_space and single_action_space)" if rows is None else ""
            raise UserError(f"{self.name} is {found}: it must be a batch of {n}, one for each environment{hint}")

    def is_single(self, obs: Any) -> bool:
        """Whether `obs` is a single observation rather than a batch.

        Raises:
            UserError: neither of them.
        """
        return self._rows(obs) is None

    def _rows(self, obs: Any) -> int | None:
        """N of a batch, None for a single observation. Raises UserError."""
        if not self.parts:
            array, shape = np.asarray(obs), self.space.shape or ()
            if array.shape not in (shape, (*array.shape[:1], *shape)) or array.size == 0:
                raise UserError(f"{self.name} has shape {array.shape}: it must be {shape} or [N, *{shape}]")
            return None if array.shape == shape else len(array)
        if not isinstance(obs, Mapping) or not obs.keys() >= self.parts.keys():
            found = f"keys {', '.join(map(str, obs))}" if isinstance(obs, Mapping) else f"type {type(obs).__name__}"
            raise UserError(f"{self.name} has {found}: it must be a dict with {', '.join(self.parts)}")
        rows = {part._rows(obs[key]) for key, part in self.parts.items()}
        if len(rows) > 1:
            raise UserError(
                f"{self.name} has entries of different numbers of rows: all must be single, or batches of N"
            )
        return rows.pop()


def _flat(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenates flattened parts: [N, *shape] each -> [N, sum of their sizes] float32."""
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1, dtype=np.float32)

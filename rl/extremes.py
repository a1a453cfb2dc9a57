"""The largest reward and observation of a run: what to blame where learning diverges."""

from __future__ import annotations

import numpy as np

from costgrad.rl.errors import UserError

LARGEST = float(np.finfo(np.float32).max)
ABSURD = 1e10  # so large that it, rather than a learning rate, is why learning diverges


class Extremes:
    """Looks at the rewards and observations of each vector step, and refuses those that are not finite.

    The step costs one sum of each: rows are only looked at where a sum is larger than any before.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, int, int]] = {}  # value, environment and step of the largest, by kind
        self._reward = self._obs = 1e6  # sums below are no news

    def look(self, reward: np.ndarray, obs: np.ndarray, step: int) -> None:
        """Takes in one vector step.

        Args:
            reward: [N].
            obs: [N, *obs_shape].
            step: environment steps before it.

        Raises:
            UserError: one is NaN or infinite in float32; names the environment.
        """
        of_reward, of_obs = abs(float(reward.sum())), abs(float(obs.sum()))
        if of_reward < self._reward and of_obs < self._obs:  # False for NaN, too: a sum has it if an element does
            return
        for name, value in (("reward", reward), ("observation", obs)):
            rows = np.abs(value).reshape(len(value), -1).max(1, initial=0)
            bad = np.flatnonzero(~(rows <= LARGEST))
            if len(bad):
                i = int(bad[0])
                raise UserError(
                    f"environment {i} returned {name} {value[i]} after {step} steps: it must be finite, in float32"
                )
            i = int(rows.argmax())
            if rows[i] > abs(self.found.get(name, (0.0, 0, 0))[0]):
                row = value[i].reshape(-1)
                self.found[name] = float(row[np.abs(row).argmax()]), i, step
        self._reward = max(self._reward, min(2 * of_reward, LARGEST))
        self._obs = max(self._obs, min(2 * of_obs, LARGEST))

    @property
    def blamed(self) -> str:
        """The environment that returned an absurd number, for people; "" where none did."""
        for name, (value, i, step) in self.found.items():
            if abs(value) > ABSURD:
                return f"for environment {i} returned {name} {value:.4g} at step {step:,}"
        return ""

"""Environments that restart from a saved state, and a policy that acts in them with given noise."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from torch import Tensor

from costgrad.rl.data import Step, cost_of, to_numpy
from costgrad.rl.diagnostics.estimand import Estimand
from costgrad.rl.returns import lambda_return
from costgrad.rl.spaces import Codec


class Snapshot(NamedTuple):
    """A saved state to restart from."""

    state: Any  # of the environment
    raw_obs: Any  # its observation
    obs: np.ndarray  # [N, *obs_shape] the observation as the agent gets it
    action: Tensor  # [N, ...] the policy's action


class Rewind(VectorWrapper):
    """An environment whose `reset` restores `snapshot` if one is set, and reseeds its noise."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.snapshot: Snapshot | None = None
        self.raw_obs: Any = None

    def can_rewind(self) -> bool:
        """Whether its state can be saved and restored."""
        return self._ask("get_state") is not None and self._ask("set_state") is not None

    def stop_clock(self) -> int | None:
        """Removes the time limit, and returns it; None if the environment cannot."""
        stop = self._ask("stop_clock")
        return None if stop is None else stop()

    def save(self, obs: np.ndarray, action: Tensor) -> Snapshot:
        """Saves the current state with its observation and action."""
        env: Any = self.env
        return Snapshot(env.get_state(), deepcopy(self.raw_obs), obs.copy(), action)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Restores `snapshot`; without one, or with options, resets the environment as usual."""
        if self.snapshot is None or options:
            self.raw_obs, info = self.env.reset(seed=seed, options=options)
            return self.raw_obs, info
        env: Any = self.env
        env.set_state(self.snapshot.state)
        if (reseed := self._ask("reseed")) is not None:
            reseed(seed)
        self.raw_obs = deepcopy(self.snapshot.raw_obs)
        return self.raw_obs, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        self.raw_obs, *rest = self.env.step(actions)
        return self.raw_obs, *rest

    def _ask(self, name: str) -> Callable[..., Any] | None:
        return getattr(self.env, name, None)


class RolloutPolicy:
    """The agent's policy in an environment, with given noise; it does not learn, and records costs.

    Args:
        codec: the agent's.
        estimand: of the agent's C.
        env: the environment it acts in.
        noise: [T, N, ...] of the policy.
        generator: for the actions that bootstrap at a time limit.
        first: [N, ...] the first action, instead of the policy's.
        predict: number of first steps at which C predicts and costs-to-go are measured; 0 measures the first only.
        save_at: steps whose state is saved.
    """

    def __init__(
        self,
        codec: Codec,
        estimand: Estimand,
        env: Rewind,
        noise: Tensor,
        generator: torch.Generator,
        first: Tensor | None = None,
        predict: int = 0,
        save_at: set[int] | None = None,
    ) -> None:
        self.codec, self.estimand, self.env, self.noise, self.generator = codec, estimand, env, noise, generator
        self.first, self.predict, self.save_at = first, predict, save_at or set()
        shape = noise.shape[:2]
        self.cost, self.discount, self.bonus, self.predicted, self.bootstrap = (np.zeros(shape) for _ in range(5))
        self.done, self.truncated, self.valid = (np.zeros(shape, dtype=bool) for _ in range(3))
        self.snapshots: dict[int, Snapshot] = {}
        self.t = 0
        self.finished = False  # every measured episode has ended
        self._ended = np.zeros(shape[1], dtype=bool)

    def on_reset(self) -> None:
        """Nothing to drop: there is no per-episode state."""

    @torch.no_grad()
    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """The policy's action with this step's noise, or the given first action."""
        t = self.t
        x = self.estimand.critic.features(self.codec.tensor(obs))
        action, entropy = self.estimand.policy(x, self.noise[t])
        if entropy is not None:
            self.bonus[t] = self.estimand.alpha * to_numpy(entropy)
        if t == 0 and self.first is not None:
            action = self.first
        if t in self.save_at:
            self.snapshots[t] = self.env.save(obs, action)
        if t < self.predict:
            self.predicted[t] = to_numpy(self.estimand.taken(x, action))
        return to_numpy(action)

    def observe(self, step: Step) -> None:
        """Records the costs, and the bootstrapped value of truncated states."""
        t = self.t
        self.cost[t], self.valid[t] = cost_of(step.reward), step.valid
        self.discount[t] = self.estimand.gamma * ~step.terminated
        self.truncated[t] = step.truncated & ~step.terminated
        self.done[t] = step.terminated | step.truncated
        if self.predict and self.truncated[t].any():
            self.bootstrap[t] = self._value(step.next_obs)
        if t >= self.predict - 1:
            self._ended |= self.done[t]
            self.finished = bool(self._ended.all())
        self.t += 1

    def update(self) -> dict[str, Tensor]:
        """Does nothing."""
        return {}

    def returns(self) -> tuple[np.ndarray, np.ndarray]:
        """Discounted cost-to-go [T, N], and the discount of what was truncated or bootstrapped from C [T, N]."""
        t = self.t
        cost, discount, done = self.cost[:t], self.discount[:t], self.done[:t]
        cut = self.truncated[:t].copy()
        cut[-1] |= ~done[-1]
        left = lambda_return(np.zeros_like(cost), discount, cut.astype(float), done, 1.0)
        return lambda_return(cost, discount, self.bootstrap[:t], done, 1.0) - self._entropy_bonus(), left

    def _entropy_bonus(self) -> np.ndarray:
        """The discounted entropy bonus in C from each step on [T, N]: of every n-th state for n-step transitions."""
        t, n = self.t, self.estimand.n_step
        if not self.estimand.alpha:
            return np.zeros_like(self.bonus[:t])
        carry, total = np.where(self.done[:t], 0.0, self.discount[:t]), np.zeros_like(self.bonus[:t])
        for i in reversed(range(t - n)):
            total[i] = carry[i : i + n].prod(0) * (self.bonus[i + n] + total[i + n])
        return total

    @torch.no_grad()
    def _value(self, obs: np.ndarray) -> np.ndarray:
        """C of an action of the policy, minus the entropy bonus: [N, *obs_shape] -> [N]."""
        x = self.estimand.critic.features(self.codec.tensor(obs))
        action, entropy = self.estimand.policy(x, self.estimand.noise(len(x), generator=self.generator))
        cost = self.estimand.taken(x, action)
        return to_numpy(cost if entropy is None else cost - self.estimand.alpha * entropy)

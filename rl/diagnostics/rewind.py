"""Environments that are set back to a saved state, and a policy that acts in them on noise that is given."""

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


class Mark(NamedTuple):
    """A place to come back to."""

    state: Any  # of the environment
    seen: Any  # its observation of it
    obs: np.ndarray  # [N, *obs_shape] as the agent sees it
    action: Tensor  # [N, ...] what the policy did there


class Rewind(VectorWrapper):
    """An environment whose `reset` goes back to `mark`, where one is set, and on from there with other noise."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.mark: Mark | None = None
        self.seen: Any = None

    def can_rewind(self) -> bool:
        """Whether its state can be saved and set."""
        return self._ask("get_state") is not None and self._ask("set_state") is not None

    def stop_clock(self) -> int | None:
        """The environment's, where it has one."""
        stop = self._ask("stop_clock")
        return None if stop is None else stop()

    def save(self, obs: np.ndarray, action: Tensor) -> Mark:
        """The present state, beside what the agent sees of it and does there."""
        env: Any = self.env
        return Mark(env.get_state(), deepcopy(self.seen), obs.copy(), action)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """To `mark`; without one, or with options, as the environment does."""
        if self.mark is None or options:
            self.seen, info = self.env.reset(seed=seed, options=options)
            return self.seen, info
        env: Any = self.env
        env.set_state(self.mark.state)
        if (reseed := self._ask("reseed")) is not None:
            reseed(seed)
        self.seen = deepcopy(self.mark.seen)
        return self.seen, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        self.seen, *rest = self.env.step(actions)
        return self.seen, *rest

    def _ask(self, name: str) -> Callable[..., Any] | None:
        return getattr(self.env, name, None)


class Player:
    """The agent's policy in an environment, with noise that is given; it learns nothing and keeps what things cost.

    Args:
        codec: the agent's.
        estimand: of the agent's C.
        env: that it acts in.
        noise: [T, N, ...] of the policy.
        generator: for the actions past a clock.
        first: [N, ...] the first action, instead of the policy's.
        asked: steps at which C is asked too, and whose costs-to-go count; where there are none, that of the first does.
        marks: steps whose state is saved.
    """

    def __init__(
        self,
        codec: Codec,
        estimand: Estimand,
        env: Rewind,
        noise: Tensor,
        generator: torch.Generator,
        first: Tensor | None = None,
        asked: int = 0,
        marks: set[int] | None = None,
    ) -> None:
        self.codec, self.estimand, self.env, self.noise, self.generator = codec, estimand, env, noise, generator
        self.first, self.asked, self.wanted = first, asked, marks or set()
        shape = noise.shape[:2]
        self.cost, self.discount, self.worth, self.said, self.tail = (np.zeros(shape) for _ in range(5))
        self.done, self.truncated, self.valid = (np.zeros(shape, dtype=bool) for _ in range(3))
        self.marks: dict[int, Mark] = {}
        self.t = 0
        self.over = False  # every episode that counts has ended
        self._ended = np.zeros(shape[1], dtype=bool)

    def on_reset(self) -> None:
        """Nothing is held of episodes before."""

    @torch.no_grad()
    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """The policy's action for the noise of this step, or the first action that was given."""
        t = self.t
        x = self.estimand.critic.features(self.codec.tensor(obs))
        action, entropy = self.estimand.policy(x, self.noise[t])
        if entropy is not None:
            self.worth[t] = self.estimand.alpha * to_numpy(entropy)
        if t == 0 and self.first is not None:
            action = self.first
        if t in self.wanted:
            self.marks[t] = self.env.save(obs, action)
        if t < self.asked:
            self.said[t] = to_numpy(self.estimand.taken(x, action))
        return to_numpy(action)

    def observe(self, step: Step) -> None:
        """Keeps the costs, and what C says of states that a clock cut off."""
        t = self.t
        self.cost[t], self.valid[t] = cost_of(step.reward), step.valid
        self.discount[t] = self.estimand.gamma * ~step.terminated
        self.truncated[t] = step.truncated & ~step.terminated
        self.done[t] = step.terminated | step.truncated
        if self.asked and self.truncated[t].any():
            self.tail[t] = self._value(step.next_obs)
        if t >= self.asked - 1:
            self._ended |= self.done[t]
            self.over = bool(self._ended.all())
        self.t += 1

    def update(self) -> dict[str, Tensor]:
        """Learns nothing."""
        return {}

    def returns(self) -> tuple[np.ndarray, np.ndarray]:
        """Discounted cost-to-go [T, N] of what was done, and the discount of what it lacks or has C's word for."""
        t = self.t
        cost, discount, done = self.cost[:t], self.discount[:t], self.done[:t]
        cut = self.truncated[:t].copy()
        cut[-1] |= ~done[-1]
        left = lambda_return(np.zeros_like(cost), discount, cut.astype(float), done, 1.0)
        return lambda_return(cost, discount, self.tail[:t], done, 1.0) - self._entropy(), left

    def _entropy(self) -> np.ndarray:
        """What entropy is worth that C counts from each step on [T, N]: of each n-th state, n steps being folded."""
        t, n = self.t, self.estimand.n_step
        if not self.estimand.alpha:
            return np.zeros_like(self.worth[:t])
        goes_on, worth = np.where(self.done[:t], 0.0, self.discount[:t]), np.zeros_like(self.worth[:t])
        for i in reversed(range(t - n)):
            worth[i] = goes_on[i : i + n].prod(0) * (self.worth[i + n] + worth[i + n])
        return worth

    @torch.no_grad()
    def _value(self, obs: np.ndarray) -> np.ndarray:
        """C of an action of the policy, less what its entropy is worth: [N, *obs_shape] -> [N]."""
        x = self.estimand.critic.features(self.codec.tensor(obs))
        action, entropy = self.estimand.policy(x, self.estimand.noise(len(x), generator=self.generator))
        cost = self.estimand.taken(x, action)
        return to_numpy(cost if entropy is None else cost - self.estimand.alpha * entropy)

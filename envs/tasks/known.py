"""Tasks with optima in closed form, on which the result of learning can be verified.

`register` registers them with gymnasium; importing this module calls it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from costgrad.envs.errors import EnvError
from costgrad.envs.tasks.batched import Array, BatchedTask, TaskVectorEnv, Transition
from costgrad.envs.tasks.black_box import BlackBoxEnv
from costgrad.envs.tasks.goals import BitFlip, PointGoal
from costgrad.envs.tasks.lqr import LQR
from costgrad.envs.tasks.staircase import quantised, staircase

__all__ = ["LQR", "BitFlip", "Chain", "ConstantCost", "OneStepQuadratic", "PointGoal", "register"]


class ConstantCost(BatchedTask):
    """The reward is always r. Tests the value, and the handling of termination and truncation.

    After each step the episode terminates with probability p, and after T steps the time limit truncates it: both flags
    can be set in one step. obs ~ U[-1, 1]^2, independent in each step, is uninformative.

        value = r (1 + gamma (1 - p) + ...) = r / (1 - gamma (1 - p)),   the same with and without truncation.
    """

    def __init__(
        self, reward: float = 1.0, horizon: int | None = 100, terminate: float = 0.0, discrete: bool = True
    ) -> None:
        """r, T (None: no time limit), p in [0, 1], and two discrete actions or one in [-1, 1]. Raises EnvError."""
        if not 0 <= terminate <= 1:
            raise EnvError(f"ConstantCost has terminate={terminate}: it must be a probability in [0, 1]")
        self.reward, self.horizon, self.terminate = reward, horizon, terminate
        self.observation_space = Box(-1.0, 1.0, (2,))
        self.action_space = Discrete(2) if discrete else Box(-1.0, 1.0, (1,))

    def initial(self, rng: np.random.Generator, n: int) -> Array:
        """[n, 2]."""
        return rng.uniform(-1.0, 1.0, (n, 2))

    def observe(self, state: Array) -> Array:
        """[n, 2] float32."""
        return state.astype(np.float32)

    def transition(self, state: Array, action: Array, rng: np.random.Generator) -> Transition:
        """The action has no effect."""
        n = len(state)
        return rng.uniform(-1.0, 1.0, (n, 2)), np.full(n, float(self.reward)), rng.random(n) < self.terminate

    def value(self, gamma: float) -> float:
        """Returns r / (1 - gamma (1 - p)), the discounted return from any obs. Truncation does not change it."""
        return self.reward / (1 - gamma * (1 - self.terminate))

    def optimal_return(self) -> float:
        """Returns r (1 + (1 - p) + ... + (1 - p)^(T - 1)), the expected undiscounted return of an episode."""
        if self.horizon is None:
            return self.value(1.0) if self.terminate else self.reward * float("inf")
        return self.reward * float(np.sum((1 - self.terminate) ** np.arange(self.horizon)))


class Chain(BatchedTask):
    """n states in a row; action 1 goes right, action 0 left (no move at the left end). Every step costs 1.

    An episode starts at the left end, terminates at the right end, and is truncated after T steps. obs is one-hot [n].

        optimal value of state i = -(1 + gamma + ... + gamma^(n - 2 - i)),   optimal return = -(n - 1).
    """

    def __init__(self, n: int = 8, horizon: int | None = None) -> None:
        """Takes n >= 2 states; T is 8 n unless given. Raises EnvError."""
        if n < 2:
            raise EnvError(f"Chain has n={n}: it must have at least 2 states")
        self.n, self.horizon = n, 8 * n if horizon is None else horizon
        self.observation_space = Box(0.0, 1.0, (n,))
        self.action_space = Discrete(2)

    def initial(self, rng: np.random.Generator, n: int) -> Array:
        """The left end: zeros [n]."""
        return np.zeros(n, dtype=np.int64)

    def observe(self, state: Array) -> Array:
        """[n, self.n] float32, one-hot."""
        return np.eye(self.n, dtype=np.float32)[state]

    def transition(self, state: Array, action: Array, rng: np.random.Generator) -> Transition:
        """Takes state [n], action [n] of 0 and 1."""
        next_state = np.clip(state + 2 * action - 1, 0, self.n - 1)
        return next_state, np.full(len(state), -1.0), next_state == self.n - 1

    def action_values(self, probs: Array, gamma: float) -> Array:
        """The discounted return of each action in each state under a policy, without a time limit; 0 at the right end.

        Solves Bellman's equation: v = (I - gamma P)^-1 r over the non-terminal states (Sutton & Barto 2018, 3.14).

        Args:
            probs: [n, 2] of going left and right in each state.
            gamma: below 1, unless the policy reaches the right end.
        Returns:
            [n, 2].
        """
        states = np.arange(self.n)
        following = np.stack([np.clip(states - 1, 0, self.n - 1), np.clip(states + 1, 0, self.n - 1)], 1)  # [n, 2]
        moves = np.zeros((self.n, self.n))
        for action in range(2):
            np.add.at(moves, (states[:-1], following[:-1, action]), probs[:-1, action])
        value = np.zeros(self.n)
        inner = np.eye(self.n - 1) - gamma * moves[:-1, :-1]
        value[:-1] = np.linalg.solve(inner, -np.ones(self.n - 1))
        values = -1.0 + gamma * value[following]
        values[-1] = 0.0
        return values

    def optimal_value(self, gamma: float) -> Array:
        """The discounted return of always going right from each state, [n]; 0 at the right end."""
        discounted = np.cumsum(gamma ** np.arange(self.n - 1))[::-1]
        return np.append(-discounted, 0.0)

    def optimal_return(self) -> float:
        """-(n - 1), or -T if the time limit is shorter."""
        return -float(min(self.n - 1, self.horizon or self.n - 1))


class OneStepQuadratic(BatchedTask):
    """One action in one context: s ~ U[-1, 1]^d, a in [-1, 3]^d.

        reward = -(|a - a*(s)|^2 + floor),   a*(s)_i = 1 + s_i + s_{i+1} / 2   (indices modulo d).

    a* lies in [-0.5, 2.5], inside the bounds. The optimal return is -floor; ignoring the context (a = 1 for every
    s) costs d (1 + 1/4) / 3 more, or 3/4 if d is 1.
    """

    def __init__(self, size: int = 2, floor: float = 1.0) -> None:
        """Takes d >= 1, of context and action; the cost at the optimum. Raises EnvError."""
        if size < 1:
            raise EnvError(f"OneStepQuadratic has size={size}: it must be at least 1")
        self.size, self.floor = size, floor
        self.matrix = np.eye(size) + 0.5 * np.roll(np.eye(size), 1, axis=1)
        self.observation_space = Box(-1.0, 1.0, (size,))
        self.action_space = Box(-1.0, 3.0, (size,))

    def initial(self, rng: np.random.Generator, n: int) -> Array:
        """Contexts [n, d]."""
        return rng.uniform(-1.0, 1.0, (n, self.size))

    def observe(self, state: Array) -> Array:
        """[n, d] float32."""
        return state.astype(np.float32)

    def transition(self, state: Array, action: Array, rng: np.random.Generator) -> Transition:
        """Takes state [n, d], action [n, d]; every row terminates."""
        error = np.clip(action, -1.0, 3.0) - self.optimal_action(state)
        return state, -(np.square(error).sum(1) + self.floor), np.ones(len(state), dtype=np.bool_)

    def optimal_action(self, context: Array) -> Array:
        """a*(s): [n, d] -> [n, d]."""
        return 1.0 + context @ self.matrix.T

    def cost_gradient(self, context: Array, action: Array) -> Array:
        """D cost / d action = 2 (a - a*(s)), for actions within bounds: [n, d], [n, d] -> [n, d]."""
        return 2.0 * (action - self.optimal_action(context))

    def optimal_return(self) -> float:
        """-floor."""
        return -self.floor


def register() -> None:
    """Registers the tasks as `costgrad/{name}-v0` with gymnasium, each with its batched form. Can be repeated."""
    black_boxes = {"Staircase": staircase, "Quantised": quantised}
    tasks: dict[str, Any] = {
        cls.__name__: cls for cls in (ConstantCost, Chain, OneStepQuadratic, LQR, BitFlip, PointGoal)
    }
    makers: dict[str, Any] = tasks | {name: partial(BlackBoxEnv, cost_fn) for name, cost_fn in black_boxes.items()}
    for name, maker in makers.items():
        env_id = f"costgrad/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=maker, vector_entry_point=partial(TaskVectorEnv, maker))


register()

"""Goal-conditioned tasks, and access to the reward function of goal-conditioned environments.

The interface is that of gymnasium-robotics: observations are a Dict of `observation`, `achieved_goal` and
`desired_goal`, and `compute_reward(achieved_goal, desired_goal, info)` takes any goals, single or batched.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from costgrad.envs.errors import EnvError
from costgrad.envs.tasks.batched import Array, BatchedTask, Transition

FUNCTIONS = ("compute_reward", "compute_terminated")


class GoalTask(BatchedTask):
    """A position of G numbers that must reach a goal: state [n, 2 G] holds both.

    Every step costs 1, except steps that end at the goal. A task defines `move`, `reached` and `initial`.
    """

    terminates = False  # whether the task ends at the goal

    def __init__(self, low: float, high: float, size: int) -> None:
        box = Box(low, high, (size,))
        self.observation_space = Dict({"observation": box, "achieved_goal": box, "desired_goal": box})

    @abstractmethod
    def move(self, position: Array, action: Array) -> Array:
        """The next position: [n, G], [n, A] or [n] -> [n, G]."""

    @abstractmethod
    def reached(self, achieved: Array, desired: Array) -> Array:
        """Whether a position is at the goal: [..., G], [..., G] -> [...] bool."""

    def observe(self, state: Array) -> dict[str, Array]:
        """[n, G] float32 each."""
        position, goal = np.split(state.astype(np.float32), 2, axis=1)
        return {"observation": position, "achieved_goal": position.copy(), "desired_goal": goal}

    def transition(self, state: Array, action: Array, rng: np.random.Generator) -> Transition:
        """Takes state [n, 2 G]; the goal does not change."""
        position, goal = np.split(state, 2, axis=1)
        position = self.move(position, action)
        ended = self.compute_terminated(position, goal, {})
        return np.concatenate((position, goal), 1), self.compute_reward(position, goal, {}), ended

    def compute_reward(self, achieved_goal: Array, desired_goal: Array, info: dict[str, Any]) -> Array:
        """0 at the goal, else -1: [..., G], [..., G] -> [...]."""
        return np.where(self.reached(achieved_goal, desired_goal), 0.0, -1.0)

    def compute_terminated(self, achieved_goal: Array, desired_goal: Array, info: dict[str, Any]) -> Array:
        """[..., G], [..., G] -> [...] bool."""
        return self.reached(achieved_goal, desired_goal) & self.terminates


class BitFlip(GoalTask):
    """n bits; an action flips one of them, until they equal the goal (Andrychowicz et al. 2017, section 3.1).

    Initial bits and goal are uniform, and never equal. The time limit truncates after n steps.
    With D ~ Binomial(n, 1/2) bits to flip,

        optimal return = -(E[D | D > 0] - 1) = 1 - n / (2 - 2^(1 - n)).
    """

    terminates = True

    def __init__(self, n: int = 15) -> None:
        """Takes n >= 2 bits. Raises EnvError."""
        if n < 2:
            raise EnvError(f"BitFlip has n={n}: it must have at least 2 bits")
        super().__init__(0.0, 1.0, n)
        self.n = self.horizon = n
        self.action_space = Discrete(n)

    def initial(self, rng: np.random.Generator, n: int) -> Array:
        """Bits and goals [n, 2 self.n]."""
        bits = rng.integers(0, 2, (n, self.n))
        goal = rng.integers(0, 2, (n, self.n))
        while (same := (bits == goal).all(1)).any():
            goal[same] = rng.integers(0, 2, (int(same.sum()), self.n))
        return np.concatenate((bits, goal), 1)

    def move(self, position: Array, action: Array) -> Array:
        """Flips bit `action` [n]."""
        return position ^ np.eye(self.n, dtype=position.dtype)[action]

    def reached(self, achieved: Array, desired: Array) -> Array:
        """Whether all bits are equal."""
        return (achieved == desired).all(-1)

    def optimal_return(self) -> float:
        """1 - n / (2 - 2^(1 - n))."""
        return 1.0 - self.n / (2.0 - 2.0 ** (1 - self.n))


class PointGoal(GoalTask):
    """A point in [-1, 1]^d moves up to 0.1 per dimension and step, and must be within a radius of its goal.

    Start and goal ~ U[-1, 1]^d. The episode continues at the goal, until the time limit truncates it after T steps.
    """

    STEP = 0.1
    horizon: int

    def __init__(self, size: int = 3, radius: float = 0.1, horizon: int = 40) -> None:
        """Takes d >= 1, a radius above 0, T. Raises EnvError."""
        if size < 1 or radius <= 0:
            raise EnvError(f"PointGoal has size={size} and radius={radius}: they must be at least 1, and more than 0")
        super().__init__(-1.0, 1.0, size)
        self.size, self.radius, self.horizon = size, radius, horizon
        self.action_space = Box(-1.0, 1.0, (size,))

    def initial(self, rng: np.random.Generator, n: int) -> Array:
        """Points and goals [n, 2 d]."""
        return rng.uniform(-1.0, 1.0, (n, 2 * self.size))

    def move(self, position: Array, action: Array) -> Array:
        """Takes action [n, d]; actions and points are clipped to their bounds."""
        return np.clip(position + self.STEP * np.clip(action, -1.0, 1.0), -1.0, 1.0)

    def reached(self, achieved: Array, desired: Array) -> Array:
        """Whether the Euclidean distance is at most the radius."""
        return np.linalg.norm(achieved - desired, axis=-1) <= self.radius

    def optimal_return(self, state: Array) -> Array:
        """The optimal return from state [n, 2 d], [n]: minus the number of steps that do not end at the goal.

        In k steps every point within 0.1 k of the start in each dimension can be reached.
        """
        start, goal = np.split(state, 2, axis=1)
        steps = np.arange(1, self.horizon + 1)[:, None, None]
        left = np.maximum(np.abs(goal - start) - self.STEP * steps, 0.0)  # [T, n, d]
        return -(np.linalg.norm(left, axis=-1) > self.radius).sum(0).astype(np.float64)


def goal_function(
    env: VectorEnv, name: str, single: Callable[[], gymnasium.Env | None]
) -> Callable[[Array, Array, dict[str, Any]], Any]:
    """`compute_reward` or `compute_terminated` of goal-conditioned environments.

    Args:
        env: the vector environment.
        name: of the function.
        single: makes a single environment, for `env` with subprocesses.

    Raises:
        AttributeError: there is no such function.
    """
    inner = env.unwrapped
    for owner in (inner, getattr(inner, "task", None)):
        if hasattr(owner, name):
            return getattr(owner, name)
    one = single() if isinstance(inner, AsyncVectorEnv) else (getattr(inner, "envs", None) or [None])[0]
    if one is None:
        raise AttributeError(f"{type(inner).__name__} has no {name}")
    return one.get_wrapper_attr(name)

"""Goals of goal-conditioned environments: their slices in an observation, and the costs of relabelled goals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from costgrad.rl.data import Array, Step, cost_of
from costgrad.rl.errors import UserError
from costgrad.rl.spaces import Codec

KEYS = ("achieved_goal", "desired_goal")
GoalFunction = Callable[[Array, Array, dict[str, Any]], Any]  # gymnasium-robotics' (achieved, desired, info)


class Goals:
    """The goals of one environment.

    Args:
        codec: of an observation space with goals of equal shape: a Dict with "achieved_goal" and "desired_goal".

    Attributes:
        achieved: slice of the achieved goal in the agent's observation.
        desired: slice of the desired goal.

    Raises:
        UserError: the space has no goals.
    """

    def __init__(self, codec: Codec) -> None:
        space = codec.observation_space
        if not isinstance(space, spaces.Dict) or not all(key in space.spaces for key in KEYS):
            raise UserError(
                f"hindsight needs goals: observation space {space} must be a Dict with {' and '.join(KEYS)}"
            )
        kinds = [space[key] for key in KEYS]
        if (
            not all(isinstance(kind, spaces.Box | spaces.MultiBinary) for kind in kinds)
            or kinds[0].shape != kinds[1].shape
        ):
            raise UserError(
                f"hindsight needs goals of one kind: {KEYS[0]} is {kinds[0]} and {KEYS[1]} is {kinds[1]}, they must be "
                "two Boxes or MultiBinaries of the same shape"
            )
        self.achieved, self.desired = (codec.obs.slices[key] for key in KEYS)
        self._space = kinds[1]
        self._functions: tuple[GoalFunction, GoalFunction | None] | None = None
        self._checked = False

    def ask(self, env: Any) -> None:
        """Gets the environment's `compute_reward`, and its `compute_terminated` if it has one.

        Without the latter a relabelled row keeps its `terminated`.

        Raises:
            UserError: there is no `compute_reward`.
        """
        reward = getattr(env, "compute_reward", None)
        if reward is None:
            name = getattr(env, "name", type(env).__name__)
            raise UserError(
                f"hindsight needs compute_reward(achieved_goal, desired_goal, info) of the environment: {name} has none"
            )
        self._functions, self._checked = (reward, getattr(env, "compute_terminated", None)), False

    def judge(self, achieved: Array, desired: Array, ended: Array) -> tuple[Array, Array]:
        """Cost and termination of a step under other goals.

        Args:
            achieved: [M, G] after the step.
            desired: [M, G].
            ended: [M] the recorded `terminated`, kept without `compute_terminated`.

        Returns:
            cost [M] float32, and terminated [M] bool.

        Raises:
            UserError: the environment's functions fail, or return a wrong shape or a number that is not finite.
        """
        if self._functions is None:
            raise UserError("hindsight has no compute_reward: train by costgrad.train, or call ask(env)")
        count, (reward, terminated) = len(achieved), self._functions
        goals = [goal.reshape(-1, *(self._space.shape or ())).astype(self._space.dtype) for goal in (achieved, desired)]
        rewards = _call("compute_reward", reward, *goals)
        if rewards.shape != (count,):
            raise UserError(
                f"compute_reward gave shape {rewards.shape} for {count} goals at once: it must be ({count},)"
            )
        rewards = rewards.astype(np.float32)
        if not np.isfinite(rewards).all():
            i = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise UserError(
                f"compute_reward gave {rewards[i]} for achieved_goal {goals[0][i].tolist()} and desired_goal "
                f"{goals[1][i].tolist()}: it must be finite"
            )
        if terminated is not None:
            ended = _call("compute_terminated", terminated, *goals)
            if not ended.shape:  # it takes one goal at a time, as in gymnasium-robotics
                ended = np.array([_call("compute_terminated", terminated, *pair) for pair in zip(*goals, strict=True)])
            if ended.shape != (count,):
                raise UserError(
                    f"compute_terminated gave shape {ended.shape} for {count} goals: it must be ({count},) or ()"
                )
        return cost_of(rewards), ended.astype(bool)

    def check(self, step: Step) -> None:
        """Checks once that rewards equal those of `compute_reward`, so that they depend on the goal alone.

        Raises:
            UserError: they differ.
        """
        if self._functions is None or self._checked:
            return
        cost, _ = self.judge(step.next_obs[:, self.achieved], step.next_obs[:, self.desired], step.terminated)
        given = cost_of(step.reward)
        differs = step.valid & ~np.isclose(cost, given, rtol=1e-3, atol=1e-4)
        if differs.any():
            i = int(np.flatnonzero(differs)[0])
            raise UserError(
                f"compute_reward gave {cost_of(cost)[i]:g} where the environment gave reward {step.reward[i]:g}: for "
                "hindsight they must be equal"
            )
        self._checked = bool(step.valid.any())


def _call(name: str, function: GoalFunction, achieved: Array, desired: Array) -> Array:
    """Calls the user's function. Raises UserError if it fails."""
    try:
        return np.asarray(function(achieved, desired, {}))
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{name} failed on goals of shape {achieved.shape}: {text}") from error

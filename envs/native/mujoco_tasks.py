"""Gymnasium's ten MuJoCo v5 tasks for N rows: observations, rewards and terminations.

The formulas have gymnasium's operations in the same order and dtypes (control costs are float32 if the actions are), so
that the results are bit-equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from costgrad.envs.native.base import Array
from costgrad.envs.native.mujoco_batch import ALL, MujocoVectorEnv, Outcome, lengths

_GYMNASIUM = "gymnasium.envs.mujoco."


class _Runner(MujocoVectorEnv):
    """Rewards velocity along x and optionally health; costs of control and optionally of contacts."""

    axes = 1  # of the position: x, or x and y

    @property
    def _excluded(self) -> int:
        """Number of first entries of qpos, the position, that are not in obs."""
        return self.axes if self.settings.exclude_current_positions_from_observation else 0

    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        return self.qpos[rows, self._excluded :], self.qvel[rows]

    def _position(self) -> Array:
        """[N, axes]."""
        return self.qpos[:, : self.axes]

    def _position_info(self, rows: Array | slice) -> dict[str, Array]:
        """The entries of info on the position, after a step and after a reset."""
        if self.axes == 1:
            return {"x_position": self.qpos[rows, 0].copy()}
        x, y = self.qpos[rows, 0].copy(), self.qpos[rows, 1].copy()
        return {"x_position": x, "y_position": y, "distance_from_origin": lengths(self.qpos[rows, :2])}

    def _healthy(self) -> Array | None:
        """[N] bool; None for tasks without health."""
        return None

    def _control_cost(self, actions: Array) -> Array:
        """[N], of the actions' dtype."""
        cost: Array = self.settings.ctrl_cost_weight * np.square(actions).sum(1)
        return cost

    def _contact_cost(self) -> Array | None:
        """[N]; None for tasks without contact costs."""
        return None

    def _outcome(self, actions: Array, before: Array) -> Outcome:
        velocity = (self._position() - before) / self.dt
        info = self._position_info(ALL)
        info |= {f"{axis}_velocity": velocity[:, k].copy() for k, axis in enumerate("xy"[: self.axes])}
        reward = info["reward_forward"] = self.settings.forward_reward_weight * info["x_velocity"]
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        if (healthy := self._healthy()) is not None:
            info["reward_survive"] = healthy * self.settings.healthy_reward
            reward = reward + info["reward_survive"]
            terminated = ~healthy & bool(self.settings.terminate_when_unhealthy)
        cost = self._control_cost(actions)
        info["reward_ctrl"] = -cost
        if (contact := self._contact_cost()) is not None:
            info["reward_contact"] = -contact
            cost = cost + contact
        return reward - cost, terminated, info

    def _reset_info(self, rows: Array) -> dict[str, Array]:
        return self._position_info(rows)


class HalfCheetah(_Runner):
    """Runs; never terminates."""

    entry_point = _GYMNASIUM + "half_cheetah_v5:HalfCheetahEnv"
    normal_velocity = True


class Swimmer(_Runner):
    """Swims in the plane; never terminates."""

    entry_point = _GYMNASIUM + "swimmer_v5:SwimmerEnv"
    axes = 2


class Walker2d(_Runner):
    """Walks on two legs in the xz plane."""

    entry_point = _GYMNASIUM + "walker2d_v5:Walker2dEnv"

    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        return self.qpos[rows, self._excluded :], np.clip(self.qvel[rows], -10, 10)

    def _position_info(self, rows: Array | slice) -> dict[str, Array]:
        return super()._position_info(rows) | {"z_distance_from_origin": self.qpos[rows, 1] - self.init_qpos[1]}

    def _healthy(self) -> Array:
        low_z, high_z = self.settings.healthy_z_range
        low_angle, high_angle = self.settings.healthy_angle_range
        z, angle = self.qpos[:, 1], self.qpos[:, 2]
        return (low_z < z) & (z < high_z) & (low_angle < angle) & (angle < high_angle)


class Hopper(Walker2d):
    """Hops on one leg in the xz plane; is also unhealthy if any state is out of range."""

    entry_point = _GYMNASIUM + "hopper_v5:HopperEnv"

    def _healthy(self) -> Array:
        low, high = self.settings.healthy_state_range
        position, velocity = self.qpos[:, 2:], self.qvel
        near = ((low < position) & (position < high)).all(1) & ((low < velocity) & (velocity < high)).all(1)
        return near & super()._healthy()


class Ant(_Runner):
    """Walks on four legs; contact forces are in the cost and in obs."""

    entry_point = _GYMNASIUM + "ant_v5:AntEnv"
    axes = 2
    reads = ("xpos", "cfrc_ext")
    normal_velocity = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As `MujocoVectorEnv`. Raises KeyError for a `main_body` that the model lacks."""
        super().__init__(*args, **kwargs)
        self._main = self.model.body(self.settings.main_body).id

    def _contact_forces(self, rows: Array | slice) -> Array:
        """Clipped contact forces, [n, nbody, 6]."""
        return np.clip(self.derived["cfrc_ext"][rows], *self.settings.contact_force_range)

    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        parts = super()._obs_parts(rows)
        return (*parts, self._contact_forces(rows)[:, 1:]) if self.settings.include_cfrc_ext_in_observation else parts

    def _position(self) -> Array:
        return self.derived["xpos"][:, self._main, :2]

    def _contact_cost(self) -> Array:
        cost: Array = self.settings.contact_cost_weight * np.square(self._contact_forces(ALL)).sum((1, 2))
        return cost

    def _healthy(self) -> Array:
        low, high = self.settings.healthy_z_range
        z, finite = self.qpos[:, 2], np.isfinite(self.qpos).all(1) & np.isfinite(self.qvel).all(1)
        return finite & (low <= z) & (z <= high)


class Humanoid(_Runner):
    """Walks on two legs in 3D; obs has inertias, velocities and forces of its bodies, and contact forces."""

    entry_point = _GYMNASIUM + "humanoid_v5:HumanoidEnv"
    axes = 2
    reads = ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "ten_length", "ten_velocity")
    parts = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")  # of obs, each optional

    @classmethod
    def declines(cls, kwargs: Mapping[str, Any]) -> str | None:
        """As `MujocoVectorEnv.declines`."""
        for part in cls.parts:
            # Gymnasium tests `is True`, but uses any number in the size of obs.
            flag = kwargs.get(key := f"include_{part}_in_observation", True)
            if not isinstance(flag, bool):
                return f"{key}={flag!r} is not a bool"
        return super().declines(kwargs)

    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        first = {"qfrc_actuator": 6}  # skips the root's six; of bodies, the world
        wanted = [part for part in self.parts if getattr(self.settings, f"include_{part}_in_observation")]
        return (*super()._obs_parts(rows), *(self.derived[part][rows, first.get(part, 1) :] for part in wanted))

    def _position_info(self, rows: Array | slice) -> dict[str, Array]:
        tendons = {f"tendon_{what}": self.derived[f"ten_{what}"][rows].copy() for what in ("length", "velocity")}
        return super()._position_info(rows) | tendons

    def _position(self) -> Array:
        """The centre of mass."""
        mass = self.model.body_mass
        centre: Array = np.einsum("b,nbj->nj", mass, self.derived["xipos"]) / mass.sum()
        return centre[:, :2]

    def _control_cost(self, actions: Array) -> Array:
        return super()._control_cost(self.ctrl)

    def _contact_cost(self) -> Array:
        squares = np.square(self.derived["cfrc_ext"]).sum((1, 2))
        return np.clip(self.settings.contact_cost_weight * squares, *self.settings.contact_cost_range)

    def _healthy(self) -> Array:
        low, high = self.settings.healthy_z_range
        z = self.qpos[:, 2]
        return (low < z) & (z < high)


class InvertedPendulum(MujocoVectorEnv):
    """Balances a pole on a cart."""

    entry_point = _GYMNASIUM + "inverted_pendulum_v5:InvertedPendulumEnv"

    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        return self.qpos[rows], self.qvel[rows]

    def _outcome(self, actions: Array, before: Array) -> Outcome:
        finite = np.isfinite(self.qpos).all(1) & np.isfinite(self.qvel).all(1)
        terminated = ~finite | (np.abs(self.qpos[:, 1]) > 0.2)
        survive = (~terminated).astype(np.int64)
        return survive.astype(np.float64), terminated, {"reward_survive": survive}


class InvertedDoublePendulum(MujocoVectorEnv):
    """Balances two poles, one on the other, on a cart."""

    entry_point = _GYMNASIUM + "inverted_double_pendulum_v5:InvertedDoublePendulumEnv"
    reads = ("site_xpos", "qfrc_constraint")
    normal_velocity = True

    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        angles = self.qpos[rows, 1:]
        velocity, force = np.clip(self.qvel[rows], -10, 10), np.clip(self.derived["qfrc_constraint"][rows, :1], -10, 10)
        return self.qpos[rows, :1], np.sin(angles), np.cos(angles), velocity, force

    def _outcome(self, actions: Array, before: Array) -> Outcome:
        x, y = self.derived["site_xpos"][:, 0, 0], self.derived["site_xpos"][:, 0, 2]
        terminated = y <= 1
        survive = self.settings.healthy_reward * (~terminated).astype(np.int64)
        # In gymnasium these are scalars, for which `**` is pow; for arrays it would be a multiplication.
        x2, y2, v2 = np.float_power(x, 2), np.float_power(y - 2, 2), np.float_power(self.qvel[:, 1:3], 2)
        distance, velocity = 0.01 * x2 + y2, 1e-3 * v2[:, 0] + 5e-3 * v2[:, 1]
        info = {"reward_survive": survive, "distance_penalty": -distance, "velocity_penalty": -velocity}
        return survive - distance - velocity, terminated, info


class Reacher(MujocoVectorEnv):
    """Moves the tip of a two-joint arm to a target, which is fixed in an episode."""

    entry_point = _GYMNASIUM + "reacher_v5:ReacherEnv"
    reads = ("xpos",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As `MujocoVectorEnv`."""
        super().__init__(*args, **kwargs)
        self._tip, self._target = (self.model.body(name).id for name in ("fingertip", "target"))

    def _draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos = rng.uniform(-0.1, 0.1, self.model.nq) + self.init_qpos
        goal = rng.uniform(-0.2, 0.2, 2)
        while np.linalg.norm(goal) >= 0.2:
            goal = rng.uniform(-0.2, 0.2, 2)
        qpos[-2:] = goal
        qvel = self.init_qvel + rng.uniform(-0.005, 0.005, self.model.nv)
        qvel[-2:] = 0
        return qpos, qvel

    def _target_to_tip(self, rows: Array | slice) -> Array:
        """The vector from target to tip, [n, 3]."""
        return self.derived["xpos"][rows, self._tip] - self.derived["xpos"][rows, self._target]

    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        theta = self.qpos[rows, :2]
        return np.cos(theta), np.sin(theta), self.qpos[rows, 2:], self.qvel[rows, :2], self._target_to_tip(rows)[:, :2]

    def _outcome(self, actions: Array, before: Array) -> Outcome:
        distance = -lengths(self._target_to_tip(ALL)) * self.settings.reward_dist_weight
        control = -np.square(actions).sum(1) * self.settings.reward_control_weight
        info = {"reward_dist": distance, "reward_ctrl": control}
        return distance + control, np.zeros(self.num_envs, dtype=np.bool_), info


class Pusher(MujocoVectorEnv):
    """Pushes a cylinder to a goal with an arm of seven joints."""

    entry_point = _GYMNASIUM + "pusher_v5:PusherEnv"
    reads = ("xpos",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As `MujocoVectorEnv`."""
        super().__init__(*args, **kwargs)
        self._bodies = [self.model.body(name).id for name in ("tips_arm", "object", "goal")]

    def _draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        def cylinder() -> Array:
            return np.concatenate([rng.uniform(-0.3, 0, 1), rng.uniform(-0.2, 0.2, 1)])

        qpos, position = self.init_qpos.copy(), cylinder()
        while np.linalg.norm(position) <= 0.17:  # from the goal, which is at the origin
            position = cylinder()
        qpos[-4:-2], qpos[-2:] = position, 0
        qvel = self.init_qvel + rng.uniform(-0.005, 0.005, self.model.nv)
        qvel[-4:] = 0
        return qpos, qvel

    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        return self.qpos[rows, :7], self.qvel[rows, :7], *(self.derived["xpos"][rows, body] for body in self._bodies)

    def _outcome(self, actions: Array, before: Array) -> Outcome:
        arm, cylinder, goal = (self.derived["xpos"][:, body] for body in self._bodies)
        near = -lengths(cylinder - arm) * self.settings.reward_near_weight
        distance = -lengths(cylinder - goal) * self.settings.reward_dist_weight
        control = -np.square(actions).sum(1) * self.settings.reward_control_weight
        info = {"reward_dist": distance, "reward_ctrl": control, "reward_near": near}
        return distance + control + near, np.zeros(self.num_envs, dtype=np.bool_), info

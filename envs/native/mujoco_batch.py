"""N simulations of one of gymnasium's MuJoCo tasks, stepped in one call by `mujoco.batch`."""

from __future__ import annotations

import inspect
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode

from costgrad.envs.errors import EnvError
from costgrad.envs.native.base import Advance, Array, NativeVectorEnv

Outcome = tuple[Array, Array, dict[str, Array]]  # reward [N] float64, terminated [N] bool, info of [N, ...]
ALL = slice(None)


class MujocoVectorEnv(NativeVectorEnv):
    """N rows that are bit-equal to a `gymnasium.envs.mujoco` v5 environment.

    MuJoCo steps the rows in its own thread pool; the rest is a few array operations over N. Row i of `qpos`, `qvel` and
    `ctrl` is the simulation's own memory. A derived quantity, such as a body's position, is left by the last substep
    and belongs to that one, not to the state after it. Gymnasium uses these values, and they cannot be computed from
    the state, so those that the task reads are stored in `derived` and are part of `get_state`.

    A task names its gymnasium class and the derived quantities, and defines the hooks `_obs_parts`, `_outcome`,
    `_reset_info` and, if its initial states are special, `_draw`.
    """

    entry_point: str  # gymnasium's class, "module:Name"
    reads: tuple[str, ...] = ()  # fields of MjData beside the state
    normal_velocity = False  # whether the noise of initial velocities is normal or, as for positions, uniform

    qpos: Array  # [N, nq]
    qvel: Array  # [N, nv]
    ctrl: Array  # [N, nu]
    derived: dict[str, Array]  # name -> [N, ...], of `reads`

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        num_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        """N rows of gymnasium's environment with the same `kwargs`.

        Args:
            num_envs: N.
            max_episode_steps: truncates as gymnasium's TimeLimit does; None: no truncation.
            render_mode: of gymnasium's environment, or None.
            autoreset_mode: when rows that ended are reset.
            num_threads: that step simulations, including the calling one; None: the number of available cores.
            kwargs: all other arguments of gymnasium's class, see `declines`.
        Raises:
            EnvError: `num_threads` is not a whole number of at least 1.
        """
        import mujoco  # here: the list of tasks must be readable without MuJoCo
        from mujoco.batch import Batch

        if num_threads is not None and (not isinstance(num_threads, int) or num_threads < 1):
            raise EnvError(f"num_threads is {num_threads!r}: it must be a whole number of at least 1")
        twin_class = load_env_creator(self.entry_point)
        twin: Any = twin_class(render_mode=render_mode, **kwargs)
        super().__init__(twin, num_envs, max_episode_steps, autoreset_mode)
        defaults = {name: given.default for name, given in inspect.signature(twin_class).parameters.items()}
        self.settings = SimpleNamespace(**defaults | kwargs)
        self.model, self.dt, self.frame_skip = twin.model, twin.dt, twin.frame_skip
        self.init_qpos, self.init_qvel = twin.init_qpos.copy(), twin.init_qvel.copy()

        # Contact forces are computed from the data of a step, so each simulation must keep its data.
        self._contacts = "cfrc_ext" in self.reads
        threads = num_threads or min(_cores(), num_envs)
        self.engine = f"mujoco.batch on {threads} thread{'s' * (threads > 1)}"
        self._batch = Batch(self.model, num_envs, threads, persistent=self._contacts)
        self._mujoco, self._scratch = mujoco, mujoco.MjData(self.model)
        self._state_kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
        self._reset_state = self._batch.state[0].copy()  # [S], of a new simulation
        self.qpos, self.qvel, self.ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._derived_views = {
            name: self._batch.bind(name) for name in self.reads
        }  # of the last call of each simulation
        self.derived = {name: view.copy() for name, view in self._derived_views.items()}

    @classmethod
    def declines(cls, kwargs: Mapping[str, Any]) -> str | None:
        """Why these arguments of gymnasium's class are not supported; None if they are.

        Errors of gymnasium's own constructor are left to it.
        """
        try:
            import mujoco
            import mujoco.batch
        except ImportError:
            return "mujoco >= 3.17 is not installed"
        if "xml_file" in kwargs:
            from gymnasium.envs.mujoco.mujoco_env import expand_model_path

            model = mujoco.MjModel.from_xml_path(expand_model_path(kwargs["xml_file"]))
            # These have internal state that affects the next step and is not in the state vector.
            unkept = mujoco.mjtEnableBit.mjENBL_SLEEP | mujoco.mjtEnableBit.mjENBL_IPC
            if model.nplugin or model.opt.enableflags & unkept:
                return f"{kwargs['xml_file']} has plugins, sleep or IPC, whose state a batch cannot save per row"
        return None

    # Hooks of a task

    @abstractmethod
    def _obs_parts(self, rows: Array | slice) -> tuple[Array, ...]:
        """The parts of obs, [n, ...] each, in gymnasium's order; may be views."""

    def _position(self) -> Array:
        """The position whose velocity is in the reward, [N, ...]; empty by default."""
        return self.qpos[:, :0]

    @abstractmethod
    def _outcome(self, actions: Array, before: Array) -> Outcome:
        """The outcome of the last step.

        Args:
            actions: [N, A] as given, float32 or float64: gymnasium's control costs have that dtype.
            before: `_position` before the step, [N, ...].
        Returns:
            reward, terminated and gymnasium's info, new arrays.
        """

    def _reset_info(self, rows: Array) -> dict[str, Array]:
        """Gymnasium's info of a reset, new arrays [n, ...]."""
        return {}

    def _draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """An initial state, qpos [nq] and qvel [nv], drawn as in gymnasium: the model's own plus noise."""
        scale = self.settings.reset_noise_scale
        qpos = self.init_qpos + rng.uniform(-scale, scale, self.model.nq)
        if self.normal_velocity:
            return qpos, self.init_qvel + scale * rng.standard_normal(self.model.nv)
        return qpos, self.init_qvel + rng.uniform(-scale, scale, self.model.nv)

    # Hooks of the base class

    def _start(self, rows: Array, options: dict[str, Any] | None) -> dict[str, Array]:
        self._batch.state[rows] = self._reset_state  # like `reset`, but much faster
        for i in rows.tolist():
            self.qpos[i], self.qvel[i] = self._draw(self.rngs[i])
        self._batch.forward(rows)
        self._copy_derived(rows)
        return self._reset_info(rows)

    def _advance(self, actions: Array, skipped: Array | None) -> Advance:
        rows = None if skipped is None else np.flatnonzero(~skipped)
        before = self._position().copy()
        self.ctrl[...] = actions
        self._batch.step(rows, self.frame_skip)
        self._copy_derived(ALL if rows is None else rows)
        if self._contacts:
            self._compute_contact_forces(range(self.num_envs) if rows is None else rows.tolist())
        return self._observe(ALL), *self._outcome(actions, before)

    def _observe(self, rows: Array | slice) -> Array:
        parts = self._obs_parts(rows)
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def _arrays(self) -> dict[str, Array]:
        return {"physics": self._batch.state, **self.derived}

    def _pose(self, i: int) -> None:
        # Gymnasium renders bodies at the last substep; this is the state after it, up to one substep later.
        self._mujoco.mj_setState(self.model, self.twin.data, self._batch.state[i], self._state_kind)
        self._mujoco.mj_forward(self.model, self.twin.data)

    # Implementation

    def _copy_derived(self, rows: Array | slice) -> None:
        """Copies the derived quantities of these rows; those of other rows may be older than a `set_state`."""
        for name, view in self._derived_views.items():
            self.derived[name][rows] = view[rows]

    def _compute_contact_forces(self, rows: Iterable[int]) -> None:
        """Computes the contact forces of the last step, as in gymnasium.

        `mj_step` does not compute them, and the batch has no call for it. A sensor of these forces does not help: the
        RK4 integrator, which both tasks use, leaves contacts of its last stage, where sensors are off.
        """
        data, model, forces = self._scratch, self.model, self._scratch.cfrc_ext
        for i in rows:
            self._batch.get_data(i, data)
            self._mujoco.mj_rnePostConstraint(model, data)
            self.derived["cfrc_ext"][i] = forces


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lengths(vectors: Array) -> Array:
    """Euclidean norms, [n, k] -> [n], bit-equal to `np.linalg.norm(row)`, unlike `np.linalg.norm` with `axis=1`."""
    return np.sqrt((vectors[:, None, :] @ vectors[:, :, None])[:, 0, 0])

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

Judgement = tuple[Array, Array, dict[str, Array]]  # reward [N] float64, terminated [N] bool, info of [N, ...]
ALL = slice(None)


class MujocoVectorEnv(NativeVectorEnv):
    """What N rows of a `gymnasium.envs.mujoco` v5 environment say, in its bits.

    MuJoCo steps the rows on its own thread pool; the rest is a handful of array operations over N. Row i of `qpos`,
    `qvel` and `ctrl` is the simulation's own memory. A derived quantity, such as a body's place, is what MuJoCo has
    left behind in stepping: it belongs to the last substep, not to the state after it. Gymnasium reads it so, and
    it cannot be had from the state, so those that the task reads are kept in `seen` and are part of what
    `get_state` gives.

    A task names its gymnasium class and the derived quantities, and gives the hooks `_see`, `_judge`, `_greet` and,
    where its first states are special, `_draw`.
    """

    entry_point: str  # gymnasium's class, "module:Name"
    reads: tuple[str, ...] = ()  # fields of MjData beside the state
    normal_velocity = False  # whether the noise on first velocities is normal or, as on positions, uniform

    qpos: Array  # [N, nq]
    qvel: Array  # [N, nv]
    ctrl: Array  # [N, nu]
    seen: dict[str, Array]  # name -> [N, ...], of `reads`

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        num_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        """N rows of the environment that gymnasium makes of the same `kwargs`.

        Args:
            num_envs: N.
            max_episode_steps: truncates as gymnasium's TimeLimit does; None: nothing is truncated.
            render_mode: of gymnasium's environment, or None.
            autoreset_mode: what happens to a row that has ended.
            num_threads: that step simulations, the calling one among them; None: as many as there are cores for us.
            kwargs: all other arguments of gymnasium's class, see `declines`.
        Raises:
            EnvError: `num_threads` is not a whole number of at least 1.
        """
        import mujoco  # here, so that the list of tasks can be read where MuJoCo is not installed
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

        # Contact forces are computed from all that a step leaves behind, so a step must leave it to each simulation.
        self._contacts = "cfrc_ext" in self.reads
        threads = num_threads or min(_cores(), num_envs)
        self.engine = f"mujoco.batch on {threads} thread{'s' * (threads > 1)}"
        self._batch = Batch(self.model, num_envs, threads, persistent=self._contacts)
        self._mujoco, self._scratch = mujoco, mujoco.MjData(self.model)
        self._state_kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
        self._reset_state = self._batch.state[0].copy()  # [S], of a simulation that has just been made
        self.qpos, self.qvel, self.ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._left = {name: self._batch.bind(name) for name in self.reads}  # of the last call on each simulation
        self.seen = {name: left.copy() for name, left in self._left.items()}

    @classmethod
    def declines(cls, kwargs: Mapping[str, Any]) -> str | None:
        """Why these arguments of gymnasium's class cannot be taken, in a few words; None where they can.

        What gymnasium's own constructor would complain of is left to it.
        """
        try:
            import mujoco
            import mujoco.batch
        except ImportError:
            return "mujoco >= 3.17 is not installed"
        if "xml_file" in kwargs:
            from gymnasium.envs.mujoco.mujoco_env import expand_model_path

            model = mujoco.MjModel.from_xml_path(expand_model_path(kwargs["xml_file"]))
            # What these leave behind in stepping changes the next step, and no state vector holds it.
            unkept = mujoco.mjtEnableBit.mjENBL_SLEEP | mujoco.mjtEnableBit.mjENBL_IPC
            if model.nplugin or model.opt.enableflags & unkept:
                return f"{kwargs['xml_file']} has plugins, sleep or IPC, which a batch cannot hand from row to row"
        return None

    # What a task gives

    @abstractmethod
    def _see(self, rows: Array | slice) -> tuple[Array, ...]:
        """The parts of obs, [n, ...] each, in gymnasium's order; views will do."""

    def _place(self) -> Array:
        """What the velocity in the reward is measured by, [N, ...]; nothing unless a task says so."""
        return self.qpos[:, :0]

    @abstractmethod
    def _judge(self, actions: Array, before: Array) -> Judgement:
        """What the step that was just made is worth.

        Args:
            actions: [N, A] as they were given, float32 or float64: gymnasium's costs of control are of that type.
            before: `_place` before the step, [N, ...].
        Returns:
            reward, terminated and gymnasium's info, new arrays.
        """

    def _greet(self, rows: Array) -> dict[str, Array]:
        """Gymnasium's info of a reset, new arrays [n, ...]."""
        return {}

    def _draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """A first state, qpos [nq] and qvel [nv], drawn as gymnasium draws it: the model's own and noise."""
        scale = self.settings.reset_noise_scale
        qpos = self.init_qpos + rng.uniform(-scale, scale, self.model.nq)
        if self.normal_velocity:
            return qpos, self.init_qvel + scale * rng.standard_normal(self.model.nv)
        return qpos, self.init_qvel + rng.uniform(-scale, scale, self.model.nv)

    # What the base asks for

    def _start(self, rows: Array, options: dict[str, Any] | None) -> dict[str, Array]:
        self._batch.state[rows] = self._reset_state  # what `reset` does, without most of its time
        for i in rows.tolist():
            self.qpos[i], self.qvel[i] = self._draw(self.rngs[i])
        self._batch.forward(rows)
        self._keep(rows)
        return self._greet(rows)

    def _advance(self, actions: Array, skipped: Array | None) -> Advance:
        rows = None if skipped is None else np.flatnonzero(~skipped)
        before = self._place().copy()
        self.ctrl[...] = actions
        self._batch.step(rows, self.frame_skip)
        self._keep(ALL if rows is None else rows)
        if self._contacts:
            self._feel(range(self.num_envs) if rows is None else rows.tolist())
        return self._observe(ALL), *self._judge(actions, before)

    def _observe(self, rows: Array | slice) -> Array:
        parts = self._see(rows)
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def _arrays(self) -> dict[str, Array]:
        return {"physics": self._batch.state, **self.seen}

    def _pose(self, i: int) -> None:
        # Gymnasium draws bodies where the last substep left them; this is where they are, up to a substep further.
        self._mujoco.mj_setState(self.model, self.twin.data, self._batch.state[i], self._state_kind)
        self._mujoco.mj_forward(self.model, self.twin.data)

    # How it does it

    def _keep(self, rows: Array | slice) -> None:
        """Takes over what the last call left behind in these rows; in other rows it may be of before a `set_state`."""
        for name, left in self._left.items():
            self.seen[name][rows] = left[rows]

    def _feel(self, rows: Iterable[int]) -> None:
        """The contact forces of the step just made, as gymnasium has them.

        `mj_step` does not compute them, and the batch has no call that does. A sensor that asks for them is no way
        round: the RK4 integrator, which both tasks use, leaves contacts of its last stage, where sensors are off.
        """
        data, model, forces = self._scratch, self.model, self._scratch.cfrc_ext
        for i in rows:
            self._batch.get_data(i, data)
            self._mujoco.mj_rnePostConstraint(model, data)
            self.seen["cfrc_ext"][i] = forces


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lengths(vectors: Array) -> Array:
    """Euclidean lengths, [n, k] -> [n]: the bits of `np.linalg.norm(row)`, which `axis=1` of it does not give."""
    return np.sqrt((vectors[:, None, :] @ vectors[:, :, None])[:, 0, 0])

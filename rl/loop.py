"""The agent protocol and the interaction loop that all training shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from costgrad.rl.data import Step
from costgrad.rl.errors import UserError
from costgrad.rl.extremes import Extremes
from costgrad.rl.spaces import Codec


class Learner(Protocol):
    """What the loop needs of an agent.

    An agent with hindsight experience replay also has `hindsight`, a `Hindsight` (rl/buffers/hindsight.py) or None.
    """

    codec: Codec

    def on_reset(self) -> None:
        """Called after every reset; drop per-episode state. num_envs may have changed."""
        ...

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D] int64; keeps what `observe` needs of the action."""
        ...

    def observe(self, step: Step) -> None:
        """Stores one vector step; the agent owns its buffer."""
        ...

    def update(self) -> dict[str, Tensor]:
        """Trains if an update is due; returns its metrics, or {}."""
        ...


class Agent(Learner, Protocol):
    """What the loop, evaluation and checkpoints need of an agent; there is no base class.

    An agent with a C also has `estimand()`, which returns an `Estimand` (rl/diagnostics/estimand.py). One with
    `keeps_episodes = True` also keeps what is of unfinished episodes and rollouts in its `state()`: a run that is
    resumed goes on within them, and `on_reset` is not called.
    """

    config: Any
    """Its hyperparameters, a dataclass of what JSON can hold: a checkpoint and a run's config.json keep them."""

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """An action for one observation or a batch, NumPy in and out, in the environment's units.

        It does not change the training state.

        Args:
            obs: [*observation_space.shape] or [N, *observation_space.shape]; a dict of such for a Dict.
            state: the recurrent state of the agent; returned as it is by agents without one.
            episode_start: [N] whether an episode begins, for recurrent agents.
            deterministic: the mode of the policy instead of a sample.

        Returns:
            the action or actions, and the next `state`.
        """
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON: the full training state, including optimisers and random generators."""
        ...

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        ...


class Tick(NamedTuple):
    """The result of one vector step."""

    step: int  # environment steps so far; reset rows do not count
    metrics: dict[str, Tensor]  # of the update that followed this step, or {}
    returns: list[float]  # undiscounted, in reward, of the episodes that ended in this step
    lengths: list[int]  # of the same episodes, in steps


@dataclass
class UnderWay:
    """The episodes between two vector steps: with the agent and the environments, all that decides the next step."""

    obs: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [N, *obs_shape] that the next action is for
    reset_row: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # [N] rows whose next action is ignored
    returns: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [N] undiscounted rewards so far
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # [N] steps so far

    @property
    def begun(self) -> bool:
        """Whether there are episodes to go on with."""
        return len(self.lengths) > 0


def interact(
    agent: Learner,
    env: VectorEnv,
    seed: int,
    step: int = 0,
    under_way: UnderWay | None = None,
    extremes: Extremes | None = None,
) -> Iterator[Tick]:
    """Runs observation, action, transition, update without end; yields after each vector step.

    Evaluation, checkpoints, progress and users' hooks are outside of this generator.

    Args:
        agent: is trained in place.
        env: N environments in any of gymnasium's three autoreset modes. Where `info["process_restarted"]` [N] is True,
            the transition of a row was lost, and its obs is the first of another episode.
        seed: of the first reset; environment i starts from seed + i.
        step: environment steps already done, when a run is resumed.
        under_way: is kept up to date from tick to tick. If it has begun, its episodes go on, for agent and
            environments stand where they stood: neither is reset.
        extremes: takes in all rewards and observations.
    Yields:
        one `Tick` per vector step.
    Raises:
        UserError: an observation or a reward is not finite or has the wrong shape; or the agent uses hindsight
            experience replay and the environment has no `compute_reward`.
    """
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    codec, n, look = agent.codec, env.num_envs, (extremes or Extremes()).look
    if (check := getattr(agent, "check_parameters", None)) is not None:
        check()
    if (hindsight := getattr(agent, "hindsight", None)) is not None:
        hindsight.ask(env)
    at = UnderWay() if under_way is None else under_way
    if not at.begun:
        agent.on_reset()
        raw, _ = env.reset(seed=seed)
        codec.obs.check_rows(raw, n)
        at.obs, at.reset_row = codec.obs(raw), np.zeros(n, dtype=bool)
        at.returns, at.lengths = np.zeros(n), np.zeros(n, dtype=np.int64)
        look(at.returns, at.obs, step)
    everything = np.ones(n, dtype=bool)
    any_reset = bool(at.reset_row.any())
    checked = False  # shapes and dtypes of what `step` returns are checked once: they do not change
    while True:
        action = agent.act(at.obs)
        raw, reward, terminated, truncated, info = env.step(codec.env_action(action))
        if not checked:
            codec.obs.check_rows(raw, n)
            _check_form(n, reward=reward, terminated=terminated, truncated=truncated)
            checked = True
        done = terminated | truncated
        any_done = bool(done.any())

        next_obs = codec.obs(raw)  # at an episode's end not the observation of the next action
        if any_done and mode == AutoresetMode.SAME_STEP:
            if "final_obs" not in info:
                raise UserError("the environments reset in the same step: their info must hold final_obs, it does not")
            next_obs[done] = codec.obs.stack(info["final_obs"][done])
        look(reward, next_obs, step)

        if (restarted := info.get("process_restarted")) is not None:  # [N] see envs/workers.py
            at.reset_row, any_reset = at.reset_row | restarted, True
            at.returns[restarted], at.lengths[restarted] = 0.0, 0  # of an episode that was cut off
        valid = ~at.reset_row if any_reset else everything
        agent.observe(Step(at.obs, action, reward, next_obs, terminated, truncated, valid, extra={}))
        metrics = agent.update()

        if any_reset:
            at.returns += np.where(at.reset_row, 0.0, reward)
            at.lengths += ~at.reset_row
            step += n - int(at.reset_row.sum())
        else:
            at.returns += reward
            at.lengths += 1
            step += n
        ended: tuple[list[float], list[int]] = ([], [])
        if any_done:
            ended = (at.returns[done].tolist(), at.lengths[done].tolist())
            at.returns[done], at.lengths[done] = 0.0, 0

        if mode == AutoresetMode.NEXT_STEP:
            at.reset_row, any_reset = done, any_done
        elif any_reset:  # of restarts
            at.reset_row, any_reset = ~everything, False
        if any_done and mode != AutoresetMode.NEXT_STEP:
            if mode == AutoresetMode.DISABLED:
                raw, _ = env.reset(options={"reset_mask": done})
            next_obs = codec.obs(raw)
            look(reward, next_obs, step)
        at.obs = next_obs
        yield Tick(step, metrics, *ended)


def _check_form(n: int, **values: Any) -> None:
    """Raises UserError that names the first value that is not an array [N], or a flag that is not bool."""
    for name, value in values.items():
        if not isinstance(value, np.ndarray) or value.shape != (n,):
            kind = f"shape {value.shape}" if isinstance(value, np.ndarray) else f"type {type(value).__name__}"
            raise UserError(f"the environments returned {name} of {kind}: it must be an array of shape ({n},)")
        if name != "reward" and value.dtype != np.bool_:
            raise UserError(f"the environments returned {name} of dtype {value.dtype}: it must be bool")

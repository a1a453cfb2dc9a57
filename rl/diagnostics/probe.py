"""Ground-truth action gradients by finite differences from saved simulator states, with common random numbers.

A state is saved within an episode of the agent's own policy. From there two rollouts use the same random numbers: one
with the action moved up in one dimension, one with it moved down; the policy acts afterwards. Half the difference of
their costs over the step is the gradient of the expected cost in that dimension (central difference). Rounds with other
random numbers estimate its error. The action is itself a sample of the policy, so the mean over states is the gradient
of the cost smoothed by exploration, which is the gradient that the actor receives.

The probe has its own environments and generators and does not change the agent.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from costgrad.rl.data import to_numpy
from costgrad.rl.diagnostics.estimand import Estimand
from costgrad.rl.diagnostics.fidelity import Agreement, Calibration, agreement, calibration
from costgrad.rl.diagnostics.rewind import Rewind, RolloutPolicy, Snapshot
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import SEED_OFFSET
from costgrad.rl.factories import Factory, factory_of
from costgrad.rl.loop import interact
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.spaces import Codec

PROBE_OFFSET = 2 * SEED_OFFSET  # start states are shared with neither training nor evaluation
TAIL = 1e-3  # a rollout ends when gamma^t is below it
LONGEST = 10_000  # maximum length of a rollout


class Points(NamedTuple):
    """The states at which C's gradient was measured, one per row."""

    obs: np.ndarray  # [P, *obs_shape] not normalised
    action: np.ndarray  # [P, A] in [-1, 1], the probed action; [P] or [P, D] for discrete actions, the policy's
    said: np.ndarray  # [P, A] dC/da in the agent's units; [P, n] advantages by C for discrete actions
    true: np.ndarray  # [P, R, A] or [P, R, n] the same by rollouts, for each round
    group: np.ndarray  # [P] index of the environment


class Probe(NamedTuple):
    """The result of a probe."""

    calibration: Calibration
    gradient: Agreement | None  # None if it cannot be measured
    reason: str  # why it cannot; "" if it can
    points: Points | None
    steps: int  # environment steps of the probe

    def __str__(self) -> str:
        """One line for people."""
        parts = [] if self.gradient is None else [str(self.gradient)]
        return ", ".join([*parts, str(self.calibration), f"{self.steps:,} environment steps"])


def probe(
    agent: Any,
    env: VectorEnv | Factory | str,
    *,
    num_envs: int = 16,
    visits: int = 4,
    rounds: int = 2,
    step: float = 0.1,
    within: int = 200,
    seed: int | None = None,
) -> Probe:
    """Measures the accuracy of an agent's C and of its gradient; changes neither agent nor environment.

    Args:
        agent: has `estimand()`, see rl/diagnostics/estimand.py.
        env: a VectorEnv with `.factory`, a factory `make(num_envs, seed, render_mode)`, a class or function that makes
            one environment, or an id of gymnasium's. The gradient needs `get_state` and `set_state`. `reseed(seed)`
            gives each round different noise of the environment, and `stop_clock()` removes the time limit; without it
            rollouts end there.
        num_envs: number of parallel environments.
        visits: states of each environment at which the gradient is measured.
        rounds: rounds of different random numbers at each state, 2 or more. More states help more than more rounds.
        step: size of the finite difference to each side, in the agent's units, where bounds are -1 and 1; the probed
            action is clipped that far inside. If it is too small, contacts of the simulator dominate as noise.
        within: number of first steps from which predictions and states are taken, at most the time limit.
        seed: of the training run, by default `env.initial_seed` or 0; the probe uses seed + 2,000,000.
    Raises:
        UserError: an argument is out of range; the agent has no C or no `estimand`; or the environment has no factory.
    """
    least = {"num_envs": (num_envs, 2), "visits": (visits, 1), "rounds": (rounds, 2), "within": (within, 1)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise UserError(f"{name} must be at least {minimum}, got {value}")
    if not 0 < step <= 0.5:
        raise UserError(f"step must be above 0 and at most 0.5, got {step}")
    if not hasattr(agent, "estimand"):
        lacks = "has no C" if getattr(agent, "critic", None) is None else "does not say what its C estimates"
        raise UserError(f"{type(agent).__name__} {lacks}: there is nothing to probe")
    make = factory_of(env)
    if make is None:
        raise UserError("the environment has no factory, and a probe needs others like it: give an id or a factory")
    seed = (getattr(env, "initial_seed", None) or 0 if seed is None else seed) + PROBE_OFFSET
    probe_env = make(num_envs=num_envs, seed=seed, render_mode=None)
    try:
        return _Prober(agent.codec, agent.estimand(), probe_env, seed).run(visits, rounds, step, within)
    finally:
        probe_env.close()


class _Prober:
    """One probe, in environments of its own."""

    def __init__(self, codec: Codec, estimand: Estimand, env: VectorEnv, seed: int) -> None:
        self.codec, self.estimand, self.env, self.seed = codec, estimand, Rewind(env), seed
        self.generator = torch.Generator(codec.device).manual_seed(spawn_seeds(seed, 1)[0])
        gamma = estimand.gamma
        self.horizon = LONGEST if gamma >= 1 else 1 if gamma <= 0 else math.ceil(math.log(TAIL) / math.log(gamma))
        self.horizon = min(self.horizon, LONGEST)
        self.steps = 0
        self.reset_rows = 0  # rows that start a rollout with a reset, which is not an environment step

    def run(self, visits: int, rounds: int, step: float, within: int) -> Probe:
        reason = self._why_not()
        if (limit := self.env.stop_clock()) is not None:
            within = min(within, limit)
        drawn = np.random.default_rng(self.seed).permutation(within)[:visits]
        first = self._player(within + self.horizon, predict=within, save_at=set() if reason else set(drawn.tolist()))
        self._roll_out(first, within + self.horizon, self.seed)
        found = _calibrated(first, within)
        if reason:
            return Probe(found, None, reason, None, self.steps)
        parts = []
        for t, snapshot in first.snapshots.items():
            self.reset_rows = int((~first.valid[t]).sum())
            parts.append(self._gradient(snapshot, rounds, step))
        # Reset rows have no state.
        rows = np.concatenate([first.valid[t] for t in first.snapshots])
        points = Points(*(np.concatenate(column)[rows] for column in zip(*parts, strict=True)))
        return Probe(found, agreement(points.said, points.true, points.group), "", points, self.steps)

    def _why_not(self) -> str:
        """Why the gradient cannot be measured; "" if it can."""
        kind = self.estimand.critic.spec.action
        if kind == "none":
            return "this C is of states alone: it has no gradient in the action"
        if kind == "one_hot":
            return "there are too many combinations of choices to try each of them"
        if not self.env.can_rewind():
            return "the environment's state cannot be saved: it has no get_state and set_state"
        return ""

    def _gradient(self, snapshot: Snapshot, rounds: int, step: float) -> Points:
        """C's gradient and the true one at N states."""
        estimand = self.estimand
        x = estimand.critic.features(self.codec.tensor(snapshot.obs))
        if estimand.critic.discrete:
            assert estimand.probs is not None
            with torch.no_grad():
                predicted, probs = to_numpy(estimand.cost(x)), to_numpy(estimand.probs(x))
            action, costs = snapshot.action, self._rounds(snapshot, self._all_actions(len(x)), rounds)
            predicted, true = _advantages(predicted, probs), [_advantages(cost.T, probs) for cost in costs]
        else:
            action = snapshot.action.clamp(-1 + step, 1 - step)
            moves = step * torch.eye(action.shape[1], device=action.device)
            costs = self._rounds(snapshot, [action + sign * move for move in moves for sign in (1, -1)], rounds)
            predicted, true = (
                to_numpy(estimand.gradient(x, action)),
                [(cost[::2] - cost[1::2]).T / (2 * step) for cost in costs],
            )
        return Points(snapshot.obs, to_numpy(action), predicted, np.stack(true, 1), np.arange(len(x)))

    def _all_actions(self, rows: int) -> list[Tensor]:
        """Every discrete action, each for all rows: [N] or [N, D]."""
        spec = self.estimand.critic.spec
        every = torch.arange(spec.action_size, device=self.codec.device)
        actions = self.estimand.critic.combinations if spec.choices else every
        return [action.expand(rows, *action.shape).contiguous() for action in actions]

    def _rounds(self, snapshot: Snapshot, first_actions: list[Tensor], rounds: int) -> list[np.ndarray]:
        """Costs-to-go of several first actions from one state: [actions, N] per round, with common random numbers."""
        self.env.snapshot = snapshot
        costs = []
        for _ in range(rounds):
            seed = int(torch.randint(2**31, (), generator=self.generator, device=self.generator.device))
            noise = self._noise(self.horizon)
            found = []
            for action in first_actions:
                player = self._player(self.horizon, noise=noise, first=action)
                self._roll_out(player, self.horizon, seed)
                found.append(player.returns()[0][0])
            costs.append(np.stack(found))
        return costs

    def _noise(self, steps: int) -> Tensor:
        return self.estimand.noise(steps, self.env.num_envs, generator=self.generator)

    def _player(self, steps: int, noise: Tensor | None = None, **more: Any) -> RolloutPolicy:
        noise = self._noise(steps) if noise is None else noise
        return RolloutPolicy(self.codec, self.estimand, self.env, noise, self.generator, **more)

    def _roll_out(self, player: RolloutPolicy, steps: int, seed: int) -> None:
        """Runs it for `steps` steps, or until every measured episode has ended."""
        for count, tick in enumerate(interact(player, self.env, seed), 1):
            if count == steps or player.finished:
                self.steps += tick.step - self.reset_rows
                return


def _calibrated(player: RolloutPolicy, within: int) -> Calibration:
    """The calibration of C over the first `within` steps."""
    realised, left = (part[:within] for part in player.returns())
    rows = player.valid[:within]
    group = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    return calibration(player.predicted[:within][rows], realised[rows], group[rows], float(left[rows].mean()))


def _advantages(costs: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Costs minus their mean under the policy: [N, n], [N, n] -> [N, n]."""
    return costs - (costs * probs).sum(-1, keepdims=True)

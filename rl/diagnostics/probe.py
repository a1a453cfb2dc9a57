"""The truth that C is measured by: costs that come about in simulators that are set back, step by step, to one state.

A state is saved in the middle of an episode of the agent's own policy. From there the environment is run with one
action moved a little up and a little down and the policy acting on, with the same random numbers both times: half the
difference over the step is the true gradient of the expected cost, in one dimension of the action. Rounds with other
random numbers say how exact that is. The first action is a sample of the policy too, so that the mean over states is
the gradient of the cost smoothed by exploration, which is what reaches the actor.

Nothing here touches the agent's training: environments and generators are the probe's own.
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
from costgrad.rl.diagnostics.rewind import Mark, Player, Rewind
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import SEED_OFFSET
from costgrad.rl.factories import Factory, factory_of
from costgrad.rl.loop import interact
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.spaces import Codec

PROBE_OFFSET = 2 * SEED_OFFSET  # probing environments share no first state with training and evaluation
TAIL = 1e-3  # a cost-to-go is followed until a step's discount is below it
LONGEST = 10_000  # steps that it is followed, at most


class Points(NamedTuple):
    """The states at which C's gradient was measured, one a row."""

    obs: np.ndarray  # [P, *obs_shape] as the agent sees it
    action: np.ndarray  # [P, A] in [-1, 1], the probed one; [P] or [P, D] of discrete actions, the policy's
    said: np.ndarray  # [P, A] dC/da in the agent's units of action; [P, n] advantages by C of discrete actions
    true: np.ndarray  # [P, R, A] or [P, R, n] the same, by each round of rollouts
    group: np.ndarray  # [P] which environment it is from


class Probe(NamedTuple):
    """What a probe found."""

    calibration: Calibration
    gradient: Agreement | None  # None where it cannot be had
    reason: str  # why not
    points: Points | None
    steps: int  # of environments that it took, beside those of training

    def __str__(self) -> str:
        """One line for people."""
        told = [] if self.gradient is None else [str(self.gradient)]
        return ", ".join([*told, str(self.calibration), f"{self.steps:,} environment steps"])


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
    """Measures how far an agent's C can be trusted, and leaves agent and environment as they are, to the bit.

    Args:
        agent: has `estimates()`, see rl/diagnostics/estimand.py.
        env: a VectorEnv with `.factory`, a factory `make(num_envs, seed, render_mode)`, a class or function that makes
            one environment, or an id of gymnasium's. Its gradient can be measured
            where it has `get_state` and `set_state`. `reseed(seed)` gives each round other noise of the environment's,
            and `stop_clock()` lets costs go on past a time limit; without the latter they end there.
        num_envs: environments side by side.
        visits: states of each environment at which the gradient is measured.
        rounds: of other random numbers at each state, 2 or more. More states serve better than more rounds.
        step: of the action to either side, in the agent's units, in which bounds are -1 and 1; the probed action is
            kept that far inside. Too small a step measures the noise of a simulator with contacts.
        within: steps of each environment among which costs-to-go and states are taken, at most its time limit.
        seed: of the training run, by default `env.initial_seed` or 0; the probe's is seed + 2,000,000.
    Raises:
        UserError: an argument out of range, an agent without C or that does not say what its C estimates, an
            environment that cannot be made anew.
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
    fresh = make(num_envs=num_envs, seed=seed, render_mode=None)
    try:
        return _Prober(agent.codec, agent.estimand(), fresh, seed).run(visits, rounds, step, within)
    finally:
        fresh.close()


class _Prober:
    """One probe, in environments of its own."""

    def __init__(self, codec: Codec, estimand: Estimand, env: VectorEnv, seed: int) -> None:
        self.codec, self.estimand, self.env, self.seed = codec, estimand, Rewind(env), seed
        self.generator = torch.Generator(codec.device).manual_seed(spawn_seeds(seed, 1)[0])
        gamma = estimand.gamma
        self.horizon = LONGEST if gamma >= 1 else 1 if gamma <= 0 else math.ceil(math.log(TAIL) / math.log(gamma))
        self.horizon = min(self.horizon, LONGEST)
        self.steps = 0
        self.waiting = 0  # rows that a rollout starts with in want of a reset, which is no step

    def run(self, visits: int, rounds: int, step: float, within: int) -> Probe:
        reason = self._why_not()
        if (limit := self.env.stop_clock()) is not None:
            within = min(within, limit)
        drawn = np.random.default_rng(self.seed).permutation(within)[:visits]
        first = self._player(within + self.horizon, asked=within, marks=set() if reason else set(drawn.tolist()))
        self._play(first, within + self.horizon, self.seed)
        found = _calibrated(first, within)
        if reason:
            return Probe(found, None, reason, None, self.steps)
        parts = []
        for t, mark in first.marks.items():
            self.waiting = int((~first.valid[t]).sum())
            parts.append(self._gradient(mark, rounds, step))
        # Rows that waited for a reset there were in no state.
        rows = np.concatenate([first.valid[t] for t in first.marks])
        points = Points(*(np.concatenate(column)[rows] for column in zip(*parts, strict=True)))
        return Probe(found, agreement(points.said, points.true, points.group), "", points, self.steps)

    def _why_not(self) -> str:
        """Why the gradient cannot be measured; "" where it can."""
        kind = self.estimand.critic.spec.action
        if kind == "none":
            return "this C is of states alone: it has no gradient in the action"
        if kind == "one_hot":
            return "there are too many combinations of choices to try each of them"
        if not self.env.can_rewind():
            return "the environment's state cannot be saved: it has no get_state and set_state"
        return ""

    def _gradient(self, mark: Mark, rounds: int, step: float) -> Points:
        """C's gradient and the true one at N states."""
        estimand = self.estimand
        x = estimand.critic.features(self.codec.tensor(mark.obs))
        if estimand.critic.discrete:
            assert estimand.probs is not None
            with torch.no_grad():
                said, probs = to_numpy(estimand.cost(x)), to_numpy(estimand.probs(x))
            action, costs = mark.action, self._rounds(mark, self._listed(len(x)), rounds)
            said, true = _advantages(said, probs), [_advantages(cost.T, probs) for cost in costs]
        else:
            action = mark.action.clamp(-1 + step, 1 - step)
            moves = step * torch.eye(action.shape[1], device=action.device)
            costs = self._rounds(mark, [action + sign * move for move in moves for sign in (1, -1)], rounds)
            said, true = (
                to_numpy(estimand.slope(x, action)),
                [(cost[::2] - cost[1::2]).T / (2 * step) for cost in costs],
            )
        return Points(mark.obs, to_numpy(action), said, np.stack(true, 1), np.arange(len(x)))

    def _listed(self, rows: int) -> list[Tensor]:
        """Every discrete action, each for all rows: [N] or [N, D]."""
        spec = self.estimand.critic.spec
        every = torch.arange(spec.action_size, device=self.codec.device)
        listed = self.estimand.critic.combinations if spec.choices else every
        return [action.expand(rows, *action.shape).contiguous() for action in listed]

    def _rounds(self, mark: Mark, tried: list[Tensor], rounds: int) -> list[np.ndarray]:
        """The cost-to-go of several first actions from one place, [actions, N] a round of common random numbers."""
        self.env.mark = mark
        costs = []
        for _ in range(rounds):
            seed = int(torch.randint(2**31, (), generator=self.generator, device=self.generator.device))
            noise = self._noise(self.horizon)
            found = []
            for action in tried:
                player = self._player(self.horizon, noise=noise, first=action)
                self._play(player, self.horizon, seed)
                found.append(player.returns()[0][0])
            costs.append(np.stack(found))
        return costs

    def _noise(self, steps: int) -> Tensor:
        return self.estimand.noise(steps, self.env.num_envs, generator=self.generator)

    def _player(self, steps: int, noise: Tensor | None = None, **more: Any) -> Player:
        noise = self._noise(steps) if noise is None else noise
        return Player(self.codec, self.estimand, self.env, noise, self.generator, **more)

    def _play(self, player: Player, steps: int, seed: int) -> None:
        """Lets it act for so many steps, or until every episode that counts has ended."""
        for count, tick in enumerate(interact(player, self.env, seed), 1):
            if count == steps or player.over:
                self.steps += tick.step - self.waiting
                return


def _calibrated(player: Player, within: int) -> Calibration:
    """C's word at the first steps beside what came about."""
    realised, left = (part[:within] for part in player.returns())
    rows = player.valid[:within]
    group = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    return calibration(player.said[:within][rows], realised[rows], group[rows], float(left[rows].mean()))


def _advantages(costs: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Costs less what the policy expects: [N, n], [N, n] -> [N, n]."""
    return costs - (costs * probs).sum(-1, keepdims=True)

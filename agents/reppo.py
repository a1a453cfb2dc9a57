"""REPPO: relative entropy pathwise policy optimisation (Voelcker et al. 2025, 2507.11019).

On-policy, and the actor learns through C alone: no replay, no target network, no second critic. Three things make C's
gradient safe to follow: C is trained on lambda-returns of soft cost; a temperature is tuned to a target entropy; and
where the policy has moved too far from the one that acted, the KL divergence is minimised in place of the cost.

The file reads in the order of the data: the actor's loss, act, observe, update. C's loss is in rl/gradients/losses.py.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.agents.common import AgentMixin, build_networks
from costgrad.agents.configs import OnPolicyConfig
from costgrad.rl import checkpoint
from costgrad.rl.buffers.rollout import RolloutMemory, minibatches
from costgrad.rl.data import Rollout, Step, flat, to_numpy
from costgrad.rl.diagnostics.estimand import Estimand, estimand_of
from costgrad.rl.gradients.descent import Descent
from costgrad.rl.gradients.entropy import Multipliers, largest_entropy
from costgrad.rl.gradients.estimators import expected_cost, gated_cost
from costgrad.rl.gradients.losses import critic_loss
from costgrad.rl.networks.acting import Acting
from costgrad.rl.networks.actor import StochasticActor
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.distributions import Policy
from costgrad.rl.networks.encoder import EncoderLike
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.norm import CostUnit
from costgrad.rl.optim import Optimizer, critic_optimizers
from costgrad.rl.returns import lambda_return
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class REPPOConfig(OnPolicyConfig):
    """Settings of REPPO; every one is a flag of the command train."""

    epochs: int = 8
    """Passes over each rollout."""
    actor_lr: float = 1e-3
    """Learning rate of the actor."""
    critic_lr: float = 1e-3
    """Learning rate of C."""
    multiplier_lr: float = 0.03
    """Learning rate of the logs of alpha and beta, per rollout; it falls as `actor_lr` does."""
    critic_warmup: int = 2000
    """Environment steps at the start during which C alone learns."""
    kl_bound: float = 0.1
    """Bound on KL(pi_old||pi) per state, in nats, beyond which it is minimised; it falls as `actor_lr` does."""
    entropy_target: float = 0.5
    """Target entropy: -x per action dimension (Box), x * log n (Discrete)."""
    alpha: float = 1e-3
    """Initial temperature: the entropy coefficient, in units of the size of discounted costs."""
    beta: float = 0.01
    """Initial coefficient of the KL penalty."""
    kl_gate: bool = True
    """False leaves the KL penalty out, for ablations."""
    head: Literal["regression", "hl_gauss"] = "hl_gauss"
    bins: int = 151
    hidden: tuple[int, ...] = (128, 128, 128)
    activation: Activation = "silu"
    layer_norm: bool = True
    state_std: bool = True


class Rows(NamedTuple):
    """A rollout, flat: B = T * N rows."""

    x: Tensor  # [B, ...] prepared observations, as the policy saw them
    action: Tensor  # [B, A] or [B]
    returns: Tensor  # [B] lambda-returns of soft cost
    old: Tensor  # [B, ...] the policy that acted, as `columns` gives it
    weight: Tensor  # [B] equal where the row counts, 0 where it is a reset; sum 1


class Bounds(NamedTuple):
    """What holds the policy during the update on a rollout."""

    alpha: Tensor  # the temperature, a scalar
    beta: Tensor  # coefficient of the divergence, a scalar
    kl: float  # nats, beyond which the divergence is minimised; infinity never
    unit: float  # the size of discounted costs


def actor_loss(
    actor: StochasticActor, critic: Critic, batch: Rows, noise: Tensor | None, bounds: Bounds
) -> tuple[Tensor]:
    """The mean of `gated_cost`: soft cost through C, or the divergence beyond the bound.

    `noise` is what a sample of a continuous pi is made of [1, B, A], or of choices [B, D, M]; else None.
    """
    pi: Policy = actor(batch.x)
    sample = None if noise is None else pi.sample(noise)
    cost = expected_cost(critic, critic.encode(batch.x).detach(), pi, sample) / bounds.unit
    kl = type(pi).of(batch.old).kl(pi)
    return (gated_cost(cost, pi.entropy(sample), kl, bounds.alpha, bounds.beta, bounds.kl) @ batch.weight,)


class REPPO(AgentMixin):
    """REPPO; `AgentMixin` documents the arguments."""

    config_class = REPPOConfig

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: REPPOConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        encoder: EncoderLike | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.config = c = config or REPPOConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting = spawn_seeds(seed, 2)
        spec = CriticSpec.of(self.codec, c)
        self.actor, self.critic = build_networks(self.codec, c, spec, weights, encoder, critic)
        self.multipliers = Multipliers(c.alpha, c.beta, c.multiplier_lr).to(self.codec.device)
        self.unit = CostUnit()  # of alpha and of the actor's loss; on the CPU, where costs come from
        learning = ("adam", c.critic_lr, *c.penalties)
        self.critic_optimizer, shared = critic_optimizers(self.critic, c.share_encoder, *learning)
        self.actor_optimizer = Optimizer(self.actor, "adam", c.actor_lr, *c.penalties)
        self.descend_critic = Descent(critic_loss, None, self.critic_optimizer, self.critic, others=shared)
        self.descend_actor = Descent(actor_loss, None, self.actor_optimizer, self.actor, self.critic, others=shared)
        self.entropy_target = c.entropy_target * largest_entropy(self.codec)
        self.acting = Acting(self.codec, self.actor, self.critic.norm, c.num_steps, acting, c.noise_correlation)
        self.memory = RolloutMemory(c.num_steps, c.gamma, ())
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts |= {"multipliers": self.multipliers, "unit": self.unit}
        self.parts |= {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer, **shared}
        self.steps = self.updates = 0
        self.check_parameters()

    def on_reset(self) -> None:
        """Called after every reset: an unfinished rollout is dropped, for its next row is of another episode."""
        self.memory.clear()
        self.unit.on_reset()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: a sample of pi, or its mode."""
        return (self.acting.explore(obs) if explore else self.acting.best(obs))[1]

    def observe(self, step: Step) -> None:
        """Adds one vector step to the rollout."""
        self.memory.add(step, {})

    def update(self) -> dict[str, Tensor]:
        """Once a rollout is full: targets, then C and the actor through C in turns, and last the normaliser."""
        if not self.memory.full:
            return {}
        rollout = self.memory.take()
        warm = self.steps >= self.config.critic_warmup
        self.steps += int(rollout.valid.sum())
        for optimizer in (self.critic_optimizer, self.actor_optimizer, *self.descend_actor.others):
            optimizer.anneal(self.steps)
        self.unit.update(rollout.cost, rollout.discount, rollout.done, rollout.valid)
        rows = self._targets(rollout)
        metrics = self.critic.adapt(rows.returns, rows.weight)
        bound = self.config.kl_bound * self.pace if self.config.kl_gate else math.inf
        bounds = Bounds(self.multipliers.alpha, self.multipliers.beta, bound, self.unit.value)
        for _ in range(self.config.epochs):
            for batch in minibatches(rows, self.config.batch_size, self.acting.generator):
                loss, norm = self.descend_critic(batch.x, batch.action, batch.returns, batch.weight)
                metrics |= {"critic_loss": loss.total, "critic_grad_norm": norm}
                if warm:
                    (actor_total,), norm = self.descend_actor(batch, self.acting.action_noise(len(batch.x)), bounds)
                    metrics |= {"actor_loss": actor_total, "actor_grad_norm": norm}
        if warm:
            metrics |= self._adjust_multipliers(rows)
        if self.critic.spec.normalize_obs:  # last, so that this update saw what the policy saw
            self.critic.obs_norm.update(flat(rollout.obs), flat(rollout.valid))
        self.updates += 1
        return metrics

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> Rows:
        """Lambda-returns of soft cost: a step's cost less alpha * entropy of the policy in the next state."""
        x, next_x = (self.critic.features(self.codec.tensor(flat(obs))) for obs in (rollout.obs, rollout.next_obs))
        pi: Policy = self.actor(next_x)
        sample = self.acting.sample_actions(pi, len(next_x))
        shape = rollout.cost.shape
        next_value = to_numpy(expected_cost(self.critic, self.critic.encode(next_x), pi, sample)).reshape(shape)
        bonus = to_numpy(pi.entropy(sample) * self.multipliers.alpha) * self.unit.value
        soft = rollout.cost - rollout.discount * bonus.reshape(shape)  # nothing follows a termination: discount is 0
        returns = lambda_return(soft, rollout.discount, next_value, rollout.done, self.config.gae_lambda)
        weight = rollout.valid / max(rollout.valid.sum(), 1)
        action, *rest = (self.codec.tensor(flat(column)) for column in (rollout.action, returns, weight))
        return Rows(x, action, rest[0], self.actor(x).columns(), rest[1])

    @torch.no_grad()
    def _adjust_multipliers(self, rows: Rows) -> dict[str, Tensor]:
        """One step of the multipliers, by where the update has left the policy."""
        pi: Policy = self.actor(rows.x)
        entropy = pi.entropy(self.acting.sample_actions(pi, len(rows.x))) @ rows.weight
        kl = type(pi).of(rows.old).kl(pi) @ rows.weight
        missing = (self.entropy_target - entropy) / (len(self.codec.choices) or self.codec.action_size)
        self.multipliers.adjust(missing * self.pace, (kl / (self.config.kl_bound * self.pace + 1e-9) - 1) * self.pace)
        return {"entropy": entropy, "kl": kl, "alpha": self.multipliers.alpha, "beta": self.multipliers.beta}

    @property
    def pace(self) -> float:
        """The share of the actor's learning rate that annealing has left, from 1 to 0."""
        return self.actor_optimizer.current_lr / (self.config.actor_lr or 1.0)

    def estimand(self) -> Estimand:
        """What C estimates: the soft cost-to-go of this policy."""
        alpha = float(to_numpy(self.multipliers.alpha)) * self.unit.value
        return estimand_of(self.critic, self.actor, self.config.gamma, alpha)

"""A2C: on-policy advantage actor-critic whose actor learns through the critic C.

Mnih et al. 2016 (1602.01783) with one change at its heart: C estimates the cost-to-go of an action, and the gradient
that reaches the actor comes through C (`pathwise`), by the score function (`score`, the textbook), or through C with
the score function correcting what C missed (`control_variate`). See rl/gradients/estimators.py.

The file reads in the order of the data: the actor's loss, act, observe, update. C's loss is in rl/gradients/losses.py.
"""

from __future__ import annotations

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
from costgrad.rl.gradients.estimators import expected_cost, policy_gradient
from costgrad.rl.gradients.losses import critic_loss
from costgrad.rl.networks.acting import Acting
from costgrad.rl.networks.actor import StochasticActor
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.distributions import Policy
from costgrad.rl.networks.encoder import EncoderLike
from costgrad.rl.optim import Optimizer, critic_optimizers
from costgrad.rl.returns import explained_variance, lambda_return
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec

DIAGNOSE_EVERY = 8  # updates between two that report how well C knew the returns, which costs extra


@settings
class A2CConfig(OnPolicyConfig):
    """Settings of A2C; every one is a flag of the command train."""

    actor_gradient: Literal["pathwise", "score", "control_variate"] = "control_variate"
    """How the gradient reaches the actor: through C, by the score function, or both."""
    num_steps: int = 16
    actor_lr: float = 1e-3
    """Learning rate of the actor."""
    critic_lr: float = 2e-3
    """Learning rate of C."""
    critic_passes: int = 4
    """Passes of C over each rollout."""
    critic_warmup: int = 2000
    """Environment steps at the start during which C alone learns."""
    ent_coef: float = 0.01
    """Coefficient of the entropy bonus, in units of the advantage's running root mean square."""
    dropout: float = 0.0
    """Dropout rate of C's hidden units in training."""
    n_critics: int = 1
    """Critics in the ensemble; the actor follows their mean."""
    layer_norm: bool = True
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimizer of actor and C."""
    log_std: float = -1.0
    action_samples: int = 4
    """Actions per state that an expectation over continuous actions is taken from."""


class Rows(NamedTuple):
    """A rollout, flat: B = T * N rows."""

    x: Tensor  # [B, ...] prepared observations, as the policy saw them
    action: Tensor  # [B, A] or [B]
    sample: Tensor  # [B, A] before tanh, or [B]
    returns: Tensor  # [B] G, lambda-returns of cost
    advantage: Tensor  # [B] G - b(s), with b from C before this rollout
    weight: Tensor  # [B] equal where the row counts, 0 where it is a reset; sum 1


def actor_loss(
    actor: StochasticActor, critic: Critic, row: Rows, noise: Tensor | None, unit: Tensor, config: A2CConfig
) -> tuple[Tensor]:
    """The actor's loss: the chosen estimate of the cost-to-go's gradient, less the entropy bonus; C gets no gradient.

    `noise` [M, B, A] is what samples of a continuous pi are made of, else None. `unit` [B] is the rows' weight over the
    advantage's size, so that the bonus means the same whatever costs are counted in.
    """
    pi: Policy = actor(row.x)
    samples = None if noise is None else pi.sample(noise)
    features, taken = critic.encode(row.x).detach(), (row.sample, row.action)
    kind = config.actor_gradient
    loss = policy_gradient(kind, critic, features, pi, samples, taken, row.returns, row.advantage)
    total = loss @ unit
    if config.ent_coef:
        total = total - config.ent_coef * (pi.entropy(samples) @ row.weight)
    return (total,)


class A2C(AgentMixin):
    """A2C; `AgentMixin` documents the arguments."""

    config_class = A2CConfig
    counters = ("steps", "updates", "advantage_square")

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: A2CConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        encoder: EncoderLike | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.config = c = config or A2CConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting = spawn_seeds(seed, 2)
        spec = CriticSpec.of(self.codec, c, state_only=c.actor_gradient == "score")
        self.actor, self.critic = build_networks(self.codec, c, spec, weights, encoder, critic)
        learning = (c.optimizer, c.critic_lr, *c.penalties)
        self.critic_optimizer, shared = critic_optimizers(self.critic, c.share_encoder, *learning)
        self.actor_optimizer = Optimizer(self.actor, c.optimizer, c.actor_lr, *c.penalties)
        self.descend_critic = Descent(critic_loss, None, self.critic_optimizer, self.critic, others=shared)
        self.descend_actor = Descent(actor_loss, None, self.actor_optimizer, self.actor, self.critic, others=shared)
        self.acting = Acting(self.codec, self.actor, self.critic.norm, c.num_steps, acting, c.noise_correlation)
        self.memory = RolloutMemory(c.num_steps, c.gamma, ("sample",))
        self.advantage_square = 0.0  # running mean
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts |= {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer, **shared}
        self.steps = self.updates = 0
        self._sample = np.empty(0)  # of the last action, until `observe`
        self.check_parameters()

    def on_reset(self) -> None:
        """Called after every reset: an unfinished rollout is dropped, for its next row is of another episode."""
        self.memory.clear()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1] or [N]: a sample of pi, or its mode."""
        self._sample, action = self.acting.explore(obs) if explore else self.acting.best(obs)
        return action

    def observe(self, step: Step) -> None:
        """Adds one vector step to the rollout."""
        self.memory.add(step, {"sample": self._sample})

    def update(self) -> dict[str, Tensor]:
        """Once a rollout is full: targets, C, the actor through C, and last the normaliser."""
        if not self.memory.full:
            return {}
        rollout = self.memory.take()
        warm = self.steps >= self.config.critic_warmup
        self.steps += int(rollout.valid.sum())
        for optimizer in (self.critic_optimizer, self.actor_optimizer, *self.descend_actor.others):
            optimizer.anneal(self.steps)
        row = self._targets(rollout)
        if not warm:
            metrics = self._update_critic(row)
        elif self.config.actor_gradient == "pathwise":  # follows C as it is after this rollout
            metrics = self._update_critic(row) | self._update_actor(row)
        else:  # the residual must come from a C that has not seen these returns
            metrics = self._update_actor(row) | self._update_critic(row)
        if self.critic.spec.normalize_obs:  # last, so that this update saw what the policy saw
            self.critic.obs_norm.update(flat(rollout.obs), flat(rollout.valid))
        self.updates += 1
        return metrics

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> Rows:
        """Lambda-returns of cost, with C as it stands."""
        both = np.concatenate((flat(rollout.obs), flat(rollout.next_obs)))
        x = self.critic.features(self.codec.tensor(both))
        pi = None if self.config.actor_gradient == "score" else self.actor(x)
        samples = None if pi is None else self.acting.sample_actions(pi, len(x), self.config.action_samples)
        expected = expected_cost(self.critic, self.critic.encode(x), pi, samples)
        value, next_value = to_numpy(expected).reshape(2, *rollout.cost.shape)
        returns = lambda_return(rollout.cost, rollout.discount, next_value, rollout.done, self.config.gae_lambda)
        weight = rollout.valid / max(rollout.valid.sum(), 1)
        advantage = returns - value
        mean_square = float((advantage * advantage * weight).sum())
        self.advantage_square += (mean_square - self.advantage_square) * (0.05 if self.updates else 1.0)
        columns = rollout.action, rollout.extra["sample"], returns, advantage, weight
        return Rows(x[: weight.size], *(self.codec.tensor(flat(column)) for column in columns))

    def _update_critic(self, row: Rows) -> dict[str, Tensor]:
        """Trains C on the returns, in shuffled minibatches, several times over."""
        metrics = self.critic.adapt(row.returns, row.weight)
        for _ in range(self.config.critic_passes):
            for batch in minibatches(row, self.config.batch_size, self.acting.generator):
                action = None if self.critic.spec.action == "none" else batch.action
                masks = self.critic.net.dropout_masks(len(batch.x), self.acting.generator)
                loss, norm = self.descend_critic(batch.x, action, batch.returns, batch.weight, masks)
        return metrics | {"critic_loss": loss.total, "critic_grad_norm": norm}

    def _update_actor(self, row: Rows) -> dict[str, Tensor]:
        """One step of the actor along the chosen gradient."""
        noise = self.acting.action_noise(len(row.x), self.config.action_samples)
        metrics = self._diagnose(row, noise) if self.updates % DIAGNOSE_EVERY == 0 else {}
        unit = row.weight / (self.advantage_square**0.5 + 1e-8)
        loss, norm = self.descend_actor(row, noise, unit, self.config)
        return metrics | {"actor_loss": loss[0], "actor_grad_norm": norm}

    @torch.no_grad()
    def _diagnose(self, row: Rows, noise: Tensor | None) -> dict[str, Tensor]:
        """The policy's entropy, and the share of the returns' variance that C explained before it saw them."""
        pi = self.actor(row.x)
        entropy = pi.entropy(None if noise is None else pi.sample(noise)) @ row.weight
        return {"entropy": entropy, "explained_variance": explained_variance(row.advantage, row.returns, row.weight)}

    def estimand(self) -> Estimand:
        """What C estimates: the cost-to-go of this policy, without the entropy bonus."""
        return estimand_of(self.critic, self.actor, self.config.gamma)

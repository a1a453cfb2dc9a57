"""PPO: proximal policy optimisation, the on-policy agent that people compare with (Schulman et al. 2017, 1707.06347).

Several epochs over each rollout; a clip on the probability ratio keeps the policy near the one that acted. C is a
baseline here, C(s): the gradient reaches the actor by the score function alone.

The file reads in the order in which the data flows: the loss, then act, observe, and the update of C and the actor.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor, nn

from costgrad.agents.common import AgentMixin, build_networks
from costgrad.agents.configs import OnPolicyConfig
from costgrad.rl import checkpoint
from costgrad.rl.buffers.rollout import RolloutMemory, minibatches
from costgrad.rl.data import Rollout, Step, flat, to_numpy
from costgrad.rl.diagnostics.estimand import Estimand, estimand_of
from costgrad.rl.errors import UserError
from costgrad.rl.gradients.descent import Descent
from costgrad.rl.gradients.estimators import clipped_score
from costgrad.rl.gradients.fast import ppo_step
from costgrad.rl.gradients.losses import PPOLoss
from costgrad.rl.networks.acting import Acting
from costgrad.rl.networks.actor import StochasticActor
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.distributions import Policy
from costgrad.rl.networks.encoder import EncoderLike
from costgrad.rl.optim import Optimizer
from costgrad.rl.returns import lambda_return
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class PPOConfig(OnPolicyConfig):
    """Settings of PPO; every one is a flag of the command train."""

    num_steps: int = 128
    batch_size: int = 256
    epochs: int = 4
    """Passes over each rollout."""
    learning_rate: float = 1e-3
    """Learning rate of actor and C."""
    clip_range: float = 0.2
    """Clip of the probability ratio: its gradient ends where the ratio has moved so far from 1."""
    clip_range_vf: float = 0.0
    """Clip of C's change per rollout, in units of its scale; 0 disables it. Only for the regression head."""
    vf_coef: float = 0.5
    """Coefficient of C's loss."""
    ent_coef: float = 0.01
    """Coefficient of the entropy bonus; advantages have variance 1."""
    target_kl: float = 0.0
    """Ends an update after the epoch in which KL(pi_old||pi) exceeds 1.5 times this, in nats; 0 never does."""


class Rows(NamedTuple):
    """A rollout, flat: B = T * N rows."""

    x: Tensor  # [B, ...] prepared observations, as the policy saw them
    sample: Tensor  # [B, A] before tanh, or [B]
    log_prob: Tensor  # [B] of the sample, when it was acted on
    advantage: Tensor  # [B] of mean 0 and variance 1; positive where the action cost more than expected
    returns: Tensor  # [B] lambda-returns of cost, in units of C's scale
    value: Tensor  # [B] C(s) before this rollout, likewise
    weight: Tensor  # [B] equal where the row counts, 0 where it is a reset; sum 1
    share: Tensor  # [B] the weight in the whole rollout, of whatever part


def ppo_loss(actor: StochasticActor, critic: Critic, batch: Rows, noise: Tensor | None, config: PPOConfig) -> PPOLoss:
    """The clipped surrogate, C's loss and the entropy bonus (1707.06347, eq. 7 and 9).

    Args:
        actor: pi.
        critic: C of states.
        batch: a minibatch.
        noise: what the entropy's samples of a continuous pi are made of [1, B, A]; None where none are needed.
        config: `clip_range`, `clip_range_vf`, `vf_coef` and `ent_coef` count.
    """
    pi: Policy = actor(batch.x)
    log_ratio = pi.log_prob(batch.sample) - batch.log_prob
    actor_loss, _ = clipped_score(log_ratio, batch.advantage, config.clip_range)
    output = critic.output(critic.encode(batch.x))[0]
    critic_loss, _ = critic.head.loss_and_gradient(output, batch.returns, batch.value, config.clip_range_vf)
    total = torch.add(actor_loss, critic_loss, alpha=config.vf_coef) @ batch.weight
    if config.ent_coef:
        entropy = pi.entropy(None if noise is None else pi.sample(noise))
        total = total - config.ent_coef * (entropy @ batch.weight)
    return PPOLoss(total, log_ratio, actor_loss, critic_loss)


class PPO(AgentMixin):
    """PPO; `AgentMixin` documents the arguments. `critic` is a C of states."""

    config_class = PPOConfig

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: PPOConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        encoder: EncoderLike | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.config = c = config or PPOConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting = spawn_seeds(seed, 2)
        spec = CriticSpec.of(self.codec, c, state_only=True, ensemble=1)
        self.actor, self.critic = build_networks(self.codec, c, spec, weights, encoder, critic)
        if self.critic.spec.ensemble != 1:
            raise UserError(f"critic= has {self.critic.spec.ensemble} members: PPO takes a single one")
        both = nn.ModuleDict({"actor": self.actor, "critic": self.critic})
        self.optimizer = Optimizer(both, "adam", c.learning_rate, c.max_grad_norm, c.l2, c.l1, c.decay_steps)
        self.descend = Descent(ppo_loss, ppo_step, self.optimizer, self.actor, self.critic)
        self.acting = Acting(self.codec, self.actor, self.critic.norm, c.num_steps, acting, c.noise_correlation)
        self.memory = RolloutMemory(c.num_steps, c.gamma, ("sample",))
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts["optimizer"] = self.optimizer
        self.steps = self.updates = 0
        self._sample = np.empty(0)  # of the last action, until `observe`
        self.check_parameters()

    def on_reset(self) -> None:
        """Called after every reset: an unfinished rollout is dropped, for its next row is of another episode."""
        self.memory.clear()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: a sample of pi, or its mode."""
        self._sample, action = self.acting.explore(obs) if explore else self.acting.best(obs)
        return action

    def observe(self, step: Step) -> None:
        """Adds one vector step to the rollout."""
        self.memory.add(step, {"sample": self._sample})

    def update(self) -> dict[str, Tensor]:
        """Once a rollout is full: advantages, then several epochs over it, and last the normaliser."""
        if not self.memory.full:
            return {}
        rollout = self.memory.take()
        self.steps += int(rollout.valid.sum())
        self.optimizer.anneal(self.steps)
        rows = self._targets(rollout)
        metrics = self.critic.adapt(rows.returns, rows.weight)
        returns, value = map(self.critic.cost_scale.scaled, (rows.returns, rows.value))
        rows = rows._replace(returns=returns, value=value)
        for _ in range(self.config.epochs):
            batches = list(minibatches(rows, self.config.batch_size, self.acting.generator))
            losses, norms = zip(*map(self._descend, batches), strict=True)
            log_ratio, actor_loss, critic_loss = map(torch.cat, [*zip(*losses, strict=True)][1:])
            share = torch.cat([batch.share for batch in batches])
            # The mean of r - 1 - log r over pi_old's actions is KL(pi_old||pi), and never negative.
            kl = (log_ratio.expm1() - log_ratio) @ share
            if self.config.target_kl and float(kl) > 1.5 * self.config.target_kl:
                break
        if self.critic.spec.normalize_obs:  # last, so that this update saw what the policy saw
            self.critic.obs_norm.update(flat(rollout.obs), flat(rollout.valid))
        self.updates += 1
        metrics |= {"actor_loss": actor_loss @ share, "critic_loss": critic_loss @ share}
        return metrics | {"grad_norm": torch.stack(norms).mean(), "approx_kl": kl}

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> Rows:
        """Lambda-returns and advantages (GAE) of cost, with C as it stands."""
        both = np.concatenate((flat(rollout.obs), flat(rollout.next_obs)))
        x = self.critic.features(self.codec.tensor(both))
        value, next_value = to_numpy(self.critic.cost(self.critic.encode(x)).mean(0)).reshape(2, *rollout.cost.shape)
        returns = lambda_return(rollout.cost, rollout.discount, next_value, rollout.done, self.config.gae_lambda)
        weight = rollout.valid / max(rollout.valid.sum(), 1)
        advantage = returns - value
        advantage -= (advantage * weight).sum()
        advantage /= (advantage * advantage * weight).sum() ** 0.5 + 1e-8
        columns = (rollout.extra["sample"], advantage, returns, value, weight, weight)
        sample, *rest = (self.codec.tensor(flat(column)) for column in columns)
        x = x[: len(sample)]
        return Rows(x, sample, self.actor(x).log_prob(sample), *rest)

    def _descend(self, batch: Rows) -> tuple[PPOLoss, Tensor]:
        """One step of the actor and C on a minibatch; what the loss came to, and the gradient norm."""
        noise = self.acting.action_noise(len(batch.weight)) if self.config.ent_coef else None
        return self.descend(batch, noise, self.config)

    def estimand(self) -> Estimand:
        """What C estimates: the cost-to-go of this policy from a state on, without the entropy bonus."""
        return estimand_of(self.critic, self.actor, self.config.gamma)

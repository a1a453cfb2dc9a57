"""SAC: soft actor-critic (Haarnoja et al. 2018, 1812.05905), for continuous and discrete actions (1910.07207).

Off-policy: transitions are kept in a replay buffer and learnt from many times. The actor minimises C - alpha * entropy,
and alpha is tuned to a target entropy. Continuous actions are reparameterised, and the maximum cost of the ensemble
counts (clipped double Q). For discrete ones the expectation over actions goes through C exactly, and the mean of the
ensemble counts (2209.10081).

The file reads in the order in which the data flows: act, observe, update of C, update of the actor through C. The two
losses, `critic_loss` and `soft_actor_loss`, are in rl/gradients/losses.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.agents.common import AgentMixin, build_networks
from costgrad.agents.configs import OffPolicyConfig
from costgrad.rl import checkpoint
from costgrad.rl.buffers.hindsight import Hindsight
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.data import Batch, Step, to_numpy
from costgrad.rl.diagnostics.estimand import Estimand, estimand_of
from costgrad.rl.errors import UserError
from costgrad.rl.gradients.descent import Descent
from costgrad.rl.gradients.entropy import Temperature, largest_entropy, soft_cost
from costgrad.rl.gradients.fast import critic_step, soft_actor_step
from costgrad.rl.gradients.losses import critic_loss, soft_actor_loss
from costgrad.rl.networks.acting import CHUNK, Acting
from costgrad.rl.networks.critic import MAX_JOINT_ACTIONS, Critic, CriticSpec
from costgrad.rl.networks.encoder import EncoderLike
from costgrad.rl.networks.mlp import Init
from costgrad.rl.optim import Optimizer, Target, critic_optimizers
from costgrad.rl.returns import td_target
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class SACConfig(OffPolicyConfig):
    """Settings of SAC; every one is a flag of the command train."""

    tau: float = 0.005
    """Polyak rate of the target network."""
    alpha: float = 1.0
    """Initial temperature: the entropy coefficient, in units of cost per nat."""
    alpha_lr: float = 3e-4
    """Learning rate of the temperature; 0 keeps it."""
    entropy_target: float = 1.0
    """Target entropy: -x per action dimension (Box), x/2 * log n (Discrete)."""
    per_alpha: float = 0.0
    """Prioritised experience replay: exponent of the priorities (0.6 is usual); 0 draws uniformly."""
    per_beta: float = 0.4
    """Prioritised experience replay: importance-sampling correction, from 0 to 1."""
    dropout: float = 0.0
    """Dropout rate of C's hidden units (DroQ, 2110.02034)."""
    layer_norm: bool = False
    """Layer normalisation in actor and C."""
    init: Init = "uniform"
    """Initial weights of actor and C: uniform within 1 / sqrt(inputs), or orthogonal and 2.4 times as large."""


class SAC(AgentMixin):
    """SAC; `AgentMixin` documents the arguments."""

    config_class = SACConfig
    counters = ("steps", "updates", "updates_due")

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: SACConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        encoder: EncoderLike | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.config = c = config or SACConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting, draw = spawn_seeds(seed, 3)
        spec = CriticSpec.of(self.codec, c, head="regression")
        if spec.action == "one_hot":
            raise UserError(
                f"SAC takes up to {MAX_JOINT_ACTIONS} combinations of choices, {action_space} has more: "
                "A2C, PPO and REPPO do"
            )
        self.actor, self.critic = build_networks(self.codec, c, spec, weights, encoder, critic)
        most = largest_entropy(self.codec) / (2 if self.codec.discrete else 1)
        self.temperature = Temperature(c.alpha, c.entropy_target * most).to(self.codec.device)
        learning = ("adam", c.critic_lr, *c.penalties)
        self.critic_optimizer, shared = critic_optimizers(self.critic, c.share_encoder, *learning)
        self.actor_optimizer = Optimizer(self.actor, "adam", c.actor_lr, *c.penalties)
        self.temperature_optimizer = Optimizer(self.temperature, "adam", c.alpha_lr)
        self.target_critic = Target(self.critic, self.critic_optimizer, c.tau, *shared.values())
        self.descend_critic = Descent(critic_loss, critic_step, self.critic_optimizer, self.critic, others=shared)
        self.descend_actor = Descent(
            soft_actor_loss, soft_actor_step, self.actor_optimizer, self.actor, self.critic, others=shared
        )
        self.acting = Acting(self.codec, self.actor, self.critic.norm, CHUNK, acting, c.noise_correlation)
        self.hindsight = Hindsight(self.codec, c.hindsight) if c.hindsight else None
        self.memory = Replay(c.buffer_size, c.gamma, c.n_step, draw, c.per_alpha, c.per_beta, self.hindsight)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts |= {"target_critic": self.target_critic, "temperature": self.temperature}
        self.parts |= {"temperature_optimizer": self.temperature_optimizer, "actor_optimizer": self.actor_optimizer}
        self.parts |= {
            "critic_optimizer": self.critic_optimizer,
            **shared,
        }
        self.steps = self.updates = 0
        self.updates_due = 0.0
        self.check_parameters()

    def on_reset(self) -> None:
        """Called after every reset: no episode goes on from the newest step."""
        self.memory.on_reset()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: a sample of pi, or its mode; uniform at the start."""
        if not explore:
            return self.acting.best(obs)[1]
        if self.steps < self.config.learning_starts:
            return self.acting.uniform(len(obs))
        return self.acting.explore(obs)[1]

    def observe(self, step: Step) -> None:
        """Adds one vector step to the replay buffer."""
        self.memory.add(step)
        if self.critic.spec.normalize_obs:
            self.critic.obs_norm.update(step.obs, step.valid)
        counted = int(step.valid.sum())
        self.steps += counted
        if self.steps > self.config.learning_starts:
            self.updates_due += counted * self.config.update_ratio

    @torch.no_grad()
    def update(self) -> dict[str, Tensor]:
        """As many updates as are due, each of C, the actor, the temperature and the target network."""
        metrics: dict[str, Tensor] = {}
        for optimizer in (self.critic_optimizer, self.actor_optimizer, *self.descend_actor.others):
            optimizer.anneal(self.steps)
        while self.updates_due >= 1:
            self.updates_due -= 1
            self.updates += 1
            batch = self.critic.prepared(self.memory.sample(self.config.batch_size))
            metrics |= self._update_critic(batch)
            metrics |= self._update_actor(batch)
            self.target_critic.soft_update()
        return metrics

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """One step of C towards the temporal-difference target of soft cost."""
        target_critic, rows, generator = self.target_critic.copy, len(batch.cost), self.acting.generator
        next_pi = self.actor(batch.next_obs)
        next_sample = self.acting.sample_actions(next_pi, rows)
        masks = target_critic.net.dropout_masks(rows, generator)
        next_x = target_critic.encode(batch.next_obs)
        next_cost, _ = soft_cost(target_critic, next_x, next_pi, next_sample, self.temperature.alpha, masks)
        target = td_target(batch.cost, batch.discount, next_cost)
        masks = self.critic.net.dropout_masks(rows, generator)
        loss, norm = self.descend_critic(batch.obs, batch.action, target, batch.weight, masks)
        self.memory.prioritise(batch.indices, loss.losses / self.critic.spec.ensemble)
        return {"critic_loss": loss.total, "critic_grad_norm": norm}

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor through C, and of the temperature towards its target entropy."""
        noise = self.acting.action_noise(len(batch.obs))
        masks = self.critic.net.dropout_masks(len(batch.obs), self.acting.generator)
        alpha = self.temperature.alpha
        loss, norm = self.descend_actor(batch.obs, noise, alpha, batch.weight, masks)
        entropy = loss.entropy @ batch.weight / batch.weight.sum()  # with priorities the sum is below 1
        if self.config.alpha_lr:
            self.temperature_optimizer.apply(self.temperature.gradient(entropy))
        metrics = {"actor_loss": loss.total, "actor_grad_norm": norm, "entropy": entropy}
        return metrics | {"alpha": self.temperature.alpha}

    def estimand(self) -> Estimand:
        """What C estimates: the soft cost-to-go of this policy; the actor reads its maximum, or the mean."""
        alpha = float(to_numpy(self.temperature.alpha))
        c, max_cost = self.config, not self.codec.discrete
        return estimand_of(self.critic, self.actor, c.gamma, alpha, max_cost, c.n_step)

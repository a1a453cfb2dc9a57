"""CrossQ: soft actor-critic whose C needs no target network (Bhatt et al. 2024, 1902.05605), C being a distribution.

Off-policy. C's hidden units are batch-normalised, and states and next states pass C together, so both are seen alike;
that steadies C enough to bootstrap from itself at a high learning rate. C is trained with cross-entropy over cost bins
whose support follows the costs (as XQC has it, 2509.25174). A few large steps take the place of many small ones: this
is the agent for few environment steps in little time.

The file reads in the order in which the data flows: act, observe, update of C, update of the actor through C. The two
losses, `joint_critic_loss` and `soft_actor_loss`, are in rl/gradients/losses.py.
"""

from __future__ import annotations

from typing import Any, Literal

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
from costgrad.rl.gradients.entropy import Temperature, largest_entropy
from costgrad.rl.gradients.fast import joint_critic_step, soft_actor_step
from costgrad.rl.gradients.losses import joint_critic_loss, soft_actor_loss
from costgrad.rl.networks.acting import CHUNK, Acting
from costgrad.rl.networks.critic import MAX_JOINT_ACTIONS, Critic, CriticSpec
from costgrad.rl.networks.encoder import EncoderLike
from costgrad.rl.networks.heads import Extremes
from costgrad.rl.optim import Optimizer, critic_optimizers
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec

ADAPT = 20  # updates of C between two looks at the scale of its targets


@settings
class CrossQConfig(OffPolicyConfig):
    """Settings of CrossQ; every one is a flag of the command train."""

    batch_size: int = 128
    learning_starts: int = 5_000
    update_ratio: float = 0.25
    actor_lr: float = 1e-3
    critic_lr: float = 1e-3
    normalize_obs: bool = True
    policy_delay: int = 3
    """Updates of C per update of the actor and the temperature."""
    beta1: float = 0.5
    """Decay rate of Adam's mean gradient."""
    head: Literal["regression", "hl_gauss"] = "hl_gauss"
    """C as one number, or as a distribution over cost bins trained with cross-entropy (HL-Gauss, 2403.03950)."""
    bins: int = 101
    """Cost bins of hl_gauss."""
    alpha: float = 1.0
    """Initial temperature: the entropy coefficient, in units of cost per nat."""
    alpha_lr: float = 1e-3
    """Learning rate of the temperature; 0 keeps it."""
    entropy_target: float = 1.0
    """Target entropy: -x per action dimension (Box), x/2 * log n (Discrete)."""


class CrossQ(AgentMixin):
    """CrossQ; `AgentMixin` documents the arguments. `critic` is batch-normalised."""

    config_class = CrossQConfig
    counters = ("steps", "updates", "updates_due")

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: CrossQConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        encoder: EncoderLike | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.config = c = config or CrossQConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting, draw = spawn_seeds(seed, 3)
        spec = CriticSpec.of(self.codec, c, batch_norm=True)
        if spec.action == "one_hot":
            raise UserError(
                f"CrossQ takes up to {MAX_JOINT_ACTIONS} combinations of choices, {action_space} has more: "
                "A2C, PPO and REPPO do"
            )
        self.actor, self.critic = build_networks(self.codec, c, spec, weights, encoder, critic)
        self.critic.eval()
        if self.critic.encoder is not None:
            self.critic.encoder.train()
        most = largest_entropy(self.codec) / (2 if self.codec.discrete else 1)
        self.temperature = Temperature(c.alpha, c.entropy_target * most).to(self.codec.device)
        penalties = (*c.penalties, c.beta1)
        learning = ("adam", c.critic_lr, *penalties)
        self.critic_optimizer, shared = critic_optimizers(self.critic, c.share_encoder, *learning)
        self.actor_optimizer = Optimizer(self.actor, "adam", c.actor_lr, *penalties)
        self.temperature_optimizer = Optimizer(self.temperature, "adam", c.alpha_lr, beta1=c.beta1)
        self.extremes = Extremes().to(self.codec.device)  # of the targets between two looks at their scale
        self.descend_critic = Descent(
            joint_critic_loss, joint_critic_step, self.critic_optimizer, self.critic, others=shared
        )
        self.descend_actor = Descent(
            soft_actor_loss, soft_actor_step, self.actor_optimizer, self.actor, self.critic, others=shared
        )
        self.acting = Acting(self.codec, self.actor, self.critic.norm, CHUNK, acting, c.noise_correlation)
        self.hindsight = Hindsight(self.codec, c.hindsight) if c.hindsight else None
        self.memory = Replay(c.buffer_size, c.gamma, c.n_step, draw, hindsight=self.hindsight)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts |= {"temperature": self.temperature, "temperature_optimizer": self.temperature_optimizer}
        self.parts |= {"extremes": self.extremes, "actor_optimizer": self.actor_optimizer}
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
        """As many updates of C as are due; the actor and the temperature learn every `policy_delay` of them."""
        metrics: dict[str, Tensor] = {}
        for optimizer in (self.critic_optimizer, self.actor_optimizer, *self.descend_actor.others):
            optimizer.anneal(self.steps)
        while self.updates_due >= 1:
            self.updates_due -= 1
            batch = self.critic.prepared(self.memory.sample(self.config.batch_size))
            metrics |= self._update_critic(batch)
            self.updates += 1
            if self.updates % self.config.policy_delay == 0:
                metrics |= self._update_actor(batch)
        return metrics

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """One step of C towards the temporal-difference target of soft cost, bootstrapped from C itself."""
        next_pi = self.actor(batch.next_obs)
        next_sample = self.acting.sample_actions(next_pi, len(batch.cost))
        transition = (batch.obs, batch.action, batch.cost, batch.discount, batch.next_obs)
        loss, norm = self.descend_critic(*transition, next_pi, next_sample, self.temperature.alpha, batch.weight)
        metrics = {"critic_loss": loss.total, "critic_grad_norm": norm}
        self.extremes.take(loss.target)
        if self.updates % ADAPT == 0:
            metrics |= self.critic.adapt(*self.extremes.seen())
        return metrics

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor through C, and of the temperature towards its target entropy."""
        noise, alpha = self.acting.action_noise(len(batch.obs)), self.temperature.alpha
        loss, norm = self.descend_actor(batch.obs, noise, alpha, batch.weight, None)
        entropy = loss.entropy @ batch.weight
        if self.config.alpha_lr:
            self.temperature_optimizer.apply(self.temperature.gradient(entropy))
        metrics = {"actor_loss": loss.total, "actor_grad_norm": norm, "entropy": entropy}
        return metrics | {"alpha": self.temperature.alpha}

    def estimand(self) -> Estimand:
        """What C estimates: the soft cost-to-go of this policy; the actor reads its maximum, or the mean."""
        alpha = float(to_numpy(self.temperature.alpha))
        c, max_cost = self.config, not self.codec.discrete
        return estimand_of(self.critic, self.actor, c.gamma, alpha, max_cost, c.n_step)

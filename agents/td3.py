"""TD3: twin delayed deterministic policy gradient (Fujimoto et al. 2018, 1802.09477); DDPG (1509.02971) is a setting.

Off-policy: transitions are kept in a replay buffer and learnt from many times. The actor is a deterministic function of
the state that minimises C. Three things keep C's errors from being exploited: the maximum of two critics (clipped
double Q), target policy smoothing, and delayed policy updates. DDPG has none of them: n_critics=1,
target_policy_noise=0, policy_delay=1.

The file reads in the order in which the data flows: act, observe, update of C, update of the actor through C. The two
losses, `critic_loss` and `deterministic_actor_loss`, are in rl/gradients/losses.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.agents.common import AgentMixin
from costgrad.agents.configs import OffPolicyConfig
from costgrad.rl import checkpoint
from costgrad.rl.buffers.hindsight import Hindsight
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.data import Batch, Step
from costgrad.rl.diagnostics.estimand import Estimand
from costgrad.rl.errors import UserError
from costgrad.rl.gradients.descent import Descent
from costgrad.rl.gradients.fast import critic_step, deterministic_actor_step
from costgrad.rl.gradients.losses import critic_loss, deterministic_actor_loss
from costgrad.rl.networks.acting import CHUNK, Acting
from costgrad.rl.networks.actor import DeterministicActor
from costgrad.rl.networks.build import build_critic
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.encoder import EncoderLike, SharedEncoder, build_encoders
from costgrad.rl.networks.mlp import Init
from costgrad.rl.optim import Optimizer, Target, critic_optimizers
from costgrad.rl.returns import td_target
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class TD3Config(OffPolicyConfig):
    """Settings of TD3; every one is a flag of the command train."""

    tau: float = 0.005
    """Polyak rate of the target networks."""
    policy_delay: int = 2
    """Updates of C per update of the actor and the target networks (delayed policy updates)."""
    exploration_noise: float = 0.1
    """Standard deviation of exploration noise, actions in [-1, 1]."""
    target_policy_noise: float = 0.2
    """Standard deviation of the noise on the target action (target policy smoothing)."""
    target_noise_clip: float = 0.5
    """Largest noise on the target action."""
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


class TD3(AgentMixin):
    """TD3; `AgentMixin` documents the arguments. Actions are a Box."""

    config_class = TD3Config
    counters = ("steps", "updates", "updates_due")

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: TD3Config | None = None,
        seed: int = 0,
        device: str = "cpu",
        encoder: EncoderLike | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.config = c = config or TD3Config()
        self.codec = Codec(observation_space, action_space, device)
        if self.codec.discrete:
            raise UserError(f"TD3 acts in a bounded Box, not in {action_space}: SAC, PPO, REPPO and A2C take that")
        weights, acting, draw = spawn_seeds(seed, 3)
        start = torch.Generator().manual_seed(weights)  # on the CPU: the same initial weights on every device
        spec = CriticSpec.of(self.codec, c, head="regression")
        given = critic.encoder if critic is not None else None
        of_critic, of_actor = build_encoders(encoder, c.share_encoder, self.codec.obs, weights, given)
        self.critic = build_critic(critic, spec, start, of_critic, self.codec.device)
        features = math.prod(self.codec.obs_shape) if of_actor is None else of_actor.features
        shape = (features, self.codec.action_size, c.hidden, c.activation, c.layer_norm, c.exploration_noise)
        self.actor = DeterministicActor(*shape, start, c.init, of_actor).to(self.codec.device)
        learning = ("adam", c.critic_lr, *c.penalties)
        self.critic_optimizer, shared = critic_optimizers(self.critic, c.share_encoder, *learning)
        self.actor_optimizer = Optimizer(self.actor, "adam", c.actor_lr, *c.penalties)
        self.target_critic = Target(self.critic, self.critic_optimizer, c.tau, *shared.values())
        self.target_actor = Target(self.actor, self.actor_optimizer, c.tau)
        if isinstance(of_actor, SharedEncoder) and self.target_critic.copy.encoder is not None:
            self.target_actor.copy.encoder = SharedEncoder(self.target_critic.copy.encoder, learns=False)
        self.descend_critic = Descent(critic_loss, critic_step, self.critic_optimizer, self.critic, others=shared)
        self.descend_actor = Descent(
            deterministic_actor_loss,
            deterministic_actor_step,
            *(self.actor_optimizer, self.actor, self.critic),
            others=shared,
        )
        self.acting = Acting(self.codec, self.actor, self.critic.norm, CHUNK, acting, c.noise_correlation)
        self.hindsight = Hindsight(self.codec, c.hindsight) if c.hindsight else None
        self.memory = Replay(c.buffer_size, c.gamma, c.n_step, draw, c.per_alpha, c.per_beta, self.hindsight)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts |= {"target_actor": self.target_actor, "target_critic": self.target_critic}
        self.parts |= {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer}
        self.parts |= shared
        self.steps = self.updates = 0
        self.updates_due = 0.0
        self.check_parameters()

    def on_reset(self) -> None:
        """Called after every reset: no episode goes on from the newest step."""
        self.memory.on_reset()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1]: mu(s) and exploration noise; uniform at the start."""
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
        """As many updates of C as are due; the actor and the targets learn every `policy_delay` of them."""
        metrics: dict[str, Tensor] = {}
        for optimizer in (self.critic_optimizer, self.actor_optimizer, *self.descend_actor.others):
            optimizer.anneal(self.steps)
        while self.updates_due >= 1:
            self.updates_due -= 1
            self.updates += 1
            batch = self.critic.prepared(self.memory.sample(self.config.batch_size))
            metrics |= self._update_critic(batch)
            if self.updates % self.config.policy_delay == 0:
                metrics |= self._update_actor(batch)
                self.target_critic.soft_update()
                self.target_actor.soft_update()
        return metrics

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """One step of C towards the temporal-difference target."""
        generator = self.acting.generator
        noise = self.actor.noise(len(batch.cost), generator=generator)
        target = td_target(batch.cost, batch.discount, self.target_cost(batch.next_obs, noise))
        masks = self.critic.net.dropout_masks(len(target), generator)
        loss, norm = self.descend_critic(batch.obs, batch.action, target, batch.weight, masks)
        self.memory.prioritise(batch.indices, loss.losses / self.critic.spec.ensemble)
        return {"critic_loss": loss.total, "critic_grad_norm": norm}

    def target_cost(self, x: Tensor, noise: Tensor) -> Tensor:
        """The maximum cost of the target critics at the smoothed target action (eq. 14): [B, ...], [B, A] -> [B]."""
        critic = self.target_critic.copy
        action = self.smoothed(self.target_actor.copy, x, noise)
        masks = critic.net.dropout_masks(len(x), self.acting.generator)
        return critic.cost(critic.encode(x), action, masks).amax(0)

    def smoothed(self, actor: DeterministicActor, x: Tensor, noise: Tensor) -> Tensor:
        """An actor's action with clipped noise on it: [B, ...], [B, A] -> [B, A]."""
        c = self.config
        clipped = (c.target_policy_noise * noise).clamp(-c.target_noise_clip, c.target_noise_clip)
        return (actor(x) + clipped).clamp(-1, 1)

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor through the first critic."""
        loss, norm = self.descend_actor(batch.obs, batch.weight)
        return {"actor_loss": loss.total, "actor_grad_norm": norm}

    def estimand(self) -> Estimand:
        """What C estimates: the cost-to-go of mu with the target's noise; the actor reads the first critic."""

        def policy(x: Tensor, noise: Tensor) -> tuple[Tensor, None]:
            return self.smoothed(self.actor, x, noise), None

        return Estimand(self.critic, policy, self.actor.noise, self.config.gamma, members="first")

"""Guided ES: evolution strategies along a surrogate's gradient (Maheswaranathan et al. 2019, 1806.10230).

Half gradient-free: candidates are mirrored pairs as in ES, but their noise is stretched along a few recent gradients of
the actor through C, which learns, as in TD3 (1802.09477), from every transition that the candidates see. Where C's
gradient is right, the search has few dimensions; where it is wrong, the episodes' own costs say so, for C only points.

The file reads in the order of a generation: ask, play (rl/evolution/population.py), update of C, tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.agents.common import AgentMixin
from costgrad.agents.configs import SearchConfig
from costgrad.rl import checkpoint
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.checks import tensor
from costgrad.rl.data import Batch, Step, to_numpy
from costgrad.rl.errors import UserError
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import Population
from costgrad.rl.evolution.search import centered_ranks, directions, guided, mirrored, orthonormal, pairs, slope
from costgrad.rl.gradients.descent import Descent
from costgrad.rl.gradients.estimators import expected_cost
from costgrad.rl.gradients.losses import critic_loss
from costgrad.rl.networks.actor import CategoricalActor
from costgrad.rl.networks.build import build_critic
from costgrad.rl.networks.critic import MAX_JOINT_ACTIONS, Critic, CriticSpec
from costgrad.rl.networks.encoder import EncoderLike, build_encoders
from costgrad.rl.optim import Optimizer, Target, annealed
from costgrad.rl.returns import td_target
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class GuidedESConfig(SearchConfig):
    """Settings of guided ES; every one is a flag of the command train."""

    directions: int = 8
    """Mirrored pairs of candidates per generation."""
    sigma: float = 0.1
    """Standard deviation of the candidates around the centre, per parameter."""
    isotropic: float = 0.5
    """Share of the noise that is isotropic, alpha; the rest is along C's gradients. 1 is without C."""
    subspace: int = 4
    """Gradients of C that span the subspace: those of so many generations."""
    learning_rate: float = 0.1
    """Step size along the gradient that the candidates' ranks estimate."""
    decay_steps: int = 0
    """Environment steps over which learning rates fall linearly to 0; 0 keeps them."""
    gamma: float = 0.99
    """Discount factor of C; candidates are compared by undiscounted costs."""
    buffer_size: int = 1_000_000
    """Transitions in C's replay buffer."""
    batch_size: int = 128
    """Rows of a minibatch of C."""
    guide_batch_size: int = 1_024
    """States that C's gradient is the mean over."""
    learning_starts: int = 1_000
    """Environment steps before C learns and guides."""
    update_ratio: float = 0.25
    """Updates of C per environment step."""
    critic_lr: float = 1e-3
    """Learning rate of C."""
    n_critics: int = 2
    """Critics in the ensemble; the target takes their maximum cost (clipped double Q)."""
    critic_hidden: tuple[int, ...] = (64, 64)
    """Widths of C's hidden layers."""
    tau: float = 0.005
    """Polyak rate of C's target network."""
    hidden: tuple[int, ...] = (32, 32)


class GuidedES(AgentMixin):
    """GuidedES; `AgentMixin` documents the arguments."""

    config_class = GuidedESConfig
    counters = ("steps", "updates", "guided", "updates_due")

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: GuidedESConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        encoder: EncoderLike | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.config = c = config or GuidedESConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, noise, start, draw = spawn_seeds(seed, 4)
        self.policies = Policies(self.codec, c.hidden, c.activation, c.normalize_obs, weights)
        self.actor = self.policies.actor  # the centre's network
        self.population = Population(self.policies, c.episodes, noise)
        spec = CriticSpec.of(self.codec, c, hidden=c.critic_hidden, ensemble=c.n_critics, head="regression")
        if spec.action == "one_hot":
            raise UserError(
                f"GuidedES takes up to {MAX_JOINT_ACTIONS} combinations of choices, {action_space} has more: ES does"
            )
        given = critic.encoder if critic is not None else None
        of_critic, _ = build_encoders(encoder, "critic", self.codec.obs, start, given)  # the policies have none
        self.critic = build_critic(critic, spec, torch.Generator().manual_seed(start), of_critic, torch.device("cpu"))
        self.critic_optimizer = Optimizer(self.critic, "adam", c.critic_lr, decay_steps=c.decay_steps)
        self.target_critic = Target(self.critic, self.critic_optimizer, c.tau)
        self.descend_critic = Descent(critic_loss, None, self.critic_optimizer, self.critic)
        self.memory = Replay(c.buffer_size, c.gamma, seed=draw)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.policies, "population": self.population}
        self.parts |= {"critic": self.critic, "target_critic": self.target_critic, "memory": self.memory}
        self.parts["critic_optimizer"] = self.critic_optimizer
        self.guides = torch.zeros(c.subspace, self.policies.size)  # C's gradients, of length 1; a ring
        self.steps = self.updates = self.guided = 0
        self.updates_due = 0.0  # updates of C
        self.check_parameters()
        self._ask()

    def on_reset(self) -> None:
        """Called after every reset: candidates whose episode is unfinished play it again."""
        self.population.on_reset()
        self.memory.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: by a candidate each, or by the centre."""
        return self.population.act(obs) if explore else self.policies.best(obs)

    def observe(self, step: Step) -> None:
        """Counts what the step cost each candidate, and remembers it for C."""
        self.population.observe(step)
        self.memory.add(step)
        if self.config.normalize_obs:
            self.critic.obs_norm.update(step.obs, step.valid)
        counted = int(step.valid.sum())
        self.steps += counted
        if self.steps > self.config.learning_starts:
            self.updates_due += counted * self.config.update_ratio

    def _ask(self) -> None:
        """Pairs on both sides of the centre, further off along C's gradients."""
        c, noise = self.config, self.population.noise(self.config.directions)
        if count := min(self.guided, c.subspace):
            basis = orthonormal(to_numpy(self.guides[:count]))  # a policy of few parameters has no room for all
            within = torch.randn(c.directions, basis.shape[1], generator=self.population.generator)
            noise = guided(noise, to_numpy(within), basis, c.isotropic)
        self.population.start(mirrored(self.policies.center, noise, c.sigma))

    def update(self) -> dict[str, Tensor]:
        """As many updates of C as are due; a step of the centre when a generation has been played."""
        metrics: dict[str, Tensor] = {}
        self.critic_optimizer.anneal(self.steps)
        while self.updates_due >= 1:
            self.updates_due -= 1
            metrics |= self._update_critic(self.memory.sample(self.config.batch_size))
        if not self.population.done:
            return metrics
        c, (plus, minus) = self.config, pairs(centered_ranks(self.population.cost))
        gradient = slope(plus, minus, directions(self.population.candidates, c.sigma))
        step = np.float32(annealed(c.learning_rate, self.steps, c.decay_steps)) * gradient
        self.policies.move(self.policies.center - step)
        self.updates += 1
        metrics |= {**self.population.metrics, "step_norm": torch.tensor(float(np.linalg.norm(step)))}
        if self.steps > c.learning_starts and c.isotropic < 1:
            metrics |= self._guide(torch.from_numpy(gradient))
        self._ask()
        return metrics

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """One step of C towards the temporal-difference target under the centre's policy."""
        x, next_x = self.critic.features(batch.obs), self.critic.features(batch.next_obs)
        with torch.no_grad():
            critic, output = self.target_critic.copy, self.actor_output(batch.next_obs)
            features = critic.encode(next_x)
            if isinstance(self.policies.actor, CategoricalActor):
                mode = self.policies.actor.policy(output).mode()
                cost = critic.cost_of(critic.taken(critic.output(features), mode))
            else:
                cost = critic.cost(features, output.tanh())
            target = td_target(batch.cost, batch.discount, cost.amax(0))
        loss, norm = self.descend_critic(x, batch.action, target, batch.weight)
        self.target_critic.soft_update()
        return {"critic_loss": loss.total, "critic_grad_norm": norm}

    def actor_output(self, obs: Tensor) -> Tensor:
        """What the centre's network gives, with its graph: [B, *obs_shape] -> [B, outputs]."""
        x, norm = obs.float(), self.policies.norm
        return self.policies.actor.net((x if norm is None else norm(x)).flatten(1))

    def guiding_cost(self, obs: Tensor) -> Tensor:
        """The mean cost that C gives the centre's actions at obs [B, *obs_shape], with its graph."""
        features, output = self.critic.encode(self.critic.features(obs)).detach(), self.actor_output(obs)
        actor = self.policies.actor
        if isinstance(actor, CategoricalActor):  # the likeliest choice has no gradient: softmax of the same output has
            return expected_cost(self.critic, features, actor.policy(output), None).mean()
        return self.critic.cost(features, output.tanh(), first=True)[0].mean()

    def _guide(self, estimate: Tensor) -> dict[str, Tensor]:
        """Puts the centre's gradient through C into the ring; its cosine with the gradient that ranks estimate."""
        cost = self.guiding_cost(self.memory.sample(self.config.guide_batch_size).obs)
        parameters = list(self.policies.actor.net.parameters())
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(cost, parameters)])
        length = torch.linalg.vector_norm(gradient)
        if torch.isfinite(length) and length > 0:
            self.guides[self.guided % self.config.subspace] = gradient / length
            self.guided += 1
        return {"guide_cosine": torch.cosine_similarity(gradient, estimate, 0), "guide_norm": length}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As of `AgentMixin`, and C's gradients."""
        tensors, meta = super().state()
        return tensors | {"guides": self.guides}, meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Restores what `state` gave."""
        super().load_state(tensors, meta)
        self.guides.copy_(tensor(tensors, "guides", self.guides.dtype, self.guides.shape))

"""Guided ES: evolution strategies along a surrogate's gradient (Maheswaranathan et al. 2019, 1806.10230).

Half gradient-free: candidates are mirrored pairs as in ES, but their noise is stretched along a few recent gradients of
the actor through C, which learns, as in TD3 (1802.09477), from every transition that the candidates see. Where C's
gradient is right, the search has few dimensions; where it is wrong, the episodes' own costs say so, for C only points.

The file reads in the order of a generation: ask, play (rl/evolution/population.py), update of C, tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.rl import checkpoint
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.data import Batch, Step, to_numpy
from costgrad.rl.errors import UserError
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.evolution.population import Population
from costgrad.rl.evolution.search import centered_ranks, directions, guided, mirrored, orthonormal, pairs, slope
from costgrad.rl.gradients.estimators import expected_cost
from costgrad.rl.networks.actor import CategoricalActor
from costgrad.rl.networks.critic import MAX_JOINT_ACTIONS, Critic, CriticSpec
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.optim import Optimizer, Target, annealed, descend
from costgrad.rl.returns import td_target
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class GuidedESConfig:
    """Settings of guided ES; every one is a flag of scripts/train.py."""

    directions: int = 8
    """Mirrored pairs of a generation."""
    sigma: float = 0.1
    """How far a candidate stands from the centre, in each parameter on average."""
    isotropic: float = 0.5
    """Share of the noise that goes everywhere, alpha; the rest goes along C's gradients. 1 is without C."""
    subspace: int = 4
    """C's gradients that span the rest: those of so many generations."""
    learning_rate: float = 0.1
    """Step along the slope of the costs' ranks."""
    decay_steps: int = 0
    """Environment steps over which learning rates fall linearly to 0; 0 keeps them."""
    gamma: float = 0.99
    """Discount of C's cost of each further step; candidates are compared without."""
    buffer_size: int = 1_000_000
    """Transitions that C learns from."""
    batch_size: int = 128
    """Rows of a batch of C."""
    guide_batch_size: int = 1_024
    """States that the guiding gradient is the mean over."""
    learning_starts: int = 1_000
    """Environment steps before C learns and guides."""
    update_ratio: float = 0.25
    """Updates of C an environment step."""
    critic_lr: float = 1e-3
    """Learning rate of C."""
    n_critics: int = 2
    """In C; a target takes the dearest."""
    critic_hidden: tuple[int, ...] = (64, 64)
    """Widths of C's hidden layers."""
    tau: float = 0.005
    """Share of the way that C's target goes in a step."""
    episodes: int = 1
    """That each candidate plays."""
    normalize_obs: bool = True
    """Shift and scale observations to mean 0 and variance 1 (images per channel)."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the policy's hidden layers; none is a linear policy."""
    activation: Activation = "tanh"
    """Between the layers of policy and C."""


class GuidedES:
    """The agent; see `Agent` in rl/loop.py.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: its settings.
        seed: decides initial weights, noise and batches.
        device: as for other agents; search and C stay on the host.

    Raises:
        UserError: a space it cannot be trained on.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: GuidedESConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
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
        self.critic = Critic(spec, torch.Generator().manual_seed(start))
        self.critic_optimizer = Optimizer(self.critic, "adam", c.critic_lr, decay_steps=c.decay_steps)
        self.target_critic = Target(self.critic, self.critic_optimizer, c.tau)
        self.memory = Replay(c.buffer_size, c.gamma, seed=draw)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.policies, "population": self.population}
        self.parts |= {"critic": self.critic, "target_critic": self.target_critic, "memory": self.memory}
        self.parts["critic_optimizer"] = self.critic_optimizer
        self.guides = torch.zeros(c.subspace, self.policies.size)  # C's gradients, of length 1; a ring
        self.steps = self.updates = self.guided = 0
        self.updates_due = 0.0  # updates of C
        self._ask()

    def on_reset(self) -> None:
        """Fresh episodes start, perhaps in another number."""
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
        """As many updates of C as the steps are worth; a step of the centre when a generation has been played."""
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
        """One step of C towards what the transition cost and what the centre will cost from there."""
        x, following = self.critic.features(batch.obs), self.critic.features(batch.next_obs)
        with torch.no_grad():
            critic, output = self.target_critic.copy, self.actor_output(batch.next_obs)
            if isinstance(self.policies.actor, CategoricalActor):
                mode = self.policies.actor.policy(output).mode()
                cost = critic.cost_of(critic.taken(critic.output(following), mode))
            else:
                cost = critic.cost(following, output.tanh())
            target = td_target(batch.cost, batch.discount, cost.amax(0))
        loss = self.critic.loss(x, batch.action, target, batch.weight)
        norm = descend(self.critic_optimizer, loss)
        self.target_critic.soft_update()
        return {"critic_loss": loss.detach(), "critic_grad_norm": norm}

    def actor_output(self, obs: Tensor) -> Tensor:
        """What the centre's network gives, with its graph: [B, *obs_shape] -> [B, outputs]."""
        x, norm = obs.float(), self.policies.norm
        return self.policies.actor.net((x if norm is None else norm(x)).flatten(1))

    def _guide(self, estimate: Tensor) -> dict[str, Tensor]:
        """Puts the centre's gradient through C into the ring; its cosine with the slope of the costs."""
        actor, batch = self.policies.actor, self.memory.sample(self.config.guide_batch_size)
        x, output = self.critic.features(batch.obs), self.actor_output(batch.obs)
        if isinstance(actor, CategoricalActor):  # the likeliest choice has no gradient: softmax of the same output has
            cost = expected_cost(self.critic, x, actor.policy(output), None)
        else:
            cost = self.critic.cost(x, output.tanh(), first=True)[0]
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(cost.mean(), list(actor.net.parameters()))])
        length = torch.linalg.vector_norm(gradient)
        if torch.isfinite(length) and length > 0:
            self.guides[self.guided % self.config.subspace] = gradient / length
            self.guided += 1
        return {"guide_cosine": torch.cosine_similarity(gradient, estimate, 0), "guide_norm": length}

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As `Agent` says, by the centre, which never draws; `state` is handed back."""
        return self.policies.predict(obs), state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the future; the tensors are the live ones. Episodes under way are not in it."""
        meta = {"steps": self.steps, "updates": self.updates, "guided": self.guided, "updates_due": self.updates_due}
        return checkpoint.gather(self.parts) | {"guides": self.guides}, meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        checkpoint.hand_out(tensors, self.parts)
        self.guides.copy_(tensors["guides"])
        self.steps, self.updates = meta["steps"], meta["updates"]
        self.guided, self.updates_due = meta["guided"], meta["updates_due"]

    def save(self, path: str | Path) -> None:
        """Writes the agent as a checkpoint folder; see rl/checkpoint.py."""
        checkpoint.save_agent(path, self)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> GuidedES:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, GuidedESConfig, device)

"""SAC: soft actor-critic (Haarnoja et al. 2018, 1812.05905), for continuous and discrete actions (1910.07207).

Off-policy: every transition is kept and learnt from many times. The actor descends C less the worth of its own entropy,
and a temperature holds that entropy. Continuous actions are reparameterised, and the dearer critic counts. For discrete
ones the expectation over actions goes through C exactly, and the mean of the critics counts (2209.10081).

The file reads in the order in which the data flows: act, observe, update of C, update of the actor through C.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.rl import checkpoint
from costgrad.rl.buffers.hindsight import Hindsight
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.data import Batch, Step, to_numpy
from costgrad.rl.diagnostics.estimand import Estimand, estimand_of
from costgrad.rl.errors import UserError
from costgrad.rl.gradients.by_hand import ActorPass
from costgrad.rl.gradients.entropy import Temperature, soft_cost
from costgrad.rl.gradients.steps import critic_step, soft_step
from costgrad.rl.networks.acting import CHUNK, Acting
from costgrad.rl.networks.actor import actor_for
from costgrad.rl.networks.critic import MAX_JOINT_ACTIONS, Critic, CriticSpec
from costgrad.rl.networks.mlp import Activation, Init
from costgrad.rl.optim import Optimizer, Target
from costgrad.rl.returns import td_target
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class SACConfig:
    """Settings of SAC; every one is a flag of scripts/train.py."""

    gamma: float = 0.99
    """Discount of the cost of each further step."""
    n_step: int = 1
    """Steps that a transition spans (n of n-step returns); entropy is counted where it ends."""
    buffer_size: int = 1_000_000
    """Transitions that are kept."""
    per_alpha: float = 0.0
    """Rows are drawn in proportion to C's error on them to this power (0.6 is usual); 0 draws all alike."""
    per_beta: float = 0.4
    """How much of the bias of unequal chances is taken back, from 0 to 1."""
    hindsight: int = 0
    """Rows that get a goal reached later on for each that keeps its own (4 is usual); 0 relabels none."""
    batch_size: int = 256
    """Rows of a batch."""
    learning_starts: int = 10_000
    """Environment steps of uniform actions before learning."""
    update_ratio: float = 1.0
    """Updates of C an environment step."""
    actor_lr: float = 3e-4
    """Learning rate of the actor."""
    critic_lr: float = 3e-4
    """Learning rate of C."""
    tau: float = 0.005
    """Share of the way that a target goes in a step."""
    n_critics: int = 2
    """In C; a target takes the dearest."""
    alpha: float = 1.0
    """Initial temperature: what a nat of entropy is worth, in units of cost."""
    alpha_lr: float = 3e-4
    """Learning rate of the temperature; 0 keeps it."""
    entropy_target: float = 1.0
    """What the temperature holds: minus this a dimension of a box, half of this share of log n for n actions."""
    noise_correlation: float = 0.0
    """How much of a step's noise the next step keeps; long swings find what jitter does not."""
    max_grad_norm: float = 0.0
    """Length that gradients are cut to; 0 leaves them."""
    decay_steps: int = 0
    """Environment steps over which learning rates fall linearly to 0; 0 keeps them."""
    l2: float = 0.0
    """Factor of the penalty l2/2 |w|^2 on weights of actor and C."""
    l1: float = 0.0
    """Factor of the penalty l1 |w| on weights of actor and C."""
    dropout: float = 0.0
    """Share of C's hidden units dropped (DroQ, 2110.02034)."""
    normalize_obs: bool = False
    """Shift and scale observations to mean 0 and variance 1 (images per channel)."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and C."""
    activation: Activation = "relu"
    """Between the layers of actor and C."""
    init: Init = "uniform"
    """Initial weights of actor and C: within 1 / sqrt(inputs) of 0, or orthogonal and 2.4 times as large."""
    layer_norm: bool = False
    """Layer normalisation in actor and C."""


class SAC:
    """The agent; see `Agent` in rl/loop.py.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: its settings.
        seed: decides initial weights, actions and batches.
        device: where it lives.

    Raises:
        UserError: a space it cannot be trained on.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: SACConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or SACConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting, draw = spawn_seeds(seed, 3)
        start = torch.Generator().manual_seed(weights)  # on the CPU: the same initial weights on every device
        spec = CriticSpec.of(self.codec, c, ensemble=c.n_critics, head="regression")
        self.critic = Critic(spec, start).to(device)
        if spec.action == "one_hot":
            raise UserError(
                f"SAC takes up to {MAX_JOINT_ACTIONS} combinations of choices, {action_space} has more: "
                "A2C, PPO and REPPO do"
            )
        actor = actor_for(self.codec, c.hidden, c.activation, c.layer_norm, 0.0, start, state_std=True, init=c.init)
        self.actor = actor.to(device)
        most = sum(math.log(n) for n in self.codec.choices) / 2 if self.codec.discrete else -self.codec.action_size
        self.temperature = Temperature(c.alpha, c.entropy_target * most).to(device)
        penalties = (c.max_grad_norm, c.l2, c.l1, c.decay_steps)
        self.critic_optimizer = Optimizer(self.critic, "adam", c.critic_lr, *penalties)
        self.actor_optimizer = Optimizer(self.actor, "adam", c.actor_lr, *penalties)
        self.target_critic = Target(self.critic, self.critic_optimizer, c.tau)
        self.temperature_optimizer = Optimizer(self.temperature, "adam", c.alpha_lr)
        norm = self.critic.obs_norm if c.normalize_obs else None
        self.acting = Acting(self.codec, self.actor, norm, CHUNK, acting, c.noise_correlation)
        self.hindsight = Hindsight(self.codec, c.hindsight) if c.hindsight else None
        self.memory = Replay(c.buffer_size, c.gamma, c.n_step, draw, c.per_alpha, c.per_beta, self.hindsight)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts |= {"target_critic": self.target_critic, "temperature": self.temperature}
        self.parts["temperature_optimizer"] = self.temperature_optimizer
        self.parts |= {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer}
        self.steps = self.updates = 0
        self.updates_due = 0.0  # updates

    def on_reset(self) -> None:
        """Fresh episodes start, perhaps in another number."""
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
        """Puts one vector step into the replay."""
        self.memory.add(step)
        if self.config.normalize_obs:
            self.critic.obs_norm.update(step.obs, step.valid)
        counted = int(step.valid.sum())
        self.steps += counted
        if self.steps > self.config.learning_starts:
            self.updates_due += counted * self.config.update_ratio

    @torch.no_grad()
    def update(self) -> dict[str, Tensor]:
        """As many updates as the steps are worth, of C, the actor and the temperature."""
        metrics: dict[str, Tensor] = {}
        self.critic_optimizer.anneal(self.steps)
        self.actor_optimizer.anneal(self.steps)
        while self.updates_due >= 1:
            self.updates_due -= 1
            self.updates += 1
            batch = self.critic.prepared(self.memory.sample(self.config.batch_size))
            metrics |= self._update_critic(batch)
            metrics |= self._update_actor(batch)
            self.target_critic.soft_update()
        return metrics

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """One step of C towards what the transition cost and the targets say of what follows."""
        generator, critic = self.acting.generator, self.target_critic.copy
        pi = self.actor(batch.next_obs)
        sample, masks = (
            self.acting.sample_actions(pi, len(batch.cost)),
            critic.net.dropout_masks(len(batch.cost), generator),
        )
        following, _ = soft_cost(critic, batch.next_obs, pi, sample, self.temperature.alpha, masks)
        target = td_target(batch.cost, batch.discount, following)
        masks = self.critic.net.dropout_masks(len(target), generator)
        into = self.critic_optimizer.slots
        losses, gradient = critic_step(self.critic, batch.obs, batch.action, target, batch.weight, masks, into)
        norm = self.critic_optimizer.apply(gradient)
        self.memory.prioritise(batch.indices, losses / self.config.n_critics)
        return {"critic_loss": losses @ batch.weight, "critic_grad_norm": norm}

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor through C, and of the temperature towards the entropy that it holds."""
        acted = ActorPass(self.actor, batch.obs)
        sample = self.acting.sample_actions(acted.pi, len(batch.obs))
        masks = self.critic.net.dropout_masks(len(batch.obs), self.acting.generator)
        alpha, into = self.temperature.alpha, self.actor_optimizer.slots
        soft, entropy, gradient = soft_step(self.critic, acted, batch.obs, sample, alpha, batch.weight, masks, into)
        norm = self.actor_optimizer.apply(gradient)
        mean_entropy = entropy @ batch.weight / batch.weight.sum()  # of unlike chances: of sum below 1
        if self.config.alpha_lr:
            self.temperature_optimizer.apply(self.temperature.gradient(mean_entropy))
        metrics = {"actor_loss": soft @ batch.weight, "actor_grad_norm": norm, "entropy": mean_entropy}
        return metrics | {"alpha": self.temperature.alpha}

    def estimand(self) -> Estimand:
        """What C estimates: the soft cost-to-go of this policy; the actor reads its maximum, or the mean."""
        alpha = float(to_numpy(self.temperature.alpha))
        c, max_cost = self.config, not self.codec.discrete
        return estimand_of(self.critic, self.actor, c.gamma, alpha, max_cost, c.n_step)

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As `Agent` says; `state` is handed back, this agent has no memory between steps."""
        return self.acting.predict(obs, deterministic), state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the future, the replay included; the tensors are the live ones."""
        meta = {"steps": self.steps, "updates": self.updates, "updates_due": self.updates_due}
        return checkpoint.gather(self.parts) | self.acting.state(), meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        checkpoint.hand_out(tensors, self.parts)
        self.acting.load_state(tensors, meta["steps"])
        self.steps, self.updates, self.updates_due = meta["steps"], meta["updates"], meta["updates_due"]

    def save(self, path: str | Path) -> None:
        """Writes the agent as a checkpoint folder; see rl/checkpoint.py."""
        checkpoint.save_agent(path, self)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> SAC:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, SACConfig, device)

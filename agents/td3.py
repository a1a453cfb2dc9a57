"""TD3: twin delayed deterministic policy gradient (Fujimoto et al. 2018, 1802.09477); DDPG (1509.02971) is a setting.

Off-policy: every transition is kept and learnt from many times, and the actor is a function of the state that descends
C where it stands. Three things keep C from flattering it: the dearer of two critics in the target, noise on the
target's action, and an actor that waits. DDPG has none: critics=1, target_noise=0, policy_delay=1.

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
from costgrad.rl.data import Batch, Step
from costgrad.rl.diagnostics.estimand import Estimand
from costgrad.rl.errors import UserError
from costgrad.rl.gradients.steps import critic_step, deterministic_step
from costgrad.rl.networks.acting import CHUNK, Acting
from costgrad.rl.networks.actor import DeterministicActor
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.mlp import Activation, Init
from costgrad.rl.optim import Optimizer, Target
from costgrad.rl.returns import td_target
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class TD3Config:
    """Settings of TD3; every one is a flag of scripts/train.py."""

    gamma: float = 0.99
    """Discount of the cost of each further step."""
    n_step: int = 1
    """Steps that a transition spans (n of n-step returns)."""
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
    policy_delay: int = 2
    """Updates of C for each of the actor."""
    actor_lr: float = 3e-4
    """Learning rate of the actor."""
    critic_lr: float = 3e-4
    """Learning rate of C."""
    tau: float = 0.005
    """Share of the way that a target goes in a step."""
    n_critics: int = 2
    """In C; a target takes the dearest."""
    exploration_noise: float = 0.1
    """Deviation of the exploration; an action reaches from -1 to 1."""
    target_policy_noise: float = 0.2
    """Deviation of the noise on the target's action."""
    target_noise_clip: float = 0.5
    """Largest noise on the target's action."""
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


class TD3:
    """The agent; see `Agent` in rl/loop.py.

    Args:
        observation_space: of one environment.
        action_space: of one environment, a Box.
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
        config: TD3Config | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or TD3Config()
        self.codec = Codec(observation_space, action_space, device)
        if self.codec.discrete:
            raise UserError(f"TD3 acts in a bounded Box, not in {action_space}: SAC, PPO, REPPO and A2C take that")
        weights, acting, draw = spawn_seeds(seed, 3)
        start = torch.Generator().manual_seed(weights)  # on the CPU: the same initial weights on every device
        spec = CriticSpec.of(self.codec, c, ensemble=c.n_critics, head="regression")
        self.critic = Critic(spec, start).to(device)
        shape = (math.prod(self.codec.obs_shape), self.codec.action_size, c.hidden, c.activation, c.layer_norm)
        self.actor = DeterministicActor(*shape, c.exploration_noise, start, c.init).to(device)
        penalties = (c.max_grad_norm, c.l2, c.l1, c.decay_steps)
        self.critic_optimizer = Optimizer(self.critic, "adam", c.critic_lr, *penalties)
        self.actor_optimizer = Optimizer(self.actor, "adam", c.actor_lr, *penalties)
        self.target_critic = Target(self.critic, self.critic_optimizer, c.tau)
        self.target_actor = Target(self.actor, self.actor_optimizer, c.tau)
        norm = self.critic.obs_norm if c.normalize_obs else None
        self.acting = Acting(self.codec, self.actor, norm, CHUNK, acting, c.noise_correlation)
        self.hindsight = Hindsight(self.codec, c.hindsight) if c.hindsight else None
        self.memory = Replay(c.buffer_size, c.gamma, c.n_step, draw, c.per_alpha, c.per_beta, self.hindsight)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts |= {"target_actor": self.target_actor, "target_critic": self.target_critic}
        self.parts |= {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer}
        self.steps = self.updates = 0
        self.updates_due = 0.0  # updates

    def on_reset(self) -> None:
        """Fresh episodes start, perhaps in another number."""
        self.memory.on_reset()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1]: mu(s) and noise; uniform at the start."""
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
        """As many updates as the steps are worth: C each time, the actor and the targets every few times."""
        metrics: dict[str, Tensor] = {}
        self.critic_optimizer.anneal(self.steps)
        self.actor_optimizer.anneal(self.steps)
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
        """One step of C towards what the transition cost and the targets say of what follows."""
        generator = self.acting.generator
        noise = self.actor.noise(len(batch.cost), generator=generator)
        target = td_target(batch.cost, batch.discount, self.target_cost(batch.next_obs, noise))
        masks = self.critic.net.dropout_masks(len(target), generator)
        into = self.critic_optimizer.slots
        losses, gradient = critic_step(self.critic, batch.obs, batch.action, target, batch.weight, masks, into)
        norm = self.critic_optimizer.apply(gradient)
        self.memory.prioritise(batch.indices, losses / self.config.n_critics)
        return {"critic_loss": losses @ batch.weight, "critic_grad_norm": norm}

    def target_cost(self, x: Tensor, noise: Tensor) -> Tensor:
        """The dearest of the target critics, at the target actor's action and clipped noise (eq. 14): [B, F] -> [B]."""
        critic = self.target_critic.copy
        action = self.smoothed(self.target_actor.copy, x, noise)
        return critic.cost(x, action, critic.net.dropout_masks(len(x), self.acting.generator)).amax(0)

    def smoothed(self, actor: DeterministicActor, x: Tensor, noise: Tensor) -> Tensor:
        """An actor's action with clipped noise on it: [B, F], [B, A] -> [B, A]."""
        c = self.config
        near = (c.target_policy_noise * noise).clamp(-c.target_noise_clip, c.target_noise_clip)
        return (actor(x) + near).clamp(-1, 1)

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor down the first critic of C."""
        into = self.actor_optimizer.slots
        cost, gradient = deterministic_step(self.critic, self.actor, batch.obs, batch.weight, into)
        return {"actor_loss": cost @ batch.weight, "actor_grad_norm": self.actor_optimizer.apply(gradient)}

    def estimand(self) -> Estimand:
        """What C estimates: the cost-to-go of mu with the noise that targets have; the actor reads the first of it."""

        def policy(x: Tensor, noise: Tensor) -> tuple[Tensor, None]:
            return self.smoothed(self.actor, x, noise), None

        return Estimand(self.critic, policy, self.actor.noise, self.config.gamma, members="first")

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
    def load(cls, path: str | Path, device: str = "cpu") -> TD3:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, TD3Config, device)

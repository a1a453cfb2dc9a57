"""CrossQ: soft actor-critic whose C needs no target network (Bhatt et al. 2024, 1902.05605), C being a distribution.

Off-policy. C's hidden units are normalised over the batch, and a state and the one that follows it pass C together, so
both are seen alike; that steadies C enough to learn from its own word at a high learning rate. C is trained with
cross-entropy over cost bins whose support follows the costs (as XQC has it, 2509.25174). A few large strides serve in
place of many small ones: this is the agent for few environment steps in little time.

The file reads in the order in which the data flows: act, observe, update of C, update of the actor through C.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

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
from costgrad.rl.gradients.by_hand import ActorPass, passed
from costgrad.rl.gradients.entropy import Temperature
from costgrad.rl.gradients.estimators import joint_probs
from costgrad.rl.gradients.steps import loss_slope, soft_step
from costgrad.rl.networks.acting import CHUNK, Acting
from costgrad.rl.networks.actor import actor_for
from costgrad.rl.networks.critic import MAX_JOINT_ACTIONS, Critic, CriticSpec
from costgrad.rl.networks.distributions import Categorical
from costgrad.rl.networks.heads import Extremes
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.optim import Optimizer
from costgrad.rl.returns import td_target
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec

ADAPT = 20  # updates of C between two looks at the scale of its targets


@settings
class CrossQConfig:
    """Settings of CrossQ; every one is a flag of scripts/train.py."""

    gamma: float = 0.99
    """Discount of the cost of each further step."""
    n_step: int = 1
    """Steps that a transition spans (n of n-step returns); entropy is counted where it ends."""
    buffer_size: int = 1_000_000
    """Transitions that are kept."""
    hindsight: int = 0
    """Rows that get a goal reached later on for each that keeps its own (4 is usual); 0 relabels none."""
    batch_size: int = 128
    """Rows of a batch."""
    learning_starts: int = 5_000
    """Environment steps of uniform actions before learning."""
    update_ratio: float = 0.25
    """Updates of C an environment step."""
    policy_delay: int = 3
    """Updates of C for each of the actor and the temperature."""
    actor_lr: float = 1e-3
    """Learning rate of the actor."""
    critic_lr: float = 1e-3
    """Learning rate of C."""
    beta1: float = 0.5
    """Of Adam: how much of the mean gradient a step keeps."""
    head: Literal["regression", "hl_gauss"] = "hl_gauss"
    """C as a distribution over cost bins trained with cross-entropy, or as one number."""
    bins: int = 101
    """Cost bins of hl_gauss."""
    n_critics: int = 2
    """In C; a target takes the dearest."""
    alpha: float = 1.0
    """Initial temperature: what a nat of entropy is worth, in units of cost."""
    alpha_lr: float = 1e-3
    """Learning rate of the temperature; 0 keeps it."""
    entropy_target: float = 1.0
    """What the temperature holds: minus this a dimension of a box, half of this share of log n for n actions."""
    noise_correlation: float = 0.0
    """How much of a step's noise the next step keeps; long swings find what jitter does not."""
    decay_steps: int = 0
    """Environment steps over which learning rates fall linearly to 0; 0 keeps them."""
    l2: float = 0.0
    """Factor of the penalty l2/2 |w|^2 on weights of actor and C."""
    l1: float = 0.0
    """Factor of the penalty l1 |w| on weights of actor and C."""
    normalize_obs: bool = True
    """Shift and scale observations to mean 0 and variance 1 (images per channel)."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and C."""
    activation: Activation = "relu"
    """Between the layers of actor and C."""


class CrossQ:
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
        config: CrossQConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or CrossQConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting, draw = spawn_seeds(seed, 3)
        start = torch.Generator().manual_seed(weights)  # on the CPU: the same initial weights on every device
        spec = CriticSpec.of(self.codec, c, ensemble=c.n_critics, batch_norm=True)
        if spec.action == "one_hot":
            raise UserError(
                f"CrossQ takes up to {MAX_JOINT_ACTIONS} combinations of choices, {action_space} has more: "
                "A2C, PPO and REPPO do"
            )
        self.critic = Critic(spec, start).to(device).eval()
        self.actor = actor_for(self.codec, c.hidden, c.activation, False, 0.0, start, state_std=True).to(device)
        most = sum(math.log(n) for n in self.codec.choices) / 2 if self.codec.discrete else -self.codec.action_size
        self.temperature = Temperature(c.alpha, c.entropy_target * most).to(device)
        penalties = (0.0, c.l2, c.l1, c.decay_steps, c.beta1)
        self.critic_optimizer = Optimizer(self.critic, "adam", c.critic_lr, *penalties)
        self.actor_optimizer = Optimizer(self.actor, "adam", c.actor_lr, *penalties)
        self.temperature_optimizer = Optimizer(self.temperature, "adam", c.alpha_lr, beta1=c.beta1)
        self.extremes = Extremes().to(device)  # of the targets between two looks at their scale
        norm = self.critic.obs_norm if c.normalize_obs else None
        self.acting = Acting(self.codec, self.actor, norm, CHUNK, acting, c.noise_correlation)
        self.hindsight = Hindsight(self.codec, c.hindsight) if c.hindsight else None
        self.memory = Replay(c.buffer_size, c.gamma, c.n_step, draw, hindsight=self.hindsight)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic, "memory": self.memory}
        self.parts |= {"temperature": self.temperature, "temperature_optimizer": self.temperature_optimizer}
        self.parts["extremes"] = self.extremes
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
        """As many updates of C as the steps are worth; the actor and the temperature learn every few of them."""
        metrics: dict[str, Tensor] = {}
        self.critic_optimizer.anneal(self.steps)
        self.actor_optimizer.anneal(self.steps)
        while self.updates_due >= 1:
            self.updates_due -= 1
            batch = self.critic.prepared(self.memory.sample(self.config.batch_size))
            metrics |= self._update_critic(batch)
            self.updates += 1
            if self.updates % self.config.policy_delay == 0:
                metrics |= self._update_actor(batch)
        return metrics

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """One step of C towards what the transition cost and what C itself says of what follows."""
        pi = self.actor(batch.next_obs)
        sample = self.acting.sample_actions(pi, len(batch.cost))
        worth = self.temperature.alpha * pi.entropy(sample)
        both, action = torch.cat((batch.obs, batch.next_obs)), None
        if not isinstance(pi, Categorical):
            assert sample is not None
            action = torch.cat((batch.action, pi.action(sample[0])))
        # States and those that follow pass together, normalised by what they have in common. The flag alone: `train()`
        # asks every module, and takes 5 % of an update.
        self.critic.net.training = True
        through = passed(self.critic.net, self.critic.inputs(both, action))
        self.critic.net.training = False
        output, following = through.output.chunk(2, -2)
        cost = self.critic.cost_of(self.critic.shaped(following))
        expected = (
            (joint_probs(self.critic, pi) * cost).sum(-1).mean(0) if isinstance(pi, Categorical) else cost.amax(0)
        )
        target = td_target(batch.cost, batch.discount, expected - worth)
        losses, slope = loss_slope(self.critic, output, batch.action, target, batch.weight)
        norm = self.critic_optimizer.apply(through.gradient(slope, self.critic_optimizer.slots))
        metrics = {"critic_loss": losses @ batch.weight, "critic_grad_norm": norm}
        self.extremes.take(target)
        if self.updates % ADAPT == 0:
            metrics |= self.critic.adapt(*self.extremes.seen())
        return metrics

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor through C, and of the temperature towards the entropy that it holds."""
        acted = ActorPass(self.actor, batch.obs)
        sample = self.acting.sample_actions(acted.pi, len(batch.obs))
        alpha, into = self.temperature.alpha, self.actor_optimizer.slots
        soft, entropy, gradient = soft_step(self.critic, acted, batch.obs, sample, alpha, batch.weight, into=into)
        norm, mean_entropy = self.actor_optimizer.apply(gradient), entropy @ batch.weight
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
    def load(cls, path: str | Path, device: str = "cpu") -> CrossQ:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, CrossQConfig, device)

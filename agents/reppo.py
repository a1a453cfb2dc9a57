"""REPPO: relative entropy pathwise policy optimisation (Voelcker et al. 2025, 2507.11019).

On-policy, and the actor learns through C alone: no replay, no target network, no second critic. Three things make C's
gradient safe to follow: C is trained on lambda-returns that count the entropy of the policy; a temperature holds that
entropy; and a state whose policy has moved too far from the one that acted is pulled back instead of pushed on.

The file reads in the order in which the data flows: act, observe, update of C, update of the actor through C.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor, nn

from costgrad.rl import checkpoint
from costgrad.rl.buffers.rollout import RolloutMemory, minibatches
from costgrad.rl.data import Rollout, Step, flat, to_numpy
from costgrad.rl.diagnostics.estimand import Estimand, estimand_of
from costgrad.rl.gradients.estimators import expected_cost
from costgrad.rl.networks.acting import Acting
from costgrad.rl.networks.actor import actor_for
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.distributions import Policy
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.norm import CostUnit
from costgrad.rl.optim import Optimizer, descend
from costgrad.rl.returns import lambda_return
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class REPPOConfig:
    """Settings of REPPO; every one is a flag of scripts/train.py."""

    num_steps: int = 64
    """Steps of each environment between two updates."""
    epochs: int = 8
    """Passes over each rollout."""
    batch_size: int = 128
    """Rows of a minibatch."""
    gamma: float = 0.99
    """Discount of the cost of each further step."""
    gae_lambda: float = 0.95
    """Of the lambda-return: 0 trusts C after one step, 1 trusts only the costs seen."""
    actor_lr: float = 1e-3
    """Learning rate of the actor."""
    critic_lr: float = 1e-3
    """Learning rate of C."""
    multiplier_lr: float = 0.03
    """How fast the logs of alpha and beta follow what they miss, a rollout; it falls as `actor_lr` does."""
    critic_warmup: int = 2000
    """Environment steps at the start from which C alone learns: its first gradients are worth nothing."""
    kl_bound: float = 0.1
    """KL(pi_old||pi), in nats, beyond which a state is pulled back; it falls as `actor_lr` does."""
    entropy_target: float = 0.5
    """What the temperature holds: this share of log n for n discrete actions, minus this a dimension of a box."""
    alpha: float = 1e-3
    """Initial temperature: what a nat of entropy is worth, in units of the size of discounted costs."""
    beta: float = 0.01
    """Initial weight of the pull back."""
    max_grad_norm: float = 0.5
    """Length that gradients are cut to; 0 leaves them."""
    decay_steps: int = 0
    """Environment steps over which learning rates fall linearly to 0; 0 keeps them."""
    l2: float = 0.0
    """Factor of the penalty l2/2 |w|^2 on weights of actor and C."""
    l1: float = 0.0
    """Factor of the penalty l1 |w| on weights of actor and C."""
    normalize_obs: bool = True
    """Shift and scale observations to mean 0 and variance 1 (images per channel)."""
    head: Literal["regression", "hl_gauss"] = "hl_gauss"
    """C as a distribution over cost bins trained with cross-entropy, or as one number."""
    bins: int = 151
    """Cost bins of hl_gauss."""
    kl_gate: bool = True
    """False leaves the pull back out, to see what it is good for."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """Widths of the hidden layers of actor and C."""
    activation: Activation = "silu"
    """Between the layers of actor and C."""
    layer_norm: bool = True
    """Layer normalisation in actor and C."""
    log_std: float = 0.0
    """Initial log of the spread of continuous actions, before tanh."""
    state_std: bool = True
    """Let the spread depend on the state."""
    noise_correlation: float = 0.0
    """How much of a step's noise the next step keeps; long swings find what jitter does not."""


class Rows(NamedTuple):
    """A rollout, flat: B = T * N rows."""

    x: Tensor  # [B, F] features as the policy saw them
    action: Tensor  # [B, A] or [B]
    returns: Tensor  # [B] lambda-returns of soft cost
    old: Tensor  # [B, ...] the policy that acted, as `columns` gives it
    weight: Tensor  # [B] equal where the row counts, 0 where it is a reset; sum 1


class Multipliers(nn.Module):
    """The temperature alpha and the weight beta of the pull back, by their logs.

    Each rises by a share of what is missed of the thing it holds, and falls by a share of the excess. In proportion,
    and not by steps of one length as Adam would, so that the policy does not swing with them.
    """

    log_alpha: Tensor
    log_beta: Tensor

    def __init__(self, alpha: float, beta: float, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.register_buffer("log_alpha", torch.tensor(math.log(alpha)))
        self.register_buffer("log_beta", torch.tensor(math.log(beta)))

    def adjust(self, missing_entropy: Tensor, excess_kl: Tensor) -> None:
        """One step of both, once a rollout; the misses count up to 1.

        Args:
            missing_entropy: target less entropy, in nats a dimension of the action.
            excess_kl: divergence less bound, in units of the bound.
        """
        self.log_alpha.add_(missing_entropy.clamp(-1, 1), alpha=self.lr)
        self.log_beta.add_(excess_kl.clamp(-1, 1), alpha=self.lr)


def actor_loss(cost: Tensor, entropy: Tensor, kl: Tensor, alpha: Tensor, beta: Tensor, kl_bound: float) -> Tensor:
    """A row descends its soft cost while its policy is near the old one, and the divergence where it is not (eq. 9).

    Args:
        cost: [B] E_pi C(s, a) in units of the size of discounted costs, with its graph through C.
        entropy: [B] of pi.
        kl: [B] KL(pi_old || pi).
        alpha: the temperature.
        beta: weight of the divergence.
        kl_bound: nats; infinity never pulls back.

    Returns:
        [B].
    """
    return torch.where(kl < kl_bound, cost - alpha * entropy, beta * kl)


class REPPO:
    """The agent; see `Agent` in rl/loop.py.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: its settings.
        seed: decides initial weights, actions and minibatches.
        device: where it lives.

    Raises:
        UserError: a space it cannot be trained on.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: REPPOConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or REPPOConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting = spawn_seeds(seed, 2)
        start = torch.Generator().manual_seed(weights)  # on the CPU: the same initial weights on every device
        spec = CriticSpec.of(self.codec, c)
        self.critic = Critic(spec, start).to(device)
        actor = actor_for(self.codec, c.hidden, c.activation, c.layer_norm, c.log_std, start, c.state_std)
        self.actor = actor.to(device)
        self.multipliers = Multipliers(c.alpha, c.beta, c.multiplier_lr).to(device)
        self.unit = CostUnit()  # of alpha and of the actor's loss; on the host, where costs come from
        penalties = (c.max_grad_norm, c.l2, c.l1, c.decay_steps)
        self.critic_optimizer = Optimizer(self.critic, "adam", c.critic_lr, *penalties)
        self.actor_optimizer = Optimizer(self.actor, "adam", c.actor_lr, *penalties)
        most = sum(math.log(n) for n in self.codec.choices) if self.codec.discrete else -self.codec.action_size
        self.entropy_target = c.entropy_target * most
        self.dimensions = len(self.codec.choices) if self.codec.discrete else self.codec.action_size
        norm = self.critic.obs_norm if c.normalize_obs else None
        self.acting = Acting(self.codec, self.actor, norm, c.num_steps, acting, c.noise_correlation)
        self.memory = RolloutMemory(c.num_steps, c.gamma)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic}  # of a checkpoint
        self.parts |= {"multipliers": self.multipliers, "unit": self.unit}
        self.parts |= {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer}
        self.steps = self.updates = 0

    def on_reset(self) -> None:
        """Fresh episodes start: a rollout under way is dropped, for its next row would belong to another episode."""
        self.memory.clear()
        self.unit.on_reset()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: a sample of pi, or its mode."""
        return (self.acting.explore(obs) if explore else self.acting.best(obs))[1]

    def observe(self, step: Step) -> None:
        """Puts one vector step into the rollout."""
        self.memory.add(step, {})

    def update(self) -> dict[str, Tensor]:
        """Once a rollout is full: targets, then C and the actor through C in turns, and last the normaliser."""
        if not self.memory.full:
            return {}
        rollout = self.memory.take()
        warm = self.steps >= self.config.critic_warmup
        self.steps += int(rollout.valid.sum())
        self.critic_optimizer.anneal(self.steps)
        self.actor_optimizer.anneal(self.steps)
        self.unit.update(rollout.cost, rollout.discount, rollout.done, rollout.valid)
        rows = self._targets(rollout)
        metrics = self.critic.adapt(rows.returns, rows.weight)
        for _ in range(self.config.epochs):
            for batch in minibatches(rows, self.config.batch_size, self.acting.generator):
                metrics |= self._update_critic(batch)
                if warm:
                    metrics |= self._update_actor(batch)
        if warm:
            metrics |= self._adjust_multipliers(rows)
        if self.config.normalize_obs:  # last, so that this update saw what the policy saw
            self.critic.obs_norm.update(flat(rollout.obs), flat(rollout.valid))
        self.updates += 1
        return metrics

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> Rows:
        """Lambda-returns of soft cost: a step's cost less the worth of the entropy of the policy that follows it."""
        x, following = (self.critic.features(self.codec.tensor(flat(obs))) for obs in (rollout.obs, rollout.next_obs))
        pi: Policy = self.actor(following)
        sample = self.acting.sample_actions(pi, len(following))
        shape = rollout.cost.shape
        next_value = to_numpy(expected_cost(self.critic, following, pi, sample)).reshape(shape)
        worth = to_numpy(pi.entropy(sample) * self.multipliers.log_alpha.exp()) * self.unit.value
        soft = rollout.cost - rollout.discount * worth.reshape(shape)  # nothing follows a termination: discount is 0
        returns = lambda_return(soft, rollout.discount, next_value, rollout.done, self.config.gae_lambda)
        weight = rollout.valid / max(rollout.valid.sum(), 1)
        action, *rest = (self.codec.tensor(flat(column)) for column in (rollout.action, returns, weight))
        return Rows(x, action, rest[0], self.actor(x).columns(), rest[1])

    def _update_critic(self, batch: Rows) -> dict[str, Tensor]:
        """One step of C towards the returns."""
        loss = self.critic.loss(batch.x, batch.action, batch.returns, batch.weight)
        norm = descend(self.critic_optimizer, loss)
        return {"critic_loss": loss.detach(), "critic_grad_norm": norm}

    def _update_actor(self, batch: Rows) -> dict[str, Tensor]:
        """One step of the actor through C, or back to where it came from."""
        pi: Policy = self.actor(batch.x)
        sample = self.acting.sample_actions(pi, len(batch.x))
        cost = expected_cost(self.critic, batch.x, pi, sample) / self.unit.value
        entropy, kl = pi.entropy(sample), type(pi).of(batch.old).kl(pi)
        alpha, beta = self.multipliers.log_alpha.exp(), self.multipliers.log_beta.exp()
        bound = self.config.kl_bound * self.pace if self.config.kl_gate else math.inf
        loss = actor_loss(cost, entropy, kl, alpha, beta, bound) @ batch.weight
        norm = descend(self.actor_optimizer, loss)
        return {"actor_loss": loss.detach(), "actor_grad_norm": norm}

    @torch.no_grad()
    def _adjust_multipliers(self, rows: Rows) -> dict[str, Tensor]:
        """One step of the multipliers, by where the update has left the policy."""
        pi: Policy = self.actor(rows.x)
        entropy = pi.entropy(self.acting.sample_actions(pi, len(rows.x))) @ rows.weight
        kl = type(pi).of(rows.old).kl(pi) @ rows.weight
        missing = (self.entropy_target - entropy) / self.dimensions
        excess = kl / (self.config.kl_bound * self.pace + 1e-9) - 1
        self.multipliers.adjust(missing * self.pace, excess * self.pace)
        alpha, beta = self.multipliers.log_alpha.exp(), self.multipliers.log_beta.exp()
        return {"entropy": entropy, "kl": kl, "alpha": alpha, "beta": beta}

    @property
    def pace(self) -> float:
        """How fast the actor may move, from 1 to 0: what is as steep as at the start would throw it off at the end."""
        return self.actor_optimizer.current_lr / (self.config.actor_lr or 1.0)

    def estimand(self) -> Estimand:
        """What C estimates: the soft cost-to-go of this policy."""
        alpha = float(to_numpy(self.multipliers.log_alpha.exp())) * self.unit.value
        return estimand_of(self.critic, self.actor, self.config.gamma, alpha)

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As `Agent` says; `state` is handed back, this agent has no memory between steps."""
        return self.acting.predict(obs, deterministic), state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the future, but for the rollout under way; the tensors are the live ones."""
        meta = {"steps": self.steps, "updates": self.updates}
        return checkpoint.gather(self.parts) | self.acting.state(), meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Takes up what `state` gave; a rollout under way is dropped."""
        checkpoint.hand_out(tensors, self.parts)
        self.acting.load_state(tensors, meta["steps"])
        self.steps, self.updates = meta["steps"], meta["updates"]
        self.memory.clear()

    def save(self, path: str | Path) -> None:
        """Writes the agent as a checkpoint folder; see rl/checkpoint.py."""
        checkpoint.save_agent(path, self)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> REPPO:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, REPPOConfig, device)

"""A2C: on-policy advantage actor-critic whose actor learns through the critic C.

Mnih et al. 2016 (1602.01783) with one change at its heart: C estimates the cost-to-go of an action, and the gradient
that reaches the actor comes through C (`pathwise`), by the score function (`score`, the textbook), or through C with
the score function correcting what C missed (`control_variate`). See rl/gradients/estimators.py.

The file reads in the order in which the data flows: act, observe, update of C, update of the actor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from costgrad.rl import checkpoint
from costgrad.rl.buffers.rollout import RolloutMemory, minibatches
from costgrad.rl.data import Rollout, Step, flat, to_numpy
from costgrad.rl.diagnostics.estimand import Estimand, estimand_of
from costgrad.rl.gradients.estimators import control_variate, expected_and_taken, expected_cost, pathwise, score
from costgrad.rl.networks.acting import Acting
from costgrad.rl.networks.actor import actor_for
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.distributions import Policy
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.optim import Optimizer, descend
from costgrad.rl.returns import lambda_return
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec

DIAGNOSE_EVERY = 8  # updates between two that report how well C knew the returns, which costs extra


@settings
class A2CConfig:
    """Settings of A2C; every one is a flag of scripts/train.py."""

    actor_gradient: Literal["pathwise", "score", "control_variate"] = "control_variate"
    """How the gradient reaches the actor: through C, by the score function, or both."""
    num_steps: int = 16
    """Steps of each environment between two updates."""
    gamma: float = 0.99
    """Discount of the cost of each further step."""
    gae_lambda: float = 0.95
    """Of the lambda-return: 0 trusts C after one step, 1 trusts only the costs seen."""
    actor_lr: float = 1e-3
    """Learning rate of the actor."""
    critic_lr: float = 2e-3
    """Learning rate of C."""
    critic_passes: int = 4
    """How often C sees each rollout."""
    critic_warmup: int = 2000
    """Environment steps at the start from which C alone learns: its first gradients are worth nothing."""
    batch_size: int = 128
    """Rows of a minibatch of C; one to two times the number of bins."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus, in units of the advantage's running size."""
    max_grad_norm: float = 0.5
    """Length that gradients are cut to; 0 leaves them."""
    decay_steps: int = 0
    """Environment steps over which learning rates fall linearly to 0; 0 keeps them."""
    l2: float = 0.0
    """Factor of the penalty l2/2 |w|^2 on weights of actor and C."""
    l1: float = 0.0
    """Factor of the penalty l1 |w| on weights of actor and C."""
    dropout: float = 0.0
    """Share of C's hidden units dropped in training."""
    normalize_obs: bool = True
    """Shift and scale observations to mean 0 and variance 1 (images per channel)."""
    head: Literal["regression", "hl_gauss"] = "regression"
    """C as one number, or as a distribution over cost bins trained with cross-entropy."""
    bins: int = 101
    """Cost bins of hl_gauss."""
    n_critics: int = 1
    """Critics in C; the actor follows their mean."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and C."""
    activation: Activation = "tanh"
    """Between the layers of actor and C."""
    layer_norm: bool = True
    """Layer normalisation in actor and C."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Of actor and C."""
    log_std: float = -1.0
    """Initial log of the spread of continuous actions, before tanh."""
    state_std: bool = False
    """Let the spread of continuous actions depend on the state."""
    noise_correlation: float = 0.0
    """How much of a step's noise the next step keeps; long swings find what jitter does not."""
    action_samples: int = 4
    """Fresh actions a state that an expectation over continuous actions is taken from."""


class Rows(NamedTuple):
    """A rollout, flat: B = T * N rows."""

    x: Tensor  # [B, F] features as the policy saw them
    action: Tensor  # [B, A] or [B]
    sample: Tensor  # [B, A] before tanh, or [B]
    returns: Tensor  # [B] G, lambda-returns of cost
    advantage: Tensor  # [B] G - b(s), with b from C before this rollout
    weight: Tensor  # [B] equal where the row counts, 0 where it is a reset; sum 1


def actor_loss(kind: str, critic: Critic, pi: Policy, fresh: Tensor | None, row: Rows) -> Tensor:
    """A loss a row whose gradient is the chosen estimate of d E[cost-to-go] / d theta; see rl/gradients/estimators.py.

    Args:
        kind: "pathwise", "score" or "control_variate".
        critic: C; it gets no gradient from `descend` on the actor.
        pi: the actor's distributions for the B rows, with their graph.
        fresh: reparameterised samples [M, B, A] of a continuous pi, else None.
        row: the rollout.

    Returns:
        [B], in units of cost.
    """
    if kind == "score":
        return score(pi.log_prob(row.sample), row.advantage)
    if kind == "pathwise":
        return pathwise(expected_cost(critic, row.x, pi, fresh))
    expected, taken = expected_and_taken(critic, row.x, pi, fresh, row.action)
    return control_variate(expected, pi.log_prob(row.sample), row.returns, taken)


class A2C:
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
        config: A2CConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or A2CConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting = spawn_seeds(seed, 2)
        start = torch.Generator().manual_seed(weights)  # on the CPU: the same initial weights on every device
        spec = CriticSpec.of(self.codec, c, state_only=c.actor_gradient == "score")
        self.critic = Critic(spec, start).to(device)
        actor = actor_for(self.codec, c.hidden, c.activation, c.layer_norm, c.log_std, start, c.state_std)
        self.actor = actor.to(device)
        penalties = (c.max_grad_norm, c.l2, c.l1, c.decay_steps)
        self.critic_optimizer = Optimizer(self.critic, c.optimizer, c.critic_lr, *penalties)
        self.actor_optimizer = Optimizer(self.actor, c.optimizer, c.actor_lr, *penalties)
        norm = self.critic.obs_norm if c.normalize_obs else None
        self.acting = Acting(self.codec, self.actor, norm, c.num_steps, acting, c.noise_correlation)
        self.memory = RolloutMemory(c.num_steps, c.gamma)
        self.advantage_square = 0.0  # running mean
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic}  # of a checkpoint
        self.parts |= {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer}
        self.steps = self.updates = 0
        self._sample = np.empty(0)  # of the last action, until `observe`

    def on_reset(self) -> None:
        """Fresh episodes start: a rollout under way is dropped, for its next row would belong to another episode."""
        self.memory.clear()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1] or [N]: a sample of pi, or its mode."""
        self._sample, action = self.acting.explore(obs) if explore else self.acting.best(obs)
        return action

    def observe(self, step: Step) -> None:
        """Puts one vector step into the rollout."""
        self.memory.add(step, {"sample": self._sample})

    def update(self) -> dict[str, Tensor]:
        """Once a rollout is full: targets, C, the actor through C, and last the normaliser."""
        if not self.memory.full:
            return {}
        rollout = self.memory.take()
        warm = self.steps >= self.config.critic_warmup
        self.steps += int(rollout.valid.sum())
        self.critic_optimizer.anneal(self.steps)
        self.actor_optimizer.anneal(self.steps)

        row = self._targets(rollout)
        if not warm:
            metrics = self._update_critic(row)
        elif self.config.actor_gradient == "pathwise":  # follows C as it is after this rollout
            metrics = self._update_critic(row) | self._update_actor(row)
        else:  # the residual must come from a C that has not seen these returns
            metrics = self._update_actor(row) | self._update_critic(row)
        if self.config.normalize_obs:  # last, so that this update saw what the policy saw
            self.critic.obs_norm.update(flat(rollout.obs), flat(rollout.valid))
        self.updates += 1
        return metrics

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> Rows:
        """Lambda-returns of cost, with C as it stands."""
        both = np.concatenate((flat(rollout.obs), flat(rollout.next_obs)))
        x = self.critic.features(self.codec.tensor(both))
        pi = None if self.config.actor_gradient == "score" else self.actor(x)
        fresh = None if pi is None else self.acting.sample_actions(pi, len(x), self.config.action_samples)
        value, next_value = to_numpy(expected_cost(self.critic, x, pi, fresh)).reshape(2, *rollout.cost.shape)
        returns = lambda_return(rollout.cost, rollout.discount, next_value, rollout.done, self.config.gae_lambda)
        weight = rollout.valid / max(rollout.valid.sum(), 1)
        advantage = returns - value
        mean_square = float((advantage * advantage * weight).sum())
        self.advantage_square += (mean_square - self.advantage_square) * (0.05 if self.updates else 1.0)
        columns = rollout.action, rollout.extra["sample"], returns, advantage, weight
        return Rows(x[: weight.size], *(self.codec.tensor(flat(column)) for column in columns))

    def _update_critic(self, row: Rows) -> dict[str, Tensor]:
        """Trains C on the returns, in shuffled minibatches, several times over."""
        metrics = self.critic.adapt(row.returns, row.weight)
        for _ in range(self.config.critic_passes):
            for batch in minibatches(row, self.config.batch_size, self.acting.generator):
                action = None if self.critic.spec.action == "none" else batch.action
                masks = self.critic.net.dropout_masks(len(batch.x), self.acting.generator)
                loss = self.critic.loss(batch.x, action, batch.returns, batch.weight, masks)
                norm = descend(self.critic_optimizer, loss)
        return metrics | {"critic_loss": loss.detach(), "critic_grad_norm": norm}

    def _update_actor(self, row: Rows) -> dict[str, Tensor]:
        """One step of the actor along the chosen gradient."""
        pi = self.actor(row.x)
        fresh = self.acting.sample_actions(pi, len(row.x), self.config.action_samples)
        # In units of the advantage's size the entropy bonus means the same whatever the environment counts in.
        unit = row.weight / (self.advantage_square**0.5 + 1e-8)
        loss = actor_loss(self.config.actor_gradient, self.critic, pi, fresh, row) @ unit
        if self.config.ent_coef:
            loss = loss - self.config.ent_coef * (pi.entropy(fresh) @ row.weight)
        metrics = self._diagnose(row, pi, fresh) if self.updates % DIAGNOSE_EVERY == 0 else {}
        norm = descend(self.actor_optimizer, loss)
        return metrics | {"actor_loss": loss.detach(), "actor_grad_norm": norm}

    @torch.no_grad()
    def _diagnose(self, row: Rows, pi: Policy, fresh: Tensor | None) -> dict[str, Tensor]:
        """How random the policy is, and how much of the returns C knew before it saw them."""
        error, deviation = row.advantage, row.returns - row.returns @ row.weight
        unexplained = ((error * error) @ row.weight) / ((deviation * deviation) @ row.weight)
        return {"entropy": pi.entropy(fresh) @ row.weight, "explained_variance": 1 - unexplained}

    def estimand(self) -> Estimand:
        """What C estimates: the cost-to-go of this policy, without the entropy bonus."""
        return estimand_of(self.critic, self.actor, self.config.gamma)

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As `Agent` says; `state` is handed back, this agent has no memory between steps."""
        return self.acting.predict(obs, deterministic), state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the future, but for the rollout under way; the tensors are the live ones."""
        meta = {"steps": self.steps, "updates": self.updates, "advantage_square": self.advantage_square}
        return checkpoint.gather(self.parts) | self.acting.state(), meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Takes up what `state` gave; a rollout under way is dropped."""
        checkpoint.hand_out(tensors, self.parts)
        self.acting.load_state(tensors, meta["steps"])
        self.steps, self.updates, self.advantage_square = meta["steps"], meta["updates"], meta["advantage_square"]
        self.memory.clear()

    def save(self, path: str | Path) -> None:
        """Writes the agent as a checkpoint folder; see rl/checkpoint.py."""
        checkpoint.save_agent(path, self)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> A2C:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, A2CConfig, device)

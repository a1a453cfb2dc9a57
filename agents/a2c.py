"""A2C: on-policy advantage actor-critic whose actor learns through the critic C.

Mnih et al. 2016 (1602.01783) with one change at its heart: C estimates the cost-to-go of an action, and the gradient that
reaches the actor comes through C (`pathwise`), by the score function (`score`, the textbook), or through C with the score
function correcting what C missed (`control_variate`). See rl/gradient.py.

The file reads in the order in which the data flows: act, observe, update of C, update of the actor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from rl import checkpoint, gradient
from rl.actor import Categorical, CategoricalActor, GaussianActor, SquashedGaussian
from rl.critic import Critic, CriticSpec
from rl.data import Rollout, Step
from rl.errors import UserError, check_settings
from rl.gradient import expected_cost, taken_cost
from rl.nets import Activation
from rl.optim import Optimizer, descend
from rl.returns import lambda_return
from rl.rollout import RolloutMemory
from rl.spaces import Codec


@dataclass(frozen=True)
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
    """Environment steps at the start in which C alone learns: its first gradients are worth nothing."""
    minibatch: int = 128
    """Rows of a minibatch of C; one to two times the number of bins."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus, in units of the advantage's running size."""
    clip_norm: float = 0.5
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
    ensemble: int = 1
    """Critics in C; the actor follows their mean."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and C."""
    activation: Activation = "tanh"
    """Between the layers of actor and C."""
    layer_norm: bool = True
    """Layer normalisation in actor and C."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Of actor and C."""
    log_std: float = 0.0
    """Initial log of the spread of continuous actions, before tanh."""
    action_samples: int = 4
    """Fresh actions a state that an expectation over continuous actions is taken from."""

    def __post_init__(self) -> None:
        """Raises UserError where a setting is out of its range."""
        check_settings(
            self,
            at_least_one=("num_steps", "critic_passes", "minibatch", "ensemble", "action_samples", "hidden"),
            not_negative=("actor_lr", "critic_lr", "critic_warmup", "entropy_coef", "clip_norm", "decay_steps", "l2", "l1"),
            unit_interval=("gamma", "gae_lambda", "dropout"),
        )
        if self.bins < 3:
            raise UserError(f"bins must be at least 3, got {self.bins}")
        if self.dropout == 1:
            raise UserError("dropout must be less than 1, got 1.0: it would drop every unit")


class Rows(NamedTuple):
    """A rollout, flat: B = T * N rows."""

    x: Tensor  # [B, F] features as the policy saw them
    action: Tensor  # [B, A] or [B]
    sample: Tensor  # [B, A] before tanh, or [B]
    returns: Tensor  # [B] lambda-returns of cost
    value: Tensor  # [B] b(s) from C before this rollout
    weight: Tensor  # [B] equal where the row counts, 0 where it is a reset; sum 1


def actor_loss(kind: str, critic: Critic, pi: Categorical | SquashedGaussian, fresh: Tensor | None, row: Rows) -> Tensor:
    """The loss whose gradient is the chosen estimate of d E[cost-to-go] / d theta; see rl/gradient.py.

    Args:
        kind: "pathwise", "score" or "control_variate".
        critic: C; it gets no gradient from `descend` on the actor.
        pi: the actor's distributions for the B rows, with their graph.
        fresh: reparameterised samples [M, B, A] of a continuous pi, else None.
        row: the rollout.

    Returns:
        a scalar, in units of cost.
    """
    if kind == "score":
        loss = gradient.score(pi.log_prob(row.sample), row.returns, row.value)
    elif kind == "pathwise":
        loss = gradient.pathwise(expected_cost(critic, row.x, pi, fresh)) - row.value
    else:
        with torch.no_grad():
            taken = taken_cost(critic, row.x, row.action)
        expected = expected_cost(critic, row.x, pi, fresh)
        loss = gradient.control_variate(expected, pi.log_prob(row.sample), row.returns, taken)
    return loss @ row.weight


class A2C:
    """The agent of rl.loop.Agent.

    Args:
        observation_space, action_space: of one environment.
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
        config = config or A2CConfig()
        self.config, self.codec = config, Codec(observation_space, action_space, device)
        start = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        shape = {"hidden": config.hidden, "activation": config.activation, "layer_norm": config.layer_norm}
        self.critic = Critic(
            CriticSpec.of(
                self.codec,
                state_only=config.actor_gradient == "score",
                ensemble=config.ensemble,
                head=config.head,
                bins=config.bins,
                dropout=config.dropout,
                normalize_obs=config.normalize_obs,
                **shape,
            ),
            start,
        ).to(device)
        features, actions = int(np.prod(self.codec.obs_shape)), self.codec.action_size
        self.actor: CategoricalActor | GaussianActor
        if self.codec.discrete:
            self.actor = CategoricalActor(features, actions, **shape, generator=start).to(device)
        else:
            self.actor = GaussianActor(features, actions, **shape, log_std=config.log_std, generator=start).to(device)
        penalties = {"clip_norm": config.clip_norm, "l2": config.l2, "l1": config.l1, "decay_steps": config.decay_steps}
        self.critic_optimizer = Optimizer(self.critic, config.optimizer, config.critic_lr, **penalties)
        self.actor_optimizer = Optimizer(self.actor, config.optimizer, config.actor_lr, **penalties)
        self.memory = RolloutMemory(config.num_steps, config.gamma, self.codec.device)
        self.generator = torch.Generator(device).manual_seed(seed + 1)
        self.predict_generator = torch.Generator(device).manual_seed(seed + 2)  # people's calls leave training alone
        self.advantage_square = torch.zeros((), device=device)  # running mean
        self.steps = self.updates = 0
        self._sample = torch.empty(0)  # of the last action, until `observe`
        self._noise: tuple[Tensor, ...] = ()  # of the rollout's actions

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """[N, *obs_shape] -> [N, A] in [-1, 1] or [N]: a sample of pi, or its mode."""
        pi = self.actor(self._features(obs))
        if explore:
            if self.memory.filled == 0:  # one draw a rollout
                self._noise = self.actor.noise(self.config.num_steps, len(obs), generator=self.generator).unbind(0)
            self._sample = pi.sample(self._noise[self.memory.filled])
        else:
            self._sample = pi.mode()
        return pi.action(self._sample)

    def observe(self, step: Step) -> None:
        """Puts one vector step into the rollout."""
        self.memory.add(step, {"sample": self._sample})

    def update(self) -> dict[str, Tensor]:
        """Once a rollout is full: targets, C, the actor through C, and last the normaliser."""
        if not self.memory.full:
            return {}
        rollout = self.memory.take()
        self.steps += int(rollout.valid.sum())
        self.critic_optimizer.anneal(self.steps)
        self.actor_optimizer.anneal(self.steps)
        row = self._targets(rollout)
        if self.steps <= self.config.critic_warmup:
            metrics = self._update_critic(row)
        elif self.config.actor_gradient == "pathwise":  # follows C as it is after this rollout
            metrics = self._update_critic(row) | self._update_actor(row)
        else:  # the residual must come from a C that has not seen these returns
            metrics = self._update_actor(row) | self._update_critic(row)
        if self.config.normalize_obs:  # last, so that this update saw what the policy saw
            self.critic.obs_norm.update(rollout.obs.flatten(0, 1), rollout.valid.flatten())
        self.updates += 1
        return metrics

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> Rows:
        """Lambda-returns of cost from C as it stands."""
        x = self._features(rollout.obs.flatten(0, 1))
        both = torch.cat((x, self._features(rollout.next_obs.flatten(0, 1))))
        if self.config.actor_gradient == "score":
            expected = expected_cost(self.critic, both, None, None)
        else:
            pi = self.actor(both)
            expected = expected_cost(self.critic, both, pi, self._samples(pi, len(both)))
        value, next_value = expected.view(2, *rollout.cost.shape)
        returns = lambda_return(rollout.cost, rollout.discount, next_value, rollout.done, self.config.gae_lambda)
        sample, action = rollout.extra["sample"].flatten(0, 1), rollout.action.flatten(0, 1)
        weight = (rollout.valid / rollout.valid.sum()).flatten()
        return Rows(x, action, sample, returns.flatten(), value.flatten(), weight)

    def _update_critic(self, row: Rows) -> dict[str, Tensor]:
        """Trains C on the returns, in shuffled minibatches, several times over."""
        metrics = self.critic.adapt(row.returns, row.weight)
        for _ in range(self.config.critic_passes):
            for batch in self._minibatches(row):
                action = None if self.critic.spec.action == "none" else batch.action
                masks = self.critic.net.dropout_masks(len(batch.x), self.generator)
                loss = self.critic.loss(batch.x, action, batch.returns, batch.weight, masks)
                norm = descend(self.critic_optimizer, loss)
        return metrics | {"critic_loss": loss.detach(), "critic_grad_norm": norm}

    def _minibatches(self, row: Rows) -> Iterator[Rows]:
        """The rows in shuffled parts, each of weight 1; a rollout that fits in one is not shuffled."""
        size = len(row.x)
        if size <= self.config.minibatch:
            yield row
            return
        order = torch.randperm(size, generator=self.generator, device=self.codec.device)
        for index in order.split(self.config.minibatch):
            weight = row.weight[index]
            yield Rows(*(column[index] for column in row[:-1]), weight / weight.sum().clamp(min=1e-12))

    def _update_actor(self, row: Rows) -> dict[str, Tensor]:
        """One step of the actor along the chosen gradient."""
        square = _mean_square(row.returns - row.value, row.weight)
        spread = _mean_square(row.returns - row.returns @ row.weight, row.weight)
        self.advantage_square.lerp_(square, torch.where(self.advantage_square > 0, 0.05, 1.0))
        pi = self.actor(row.x)
        fresh = self._samples(pi, len(row.x))
        loss = actor_loss(self.config.actor_gradient, self.critic, pi, fresh, row)
        # In units of the advantage's size the entropy bonus means the same whatever the environment counts in.
        total = loss / (self.advantage_square.sqrt() + 1e-8)
        with torch.set_grad_enabled(self.config.entropy_coef > 0):
            entropy = pi.entropy(fresh) @ row.weight
        if self.config.entropy_coef > 0:
            total = total - self.config.entropy_coef * entropy
        norm = descend(self.actor_optimizer, total)
        return {
            "actor_loss": total.detach(),
            "actor_grad_norm": norm,
            "entropy": entropy.detach(),
            "explained_variance": 1 - square / spread,  # of the returns, by C before it saw them
        }

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """An action for one observation or a batch, NumPy in and out, in the environment's units.

        Args:
            obs: [*observation_space.shape] or [N, *observation_space.shape].
            state: handed back as it is; this agent has no memory between steps.
            episode_start: not needed.
            deterministic: the mode of pi instead of a sample.

        Returns:
            the action(s), and `state`.
        """
        def policy(obs: Tensor) -> Tensor:
            pi = self.actor(self._features(obs))
            noise = self.actor.noise(len(obs), generator=self.predict_generator)
            return pi.action(pi.mode() if deterministic else pi.sample(noise))

        return self.codec.predict(policy, obs), state

    def _features(self, obs: Tensor) -> Tensor:
        return self.critic.features(obs)

    def _samples(self, pi: Categorical | SquashedGaussian, rows: int) -> Tensor | None:
        """Fresh reparameterised samples [M, rows, A] of a continuous pi; a discrete one needs none."""
        if isinstance(pi, Categorical):
            return None
        return pi.sample(self.actor.noise(self.config.action_samples, rows, generator=self.generator))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the future, but for the rollout under way."""
        tensors = {
            **{f"actor.{name}": value for name, value in self.actor.state_dict().items()},
            **{f"critic.{name}": value for name, value in self.critic.state_dict().items()},
            **self.actor_optimizer.state("actor_optimizer"),
            **self.critic_optimizer.state("critic_optimizer"),
            "generator": self.generator.get_state(),
            "predict_generator": self.predict_generator.get_state(),
            "advantage_square": self.advantage_square,
        }
        return tensors, {"steps": self.steps, "updates": self.updates}

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Takes up what `state` gave; a rollout under way is dropped."""
        for name, module in (("actor", self.actor), ("critic", self.critic)):
            module.load_state_dict(
                {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            )
        self.actor_optimizer.load_state("actor_optimizer", tensors)
        self.critic_optimizer.load_state("critic_optimizer", tensors)
        self.generator.set_state(tensors["generator"].cpu())
        self.predict_generator.set_state(tensors["predict_generator"].cpu())
        self.advantage_square.copy_(tensors["advantage_square"])
        self.steps, self.updates = meta["steps"], meta["updates"]
        self.memory.filled = 0

    def save(self, path: str | Path) -> None:
        """Writes the agent as a checkpoint folder; see rl/checkpoint.py."""
        checkpoint.save_agent(path, self)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> A2C:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, A2CConfig, device)


def _mean_square(row: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of row^2, [B], [B] of sum 1 -> scalar."""
    return (row * row) @ weight

"""PPO: proximal policy optimisation, the on-policy agent that people compare with (Schulman et al. 2017, 1707.06347).

Several passes over each rollout; a clip on the probability ratio keeps the policy near the one that acted. C is a
baseline here, C(s): the gradient reaches the actor by the score function alone.

The file reads in the order in which the data flows: act, observe, and one update of C and the actor together.
"""

from __future__ import annotations

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
from costgrad.rl.gradients.by_hand import ActorPass, Pass
from costgrad.rl.gradients.estimators import clipped_score
from costgrad.rl.networks.acting import Acting
from costgrad.rl.networks.actor import actor_for
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.optim import Optimizer
from costgrad.rl.returns import lambda_return
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings
from costgrad.rl.spaces import Codec


@settings
class PPOConfig:
    """Settings of PPO; every one is a flag of scripts/train.py."""

    num_steps: int = 128
    """Steps of each environment between two updates."""
    epochs: int = 4
    """Passes over each rollout."""
    batch_size: int = 256
    """Rows of a minibatch."""
    gamma: float = 0.99
    """Discount of the cost of each further step."""
    gae_lambda: float = 0.95
    """Of the advantage (1506.02438): 0 trusts C after one step, 1 trusts only the costs seen."""
    learning_rate: float = 1e-3
    """Learning rate of actor and C."""
    clip_range: float = 0.2
    """How far a probability ratio may move from 1 before its gradient ends."""
    clip_range_vf: float = 0.0
    """How far C may move in a rollout, in units of its scale; 0 lets it. Only for the regression head."""
    vf_coef: float = 0.5
    """Weight of C's loss."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus; advantages have size 1."""
    target_kl: float = 0.0
    """Ends an update after the pass in which KL(pi_old||pi) exceeds 1.5 times this, in nats; 0 never does."""
    max_grad_norm: float = 0.5
    """Length that gradients are cut to; 0 leaves them."""
    decay_steps: int = 0
    """Environment steps over which the learning rate falls linearly to 0; 0 keeps it."""
    l2: float = 0.0
    """Factor of the penalty l2/2 |w|^2 on weights of actor and C."""
    l1: float = 0.0
    """Factor of the penalty l1 |w| on weights of actor and C."""
    normalize_obs: bool = True
    """Shift and scale observations to mean 0 and variance 1 (images per channel)."""
    head: Literal["regression", "hl_gauss"] = "regression"
    """C as one number, or as a distribution over cost bins trained with cross-entropy."""
    bins: int = 101
    """Cost bins of hl_gauss."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and C."""
    activation: Activation = "tanh"
    """Between the layers of actor and C."""
    layer_norm: bool = False
    """Layer normalisation in actor and C."""
    log_std: float = 0.0
    """Initial log of the spread of continuous actions, before tanh."""
    state_std: bool = False
    """Let the spread depend on the state."""
    noise_correlation: float = 0.0
    """How much of a step's noise the next step keeps; long swings find what jitter does not."""


class Rows(NamedTuple):
    """A rollout, flat: B = T * N rows."""

    x: Tensor  # [B, F] features as the policy saw them
    sample: Tensor  # [B, A] before tanh, or [B]
    log_prob: Tensor  # [B] of the sample, when it was acted on
    advantage: Tensor  # [B] of mean 0 and variance 1; positive where the action cost more than expected
    returns: Tensor  # [B] lambda-returns of cost; in units of C's scale where C learns them
    value: Tensor  # [B] C(s) before this rollout, likewise
    weight: Tensor  # [B] equal where the row counts, 0 where it is a reset; sum 1
    share: Tensor  # [B] the weight in the whole rollout, of whatever part


class Learnt(NamedTuple):
    """What a step of learning can tell."""

    log_ratio: Tensor  # [B] log pi - log pi_old of each sample, before the step
    actor_loss: Tensor  # [B]
    critic_loss: Tensor  # [B]
    grad_norm: Tensor


class PPO:
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
        config: PPOConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = c = config or PPOConfig()
        self.codec = Codec(observation_space, action_space, device)
        weights, acting = spawn_seeds(seed, 2)
        start = torch.Generator().manual_seed(weights)  # on the CPU: the same initial weights on every device
        spec = CriticSpec.of(self.codec, c, state_only=True)
        self.critic = Critic(spec, start).to(device)
        actor = actor_for(self.codec, c.hidden, c.activation, c.layer_norm, c.log_std, start, c.state_std)
        self.actor = actor.to(device)
        both = nn.ModuleDict({"actor": self.actor, "critic": self.critic})
        self.optimizer = Optimizer(both, "adam", c.learning_rate, c.max_grad_norm, c.l2, c.l1, c.decay_steps)
        norm = self.critic.obs_norm if c.normalize_obs else None
        self.acting = Acting(self.codec, self.actor, norm, c.num_steps, acting, c.noise_correlation)
        self.memory = RolloutMemory(c.num_steps, c.gamma)
        self.parts: dict[str, checkpoint.Part] = {"actor": self.actor, "critic": self.critic}  # of a checkpoint
        self.parts["optimizer"] = self.optimizer
        self.steps = self.updates = 0
        self._sample = np.empty(0)  # of the last action, until `observe`

    def on_reset(self) -> None:
        """Fresh episodes start: a rollout under way is dropped, for its next row would belong to another episode."""
        self.memory.clear()
        self.acting.on_reset()

    def act(self, obs: np.ndarray, explore: bool = True) -> np.ndarray:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D]: a sample of pi, or its mode."""
        self._sample, action = self.acting.explore(obs) if explore else self.acting.best(obs)
        return action

    def observe(self, step: Step) -> None:
        """Puts one vector step into the rollout."""
        self.memory.add(step, {"sample": self._sample})

    def update(self) -> dict[str, Tensor]:
        """Once a rollout is full: advantages, then several passes over it, and last the normaliser."""
        if not self.memory.full:
            return {}
        rollout = self.memory.take()
        self.steps += int(rollout.valid.sum())
        self.optimizer.anneal(self.steps)
        rows = self._targets(rollout)
        metrics = self.critic.adapt(rows.returns, rows.weight)
        returns, value = map(self.critic.cost_scale.scaled, (rows.returns, rows.value))
        rows = rows._replace(returns=returns, value=value)
        for _ in range(self.config.epochs):
            batches = list(minibatches(rows, self.config.batch_size, self.acting.generator))
            log_ratio, actor_loss, critic_loss, norm = zip(*map(self._learn, batches), strict=True)
            ratio, share = torch.cat(log_ratio), torch.cat([batch.share for batch in batches])
            # The mean of r - 1 - log r over what pi_old did is KL(pi_old||pi), and never negative.
            moved = (ratio.expm1() - ratio) @ share
            if self.config.target_kl and float(moved) > 1.5 * self.config.target_kl:
                break
        if self.config.normalize_obs:  # last, so that this update saw what the policy saw
            self.critic.obs_norm.update(flat(rollout.obs), flat(rollout.valid))
        self.updates += 1
        metrics |= {"actor_loss": torch.cat(actor_loss) @ share, "critic_loss": torch.cat(critic_loss) @ share}
        return metrics | {"grad_norm": torch.stack(norm).mean(), "approx_kl": moved}

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> Rows:
        """Lambda-returns and advantages of cost, with C and the policy as they stand."""
        x = self.critic.features(self.codec.tensor(np.concatenate((flat(rollout.obs), flat(rollout.next_obs)))))
        value, next_value = to_numpy(self.critic.cost(x).mean(0)).reshape(2, *rollout.cost.shape)
        returns = lambda_return(rollout.cost, rollout.discount, next_value, rollout.done, self.config.gae_lambda)
        weight = rollout.valid / max(rollout.valid.sum(), 1)
        advantage = returns - value
        advantage -= (advantage * weight).sum()
        advantage /= (advantage * advantage * weight).sum() ** 0.5 + 1e-8
        columns = (rollout.extra["sample"], advantage, returns, value, weight, weight)
        sample, *rest = (self.codec.tensor(flat(column)) for column in columns)
        x = x[: len(sample)]
        return Rows(x, sample, self.actor(x).log_prob(sample), *rest)

    @torch.no_grad()
    def _learn(self, batch: Rows) -> Learnt:
        """One step of the actor and C, down the sum of their losses: by their slopes, which are known."""
        c, weight = self.config, batch.weight
        actor, critic = ActorPass(self.actor, batch.x), Pass(self.critic.net, batch.x)
        log_ratio = actor.pi.log_prob(batch.sample) - batch.log_prob
        actor_loss, slope = clipped_score(log_ratio, batch.advantage, c.clip_range)
        bonus = -c.ent_coef * weight if c.ent_coef else None
        fresh = None if bonus is None else self.acting.sample_actions(actor.pi, len(weight))
        of_actor = actor.gradient(batch.sample, slope * weight, bonus, fresh)
        critic_loss, slope = self.critic.head.loss_and_slope(critic.output, batch.returns, batch.value, c.clip_range_vf)
        of_critic = critic.gradient(slope * (c.vf_coef * weight).unsqueeze(-1))
        return Learnt(log_ratio, actor_loss, critic_loss, self.optimizer.apply((*of_actor, *of_critic)))

    def estimand(self) -> Estimand:
        """What C estimates: the cost-to-go of this policy from a state on, without the entropy bonus."""
        return estimand_of(self.critic, self.actor, self.config.gamma)

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
    def load(cls, path: str | Path, device: str = "cpu") -> PPO:
        """Reads what `save` wrote. Raises UserError where it cannot."""
        return checkpoint.load_agent(path, cls, PPOConfig, device)

"""Settings that agents share: bases of their configs. Docstrings are the help of the flags."""

from __future__ import annotations

from typing import Literal

from costgrad.rl.networks.mlp import Activation
from costgrad.rl.settings import settings


@settings
class NetworkConfig:
    """Settings of the networks and of how they are trained."""

    gamma: float = 0.99
    """Discount factor of future costs."""
    max_grad_norm: float = 0.0
    """Maximum gradient norm; 0 disables clipping."""
    decay_steps: int = 0
    """Environment steps over which learning rates fall linearly to 0; 0 keeps them."""
    l2: float = 0.0
    """Weight decay: factor of the penalty l2/2 |w|^2 on the weights of actor and C."""
    l1: float = 0.0
    """Lasso: factor of the penalty l1 |w| on the weights of actor and C."""
    normalize_obs: bool = False
    """Normalise observations to mean 0 and variance 1 (images per channel)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and C."""
    activation: Activation = "tanh"
    """Activation between the layers of actor and C."""
    noise_correlation: float = 0.0
    """Correlation of exploration noise from step to step, from 0 to below 1 (coloured noise, 2312.11091)."""
    share_encoder: Literal["no", "critic", "both"] = "no"
    """Whether the actor reads C's encoder: no, one of its own; critic, trained by C's loss; both, by either loss."""

    @property
    def penalties(self) -> tuple[float, float, float, int]:
        """What an `Optimizer` takes after its learning rate."""
        return self.max_grad_norm, self.l2, self.l1, self.decay_steps


@settings
class OnPolicyConfig(NetworkConfig):
    """Settings of agents that learn from rollouts."""

    num_steps: int = 64
    """Steps of each environment per rollout."""
    batch_size: int = 128
    """Rows of a minibatch."""
    gae_lambda: float = 0.95
    """Lambda of the lambda-return (GAE, 1506.02438): 0 bootstraps from C after one step, 1 uses observed costs only."""
    head: Literal["regression", "hl_gauss"] = "regression"
    """C as one number, or as a distribution over cost bins trained with cross-entropy (HL-Gauss, 2403.03950)."""
    bins: int = 101
    """Cost bins of hl_gauss."""
    layer_norm: bool = False
    """Layer normalisation in actor and C."""
    log_std: float = 0.0
    """Initial log standard deviation of continuous actions, before tanh."""
    state_std: bool = False
    """Standard deviation of continuous actions as a function of the state."""
    max_grad_norm: float = 0.5
    normalize_obs: bool = True


@settings
class OffPolicyConfig(NetworkConfig):
    """Settings of agents that learn from a replay buffer."""

    n_step: int = 1
    """Steps of an n-step return; entropy counts at its last state only."""
    buffer_size: int = 1_000_000
    """Transitions in the replay buffer."""
    hindsight: int = 0
    """Hindsight experience replay: relabelled rows per original row (4 is usual); 0 relabels none."""
    batch_size: int = 256
    """Rows of a minibatch."""
    learning_starts: int = 10_000
    """Environment steps of uniformly random actions before learning."""
    update_ratio: float = 1.0
    """Updates of C per environment step."""
    actor_lr: float = 3e-4
    """Learning rate of the actor."""
    critic_lr: float = 3e-4
    """Learning rate of C."""
    n_critics: int = 2
    """Critics in the ensemble; the target takes their maximum cost (clipped double Q)."""
    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"


@settings
class SearchConfig:
    """Settings of search without gradients."""

    episodes: int = 1
    """Episodes per candidate."""
    normalize_obs: bool = True
    """Normalise observations to mean 0 and variance 1 (images per channel)."""
    hidden: tuple[int, ...] = ()
    """Widths of the policy's hidden layers; none is a linear policy."""
    activation: Activation = "tanh"
    """Activation between the layers."""

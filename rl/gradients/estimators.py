"""The ways a gradient reaches the actor: through C, by the score function, or both, one correcting the other.

Every function gives a loss a row whose gradient is the estimate of d E[cost-to-go] / d theta. G is the return in cost
units from the action taken, and b(s) = E_{a ~ pi} C(s, a). G, b and the C of a residual carry no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.distributions import Categorical, MultiCategorical, Policy


def expected_cost(critic: Critic, x: Tensor, pi: Policy | None, sample: Tensor | None) -> Tensor:
    """b(s) = E_{a ~ pi} C(s, a), the mean over the ensemble, with its graph to pi through C.

    Args:
        critic: C.
        x: features [B, F].
        pi: B distributions; not needed by a C of states alone.
        sample: reparameterised samples [M, B, A] of a continuous pi, or one [B, D] of choices too many to list; None
            for any other discrete pi, which needs none.

    Returns:
        [B]. A C of states alone gives C(s).
    """
    if critic.spec.action == "none":
        return _members_mean(critic.cost(x))
    if isinstance(pi, MultiCategorical) and critic.spec.action == "one_hot":
        assert sample is not None, "too many combinations to list: local expectations are taken around a sample"
        return _local_expectation(critic, x, pi, sample)
    if isinstance(pi, Categorical):
        return (joint_probs(critic, pi) * _action_costs(critic, x)).sum(-1)
    assert pi is not None and sample is not None and sample.dim() == 3, "continuous actions: sample is [M, B, A]"
    cost = critic.cost(x.repeat(len(sample), 1), pi.action(sample).flatten(0, 1))
    return _members_mean(cost).view(len(sample), -1).mean(0)


def expected_and_taken(
    critic: Critic, x: Tensor, pi: Policy, sample: Tensor | None, action: Tensor
) -> tuple[Tensor, Tensor]:
    """`expected_cost`, and C(s, a) of the action taken, without a graph; one pass of C where actions are discrete.

    Args:
        critic: C of states and actions.
        x: features [B, F].
        pi: B distributions.
        sample: as in `expected_cost`.
        action: [B, A] or [B] in the agent's units.

    Returns:
        [B], [B].
    """
    if isinstance(pi, Categorical) and critic.spec.action == "discrete":
        cost, index = _action_costs(critic, x), critic.index(action).unsqueeze(-1)
        return (joint_probs(critic, pi) * cost).sum(-1), cost.gather(-1, index).squeeze(-1)
    with torch.no_grad():
        taken = _members_mean(critic.cost(x, action))
    return expected_cost(critic, x, pi, sample), taken


@torch.no_grad()
def _action_costs(critic: Critic, x: Tensor) -> Tensor:
    """C(s, a) of every discrete action, the mean over the ensemble: [B, F] -> [B, n].

    Without a graph: the gradient of an expectation over discrete actions reaches pi through its probabilities.
    """
    return _members_mean(critic.cost(x))


def joint_probs(critic: Critic, pi: Categorical) -> Tensor:
    """The probability of each action that C lists, [B, n]."""
    return pi.joint(critic.combinations) if isinstance(pi, MultiCategorical) else pi.probs


def _local_expectation(critic: Critic, x: Tensor, pi: MultiCategorical, sample: Tensor) -> Tensor:
    """The exact expectation over each choice while the others stay as sampled, [B].

    Its gradient is the sum of the local expectation gradients (Titsias & Lazaro-Gredilla 2015, 1503.01494), unbiased
    for that of E C; its value is the mean over choices of what each expects, an estimate of E C.

    Args:
        critic: C of choices as "one_hot".
        x: features [B, F].
        pi: B distributions over D choices.
        sample: [B, D] of pi.
    """
    choices = critic.spec.choices
    with torch.no_grad():  # every choice in turn takes all its values: [V, B, D], V the sum of choices
        tried = sample.repeat(sum(choices), 1, 1)
        row = 0
        for d, n in enumerate(choices):
            tried[row : row + n, :, d] = torch.arange(n, device=sample.device).unsqueeze(-1)
            row += n
        cost = _members_mean(critic.cost(x.repeat(len(tried), 1), tried.flatten(0, 1))).view(len(tried), -1)
    costs = torch.split(cost, list(choices))
    local = torch.stack([(pi.probs[:, d, :n] * costs[d].T).sum(-1) for d, n in enumerate(choices)])
    total = local.sum(0)  # has the gradient
    return total - (total - local.mean(0)).detach()


def _members_mean(cost: Tensor) -> Tensor:
    """[K, ...] -> [...]; an ensemble of one costs no arithmetic."""
    return cost[0] if len(cost) == 1 else cost.mean(0)


def pathwise(expected: Tensor) -> Tensor:
    """Through C: low variance, biased by C's error.

    Args:
        expected: [B] of `expected_cost`, with its graph: exact for discrete actions, reparameterised for continuous
            ones (1312.6114; SVG, 1510.09142).

    Returns:
        [B].
    """
    return expected


def score(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """The textbook advantage actor-critic, log pi(a|s) (G - b(s)): unbiased for full returns, high variance.

    Args:
        log_prob: [B] of the action taken, with its graph.
        advantage: [B] G - b(s), without one.

    Returns:
        [B].
    """
    return log_prob * advantage


def clipped_score(log_ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """PPO's surrogate (1707.06347, eq. 7) for a cost: the worse of r A and clip(r, 1 - clip, 1 + clip) A.

    That is max(r A, A - clip |A|), for r is only bounded on the side where it makes things better. Its gradient is that
    of `score` where r = 1, and ends where a step has made the ratio better by more than `clip`.

    Args:
        log_ratio: [B] log r = log pi(a|s) - log pi_old(a|s), with its graph.
        advantage: [B] G - b(s).
        clip: above 0.

    Returns:
        [B], and its gradient in log r [B]: r A, and 0 where the ratio is bounded.
    """
    free = log_ratio.clamp(max=20).exp() * advantage  # an overflow times 0 would be NaN
    loss = torch.maximum(free, torch.sub(advantage, advantage.abs(), alpha=clip))
    return loss, free * (free >= loss)


def control_variate(expected: Tensor, log_prob: Tensor, returns: Tensor, taken: Tensor) -> Tensor:
    """The pathwise term through C, plus the score of the residual that C missed, G - C(s, a).

    Unbiased for any C that has not seen these returns, with lambda = 1; so both terms must use C as it was before it
    was trained on this rollout. Discrete: expected policy gradient with control variate (Q-Prop, 1611.02247).
    Continuous: LAX (1711.00123), Stein control variates (1710.11198).

    Args:
        expected: [B] as in `pathwise`, over new actions.
        log_prob: [B] of the action taken, with its graph.
        returns: [B] G.
        taken: [B] C(s, a) of the action taken.

    Returns:
        [B].
    """
    return expected + log_prob * (returns - taken)


def policy_gradient(
    kind: str,
    critic: Critic,
    features: Tensor,
    pi: Policy,
    samples: Tensor | None,
    taken: tuple[Tensor, Tensor],
    returns: Tensor,
    advantage: Tensor,
) -> Tensor:
    """A loss a row whose gradient is the estimate of d E[cost-to-go] / d theta that `kind` names.

    Args:
        kind: "pathwise", "score" or "control_variate".
        critic: C.
        features: [B, F] of its encoder, without a graph.
        pi: the actor's distributions for the B rows, with their graph.
        samples: reparameterised samples [M, B, A] of a continuous pi, else None.
        taken: the sample and the action taken, [B, A] or [B] each.
        returns: [B] G.
        advantage: [B] G - b(s).

    Returns:
        [B], in units of cost.
    """
    sample, action = taken
    if kind == "score":
        return score(pi.log_prob(sample), advantage)
    if kind == "pathwise":
        return pathwise(expected_cost(critic, features, pi, samples))
    expected, of_taken = expected_and_taken(critic, features, pi, samples, action)
    return control_variate(expected, pi.log_prob(sample), returns, of_taken)


def gated_cost(cost: Tensor, entropy: Tensor, kl: Tensor, alpha: Tensor, beta: Tensor, kl_bound: float) -> Tensor:
    """Soft cost near the old policy, and the weighted divergence where it is far (REPPO, 2507.11019, eq. 9).

    Args:
        cost: [B] E_pi C(s, a) in units of the size of discounted costs, with its graph through C.
        entropy: [B] of pi.
        kl: [B] KL(pi_old || pi).
        alpha: the temperature.
        beta: coefficient of the divergence.
        kl_bound: nats; infinity never gates.

    Returns:
        [B].
    """
    return torch.where(kl < kl_bound, cost - alpha * entropy, beta * kl)

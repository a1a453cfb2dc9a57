"""Backpropagation by hand: from the slopes of a loss to the gradient of the parameters, without autograd's graph.

With small networks that graph takes longer than the arithmetic. Here each module has its Jacobian written out, and
the chain rule is the order of the calls. What they give is what autograd gives, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rl.actor import CategoricalActor, StochasticActor
from rl.nets import MLP, Activation
from rl.policy import LOG_STD, Categorical, MultiCategorical, SquashedGaussian

# d loss / d y of y = activation(x) -> d loss / d x, by y alone.
_BACK: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda slope, y: torch.addcmul(slope, slope * y, y, value=-1),
    "relu": lambda slope, y: slope * (y > 0),
}


class Pass:
    """One batch through a single MLP, and back.

    Args:
        net: layers of tanh or ReLU are gone through by hand, any others by autograd.
        x: [B, sizes[0]], to which no gradient is asked for.
    """

    def __init__(self, net: MLP, x: Tensor) -> None:
        assert net.ensemble is None, "a single MLP"
        self.net, self.inputs = net, [x]  # of each layer
        self._by_hand = net.activation in _BACK and not net.gains
        if self._by_hand:
            self.output = self._forward(x)  # [B, sizes[-1]], without a graph
        else:
            with torch.enable_grad():
                self._graph = net(x)
            self.output = self._graph.detach()

    @torch.no_grad()
    def _forward(self, x: Tensor) -> Tensor:
        *hidden, (weight, bias) = self.net.layers()
        for w, b in hidden:
            x = self.net.activate(torch.addmm(b, x, w))
            self.inputs.append(x)
        return torch.addmm(bias, x, weight)

    @torch.no_grad()
    def gradient(self, slope: Tensor) -> tuple[Tensor, ...]:
        """D loss / d output [B, sizes[-1]] -> d loss / d parameter, for each of `net.parameters()`."""
        if not self._by_hand:
            return torch.autograd.grad(self._graph, list(self.net.parameters()), slope)
        back, weights, biases = _BACK[self.net.activation], [], []
        for x, (weight, _) in zip(reversed(self.inputs), reversed(self.net.layers()), strict=True):
            weights.append(x.T.mm(slope))
            biases.append(slope.sum(0))
            if x is not self.inputs[0]:
                slope = back(slope.mm(weight.T), x)
        return (*reversed(weights), *reversed(biases))


class ActorPass:
    """One batch through an actor that gives distributions, and back.

    Args:
        actor: of discrete or of continuous actions.
        x: features [B, F].
    """

    def __init__(self, actor: StochasticActor, x: Tensor) -> None:
        self.actor, self._net = actor, Pass(actor.net, x)
        with torch.no_grad():
            self.pi = actor.policy(self._net.output)

    @torch.no_grad()
    def gradient(
        self, sample: Tensor, of_log_prob: Tensor, of_entropy: Tensor | None = None, fresh: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """From slopes in what pi says to the gradient, for each of `actor.parameters()`.

        Args:
            sample: [B], [B, D] or [B, A] whose log pi the loss holds.
            of_log_prob: [B] d loss / d log pi(sample).
            of_entropy: [B] d loss / d entropy; None where the loss does not hold it.
            fresh: [M, B, A] of continuous actions, the samples that the entropy is taken from.
        """
        pi, actor = self.pi, self.actor
        if isinstance(actor, CategoricalActor):
            assert isinstance(pi, Categorical)
            slope = categorical_slope(pi, sample, of_log_prob, of_entropy)
            if actor.multi:
                slope = slope.flatten(1)[:, actor.place] if actor.padded else slope.flatten(1)
            return self._net.gradient(slope)
        assert isinstance(pi, SquashedGaussian)
        mean, log_std = gaussian_slopes(pi, sample, of_log_prob, of_entropy, fresh)
        free = actor.free_log_std(self._net.output)
        log_std = log_std * ((free >= LOG_STD[0]) & (free <= LOG_STD[1]))  # the slope of clamp
        return (log_std.sum(0), *self._net.gradient(torch.cat((mean, log_std), -1) if actor.state_std else mean))


def categorical_slope(pi: Categorical, sample: Tensor, of_log_prob: Tensor, of_entropy: Tensor | None) -> Tensor:
    """To the logits: d log pi(a) / d logit_i = [i = a] - pi_i, and d entropy / d logit_i = -pi_i (log pi_i + entropy).

    Args:
        pi: B distributions.
        sample: [B] or [B, D] int64.
        of_log_prob: [B] d loss / d log pi(sample).
        of_entropy: [B] d loss / d entropy, or None.

    Returns:
        [B, n] or [B, D, M].
    """
    rows = (-1, 1, 1) if isinstance(pi, MultiCategorical) else (-1, 1)
    of_log_prob, probs, taken = of_log_prob.view(rows), pi.probs, sample.unsqueeze(-1)
    slope = (probs * -of_log_prob).scatter_add_(-1, taken, of_log_prob.expand(taken.shape))
    if of_entropy is None:
        return slope
    weighted = probs * pi.log_probs
    entropy = -weighted.sum(-1, keepdim=True)  # of each choice
    return slope.addcmul_(torch.addcmul(weighted, probs, entropy), of_entropy.view(rows), value=-1)


def gaussian_slopes(
    pi: SquashedGaussian, sample: Tensor, of_log_prob: Tensor, of_entropy: Tensor | None, fresh: Tensor | None
) -> tuple[Tensor, Tensor]:
    """To mean and log std: of log pi(u) they are z / std and z^2 - 1, where z = (u - mean) / std.

    A fresh u = mean + std z moves with both while z stays: of its -log pi, which is log std + log(1 - tanh(u)^2) and a
    constant, they are -2 tanh(u) and 1 - 2 tanh(u) (u - mean).

    Args:
        pi: B distributions.
        sample: u [B, A], before tanh.
        of_log_prob: [B] d loss / d log pi(u).
        of_entropy: [B] d loss / d entropy, or None.
        fresh: [M, B, A] that the entropy is taken from, before tanh.

    Returns:
        [B, A], [B, A], in every row's own log std.
    """
    narrow = (-pi.log_std).exp()
    z = (sample - pi.mean) * narrow
    rows = of_log_prob.unsqueeze(-1)
    mean, log_std = z * narrow * rows, (z.square() - 1) * rows
    if of_entropy is None:
        return mean, log_std
    assert fresh is not None, "the entropy behind tanh has no closed form: it needs samples"
    bend, rows = -2 * fresh.tanh(), of_entropy.unsqueeze(-1)
    return mean + bend.mean(0) * rows, log_std + (1 + bend * (fresh - pi.mean)).mean(0) * rows

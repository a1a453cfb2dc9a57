"""Backpropagation by hand: from the slopes of a loss to the gradient of the parameters, without autograd's graph.

With small networks that graph takes longer than the arithmetic. Here each module has its Jacobian written out, and
the chain rule is the order of the calls. What they give is what autograd gives, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from costgrad.rl.networks.actor import CategoricalActor, GaussianActor, StochasticActor
from costgrad.rl.networks.batch_norm import BatchNormMLP
from costgrad.rl.networks.distributions import LOG_STD, Categorical, MultiCategorical, SquashedGaussian
from costgrad.rl.networks.mlp import MLP, Activation, affine

Gradient = Sequence[Tensor]  # one for each of a module's `parameters()`


def back_tanh(slope: Tensor, y: Tensor) -> Tensor:
    """D loss / d y of y = tanh(x) -> d loss / d x, which is written over `slope`."""
    return slope.addcmul_(slope * y, y, value=-1)


def back_relu(slope: Tensor, y: Tensor) -> Tensor:
    """The same of y = max(x, 0)."""
    return torch.ops.aten.threshold_backward.grad_input(slope, y, 0.0, grad_input=slope)


_BACK: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {"tanh": back_tanh, "relu": back_relu}


def back_affine(slope: Tensor, weight: Tensor) -> Tensor:
    """D loss / d output of `affine` [..., B, out] -> d loss / d x [..., B, in]."""
    if slope.shape[-1] == 1:  # of one output: its weights, in each row by as much; MKL's product takes far longer
        return slope * weight.mT
    return slope @ weight.mT


def of_weight(x: Tensor, slope: Tensor, into: Tensor) -> None:
    """The same -> d loss / d weight [..., in, out], which is put into `into`; x and slope have as many dimensions."""
    product = torch.mm if x.dim() == 2 else torch.bmm
    if slope.shape[-1] == 1:  # lying down: a batch of products with columns takes ten times as long
        product(slope.mT, x, out=into.mT)
    else:
        product(x.mT, slope, out=into)


class Pass:
    """One batch through an MLP, or through the members of an ensemble, and back.

    Args:
        net: layers of tanh or ReLU are gone through by hand; normalised layers, dropout and SiLU by autograd.
        x: [B, sizes[0]].
        masks: of dropout.
        first: of an ensemble, its first member alone: K is 1.
        wanted: how many of the last inputs `to_input` will be asked for.
    """

    def __init__(
        self, net: MLP, x: Tensor, masks: list[Tensor] | None = None, first: bool = False, wanted: int = 0
    ) -> None:
        self.net, self._first, self._wanted = net, first and net.ensemble is not None, wanted
        self._by_hand = net.activation in _BACK and not net.gains and masks is None
        if self._by_hand:
            self.inputs: list[Tensor] = []  # of each layer
            self.output = self._forward(x)  # [B, sizes[-1]] or [K, B, sizes[-1]], without a graph
        else:
            with torch.enable_grad():
                self._input = x.detach().requires_grad_(wanted > 0)
                self._graph = net(self._input, masks, first)
            self.output = self._graph.detach()

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        layers = self.net.layers()
        return [(weight[:1], bias[:1]) for weight, bias in layers] if self._first else layers

    @torch.no_grad()
    def _forward(self, x: Tensor) -> Tensor:
        *hidden, (weight, bias) = self._layers()
        x = x if self.net.ensemble is None else x.expand(len(weight), *x.shape)
        self.inputs.append(x)
        for w, b in hidden:
            x = self.net.activate(affine(b, x, w))
            self.inputs.append(x)
        return affine(bias, x, weight)

    @torch.no_grad()
    def gradient(self, slope: Tensor, into: Gradient = ()) -> Gradient:
        """D loss / d output, of all rows or of the first -> d loss / d parameter, for each of `net.parameters()`.

        Given `into`, tensors of the parameters' shapes, it may lie there.
        """
        rows = slope.shape[-2]
        if not self._by_hand:
            slope = F.pad(slope, (0, 0, 0, self.output.shape[-2] - rows))
            return torch.autograd.grad(self._graph, list(self.net.parameters()), slope)
        ensemble = self.net.ensemble is not None
        layers = self._layers()
        into = into or tuple(torch.empty_like(p) for p in self.net.parameters())
        for i in reversed(range(len(layers))):
            x = self.inputs[i][..., :rows, :]
            of_weight(x, slope, into[i])
            torch.sum(slope, -2, keepdim=ensemble, out=into[len(layers) + i])
            if i:
                slope = _BACK[self.net.activation](back_affine(slope, layers[i][0]), x)
        return into

    @torch.no_grad()
    def to_input(self, slope: Tensor) -> Tensor:
        """D loss / d output -> d loss / d the last `wanted` inputs, [B, wanted]; no parameter's slope is taken."""
        if not self._by_hand:
            return torch.autograd.grad(self._graph, self._input, slope)[0][:, -self._wanted :]
        (first, _), *others = self._layers()
        for (weight, _), x in zip(reversed(others), reversed(self.inputs), strict=False):
            slope = _BACK[self.net.activation](back_affine(slope, weight), x)
        slope = back_affine(slope, first[..., -self._wanted :, :])
        return slope if self.net.ensemble is None else slope.sum(0)


class BatchNormPass:
    """`Pass` of a batch-normalised net, by hand.

    Args:
        net: in training or in use.
        x: [B, sizes[0]].
        first: of an ensemble, its first member alone: K is 1.
        wanted: how many of the last inputs `to_input` will be asked for.
    """

    @torch.no_grad()
    def __init__(self, net: BatchNormMLP, x: Tensor, first: bool = False, wanted: int = 0) -> None:
        self.net, self._wanted, self._joint = net, wanted, net.training  # which may change until the way back
        self._layers, self._gains = net.members(first), [gain for gain, _ in net.scales(first)]
        *hidden, (weight, bias) = self._layers
        x = x.expand(len(weight), *x.shape)
        self.inputs, self._products, self._factors = [x], [], []  # of each layer
        for i, ((w, b), (gain, shift)) in enumerate(zip(hidden, net.scales(first), strict=True)):
            x = affine(b, x, w)
            mean, narrow = net.statistics(i, x)
            self._factors.append(narrow * gain)
            self._products.append((x, mean, narrow))
            x = net.activate(torch.addcmul(shift - mean * self._factors[i], x, self._factors[i]))
            self.inputs.append(x)
        output = affine(bias, x, weight)
        self.output = output if net.ensemble else output[0]

    @torch.no_grad()
    def gradient(self, slope: Tensor, into: Gradient = ()) -> Gradient:
        """As `Pass.gradient`."""
        into = into or tuple(torch.empty_like(p) for p in self.net.parameters())
        count = len(self._gains)
        weights, biases, gains, shifts = (
            [place.view(-1, *layer.shape[1:]) for place, layer in zip(places, like, strict=True)]
            for places, like in (
                (into[: count + 1], [w for w, _ in self._layers]),
                (into[count + 1 : 2 * count + 2], [b for _, b in self._layers]),
                (into[2 * count + 2 : 3 * count + 2], self._gains),
                (into[3 * count + 2 :], self._gains),
            )
        )
        slope = slope if self.net.ensemble else slope.unsqueeze(0)
        for i in range(count, -1, -1):
            of_weight(self.inputs[i][:, : slope.shape[1]], slope, weights[i])
            torch.sum(slope, 1, keepdim=True, out=biases[i])
            if i:
                slope = self._past(i, slope, gains[i - 1], shifts[i - 1])
        return into

    @torch.no_grad()
    def to_input(self, slope: Tensor) -> Tensor:
        """As `Pass.to_input`."""
        slope = slope if self.net.ensemble else slope.unsqueeze(0)
        for i in range(len(self._gains), 0, -1):
            slope = self._past(i, slope)
        return back_affine(slope, self._layers[0][0][:, -self._wanted :]).sum(0)

    def _past(self, i: int, slope: Tensor, of_gain: Tensor | None = None, of_shift: Tensor | None = None) -> Tensor:
        """From behind layer i's product to behind that of the layer before; the slopes of gain and shift are put.

        Of y = gain u + shift, u = (x - mean) / deviation over B rows, d loss / d x is gain / deviation times the slope
        in y less its mean less u times the mean of slope u (1502.03167, section 3).
        """
        y, factor = self.inputs[i], self._factors[i - 1]
        if slope.shape[1] == y.shape[1]:
            slope = back_affine(slope, self._layers[i][0])
        else:
            whole = torch.zeros_like(y)
            torch.bmm(slope, self._layers[i][0].mT, out=whole[:, : slope.shape[1]])
            slope = whole
        slope = _BACK[self.net.activation](slope, y)
        if of_gain is None and not self._joint:
            return slope.mul_(factor)
        x, mean, narrow = self._products[i - 1]
        unit = (x - mean).mul_(narrow)
        total, along = slope.sum(1, keepdim=True), (slope * unit).sum(1, keepdim=True)
        if of_gain is not None and of_shift is not None:
            of_gain.copy_(along)
            of_shift.copy_(total)
        if self._joint:
            slope.addcmul_(unit, along, value=-1 / y.shape[1]).sub_(total / y.shape[1])
        return slope.mul_(factor)


def passed(
    net: MLP, x: Tensor, masks: list[Tensor] | None = None, first: bool = False, wanted: int = 0
) -> Pass | BatchNormPass:
    """The pass that fits the net, with the arguments of `Pass`."""
    if isinstance(net, BatchNormMLP) and net.activation in _BACK:
        return BatchNormPass(net, x, first, wanted)
    return Pass(net, x, masks, first, wanted)


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
    ) -> Gradient:
        """From slopes in what pi says to the gradient, for each of `actor.parameters()`.

        Args:
            sample: [B], [B, D] or [B, A] whose log pi the loss holds.
            of_log_prob: [B] d loss / d log pi(sample).
            of_entropy: [B] d loss / d entropy; None where the loss does not hold it.
            fresh: [M, B, A] of continuous actions, the samples that the entropy is taken from.
        """
        pi = self.pi
        if isinstance(pi, Categorical):
            return self.from_logits(categorical_slope(pi, sample, of_log_prob, of_entropy))
        mean, log_std = log_prob_slopes(pi, sample, of_log_prob)
        if of_entropy is not None:
            assert fresh is not None, "the entropy behind tanh has no closed form: it needs samples"
            of_mean, of_log_std = sample_slopes(pi, fresh, None, of_entropy)
            mean, log_std = mean + of_mean, log_std + of_log_std
        return self.from_gaussian(mean, log_std)

    @torch.no_grad()
    def from_logits(self, slope: Tensor, into: Gradient = ()) -> Gradient:
        """The gradient from slopes in the logits, [B, n] or [B, D, M]; `into` as of `Pass.gradient`."""
        actor = self.actor
        assert isinstance(actor, CategoricalActor)
        if actor.multi:
            slope = slope.flatten(1)[:, actor.place] if actor.padded else slope.flatten(1)
        return self._net.gradient(slope, into)

    @torch.no_grad()
    def from_gaussian(self, mean: Tensor, log_std: Tensor, into: Gradient = ()) -> Gradient:
        """The gradient from slopes in mean and log std, both [B, A]; `into` as of `Pass.gradient`."""
        actor = self.actor
        assert isinstance(actor, GaussianActor)
        free = actor.free_log_std(self._net.output)
        log_std = log_std * ((free >= LOG_STD[0]) & (free <= LOG_STD[1]))  # the slope of clamp
        slope = torch.cat((mean, log_std), -1) if actor.state_std else mean
        return (log_std.sum(0), *self._net.gradient(slope, into[1:]))


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


def log_prob_slopes(pi: SquashedGaussian, sample: Tensor, of_log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """To mean and log std: of log pi(u) they are z / std and z^2 - 1, where z = (u - mean) / std.

    Args:
        pi: B distributions.
        sample: u [B, A], before tanh.
        of_log_prob: [B] d loss / d log pi(u).

    Returns:
        [B, A], [B, A], in every row's own log std.
    """
    narrow = (-pi.log_std).exp()
    z = (sample - pi.mean) * narrow
    rows = of_log_prob.unsqueeze(-1)
    return z * narrow * rows, (z.square() - 1) * rows


def sample_slopes(
    pi: SquashedGaussian, fresh: Tensor, of_action: Tensor | None, of_entropy: Tensor
) -> tuple[Tensor, Tensor]:
    """To mean and log std, of fresh samples u = mean + std z that move with both while z stays (1312.6114).

    The action is tanh(u). -log pi is log std + log(1 - tanh(u)^2) and a constant: its slope in u is -2 tanh(u).

    Args:
        pi: B distributions.
        fresh: u [M, B, A], before tanh.
        of_action: [M, B, A] d loss / d tanh(u); None where the loss does not hold the action.
        of_entropy: [B] d loss / d entropy, which is the mean of -log pi over the M.

    Returns:
        [B, A], [B, A], in every row's own log std.
    """
    action, rows = fresh.tanh(), of_entropy.unsqueeze(-1)
    slope = action * (-2 / len(fresh) * rows)
    if of_action is not None:
        slope = slope + back_tanh(of_action, action)
    return slope.sum(0), (slope * (fresh - pi.mean)).sum(0) + rows

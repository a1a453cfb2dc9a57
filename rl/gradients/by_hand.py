"""Backpropagation by hand: from the gradient of a loss in a network's output to that in its parameters.

For small networks autograd's graph takes longer than the arithmetic. Here the backward pass of each module is written
out, and the chain rule is the order of the calls. The gradients are autograd's, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from costgrad.rl.networks.actor import CategoricalActor, GaussianActor, StochasticActor
from costgrad.rl.networks.batch_norm import BatchNormMLP
from costgrad.rl.networks.distributions import LOG_STD, Categorical, MultiCategorical, SquashedGaussian
from costgrad.rl.networks.mlp import MLP, Activation, affine

Gradient = Sequence[Tensor]  # one for each of a module's `parameters()`


def tanh_backward(grad_output: Tensor, y: Tensor) -> Tensor:
    """Backward of y = tanh(x): grad_output -> grad_input, in place."""
    return grad_output.addcmul_(grad_output * y, y, value=-1)


def relu_backward(grad_output: Tensor, y: Tensor) -> Tensor:
    """Backward of y = max(x, 0): grad_output -> grad_input, in place."""
    return torch.ops.aten.threshold_backward.grad_input(grad_output, y, 0.0, grad_input=grad_output)


BACKWARD: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {"tanh": tanh_backward, "relu": relu_backward}


def affine_backward(grad_output: Tensor, weight: Tensor) -> Tensor:
    """Backward of `affine` to its input: grad_output [..., B, out] -> [..., B, in]."""
    if grad_output.shape[-1] == 1:  # of one output: its weights, scaled in each row; MKL's product takes far longer
        return grad_output * weight.mT
    return grad_output @ weight.mT


def weight_backward(x: Tensor, grad_output: Tensor, out: Tensor) -> None:
    """Backward of `affine` to its weight, written to `out` [..., in, out]; x and grad_output have equal dimensions."""
    product = torch.mm if x.dim() == 2 else torch.bmm
    if grad_output.shape[-1] == 1:  # lying down: a batch of products with columns takes ten times as long
        product(grad_output.mT, x, out=out.mT)
    else:
        product(x.mT, grad_output, out=out)


class Pass:
    """One batch through an `MLP` of tanh or ReLU layers, or through the members of an ensemble, and back.

    Args:
        net: without layer normalisation; dropout is off.
        x: [B, sizes[0]].
        first: of an ensemble, its first member alone: K is 1.
        inputs: how many of the last inputs `to_input` will be asked for.
    """

    @torch.no_grad()
    def __init__(self, net: MLP, x: Tensor, first: bool = False, inputs: int = 0) -> None:
        self.net, self._first, self._inputs = net, first and net.ensemble is not None, inputs
        *hidden, (weight, bias) = self._layers()
        x = x if net.ensemble is None else x.expand(len(weight), *x.shape)
        self.inputs: list[Tensor] = [x]  # of each layer
        for w, b in hidden:
            x = net.activate(affine(b, x, w))
            self.inputs.append(x)
        self.output = affine(bias, x, weight)  # [B, sizes[-1]] or [K, B, sizes[-1]]

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        layers = self.net.layers()
        return [(weight[:1], bias[:1]) for weight, bias in layers] if self._first else layers

    @torch.no_grad()
    def gradient(self, grad_output: Tensor, out: Gradient = ()) -> Gradient:
        """Backward to the parameters, for each of `net.parameters()`.

        Args:
            grad_output: d loss / d output, of all rows or of the first ones.
            out: tensors of the parameters' shapes that the gradient may be written to.
        """
        rows, ensemble, layers = grad_output.shape[-2], self.net.ensemble is not None, self._layers()
        out = out or tuple(torch.empty_like(p) for p in self.net.parameters())
        for i in reversed(range(len(layers))):
            x = self.inputs[i][..., :rows, :]
            weight_backward(x, grad_output, out[i])
            torch.sum(grad_output, -2, keepdim=ensemble, out=out[len(layers) + i])
            if i:
                grad_output = BACKWARD[self.net.activation](affine_backward(grad_output, layers[i][0]), x)
        return out

    @torch.no_grad()
    def to_input(self, grad_output: Tensor) -> Tensor:
        """Backward to the last `inputs` inputs, [B, inputs]; no parameter's gradient is taken."""
        (first, _), *others = self._layers()
        for (weight, _), x in zip(reversed(others), reversed(self.inputs), strict=False):
            grad_output = BACKWARD[self.net.activation](affine_backward(grad_output, weight), x)
        grad_output = affine_backward(grad_output, first[..., -self._inputs :, :])
        return grad_output if self.net.ensemble is None else grad_output.sum(0)


class BatchNormPass:
    """`Pass` of a batch-normalised net, by hand.

    Args:
        net: in training or in use.
        x: [B, sizes[0]].
        first: of an ensemble, its first member alone: K is 1.
        inputs: how many of the last inputs `to_input` will be asked for.
    """

    @torch.no_grad()
    def __init__(self, net: BatchNormMLP, x: Tensor, first: bool = False, inputs: int = 0) -> None:
        self.net, self._inputs, self._joint = net, inputs, net.training  # which may change until the way back
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
    def gradient(self, grad_output: Tensor, out: Gradient = ()) -> Gradient:
        """As `Pass.gradient`."""
        out = out or tuple(torch.empty_like(p) for p in self.net.parameters())
        count = len(self._gains)
        weights, biases, gains, shifts = (
            [place.view(-1, *layer.shape[1:]) for place, layer in zip(places, like, strict=True)]
            for places, like in (
                (out[: count + 1], [w for w, _ in self._layers]),
                (out[count + 1 : 2 * count + 2], [b for _, b in self._layers]),
                (out[2 * count + 2 : 3 * count + 2], self._gains),
                (out[3 * count + 2 :], self._gains),
            )
        )
        grad_output = grad_output if self.net.ensemble else grad_output.unsqueeze(0)
        for i in range(count, -1, -1):
            weight_backward(self.inputs[i][:, : grad_output.shape[1]], grad_output, weights[i])
            torch.sum(grad_output, 1, keepdim=True, out=biases[i])
            if i:
                grad_output = self._through_norm(i, grad_output, gains[i - 1], shifts[i - 1])
        return out

    @torch.no_grad()
    def to_input(self, grad_output: Tensor) -> Tensor:
        """As `Pass.to_input`."""
        grad_output = grad_output if self.net.ensemble else grad_output.unsqueeze(0)
        for i in range(len(self._gains), 0, -1):
            grad_output = self._through_norm(i, grad_output)
        return affine_backward(grad_output, self._layers[0][0][:, -self._inputs :]).sum(0)

    def _through_norm(
        self, i: int, grad_output: Tensor, grad_gain: Tensor | None = None, grad_shift: Tensor | None = None
    ) -> Tensor:
        """Backward from layer i's product to that of the layer before; the gradients of gain and shift are written.

        Of y = gain u + shift, u = (x - mean) / deviation over B rows, d loss / d x is gain / deviation times
        grad_output less its mean less u times the mean of grad_output u (1502.03167, section 3).
        """
        y, factor = self.inputs[i], self._factors[i - 1]
        if grad_output.shape[1] == y.shape[1]:
            grad_output = affine_backward(grad_output, self._layers[i][0])
        else:
            whole = torch.zeros_like(y)
            torch.bmm(grad_output, self._layers[i][0].mT, out=whole[:, : grad_output.shape[1]])
            grad_output = whole
        grad_output = BACKWARD[self.net.activation](grad_output, y)
        if grad_gain is None and not self._joint:
            return grad_output.mul_(factor)
        x, mean, narrow = self._products[i - 1]
        unit = (x - mean).mul_(narrow)
        total, along = grad_output.sum(1, keepdim=True), (grad_output * unit).sum(1, keepdim=True)
        if grad_gain is not None and grad_shift is not None:
            grad_gain.copy_(along)
            grad_shift.copy_(total)
        if self._joint:
            grad_output.addcmul_(unit, along, value=-1 / y.shape[1]).sub_(total / y.shape[1])
        return grad_output.mul_(factor)


def pass_of(net: MLP, x: Tensor, first: bool = False, inputs: int = 0) -> Pass | BatchNormPass:
    """The pass that fits the network, with the arguments of `Pass`."""
    return (BatchNormPass if isinstance(net, BatchNormMLP) else Pass)(net, x, first, inputs)  # type: ignore[arg-type]


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
        self,
        sample: Tensor,
        grad_log_prob: Tensor,
        grad_entropy: Tensor | None = None,
        samples: Tensor | None = None,
        out: Gradient = (),
    ) -> Gradient:
        """From gradients in what pi says to the gradient, for each of `actor.parameters()`.

        Args:
            sample: [B], [B, D] or [B, A] whose log pi the loss holds.
            grad_log_prob: [B] d loss / d log pi(sample).
            grad_entropy: [B] d loss / d entropy; None where the loss does not hold it.
            samples: [M, B, A] of continuous actions, the samples that the entropy is taken from.
            out: as of `Pass.gradient`.
        """
        pi = self.pi
        if isinstance(pi, Categorical):
            return self.from_logits(categorical_backward(pi, sample, grad_log_prob, grad_entropy), out)
        mean, log_std = log_prob_backward(pi, sample, grad_log_prob)
        if grad_entropy is not None:
            assert samples is not None, "the entropy behind tanh has no closed form: it needs samples"
            grad_mean, grad_log_std = sample_backward(pi, samples, None, grad_entropy)
            mean, log_std = mean + grad_mean, log_std + grad_log_std
        return self.from_gaussian(mean, log_std, out)

    @torch.no_grad()
    def from_logits(self, grad: Tensor, out: Gradient = ()) -> Gradient:
        """The gradient from gradients in the logits, [B, n] or [B, D, M]; `out` as of `Pass.gradient`."""
        actor = self.actor
        assert isinstance(actor, CategoricalActor)
        if actor.multi:
            grad = grad.flatten(1)[:, actor.place] if actor.padded else grad.flatten(1)
        return self._net.gradient(grad, out)

    @torch.no_grad()
    def from_gaussian(self, mean: Tensor, log_std: Tensor, out: Gradient = ()) -> Gradient:
        """The gradient from gradients in mean and log std, both [B, A]; `out` as of `Pass.gradient`."""
        actor = self.actor
        assert isinstance(actor, GaussianActor)
        free = actor.free_log_std(self._net.output)
        log_std = log_std * ((free >= LOG_STD[0]) & (free <= LOG_STD[1]))  # the grad of clamp
        grad = torch.cat((mean, log_std), -1) if actor.state_std else mean
        return (log_std.sum(0), *self._net.gradient(grad, out[1:]))


def categorical_backward(pi: Categorical, sample: Tensor, grad_log_prob: Tensor, grad_entropy: Tensor | None) -> Tensor:
    """To the logits: d log pi(a) / d logit_i = [i = a] - pi_i, and d entropy / d logit_i = -pi_i (log pi_i + entropy).

    Args:
        pi: B distributions.
        sample: [B] or [B, D] int64.
        grad_log_prob: [B] d loss / d log pi(sample).
        grad_entropy: [B] d loss / d entropy, or None.

    Returns:
        [B, n] or [B, D, M].
    """
    rows = (-1, 1, 1) if isinstance(pi, MultiCategorical) else (-1, 1)
    grad_log_prob, probs, taken = grad_log_prob.view(rows), pi.probs, sample.unsqueeze(-1)
    grad = (probs * -grad_log_prob).scatter_add_(-1, taken, grad_log_prob.expand(taken.shape))
    if grad_entropy is None:
        return grad
    weighted = probs * pi.log_probs
    entropy = -weighted.sum(-1, keepdim=True)  # of each choice
    return grad.addcmul_(torch.addcmul(weighted, probs, entropy), grad_entropy.view(rows), value=-1)


def log_prob_backward(pi: SquashedGaussian, sample: Tensor, grad_log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """To mean and log std: of log pi(u) they are z / std and z^2 - 1, where z = (u - mean) / std.

    Args:
        pi: B distributions.
        sample: u [B, A], before tanh.
        grad_log_prob: [B] d loss / d log pi(u).

    Returns:
        [B, A], [B, A], in every row's own log std.
    """
    narrow = (-pi.log_std).exp()
    z = (sample - pi.mean) * narrow
    rows = grad_log_prob.unsqueeze(-1)
    return z * narrow * rows, (z.square() - 1) * rows


def sample_backward(
    pi: SquashedGaussian, samples: Tensor, grad_action: Tensor | None, grad_entropy: Tensor
) -> tuple[Tensor, Tensor]:
    """To mean and log std, of samples samples u = mean + std z that move with both while z stays (1312.6114).

    The action is tanh(u). -log pi is log std + log(1 - tanh(u)^2) and a constant: its grad in u is -2 tanh(u).

    Args:
        pi: B distributions.
        samples: u [M, B, A], before tanh.
        grad_action: [M, B, A] d loss / d tanh(u); None where the loss does not hold the action.
        grad_entropy: [B] d loss / d entropy, which is the mean of -log pi over the M.

    Returns:
        [B, A], [B, A], in every row's own log std.
    """
    action, rows = samples.tanh(), grad_entropy.unsqueeze(-1)
    grad = action * (-2 / len(samples) * rows)
    if grad_action is not None:
        grad = grad + tanh_backward(grad_action, action)
    return grad.sum(0), (grad * (samples - pi.mean)).sum(0) + rows

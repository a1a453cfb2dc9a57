"""One step down a loss: by autograd for any network, or by the same gradient written by hand for plain ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from costgrad.rl.gradients.fast import refusal
from costgrad.rl.optim import Optimizer, descend

LossT = TypeVar("LossT", bound=tuple[Tensor, ...])


class Descent(Generic[LossT]):
    """A loss, the optimizer that descends it, and the networks that it is a function of.

    `loss` defines the step. `by_hand` is an accelerator that is taken for exactly the classes of networks that it
    knows (`refusal` in rl/gradients/fast.py), and which gives the same up to rounding.

    Args:
        loss: `loss(*networks, *args)` -> a tuple, first the scalar that is descended.
        by_hand: `by_hand(*networks, *args, out=slots)` -> that tuple and the gradient of its first entry, one tensor
            for each of the optimizer's parameters; None where there is none.
        optimizer: owns the parameters that learn.
        networks: the loss's first arguments.
        others: further optimizers whose parameters the loss trains, such as that of a shared encoder, by name.

    Attributes:
        reason: why autograd is taken; None where it is by hand.
    """

    def __init__(
        self,
        loss: Callable[..., LossT],
        by_hand: Callable[..., tuple[LossT, Any]] | None,
        optimizer: Optimizer,
        *networks: nn.Module,
        others: Mapping[str, Optimizer] | None = None,
    ) -> None:
        self.loss, self.by_hand, self.optimizer, self.networks = loss, by_hand, optimizer, networks
        self.others = tuple((others or {}).values())
        why = [reason for network in networks if (reason := refusal(network)) is not None]
        self.reason = "no step by hand" if by_hand is None else why[0] if why else None

    def __call__(self, *args: Any) -> tuple[LossT, Tensor]:
        """Takes one step; what the loss came to, without a graph, and the gradient's norm before clipping."""
        if self.reason is None and self.by_hand is not None:
            loss, gradient = self.by_hand(*self.networks, *args, out=self.optimizer.slots)
            return loss, self.optimizer.apply(gradient)
        if not torch.is_grad_enabled():  # as in the updates of off-policy agents
            with torch.enable_grad():
                return self(*args)
        loss = self.loss(*self.networks, *args)
        norm = descend(self.optimizer, loss[0], *self.others)
        return detached(loss), norm


def detached(loss: LossT) -> LossT:
    """A tuple of tensors without their graphs."""
    entries = [entry.detach() for entry in loss]
    return tuple(entries) if type(loss) is tuple else type(loss)(*entries)  # type: ignore[return-value]


def path_of(*descents: Descent[Any]) -> str:
    """How the steps of an agent are taken, for people: "by hand", or "by autograd" and why."""
    reasons = dict.fromkeys(d.reason for d in descents if d.reason is not None)
    if not reasons:
        return "by hand (plain networks)"
    return f"by autograd ({', '.join(reasons)})"

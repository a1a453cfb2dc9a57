"""The only place that writes gradients: one flat parameter and one optimiser call per loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
EPSILON = 1e-5  # added to the root of the mean square


def flatten(module: nn.Module) -> tuple[list[Tensor], Tensor]:
    """Moves the parameters of a module that learn into one memory: these, and that memory as one vector."""
    parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    offset = 0
    for p in parameters:
        p.data = flat[offset : offset + p.numel()].view_as(p)
        offset += p.numel()
    return parameters, flat


def annealed(lr: float, step: int, decay_steps: int) -> float:
    """A learning rate at environment step `step`, when it falls linearly to 0 over `decay_steps`; 0 keeps it."""
    return lr * max(0.0, 1 - step / decay_steps) if decay_steps else lr


class Optimizer:
    """Adam or RMSprop over one flat parameter that the module's own parameters are views of.

    Args:
        module: owns the parameters; from now on they share one memory. Move it to its device before.
        kind: "adam" (1412.6980) or "rmsprop".
        lr: learning rate.
        clip_norm: the gradient's length is cut to this; 0 leaves it.
        l2: factor of the penalty l2/2 |w|^2 on the weight matrices of its `MLP`s, not on biases or gains.
        l1: factor of the penalty l1 |w| on the same.
        decay_steps: environment steps over which the learning rate falls linearly to 0; 0 keeps it.
        beta1: of Adam, how much of the mean gradient a step keeps.
    """

    def __init__(
        self,
        module: nn.Module,
        kind: Literal["adam", "rmsprop"] = "adam",
        lr: float = 3e-4,
        clip_norm: float = 0.0,
        l2: float = 0.0,
        l1: float = 0.0,
        decay_steps: int = 0,
        beta1: float = 0.9,
    ) -> None:
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.lr, self.clip_norm, self.l2, self.l1, self.decay_steps = lr, clip_norm, l2, l1, decay_steps
        self.beta1 = beta1
        self.parameters, flat = flatten(module)
        self.flat = flat
        self._first = next(p for p in self.parameters if p.numel())  # a net of no inputs has weights without memory
        self.penalised = torch.cat([torch.full((p.numel(),), float("weights." in name)) for name, p in named]).to(flat)
        self.current_lr = lr
        self.gradient = torch.zeros_like(flat)
        self.one = torch.ones((), device=flat.device)
        self._longest = torch.tensor(clip_norm).to(flat)
        self.slots: list[Tensor] = []  # of each parameter in the flat gradient
        offset = 0
        for p in self.parameters:
            self.slots.append(self.gradient[offset : offset + p.numel()].view_as(p))
            offset += p.numel()
        self.memory = {"square": torch.zeros_like(flat)}
        if kind == "adam":
            self.memory |= {"mean": torch.zeros_like(flat), "step": torch.zeros((), device=flat.device)}

    def anneal(self, step: int) -> None:
        """Sets the learning rate that holds at environment step `step`."""
        self.current_lr = annealed(self.lr, step, self.decay_steps)

    @property
    def is_stale(self) -> bool:
        """Whether the module was moved or copied since: its parameters are no longer those that are moved here."""
        return self._first.data_ptr() != self.flat.data_ptr()

    def apply(self, gradient: Sequence[Tensor]) -> Tensor:
        """Takes one step along -gradient (one tensor a parameter, `slots` or others); its length before clipping."""
        flat, memory = self.gradient, self.memory
        if self.is_stale:
            raise RuntimeError("the module was moved or copied after its optimizer was made: make another optimizer")
        elsewhere = [i for i, slot in enumerate(self.slots) if slot is not gradient[i]]
        if elsewhere:
            torch._foreach_copy_([self.slots[i] for i in elsewhere], [gradient[i] for i in elsewhere])
        if self.l2:
            flat.addcmul_(self.flat, self.penalised, value=self.l2)
        if self.l1:
            flat.addcmul_(self.flat.sign(), self.penalised, value=self.l1)
        norm = torch.linalg.vector_norm(flat)
        if self.clip_norm:
            flat.mul_(self._longest / torch.maximum(norm, self._longest))
        if "mean" in memory:  # the kernel of torch's own step: what stands around it takes several times as long
            memory["step"].add_(1)
            torch._fused_adam_(
                *([self.flat], [flat], [memory["mean"]], [memory["square"]], [], [memory["step"]]),
                amsgrad=False,
                maximize=False,
                weight_decay=0.0,
                lr=self.current_lr,
                beta1=self.beta1,
                beta2=0.999,
                eps=EPSILON,
            )
        else:
            square = memory["square"].mul_(0.99).addcmul_(flat, flat, value=0.01)
            self.flat.addcdiv_(flat, square.sqrt().add_(EPSILON), value=-self.current_lr)
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """The optimiser's memory; parameters belong to their module."""
        return self.memory

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave."""
        for key, value in self.memory.items():
            value.copy_(state_dict[key])


def descend(optimizer: Optimizer, loss: Tensor) -> Tensor:
    """One optimiser step down `loss`, on exactly the parameters that `optimizer` owns.

    Nothing else gets a gradient, and none is computed for it: an actor's step through C leaves no trace in C.

    Args:
        optimizer: owns the parameters.
        loss: a scalar.

    Returns:
        the gradient's length before clipping, a scalar.
    """
    return optimizer.apply(torch.autograd.grad(loss, optimizer.parameters, optimizer.one))


class Target(nn.Module, Generic[ModuleT]):
    """A copy of a module that follows it slowly (1509.02971, algorithm 1).

    Children of the module that have no parameters, such as running statistics, are shared, not copied.

    Args:
        module: after its optimizer was made.
        optimizer: of the module.
        tau: share of the way that one step goes.
    """

    copy: ModuleT

    def __init__(self, module: ModuleT, optimizer: Optimizer, tau: float) -> None:
        super().__init__()
        self.copy, self.tau = deepcopy(module), tau
        for name, child in module.named_children():
            if not any(True for _ in child.parameters()):
                setattr(self.copy, name, child)
        self._flat, self._followed = flatten(self.copy)[1], optimizer

    def soft_update(self) -> None:
        """One step towards the module."""
        self._flat.lerp_(self._followed.flat, self.tau)

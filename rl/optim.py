"""The only place that writes gradients: one flat parameter and one optimiser call per loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from costgrad.rl.checks import same_form, within
from costgrad.rl.errors import UserError

ModuleT = TypeVar("ModuleT", bound=nn.Module)
EPSILON = 1e-5  # added to the root of the mean square
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)


def flatten(parameters: Sequence[Tensor]) -> Tensor:
    """Moves parameters into one memory: that memory as one vector, of which they are views from now on."""
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    offset = 0
    for p in parameters:
        p.data = flat[offset : offset + p.numel()].view_as(p)
        offset += p.numel()
    return flat


def annealed(lr: float, step: int, decay_steps: int) -> float:
    """A learning rate at environment step `step` that falls linearly to 0 over `decay_steps`; 0 keeps it."""
    return lr * max(0.0, 1 - step / decay_steps) if decay_steps else lr


def is_weight(owner: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a weight, which L2 and L1 penalise, by its kind: no bias, gain or shift.

    Args:
        owner: the module that holds the parameter.
        name: of the parameter in it.
        parameter: itself.
    """
    if isinstance(owner, _NORMS):
        return False
    if isinstance(owner, nn.ParameterList):  # an MLP keeps weights, biases, gains and shifts in lists of their own
        return bool(getattr(owner, "penalised", parameter.dim() > 1))
    return "bias" not in name and parameter.dim() > 1


class Optimizer:
    """Adam or RMSprop over one flat parameter that the module's own parameters are views of.

    Args:
        module: owns the parameters; from now on they share one memory. Move it to its device before.
        kind: "adam" (1412.6980) or "rmsprop".
        lr: learning rate.
        max_grad_norm: maximum gradient norm; 0 disables clipping.
        l2: factor of the penalty l2/2 |w|^2 on weights, see `is_weight`.
        l1: factor of the penalty l1 |w| on weights.
        decay_steps: environment steps over which the learning rate falls linearly to 0; 0 keeps it.
        beta1: of Adam, the decay rate of the mean gradient.
        without: a child of the module whose parameters belong to another optimizer.
    """

    def __init__(
        self,
        module: nn.Module,
        kind: Literal["adam", "rmsprop"] = "adam",
        lr: float = 3e-4,
        max_grad_norm: float = 0.0,
        l2: float = 0.0,
        l1: float = 0.0,
        decay_steps: int = 0,
        beta1: float = 0.9,
        without: nn.Module | None = None,
    ) -> None:
        self.lr, self.max_grad_norm, self.l2, self.l1, self.decay_steps = lr, max_grad_norm, l2, l1, decay_steps
        self.beta1, self.current_lr = beta1, lr
        others = {id(p) for p in without.parameters()} if without is not None else set()
        mine = [(name, p) for name, p in module.named_parameters() if p.requires_grad and id(p) not in others]
        self.names = [name for name, _ in mine]
        self.parameters: list[Tensor] = [p for _, p in mine]
        self.flat = flatten(self.parameters)
        self._first = next(p for p in self.parameters if p.numel())  # a net of no inputs has weights without memory
        owners = dict(module.named_modules())
        penalised = [is_weight(owners[name.rpartition(".")[0]], name.rpartition(".")[2], p) for name, p in mine]
        parts = [torch.full((p.numel(),), float(w)) for p, w in zip(self.parameters, penalised, strict=True)]
        self.penalised = torch.cat(parts).to(self.flat)
        self.gradient = torch.zeros_like(self.flat)
        self.one = torch.ones((), device=self.flat.device)
        self._max_grad_norm = torch.tensor(max_grad_norm).to(self.flat)
        self.slots: list[Tensor] = []  # of each parameter in the flat gradient
        offset = 0
        for p in self.parameters:
            self.slots.append(self.gradient[offset : offset + p.numel()].view_as(p))
            offset += p.numel()
        self.state = {"square": torch.zeros_like(self.flat)}
        if kind == "adam":
            self.state |= {"mean": torch.zeros_like(self.flat), "step": torch.zeros((), device=self.flat.device)}

    def anneal(self, step: int) -> None:
        """Sets the learning rate that holds at environment step `step`."""
        self.current_lr = annealed(self.lr, step, self.decay_steps)

    @property
    def is_stale(self) -> bool:
        """Whether the module was moved or copied since: its parameters are no longer views of the flat one."""
        return self._first.data_ptr() != self.flat.data_ptr()

    def apply(self, gradient: Sequence[Tensor]) -> Tensor:
        """Takes one step along -gradient.

        Args:
            gradient: one tensor for each of `parameters`, of its shape; `slots` themselves need no copy.

        Returns:
            the gradient's norm before clipping, a scalar.

        Raises:
            ValueError: the gradients are of another number or shape than the parameters.
            RuntimeError: the module was moved or copied after this optimizer was made.
        """
        if len(gradient) != len(self.slots):
            raise ValueError(f"{len(gradient)} gradients for the {len(self.slots)} parameters of an optimizer")
        elsewhere = [i for i, slot in enumerate(self.slots) if slot is not gradient[i]]
        for i in elsewhere:
            if gradient[i].shape != self.slots[i].shape:
                wanted, got = tuple(self.slots[i].shape), tuple(gradient[i].shape)
                raise ValueError(f"the gradient of {self.names[i]} has shape {got}: its parameter has {wanted}")
        if elsewhere:
            torch._foreach_copy_([self.slots[i] for i in elsewhere], [gradient[i] for i in elsewhere])
        return self._step()

    def apply_autograd(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """`apply` of what `torch.autograd.grad` gave for `parameters`, whose number and shapes are right."""
        torch._foreach_copy_(self.slots, gradients)
        return self._step()

    def _step(self) -> Tensor:
        flat, state = self.gradient, self.state
        if self.is_stale:
            raise RuntimeError("the module was moved or copied after its optimizer was made: make another optimizer")
        if self.l2:
            flat.addcmul_(self.flat, self.penalised, value=self.l2)
        if self.l1:
            flat.addcmul_(self.flat.sign(), self.penalised, value=self.l1)
        norm = torch.linalg.vector_norm(flat)
        if self.max_grad_norm:
            flat.mul_(self._max_grad_norm / torch.maximum(norm, self._max_grad_norm))
        if "mean" in state:  # the kernel of torch's own step: what stands around it takes several times as long
            state["step"].add_(1)
            torch._fused_adam_(
                *([self.flat], [flat], [state["mean"]], [state["square"]], [], [state["step"]]),
                amsgrad=False,
                maximize=False,
                weight_decay=0.0,
                lr=self.current_lr,
                beta1=self.beta1,
                beta2=0.999,
                eps=EPSILON,
            )
        else:
            square = state["square"].mul_(0.99).addcmul_(flat, flat, value=0.01)
            self.flat.addcdiv_(flat, square.sqrt().add_(EPSILON), value=-self.current_lr)
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """The optimiser's own state; parameters belong to their module."""
        return self.state

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave. Raises ValueError where it is not of this optimiser, or not finite."""
        same_form(state_dict, self.state, "optimizer")
        for key in state_dict.keys() - {"mean"}:
            within(state_dict[key], f"optimizer.{key}", 0, math.inf)
        for key, value in self.state.items():
            value.copy_(state_dict[key])


def descend(optimizer: Optimizer, loss: Tensor, *others: Optimizer) -> Tensor:
    """One optimiser step down `loss`, on exactly the parameters that the optimizers own.

    Nothing else gets a gradient, and none is computed for it: an actor's step through C leaves no trace in C.

    Args:
        optimizer: owns the parameters.
        loss: a scalar.
        others: further optimizers whose parameters the loss trains, such as that of a shared encoder.

    Returns:
        the gradient's norm before clipping, that of `optimizer`, a scalar.

    Raises:
        UserError: the loss does not depend on one of the parameters.
    """
    owned = optimizer.parameters
    if others:
        owned = [*owned, *(p for other in others for p in other.parameters)]
    try:
        gradients = torch.autograd.grad(loss, owned, optimizer.one)
    except RuntimeError as error:
        if "not have been used in the graph" not in str(error) and "does not require grad" not in str(error):
            raise
        raise UserError(_unused(loss, [optimizer, *others])) from error
    if not others:
        return optimizer.apply_autograd(gradients)
    start = len(optimizer.parameters)
    for other in others:
        other.apply_autograd(gradients[start : start + len(other.parameters)])
        start += len(other.parameters)
    return optimizer.apply_autograd(gradients[: len(optimizer.parameters)])


def _unused(loss: Tensor, optimizers: Sequence[Optimizer]) -> str:
    """Which parameter a loss does not depend on, in one line: one that its graph does not hold."""
    nodes, held = [loss.grad_fn], set()
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if node is not None:
            held.add(id(getattr(node, "variable", None)))
            further = {following for following, _ in node.next_functions} - seen
            seen |= further
            nodes += further
    owned = [(name, p) for o in optimizers for name, p in zip(o.names, o.parameters, strict=True)]
    name = next((name for name, p in owned if id(p) not in held), owned[0][0])
    return f"the loss does not depend on the parameter {name}: freeze it (requires_grad_(False))"


def check_owners(modules: Mapping[str, nn.Module], optimizers: Iterable[Optimizer]) -> None:
    """Raises UserError unless every parameter that learns belongs to exactly one optimizer.

    Args:
        modules: the networks of an agent by name, no target among them.
        optimizers: all of the agent's.
    """
    owners: dict[int, int] = {}
    for optimizer in optimizers:
        if optimizer.is_stale:
            raise UserError("the networks were moved or copied after their optimizer was made: build the agent anew")
        for p in optimizer.parameters:
            owners[id(p)] = owners.get(id(p), 0) + 1
    for part, module in modules.items():
        for name, p in module.named_parameters():
            if p.requires_grad and (count := owners.get(id(p), 0)) != 1:
                belongs = "no optimizer" if count == 0 else f"{count} optimizers"
                raise UserError(
                    f"the parameter {name} of {part} belongs to {belongs}: networks are given to an agent when it is "
                    f"built (encoder=, critic=), not set later"
                )


class Target(nn.Module, Generic[ModuleT]):
    """A copy of a module that follows it by Polyak averaging (1509.02971, algorithm 1).

    Children of the module that have no parameters, such as running statistics, are shared, not copied.

    Args:
        module: after its optimizers were made.
        optimizer: of the module.
        tau: Polyak rate: the share of the module in the copy after one step.
        others: further optimizers that own parameters of the module.
    """

    copy: ModuleT

    def __init__(self, module: ModuleT, optimizer: Optimizer, tau: float, *others: Optimizer) -> None:
        super().__init__()
        self.copy, self.tau = deepcopy(module).eval(), tau
        for name, child in module.named_children():
            if not any(True for _ in child.parameters()):
                setattr(self.copy, name, child)
        copied = dict(self.copy.named_parameters())
        names = {id(p): name for name, p in module.named_parameters()}
        self._pairs = []
        for owner in (optimizer, *others):
            self._pairs.append((flatten([copied[names[id(p)]] for p in owner.parameters]), owner))
        # Statistics of an encoder, such as those of a batch normalisation, are taken as they are.
        mine = dict(self.copy.named_buffers())
        self._statistics = [(mine[name], b) for name, b in module.named_buffers() if name.startswith("encoder.")]

    @torch.no_grad()
    def soft_update(self) -> None:
        """One step towards the module: copy <- (1 - tau) copy + tau module."""
        for flat, owner in self._pairs:
            flat.lerp_(owner.flat, self.tau)
        for mine, theirs in self._statistics:
            mine.copy_(theirs)


def critic_optimizers(
    critic: nn.Module,
    share_encoder: str,
    *settings: Any,
) -> tuple[Optimizer, dict[str, Optimizer]]:
    """The optimizer of C, and by the name of its part that of an encoder which the actor's loss trains too.

    Args:
        critic: has `encoder`, a module or None.
        share_encoder: "both" where C's encoder belongs to an optimizer of its own.
        settings: of `Optimizer`, from `kind` on.
    """
    encoder = getattr(critic, "encoder", None)
    if share_encoder != "both" or encoder is None:
        return Optimizer(critic, *settings), {}
    of_critic = Optimizer(critic, *settings, without=encoder)  # type: ignore[misc]
    return of_critic, {"encoder_optimizer": Optimizer(encoder, *settings)}

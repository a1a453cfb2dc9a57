"""C as a loss: trains any PyTorch model on a black-box cost function without a gradient.

    criterion = BlackBoxLoss(cost_fn)              # cost_fn(output, context, private), NumPy in; lower is better
    loss = criterion(model(x), context=x, private=labels)   # a scalar with a gradient, though cost_fn has none
    loss.backward()
    criterion.ledger                               # valid the evaluations

Each call evaluates perturbed outputs, trains C on recent evaluations, and returns C's estimate of the expected cost
under perturbation, E f(output + sigma noise): its gradient reaches the model through C. `correction` adds a
score-function term of the residual cost - C, which makes the gradient of that expectation unbiased whatever C is (LAX,
1711.00123; for choices the whole expectation goes through C, as in Q-Prop, 1611.02247).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from costgrad.rl import checkpoint
from costgrad.rl.black_box.calls import BlackBox, CallLedger, columns
from costgrad.rl.black_box.evaluations import Evaluations, RowBuffer, SetBuffer
from costgrad.rl.black_box.outputs import Outputs, Sample
from costgrad.rl.black_box.saved import check_saved
from costgrad.rl.black_box.surrogate import SampleCritic, SetCritic
from costgrad.rl.checks import UNFIT, generator_state, same_form, short
from costgrad.rl.data import to_numpy
from costgrad.rl.errors import UserError
from costgrad.rl.networks.mlp import Activation
from costgrad.rl.norm import RunningNorm
from costgrad.rl.optim import Optimizer
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.settings import settings


@settings
class CostConfig:
    """How C is built and trained."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of C."""
    activation: Activation = "silu"
    """Activation between the layers."""
    layer_norm: bool = True
    """Layer normalisation after each hidden layer."""
    n_critics: int = 1
    """Critics in the ensemble, where rows have a cost each; their mean valid."""
    head: Literal["regression", "hl_gauss"] = "regression"
    """C as one number, or as a distribution over cost bins trained with cross-entropy (HL-Gauss)."""
    bins: int = 101
    """Cost bins of hl_gauss."""
    learning_rate: float = 1e-3
    """Learning rate of C."""
    l2: float = 0.0
    """Weight decay: factor of the penalty l2/2 |w|^2 on the weights of C."""
    buffer_size: int = 8192
    """Evaluations that C is trained on: the newest rows, or sets of rows where only sets have a cost."""
    gradient_steps: int = 8
    """Optimiser steps of C per call."""
    batch_size: int = 128
    """Rows of a minibatch; whole sets of rows where only sets have a cost."""
    samples: int = 4
    """Perturbations per row that the gradient is averaged over, for continuous outputs."""


def _full(value: Tensor) -> Tensor:
    """Converts half precision to float32 for NumPy and C; differentiable."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _numpy(value: Any) -> Any:
    """Converts `private` for the black box: Tensors to arrays, also within a tuple."""
    if isinstance(value, tuple):
        return tuple(map(_numpy, value))
    return to_numpy(_full(value)) if isinstance(value, Tensor) else value


def _has_len(value: Any) -> bool:
    """Whether it has a length."""
    try:
        return len(value) >= 0
    except TypeError:  # an array without dimensions
        return False


@contextmanager
def _frozen(*modules: nn.Module | None) -> Iterator[None]:
    """A context in which the modules' parameters need no gradient."""
    trainable = [p for module in modules if module is not None for p in module.parameters() if p.requires_grad]
    try:
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


class BlackBoxLoss(nn.Module):
    """A differentiable estimate of a cost function that has no gradient.

    The model's output is [B, D + sum(choices)]: D continuous numbers, then for each choice the probabilities of its
    values. The black box gets continuous numbers as a float array [B, D], a choice as int64 [B] ([B, d] for several
    choices), and a pair (continuous, choice) if an output has both.

    Args:
        cost_fn: `cost_fn(output, context, private)` -> costs [B], or one number where only the set has a cost.
        choices: number of values of each choice, such as (10,); () if all outputs are continuous.
        per: "sample": every row has a cost; "batch": only the set of rows of a call has one, which is one evaluation.
        sigma: standard deviation of the noise on continuous outputs, in their own units.
        evaluations: M, black-box evaluations per row (or set) and call; an even M uses mirrored pairs of noise.
        correction: adds the score-function term of the residual, with C from before training on this call's costs.
        config: of C.
        encoder: maps contexts [B, ...] to features [B, F]; it is trained with C. None flattens contexts.
        seed: of perturbations, C's initial weights and minibatches.
        black_box: `batched`, `workers`, `timeout`, `on_fault`, `worst_cost`, `budget`, `cache` of `BlackBox`.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self,
        cost_fn: Callable[..., Any],
        choices: int | Sequence[int] = (),
        per: Literal["sample", "batch"] = "sample",
        sigma: float = 0.1,
        evaluations: int = 1,
        correction: bool = False,
        config: CostConfig | None = None,
        encoder: nn.Module | None = None,
        seed: int = 0,
        **black_box: Any,
    ) -> None:
        super().__init__()
        self.outputs = Outputs((choices,) if isinstance(choices, int) else choices, sigma, spawn_seeds(seed, 2)[1])
        if per not in ("sample", "batch"):
            raise UserError(f"per must be one of sample, batch, got {per!r}")
        if not isinstance(evaluations, int) or isinstance(evaluations, bool) or evaluations < 1:
            raise UserError(f"evaluations must be a whole number of at least 1, got {evaluations}")
        if encoder is not None and not isinstance(encoder, nn.Module):
            raise UserError(f"encoder must be an nn.Module, which is trained with C, got a {type(encoder).__name__}")
        self.per, self.evaluations, self.correction, self.seed = per, evaluations, correction, seed
        self.config, self.encoder = config or CostConfig(), encoder
        self.box = BlackBox(cost_fn, per=per, **black_box)
        self.critic: SampleCritic | SetCritic | None = None  # built at the first call, which tells the shapes
        self._kind: torch.dtype | None = None  # dtype of the contexts in the buffer

    @property
    def ledger(self) -> CallLedger:
        """The evaluations so far."""
        return self.box.ledger

    def forward(self, output: Tensor, context: Tensor | None = None, private: Any = None) -> Tensor:
        """The expected cost of a batch (the mean over rows), a scalar whose gradient reaches `output`.

        In training (`module.train()`) it evaluates the black box and trains C; the gradient cannot be differentiated
        again. In evaluation mode (`module.eval()`) it returns C's estimate under the same perturbations at each call,
        without any evaluation.

        Args:
            output: [B, D + sum(choices)] of the model.
            context: [B, ...] input of the black box and of C.
            private: input of the black box alone, such as labels: B rows of anything that can be indexed; a tuple of
                arrays, Tensors or lists is several columns. For `per="batch"`, anything.

        Raises:
            UserError: invalid shapes or probabilities, or what `BlackBox` raises.
        """
        self._check(output, context, private)
        if self.training and not torch.is_grad_enabled():
            raise UserError(
                "in training a call evaluates the black box and needs a gradient: call eval() before no_grad()"
            )
        with torch.autocast(output.device.type, enabled=False):  # C is float32, whatever the model is
            return self._loss(_full(output), None if context is None else _full(context), private)

    def _loss(self, output: Tensor, context: Tensor | None, private: Any) -> Tensor:
        """`forward` for checked arguments."""
        self._build(output, context)
        context = None if context is None else context.detach()
        if not self.training:
            with _frozen(self.critic, self.encoder):
                return self._expected(output, context, generator=torch.Generator().manual_seed(self.seed))
        leaf = output.detach().requires_grad_()
        sample = self.outputs.sample(leaf.detach(), self.evaluations)
        cost, valid = self._evaluate(sample, context, private)
        if self.correction:  # before C is trained on these costs, or the residual would be biased
            weight = valid.to(leaf.dtype).mean(0)  # failed rows must not count by C alone
            loss = self._expected(leaf, context, weight) + self._residual_score(leaf, context, sample, cost, valid)
            (gradient,) = torch.autograd.grad(loss, leaf)
            self._learn(context, sample, cost, valid)
        else:
            self._learn(context, sample, cost, valid)
            loss = self._expected(leaf, context)
            (gradient,) = torch.autograd.grad(loss, leaf)
        # C changes at the next call, maybe before the user calls backward: the gradient is computed here.
        return loss.detach() + ((output - leaf.detach()) * gradient).sum()

    def measure(self, output: Tensor, context: Tensor | None = None, private: Any = None) -> float:
        """Evaluates outputs without noise, with the most likely choices: the mean cost."""
        self._check(output, context, private)
        context = None if context is None else _full(context)
        cost, valid = self._evaluate(self.outputs.mode(_full(output)), context, private)
        return float(cost[valid].mean())

    def _check(self, output: Tensor, context: Tensor | None, private: Any) -> None:
        for name, value in (("output", output), ("context", context)):
            if not isinstance(value, Tensor) and (value is not None or name == "output"):
                raise UserError(f"{name} is a {type(value).__name__}: it must be a Tensor")
        if self.encoder is not None and (context is None or not context.is_floating_point()):
            had = "no context" if context is None else f"a context of {context.dtype}"
            raise UserError(f"there is an encoder and {had}: it takes floats (and may turn them to integers itself)")
        self.outputs.check(output)
        privates = [] if self.per == "batch" else list(private) if columns(private) else [private]
        for name, rows in (("context", context), *(("private", rows) for rows in privates)):
            if rows is None:
                continue
            if isinstance(rows, Mapping | Set | str) or not hasattr(rows, "__getitem__") or not _has_len(rows):
                raise UserError(
                    f"{name} is a {type(rows).__name__}: it must be rows, such as an array, a Tensor or a list"
                )
            if len(rows) != len(output):
                raise UserError(f"{name} has {len(rows)} rows and output {len(output)}: they must be equal")
        for name, value in (("output", output), ("context", context)):  # they would stay in the buffer and in C
            if value is not None and not bool(torch.isfinite(value).all()):
                raise UserError(f"{name} holds numbers that are not finite: C cannot learn from them")

    def _evaluate(self, sample: Sample, context: Tensor | None, private: Any) -> tuple[Tensor, Tensor]:
        """Evaluates the black box: cost [M, B] (or [M, 1] of sets), and whether it is valid."""
        outputs = self.outputs.arguments(sample)
        contexts = None if context is None else to_numpy(context)
        costs, valid = self.box(outputs, contexts, _numpy(private), sample.choice.shape[1])
        cost = torch.from_numpy(np.nan_to_num(costs)).to(sample.continuous)
        return cost.view(len(outputs), -1), torch.from_numpy(valid).view(len(outputs), -1).to(cost.device)

    def _build(self, output: Tensor, context: Tensor | None) -> None:
        """Makes C at the first call; later checks that the shapes are the same."""
        shape = (output.shape[1], None if context is None else tuple(context.shape[1:]))
        if self.critic is None:
            with torch.inference_mode(False):  # it may be trained later
                self._make(shape, output.device)
        elif shape != self.shape:
            raise UserError(f"output and context rows have shapes {shape}: this C was made for {self.shape}")

    def _make(self, shape: tuple[int, tuple[int, ...] | None], device: torch.device) -> None:
        self.shape = shape
        width, rows = shape
        start = torch.Generator().manual_seed(spawn_seeds(self.seed, 2)[0])
        numbers = width - sum(self.outputs.choices)
        self.output_norm = RunningNorm((numbers,)).to(device)
        features = 0
        if rows is not None and self.encoder is not None:
            training = self.encoder.training
            try:
                with torch.no_grad():
                    features = self.encoder.eval()(torch.zeros(2, *rows, device=device))[0].numel()
            except RuntimeError as error:
                raise UserError(f"encoder cannot take a context of shape [B, {rows}]: {error}") from error
            finally:
                self.encoder.train(training)
        elif rows is not None:
            features = math.prod(rows)
        self.context_norm = RunningNorm((features if self.encoder is None else 0,)).to(device)
        kind = SampleCritic if self.per == "sample" else SetCritic
        self.critic = kind(features + numbers, len(self.outputs.combinations), self.config, start).to(device)
        self.buffer = (RowBuffer if self.per == "sample" else SetBuffer)(self.config.buffer_size)
        self.to(device)
        self.optimizer = self._optimizer()

    def _optimizer(self) -> Optimizer:
        assert self.critic is not None
        trained = nn.ModuleDict({"critic": self.critic} | ({"encoder": self.encoder} if self.encoder else {}))
        return Optimizer(trained, "adam", self.config.learning_rate, l2=self.config.l2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BlackBoxLoss:
        """Moves to the model's device, but stays float32, whatever the model is."""
        super()._apply(lambda tensor: tensor.to(fn(tensor.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        if self.critic is not None:
            self.buffer.to(self.outputs.combinations.device)
        return self

    def _features(self, context: Tensor | None, continuous: Tensor) -> Tensor:
        """C's input features [B, F]."""
        x = self.output_norm(continuous.float())  # C is float32, whatever the model is
        if context is None or self.shape[1] is None:
            return x
        if self.encoder is not None:
            features = self.encoder(context.float()).flatten(1)
        else:
            features = self.context_norm(context.reshape(len(context), -1).float())
        return torch.cat((features, x), 1)

    def _expected(
        self,
        output: Tensor,
        context: Tensor | None,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """C's expectation over perturbations, a scalar, differentiable in `output`; `weight` [B] weights the rows."""
        assert self.critic is not None
        continuous, probs = self.outputs.split(output)
        joint, random = self.outputs.joint(probs), continuous.shape[1] or self.per == "batch"
        sample = self.outputs.sample(output, self.config.samples if random else 1, generator)
        each = [
            self.critic.expected(self._features(context, row), joint, choice, weight)
            for row, choice in zip(sample.continuous, sample.choice, strict=True)
        ]
        return torch.stack(each).mean()

    def _residual_score(
        self, output: Tensor, context: Tensor | None, sample: Sample, cost: Tensor, valid: Tensor
    ) -> Tensor:
        """The mean residual cost - C, a scalar; its gradient is the residual times d log q(sample)."""
        assert self.critic is not None
        with torch.no_grad():
            pairs = zip(sample.continuous, sample.choice, strict=True)
            predicted = torch.stack([self.critic.cost(self._features(context, row), choice) for row, choice in pairs])
            residual = (cost - predicted) * valid
        log_prob = self.outputs.log_prob(output, sample)
        if self.per == "batch":
            log_prob = log_prob.sum(1, keepdim=True)
        return (residual * (1 + log_prob - log_prob.detach())).sum() / valid.sum().clamp(min=1)

    def _learn(self, context: Tensor | None, sample: Sample, cost: Tensor, valid: Tensor) -> None:
        """Adds evaluations to the buffer, and trains C on the buffer."""
        assert self.critic is not None
        if not bool(valid.any()):
            return
        rows = sample.continuous.new_empty(sample.choice.shape[1], 0) if context is None else context
        rows = rows if rows.dtype == torch.uint8 else rows.float()  # images stay uint8
        if rows.dtype != self._kind is not None:
            raise UserError(f"context holds {rows.dtype}, and {self._kind} before: it must be of one kind")
        self._kind = rows.dtype
        if self.encoder is None and context is not None:
            self.context_norm.update(to_numpy(context).reshape(len(context), -1))
        if sample.continuous.numel():
            self.output_norm.update(to_numpy(sample.continuous).reshape(-1, sample.continuous.shape[-1]))
        self.critic.adapt(cost[valid])
        for m in range(len(cost)):
            new = Evaluations(rows, sample.continuous[m].float(), sample.choice[m], cost[m].float())
            if self.per == "sample":
                new = Evaluations(*(column[valid[m]] for column in new))
            elif not bool(valid[m]):
                continue
            self.buffer.add(new)
        if self.optimizer.is_stale:  # after a copy
            state = self.optimizer.state_dict()
            self.optimizer = self._optimizer()
            self.optimizer.load_state_dict(state)
        for _ in range(self.config.gradient_steps):
            batch = self.buffer.draw(self.config.batch_size, self.outputs.generator)
            x = self._features(batch.context, batch.continuous)
            loss = self.critic.losses(x, batch.choice, batch.cost).mean()
            # An encoder may have parameters that C does not use.
            self.optimizer.apply(torch.autograd.grad(loss, self.optimizer.parameters, materialize_grads=True))

    def close(self) -> None:
        """Stops the worker processes of the black box; a later call starts new ones."""
        self.box.close()

    # Saving and loading

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` holds beside C's tensors, so that a model with this loss in it saves and loads as usual."""
        built = self.critic is not None
        return {
            "shape": self.shape if built else None,
            "optimizer": dict(self.optimizer.state_dict()) if built else {},
            "generator": self.outputs.generator.get_state(),
            "box": self.box.state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_extra_state` returned, and makes C if it does not exist yet.

        Raises:
            UserError: this C has other shapes or other settings.
            ValueError: the state is damaged.
        """
        if state["shape"] is not None:
            width, rows = state["shape"]
            shape = (width, None if rows is None else tuple(rows))
            if self.critic is None:
                self._make(shape, self.outputs.combinations.device)
            had, has = (len(o["square"]) for o in (state["optimizer"], self.optimizer.state_dict()))
            if shape != self.shape or had != has:
                raise UserError(
                    f"the state is of a C of {had} numbers for rows of shapes {shape}, and this one has {has} for "
                    f"{self.shape}: config, choices and encoder must be the same"
                )
            self.optimizer.load_state_dict(state["optimizer"])
        generator_state(state["generator"], "generator")
        self.outputs.generator.set_state(state["generator"])
        self.box.load_state(state["box"])

    def save(self, path: str | Path) -> None:
        """Writes C, its encoder's parameters, its optimiser and the ledger, but not the buffer of evaluations.

        Raises:
            UserError: there is no C before the first call.
        """
        if self.critic is None:
            raise UserError("there is no C yet to save: it is made at the first call")
        tensors = self.state_dict()
        state = tensors.pop("_extra_state")
        tensors |= {f"optimizer.{k}": v for k, v in state["optimizer"].items()} | {"generator": state["generator"]}
        meta = {name: getattr(self, name) for name in ("per", "evaluations", "correction", "seed", "shape")}
        meta |= {name: getattr(self.outputs, name) for name in ("choices", "sigma")}
        meta |= {"config": asdict(self.config), "box": state["box"], "encoder": self.encoder is not None}
        checkpoint.write(path, tensors, {"kind": "black box loss"} | meta)

    @staticmethod
    def load(
        path: str | Path, cost_fn: Callable[..., Any], encoder: nn.Module | None = None, **black_box: Any
    ) -> BlackBoxLoss:
        """Reads what `save` wrote. Code is not saved, so `cost_fn` and `encoder` must be passed again.

        Raises:
            UserError: the file is missing, damaged or something else; or an encoder is missing or was not used.
        """
        tensors, meta = checkpoint.read(path)
        if meta.get("kind") != "black box loss":
            kind = short(meta.get("kind", "thing of unknown kind"))
            raise UserError(f"{path} holds a {kind}: it must be a black box loss")
        if bool(meta.get("encoder")) != (encoder is not None):
            had = "with" if meta.get("encoder") else "without"
            raise UserError(f"{path} was made {had} an encoder: give it the same")
        try:
            config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["config"].items()}
            made = CostConfig(**config)
            same = check_saved(meta, made, tensors)
        except UNFIT as error:
            raise UserError(f"{path} is damaged: no C can be made of it ({checkpoint.first_line(error)})") from error
        loss = BlackBoxLoss(cost_fn, **same, config=made, encoder=encoder, **black_box)
        prefix = "optimizer."
        state = {
            "shape": meta["shape"],
            "optimizer": {k[len(prefix) :]: tensors.pop(k) for k in list(tensors) if k.startswith(prefix)},
            "generator": tensors.pop("generator", torch.zeros(0)),
            "box": meta["box"],
        }
        try:
            loss.set_extra_state(state)
            wanted = loss.state_dict()
            wanted.pop("_extra_state")
            same_form(tensors, wanted, "C")
            loss.load_state_dict({**tensors, "_extra_state": state})
        except UNFIT as error:
            reason = checkpoint.first_line(error)
            raise UserError(f"{path} is damaged: its tensors do not fit ({reason})") from error
        return loss

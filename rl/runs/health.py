"""Whether a run's numbers are still numbers: parameters, the optimisers' moments, statistics and metrics.

Looked at whenever the log is written and before each checkpoint, so that no checkpoint holds what diverged.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from costgrad.rl.data import to_numpy
from costgrad.rl.errors import Diverged
from costgrad.rl.extremes import Extremes
from costgrad.rl.optim import Optimizer

MOST = 1e5  # of a parameter: inputs and targets of networks are of size 1, and Adam moves by its learning rate a step
RATES = "lower its learning rates"
FINITE = sys.float_info.max
SHARE = 0.002  # of the time of a run, at most, goes into looking while the log is written
CHECKED = ("loss", "norm", "entropy", "alpha", "beta")  # metrics of these endings; others may have no value yet


class Health:
    """Finds out that training diverged, and says what, where, when, and why.

    Networks, normalisers and optimizers are the attributes of the agent that are such, whatever agent it is; large
    buffers are not looked at.

    Args:
        agent: that is trained.
    """

    def __init__(self, agent: Any) -> None:
        self.agent, self.extremes = agent, Extremes()
        self._due = 0.0  # the time from which on `check_now_and_then` looks again
        # Limits of a space, say, may be infinite from the start; parameters may not.
        self._unlimited = {name for name, _, most, size in _sizes(agent) if most == FINITE and not size <= most}
        for name, part in {**getattr(agent, "__dict__", {}), **getattr(agent, "parts", {})}.items():
            for place, module in part.named_modules(prefix=name) if isinstance(part, nn.Module) else ():
                self._unlimited |= {f"{place}.{key}" for key in getattr(module, "may_be_infinite", ())}

    def check(self, step: int) -> None:
        """Looks at all tensors: one reduction each.

        Raises:
            Diverged: a number is NaN or infinite, or a parameter is beyond 1e5.
        """
        for name, tensor, most, size in _sizes(self.agent):
            if not size <= most and name not in self._unlimited:
                self._raise(step, *_worst(self.agent, name, tensor, most))

    def check_now_and_then(self, step: int) -> None:
        """`check`, so seldom that it takes less than half a percent of the time. Raises Diverged."""
        if (start := time.perf_counter()) >= self._due:
            self.check(step)
            end = time.perf_counter()
            self._due = end + (end - start) / SHARE

    def check_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises Diverged that names the first of the metrics that is no number."""
        for name, value in metrics.items():
            if name.endswith(CHECKED) and not math.isfinite(value):
                self._raise(step, name, value)

    def blamed(self, error: Diverged) -> Diverged:
        """The error, with the environment in it where that is why."""
        return Diverged(str(error).replace(RATES, self.extremes.blamed or RATES))

    def _raise(self, step: int, name: str, value: float) -> None:
        why = self.extremes.blamed or RATES
        raise Diverged(f"{name} is {value:.4g} after {step} steps: learning diverged, {why}")


@torch.no_grad()
def _sizes(agent: Any) -> Iterator[tuple[str, Tensor, float, float]]:
    """`_tensors` of numbers, each with its largest absolute number, which is NaN where there is a NaN."""
    for name, tensor, most in _tensors(agent):
        if tensor.numel() and tensor.is_floating_point():
            yield name, tensor, most, float(to_numpy(torch.linalg.vector_norm(tensor, math.inf)))


def _tensors(agent: Any) -> Iterator[tuple[str, Tensor, float]]:
    """Names, tensors and bounds of all that an agent learns; parameters of an optimizer as the one vector they are."""
    owned = set[int]()
    parts = {**getattr(agent, "__dict__", {}), **getattr(agent, "parts", {})}
    optimizers = {name: part for name, part in parts.items() if isinstance(part, Optimizer)}
    for name, optimizer in optimizers.items():
        owned |= {id(p) for p in optimizer.parameters}
        yield name, optimizer.flat, MOST
        yield from ((f"{name}.{key}", value, FINITE) for key, value in optimizer.state_dict().items())
    seen = set[int]()
    for name, part in parts.items():
        if isinstance(part, nn.Module) and id(part) not in seen:
            seen.add(id(part))
            yield from ((f"{name}.{key}", p, FINITE) for key, p in part.named_parameters() if id(p) not in owned)
            yield from ((f"{name}.{key}", b, FINITE) for key, b in part.named_buffers())
        elif isinstance(part, torch.optim.Optimizer):
            states = part.state.values()
            yield from ((f"{name}.{k}", v, FINITE) for s in states for k, v in s.items() if isinstance(v, Tensor))
        elif hasattr(part, "center"):  # of a search: the parameters it is at
            yield f"{name}.center", torch.as_tensor(part.center), MOST


def _worst(agent: Any, name: str, tensor: Tensor, most: float) -> tuple[str, float]:
    """The place and the value of the first number that is wrong."""
    parts = {**getattr(agent, "parts", {}), **getattr(agent, "__dict__", {})}
    if isinstance(optimizer := parts.get(name), Optimizer):
        for place, part in parts.items():
            for key, p in part.named_parameters() if isinstance(part, nn.Module) else ():
                if any(p is mine for mine in optimizer.parameters) and (bad := _bad(p, most)) is not None:
                    return f"{place}.{key}", bad
    bad = _bad(tensor, most)
    return name, math.nan if bad is None else bad


def _bad(tensor: Tensor, most: float) -> float | None:
    """The first number that is not finite or beyond `most`; None where there is none."""
    wrong = tensor[~(tensor.abs() <= min(most, torch.finfo(tensor.dtype).max))]
    return float(to_numpy(wrong[0])) if len(wrong) else None

"""Checks of what was read from a file, before it is used: whoever reads it says which file it was.

All raise a ValueError of one line that names the thing, its value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST = 2**53  # whole numbers up to which a float holds each
_CPU_STATE, _OTHER_STATE = 5056, 16  # bytes of a generator's state on the CPU, on another device
# What unfit data raises where it is used: a loader catches these, beside what is checked here.
UNFIT: tuple[type[Exception], ...] = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError)
UNFIT = (*UNFIT, RecursionError, RuntimeError, TypeError, ValueError)


def whole(value: Any, name: str, least: int = 0, most: int = LARGEST) -> int:
    """A whole number within [least, most]; True and 1.0 are none. Raises ValueError."""
    if type(value) is not int or not least <= value <= most:
        upper = "2^53" if most == LARGEST else f"{most:,}"
        raise ValueError(f"{name} is {short(value)}: it must be a whole number from {least} to {upper}")
    return value


def number(value: Any, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number within [least, most]; True is none. Raises ValueError."""
    if type(value) not in (int, float) or not -1e308 <= value <= 1e308 or not least <= value <= most:
        limits = [f"from {least:g}" if least > -math.inf else "", f"up to {most:g}" if most < math.inf else ""]
        raise ValueError(f"{name} is {short(value)}: it must be {' '.join(['a finite number', *filter(None, limits)])}")
    return value


def short(value: Any) -> str:
    """A value as a message shows it: one line of at most 60 characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return f"a whole number of {value.bit_length():,} bits"  # Python refuses to print the longest
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def tensor(
    tensors: Mapping[str, Tensor],
    name: str,
    dtype: torch.dtype,
    shape: Sequence[int | None],
    what: str = "",
    is_finite: bool = True,
) -> Tensor:
    """A tensor of that name, dtype and shape.

    Args:
        tensors: by name.
        name: in `tensors`.
        dtype: allowed.
        shape: allowed; None allows any length.
        what: the name in messages, `name` unless given.
        is_finite: whether floats must be finite.

    Raises:
        ValueError: it is missing, or something else.
    """
    what = what or name
    if name not in tensors:
        raise ValueError(f"the tensor {what} is missing")
    value = tensors[name]
    fits = value.dim() == len(shape) and all(b in (a, None) for a, b in zip(value.shape, shape, strict=False))
    if value.dtype != dtype or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"the tensor {what} is {kind(value)}: it must be {_name(dtype)} [{wanted}]")
    if is_finite:
        finite(value, what)
    return value


def finite(value: Tensor, name: str) -> None:
    """Raises ValueError where a tensor of floats holds NaN or infinity."""
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ValueError(f"the tensor {name} holds numbers that are not finite")


def within(value: Tensor, name: str, least: float, most: float) -> None:
    """Raises ValueError where an element of a tensor is not within [least, most]."""
    if value.numel() and (bool((value < least).any()) or bool((value > most).any())):
        raise ValueError(f"the tensor {name} holds numbers outside of {least:g} to {most:g}")


def same_form(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str, free: str = "") -> None:
    """Checks names, dtypes, shapes and finiteness of a part's tensors.

    Args:
        given: by name.
        wanted: the part's own.
        what: the part's name.
        free: the end of the names of tensors that may have any length.

    Raises:
        ValueError: the first that is missing, one too many, or something else.
    """
    for name, mine in wanted.items():
        shape: list[int | None] = [None] if free and name.endswith(free) else list(mine.shape)
        was_finite = not mine.is_floating_point() or bool(torch.isfinite(mine).all())  # an encoder's mask may be -inf
        tensor(given, name, mine.dtype, shape, f"{what}.{name}", was_finite)
    if more := sorted(given.keys() - wanted.keys()):
        raise ValueError(f"there is a tensor {what}.{short(more[0])[1:-1]} too many")


def generator_state(value: Tensor, name: str) -> None:
    """Raises ValueError where a tensor is no state of a torch.Generator, or of one that draws no random numbers."""
    if value.dtype != torch.uint8 or value.dim() != 1 or len(value) not in (_CPU_STATE, _OTHER_STATE):
        raise ValueError(f"the tensor {name} is {kind(value)}: it must be a generator's state, uint8 [{_CPU_STATE}]")
    if len(value) != _CPU_STATE:
        return
    trial = torch.Generator()
    try:
        trial.set_state(value.cpu())
    except RuntimeError as error:
        raise ValueError(f"the tensor {name} is no generator's state") from error
    # It holds a normal number that is drawn next, too.
    normal = [float(torch.randn((), generator=trial, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    drawn = torch.randint(2**31, (8,), generator=trial).tolist()
    if not all(abs(each) < 40 for each in normal) or len(set(drawn)) == 1:
        raise ValueError(f"the tensor {name} is a generator's state that draws no random numbers")


def kind(value: Tensor) -> str:
    """Dtype and shape of a tensor for messages: "float32 [2, 3]"."""
    return f"{_name(value.dtype)} {list(value.shape)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_of(array: np.ndarray) -> torch.dtype:
    """The dtype of the tensor that an array becomes."""
    return torch.from_numpy(np.empty(0, array.dtype)).dtype

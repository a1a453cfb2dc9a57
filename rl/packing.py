"""Nested Python data as JSON and tensors, which a file can hold and which run no code when they are read.

Numbers, text, None, lists, tuples, dicts, bytes and NumPy arrays of numbers come back as what they were: a run keeps
the state of its environments, its log and the episodes under way in this form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ARRAYS = "biuf"  # kinds of NumPy's dtypes that tensors have too
_DEPTH = 50  # of nested containers, deeper ones are no data


def pack(value: Any, prefix: str) -> tuple[Any, dict[str, Tensor]]:
    """Splits data into what JSON holds and tensors.

    Args:
        value: the data.
        prefix: of the tensors' names.

    Returns:
        JSON, and the tensors that it refers to by name; they share memory with the arrays.

    Raises:
        TypeError: there is something else in it.
    """
    tensors: dict[str, Tensor] = {}
    return _packed(value, prefix, tensors, _DEPTH), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given; arrays are copies.

    Raises:
        ValueError: it is not what `pack` gives.
    """
    try:
        return _unpacked(packed, tensors, _DEPTH)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no packed data: {error}") from error


def _packed(value: Any, prefix: str, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth == 0:
        raise TypeError("it is nested too deeply")
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if type(value) is list:
        return [_packed(part, prefix, tensors, depth - 1) for part in value]
    if type(value) is tuple:
        return {"tuple": [_packed(part, prefix, tensors, depth - 1) for part in value]}
    if type(value) is dict:
        pairs = [[_packed(part, prefix, tensors, depth - 1) for part in pair] for pair in value.items()]
        return {"dict": pairs}
    kind = {bytes: "bytes", np.ndarray: "array"}.get(type(value), "scalar")
    if kind == "scalar" and not isinstance(value, np.generic):
        raise TypeError(f"a {type(value).__name__} is no data")
    array = np.frombuffer(value, np.uint8) if kind == "bytes" else np.asarray(value)
    if array.dtype.kind not in _ARRAYS or array.dtype.itemsize > 8:
        raise TypeError(f"an array of dtype {array.dtype} is no data")
    name = f"{prefix}.{len(tensors)}"
    native = array.astype(array.dtype.newbyteorder("="), copy=kind == "bytes")  # torch refuses what cannot be written
    tensors[name] = torch.from_numpy(np.ascontiguousarray(native).reshape(native.shape))
    return {kind: name}


def _unpacked(packed: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth == 0:
        raise ValueError("it is nested too deeply")
    if packed is None or isinstance(packed, bool | int | float | str):
        return packed
    if isinstance(packed, list):
        return [_unpacked(part, tensors, depth - 1) for part in packed]
    if len(packed) != 1:
        raise ValueError(f"no kind of data: {', '.join(packed)}")
    ((kind, inner),) = packed.items()
    if kind == "float":
        if inner not in ("inf", "-inf", "nan"):
            raise ValueError(f"no number: {inner!r}")
        return float(inner)
    if kind == "tuple":
        return tuple(_unpacked(part, tensors, depth - 1) for part in inner)
    if kind == "dict":
        return {_unpacked(key, tensors, depth - 1): _unpacked(value, tensors, depth - 1) for key, value in inner}
    array = tensors[inner].numpy()
    if kind == "array":
        return array.copy()
    if kind == "bytes":
        return array.tobytes()
    if kind == "scalar" and array.ndim == 0:
        return array[()]
    raise ValueError(f"no kind of data: {kind!r}")

"""Checks of the JSON of a saved `BlackBoxLoss`, before C is built of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from costgrad.rl.black_box.calls import CallLedger
from costgrad.rl.checks import number, short, whole
from costgrad.rl.networks.critic_spec import MAX_JOINT_ACTIONS, dense_size

MOST_CONTEXT = 2**26  # numbers of one context, which an encoder is tried with
NAMES = ("choices", "per", "sigma", "evaluations", "correction", "seed")


def check_saved(meta: Mapping[str, Any], config: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Checks what a file says of a loss.

    Args:
        meta: JSON.
        config: the `CostConfig` in it.
        tensors: of the file.

    Returns:
        the arguments of `BlackBoxLoss` in it, by name.

    Raises:
        ValueError: something is missing or out of range, or C would hold more numbers than the file.
    """
    if missing := [name for name in (*NAMES, "shape", "box", "encoder") if name not in meta]:
        raise ValueError(f"its {missing[0]} is missing")
    choices, held = meta["choices"], sum(value.numel() for value in tensors.values())
    if not isinstance(choices, list):
        raise ValueError(f"choices is {short(choices)}: it must be a list")
    for choice in choices:
        whole(choice, "a choice", 2, MAX_JOINT_ACTIONS)
    if (joint := math.prod(choices)) > MAX_JOINT_ACTIONS:
        raise ValueError(f"choices is {short(choices)}: at most {MAX_JOINT_ACTIONS} combinations")
    whole(meta["evaluations"], "evaluations", 1)
    whole(meta["seed"], "seed", 0, 2**63 - 1)
    number(meta["sigma"], "sigma", 0)
    for name in ("correction", "encoder"):
        if not isinstance(meta[name], bool):
            raise ValueError(f"{name} is {short(meta[name])}: it must be true or false")
    if meta["per"] not in ("sample", "batch"):
        raise ValueError(f"per is {short(meta['per'])}: it must be one of sample, batch")
    _check_box(meta["box"])
    width, context = _shape(meta["shape"])
    numbers = whole(width, "its width", 1, held + sum(choices)) - sum(choices)
    whole(numbers, "its width beside the choices", 0)
    inputs = numbers if meta["encoder"] or context is None else numbers + math.prod(context)
    outputs = config.bins if config.head == "hl_gauss" else 1
    last = joint * (outputs if meta["per"] == "sample" else (1, *config.hidden)[-1])
    members = config.n_critics if meta["per"] == "sample" else 1
    needed = max(members * dense_size((inputs, *config.hidden, last)), outputs)
    if needed > held:
        raise ValueError(f"its C needs {needed:,} numbers, and the file holds {held:,}")
    return {name: meta[name] for name in NAMES}


def _shape(shape: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Width of an output and shape of a context, None without one."""
    if not isinstance(shape, list) or len(shape) != 2 or not isinstance(shape[1], list | None):
        raise ValueError(f"shape is {short(shape)}: it must be a width and the shape of a context")
    if shape[1] is None:
        return shape[0], None
    context = tuple(whole(length, "a length of the context", 0, MOST_CONTEXT) for length in shape[1])
    if math.prod(context) > MOST_CONTEXT:
        raise ValueError(f"a context is {short(shape[1])}: at most {MOST_CONTEXT:,} numbers")
    return shape[0], context


def _check_box(box: Any) -> None:
    """Raises ValueError where it is not what `BlackBox.state` gives."""
    ledger = box.get("ledger") if isinstance(box, dict) and box.keys() == {"ledger", "largest"} else None
    empty = asdict(CallLedger())
    if not isinstance(ledger, dict) or ledger.keys() != empty.keys():
        raise ValueError(f"its evaluations are {short(box)}")
    for name, count in ledger.items():
        if isinstance(empty[name], int):
            whole(count, name)
        else:
            number(count, name, 0)
    if box["largest"] is not None:
        number(box["largest"], "its largest cost")

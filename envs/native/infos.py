"""The `info` of N rows as gymnasium has it: [N, ...] under a name, and under `_{name}` [N] bool whom it speaks of."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
Info = dict[str, Any]


def of_all(info: Info, n: int) -> Info:
    """Info [N, ...] of all n rows, with its masks."""
    return info | dict.fromkeys([f"_{key}" for key in info], np.ones(n, dtype=np.bool_))


def of_rows(info: Info, rows: Array) -> Info:
    """What info [N, ...] says of `rows` [N] bool, with its masks; 0 for the others, as gymnasium has it."""
    said: Info = {}
    for key, value in info.items():
        kept = np.zeros_like(value)
        kept[rows] = value[rows]
        said |= {key: kept, f"_{key}": rows.copy()}
    return said


def with_rows(info: Info, fresh: Info, rows: Array) -> Info:
    """Info with its masks, in which `rows` say something else.

    Args:
        info: [N, ...] each, without masks; overwritten.
        fresh: what the rows say, [n, ...] each. Gymnasium has 0 where they do not say what the others do.
        rows: [N] bool, n of them True.
    """
    said: Info = {}
    for key in info | fresh:
        if key not in fresh and rows.all():
            continue  # nobody says it: gymnasium leaves it out
        if key in info:
            value, mask = info[key], np.ones(len(rows), dtype=np.bool_) if key in fresh else ~rows
        else:
            value, mask = np.zeros((len(rows), *fresh[key].shape[1:]), dtype=fresh[key].dtype), rows.copy()
        value[rows] = fresh.get(key, 0)
        said |= {key: value, f"_{key}": mask}
    return said

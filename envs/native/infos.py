"""The `info` of N rows in gymnasium's form: `name` [N, ...], and a mask `_{name}` [N] bool of the rows that have it."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
Info = dict[str, Any]


def of_all(info: Info, n: int) -> Info:
    """Adds masks to info [N, ...] that all n rows have."""
    return info | dict.fromkeys([f"_{key}" for key in info], np.ones(n, dtype=np.bool_))


def of_rows(info: Info, rows: Array) -> Info:
    """Info [N, ...] of `rows` [N] bool with masks; 0 for the others, as in gymnasium."""
    masked: Info = {}
    for key, value in info.items():
        kept = np.zeros_like(value)
        kept[rows] = value[rows]
        masked |= {key: kept, f"_{key}": rows.copy()}
    return masked


def with_rows(info: Info, new: Info, rows: Array) -> Info:
    """Info with masks, in which `rows` have other values.

    Args:
        info: [N, ...] each, without masks; overwritten.
        new: info of the rows, [n, ...] each. As in gymnasium, they get 0 for keys that only `info` has.
        rows: [N] bool, n of them True.
    """
    masked: Info = {}
    for key in info | new:
        if key not in new and rows.all():
            continue  # no row has it: gymnasium leaves it out
        if key in info:
            value, mask = info[key], np.ones(len(rows), dtype=np.bool_) if key in new else ~rows
        else:
            value, mask = np.zeros((len(rows), *new[key].shape[1:]), dtype=new[key].dtype), rows.copy()
        value[rows] = new.get(key, 0)
        masked |= {key: value, f"_{key}": mask}
    return masked

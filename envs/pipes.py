"""Waiting for worker processes, and batches of observations row by row."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from gymnasium import Space, spaces


def poller(pipe: Any) -> Callable[[float | None], bool]:
    """Whether a pipe has something to read within so many seconds; cheaper than the pipe's own `poll`."""
    if not hasattr(select, "poll"):
        return lambda seconds: bool(pipe.poll(None if seconds is None else max(seconds, 0)))
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLIN)
    wait = poll.poll
    return lambda seconds: bool(wait(None if seconds is None else max(seconds, 0) * 1000))


def join(processes: Iterable[Any], seconds: float) -> None:
    """Waits for all of them, so long at most."""
    end = time.perf_counter() + seconds
    for process in processes:
        process.join(max(end - time.perf_counter(), 0))


def store(space: Space[Any], rows: Any, i: int, obs: Any) -> None:
    """Row i of a batch of observations becomes `obs`."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            store(part, rows[key], i, obs[key])
    elif isinstance(space, spaces.Tuple):
        for part, row, value in zip(space.spaces, rows, obs, strict=True):
            store(part, row, i, value)
    else:
        rows[i] = obs


def copied(obs: Any) -> Any:
    """A copy of a batch of observations."""
    if isinstance(obs, dict):
        return {key: copied(value) for key, value in obs.items()}
    return tuple(map(copied, obs)) if isinstance(obs, tuple) else deepcopy(obs)

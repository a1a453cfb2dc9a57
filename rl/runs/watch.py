"""Names an environment that hangs in the process that trains: it can be named there, but neither ended nor restarted.

A thread looks at the stack of the training thread now and then, so that a step costs nothing. Environments in processes
name themselves (envs/workers.py).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import Any

from gymnasium.vector import AsyncVectorEnv

from costgrad.rl.evaluate import run_episodes
from costgrad.rl.loop import interact

NOTICE = 60.0  # seconds
_CALLERS = {interact.__code__, run_episodes.__code__}


@contextmanager
def watching(say: Callable[[str], None], seconds: float | None = None) -> Iterator[None]:
    """Says once of each step or reset that takes longer than `seconds`, 60 unless given, which environment it is.

    Args:
        say: prints a line; called by a thread.
        seconds: that an environment may take.
    """
    limit, thread, left = seconds or NOTICE, threading.get_ident(), threading.Event()

    def look() -> None:
        call: FrameType | None = None  # holding it tells it from the next one
        since, said = 0.0, False
        while not left.wait(limit / 20):
            stack = _environment_call(sys._current_frames().get(thread))
            if not stack or stack[0] is not call:
                call, since, said = (stack[0] if stack else None), time.perf_counter(), False
            elif not said and time.perf_counter() - since > limit:
                said = True
                if (which := _which(stack)) is not None:
                    say(
                        f"{which} has not answered for {limit:g} s: in the process that trains it can be named, not "
                        "restarted (backend async can, by env_timeout and on_env_error)"
                    )

    watcher = threading.Thread(target=look, name="names what hangs", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join(1.0)


def _environment_call(frame: FrameType | None) -> list[FrameType]:
    """The frames from an environment's `step` or `reset` down to where it is; none where the thread is elsewhere."""
    below: list[FrameType] = []
    while frame is not None:
        if frame.f_code in _CALLERS:
            return below if below and below[0].f_code.co_name in ("step", "reset") else []
        below.insert(0, frame)
        frame = frame.f_back
    return []


def _which(stack: list[FrameType]) -> str | None:
    """The environment that is called, with its number where they are called one by one; None in processes."""
    objects: list[Any] = [frame.f_locals.get("self") for frame in stack]
    if any(isinstance(one, AsyncVectorEnv) and hasattr(one, "restarts") for one in objects):
        return None
    for outer, inner in pairwise(objects):
        for i, env in enumerate(getattr(outer, "envs", None) or ()):
            if env is inner:
                return f"environment {i}"
    return "the environment"

"""Seconds of training."""

from __future__ import annotations

import time


class Clock:
    """Seconds of training; pauses as a context manager while something else runs.

    Args:
        seconds: initial value, of a resumed run.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._start = time.perf_counter() - seconds
        self._paused: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start, without pauses."""
        return (self._paused or time.perf_counter()) - self._start

    def __enter__(self) -> Clock:
        """Pauses."""
        self._paused = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Resumes."""
        assert self._paused is not None
        self._start += time.perf_counter() - self._paused
        self._paused = None

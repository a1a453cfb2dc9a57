"""How the two sides of scripts/bench.py take turns. Standard library only: the peer's interpreter reads it too.

A side says `{"ready": true}` once it is warm, then answers each line on its stdin with the figures of one measurement,
as one line of JSON on its stdout, and ends when stdin does.
"""

from __future__ import annotations

import json
import sys
import time


class Turns:
    """Called after each vector step of a training run; between two measurements the run stands still.

    Args:
        warmup: seconds of training before the side is ready.
        seconds: length of a measurement.
    """

    def __init__(self, warmup: float, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.perf_counter() + warmup
        self._mark: tuple[float, float, int] | None = None  # wall, CPU time and steps where the measurement began

    def __call__(self, steps: int) -> bool:
        """Takes in the number of environment steps so far; False ends the run."""
        now = time.perf_counter()
        if now < self._until:
            return True
        if self._mark is None:
            said: dict[str, float | bool] = {"ready": True}
        else:
            wall, cpu, before = self._mark
            said = {
                "steps_per_second": (steps - before) / (now - wall),
                "steps_per_cpu_second": (steps - before) / (time.process_time() - cpu),
            }
        print(json.dumps(said), flush=True)
        if not sys.stdin.readline():
            return False
        self._mark = (time.perf_counter(), time.process_time(), steps)
        self._until = self._mark[0] + self.seconds
        return True

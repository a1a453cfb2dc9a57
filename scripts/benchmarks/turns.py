"""How the sides of scripts/bench.py take turns. Standard library only: the peer's interpreter reads it too.

A side says `{"ready": true}` once it is warm, then answers each line on its stdin with the figures of one measurement,
as one line of JSON on its stdout, and ends when stdin does.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterable


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


class Goal:
    """Called after each vector step of a training run; holds when the run came to a mean return.

    Args:
        threshold: the mean return.
        window: of how many training episodes, the last ones; before there are so many it is not reached.
        launched: when the process was started, as time.time() says it.
    """

    def __init__(self, threshold: float, window: int, launched: float) -> None:
        self.threshold, self.launched = threshold, launched
        self.returns: deque[float] = deque(maxlen=window)
        self.reached, self.steps = False, 0
        self._began = self._seen = time.time()
        self._cpu = self._cpu_seen = time.process_time()

    def __call__(self, steps: int, returns: Iterable[float]) -> bool:
        """Takes in the environment steps so far and the returns of episodes that ended; whether it is reached."""
        self.steps, self._seen, self._cpu_seen = steps, time.time(), time.process_time()
        for value in returns:
            self.returns.append(value)
            full = len(self.returns) == self.returns.maxlen
            self.reached = full and sum(self.returns) / len(self.returns) >= self.threshold
        return self.reached

    @property
    def figures(self) -> dict[str, float | bool]:
        """Whether it was reached, after how many steps, and in what time."""
        seconds, process_seconds = self._seen - self._began, self._seen - self.launched
        return {
            "reached": self.reached,
            "steps": self.steps,
            "seconds": seconds,
            "process_seconds": process_seconds,
            "cpu_seconds": self._cpu_seen - self._cpu,
        }

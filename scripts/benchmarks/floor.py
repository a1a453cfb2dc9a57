"""The arithmetic floor of an update: the operations it cannot do without, and how fast this machine does such.

Only matrix products are counted, a multiplication and an addition as two.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

SIZE = 1024  # of the square matrices whose product tells how fast the machine is


def update_flop(agent: str, config: dict[str, Any], obs: int, actions: int) -> float:
    """Floating-point operations of one update of C, with the share of the actor's step that falls to it.

    Args:
        agent: "sac" or "td3".
        config: its settings; `hidden`, `batch_size`, `n_critics` and `policy_delay` are read.
        obs: width of an observation.
        actions: A of a box.
    """
    critics = config["n_critics"]
    actor = _Passes((obs, *config["hidden"], actions * (2 if agent == "sac" else 1)), config["batch_size"])
    critic = _Passes((obs + actions, *config["hidden"], 1), config["batch_size"])
    target = actor.forward + critics * critic.forward
    learning = critics * (critic.forward + critic.weights + critic.inner)
    asked = critics if agent == "sac" else 1  # by the actor's step, in which C's weights need no gradient
    reaching = critic.inner + critic.input(actions)
    improving = actor.forward + asked * (critic.forward + reaching) + actor.weights + actor.inner
    return target + learning + improving / config.get("policy_delay", 1)


class _Passes:
    """Operations of the passes of a perceptron over B rows."""

    def __init__(self, sizes: Sequence[int], rows: int) -> None:
        layers = [2 * rows * fan_in * fan_out for fan_in, fan_out in pairwise(sizes)]
        self.forward = self.weights = sum(layers)
        self.inner = sum(layers[1:])  # slopes of the hidden layers
        self._unit = 2 * rows * sizes[1]

    def input(self, width: int) -> int:
        """The slope of `width` of the inputs."""
        return self._unit * width


def floor_turns(job: dict[str, Any]) -> None:
    """Answers each line on stdin with GFLOP/s of large float32 products over `seconds`; see turns.py."""
    a, b = torch.randn(2, SIZE, SIZE)
    out = torch.empty(SIZE, SIZE)
    torch.mm(a, b, out=out)
    print(json.dumps({"ready": True}), flush=True)
    while sys.stdin.readline():
        products, wall, cpu = 0, time.perf_counter(), time.process_time()
        while (seconds := time.perf_counter() - wall) < job["seconds"]:
            torch.mm(a, b, out=out)
            products += 1
        gflop = 2e-9 * SIZE**3 * products
        said = {"gflop_per_second": gflop / seconds, "gflop_per_cpu_second": gflop / (time.process_time() - cpu)}
        print(json.dumps(said), flush=True)

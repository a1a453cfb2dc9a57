"""Independent random streams that are all derived from one seed."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from costgrad.rl.errors import UserError


def spawn_seeds(seed: int, count: int) -> list[int]:
    """`count` seeds of 64 bits for independent generators.

    Streams of neighbouring seeds and of one seed are all independent (see numpy.random.SeedSequence). With seed,
    seed + 1, seed + 2 the runs of seeds 0 and 1 would share two streams.

    Raises:
        UserError: the seed is negative or not an integer.
    """
    if not isinstance(seed, Integral) or seed < 0:
        raise UserError(f"seed must be a whole number of at least 0, got {seed!r}")
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(count, np.uint64)]

"""One seed decides everything, and no two things share a random stream."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from costgrad.rl.errors import UserError


def spawn_seeds(seed: int, count: int) -> list[int]:
    """`count` seeds of 64 bits for independent generators.

    Neither neighbouring seeds nor the generators of one seed have anything in common (see numpy.random.SeedSequence);
    with seed, seed + 1, seed + 2 the runs of seeds 0 and 1 would share two streams.

    Raises:
        UserError: the seed is negative, or no whole number.
    """
    if not isinstance(seed, Integral) or seed < 0:
        raise UserError(f"seed must be a whole number of at least 0, got {seed!r}")
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(count, np.uint64)]

"""Tunes glibc's malloc to reuse freed memory."""

from __future__ import annotations

import ctypes
import platform

MIB = 2**20
# Parameters of mallopt in glibc's malloc.h; 32 MiB is the largest MMAP_THRESHOLD that it accepts.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
KEPT = {TRIM_THRESHOLD: 256 * MIB, TOP_PAD: 32 * MIB, MMAP_THRESHOLD: 32 * MIB}


def keep_freed_memory() -> bool:
    """Lets malloc keep up to 256 MiB of freed memory instead of returning it to the operating system.

    An update allocates and frees activations of half a MiB each. By default malloc returns such blocks and requests
    them again, and the system zeroes every page: a tenth of an update of SAC. Blocks above 32 MiB, such as a replay
    buffer, are still returned. This affects the whole process.

    Returns:
        whether it was done; C libraries other than glibc are not changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(name, value) == 1 for name, value in KEPT.items()])

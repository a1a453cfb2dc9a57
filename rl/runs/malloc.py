"""How the process keeps memory that is used again at once."""

from __future__ import annotations

import ctypes
import platform

MIB = 2**20
# Of glibc's malloc.h: mallopt's names for what follows, and the largest that it takes.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
KEPT = {TRIM_THRESHOLD: 256 * MIB, TOP_PAD: 32 * MIB, MMAP_THRESHOLD: 32 * MIB}


def keep_freed_memory() -> bool:
    """Lets malloc keep up to 256 MiB that were freed, instead of handing them back to the system.

    An update allocates and frees its activations, half a MiB each. malloc as it ships hands such blocks back and gets
    them anew, and the system clears every page again: a tenth of an update of SAC. Blocks above 32 MiB, such as a
    replay's, are handed back as ever. It holds for the whole process.

    Returns:
        whether it was done; other C libraries than glibc are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(name, value) == 1 for name, value in KEPT.items()])

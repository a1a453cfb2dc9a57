"""Freed memory is kept, so that an update does not wait for zeroed pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys, torch
from costgrad.rl.runs.malloc import MMAP_THRESHOLD, keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
else:  # as malloc begins; later it sets the threshold by what it saw, and may hand back or keep
    assert ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**17)
def work():
    kept = [torch.ones(2**17) for _ in range(8)]  # half a MiB each
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(name: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, name], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_pages_are_not_zeroed_repeatedly() -> None:
    assert faults("kept") < 100 < faults("handed back")


def test_other_c_libraries_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from costgrad.rl.runs import malloc as memory

    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: 1 / 0)
    assert not memory.keep_freed_memory()

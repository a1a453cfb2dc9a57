"""Files appear whole, leftovers of the dead go, and a folder has one writer."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costgrad.rl import files
from costgrad.rl.errors import UserError, WriteError
from costgrad.rl.files import Lock, remove_leftovers, temporary_beside, write_bytes


def fork(work: Callable[[], None]) -> int:
    """Runs `work` in a child process that ends with it; returns the child's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn where threads run
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def wait_for(path: Path) -> None:
    for _ in range(500):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"no {path}")


def test_a_folder_has_one_writer_which_is_named(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    with pytest.raises(UserError, match=f"is being written by process {os.getpid()} on {socket.gethostname()}"):
        Lock(tmp_path)
    with pytest.raises(UserError):  # a refusal does not take the lock away
        Lock(tmp_path)
    first.release()
    second = Lock(tmp_path)
    second.release()
    second.release()


def test_a_lock_ends_with_its_process_though_its_workers_live_on(tmp_path: Path) -> None:
    """As those of AsyncVectorEnv do for a while when a trainer is killed: they inherit every file that is open."""
    ready = tmp_path / "ready"

    def hold() -> None:
        lock = Lock(tmp_path)
        worker = fork(lambda: time.sleep(60))
        ready.write_text(str(worker))
        time.sleep(60)
        lock.release()

    holder = fork(hold)
    try:
        wait_for(ready)
        time.sleep(0.1)
        with pytest.raises(UserError, match=f"process {holder} on"):
            Lock(tmp_path)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.kill(int(ready.read_text()), 0)  # the worker is there
        Lock(tmp_path).release()
    finally:
        os.kill(int(ready.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_stops_nobody(tmp_path: Path, monkeypatch: Any, code: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    lock = Lock(tmp_path)
    assert "does not lock files" in lock.missing and lock.stands
    lock.release()
    monkeypatch.setattr(files, "fcntl", None)
    assert "no flock" in Lock(tmp_path).missing


def test_a_lock_knows_when_its_folder_was_removed(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    assert lock.stands
    (tmp_path / ".lock").unlink()
    assert not lock.stands
    (tmp_path / ".lock").write_text("")  # somebody else's
    assert not lock.stands
    lock.release()


def test_leftovers_of_the_dead_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".last.7.tmp", ".last.7-abc.tmp", ".best.old", ".step_5.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").write_text(name)
    (tmp_path / ".config.json.7.tmp").write_text("")
    for name in ("best", "thesis.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".mine").write_text("")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mine", "best", "step_5", "thesis.tmp"]
    assert (tmp_path / "step_5" / "meta.json").read_text() == ".step_5.old"  # it was between two renames
    remove_leftovers(tmp_path / "none")


def test_names_of_what_is_being_written_differ(tmp_path: Path) -> None:
    assert len({temporary_beside(tmp_path / "a") for _ in range(100)}) == 100


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_a_file_as_it_was(tmp_path: Path, monkeypatch: Any, call: str) -> None:
    write_bytes(tmp_path / "a", b"old")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(WriteError, match=r"cannot write .*a: No space left on device"):
            write_bytes(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"

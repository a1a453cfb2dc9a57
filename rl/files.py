"""Writing files so that a reader, or a crash, sees what was there or what is new, and one writer of a folder at a time.

What is being written has the name `.NAME.TOKEN.tmp`, unique to each write, until it is complete.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakSet

try:
    import fcntl
except ImportError:  # Windows has no flock: nobody is kept from writing there
    fcntl = None  # type: ignore[assignment]

from safetensors import SafetensorError

from costgrad.rl.errors import UserError, WriteError

LOCK = ".lock"
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # what flock says where another one holds the lock


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns a refusal of the file system (permission, full disk, a file in the way) into one `WriteError`."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WriteError(f"cannot write {path}: {error}") from error


def check_writable(path: Path, make_folder: bool = True) -> None:
    """Before long work whose outcome goes to a file; the file stays as it is. Raises UserError where it cannot.

    Args:
        path: of the file.
        make_folder: its folder, if it is not there.
    """
    new = not path.exists()
    with writing(path):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
        if new:
            path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of a text, as UTF-8. Raises WriteError."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replaces a file whole: a reader, or a crash, sees what was there or what is new.

    Raises:
        WriteError: the file system refuses.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    with writing(path):
        try:
            temporary.write_bytes(data)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A name beside `path` that nobody has: process ids are used again, in a container by each restart."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(6)}.tmp")


def old_beside(path: Path) -> Path:
    """Where the checkpoint at `path` stands while a new one takes its place."""
    return path.with_name(f".{path.name}.old")


def remove_leftovers(folder: Path) -> None:
    """Removes what writers that died left in a folder, where nobody else writes; a crash between two renames is undone.

    Args:
        folder: may be missing.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if not path.name.startswith("."):
                continue
            if path.suffix == ".tmp":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            elif path.suffix == ".old" and path.is_dir():
                replaced = path.with_name(path.name.removeprefix(".").removesuffix(".old"))
                shutil.rmtree(path) if replaced.exists() else path.rename(replaced)


def sync(path: Path) -> None:
    """Waits until the disk holds the file (or the folder's list of names)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Lock:
    """The right to write in a folder, by flock on its file `.lock`; the kernel releases it when the process ends.

    Args:
        folder: exists.

    Attributes:
        missing: why there is none, where the file system knows no locks; "" otherwise. Nobody is kept out then.

    Raises:
        UserError: another run has it, of this process or another one.
        WriteError: the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.missing = folder, ""
        self._handle: int | None = None
        if fcntl is None:
            self.missing = "this system has no flock"
            return
        path = folder / LOCK
        with writing(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # closed on exec, as Python does
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _text(handle)
            os.close(handle)
            if error.errno in _HELD:
                raise UserError(f"run folder {folder} is being written by {owner}: wait for it, or stop it") from error
            self.missing = f"its file system does not lock files ({error.strerror})"
            return
        self._handle = handle
        _held.add(self)
        with suppress(OSError):  # a full disk: who holds the lock is not known then
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    @property
    def stands(self) -> bool:
        """Whether the file that is locked is still the folder's: not after the folder was removed."""
        if self._handle is None:
            return self.missing != ""
        with suppress(OSError):
            mine, there = os.fstat(self._handle), os.stat(self.folder / LOCK)
            return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
        return False

    def release(self) -> None:
        """Lets others write; the file stays, for another one may wait for it."""
        _held.discard(self)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.release()


def _text(handle: int) -> str:
    with suppress(OSError, ValueError):
        if text := os.pread(handle, 200, 0).decode():
            return text
    return "another process"


_held: WeakSet[Lock] = WeakSet()


def _close_in_child() -> None:
    """A forked process (a worker of AsyncVectorEnv) outlives a trainer that is killed: it must not keep the lock."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)

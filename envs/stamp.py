"""Signatures that this user on this machine wrote something: HMAC-SHA256 with a key in the user's own data folder.

A run folder that was copied from elsewhere, or edited, does not carry a valid one.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Any

KEY_BYTES = 32


def key_path() -> Path:
    """$XDG_DATA_HOME/costgrad/key, by default ~/.local/share/costgrad/key. Raises OSError where there is no home."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(base):  # others are to be ignored, says the XDG specification
        return Path(base, "costgrad", "key")
    try:
        return Path.home() / ".local" / "share" / "costgrad" / "key"
    except RuntimeError as error:
        raise OSError("this user has no home folder") from error


def sign(purpose: str, data: bytes) -> str | None:
    """The signature of data for one purpose; the key is made where there is none.

    Args:
        purpose: what the signature is for; it is not valid for another purpose.
        data: what is signed.
    Returns:
        64 hexadecimal digits; None where there is no key and none can be made, or the key is not safe
        (`why_unsigned`).
    """
    try:
        return _signature(_key(create=True), purpose, data)
    except OSError:
        return None


def verify(purpose: str, data: bytes, signature: Any) -> bool:
    """Whether `sign` gave this signature to this user on this machine. False for whatever is no string."""
    if not isinstance(signature, str):
        return False
    try:
        right = _signature(_key(create=False), purpose, data)
    except OSError:
        return False
    return hmac.compare_digest(right.encode(), signature.encode(errors="replace"))


def why_unsigned() -> str:
    """Why `sign` gives None, for people; "" where it does not."""
    try:
        _key(create=True)
    except OSError as error:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    return ""


def _signature(key: bytes, purpose: str, data: bytes) -> str:
    """The length of the purpose comes first, so that no purpose can run on into the data."""
    name = purpose.encode()
    return hmac.new(key, len(name).to_bytes(8, "big") + name + data, hashlib.sha256).hexdigest()


def _key(create: bool) -> bytes:
    """The key. Raises OSError where there is none, or where it is not this user's alone."""
    path = key_path()
    try:
        return _read(path)
    except FileNotFoundError:
        if not create:
            raise
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    _write(path)
    return _read(path)


def _read(path: Path) -> bytes:
    """The key of a file that only this user can read. Raises OSError."""
    if not hasattr(os, "geteuid"):
        raise OSError("this system has no file owners")
    folder = path.parent.stat()
    if folder.st_uid != os.geteuid() or folder.st_mode & 0o022:
        raise OSError(f"{path.parent} must be this user's, and writable by nobody else")
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise OSError(f"{path} must be a file of this user's that nobody else can read")
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} must hold {KEY_BYTES} bytes: remove it, and a new key is made")
    return key


def _write(path: Path) -> None:
    """Puts a new key in place; of two processes at once the first one's stays. Raises OSError."""
    part = path.with_name(f"key.{os.getpid()}.{secrets.token_hex(8)}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # whole or not at all, and never over another
    finally:
        part.unlink(missing_ok=True)

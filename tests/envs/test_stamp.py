"""Signatures: valid for what was signed, by this user, for this purpose, and for nothing else."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from costgrad.envs import stamp

PURPOSE = "environment of a run"


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a key that is not there yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "costgrad" / "key"


def signed(data: bytes = b"data") -> str:
    signature = stamp.sign(PURPOSE, data)
    assert signature is not None
    return signature


def test_a_signature_is_valid_for_its_data_and_purpose_only(key: Path) -> None:
    signature = signed()
    assert stamp.verify(PURPOSE, b"data", signature)
    assert not stamp.verify(PURPOSE, b"Data", signature)
    assert not stamp.verify("environment snapshot", b"data", signature)
    assert not stamp.verify(PURPOSE + "d", b"ata", signature)  # the same bytes, cut elsewhere
    assert not stamp.verify(PURPOSE, b"data", signature[:-1] + ("0" if signature[-1] != "0" else "1"))
    assert signature == signed()


@pytest.mark.parametrize("nothing", [None, "", 1, True, ["a"], {}, b"x" * 64, "\ud800", "é" * 64, "0" * 64])
def test_what_is_no_signature_is_not_valid(key: Path, nothing: object) -> None:
    signed()
    assert not stamp.verify(PURPOSE, b"data", nothing)


def test_the_key_is_this_users_alone(key: Path) -> None:
    before = os.umask(0)  # the widest that a user may have
    try:
        signed()
    finally:
        os.umask(before)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert len(key.read_bytes()) == 32
    assert [path.name for path in key.parent.iterdir()] == ["key"]


def test_another_key_makes_another_signature(key: Path) -> None:
    signature = signed()
    key.unlink()
    assert not stamp.verify(PURPOSE, b"data", signature)
    assert not key.exists()  # to look at a signature makes no key
    assert signed() != signature
    assert not stamp.verify(PURPOSE, b"data", signature)


def test_a_key_that_is_not_safe_is_not_used(key: Path, tmp_path: Path) -> None:
    signature = signed()
    key.chmod(0o640)
    assert stamp.sign(PURPOSE, b"data") is None
    assert not stamp.verify(PURPOSE, b"data", signature)
    assert "nobody else can read" in stamp.why_unsigned()
    key.chmod(0o600)
    assert stamp.verify(PURPOSE, b"data", signature)
    key.parent.chmod(0o777)
    assert not stamp.verify(PURPOSE, b"data", signature)
    assert "writable by nobody else" in stamp.why_unsigned()
    key.parent.chmod(0o700)
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    assert stamp.sign(PURPOSE, b"data") is None
    key.unlink()
    os.mkfifo(key, 0o600)  # to read it would wait for ever
    assert stamp.sign(PURPOSE, b"data") is None
    key.unlink()
    key.touch(0o600)
    assert stamp.sign(PURPOSE, b"data") is None
    assert "32 bytes" in stamp.why_unsigned()


def test_a_key_of_another_user_is_not_used(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signature, me = signed(), os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert stamp.sign(PURPOSE, b"data") is None
    assert not stamp.verify(PURPOSE, b"data", signature)


def test_without_a_place_for_the_key_nothing_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert stamp.sign(PURPOSE, b"data") is None
    assert not stamp.verify(PURPOSE, b"data", "0" * 64)
    assert str(tmp_path / "file") in stamp.why_unsigned()


def test_where_the_key_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in ("", "data"):
        monkeypatch.setenv("XDG_DATA_HOME", relative)
        assert stamp.key_path() == tmp_path / ".local/share/costgrad/key"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert stamp.key_path() == tmp_path / ".local/share/costgrad/key"


def test_processes_at_once_agree_on_a_key(key: Path) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as pool:
        signatures = set(pool.map(stamp.sign, [PURPOSE] * 64, [b"data"] * 64))
    assert signatures == {signed()}
    stamp._write(key)  # one that has seen no key, and comes late
    assert signatures == {signed()}
    assert len(list(key.parent.iterdir())) == 1

"""The environment of a run: what its config.json names, as far as it may be made, or what the flags name instead."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from costgrad.envs.names import expand, split
from costgrad.envs.recipe import code_of, is_shadowed, is_signed, sha256
from costgrad.rl.errors import UserError
from costgrad.rl.runs.folder import SOURCES
from costgrad.scripts.cli import note
from costgrad.scripts.flags import json_object

LONGEST = 200  # of what is shown of a run's env_kwargs, in characters


class Wanted(NamedTuple):
    """An environment as `make` takes it."""

    env: str
    kwargs: dict[str, Any]


def environment_of_run(
    run: str, started: Mapping[str, Any], env: str | None, env_kwargs: str | None, trust: bool
) -> Wanted:
    """What a run's environment is made of; nothing is imported or made here.

    Args:
        run: its folder.
        started: its config.json.
        env: --env, None where it is not given: then the run says which.
        env_kwargs: --env-kwargs, None where it is not given. They override the run's; with --env they replace them.
        trust: --trust, whether the run may name code.
    Raises:
        UserError: the run names code, and neither the flag nor a signature of this user's says that it may be run; or
            it names no environment, or a file that is gone.
    """
    given = None if env_kwargs is None else json_object("--env-kwargs", env_kwargs)
    kwargs: dict[str, Any] = started.get("env_kwargs") or {}
    if env is not None:
        if given is None and kwargs and code_of(env) and not (trust or is_signed(started)):
            raise UserError(
                f"run {run} has env_kwargs {short(kwargs)}, which --env {env} would get: this user did not write them "
                "on this machine, so give --env-kwargs yourself, or --trust to take those"
            )
        return Wanted(env, kwargs if given is None else given)
    named = started.get("env_argument")
    if not isinstance(named, str):
        raise UserError(
            f"run {run} was trained on a Python object, not on a named environment: name it with --env, or use "
            "costgrad from Python"
        )
    if split(named).kind == "file":
        _check_file(run, started, named)
    if (code := code_of(named)) and not trust:
        _check_code(run, started, code)
    if split(named).kind == "file":
        _note_changes(run, started, named)
    return Wanted(named, kwargs | (given or {}))


def _check_code(run: str, started: Mapping[str, Any], code: str) -> None:
    """Raises UserError where it is not known that this user ran it before."""
    more = f" with {short(started['env_kwargs'])}" if started.get("env_kwargs") else ""
    if not is_signed(started):
        raise UserError(
            f"run {run} would {code}{more}, and this user did not write that on this machine: give --trust if you know "
            "what it does, or --env to name the environment yourself"
        )
    if is_shadowed(started):
        raise UserError(
            f"run {run} would {code}{more}, and a module of that name lies in the working folder {Path.cwd()}, which "
            "is not the run's: go elsewhere, or give --trust if it is the same"
        )


def _check_file(run: str, started: Mapping[str, Any], named: str) -> None:
    """Raises UserError where the file of the environment is gone."""
    _, where, name = split(named)
    try:
        if expand(where).is_file():
            return
    except (OSError, ValueError):  # a path that no file has
        pass
    copy, warn = _copy(run, where), "" if is_signed(started) else ", after you have read what it does"
    offer = f"--env {shlex.quote(f'{copy}:{name}')} is the copy that the run keeps{warn}" if copy else "give --env"
    raise UserError(f"run {run} was trained on {name!r} of file {where!r}, which is not there: {offer}")


def _note_changes(run: str, started: Mapping[str, Any], named: str) -> None:
    """Says where a file is not what it was when the run began."""
    file, path = started.get("env_file"), expand(split(named).where)
    if isinstance(file, dict) and file.get("sha256") != sha256(path):
        copy = _copy(run, str(path))
        note(f"{str(path)!r} has changed since run {run} began" + (f"; as it was it lies at {copy}" if copy else ""))


def _copy(run: str, where: str) -> Path | None:
    """The copy of an environment's file in a run folder; None where there is none."""
    try:
        path = Path(run) / SOURCES / Path(where).name
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None


def short(kwargs: Any) -> str:
    """For a message: a folder may hold anything."""
    text = repr(kwargs)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."

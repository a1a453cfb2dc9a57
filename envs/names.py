"""The names of environments: how they are written, and where what they name would come from. Nothing is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from costgrad.envs.errors import EnvError

OWN_TASKS = f"{__package__}.tasks"  # the modules of costgrad's own


class Parts(NamedTuple):
    """A name of an environment, taken apart."""

    kind: Literal["id", "module", "file"]
    where: str  # the module's name or the file's path; "" of an id
    name: str  # behind the colon; "" where it is missing


def split(env: str) -> Parts:
    """Takes a name apart; nothing is looked up."""
    where, colon, name = env.rpartition(":")
    if env.endswith(".py"):
        return Parts("file", env, "")
    if where.endswith(".py"):
        return Parts("file", where, name)
    return Parts("module", where, name) if colon else Parts("id", "", env)


def is_own_task(module: str) -> bool:
    """Whether a module's name is that of costgrad's own tasks."""
    return f"{module}.".startswith(f"{OWN_TASKS}.")


def expand(path: str) -> Path:
    """A path with the home folder in the place of ~. Raises EnvError where that is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise EnvError(f"no file {path!r}: {error}") from error


def in_working_folder(module: str) -> bool:
    """Whether a module's package, or its file, lies in the working folder."""
    here, top = Path.cwd(), module.partition(".")[0]
    try:
        return bool(top) and ((here / top).is_dir() or (here / f"{top}.py").is_file())
    except (OSError, ValueError):  # too long, or a character that no path has
        return False

"""Which checkpoints of a run there are, which are kept, and from which one it goes on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from costgrad.rl.errors import UserError
from costgrad.rl.files import old_beside

FoundT = TypeVar("FoundT")


def step_of(name: str) -> int | None:
    """N of a checkpoint `step_N`, None of others."""
    found = re.fullmatch(r"step_(0|[1-9][0-9]{0,15})", name)
    return int(found[1]) if found else None


def newest_first(folder: Path) -> list[str]:
    """The checkpoints in a folder in the order in which a run goes on from them: last, step_N by N, best."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names |= {name for name in ("last", "best") if old_beside(folder / name).name in names}
    steps = sorted((name for name in names if step_of(name) is not None), key=lambda name: -(step_of(name) or 0))
    return [*({"last"} & names), *steps, *({"best"} & names)]


def first_loadable(folder: Path, load: Callable[[str], FoundT]) -> tuple[FoundT, str]:
    """Loads the newest checkpoint that can be loaded.

    Args:
        folder: of the checkpoints.
        load: of a name; raises UserError where that checkpoint is damaged, or does not fit.

    Returns:
        what `load` gave, and a line where it was not of the newest one, else "".

    Raises:
        UserError: none can be loaded: that of the newest one.
    """
    first: UserError | None = None
    for name in newest_first(folder) or ["last"]:
        try:
            found = load(name)
        except UserError as error:
            first = first or error
            continue
        why = f"{first}: " if first is not None else "there is no checkpoint last: " if name != "last" else ""
        return found, f"{why}the run goes on from checkpoint {name}" if why else ""
    assert first is not None
    raise first


def prune(folder: Path, keep: int, step: int) -> None:
    """Removes the oldest `step_N` of a folder but for `keep`, the one of `step`, which is complete, among them.

    Those of later steps, which a run left that goes on from an earlier one, stay until it gets there.
    """
    steps = sorted(n for path in folder.iterdir() if (n := step_of(path.name)) is not None and n <= step)
    for n in steps[:-keep]:
        shutil.rmtree(folder / f"step_{n}", ignore_errors=True)

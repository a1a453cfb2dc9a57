"""The folder of a run: its files, and what is needed to resume."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from costgrad.rl.checkpoint import agent_name, read, restore, save_agent, write_bytes, write_text, writing
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import SEED_OFFSET

SOURCES = "environment"  # folder of the copy of an environment's file, in that of the run
_ENTRIES = {
    **{"config": dict, "seed": int, "num_envs": int},
    **{"env_argument": str | None, "env_kwargs": dict, "env_file": dict | None, "env_stamp": str | None},
}
_PACKAGES = ("costgrad", "torch", "gymnasium", "numpy", "safetensors")


class Position(NamedTuple):
    """The progress of a run."""

    step: int = 0  # environment steps done
    seconds: float = 0.0  # of training
    best: float | None = None  # mean return of the best evaluation


class RunFolder:
    """The folder of one run: config.json, tables, ledger.json, checkpoints/ and plots.

    Args:
        path: the folder.
        resume: whether it must hold a run to resume; otherwise it must be empty or not exist.

    Raises:
        UserError: the folder does not match `resume`, or is not writable.
    """

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        self.path = Path(path)
        if resume:
            if not (self.path / "config.json").is_file():
                raise UserError(f"no run to resume at {self.path}: it has no config.json")
            return
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise UserError(
                    f"run folder {self.path} is not empty: name another one, or resume the run that is there"
                )

    @property
    def ledger(self) -> Path:
        """Path of the ledger."""
        return self.path / "ledger.json"

    def checkpoint(self, name: str) -> Path:
        """Path of checkpoint `last`, `best` or `step_N`."""
        return self.path / "checkpoints" / name

    def save(self, name: str, agent: Any, position: Position) -> None:
        """Writes a checkpoint of the agent with the progress of the run. Raises UserError."""
        save_agent(self.checkpoint(name), agent, run=position._asdict())

    def restore(self, agent: Any) -> Position:
        """Loads `checkpoints/last` into the agent. Raises UserError."""
        path = self.checkpoint("last")
        tensors, meta = read(path)
        try:
            position = Position(**meta["run"])
        except (KeyError, TypeError) as error:
            raise UserError(f"checkpoint {path} was not written by a run") from error
        kinds = (int, int | float, int | float | None)
        if not all(map(isinstance, position, kinds)) or position.step < 0 or position.seconds < 0:
            raise UserError(f"checkpoint {path} is damaged: its position is {position._asdict()}")
        restore(path, agent, tensors, meta)
        return position

    def keep_source(self, argument: str | None, file: Mapping[str, str] | None) -> None:
        """Copies the file of an environment that was named as file.py:Name to environment/ in the folder.

        Args:
            argument: the environment's name.
            file: "path" and "sha256" of its file when it was loaded; one that has changed since is left out.
        Raises:
            UserError: the copy cannot be written.
        """
        if file is None or not (argument or "").startswith(f"{file['path']}:"):
            return
        try:
            source = Path(file["path"]).read_bytes()
        except OSError:
            return
        if hashlib.sha256(source).hexdigest() == file["sha256"]:
            copy = self.path / SOURCES / Path(file["path"]).name
            with writing(copy):
                copy.parent.mkdir(exist_ok=True)
            write_bytes(copy, source)

    def write_config(self, agent: Any, **more: Any) -> None:
        """Writes config.json: config, command, commit and versions. Raises UserError."""
        text = json.dumps(
            {
                "agent": agent_name(agent),
                "config": asdict(agent.config),
                **more,
                "command": " ".join(sys.argv),
                "commit": _commit(),
                "python": platform.python_version(),
                "packages": _versions(),
            },
            indent=1,
            default=str,
        )
        write_text(self.path / "config.json", text + "\n")


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads config.json of run folder `path`. Raises UserError."""
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(config, ensure_ascii=False).encode()  # half a character, \ud800, would fail where it is printed
    except OSError as error:
        raise UserError(f"no run at {path}: cannot read {file.name} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("agent"), str):
        raise UserError(f"{file} is not the config of a run")
    for key, kind in _ENTRIES.items():
        if key in config and not isinstance(config[key], kind):
            raise UserError(f"{file} is damaged: {key} is {config[key]!r}")
    return config


def environment_seed(seed: int, step: int) -> int:
    """The seed of the environments of a run that starts or resumes at `step`.

    A resumed run gets new episodes: its seeds are between 2^30 and 2^31, far from those of training (seed, seed + 1,
    ...) and of evaluation (seed + 1,000,000, ...).
    """
    if step == 0:
        return seed
    return 2**30 + int(np.random.SeedSequence((seed, step)).generate_state(1)[0]) % (2**30 - SEED_OFFSET)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout that is not installed
            continue
    return found


def _commit() -> str | None:
    """The commit of this checkout, with "-dirty" if it has changes; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""The folder of a run: its files, and what is needed to resume."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from costgrad.rl.agent_files import agent_name, restore, save_agent
from costgrad.rl.checkpoint import copy, read
from costgrad.rl.checks import short
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import SEED_OFFSET, Evaluation, summary
from costgrad.rl.files import LOCK, Lock, remove_leftovers, write_bytes, write_text, writing
from costgrad.rl.ledger import StepLedger
from costgrad.rl.runs.keeping import first_loadable, newest_first, prune, step_of
from costgrad.rl.runs.resume import Kept, Position, kept_of, position_of

SOURCES = "environment"  # folder of the copy of an environment's file, in that of the run
_ENTRIES = {
    **{"config": dict, "seed": int, "num_envs": int},
    **{"env_argument": str | None, "env_kwargs": dict, "env_file": dict | None, "env_stamp": str | None},
}
_PACKAGES = ("costgrad", "torch", "gymnasium", "numpy", "safetensors")


class Result(NamedTuple):
    """What result.json says of a run that has been trained."""

    finished: bool  # whether plot and film are there too
    evaluation: Evaluation | None  # of the final policy; None where episodes never end
    ledger: StepLedger


class RunFolder:
    """The folder of one run: config.json, tables, ledger.json, checkpoints/ and plots.

    Args:
        path: the folder.
        resume: whether it must hold a run to resume; otherwise it must be empty or not exist.
        keep: how many checkpoints `step_N` stay; None keeps all.

    Attributes:
        say: takes a line for people; `notes` does until there is somebody.
        notes: those lines.

    Raises:
        UserError: the folder does not match `resume`, is not writable, or another run writes in it.
    """

    def __init__(self, path: str | Path, resume: bool = False, keep: int | None = None) -> None:
        self.path, self.keep = Path(path), keep
        self.notes: list[str] = []
        self.say: Callable[[str], None] = self.notes.append
        self._config = ""  # the text of config.json
        self._saved: tuple[str, Any] | None = None  # the last checkpoint, and the position in it
        if resume and not (self.path / "config.json").is_file():
            raise UserError(f"no run to resume at {self.path}: it has no config.json")
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path)
        try:
            with writing(self.path):
                if not resume and any(entry.name != LOCK for entry in self.path.iterdir()):
                    raise UserError(
                        f"run folder {self.path} is not empty: name another one, or resume the run that is there"
                    )
                self._config = (self.path / "config.json").read_text(encoding="utf-8") if resume else ""
        except (UserError, UnicodeDecodeError):
            self.close()
            raise
        for folder in (self.path, self.path / "checkpoints"):
            remove_leftovers(folder)
        if self._lock.missing:
            self.say(f"nothing keeps a second run out of {self.path}: {self._lock.missing}")

    def close(self) -> None:
        """Lets others write in the folder."""
        self._lock.release()

    def check(self) -> None:
        """Makes the folder again where it was removed while the run went on, and says so.

        Raises:
            WriteError: the file system refuses.
            UserError: another run is in it now.
        """
        config = self.path / "config.json"
        if not self._config or (self._lock.stands and config.exists()):
            return
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not self._lock.stands:
            self._lock.release()
            self._lock = Lock(self.path)
        if not config.exists():
            write_text(config, self._config)
            self.say(f"run folder {self.path} was removed: it is made again, what it held before is lost")
        elif config.read_text(encoding="utf-8", errors="replace") != self._config:
            raise UserError(f"run folder {self.path} holds another run now: this one ends")

    @property
    def ledger(self) -> Path:
        """Path of the ledger."""
        return self.path / "ledger.json"

    def checkpoint(self, name: str) -> Path:
        """Path of checkpoint `last`, `best` or `step_N`."""
        return self.path / "checkpoints" / name

    def save(self, name: str, agent: Any, position: Position, kept: Kept) -> None:
        """Writes a checkpoint of the agent with the progress of the run; removes the oldest that are not kept.

        Raises:
            WriteError: the file system refuses; what was saved before is as it was.
            UserError: the folder was removed, and another run writes in the one that is there now.
        """
        self.check()
        before, self._saved = self._saved, None
        twin = self.checkpoint(before[0]) if before is not None and name == "last" and before[1] == position else None
        if twin is not None and step_of(twin.name) is not None and twin.is_dir():  # of the same moment
            copy(twin, self.checkpoint(name))
        else:
            packed, tensors = kept.packed()
            save_agent(self.checkpoint(name), agent, tensors, run={**position._asdict(), "kept": packed})
        self._saved = name, position
        if self.keep is not None and step_of(name) is not None:
            prune(self.path / "checkpoints", self.keep, position.step)

    def restore(self, agent: Any) -> tuple[Position, Kept]:
        """Loads the newest checkpoint that is not damaged into the agent; says which where it is not `last`.

        A run that was killed before it saved anything begins anew.

        Raises:
            UserError: none can be loaded, or they are of another agent.
        """
        if not newest_first(self.path / "checkpoints"):
            return Position(), Kept()
        found, line = first_loadable(self.path / "checkpoints", lambda name: self._restore(name, agent))
        if line:
            self.say(line)
        return found

    def _restore(self, name: str, agent: Any) -> tuple[Position, Kept]:
        path = self.checkpoint(name)
        tensors, meta = read(path)
        if "run" not in meta:
            raise UserError(f"checkpoint {path} was not written by a run")
        try:
            position, kept = position_of(meta["run"]), kept_of(meta["run"], tensors)
        except ValueError as error:
            raise UserError(f"checkpoint {path} is damaged: {error}") from error
        restore(path, agent, tensors, meta)
        return position, kept

    def write_result(self, step: int, result: Result) -> None:
        """Writes result.json, that of training up to `step`. Raises UserError."""
        final = result.evaluation
        evaluation = final and {"mean": final.mean, "returns": final.returns, "lengths": final.lengths}
        beside = {"step": step, "finished": result.finished, "evaluation": evaluation}
        write_text(self.path / "result.json", json.dumps(beside | {"ledger": asdict(result.ledger)}, indent=1) + "\n")

    def read_result(self, step: int) -> Result | None:
        """What `write_result` wrote for this step; None where there is none, or none that can be read."""
        try:
            found = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
            if found["step"] != step:
                return None
            final = found["evaluation"]
            evaluation = final and summary([float(r) for r in final["returns"]], [int(n) for n in final["lengths"]])
            ledger = StepLedger(**{name: int(count) for name, count in found["ledger"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return Result(found.get("finished") is True, evaluation, ledger)

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
        self._config = text + "\n"
        write_text(self.path / "config.json", self._config)


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
            raise UserError(f"{file} is damaged: {key} is {short(config[key])}")
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

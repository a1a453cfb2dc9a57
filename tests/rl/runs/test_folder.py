"""A run goes on from the newest good checkpoint, alone in its folder, and outlives a disk that refuses to write."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from costgrad.rl import checkpoint
from costgrad.rl.agent_files import load_agent
from costgrad.rl.errors import UserError, WriteError
from costgrad.rl.files import Lock
from costgrad.rl.runs import table
from costgrad.rl.runs.events import Events
from costgrad.rl.runs.faults import Faults, RunWarning
from costgrad.rl.runs.folder import RunFolder
from costgrad.rl.runs.keeping import first_loadable, newest_first, prune
from costgrad.rl.runs.table import TRAINING_COLUMNS, Table, read_table
from costgrad.rl.runs.train import train
from tests.fakes import Fake, FakeConfig, Remade, fake

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
ROW = dict.fromkeys(TRAINING_COLUMNS, 1.0)


def steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def trained(run: Path, total: int = 40, **more: Any) -> Any:
    env = Remade(2)
    return train(fake(env), env, total, run, **{"progress": False, "save_every": 10} | more)


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_good(tmp_path: Path, capsys: Any) -> None:
    trained(tmp_path)
    for name in ("last", "step_40"):
        file = tmp_path / "checkpoints" / name / "meta.json"
        if file.exists():
            file.write_text(file.read_text().replace('"steps": 40', '"steps": 41'))
    agent = Fake(Remade(2).single_observation_space, Remade(2).single_action_space, FakeConfig())
    result = train(agent, Remade(2), 50, tmp_path, resume=True, progress=True)
    assert "last is damaged" in (said := capsys.readouterr().out) and "goes on from checkpoint step_30" in said
    assert result.step == 50 and agent.updates == 25  # those of 30 steps and of 20 more
    assert load_agent(tmp_path / "checkpoints" / "last", Fake, FakeConfig).steps == 50


def test_all_damaged_is_said_of_the_last(tmp_path: Path) -> None:
    trained(tmp_path)
    for file in (tmp_path / "checkpoints").rglob("meta.json"):
        file.write_text("{")
    with pytest.raises(UserError, match="checkpoints/last is damaged"):
        trained(tmp_path, 60, resume=True)


def test_the_order_in_which_checkpoints_are_tried(tmp_path: Path) -> None:
    assert newest_first(tmp_path / "none") == []
    for name in ("best", ".last.old", "step_5", "step_40", "step_300", "step_x", ".step_7.1-a.tmp", "step_007"):
        (tmp_path / name).mkdir()
    assert newest_first(tmp_path) == ["last", "step_300", "step_40", "step_5", "best"]

    def load(name: str) -> int:
        if name != "step_40":
            raise UserError(f"{name} is damaged")
        return 7

    line = "last is damaged: the run goes on from checkpoint step_40"
    assert first_loadable(tmp_path, load) == (7, line)


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    trained(tmp_path / "all")
    assert steps(tmp_path / "all") == ["best", "last", "step_10", "step_20", "step_30"]
    trained(tmp_path / "two", keep=2)
    assert steps(tmp_path / "two") == ["best", "last", "step_20", "step_30"]
    with pytest.raises(UserError, match="keep must be at least 1, got 0"):
        trained(tmp_path / "none", keep=0)


def test_the_newest_is_never_removed_for_one_of_a_future_that_is_left(tmp_path: Path) -> None:
    for n in (1, 2, 3, 50, 60):
        (tmp_path / f"step_{n}").mkdir()
    prune(tmp_path, 1, 3)
    assert sorted(os.listdir(tmp_path)) == ["step_3", "step_50", "step_60"]


def test_a_checkpoint_is_removed_after_the_newer_one_is_complete(tmp_path: Path, monkeypatch: Any) -> None:
    trained(tmp_path, 20, keep=1)
    monkeypatch.setattr(checkpoint, "save_file", refuse)
    trained_with_faults(tmp_path, 40, keep=1, resume=True)
    assert "step_10" in steps(tmp_path)


def test_two_checkpoints_of_the_same_moment_are_written_once(tmp_path: Path) -> None:
    inodes = {}

    def hook(tick: Any, _: Any) -> None:
        if tick.step == 12:
            for name in ("step_10", "last"):
                inodes[name] = (tmp_path / "checkpoints" / name / "tensors.safetensors").stat().st_ino

    trained(tmp_path, hooks=hook)
    assert inodes["step_10"] == inodes["last"]
    assert checkpoint.read(tmp_path / "checkpoints" / "step_10")[1]["run"]["step"] == 10


def test_one_run_one_writer(tmp_path: Path) -> None:
    trained(tmp_path, 20)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    lock = Lock(tmp_path)
    with pytest.raises(UserError, match=f"being written by process {os.getpid()} on"):
        trained(tmp_path, 40, resume=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    lock.release()
    assert trained(tmp_path, 40, resume=True).step == 40
    assert trained(tmp_path, 60, resume=True).step == 60  # each lets it go, in the same process


def test_the_lock_is_let_go_whatever_ends_a_run(tmp_path: Path) -> None:
    trained(tmp_path, 20)
    kept = []  # tracebacks, as a notebook does
    for arguments in ({"total": 20}, {"hooks": lambda *_: 1 / 0}):
        with pytest.raises((UserError, ZeroDivisionError)) as error:
            trained(tmp_path, **{"total": 40, "resume": True} | arguments)
        kept.append(error)
        Lock(tmp_path).release()
    with pytest.raises(UserError, match="is not empty") as error:
        trained(tmp_path)
    Lock(tmp_path).release()


def test_two_that_begin_at_once(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="is being written"):
        RunFolder(tmp_path / "run")
    first.close()
    RunFolder(tmp_path / "run").close()  # .lock alone is no run


def test_leftovers_are_removed_when_a_run_goes_on(tmp_path: Path) -> None:
    trained(tmp_path, 20)
    for folder in (tmp_path, tmp_path / "checkpoints"):
        (folder / ".last.1.tmp").mkdir()
    (tmp_path / "checkpoints" / "last").rename(tmp_path / "checkpoints" / ".last.old")  # killed between two renames
    assert trained(tmp_path, 40, resume=True).step == 40
    assert not [p for p in tmp_path.rglob(".*") if p.suffix in (".tmp", ".old")]


# Disks that refuse


def refuse(*_: Any, **__: Any) -> None:
    raise FULL


def trained_with_faults(run: Path, total: int = 40, **more: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RunWarning)
        result = trained(run, total, **more)
    return result, [str(warning.message) for warning in said if warning.category is RunWarning]


@pytest.mark.parametrize("call", ["save_file", "sync", "rename", "json", "csv", "events", "fsync"])
def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: Any, call: str) -> None:
    """It is full from step 12 to step 32: one line each, and at the end everything is there."""
    patch = pytest.MonkeyPatch()

    def hook(tick: Any, _: Any) -> None:
        if tick.step == 12:
            fill(patch, call)
        if tick.step == 32:
            patch.undo()

    try:
        result, said = trained_with_faults(tmp_path, 60, hooks=hook, eval_every=20)
    finally:
        patch.undo()
    assert result.step == 60 and result.unsaved == ""
    refused, again = said
    assert refused.endswith("No space left on device: training goes on and tries again at the next save")
    assert again == "the disk can be written again, and holds the run as it is now"
    agent = load_agent(tmp_path / "checkpoints" / "last", Fake, FakeConfig)
    assert agent.steps == 60
    assert [row["step"] for row in read_table(tmp_path / "evaluations.csv")] == [20, 40, 60]
    assert not [p for p in tmp_path.rglob(".*.tmp")]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/mean_reward")] == [20, 40, 60]


def fill(patch: Any, call: str) -> None:
    """Makes a kind of write call fail."""
    if call == "save_file":
        patch.setattr(checkpoint, "save_file", refuse)
    elif call == "sync":
        patch.setattr(checkpoint, "sync", refuse)
    elif call == "json":
        patch.setattr(Path, "write_text", refuse)
        patch.setattr(Path, "write_bytes", refuse)
    elif call == "csv":
        opened = Path.open
        patch.setattr(Path, "open", lambda p, *a, **k: refuse() if p.suffix == ".csv" else opened(p, *a, **k))
        patch.setattr(table, "write_text", lambda *_: refused("a.csv"))
    elif call == "events":
        patch.setattr(Events, "_records", lambda self, _: self.close() or refused(self.path))
    else:
        patch.setattr(os, call, refuse)


def refused(path: Any) -> None:
    raise WriteError(f"cannot write {path}: No space left on device")


def test_a_run_that_cannot_be_saved_at_its_end_says_so(tmp_path: Path) -> None:
    patch = pytest.MonkeyPatch()
    try:
        hook = lambda tick, _: patch.setattr(checkpoint, "save_file", refuse) if tick.step == 32 else None  # noqa: E731
        result, _ = trained_with_faults(tmp_path, hooks=hook)
    finally:
        patch.undo()
    assert "checkpoints/last: No space left" in result.unsaved
    assert load_agent(tmp_path / "checkpoints" / "last", Fake, FakeConfig).steps == 30  # what was saved before


def test_a_folder_that_is_removed_is_made_again_with_the_next_save(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def hook(tick: Any, _: Any) -> None:
        if tick.step == 12:
            shutil.rmtree(run)

    result, said = trained_with_faults(run, 60, hooks=hook, eval_every=20)
    assert result.unsaved == ""
    assert [line for line in said if "was removed: it is made again" in line]
    assert [row["step"] for row in read_table(run / "evaluations.csv")] == [20, 40, 60]
    assert trained(run, 80, resume=True).step == 80


def test_a_folder_that_another_run_took_is_left_to_it(tmp_path: Path) -> None:
    run, taken = tmp_path / "run", []

    def hook(tick: Any, _: Any) -> None:
        if tick.step == 12:
            shutil.rmtree(run)
            run.mkdir()
            taken.append(Lock(run))

    with pytest.raises(UserError, match="is being written by"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        trained(run, 60, hooks=hook)
    taken[0].release()
    assert os.listdir(run) == [".lock"]


def test_a_row_that_could_not_be_written_is_written_with_the_next(tmp_path: Path, monkeypatch: Any) -> None:
    kept = Table(tmp_path / "a.csv", TRAINING_COLUMNS)
    kept.add(**ROW)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(WriteError, match=r"a\.csv: No space left"):
            kept.add(**ROW | {"step": 2.0})
    with (tmp_path / "a.csv").open("a") as file:
        file.write("2,0.")  # what the full disk took of it
    kept.add(**ROW | {"step": 3.0})
    assert [row["step"] for row in read_table(tmp_path / "a.csv")] == [1, 2, 3]
    (tmp_path / "a.csv").unlink()
    kept.sync()
    assert [row["step"] for row in read_table(tmp_path / "a.csv")] == [1, 2, 3]


@pytest.mark.parametrize("tail", [b"4,1,1", b"4,1\x00\x00", b"\x00" * 50])
def test_what_a_power_failure_leaves_of_a_row_is_left_out(tmp_path: Path, tail: bytes) -> None:
    Table(tmp_path / "a.csv", TRAINING_COLUMNS).add(**ROW)
    with (tmp_path / "a.csv").open("ab") as file:
        file.write(tail)
    assert len(read_table(tmp_path / "a.csv", TRAINING_COLUMNS)) == 1


def test_a_fault_is_said_once_as_long_as_it_lasts() -> None:
    said: list[str] = []
    faults = Faults(said.append)
    for what, wrong in (("a", True), ("b", True), ("a", False), ("b", True), ("b", False), ("b", False), ("a", True)):
        with faults.tolerated(what):
            if wrong:
                raise WriteError(f"cannot write {what}: full")
    said_first = [line.split(":")[0] for line in said]
    assert said_first == [
        "cannot write a",
        "the disk can be written again, and holds the run as it is now",
        "cannot write a",
    ]
    with pytest.raises(UserError), faults.tolerated("a"):
        raise UserError("another one")

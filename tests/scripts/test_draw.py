"""Drawing as a person runs it: the script on runs, on agents, and on what will not do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from costgrad import __main__ as costgrad
from costgrad.rl.drawing.paint import MARK
from costgrad.scripts import draw, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A folder with a short run, and files of other people."""
    place = tmp_path_factory.mktemp("place")
    flags = ["--env", "CartPole-v1", "-n", "50", "--hidden", "12", "--no-capture-video", "--no-progress"]
    assert train.main([*flags, "--eval-episodes", "1", "--run-dir", str(place / "run")]) == 0
    (place / "mine.svg").write_text("<svg/>")
    (place / "folder.svg").mkdir()
    return place


@pytest.fixture
def here(place: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(place)
    return place


def test_a_run_and_a_checkpoint_and_an_agent_are_drawn(here: Path, capsys: Any) -> None:
    started = (here / "run" / "agent.svg").read_text()
    assert ">A2C on CartPole-v1<" in started and ">12<" in started
    for source in (["run"], ["run", "--checkpoint", "best"], ["run/checkpoints/last"]):
        assert draw.main([*source, "-o", "out.svg"]) == 0  # over the one before, which was drawn here
        assert (here / "out.svg").read_text() == started, source
    shutil.copytree(here / "run" / "checkpoints" / "last", here / "alone")
    assert draw.main(["alone", "-o", "alone.svg"]) == 0
    assert ">A2C on environment<" in (here / "alone.svg").read_text()
    assert "drawn alone.svg" in capsys.readouterr().out
    fresh = ["--agent", "reppo", "--env", "Pendulum-v1", "--settings", '{"hidden": [48, 80], "gamma": 1}']
    assert costgrad.main(["draw", *fresh, "--out", "reppo.svg"]) == 0
    assert ">80<" in (here / "reppo.svg").read_text()
    assert draw.main([*fresh, "-o", "reppo.png"]) == 0
    assert MARK.encode() in (here / "reppo.png").read_bytes()[:200]


REAL = [
    ["run", "-o", "a.png"],
    ["--agent", "td3", "--env", "Pendulum-v1"],
]


@pytest.mark.parametrize("flags", REAL, ids=" ".join)
def test_real_input_in_a_process_of_its_own(place: Path, tmp_path: Path, flags: list[str]) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    done = process(*flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    out = "a.png" if "-o" in flags else "agent.svg"
    assert done.stdout == f"drawn {out}\n" and (tmp_path / out).stat().st_size > 9999


BAD = {
    "": "name the folder of a run, or --agent and --env",
    "run --agent a2c --env CartPole-v1": "one of both",
    "nothing": "no run at nothing",
    "run --checkpoint step_7": "has no checkpoint 'step_7': it has best, last",
    "run -o agent.pdf": "--out agent.pdf must end in .svg or .png",
    "run -o mine.svg": "--out mine.svg is there and was not drawn by this command: name another file",
    "run -o folder.svg": "--out folder.svg is there",
    "run -o nowhere/a.svg": "cannot write nowhere/a.svg: No such file",
    "--agent a2c": "--agent a2c needs --env",
    "--agent dqn --env CartPole-v1": "unknown agent 'dqn': it must be one of a2c, ars",
    "--agent td3 --env CartPole-v1": "Discrete(2)",
    "--agent a2c --env Nope-v3": "Nope-v3",
    "--agent a2c --env CartPole-v1 --settings {oops": "not JSON",
    '--agent a2c --env CartPole-v1 --settings {"hiden":[3]}': "a2c has no setting 'hiden' (did you mean hidden?)",
    '--agent a2c --env CartPole-v1 --settings {"hidden":3}': "hidden must be a tuple of numbers",
    '--agent a2c --env CartPole-v1 --settings {"hidden":["a"]}': "hidden",
    '--agent a2c --env CartPole-v1 --settings {"hidden":null}': "hidden",
    '--agent a2c --env CartPole-v1 --settings {"actor_gradient":"up"}': "actor_gradient must be one of pathwise",
    '--agent a2c --env CartPole-v1 --settings {"gamma":2}': "gamma must be from 0 to 1, got 2",
    '--agent a2c --env CartPole-v1 --env-kwargs {"colour":1}': "colour",
    "--agent a2c --env CartPole-v1 --size 3": "--size",
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_input_is_one_line_and_leaves_everything_as_it_was(here: Path, capsys: Any, flags: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert draw.main(flags.split()) == 2
    said, error = capsys.readouterr()
    assert said == "" and error.startswith("error: ") and len(error.splitlines()) == 1
    assert BAD[flags] in error
    assert before == {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}


def test_bad_input_in_a_process_of_its_own(place: Path) -> None:
    done = process("run", "-o", "mine.svg", cwd=place)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: --out mine.svg is there and was not drawn by this command: name another file\n"
    assert (place / "mine.svg").read_text() == "<svg/>"


def process(*flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "draw.py"), *flags],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )

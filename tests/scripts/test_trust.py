"""A run folder is data: what it names runs no code that its user has not run before, and gives no traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from costgrad.envs import stamp
from costgrad.rl.runs.folder import read_config
from costgrad.scripts import draw, evaluate, probe, train

LINE = """
import gymnasium, numpy as np, os

class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length=5):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), -1.0, False, self.t >= self.length, {}

class Wide(Line):
    action_space = gymnasium.spaces.Box(-5, 5, (1,), np.float32)
"""
SHORT = ["-n", "64", "--num-envs", "2", "--no-capture-video", "--eval-episodes", "2", "--no-progress"]
COMMANDS: dict[str, Callable[[str, list[str]], int]] = {
    "evaluate": lambda run, more: evaluate.main([run, "--episodes", "2", *more]),
    "probe": lambda run, more: probe.main([run, "--num-envs", "2", "--visits", "1", "--within", "8", *more]),
    "resume": lambda run, more: train.main(["--resume", run, *SHORT[4:], "-n", "128", *more]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of environments, and one run of it and one of an id."""
    place = tmp_path_factory.mktemp("place")
    (place / "line.py").write_text(LINE)
    mine = ["--env", f"{place}/line.py:Line", "--env-kwargs", "length=7"]
    assert train.main([*mine, "--run-dir", f"{place}/mine", *SHORT]) == 0
    assert train.main(["--env", "CartPole-v1", "--run-dir", f"{place}/id", *SHORT]) == 0
    return place


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copies of the runs in a working folder of their own."""
    for name in ("mine", "id"):
        shutil.copytree(place / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    path, before = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def edit(run: Path, **entries: Any) -> None:
    """Changes entries of a run's config.json; `args` only those that are given."""
    config = json.loads((run / "config.json").read_text())
    config["args"] |= entries.pop("args", {})
    (run / "config.json").write_text(json.dumps(config | entries))


def refused(capsys: Any, call: Callable[[], int]) -> str:
    """Its one line."""
    capsys.readouterr()
    assert call() == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines if not line.startswith("note: ")] == [True], lines
    return lines[-1]


# Hostile folders

TOUCH = "touch canary"
PYTHON = "import os; open('canary', 'w').close()"
NO_ID = "unknown environment id"
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "command": (
        {"env_argument": "subprocess:getoutput", "env_kwargs": {"cmd": TOUCH}},
        r"would import module 'subprocess' and call 'getoutput' with {'cmd': 'touch canary'}",
    ),
    "system": ({"env_argument": "os:system", "env_kwargs": {"command": TOUCH}}, "import module 'os' and call 'system'"),
    "builtin": ({"env_argument": "builtins:exec", "env_kwargs": {"source": PYTHON}}, "import module 'builtins'"),
    "module before an id": ({"env_argument": "evil:CartPole-v1"}, "import module 'evil' and call 'CartPole-v1'"),
    "module": ({"env_argument": "evil:Env"}, "import module 'evil'"),
    "module in a package": ({"env_argument": "evil.sub:Env"}, "import module 'evil.sub'"),
    "file here": ({"env_argument": "evil.py:Env"}, "run file 'evil.py' and call 'Env'"),
    "file in the run": ({"env_argument": "{run}/environment/evil.py:Env"}, "run file '.*evil.py'"),
    "file further up": ({"env_argument": "{run}/../evil.py:Env"}, "run file '.*/../evil.py'"),
    "link": ({"env_argument": "link.py:Env"}, "run file 'link.py'"),
    "file without a name": ({"env_argument": "evil.py"}, "run file 'evil.py'"),
    "file that is gone": ({"env_argument": "~nobody/none.py:Env"}, "'~nobody/none.py', which is not there"),
    "file of no system": ({"env_argument": "a\0b/" + "c" * 5000 + ".py:Env"}, "which is not there"),
    "unicode": ({"env_argument": "evil\u2024sub:Env"}, "import module"),
    "half a character": ({"env_argument": "evil\ud800:Env"}, "config.json is damaged"),
    "escape codes": ({"env_argument": "\x1b[2Jevil:Env"}, r"import module '\\x1b\[2Jevil'"),
    "escape codes in an id": ({"env_argument": "\x1b]0;evil\x07\x9b2J"}, r"\\x1b\]0;evil"),
    "near our own tasks": ({"env_argument": "costgrad.envs.tasks_:Env"}, "import module 'costgrad.envs.tasks_'"),
    "beside our own tasks": ({"env_argument": "costgrad.envs.load:load_file"}, "import module 'costgrad.envs.load'"),
    "imported by our own tasks": ({"env_argument": "costgrad.envs.tasks.known:partial"}, "no gymnasium.Env"),
    "no task of ours": ({"env_argument": "costgrad.envs.tasks.evil:Env"}, "no module 'costgrad.envs.tasks.evil'"),
    "no module": ({"env_argument": ":Env"}, "import module ''"),
    "empty": ({"env_argument": ""}, NO_ID),
    "list": ({"env_argument": ["evil:Env"]}, "damaged: env_argument is .'evil:Env'"),
    "nested": ({"env_argument": {"a": {"b": "evil:Env"}}}, "damaged: env_argument"),
    "number": ({"env_argument": 3}, "damaged: env_argument is 3"),
    "none, and args name code": ({"env_argument": None, "args": {"env": "evil:Env"}}, "name it with --env"),
    "kwargs are a list": ({"env_kwargs": [["cmd", TOUCH]]}, "damaged: env_kwargs"),
    "kwargs of code": ({"env_argument": "CartPole-v1", "env_kwargs": {"cmd": TOUCH}}, "does not take cmd"),
    "render mode": ({"env_argument": "CartPole-v1", "env_kwargs": {"render_mode": "evil:Env"}}, "render"),
    "time limit": ({"env_argument": "CartPole-v1", "env_kwargs": {"max_episode_steps": "evil"}}, "max_episode_steps"),
    "cost by name": (
        {"env_argument": "costgrad.envs.tasks.black_box:BlackBoxEnv", "env_kwargs": {"cost_fn": "os:system"}},
        "no action bounds",
    ),
    "context by name": (
        {"env_argument": "costgrad/Staircase-v0", "env_kwargs": {"context": "evil:Env"}},
        "it must be .low, high., a Box or sample",
    ),
    "stamp of no kind": ({"env_argument": "evil:Env", "env_stamp": ["x"]}, "damaged: env_stamp"),
    "stamp of another": ({"env_argument": "evil:Env", "env_stamp": "0" * 64}, "import module 'evil'"),
    "file entry of no kind": ({"env_file": "evil.py"}, "damaged: env_file"),
    "agent": ({"agent": "evil.py:Env", "args": {"agent": "evil.py:Env"}}, "give --agent file.py:"),
    "agent in args": ({"args": {"agent": "evil.py:A2C"}}, "give --agent file.py:"),
    "encoder": ({"args": {"encoder": "evil.py:Env"}}, "give --encoder again"),
    "encoder of no kind": ({"args": {"encoder": ["evil.py:Env"]}}, "encoder"),
    "trust of its own": ({"env_argument": "evil:Env", "args": {"trust": True}}, "import module 'evil'"),
}
ONLY_RESUMED: dict[str, tuple[dict[str, Any], str]] = {
    "backend": ({"args": {"env_backend": "evil:Env"}}, "env_backend 'evil:Env' in its config.json: it must be one of"),
    "arguments that are none": ({"args": {"env": 3}}, "env 3 in its config.json: it must be one of str"),
}


def lay_traps(here: Path, run: Path) -> None:
    """Files that leave a canary when they run, wherever a name of a hostile config may lead."""
    for path in (here / "evil.py", here / "ale_py.py", run / "environment" / "evil.py"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(PYTHON + "\n" + LINE + "Env = Line\n")
    (here / "link.py").symlink_to("evil.py")
    (here / "costgrad" / "envs" / "tasks").mkdir(parents=True)
    for file in ("__init__.py", "envs/__init__.py", "envs/tasks/__init__.py", "envs/tasks/evil.py"):
        (here / "costgrad" / file).write_text(PYTHON)


CASES = [(how, command) for how in HOSTILE for command in COMMANDS] + [(how, "resume") for how in ONLY_RESUMED]


@pytest.mark.parametrize(("how", "command"), CASES)
def test_no_config_runs_code_or_gives_a_traceback(here: Path, capsys: Any, how: str, command: str) -> None:
    run = here / "id"
    entries, said = (HOSTILE | ONLY_RESUMED)[how]
    lay_traps(here, run)
    if isinstance(argument := entries.get("env_argument"), str):
        entries = entries | {"env_argument": argument.replace("{run}", str(run))}
    edit(run, **entries)
    error = refused(capsys, lambda: COMMANDS[command](str(run), []))
    assert re.search(said, error), error
    assert "\x1b" not in error
    assert not (here / "canary").exists()


def test_the_traps_work(here: Path) -> None:
    """A control: what is refused above runs where the user says so, and leaves the canary."""
    lay_traps(here, here / "mine")
    edit(here / "mine", env_argument="evil:Env")
    assert COMMANDS["evaluate"]("mine", ["--trust"]) == 0
    assert (here / "canary").exists()


def test_a_drawing_makes_no_environment(here: Path) -> None:
    lay_traps(here, here / "id")
    edit(here / "id", env_argument="evil:Env")
    assert draw.main(["id", "-o", "agent.svg"]) == 0
    assert not (here / "canary").exists()


def test_an_id_is_not_looked_up_in_the_working_folder(here: Path, capsys: Any, monkeypatch: Any) -> None:
    lay_traps(here, here / "id")
    edit(here / "id", env_argument="ALE/Nowhere-v5")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ale_py"]:
        monkeypatch.delitem(sys.modules, name)
    assert "ALE/Nowhere-v5" in refused(capsys, lambda: COMMANDS["evaluate"]("id", []))
    assert not (here / "canary").exists()


def test_python_itself_has_no_environment_even_with_trust(here: Path, capsys: Any) -> None:
    edit(here / "id", env_argument="subprocess:getoutput", env_kwargs={"cmd": TOUCH})
    error = refused(capsys, lambda: COMMANDS["evaluate"]("id", ["--trust"]))
    assert "module 'subprocess' is Python's own" in error and not (here / "canary").exists()


# A user's own runs


@pytest.mark.parametrize("command", COMMANDS)
def test_this_users_run_needs_no_flag_and_anothers_does(
    here: Path, capsys: Any, tmp_path: Path, monkeypatch: Any, command: str
) -> None:
    assert read_config("mine")["env_stamp"] and not read_config("id")["env_stamp"]
    home = os.environ["XDG_DATA_HOME"]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))
    assert "--trust" in refused(capsys, lambda: COMMANDS[command]("mine", []))
    assert stamp.sign("of another", b"") is not None  # that user has a key as well
    assert "--trust" in refused(capsys, lambda: COMMANDS[command]("mine", []))
    assert COMMANDS[command]("id", []) == 0
    assert COMMANDS[command]("mine", ["--trust", *(["-n", "192"] if command == "resume" else [])]) == 0
    monkeypatch.setenv("XDG_DATA_HOME", home)
    assert COMMANDS[command]("mine", ["-n", "256"] if command == "resume" else []) == 0
    assert "note" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "entries",
    [
        {"env_kwargs": {"length": 8}},
        {"env_kwargs": {}},
        {"env_argument": "{place}/line.py:Wide"},
        {"env_file": None},
        {"env_file": {"path": "{place}/line.py", "sha256": "0" * 64}},
        {"env_stamp": None},
    ],
    ids=str,
)
def test_an_edited_entry_makes_the_signature_invalid(
    here: Path, place: Path, capsys: Any, entries: dict[str, Any]
) -> None:
    edit(here / "mine", **json.loads(json.dumps(entries).replace("{place}", str(place))))
    error = refused(capsys, lambda: COMMANDS["evaluate"]("mine", []))
    assert f"run file '{place}/line.py' and call" in error and "--trust" in error


def test_what_names_no_code_makes_no_key(here: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "fresh"))
    assert train.main(["--env", "CartPole-v1", "--run-dir", "new", *SHORT]) == 0
    assert not (here / "fresh").exists()


def test_training_goes_on_where_nothing_can_be_signed(here: Path, place: Path, capsys: Any, monkeypatch: Any) -> None:
    (here / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "file"))
    assert train.main(["--env", f"{place}/line.py:Line", "--run-dir", "new", *SHORT]) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert "cannot be signed" in said and str(here / "file") in said and "--trust" in said
    assert read_config("new")["env_stamp"] is None
    assert "--trust" in refused(capsys, lambda: COMMANDS["evaluate"]("new", []))


def test_a_module_of_a_run_is_not_taken_from_another_folder(here: Path, capsys: Any, monkeypatch: Any) -> None:
    """A signed run may name a module of its own folder; one of that name elsewhere is somebody else's."""
    (here / "a").mkdir()
    (here / "b").mkdir()
    (here / "a" / "trust_line.py").write_text(LINE)
    (here / "b" / "trust_line.py").write_text(PYTHON + LINE)
    monkeypatch.chdir(here / "a")
    assert train.main(["--env", "trust_line:Line", "--run-dir", "run", *SHORT]) == 0
    assert COMMANDS["evaluate"]("run", []) == 0
    del sys.modules["trust_line"]
    sys.path.remove(str(here / "a"))
    monkeypatch.chdir(here / "b")
    assert "lies in the working folder" in refused(capsys, lambda: COMMANDS["evaluate"]("../a/run", []))
    assert not (here / "b" / "canary").exists()
    assert COMMANDS["evaluate"]("../a/run", ["--trust"]) == 0
    assert (here / "b" / "canary").exists()


# Another environment than the run names


def moved(here: Path, capsys: Any) -> str:
    """A run of this user's whose file is gone."""
    (here / "gone.py").write_text(LINE)
    assert train.main(["--env", "gone.py:Line", "--env-kwargs", "length=3", "--run-dir", "gone run", *SHORT]) == 0
    (here / "gone.py").rename(here / "there.py")
    capsys.readouterr()
    return "gone run"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_has_moved_is_named_anew(here: Path, capsys: Any, command: str) -> None:
    run, call = moved(here, capsys), COMMANDS[command]
    error = refused(capsys, lambda: call(run, []))
    assert "which is not there" in error and "--env 'gone run/environment/gone.py:Line' is the copy" in error
    assert "read what it does" not in error
    assert (here / run / "environment" / "gone.py").read_text() == LINE
    assert read_config(run)["env_file"]["path"] == str(here / "gone.py")
    assert call(run, ["--env", "there.py:Line"]) == 0
    out, err = capsys.readouterr()
    if command == "evaluate":
        assert out.startswith("return -3")  # the arguments are the run's, which this user signed
        assert call(run, ["--env", "there.py:Line", "--env-kwargs", "length=4"]) == 0
        assert call(run, ["--env", "there.py:Line", "--env-kwargs", "{}"]) == 0
        assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["-4", "-5"]
    if command == "resume":
        (note,) = err.splitlines()
        assert note.startswith(
            f"note: the environment is '{here}/there.py:Line' with {{'length': 3}}; the run began on"
        )
        assert f"'{here}/gone.py:Line' with {{'length': 3}}" in note
        assert read_config(run)["env_argument"] == f"{here}/gone.py:Line"  # the record of how it began
        assert call(run, ["-n", "192", "--env", f"{run}/environment/gone.py:Line"]) == 0
    error = refused(capsys, lambda: call(run, ["-n", "512"] * (command == "resume") + ["--env", "there.py:Wide"]))
    assert "Box(-5.0, 5.0" in error and "trained with Box(-1.0, 1.0" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_with_env_nothing_of_the_folder_is_run_and_no_trust_is_needed(
    here: Path, place: Path, capsys: Any, command: str
) -> None:
    lay_traps(here, here / "mine")
    edit(here / "mine", env_argument="evil:Env", env_kwargs={"length": 2})
    mine = ["--env", f"{place}/line.py:Line"]
    error = refused(capsys, lambda: COMMANDS[command]("mine", mine))  # code of the user's, arguments of the folder's
    assert "{'length': 2}" in error and "--env-kwargs" in error
    assert COMMANDS[command]("mine", [*mine, "--env-kwargs", "length=4"]) == 0
    edit(here / "mine", env_kwargs={})
    assert COMMANDS[command]("mine", [*mine, *(["-n", "192"] if command == "resume" else [])]) == 0
    assert not (here / "canary").exists()


def test_a_copy_of_anothers_run_is_offered_with_a_warning(here: Path, capsys: Any, monkeypatch: Any) -> None:
    run = moved(here, capsys)
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "other"))
    error = refused(capsys, lambda: COMMANDS["evaluate"](run, []))
    assert "environment/gone.py:Line' is the copy that the run keeps, after you have read what it does" in error


def test_a_file_that_has_changed_is_used_and_said(here: Path, capsys: Any) -> None:
    (here / "own.py").write_text(LINE)
    assert train.main(["--env", "own.py:Line", "--run-dir", "own", *SHORT]) == 0
    (here / "own.py").write_text(LINE.replace("-1.0, False", "-2.0, False"))
    capsys.readouterr()
    assert COMMANDS["evaluate"]("own", []) == 0
    out, err = capsys.readouterr()
    assert out.startswith("return -10 ")
    assert (
        err == f"note: '{here}/own.py' has changed since run own began; as it was it lies at own/environment/own.py\n"
    )
    assert COMMANDS["evaluate"]("own", ["--env", "own/environment/own.py:Line"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("return -5 ") and err == ""


def test_a_run_on_a_python_object_takes_an_environment_by_name(here: Path, place: Path, capsys: Any) -> None:
    edit(here / "mine", env_argument=None, env_kwargs={}, env_file=None, env_stamp=None)
    assert "name it with --env" in refused(capsys, lambda: COMMANDS["probe"]("mine", []))
    assert COMMANDS["probe"]("mine", ["--env", f"{place}/line.py:Line"]) == 0


def test_a_config_decides_no_device_with_nonsense(monkeypatch: Any, here: Path, capsys: Any) -> None:
    edit(here / "id", config={"hidden": "abc"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "hidden" in refused(capsys, lambda: COMMANDS["evaluate"]("id", []))

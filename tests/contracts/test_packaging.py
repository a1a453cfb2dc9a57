"""Wheel and sdist hold what they must under one name, and an installed one runs anywhere, beside anything."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costgrad.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("rl", "agents", "envs", "scripts")  # each is a room of costgrad; `costgrad` itself is scripts/package
BATTERY = """
import agents
import gymnasium
import numpy as np
import rl
import scripts

assert (agents.WHO, rl.WHO, scripts.WHO) == ("mine", "mine", "mine"), agents.__file__


class Battery(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 5
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.array([self.left / 5], np.float32), float(action), self.left == 0, False, {}
"""
QUICK = ("--no-capture-video", "--no-progress", "--eval-episodes", "1")


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    full = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run([str(part) for part in command], cwd=cwd, env=full, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: Any) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    pytest.importorskip("build")
    out, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source") / "costgrad"
    # From a copy: building writes into the folder, and other tests may run at the same time.
    for name in tracked():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")


@pytest.fixture(scope="module")
def rival(tmp_path_factory: Any) -> Path:
    """The wheel of another distribution, which owns a top-level package `agents`, as some do."""
    wheel = tmp_path_factory.mktemp("rival") / "rival-1.0-py3-none-any.whl"
    files = {
        "agents/__init__.py": "WHO = 'rival'\n",
        "agents/ppo.py": "WHO = 'rival'\n",
        "rival-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n",
        "rival-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, "rival-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in (files | {"rival-1.0.dist-info/RECORD": record}).items():
            archive.writestr(name, text)
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: Any) -> Callable[..., Path]:
    """Makes an empty venv with some wheels, installed one after the other, which sees the packages of this one."""

    def make(*wheels: Path) -> Path:
        folder = tmp_path_factory.mktemp("venv")
        venv.create(folder, with_pip=False)
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "lib" / name / "site-packages"
        for wheel in wheels:
            done = run(
                *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--ignore-installed"),
                *("--disable-pip-version-check", "--no-compile", "--prefix", folder, wheel),
                cwd=folder,
            )
            assert done.returncode == 0, done.stderr
        # Not a .pth file: those of this venv would be followed, an editable install of ours among them.
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if "costgrad" not in path.name and path.suffix != ".pth" and not (site / path.name).exists():
                (site / path.name).symlink_to(path)
        script = folder / "bin" / "costgrad"
        script.write_text(script.read_text().replace(script.read_text().splitlines()[0], f"#!{folder}/bin/python"))
        return folder / "bin"

    return make


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], rival: Path, environment: Callable[..., Path]) -> Path:
    """The bin folder of a venv with our wheel and then the rival's."""
    return environment(built[1], rival)


@pytest.fixture(scope="module")
def trap(tmp_path_factory: Any) -> Path:
    """A working folder of files that are named like ours, and of packages that are named like our rooms."""
    folder = tmp_path_factory.mktemp("trap")
    for name in ("train.py", "cli.py", "flags.py", "costgrad.py"):
        (folder / name).write_text(f"raise SystemExit('the wrong {name}')\n")
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("WHO = 'mine'\n")
    (folder / "envs" / "battery.py").write_text(BATTERY)
    (folder / "mine.py").write_text("from envs.battery import Battery\nimport agents\n\nassert agents.WHO == 'mine'\n")
    return folder


# What the archives hold.


def test_the_wheel_holds_one_name_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
        (top,) = (archive.read(name).decode().split() for name in names if name.endswith("top_level.txt"))
    inside = {name for name in names if ".dist-info" not in name}
    assert {name.split("/")[0] for name in inside} == {"costgrad"} == set(top)
    code = {name for name in tracked() if name.endswith(".py") and name.split("/")[0] in FOLDERS}
    wanted = {f"costgrad/{name}" for name in code if not name.startswith("scripts/package/")}
    wanted |= {f"costgrad/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
    assert inside == wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_builds_and_tests_it(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"LICENSE", "README.md", "constraints.txt", "Makefile", "pyproject.toml", ".ci/run"} <= names
    assert {"tests/contracts/test_packaging.py", "tests/fakes.py", "scripts/train.py", "rl/runs/train.py"} <= names
    assert {"scripts/package/__init__.py", "scripts/package/__main__.py", "scripts/package/py.typed"} <= names


def test_every_package_folder_is_listed() -> None:
    folders = {path.parent for room in FOLDERS for path in (ROOT / room).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    names = {f"costgrad.{'.'.join(folder.relative_to(ROOT).parts)}" for folder in folders}
    assert names - {"costgrad.scripts.package"} | {"costgrad"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_constraints_are_exact_and_cover_what_we_need() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name as canonical

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonical(Requirement(line).name): Requirement(line) for line in lines}
    assert all(line.count("==") == 1 and "+" not in line and "://" not in line for line in lines)
    extras = PROJECT["project"]["optional-dependencies"]
    for text in [*PROJECT["project"]["dependencies"], *extras["dev"], *extras["video"], *extras["classic-control"]]:
        wanted = Requirement(text)
        pin = pinned[canonical(wanted.name)]
        assert wanted.specifier.contains(str(pin.specifier).removeprefix("==")), f"{pin} is outside {wanted}"


# The commands.


def test_every_script_that_is_shown_is_a_command() -> None:
    """Those of README and Makefile, and whatever else can be run as a file."""
    text = (ROOT / "README.md").read_text() + (ROOT / "Makefile").read_text()
    shown = set(re.findall(r"(?:python|\$\(BIN\)/python) scripts/([\w/]+)\.py", text))
    runs = {path for folder in ("scripts", "scripts/examples") for path in (ROOT / folder).glob("*.py")}
    runs = {path for path in runs if '__name__ == "__main__"' in path.read_text()}
    shown |= {str(path.relative_to(ROOT / "scripts").with_suffix("")) for path in runs}
    assert {name.replace("/", ".") for name in shown} <= set(COMMANDS.values())
    typed = set(re.findall(r"`costgrad ([a-z][\w-]*)|^costgrad ([a-z][\w-]*)", text, re.M))
    assert {one or other for one, other in typed} <= set(COMMANDS)


def test_every_command_has_its_help(installed: Path, tmp_path: Path) -> None:
    """In one process, for each would import torch again."""
    code = (
        "import contextlib, io, json\nfrom costgrad.__main__ import COMMANDS, main\nsaid = {}\n"
        "for name in COMMANDS:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "        main([name, '--help'])\n"
        "    said[name] = out.getvalue()\n"
        "print(json.dumps(said))\n"
    )
    done = run(installed / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.keys() == COMMANDS.keys()
    for name, text in said.items():
        assert text.startswith(f"usage: costgrad {name} "), text[:200]
        assert "--help" in text


def test_wrong_commands_are_one_line(installed: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ([], "no command given"),
        (["trian"], "unknown command 'trian' (did you mean train?)"),
        (["check_envs"], "(did you mean check-env?)"),
        (["train", "--nope"], "unknown flag --nope"),
    ):
        done = run(installed / "costgrad", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("error: ") and said in done.stderr
    done = run(installed / "costgrad", "--help", cwd=tmp_path)
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)


def test_the_version_is_the_project_s(installed: Path, tmp_path: Path) -> None:
    version = PROJECT["project"]["version"]
    for flag in ("--version", "-V"):
        assert run(installed / "costgrad", flag, cwd=tmp_path).stdout == f"costgrad {version}\n"
    done = run(installed / "python", "-c", "import costgrad; print(costgrad.__version__)", cwd=tmp_path)
    assert done.stdout == f"{version}\n", done.stderr


# Importing it.

HEAVY = ("torch", "numpy", "gymnasium", "tyro", "rich", "matplotlib", "costgrad.rl", "costgrad.agents", "costgrad.envs")


def test_importing_costgrad_and_its_help_import_nothing_heavy() -> None:
    """Each name is imported when it is asked for; `costgrad --help` need not wait for torch."""
    code = (
        "import sys, costgrad, costgrad.__main__ as main\n"
        "dir(costgrad), costgrad.__all__\n"
        "try: costgrad.evalute\n"
        "except AttributeError as error: said = str(error)\n"
        "assert main.main(['--help']) == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
        "print(said)\n"
        "costgrad.train\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[-3:] == [
        "[]",
        "module 'costgrad' has no attribute 'evalute': did you mean evaluate?",
        "True",
    ], done.stdout + done.stderr


def test_what_costgrad_offers() -> None:
    import costgrad
    import costgrad.agents
    from costgrad.rl.evaluate import evaluate
    from costgrad.rl.runs.train import train

    assert [name for name in costgrad.__all__ if getattr(costgrad, name, None) is None] == []
    assert set(costgrad.__all__) <= set(dir(costgrad)) and {"rl", "agents", "envs"} <= set(dir(costgrad))
    assert sorted(costgrad.__all__) == sorted(set(costgrad.__all__))
    assert set(costgrad.agents.__all__) <= set(costgrad.__all__)
    assert costgrad.train is train and costgrad.evaluate is evaluate
    for name, said in (("ppo", "did you mean PPO?"), ("recordvideo", "mean record_video?"), ("q", "it has A2C, ")):
        with pytest.raises(AttributeError, match=re.escape(said)):
            getattr(costgrad, name)


# Running it among traps: a working folder whose packages are named like our rooms, and beside a rival's `agents`.


def test_the_installed_command_trains_on_a_users_package_of_that_name(installed: Path, trap: Path) -> None:
    command, train = installed / "costgrad", ("-n", "60", *QUICK)
    done = run(command, "train", "--env", "envs.battery:Battery", *train, "--run-dir", "out", cwd=trap)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "costgrad evaluate out" in done.stdout and (trap / "out" / "checkpoints" / "last").is_dir()
    done = run(command, "evaluate", "out", "--episodes", "2", cwd=trap)
    assert done.returncode == 0 and done.stdout.startswith("return "), done.stdout + done.stderr


def test_both_work_in_the_other_order_too(
    built: tuple[Path, Path], rival: Path, installed: Path, environment: Callable[..., Path], trap: Path, tmp_path: Path
) -> None:
    other = environment(rival, built[1])
    done = run(other / "costgrad", "check-env", "mine.py:Battery", "--steps", "20", cwd=trap)
    assert done.returncode == 0, done.stdout + done.stderr  # the file's own imports are the user's as well
    code = "import agents, agents.ppo, costgrad.agents; print(agents.WHO, agents.ppo.WHO, costgrad.agents.__name__)"
    for folder in (installed, other):
        done = run(folder / "python", "-c", code, cwd=tmp_path)
        assert done.stdout == "rival rival costgrad.agents\n", done.stderr


def test_experiments_of_the_installed_package_run_in_processes_of_their_own(installed: Path, trap: Path) -> None:
    """Which find costgrad, although costgrad.py lies where they work."""
    flags = ("--name", "t", "--seeds", "0", "--evaluations", "1", "--episodes", "1", "--jobs", "1")
    done = run(installed / "costgrad", "experiment", "--envs", "envs.battery:Battery:60", *flags, cwd=trap)
    assert done.returncode == 0 and "[1/1] a2c envs.battery:Battery:60 seed 0: return" in done.stdout, done.stderr
    (row,) = csv.DictReader((trap / "results" / "t.csv").read_text().splitlines())
    assert (row["env"], row["total_timesteps"], row["commit"]) == ("envs.battery:Battery", "60", "")
    assert float(row["final_return"]) >= 0


def test_the_installed_module_runs_among_traps(installed: Path, trap: Path, tmp_path: Path) -> None:
    words = ("-m", "costgrad", "check-env", "CartPole-v1", "--steps", "50")
    done = run(installed / "python", "-P", *words, cwd=trap)  # without -P Python itself would take costgrad.py
    assert done.returncode == 0 and "costgrad train --env CartPole-v1" in done.stdout, done.stdout + done.stderr


def test_a_script_of_the_checkout_runs_among_traps(trap: Path) -> None:
    """As a file, from any folder; and it says how it is called again."""
    words = (ROOT / "scripts" / "check_env.py", "envs.battery:Battery", "--steps", "50")
    environment = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    done = run(sys.executable, *words, cwd=trap, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scripts/train.py --env envs.battery:Battery" in done.stdout

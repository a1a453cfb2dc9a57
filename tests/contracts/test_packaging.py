"""Wheel and sdist hold what they must, and an installed one runs from anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    full = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run([str(part) for part in command], cwd=cwd, env=full, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: Any) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    pytest.importorskip("build")
    out, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source") / "costgrad"
    # From a copy: building writes into the folder, and other tests may run at the same time.
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: Any) -> Path:
    """The bin folder of an empty venv with our wheel, which sees the packages of this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / name / "site-packages"
    done = run(
        *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check"),
        *("--prefix", folder, built[1]),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    # Not a .pth file: those of this venv would be followed, an editable install of ours among them.
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "costgrad" not in path.name and path.suffix != ".pth" and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    script = folder / "bin" / "costgrad"
    assert script.is_file()
    script.write_text(script.read_text().replace(script.read_text().splitlines()[0], f"#!{folder}/bin/python"))
    return folder / "bin"


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A working folder full of files that are named like ours."""
    for name in ("rl.py", "envs.py", "scripts.py", "train.py", "cli.py", "costgrad.py"):
        (tmp_path / name).write_text(f"raise SystemExit('the wrong {name}')\n")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("raise SystemExit('the wrong agents')\n")
    return tmp_path


def test_the_wheel_holds_the_code_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[1]).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"rl", "agents", "envs", "costgrad"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wanted = {name for name in tracked if name.endswith(".py") and name.split("/")[0] in ("rl", "agents", "envs")}
    wanted |= {f"costgrad/{name.removeprefix('scripts/')}" for name in tracked if name.startswith("scripts/")}
    assert {name for name in names if ".dist-info" not in name} == {w for w in wanted if w.endswith(".py")}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_builds_and_tests_it(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"LICENSE", "README.md", "constraints.txt", "Makefile", "pyproject.toml", ".ci/run"} <= names
    assert {"tests/test_packaging.py", "tests/fakes.py", "scripts/train.py", "rl/runs/train.py"} <= names


def test_the_installed_command_runs_among_traps(installed: Path, trap: Path) -> None:
    command = installed / "costgrad"
    flags = ["--total-timesteps", "600", "--run-dir", "out", "--no-capture-video", "--eval-episodes", "2"]
    done = run(command, "train", *flags, cwd=trap)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "costgrad evaluate out" in done.stdout and (trap / "out" / "checkpoints" / "last").is_dir()
    done = run(command, "evaluate", "out", "--episodes", "2", cwd=trap)
    assert done.returncode == 0 and done.stdout.startswith("return "), done.stdout + done.stderr


def test_the_installed_module_runs_among_traps(installed: Path, trap: Path) -> None:
    (trap / "costgrad.py").unlink()  # nothing can help against this one: Python itself would take it
    done = run(installed / "python", "-m", "costgrad", "check-env", "CartPole-v1", "--steps", "50", cwd=trap)
    assert done.returncode == 0 and "costgrad train --env CartPole-v1" in done.stdout, done.stdout + done.stderr


def test_a_script_of_the_checkout_runs_among_traps(trap: Path) -> None:
    done = run(sys.executable, ROOT / "scripts" / "check_env.py", "CartPole-v1", "--steps", "50", cwd=trap)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_commands_are_one_line(installed: Path, tmp_path: Path) -> None:
    for arguments in ([], ["fly"], ["train", "--nope"]):
        done = run(installed / "costgrad", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("error: ")
    done = run(installed / "costgrad", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "train" in done.stdout


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


def test_every_package_folder_is_listed() -> None:
    rooms = {path.parent for path in ROOT.glob("*/__init__.py")} - {ROOT / "tests"}
    folders = {path.parent for room in rooms for path in room.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {re.sub(r"^scripts", "costgrad", name) for name in names} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_an_example_of_the_installed_package_says_how_it_is_called(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "python", "-m", "costgrad.examples.digits", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "usage: python -m costgrad.examples.digits" in done.stdout, done.stderr

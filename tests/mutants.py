"""Sabotages the code, one line at a time, and sees that the tests notice: `python -m tests.mutants`.

The sabotages stand beside the tests that notice them, in a `mutants.py` of each folder. Every one replaces one piece of
text, which must stand in its file exactly once, in a copy of the tree, and the tests named beside it run there. Exit
code 1 if a mutant survives, if its text is no longer found, or if the tests fail already without any.
`python -m tests.mutants WORD` runs those whose name holds WORD. The tree itself is not touched.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1"}  # before torch is loaded

import gymnasium.vector  # noqa: F401
import pytest
import torch  # noqa: F401

sys.dont_write_bytecode = True  # or a copy's stale code could be taken for its mutant's
ROOT = Path(__file__).resolve().parents[1]
COPIED = ("rl", "agents", "envs", "scripts", "tests", "pyproject.toml")
WORKERS = 2


class Mutant(NamedTuple):
    name: str
    path: str
    old: str
    new: str
    tests: str  # files of tests/ as folder/name, without test_ and .py, likeliest first


def all_mutants() -> list[Mutant]:
    """Those of every folder of tests."""
    found: list[Mutant] = []
    for path in sorted((ROOT / "tests").glob("*/**/mutants.py")):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        found += module.MUTANTS
    return found


def files_of(tests: str) -> list[str]:
    """The files that a mutant's `tests` names, from the root of the tree."""
    return [str(Path("tests", name).parent / f"test_{Path(name).name}.py") for name in tests.split()]


def lay_out(folder: Path) -> None:
    """Copies the tree into a folder, and puts the copy in the place of the installed package there."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    (folder / "costgrad").mkdir()
    for name in ("rl", "agents", "envs", "scripts"):
        (folder / "costgrad" / name).symlink_to(folder / name)
    for path in (folder / "scripts" / "package").iterdir():
        (folder / "costgrad" / path.name).symlink_to(path)


def run_tests(tests: str, mutant: Mutant | None = None) -> str:
    """Runs test files in a copy of the tree, sabotaged or not; to be called in a process of its own.

    Args:
        tests: names, separated by blanks.
        mutant: the sabotage.

    Returns:
        "passed", "failed" followed by pytest's last lines, or what is wrong with the mutant.
    """
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        if mutant:
            file = Path(folder, mutant.path)
            original = file.read_text()
            if (found := original.count(mutant.old)) != 1:
                return f"STALE: its text stands {found} times in {mutant.path}"
            file.write_text(original.replace(mutant.old, mutant.new))
        current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # a pool's may start no others
        os.chdir(folder)
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = folder  # for the commands that tests start
        for name in [name for name in sys.modules if name.split(".")[0] in ("costgrad", "tests")]:
            del sys.modules[name]
        files = files_of(tests)
        with redirect_stdout(StringIO()) as output:
            code = pytest.main(["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *files])
        os.chdir(ROOT)
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return "passed" if code == 0 else "failed\n" + output.getvalue()[-1500:]
    return f"BROKEN: pytest ended with {code}\n{output.getvalue()[-1500:]}"


def main() -> int:
    """Prints a line a mutant; 0 if every one was killed."""
    wanted = [mutant for mutant in all_mutants() if all(word in mutant.name for word in sys.argv[1:])]
    started, survived = time.monotonic(), 0
    # Each job is a fork of this process, which has the libraries loaded and none of our own code.
    with get_context("fork").Pool(WORKERS, maxtasksperchild=1) as pool:
        # Tests that fail anyway would kill every mutant.
        for result in pool.imap(run_tests, sorted({mutant.tests for mutant in wanted})):
            if result != "passed":
                print(f"The tests fail without any sabotage: {result}")
                return 1
        jobs = [pool.apply_async(run_tests, (mutant.tests, mutant)) for mutant in wanted]
        for mutant, job in zip(wanted, jobs, strict=True):
            result = job.get()
            killed = result.startswith("failed")
            survived += not killed
            word = "killed" if killed else "SURVIVED" if result == "passed" else result
            print(f"{word:<10} {mutant.name}  ({mutant.path})", flush=True)
    print(f"{len(wanted) - survived} of {len(wanted)} killed in {time.monotonic() - started:.0f} s")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())

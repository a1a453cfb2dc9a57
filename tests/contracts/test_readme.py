"""What the README shows is run, as its reader would: its files written, its commands typed.

What it and the pages in docs/ name is there: commands, flags, settings, imports, files, links.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from costgrad.__main__ import COMMANDS
from tests.contracts.pages import (
    PAGES,
    ROOT,
    all_flags,
    anchors,
    blocks,
    code_spans,
    commands,
    files,
    flags_for,
    imports,
    lines,
    read,
    settings,
)

README = read("README.md")
FILES = files(README)
every_page = pytest.mark.parametrize("page", PAGES)


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_shows_these_files() -> None:
    assert sorted(FILES) == ["errors.py", "first.py", "recipe.py", "thermostat.py", "use_c.py"]
    assert len(FILES["thermostat.py"].strip().splitlines()) <= 25


def mean_return(said: str) -> float:
    return float(re.findall(r"return (-?[\d.]+)", said)[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "better_than"),
    # A thermostat that heats as it should keeps within a degree or so; the recipe's lowest stair costs nothing.
    [("thermostat.py:Thermostat", -40.0), ("recipe.py:recipe", -0.5)],
)
def test_an_environment_and_a_cost_function_are_trained_on(folder: Path, name: str, better_than: float) -> None:
    (typed,) = [words for words in commands(README) if words[:3] == ["train", "--env", name]]
    costgrad = (sys.executable, "-m", "costgrad")
    said = run(*costgrad, *typed, "--run-dir", "run", "--no-capture-video", cwd=folder)
    assert (folder / "run" / "learning_curve.png").is_file()
    assert mean_return(run(*costgrad, "evaluate", "run", cwd=folder)) > better_than, said


def test_the_python_examples_run_one_after_the_other(folder: Path) -> None:
    text = (folder / "first.py").read_text()
    assert "20_000" in text
    (folder / "first.py").write_text(text.replace("20_000", "2_000"))  # what it learns is tested elsewhere
    assert "return" in run(sys.executable, "first.py", cwd=folder)
    assert "grad_fn" in run(sys.executable, "use_c.py", cwd=folder)
    assert list(folder.glob("first.mp4")) + list(folder.glob("first.gif"))
    shutil.rmtree(folder / "runs")


@pytest.mark.slow
def test_a_model_learns_from_errors_alone(folder: Path) -> None:
    said = run(sys.executable, "errors.py", cwd=folder)
    assert "19,200 evaluations, 0 failed" in said and float(said.split("errors:")[1]) < 0.1  # chance is 0.75


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) < 400
    first_screen = "\n".join(README.splitlines()[:25])
    assert "make train" in first_screen and "make test" in first_screen and "![" in first_screen


@every_page
def test_every_command_and_flag_is_there(page: str) -> None:
    text, wrong = read(page), list[str]()
    for words in commands(text):
        if words[0].startswith("-"):
            assert words[0] in ("--help", "--version")
            continue
        if words[0] not in COMMANDS:
            wrong.append(" ".join(words))
            continue
        known = flags_for(words)
        typed = {word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
        wrong += [f"{words[0]} {flag}" for flag in typed - known]
    assert wrong == []


@every_page
def test_every_flag_in_prose_is_one_of_some_command(page: str) -> None:
    spans = [span for span in code_spans(read(page)) if span.startswith("--")]
    typed = [line for block in blocks(read(page), "sh") for line in lines(block) if line.startswith("run ")]
    flags = {word for text in spans + typed for word in shlex.split(text) if re.match(r"--[a-z]", word)}
    assert flags - all_flags() == set()


@every_page
def test_every_setting_in_a_command_has_its_present_name(page: str) -> None:
    shell = "\n".join(blocks(read(page), "sh"))
    assert set(re.findall(r'(?<=[{ ,\'])\\?"(\w+)\\?": ?', shell)) - settings() == set()


@every_page
def test_every_name_that_is_imported_is_there(page: str) -> None:
    text = read(page)
    shown = [*blocks(text, "python"), *(span for span in code_spans(text) if span.startswith("from costgrad"))]
    wanted = {pair for code in shown for pair in imports(code)}
    assert [pair for pair in wanted if not hasattr(importlib.import_module(pair[0]), pair[1])] == []


@every_page
def test_every_link_leads_somewhere(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\((?!http)([^)\s]+)\)", read(page)):
        name, _, anchor = link.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(link)
    assert broken == []


def test_there_are_links_and_pictures() -> None:
    assert README.count("](docs/") > 10 and README.count("![") > 4


@every_page
def test_every_path_is_there(page: str) -> None:
    named = r"(?<![\w/.-])((?:rl|agents|envs|scripts|tests|docs|results)/[\w/.-]*\w)(?![\w*{])"
    text = re.sub(r"\]\([^)]*\)", "", read(page))  # links are relative to their page
    assert [path for path in re.findall(named, text) if not (ROOT / path).exists()] == []


@every_page
def test_every_target_of_make_is_there(page: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.M))
    typed = [line for block in blocks(read(page), "sh") for line in block.splitlines()] + code_spans(read(page))
    wanted = {match[1] for line in typed if (match := re.match(r"make ([\w-]+)", line))}
    assert wanted - targets == set()


def test_no_page_types_a_script_by_its_path() -> None:
    """But for the sentence that says that it works."""
    typed = [span for page in PAGES for span in code_spans(read(page)) if span.startswith("python scripts/")]
    typed += [line for page in PAGES for line in blocks(read(page), "sh") if "python scripts/" in line]
    assert typed == ["python scripts/train.py"]


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    page = '```sh\ncostgrad train --env X \\\n    --nope 1  # --comment\nrun a --x \'{"fold": 1,\n  "l2": 2}\'\n```\n'
    assert commands(page + "`costgrad fly --high`") == [["train", "--env", "X", "--nope", "1"], ["fly", "--high"]]
    assert "--nope" not in flags_for(["train", "--env", "X"]) and "--env" in flags_for(["train"])
    assert "--tau" in flags_for(["train", "--agent", "sac"]) and "--tau" not in flags_for(["train"])
    assert list(lines("a 'b\nc'\nd")) == ["a 'b c'", "d"]
    assert list(imports("from costgrad import A, B\nfrom costgrad.rl.x import C")) == [
        ("costgrad", "A"),
        ("costgrad", "B"),
        ("costgrad.rl.x", "C"),
    ]
    assert anchors("# A `b`, c\n```sh\n# no\n```\n## [D](e) f\n") == {"a-b-c", "d-f"}

"""The house rules that a machine can check: import order, and where the device is waited for and gradients written."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("envs", "rl", "agents", "scripts")
# What each room may import of the others.
MAY = {"envs": {"envs"}, "rl": {"rl"}, "agents": {"agents", "rl"}, "scripts": set(ROOMS)}
SHARED = {"presets", "configs", "common"}  # modules of agents/ that are no agent
# The floors of rl, lowest first: a file imports from its own floor and from those below.
FLOORS = (
    ("data", "errors", "returns", "optim", "checks", "files"),
    ("seeds", "settings", "extremes", "norm", "observations", "factories", "packing"),
    ("spaces",),
    ("checkpoint", "loop", "buffers"),
    ("networks", "ledger", "agent_files"),
    ("gradients", "black_box", "evolution", "drawing", "evaluate"),
    ("diagnostics",),
    ("runs",),
)
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(source: str) -> Iterator[str]:
    """Full names of what is imported, at any depth; relative imports keep their dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def calls(source: str, *methods: str) -> list[int]:
    """Lines on which a method of one of these names is called."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods
    ]


def grad_writes(source: str) -> list[int]:
    """Lines that assign to `.grad`, or make autograd do so."""
    lines = calls(source, "backward", "zero_grad")
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        lines += [t.lineno for t in targets if isinstance(t, ast.Attribute) and t.attr == "grad"]
    return lines


def import_faults(room: str, name: str, source: str) -> list[str]:
    """What a file of a room imports and may not."""
    faults = []
    for full in imports(source):
        top, _, rest = full.partition(".")
        if not top:
            faults.append(f"{full} is relative: a script that is run as a file has no package")
        if top in (*ROOMS, "tests"):  # somebody else's package may have that name
            faults.append(f"{full} must be imported as costgrad.{full}")
        if room == "envs" and top == "torch":
            faults.append(f"envs must not import {full}")
        if top != "costgrad":
            continue
        other, _, inner = rest.partition(".")
        if other not in MAY[room] and room != "scripts":
            faults.append(f"{room} must not import {full}")
        sibling = inner.split(".")[0]
        if room == "agents" == other and name != "__init__" and sibling not in SHARED | {"", name}:
            faults.append(f"agent {name} must not import agent {sibling}")
    return faults


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules(path: Path) -> None:
    room, source, place = path.relative_to(ROOT).parts[0], path.read_text(), str(path.relative_to(ROOT))
    assert import_faults(room, path.stem, source) == []
    if room in ("rl", "agents"):
        assert place == "rl/runs/log.py" or calls(source, "item") == []
        assert place == "rl/optim.py" or grad_writes(source) == []


def floor(place: str) -> int:
    """Of `wing/module.py` or `module.py` in rl, from the ground up."""
    (found,) = [i for i, names in enumerate(FLOORS) if place.split("/")[0].removesuffix(".py") in names]
    return found


def test_no_room_of_rl_imports_from_a_floor_above() -> None:
    faults = []
    for path in (ROOT / "rl").rglob("*.py"):
        place = str(path.relative_to(ROOT / "rl"))
        if place == "__init__.py":
            continue
        for full in imports(path.read_text()):
            parts = full.split(".")
            if parts[:2] == ["costgrad", "rl"] and len(parts) > 2 and floor(parts[2]) > floor(place):
                faults.append(f"rl/{place} imports {full}")
    assert not faults


def test_the_rooms_are_there() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ROOMS)
    # Without it a folder is a namespace, which any other `rl` further down the path would replace.
    assert [room for room in ROOMS if not (ROOT / room / "__init__.py").is_file()] == []


def test_an_init_only_hands_names_on() -> None:
    for path in FILES:
        if path.name == "__init__.py":
            defined = [
                n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.ClassDef)
            ]
            assert {n.name for n in defined} <= {"__getattr__", "__dir__"}, path  # that of `costgrad` hands on late


@pytest.mark.parametrize(
    "room, name, source",
    [
        ("rl", "x", "import agents"),
        ("rl", "x", "import rl.data"),
        ("rl", "x", "from .data import Step"),
        ("rl", "x", "from costgrad import make"),
        ("rl", "x", "def f():\n    from costgrad.envs.make import make"),
        ("rl", "x", "import costgrad.scripts.cli"),
        ("envs", "x", "import torch.nn"),
        ("envs", "x", "from costgrad.rl import data"),
        ("agents", "ppo", "from costgrad.agents.a2c import A2C"),
        ("agents", "ppo", "from costgrad.agents import a2c"),
        ("agents", "ppo", "from costgrad.envs.make import make"),
    ],
)
def test_the_rules_can_be_broken(room: str, name: str, source: str) -> None:
    assert import_faults(room, name, source)


def test_calls_and_writes_are_found() -> None:
    assert calls("x = loss.item()\ny = item()", "item") == [1]
    assert grad_writes("loss.backward()\np.grad = None\nq.grad += 1\nx = p.grad") == [1, 2, 3]

"""The pages in docs/: their tables are those of the code, and the code that they show runs."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from costgrad import evaluate, make, train
from costgrad.rl.settings import RENAMED
from tests.contracts.pages import all_flags, files, read, settings

OWN_AGENT = files(read("docs/own_agent.md"))
NETWORKS = files(read("docs/networks.md"))
PROJECT = tomllib.loads(read("pyproject.toml"))["project"]


def rows(text: str, *head: str) -> list[list[str]]:
    """The cells of every table with these columns."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if tuple(cells) == head:
            inside = True
        elif not cells:
            inside = False
        elif inside and not re.fullmatch(r":?-+:?", cells[0]):
            found.append(cells)
    return found


# Glossary


def test_the_old_names_of_settings_are_those_of_the_code() -> None:
    told = [(old.strip("`"), new.strip("`")) for old, new in rows(read("docs/glossary.md"), "old name", "new name")]
    assert dict(told) == RENAMED and len(told) == len(RENAMED)


def test_the_settings_of_the_glossary_are_there() -> None:
    terms = rows(read("docs/glossary.md"), "term", "meaning here", "settings", "code")
    named = [name for row in terms for name in re.findall(r"`([^`]+)`", row[2])]
    assert len(terms) > 40 and len(named) > 40
    assert [name for name in named if name.startswith("--") and name not in all_flags()] == []
    assert {name for name in named if not name.startswith("--")} - settings() == set()


TERMS = [
    "C",
    "discount",
    "terminated, truncated",
    "advantage",
    "rollout",
    "replay buffer",
    "n-step returns",
    "target network",
    "Polyak averaging",
    "PopArt",
    "clipped double Q",
    "target policy smoothing",
    "target entropy",
    "temperature",
    "HL-Gauss",
    "control variate",
    "estimand",
    "fingerprint",
]


@pytest.mark.parametrize("term", TERMS)
def test_the_glossary_has(term: str) -> None:
    assert f"**{term}**" in read("docs/glossary.md")


# Your own agent


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module my_agent.py, as the page shows it."""
    for name, text in OWN_AGENT.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_agent", raising=False)
    module = importlib.import_module("my_agent")
    monkeypatch.delitem(sys.modules, "my_agent")
    return module


def made(own: ModuleType, env: Any, **config: Any) -> Any:
    return own.MyAgent(env.single_observation_space, env.single_action_space, own.MyConfig(**config), seed=1)


def test_the_own_agent_is_short_and_keeps_the_protocol(own: ModuleType) -> None:
    from costgrad.rl.loop import Agent

    wanted = [name for name in dir(Agent) if not name.startswith("_") and callable(getattr(Agent, name))]
    assert {"on_reset", "act", "observe", "update", "predict", "state", "load_state"} <= set(wanted)
    assert [name for name in wanted if not callable(getattr(own.MyAgent, name, None))] == []
    assert dataclasses.is_dataclass(own.MyConfig) and own.MyConfig()
    code = OWN_AGENT["my_agent.py"]
    assert len(code[code.index("class MyAgent") :].strip().splitlines()) < 60


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_the_own_agent_trains_and_is_evaluated(own: ModuleType, name: str, tmp_path: Path) -> None:
    with closing(make(name, num_envs=2, seed=0)) as env:
        agent = made(own, env, population=4, elite=2)
        result = train(agent, env, 850, tmp_path / "run", progress=False, eval_episodes=2)
        assert (agent.mean != 0).all() and result.evaluation is not None
        assert evaluate(agent, env, episodes=2, seed=0).returns == result.evaluation.returns


def test_the_own_agent_learns(own: ModuleType) -> None:
    """On CartPole a policy of all zeros falls after 9 or 10 steps, random ones of this kind after 45 on average."""
    with closing(make("CartPole-v1", num_envs=8, seed=0)) as env:
        agent = made(own, env)
        train(agent, env, 12_000, progress=False)
        assert evaluate(agent, env, episodes=10).mean > 100


def test_the_own_agent_goes_on_where_it_stood(own: ModuleType, tmp_path: Path) -> None:
    with closing(make("CartPole-v1", num_envs=2, seed=0)) as env:
        first = made(own, env, population=4, elite=2)
        train(first, env, 300, tmp_path / "run", progress=False, eval_episodes=1)
        again = made(own, env, population=4, elite=2)
        train(again, env, 301, tmp_path / "run", progress=False, eval_episodes=1, resume=True)
        np.testing.assert_array_equal(again.mean, first.mean)
        other = made(own, env)
        other.load_state(*first.state())
        np.testing.assert_array_equal(other._draw(), first._draw())


def test_the_own_agent_counts_no_reset_row(own: ModuleType) -> None:
    from costgrad.rl.data import Step

    with closing(make("CartPole-v1", num_envs=2, seed=0)) as env:
        agent = made(own, env)
        obs = np.ones((2, 4), np.float32)
        no, valid = np.zeros(2, bool), np.array([True, False])
        agent.observe(Step(obs, agent.act(obs), np.array([1.0, 1.0]), obs, no, no, valid, {}))
        np.testing.assert_array_equal(agent.cost, [-1.0, 0.0])


def test_the_script_that_trains_it_runs(own: ModuleType, tmp_path: Path) -> None:
    text = OWN_AGENT["train_my_agent.py"]
    assert "50_000" in text
    (tmp_path / "short.py").write_text(text.replace("50_000", "500"))
    assert "return" in output("short.py", tmp_path)


def output(name: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, name]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Networks


def test_the_encoders_of_the_page_keep_their_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict[str, Any] = {}
    exec(NETWORKS["images.py"], scope)
    env = scope["Dot"]()
    obs, _ = env.reset(seed=0)
    batch = torch.from_numpy(np.stack([obs, env.step(np.ones(2))[0]])).float()
    assert scope["CNN"](env.observation_space)(batch).shape == (2, 64)
    code = NETWORKS["parts.py"]
    exec(code[: code.index("\nenv = make(")], scope)
    parts = {"at": torch.ones(3, 1), "target": torch.eye(4)[:3]}
    assert scope["Parts"](scope["Cart"]().observation_space)(parts).shape == (3, 32)


@pytest.mark.parametrize("name", ["train_images.py", "parts.py", "again.py"])
def test_the_networks_of_the_page_are_trained(name: str, tmp_path: Path) -> None:
    for file, text in NETWORKS.items():
        (tmp_path / file).write_text(text.replace("5_000)", "600)").replace("1_000)", "300)"))
    assert "evaluation: return" in output(name, tmp_path)


# What stands around


def test_the_version_is_the_same_everywhere() -> None:
    assert f"version: {PROJECT['version']}\n" in read("CITATION.cff")
    assert f"## [{PROJECT['version']}]" in read("CHANGELOG.md")


def test_the_citation_has_what_the_format_asks_for() -> None:
    citation = read("CITATION.cff")
    for key in ("cff-version: 1.2.0", "message: ", "title: ", "authors:\n  - name: ", f"license: {PROJECT['license']}"):
        assert re.search(rf"^{re.escape(key)}", citation, re.M), key


def test_the_hooks_need_no_network() -> None:
    hooks = read(".pre-commit-config.yaml")
    assert set(re.findall(r"repo: (\S+)", hooks)) == {"local"}
    assert set(re.findall(r"language: (\S+)", hooks)) == {"system"}
    assert re.findall(r"entry: (.*)", hooks)[-1] == "make lint"


def test_the_sdist_has_the_pages() -> None:
    manifest = read("MANIFEST.in")
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "recursive-include docs *.md"):
        assert name in manifest

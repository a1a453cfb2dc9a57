"""What was called otherwise before still works: checkpoints of commit 930dc94, settings, rows; a line says so."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costgrad.agents import AGENTS, PPOConfig, SACConfig
from costgrad.rl.errors import UserError
from costgrad.rl.settings import RENAMED, current_names, nearest
from costgrad.scripts import experiment

OLD = Path(__file__).parent / "old_checkpoints"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
OBS = np.linspace(-1, 1, 9).reshape(3, 3).astype(np.float32)


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_a_checkpoint_of_before_is_the_same_agent(name: str) -> None:
    cls, config_cls = AGENTS[name]
    expected = EXPECTED[name]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        agent = cls.load(OLD / name)
    assert agent.updates == expected["updates"] > 0 and agent.steps == expected["steps"]
    np.testing.assert_allclose(agent.predict(OBS, deterministic=True)[0], expected["action"], rtol=1e-5, atol=1e-6)
    settings, lines = current_names(config_cls, expected["config"])
    for key, value in settings.items():
        assert getattr(agent.config, key) == (tuple(value) if isinstance(value, list) else value)
    told = " ".join(str(w.message) for w in said)
    assert all(line in told for line in lines) and ("of an older version" in told) == bool(lines)


def test_an_old_setting_is_taken_with_a_warning_that_names_the_new() -> None:
    with pytest.warns(FutureWarning, match="PPOConfig: clip is called clip_range now"):
        config = PPOConfig(clip=0.3)  # type: ignore[call-arg]
    assert config.clip_range == 0.3 and config == PPOConfig(clip_range=0.3)
    with pytest.warns(FutureWarning, match="clip is called clip_range now"):
        assert replace(PPOConfig(), clip=0.4).clip_range == 0.4


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("learning_rate", r"did you mean actor_lr or critic_lr\?"),
        ("polyak", r"did you mean tau\?"),
        ("gama", r"did you mean gamma\?"),
        ("net_arch", r"did you mean hidden\?"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"SACConfig has no setting .{typed}. .{meant}"):
        SACConfig(**{typed: 1})


def test_a_name_without_neighbours_gets_no_advice() -> None:
    assert nearest("xyzzy", ["gamma", "tau"]) == "" and nearest("gama", ["gamma"]) == " (did you mean gamma?)"


def test_a_list_is_a_tuple_and_1e6_a_number_of_steps() -> None:
    config = SACConfig(hidden=[8, 8], buffer_size=1e6)  # type: ignore[arg-type]
    assert config.hidden == (8, 8) and config.buffer_size == 1_000_000 and isinstance(config.buffer_size, int)
    with pytest.raises(UserError, match=r"buffer_size must be a whole number, got 1\.5"):
        SACConfig(buffer_size=1.5)  # type: ignore[arg-type]


def test_every_old_name_leads_to_a_setting() -> None:
    fields = {name for _, config_cls in AGENTS.values() for name in config_cls.__dataclass_fields__}
    fields |= {"gradient_steps"}  # of BlackBoxLoss
    assert set(RENAMED.values()) <= fields and not set(RENAMED) & fields


def test_rows_of_before_are_taken_for_what_they_are(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """The committed rows of SAC on CartPole have old names: the run is there, and nothing is to be done."""
    monkeypatch.chdir(tmp_path)
    source = (Path(__file__).resolve().parents[2] / "results" / "off_policy.csv").read_text()
    assert '""fold"": 3' in source
    (tmp_path / "old.csv").write_text(source)
    flags = [
        "--name",
        "old",
        "--agent",
        "sac",
        "--envs",
        "CartPole-v1:50000",
        "--seeds",
        "0-1",
        "--results",
        str(tmp_path),
    ]
    assert experiment.main(flags) == 0
    out = capsys.readouterr().out
    assert "2 of 2 runs are there, 0 to do" in out and "other settings" not in out
    assert "has rows of an older version: batch is called batch_size now, fold is called n_step now" in out
    (tmp_path / "old.csv").write_text(source.replace('""fold"": 3', '""fold"": 4'))  # negative control
    assert experiment.main(flags) == 0
    assert "its row was run with other settings" in capsys.readouterr().out


def test_every_committed_row_has_settings_that_exist() -> None:
    results, rows = Path(__file__).resolve().parents[2] / "results", 0
    for path in sorted(results.rglob("*.csv")):
        for row in csv.DictReader(path.read_text().splitlines()):
            if row.get("agent") in AGENTS and row.get("config"):
                config_cls = AGENTS[row["agent"]][1]
                settings, _ = current_names(config_cls, json.loads(row["config"]))
                assert set(settings) <= {*config_cls.__dataclass_fields__, "num_envs"}, (path, row)
                rows += 1
    assert rows > 400

"""A config refuses what no run could use, in one line that names the field, the value and what is allowed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from costgrad.agents import AGENTS
from costgrad.agents.a2c import A2CConfig
from costgrad.agents.ppo import PPOConfig
from costgrad.agents.reppo import REPPOConfig
from costgrad.rl.black_box.loss import CostConfig
from costgrad.rl.errors import UserError
from costgrad.rl.settings import RANGES, RENAMED


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("actor_lr", -1.0, "actor_lr must be a finite number from 0 up, got -1.0"),
        ("critic_lr", float("inf"), "critic_lr must be a finite number from 0 up, got inf"),
        ("gamma", 1.5, "gamma must be from 0 to 1, got 1.5"),
        ("gamma", float("nan"), "gamma must be from 0 to 1, got nan"),
        ("hidden", (64, 0), r"hidden must be at least 1, got \(64, 0\)"),
        ("dropout", 1.0, "dropout must be from 0 to 0.99, got 1.0"),
        ("bins", 10, "bins must be at least 11, got 10"),
        ("num_steps", 0, "num_steps must be at least 1, got 0"),
        ("num_steps", 2.5, "num_steps must be a whole number, got 2.5"),
        ("gamma", "x", "gamma must be from 0 to 1, got 'x'"),
        ("hidden", 64, "hidden must be a tuple of numbers, each at least 1, got 64"),
        ("hidden", ("a",), r"hidden must be at least 1, got \('a',\)"),
        ("log_std", -6.0, "log_std must be from -5 to 2, where the actor keeps it, got -6.0"),
        ("actor_gradient", "both", "actor_gradient must be one of pathwise, score, control_variate, got 'both'"),
    ],
)
def test_a_value_out_of_its_range_is_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}$"):
        A2CConfig(**{field: value})


@pytest.mark.parametrize(
    ("config", "field", "value", "said"),
    [
        (PPOConfig, "epochs", 0, "epochs must be at least 1, got 0"),
        (PPOConfig, "learning_rate", -1e-3, "learning_rate must be a finite number from 0 up, got -0.001"),
        (PPOConfig, "clip_range", 0.0, "clip_range must be above 0 and at most 1, got 0.0"),
        (PPOConfig, "clip_range", 1.5, "clip_range must be above 0 and at most 1, got 1.5"),
        (PPOConfig, "clip_range_vf", -0.2, "clip_range_vf must be a finite number from 0 up, got -0.2"),
        (PPOConfig, "target_kl", float("nan"), "target_kl must be a finite number from 0 up, got nan"),
        (REPPOConfig, "alpha", 0.0, "alpha must be above 0, got 0.0"),
        (REPPOConfig, "beta", -1.0, "beta must be above 0, got -1.0"),
        (REPPOConfig, "kl_bound", 0.0, "kl_bound must be above 0, got 0.0"),
        (REPPOConfig, "entropy_target", float("inf"), "entropy_target must be a finite number, got inf"),
        (REPPOConfig, "head", "mean", "head must be one of regression, hl_gauss, got 'mean'"),
        (CostConfig, "learning_rate", -1.0, "learning_rate must be a finite number from 0 up, got -1.0"),
        (CostConfig, "buffer_size", 0, "buffer_size must be at least 1, got 0"),
        (CostConfig, "gradient_steps", -1, "gradient_steps must be a finite number from 0 up, got -1"),
        (CostConfig, "head", "x", "head must be one of regression, hl_gauss, got 'x'"),
    ],
)
def test_a_value_out_of_the_range_of_its_agent_is_named(config: Any, field: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}$"):
        config(**{field: value})


@pytest.mark.parametrize("name", AGENTS)
def test_every_number_of_an_agent_has_a_range(name: str) -> None:
    config = AGENTS[name][1]
    hints = get_type_hints(config)
    numbers = {field.name for field in fields(config) if hints[field.name] in (int, float, tuple[int, ...])}
    assert numbers <= RANGES.keys()


def test_the_edges_are_allowed() -> None:
    A2CConfig(gamma=1.0, gae_lambda=0.0, hidden=(), ent_coef=0.0, dropout=0.0)
    PPOConfig(clip_range=1.0, vf_coef=0.0, learning_rate=0.0, epochs=1)
    REPPOConfig(entropy_target=-3.0, multiplier_lr=0.0, critic_warmup=0)


def test_a_list_is_taken_as_a_tuple_and_a_whole_float_as_a_number_of_steps() -> None:
    config = A2CConfig(hidden=[32, 16], critic_warmup=1e4)  # type: ignore[arg-type]
    assert config == A2CConfig(hidden=(32, 16), critic_warmup=10_000) and hash(config)
    assert isinstance(config.hidden, tuple) and isinstance(config.critic_warmup, int)
    with pytest.raises(UserError, match=r"^critic_warmup must be a whole number, got 10.5$"):
        A2CConfig(critic_warmup=10.5)  # type: ignore[arg-type]


def test_a_former_name_is_taken_with_a_warning_and_an_unknown_one_refused_with_the_nearest() -> None:
    with pytest.warns(FutureWarning, match=r"^PPOConfig: clip is called clip_range now$"):
        assert PPOConfig(clip=0.1) == PPOConfig(clip_range=0.1)  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"^PPOConfig has no setting 'clip_rnge' \(did you mean clip_range\?\)$"):
        PPOConfig(clip_rnge=0.1)  # type: ignore[call-arg]


def test_every_former_name_has_one_that_some_agent_knows() -> None:
    known = {field.name for _, config in AGENTS.values() for field in fields(config)}
    known |= {field.name for field in fields(CostConfig)}
    assert set(RENAMED.values()) <= known and not set(RENAMED) & known

"""A config refuses what no run could use, in one line that names the field, the value and what is allowed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from agents.a2c import A2CConfig
from rl.errors import UserError
from rl.settings import RANGES


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("actor_lr", -1.0, "actor_lr must be a finite number from 0 up, got -1.0"),
        ("critic_lr", float("inf"), "critic_lr must be a finite number from 0 up, got inf"),
        ("gamma", 1.5, "gamma must be from 0 to 1, got 1.5"),
        ("gamma", float("nan"), "gamma must be from 0 to 1, got nan"),
        ("hidden", (64, 0), r"hidden must be at least 1, got \(64, 0\)"),
        ("dropout", 1.0, "dropout must be from 0 to 0.99, got 1.0"),
        ("bins", 2, "bins must be at least 3, got 2"),
        ("num_steps", 0, "num_steps must be at least 1, got 0"),
        ("log_std", -6.0, "log_std must be from -5 to 2, where the actor keeps it, got -6.0"),
        ("actor_gradient", "both", "actor_gradient must be one of pathwise, score, control_variate, got 'both'"),
    ],
)
def test_a_value_out_of_its_range_is_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}$"):
        A2CConfig(**{field: value})


def test_every_number_of_a2c_has_a_range() -> None:
    hints = get_type_hints(A2CConfig)
    numbers = {field.name for field in fields(A2CConfig) if hints[field.name] in (int, float, tuple[int, ...])}
    assert numbers <= RANGES.keys()


def test_the_edges_are_allowed() -> None:
    A2CConfig(gamma=1.0, gae_lambda=0.0, hidden=(), entropy_coef=0.0, dropout=0.0)

"""One file per algorithm; here only their names, as the command line knows them."""

from typing import Any

from agents.a2c import A2C, A2CConfig

__all__ = ["A2C", "AGENTS", "A2CConfig"]

AGENTS: dict[str, tuple[type[Any], type[Any]]] = {"a2c": (A2C, A2CConfig)}

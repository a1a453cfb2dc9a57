"""One file per algorithm; here only their names, as the command line knows them."""

from typing import Any

from agents.a2c import A2C, A2CConfig
from agents.ppo import PPO, PPOConfig
from agents.reppo import REPPO, REPPOConfig

__all__ = ["A2C", "AGENTS", "PPO", "REPPO", "A2CConfig", "PPOConfig", "REPPOConfig"]

AGENTS: dict[str, tuple[type[Any], type[Any]]] = {
    "a2c": (A2C, A2CConfig),
    "ppo": (PPO, PPOConfig),
    "reppo": (REPPO, REPPOConfig),
}

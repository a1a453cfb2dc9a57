"""One file per algorithm; here only their names, as the command line knows them."""

from typing import Any

from agents.a2c import A2C, A2CConfig
from agents.crossq import CrossQ, CrossQConfig
from agents.ppo import PPO, PPOConfig
from agents.reppo import REPPO, REPPOConfig
from agents.sac import SAC, SACConfig
from agents.td3 import TD3, TD3Config

__all__ = [
    "A2C",
    "AGENTS",
    "PPO",
    "REPPO",
    "SAC",
    "TD3",
    "A2CConfig",
    "CrossQ",
    "CrossQConfig",
    "PPOConfig",
    "REPPOConfig",
    "SACConfig",
    "TD3Config",
]

AGENTS: dict[str, tuple[type[Any], type[Any]]] = {
    "a2c": (A2C, A2CConfig),
    "crossq": (CrossQ, CrossQConfig),
    "ppo": (PPO, PPOConfig),
    "reppo": (REPPO, REPPOConfig),
    "sac": (SAC, SACConfig),
    "td3": (TD3, TD3Config),
}

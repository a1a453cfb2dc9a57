"""One file per algorithm; here only their names, as the command line knows them."""

from typing import Any

from agents.a2c import A2C, A2CConfig
from agents.ars import ARS, ARSConfig
from agents.cmaes import CMAES, CMAESConfig
from agents.crossq import CrossQ, CrossQConfig
from agents.es import ES, ESConfig
from agents.guided_es import GuidedES, GuidedESConfig
from agents.ppo import PPO, PPOConfig
from agents.random_search import RandomSearch, RandomSearchConfig
from agents.reppo import REPPO, REPPOConfig
from agents.sac import SAC, SACConfig
from agents.spsa import SPSA, SPSAConfig
from agents.td3 import TD3, TD3Config

__all__ = [
    "A2C",
    "AGENTS",
    "ARS",
    "CMAES",
    "ES",
    "PPO",
    "REPPO",
    "SAC",
    "SPSA",
    "TD3",
    "A2CConfig",
    "ARSConfig",
    "CMAESConfig",
    "CrossQ",
    "CrossQConfig",
    "ESConfig",
    "GuidedES",
    "GuidedESConfig",
    "PPOConfig",
    "REPPOConfig",
    "RandomSearch",
    "RandomSearchConfig",
    "SACConfig",
    "SPSAConfig",
    "TD3Config",
]

AGENTS: dict[str, tuple[type[Any], type[Any]]] = {
    "a2c": (A2C, A2CConfig),
    "ars": (ARS, ARSConfig),
    "cmaes": (CMAES, CMAESConfig),
    "crossq": (CrossQ, CrossQConfig),
    "es": (ES, ESConfig),
    "guidedes": (GuidedES, GuidedESConfig),
    "ppo": (PPO, PPOConfig),
    "randomsearch": (RandomSearch, RandomSearchConfig),
    "reppo": (REPPO, REPPOConfig),
    "sac": (SAC, SACConfig),
    "spsa": (SPSA, SPSAConfig),
    "td3": (TD3, TD3Config),
}

"""One file per algorithm; here only their names, as the command line knows them."""

from typing import Any

from costgrad.agents.a2c import A2C, A2CConfig
from costgrad.agents.ars import ARS, ARSConfig
from costgrad.agents.cmaes import CMAES, CMAESConfig
from costgrad.agents.crossq import CrossQ, CrossQConfig
from costgrad.agents.es import ES, ESConfig
from costgrad.agents.guided_es import GuidedES, GuidedESConfig
from costgrad.agents.ppo import PPO, PPOConfig
from costgrad.agents.random_search import RandomSearch, RandomSearchConfig
from costgrad.agents.reppo import REPPO, REPPOConfig
from costgrad.agents.sac import SAC, SACConfig
from costgrad.agents.spsa import SPSA, SPSAConfig
from costgrad.agents.td3 import TD3, TD3Config

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

"""costgrad: actor-critic agents that learn by backpropagating through a learned cost C.

What a user needs stands here and is imported when it is asked for, so that a command's --help does not wait for torch.
The rooms behind it are `costgrad.rl`, `costgrad.agents`, `costgrad.envs` and `costgrad.scripts`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` finds, for type checkers and editors
    from costgrad.agents import (
        A2C,
        AGENTS,
        ARS,
        CMAES,
        ES,
        PPO,
        REPPO,
        SAC,
        SPSA,
        TD3,
        A2CConfig,
        ARSConfig,
        CMAESConfig,
        CrossQ,
        CrossQConfig,
        ESConfig,
        GuidedES,
        GuidedESConfig,
        PPOConfig,
        RandomSearch,
        RandomSearchConfig,
        REPPOConfig,
        SACConfig,
        SPSAConfig,
        TD3Config,
    )
    from costgrad.envs import BlackBoxEnv, EnvError, MadeEnv, cost_function, make
    from costgrad.rl.black_box.loss import BlackBoxLoss, CostConfig
    from costgrad.rl.diagnostics.probe import probe
    from costgrad.rl.errors import UserError
    from costgrad.rl.evaluate import evaluate
    from costgrad.rl.networks.critic import Critic, CriticSpec
    from costgrad.rl.runs.train import train
    from costgrad.rl.runs.video import record_video

_AGENTS = ("A2C", "ARS", "CMAES", "CrossQ", "ES", "GuidedES", "PPO", "REPPO", "RandomSearch", "SAC", "SPSA", "TD3")
_ROOMS = ("agents", "envs", "rl", "scripts")
_HOMES = {  # each public name, and the module that it comes from
    **{name: "costgrad.agents" for agent in _AGENTS for name in (agent, f"{agent}Config")},
    "AGENTS": "costgrad.agents",
    **dict.fromkeys(("BlackBoxEnv", "EnvError", "MadeEnv", "cost_function", "make"), "costgrad.envs"),
    **dict.fromkeys(("BlackBoxLoss", "CostConfig"), "costgrad.rl.black_box.loss"),
    **dict.fromkeys(("Critic", "CriticSpec"), "costgrad.rl.networks.critic"),
    "UserError": "costgrad.rl.errors",
    "evaluate": "costgrad.rl.evaluate",
    "probe": "costgrad.rl.diagnostics.probe",
    "record_video": "costgrad.rl.runs.video",
    "train": "costgrad.rl.runs.train",
}

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
    "BlackBoxEnv",
    "BlackBoxLoss",
    "CMAESConfig",
    "CostConfig",
    "Critic",
    "CriticSpec",
    "CrossQ",
    "CrossQConfig",
    "ESConfig",
    "EnvError",
    "GuidedES",
    "GuidedESConfig",
    "MadeEnv",
    "PPOConfig",
    "REPPOConfig",
    "RandomSearch",
    "RandomSearchConfig",
    "SACConfig",
    "SPSAConfig",
    "TD3Config",
    "UserError",
    "__version__",
    "cost_function",
    "evaluate",
    "make",
    "probe",
    "record_video",
    "train",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("costgrad")
        except PackageNotFoundError:  # a checkout that is on the path and was not installed
            value = "0+unknown"
    elif name in _ROOMS:
        value = importlib.import_module(f"costgrad.{name}")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        from difflib import get_close_matches

        by_lower = {known.lower(): known for known in (*__all__, *_ROOMS)}
        near = [by_lower[low] for low in get_close_matches(name.lower(), by_lower, n=1)]
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(__all__)}"
        raise AttributeError(f"module 'costgrad' has no attribute {name!r}: {hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})

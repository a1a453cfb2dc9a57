"""A synthetic stream of transitions for any agent, small settings for each, and ways to compare what came of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from costgrad.agents import AGENTS
from costgrad.rl.data import Step

N, T = 4, 8  # environments, and steps of a rollout
OBS = spaces.Box(-10, 10, (3,), np.float32)
SPACES: dict[str, Any] = {
    "discrete": spaces.Discrete(3, start=2),
    "box": spaces.Box(np.array([0, -3], np.float32), np.array([5, -1], np.float32)),
}
MORE: dict[str, Any] = {"choices": spaces.MultiDiscrete([2, 3])}
SMALL: dict[str, dict[str, Any]] = {
    "a2c": {"num_steps": T, "hidden": (16,), "batch_size": 16, "critic_passes": 2, "critic_warmup": 0, "bins": 21}
    | {"head": "hl_gauss", "layer_norm": False, "ent_coef": 0.01},
    "crossq": {
        "hidden": (16,),
        "batch_size": 16,
        "learning_starts": 8,
        "buffer_size": 2000,
        "update_ratio": 0.5,
        "bins": 21,
    },
    "ars": {"directions": 2, "top": 1},
    "cmaes": {"candidates": 4, "hidden": (8,)},
    "es": {"directions": 2, "hidden": (8,)},
    "guidedes": {"directions": 2, "hidden": (8,), "critic_hidden": (16,), "batch_size": 16, "guide_batch_size": 32}
    | {"learning_starts": 8, "buffer_size": 2000},
    "randomsearch": {"population": 2, "normalize_obs": True, "hidden": (8,)},
    "spsa": {"directions": 1, "hidden": (8,)},
    "ppo": {"num_steps": T, "hidden": (16,), "batch_size": 16, "epochs": 2, "bins": 21},
    "reppo": {"num_steps": T, "hidden": (16,), "batch_size": 16, "epochs": 2, "bins": 21, "critic_warmup": 0},
    "sac": {"hidden": (16,), "batch_size": 16, "learning_starts": 8, "buffer_size": 2000, "update_ratio": 0.5},
    "td3": {"hidden": (16,), "batch_size": 16, "learning_starts": 8, "buffer_size": 2000, "update_ratio": 0.5},
}
ON_POLICY = ("a2c", "ppo", "reppo")
BOX_ONLY = ("td3",)
GRADIENT_FREE = ("ars", "cmaes", "es", "guidedes", "randomsearch", "spsa")


def make(agent: str, space: str | None = None, seed: int = 0, **settings: Any) -> Any:
    """A small agent of that name for a space of that name; discrete unless it cannot be."""
    cls, config = AGENTS[agent]
    space = space or ("box" if agent in BOX_ONLY else "discrete")
    return cls(OBS, (SPACES | MORE)[space], config(**(SMALL[agent] | settings)), seed)


def observation(t: int, rows: int = N) -> np.ndarray:
    return (2 + 3 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(1000 + t))).numpy()


def observations(steps: int) -> Tensor:
    """What the first steps of `feed` show, [steps * N, 3]."""
    return torch.from_numpy(np.concatenate([observation(t) for t in range(steps)]))


def feed(agent: Any, steps: int = T, start: int = 0, **override: Any) -> list[dict[str, Tensor]]:
    """A stream of transitions that depends on t and the agent's actions alone; `override` replaces parts of a step.

    Of an agent that plays candidates for whole episodes all environments' episodes end.
    """
    metrics, all_end = [], hasattr(agent, "population")
    for t in range(start, start + steps):
        obs = observation(t)
        action = agent.act(obs)
        value = action.astype(np.float32) if action.ndim == 1 else action.sum(1)
        step = Step(
            obs=obs,
            action=action,
            reward=obs[:, 0] * value - value**2,
            next_obs=observation(t + 1),
            terminated=np.array([t % 5 == 4, False, all_end and t % 3 == 2, False]),
            truncated=np.array([False, t % 7 == 6, False, all_end and t % 6 == 5]),
            valid=np.ones(N, dtype=bool),
            extra={},
        )
        parts = {name: part(t, getattr(step, name)) for name, part in override.items()}
        agent.observe(step._replace(**parts))
        metrics.append(agent.update())
    return [m for m in metrics if m]


def everything(agent: Any) -> dict[str, Tensor]:
    """Its state, the numbers that JSON holds among the tensors."""
    tensors, meta = agent.state()
    numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in meta.items()}
    return {name: value.clone() for name, value in (tensors | numbers).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def changed(a: dict[str, Tensor], b: dict[str, Tensor], prefix: str) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a if name.startswith(prefix))


def finite(values: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in values.values() if value.is_floating_point())


# Parts of a step that an override of `feed` may put in.


def never(t: int, plain: np.ndarray) -> np.ndarray:
    return np.zeros(N, dtype=bool)


def every_fourth(t: int, plain: np.ndarray) -> np.ndarray:
    return np.full(N, t % 4 == 3)


def after_the_clock(t: int, plain: np.ndarray) -> np.ndarray:
    """Which rows count: environment 1 is reset after its clock ran out."""
    return np.array([True, t % 7 != 0, True, True])


def constant(reward: float) -> Any:
    return lambda t, plain: np.full(N, reward)


def junk(size: float) -> Any:
    """Puts `size` where `after_the_clock` says that a row does not count."""

    def part(t: int, plain: np.ndarray) -> np.ndarray:
        row = plain.copy()
        if t % 7 == 0:
            row[1] = size
        return row

    return part


def count_steps(optimizer: Any) -> list[int]:
    """A list that grows by one at each step of the optimizer."""
    taken: list[int] = []
    step = optimizer._step
    optimizer._step = lambda: taken.append(1) or step()
    return taken


class Watched:
    """A `Descent` in whose place a test takes the steps: `look(descent, *args)`; in all else it is that descent."""

    def __init__(self, descent: Any, look: Any) -> None:
        self._descent, self._look = descent, look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._descent, name)

    def __call__(self, *args: Any) -> Any:
        return self._look(self._descent, *args)


def seen_by(descent: Any, seen: list[Any]) -> Watched:
    """The descent, which puts the arguments of each of its steps into a list before it takes it."""
    return Watched(descent, lambda step, *args: seen.append(args) or step(*args))


def by_autograd(agent: Any) -> None:
    """Has the agent take the steps by autograd which it would take by hand."""
    for descent in (agent.descend_critic, agent.descend_actor):
        assert descent.reason is None
        descent.reason = "a test asks for it"


def spread_out(actor_optimizer: Any, seed: int = 7, by: float = 0.7) -> None:
    """Moves all that an optimizer owns, so that an actor is far from uniform and its entropy has a slope."""
    draw = torch.Generator().manual_seed(seed)
    actor_optimizer.flat.add_(by * torch.randn(actor_optimizer.flat.shape, generator=draw))

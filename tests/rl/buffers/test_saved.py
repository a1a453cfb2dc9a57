"""A saved replay whose rows do not hang together is refused before it is taken."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from costgrad.agents import AGENTS
from costgrad.envs.make import make
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.loop import interact


@pytest.fixture(scope="module")
def saved() -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """An agent with goals and priorities whose buffer is full, and its state."""
    env = make("costgrad/BitFlip-v0", 2, 3, backend="native")
    cls, config_cls = AGENTS["sac"]
    config = config_cls(hidden=(4,), hindsight=4, per_alpha=0.6, buffer_size=41, learning_starts=10, batch_size=4)
    agent = cls(env.single_observation_space, env.single_action_space, config)
    for _ in islice(interact(agent, env, 3), 31):
        pass
    tensors, meta = agent.state()
    return agent, {name: value.clone() for name, value in tensors.items()}, meta


def first(value: Tensor, number: float) -> Tensor:
    changed = value.clone()
    changed.view(-1)[0] = number
    return changed


def cyclic(following: Tensor) -> Tensor:
    changed = following.clone()
    linked = int((changed >= 0).nonzero()[0])
    changed[changed[linked]] = linked
    return changed


WRONG: dict[str, Any] = {
    "position": [lambda t: first(t, -1), lambda t: first(t, 42), lambda t: first(t, 10**9), lambda t: t.float()],
    "following": [lambda t: first(t, 41), lambda t: first(t, -2), lambda t: first(t, 0), cyclic, lambda t: t[:-1]],
    "episode": [lambda t: first(t, 10**9), lambda t: first(t, -1), torch.zeros_like],
    "valid": [torch.zeros_like, lambda t: t.float(), lambda t: t.view(-1, 1)],
    "cost": [lambda t: first(t, float("nan")), lambda t: t.double()],
    "obs": [lambda t: first(t, float("inf")), lambda t: t[:, 1:], lambda t: t[0], lambda t: t.long()],
    "action": [lambda t: first(t, 10**6), lambda t: first(t, -1), lambda t: t.float()],
    "priority": [lambda t: first(t, -1.0), lambda t: first(t, float("inf")), torch.zeros_like],
    "largest": [lambda t: -t, lambda t: t.view(1), lambda t: t * float("nan")],
    "newest": [lambda t: first(t, 42), lambda t: first(t, -1)],
    "episodes": [lambda t: first(t, 10**6), lambda t: first(t, -2)],
    "generator": [torch.zeros_like, lambda t: t[:100], lambda t: t.float()],
}


@pytest.mark.parametrize(("name", "which"), [(name, i) for name, each in WRONG.items() for i in range(len(each))])
def test_what_does_not_hang_together_is_refused(saved: Any, name: str, which: int) -> None:
    agent, tensors, meta = saved
    agent.load_state(dict(tensors), meta)
    with pytest.raises(ValueError, match=r".") as error:
        agent.load_state(tensors | {f"memory.{name}": WRONG[name][which](tensors[f"memory.{name}"])}, meta)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["obs", "valid", "priority", "position", "episode"])
def test_a_column_that_is_missing_or_one_too_many_is_refused(saved: Any, name: str) -> None:
    agent, tensors, meta = saved
    with pytest.raises(ValueError, match=name):
        agent.load_state({key: value for key, value in tensors.items() if key != f"memory.{name}"}, meta)
    with pytest.raises(ValueError, match=r"other columns .*: extra"):
        agent.load_state(tensors | {"memory.extra": tensors["memory.cost"]}, meta)


def test_a_capacity_beyond_all_memory_is_one_line() -> None:
    like = {"obs": torch.zeros(1, 3).numpy()}
    with pytest.raises(ValueError, match="no memory for a replay of 1,000,000,000,000,000,000 transitions"):
        Replay(10**18, 0.9)._allocate(like, 1)

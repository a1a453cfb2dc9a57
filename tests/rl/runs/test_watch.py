"""An environment that hangs where it cannot be ended is named, and nobody else is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from costgrad.envs import make
from costgrad.rl.evaluate import run_episodes
from costgrad.rl.loop import interact
from costgrad.rl.runs.watch import watching
from tests.fakes import Countdown, Remade, fake


class Slow(Countdown):
    """The second environment takes 0.6 s at its third step."""

    made = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index, Slow.made = Slow.made, Slow.made + 1
        self.steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.index == 1 and self.steps == 3:
            time.sleep(0.6)
        return super().step(action)


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("limit", [0.2, 5.0])
def test_it_is_named_once_by_its_number(limit: float, evaluated: bool) -> None:
    Slow.made, said = 0, list[str]()
    env = Remade(3, cls=Slow, lengths=(9,))
    with watching(said.append, limit):
        if evaluated:
            run_episodes(fake(env), env, 3, True, 0)
        else:
            run = interact(fake(env), env, 0)
            for _ in range(9):
                next(run)
            time.sleep(0.3)  # the trainer's own time is nobody's
    line = "environment 1 has not answered for 0.2 s: in the process that trains it can be named, not restarted"
    assert [text.split(" (")[0] for text in said] == ([line] if limit < 1 else [])


class Batched(Countdown):
    """Takes 0.3 s for a step."""

    def step(self, action: Any) -> Any:
        time.sleep(0.5)
        return super().step(action)


def test_those_in_processes_name_themselves() -> None:
    said: list[str] = []
    env = make(Batched, 2, backend="async")
    run = interact(fake(env), env, 0)
    with watching(said.append, 0.1):
        next(run)
    env.close()
    assert said == []


def test_a_batch_is_named_as_a_whole() -> None:
    said: list[str] = []
    env = make("CartPole-v1", 2)
    agent, inner = fake(env), env.env

    class Late(type(inner)):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            time.sleep(0.5)
            return super().step(action)

    inner.__class__ = Late
    run = interact(agent, env, 0)
    with watching(said.append, 0.1):
        next(run)
    assert len(said) == 1 and said[0].startswith("the environment has not answered for 0.1 s")

"""Environments in every form that people have them in, where an agent is evaluated, filmed and probed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

import costgrad
from costgrad.rl.errors import UserError
from costgrad.rl.factories import check_single_spaces, factory_of, vector_of
from tests.fakes import Countdown, Fake, FakeConfig, Remade, fake

CARTPOLE = gymnasium.make("CartPole-v1")


def balancer() -> Fake:
    return Fake(CARTPOLE.observation_space, CARTPOLE.action_space, FakeConfig())


class Needs(Countdown):
    """Its constructor takes anything; the engine's arguments must not get there."""

    def __init__(self, lengths: tuple[int, ...] = (4,), **other: Any) -> None:
        assert not other
        super().__init__(lengths)


def three() -> VectorEnv:
    return SyncVectorEnv([Countdown] * 3, autoreset_mode=AutoresetMode.SAME_STEP)


FORMS: dict[str, Any] = {
    "an id": "CartPole-v1",
    "a single environment": CARTPOLE,
    "a thunk": lambda: gymnasium.make("CartPole-v1"),
    "a thunk that renders": lambda render_mode=None: gymnasium.make("CartPole-v1", render_mode=render_mode),
    "a partial of make": partial(gymnasium.make, "CartPole-v1"),
    "a partial of make_vec": partial(gymnasium.make_vec, "CartPole-v1", vectorization_mode="sync"),
    "a batch of gymnasium's": gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync"),
    "a factory": lambda num_envs, seed, render_mode: SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs),
    "a factory of a number": lambda num_envs: SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs),
    "costgrad's": costgrad.make("CartPole-v1", 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_policy_is_evaluated_in_it(form: str) -> None:
    result = costgrad.evaluate(balancer(), FORMS[form], episodes=4)
    assert len(result.returns) == 4 and 7 < result.mean < 12  # always to the left
    if "sync" in str(FORMS[form]) or form in ("an id", "a thunk", "a factory", "costgrad's"):
        assert result.returns == costgrad.evaluate(balancer(), "CartPole-v1", 4).returns


def test_classes_of_environments_and_factories_of_a_fixed_number() -> None:
    agent = fake(Remade(1))
    assert costgrad.evaluate(agent, Needs, 5).returns == [4.0] * 5
    assert costgrad.evaluate(agent, partial(Countdown, lengths=(6,)), 3).returns == [6.0] * 3
    assert len(costgrad.evaluate(agent, three, 5).returns) == 5
    assert costgrad.evaluate(agent, Countdown(lengths=(3,)), 2).returns == [3.0, 3.0]


def test_each_of_many_has_its_own_seed_where_it_takes_one() -> None:
    seeds: list[int] = []

    def make(seed: int) -> gymnasium.Env:
        seeds.append(seed)
        return Countdown()

    found = factory_of(make)
    assert found is not None
    env = found(num_envs=3, seed=7, render_mode=None)
    assert seeds == [7, 8, 9] and env.num_envs == 3
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_a_single_environment_is_the_one_that_is_used() -> None:
    env = Countdown()
    vector = vector_of(env)
    assert isinstance(vector, SyncVectorEnv) and vector.envs[0] is env and vector.num_envs == 1
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vector_of(vector) is vector and factory_of(env) is factory_of(vector) is None
    costgrad.evaluate(fake(Remade(1)), env, 2, seed=3)
    assert env.seed_given is None and env.length > 0  # played, to its last reset


def test_a_class_is_not_asked_for_what_it_does_not_take() -> None:
    found = factory_of(Needs)
    assert found is not None and found(num_envs=2, seed=0, render_mode="rgb_array").num_envs == 2


def test_it_is_filmed(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    ready = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    for i, env in enumerate(("CartPole-v1", ready, lambda: ready, FORMS["a thunk that renders"])):
        path = costgrad.record_video(balancer(), env, tmp_path / f"{i}.gif")
        assert path.read_bytes()[:3] == b"GIF"
    with pytest.raises(UserError, match="cannot be filmed: it gave no picture; make it with render_mode='rgb_array'"):
        costgrad.record_video(balancer(), lambda: gymnasium.make("CartPole-v1"), tmp_path / "no.gif")


def test_it_is_probed() -> None:
    """What is left out of the forms is what cannot be made again."""
    env = costgrad.make("Pendulum-v1", 1)
    agent = costgrad.A2C(env.single_observation_space, env.single_action_space, seed=0)
    sizes: Any = {"num_envs": 2, "visits": 1, "within": 5}
    for form in ("Pendulum-v1", lambda: gymnasium.make("Pendulum-v1"), env):
        assert costgrad.probe(agent, form, **sizes).steps > 0
    with pytest.raises(UserError, match="has no factory, and a probe needs others like it: give an id or a factory"):
        costgrad.probe(agent, gymnasium.make("Pendulum-v1"), **sizes)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (3, "env is a int: it must be a gymnasium VectorEnv, which costgrad.make gives, an Env, an id such as"),
        (None, "env is a NoneType"),
        ("CartPol-v1", "env 'CartPol-v1' cannot be made: .*CartPol"),
        ("nowhere:Env-v0", "env 'nowhere:Env-v0' cannot be made: .*nowhere"),
        (lambda: 3, "gave a int: it must be a VectorEnv, or one gymnasium.Env where it does not take num_envs"),
        (lambda num_envs: Countdown(), "gave a Countdown: it must be a VectorEnv"),
    ],
)
def test_what_is_none_is_one_line(env: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        costgrad.evaluate(fake(Remade(1)), env, 1)
    assert "\n" not in str(caught.value)


def test_a_function_that_gives_one_environment_again_and_again_is_told_to_make_new_ones() -> None:
    env = Countdown()
    with pytest.raises(UserError, match="gave the same environment twice: it must make a new one at each call"):
        costgrad.evaluate(fake(Remade(1)), lambda: env, 3)
    assert len(costgrad.evaluate(fake(Remade(1)), lambda: Countdown(), 3).returns) == 3


def test_the_remedies_in_the_message_work() -> None:
    for env in (costgrad.make("Pendulum-v1", 2), gymnasium.make("Pendulum-v1"), "Pendulum-v1"):
        spaces = gymnasium.make("Pendulum-v1")
        agent = costgrad.A2C(spaces.observation_space, spaces.action_space)
        assert np.isfinite(costgrad.evaluate(agent, env, 1).mean)
        assert costgrad.train(agent, env, 64, num_envs=2, eval_episodes=1, progress=False).step >= 64


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Blackjack-v1"])
def test_spaces_of_a_whole_vector_env_are_told_from_one_s(env_id: str) -> None:
    if env_id == "Blackjack-v1":  # a Tuple
        env: Any = SyncVectorEnv([partial(gymnasium.wrappers.FlattenObservation, gymnasium.make(env_id))] * 3)
    else:
        env = gymnasium.make_vec(env_id, 3, vectorization_mode="sync")
    right = SimpleNamespace(observation_space=env.single_observation_space, action_space=env.single_action_space)
    check_single_spaces(SimpleNamespace(codec=right), env)
    check_single_spaces(SimpleNamespace(), env)
    for name in ("observation_space", "action_space"):
        wrong = SimpleNamespace(**{**vars(right), name: getattr(env, name)})
        with pytest.raises(UserError, match=f"was given the {name} of 3 environments: give it single_{name}"):
            check_single_spaces(SimpleNamespace(codec=wrong), env)


def test_spaces_of_a_dict_too() -> None:
    space = gymnasium.spaces.Dict(a=gymnasium.spaces.Box(0, 1, (2,)), b=gymnasium.spaces.Discrete(3))
    env: Any = SimpleNamespace(single_observation_space=space, single_action_space=gymnasium.spaces.Discrete(2))
    wrong = SimpleNamespace(observation_space=batch_space(space, 5), action_space=env.single_action_space)
    with pytest.raises(UserError, match="observation_space of 5 environments"):
        check_single_spaces(SimpleNamespace(codec=wrong), env)

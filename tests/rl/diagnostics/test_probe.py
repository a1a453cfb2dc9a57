"""The probe against closed-form values, for correct and for wrong C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from costgrad.agents import (
    A2C,
    AGENTS,
    PPO,
    REPPO,
    SAC,
    TD3,
    A2CConfig,
    CrossQ,
    CrossQConfig,
    REPPOConfig,
    SACConfig,
    TD3Config,
)
from costgrad.envs import make
from costgrad.envs.native.classic import CartPole, Pendulum
from costgrad.envs.tasks.batched import TaskVectorEnv
from costgrad.envs.tasks.known import LQR, Chain, ConstantCost, OneStepQuadratic
from costgrad.rl.diagnostics.estimand import Estimand, estimand_of
from costgrad.rl.diagnostics.probe import probe
from costgrad.rl.errors import UserError
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.runs.table import read_table
from costgrad.rl.runs.train import train
from costgrad.rl.spaces import Codec
from tests.fakes import Countdown, Remade, fake
from tests.streams import GRADIENT_FREE
from tests.streams import make as small


class Given(Critic):
    """A C that says what it is told to, of raw observations."""

    def __init__(self, codec: Codec, said: Callable[..., Tensor], **spec: Any) -> None:
        super().__init__(replace(CriticSpec.of(codec, **spec), normalize_obs=False))
        self.given = said

    def cost(self, x: Tensor, action: Tensor | None = None, masks: Any = None, first: bool = False) -> Tensor:
        return (self.given(x) if action is None else self.given(x, action)).unsqueeze(0)


def task_factory(task: Any, cls: type[TaskVectorEnv] = TaskVectorEnv, **kwargs: Any) -> Any:
    def factory(num_envs: int, seed: int, render_mode: str | None) -> VectorEnv:
        return cls(task, num_envs, **kwargs)

    return factory


def holder(env: Any, estimate: Callable[[Codec], Estimand]) -> Any:
    """The least that a probe needs of an agent."""
    codec = Codec(env.observation_space, env.action_space)
    return SimpleNamespace(codec=codec, estimand=lambda: estimate(codec))


def normal(size: int) -> Any:
    return lambda *batch, generator: torch.randn(*batch, size, generator=generator)


def uniform_policy(x: Tensor, noise: Tensor) -> tuple[Tensor, None]:
    return (0.5 * noise).tanh(), None


def within(values: np.ndarray, errors: float = 4.0) -> bool:
    """Whether a mean of independent values is 0 within so many standard errors."""
    return abs(values.mean()) < errors * values.std(ddof=1) / np.sqrt(len(values))


# One step: the gradient is a formula whatever the policy.

QUADRATIC = OneStepQuadratic(3)


def quadratic_cost(x: Tensor, action: Tensor) -> Tensor:
    best = 1 + x @ torch.tensor(QUADRATIC.matrix.T, dtype=torch.float32)
    return (action * 2 + 1 - best).square().sum(-1) + QUADRATIC.floor


def quadratic(said: Callable[..., Tensor], **spec: Any) -> Any:
    return holder(QUADRATIC, lambda c: Estimand(Given(c, said, **spec), uniform_policy, normal(3), 0.99))


def test_a_correct_c_of_one_step_has_cosine_1() -> None:
    found = probe(quadratic(quadratic_cost), task_factory(OneStepQuadratic, size=3))
    assert found.gradient is not None and found.points is not None
    assert found.gradient.cosine > 1 - 1e-6 and found.gradient.relative_error < 1e-3
    assert found.calibration.error < 1e-5 and found.calibration.explained_variance > 1 - 1e-6
    assert found.gradient.states == 64 and found.calibration.left == 0
    action = 2 * found.points.action.astype(np.float64) + 1
    exact = 2 * QUADRATIC.cost_gradient(found.points.obs, action)  # a unit of the agent's is two of the environment's
    np.testing.assert_allclose(found.points.true[:, 0], exact, atol=1e-4)
    assert np.abs(found.points.action).max() <= 0.9 + 1e-6  # both ends are inside


def test_it_counts_its_steps() -> None:
    found = probe(quadratic(quadratic_cost), task_factory(OneStepQuadratic, size=3), visits=2, rounds=3, within=10)
    assert found.steps == 16 * (10 + 2 * 3 * 2 * 3)  # visits x rounds x up and down x dimensions


class Tallied(CartPole):
    """Counts its steps itself; a row that this step only resets takes none."""

    taken = 0

    def _advance(self, actions: np.ndarray, restarted: np.ndarray | None) -> Any:
        Tallied.taken += self.num_envs - (0 if restarted is None else int(restarted.sum()))
        return super()._advance(actions, restarted)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_its_steps_are_those_of_the_environments(mode: AutoresetMode) -> None:
    """Also where it is set back to a state in which some rows wait for their reset."""
    Tallied.taken, env = 0, Tallied(6)
    agent = A2C(env.single_observation_space, env.single_action_space, A2CConfig(gamma=0.8))
    seen: list[bool] = []  # whether a row waited at a mark

    def factory(num_envs: int, seed: int, render_mode: str | None) -> VectorEnv:
        env = Tallied(num_envs, autoreset_mode=mode)
        save = env.get_state
        env.get_state = lambda: seen.append(bool(env._ended.any())) or save()  # type: ignore[method-assign, func-returns-value]
        return env

    found = probe(agent, factory, num_envs=6, visits=12, within=60)
    assert found.gradient is not None and found.steps == Tallied.taken > 5_000
    assert any(seen) == (mode is AutoresetMode.NEXT_STEP)


def test_a_wrong_gradient_is_detected_even_if_values_are_right() -> None:
    def other_way(x: Tensor, action: Tensor) -> Tensor:  # right values, and the slope of another action's
        right = quadratic_cost(x, action)
        return right.detach() + (action.flip(0) - action.flip(0).detach() + action - action.detach()).sum(-1)

    found = probe(quadratic(other_way), task_factory(OneStepQuadratic, size=3))
    assert found.gradient is not None and found.gradient.cosine < 0.4 and found.gradient.relative_error > 0.8
    assert found.calibration.error < 1e-5
    against = probe(quadratic(lambda x, a: -quadratic_cost(x, a)), task_factory(OneStepQuadratic, size=3))
    assert against.gradient is not None and against.gradient.cosine == pytest.approx(-1, abs=1e-5)
    assert against.calibration.explained_variance == pytest.approx(-3, abs=1e-3)


# Many steps, noise, and a clock that must not count.

GAMMA = 0.9
BEST = LQR().optimal_gain(GAMMA)
GAIN = 0.4 * BEST  # at the best one the gradient is 0


def lqr_policy(x: Tensor, noise: Tensor) -> tuple[Tensor, None]:
    return -(x @ torch.tensor(GAIN.T, dtype=torch.float32)) / 10 + 0.0 * noise, None


def lqr_cost(x: Tensor, action: Tensor) -> Tensor:
    """`LQR.action_cost`, through which a gradient runs."""
    task = LQR()
    A, B, Q, R = (torch.tensor(m, dtype=torch.float32) for m in (task.A, task.B, task.Q, task.R))
    P, action = torch.tensor(task.policy_matrix(GAIN, GAMMA), dtype=torch.float32), 10 * action
    mean = x @ A.T + action @ B.T
    noise = task.noise**2 * P.trace() / (1 - GAMMA)
    return ((x @ Q) * x).sum(-1) + ((action @ R) * action).sum(-1) + GAMMA * (((mean @ P) * mean).sum(-1) + noise)


@pytest.mark.parametrize("horizon", [100, 12])
def test_a_correct_c_of_the_lqr_has_cosine_1_beyond_its_time_limit(horizon: int) -> None:
    agent = holder(LQR(), lambda c: Estimand(Given(c, lqr_cost), lqr_policy, normal(1), GAMMA))
    found = probe(agent, task_factory(LQR, horizon=horizon), visits=8, rounds=4)
    points, gradient = found.points, found.gradient
    assert points is not None and gradient is not None
    exact = 10 * LQR().cost_gradient(points.obs, 10.0 * points.action, GAIN, GAMMA)
    np.testing.assert_allclose(points.said, exact, rtol=1e-3, atol=1e-3)
    assert within((points.true.mean(1) - exact)[:, 0])
    assert abs(1 - gradient.cosine) <= max(2 * gradient.cosine_error, 0.01) and gradient.relative_error < 0.25
    assert found.calibration.left < 1e-3
    assert abs(found.calibration.bias) < 2 * found.calibration.bias_error


def test_its_costs_are_those_of_its_formula() -> None:
    rng, task = np.random.default_rng(0), LQR()
    state, action = rng.normal(size=(5, 2)), rng.normal(size=(5, 1))
    slope = (
        task.action_cost(state, action + 1e-5, GAIN, GAMMA) - task.action_cost(state, action - 1e-5, GAIN, GAMMA)
    ) / 2e-5
    np.testing.assert_allclose(task.cost_gradient(state, action, GAIN, GAMMA)[:, 0], slope, rtol=1e-6)
    np.testing.assert_allclose(task.policy_matrix(BEST, GAMMA), task.cost_matrix(GAMMA), rtol=1e-9)
    np.testing.assert_allclose(task.cost_gradient(state, -state @ BEST.T, BEST, GAMMA), 0, atol=1e-9)
    best = task.action_cost(state, -state @ BEST.T, BEST, GAMMA)
    np.testing.assert_allclose(best, -task.optimal_value(state, GAMMA), rtol=1e-9)


# Discrete actions: advantages.

CHAIN = Chain(5)


def chain(right: float, said: Callable[[Tensor], Tensor]) -> Any:
    def policy(x: Tensor, noise: Tensor) -> tuple[Tensor, None]:
        return (noise[:, 0] < right).long(), None

    def share(*batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(*batch, 1, generator=generator)

    probs = torch.tensor([1 - right, right])
    return holder(
        CHAIN, lambda c: Estimand(Given(c, said), policy, share, 0.9, probs=lambda x: probs.expand(len(x), 2))
    )


def chain_costs(right: float) -> Tensor:
    return -torch.tensor(CHAIN.action_values(np.tile([1 - right, right], (5, 1)), 0.9), dtype=torch.float32)


@pytest.mark.parametrize("right", [1.0, 0.6])
def test_advantages_are_those_of_enumeration(right: float) -> None:
    costs = chain_costs(right)
    found = probe(chain(right, lambda x: x @ costs), task_factory(Chain, n=5), visits=16, rounds=2)
    points, gradient = found.points, found.gradient
    assert points is not None and gradient is not None
    state = points.obs.argmax(1)
    exact = costs.numpy() - costs.numpy() @ np.array([1 - right, right], np.float32)[:, None]
    np.testing.assert_allclose(points.said, exact[state], atol=1e-5)
    if right == 1.0:  # nothing is drawn: nothing is left to chance
        np.testing.assert_allclose(points.true, np.repeat(exact[state][:, None], 2, 1), atol=1e-3)
        assert gradient.cosine > 1 - 1e-5 and gradient.relative_error < 1e-3
    else:
        assert len(set(state.tolist())) >= 3
        assert within((points.true.mean(1) - exact[state])[:, 1])
        assert abs(1 - gradient.cosine) <= 2 * gradient.cosine_error + 0.02 and gradient.cosine_error < 0.5
    wrong = probe(chain(right, lambda x: -(x @ costs)), task_factory(Chain, n=5), visits=16).gradient
    assert wrong is not None and wrong.cosine < -0.8


def test_the_values_of_the_chain_solve_its_equation() -> None:
    always = np.tile([0.0, 1.0], (5, 1))
    np.testing.assert_allclose(CHAIN.action_values(always, 0.9)[:, 1], CHAIN.optimal_value(0.9))
    np.testing.assert_allclose(CHAIN.action_values(always, 0.9)[0, 0], -1 + 0.9 * CHAIN.optimal_value(0.9)[0])


# Costs that never change: calibration, soft costs, endings.


def constant(said: float, gamma: float = 0.9, alpha: float = 0.0, n_step: int = 1, **task: Any) -> Any:
    def policy(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise.tanh(), torch.full((len(x),), 0.7)

    def cost(x: Tensor, action: Tensor) -> Tensor:
        return said + 0.0 * action.sum(-1)

    env = ConstantCost(discrete=False, **task)
    return holder(env, lambda c: Estimand(Given(c, cost), policy, normal(1), gamma, alpha, n_step)), partial(
        task_factory, ConstantCost, discrete=False, **task
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_constant_cost_beyond_its_time_limit(alpha: float) -> None:
    """cost 2 for ever, and each further state's entropy of 0.7 nats is worth `alpha` a nat."""
    truth = 2 / (1 - 0.9) - alpha * 0.7 * 0.9 / (1 - 0.9)
    agent, factory = constant(truth, alpha=alpha, reward=-2.0, horizon=7)
    found = probe(agent, factory())
    assert found.calibration.error < 2e-3 and abs(found.calibration.bias) < 2e-3 * truth
    assert np.isnan(found.calibration.explained_variance) and found.calibration.left < 1e-3
    assert found.gradient is not None and found.gradient.size < 1e-9 and np.isnan(found.gradient.cosine)
    clocked = 2 * (1 - 0.9**7) / (1 - 0.9)  # what a C says that takes the clock for an end
    agent, factory = constant(clocked, alpha=alpha, reward=-2.0, horizon=7)
    assert probe(agent, factory()).calibration.error == pytest.approx(abs(truth - clocked) / truth, abs=2e-3)


@pytest.mark.parametrize("n_step", [2, 3])
def test_n_step_transitions_count_entropy_once(n_step: int) -> None:
    truth, plain = (2 / (1 - 0.9) - 0.5 * 0.7 * 0.9**n / (1 - 0.9**n) for n in (n_step, 1))
    agent, factory = constant(truth, alpha=0.5, n_step=n_step, reward=-2.0, horizon=7)
    assert probe(agent, factory()).calibration.error < 2e-3
    agent, factory = constant(plain, alpha=0.5, n_step=n_step, reward=-2.0, horizon=7)  # negative control
    off = abs(truth - plain) / truth
    assert off > 0.05 and probe(agent, factory()).calibration.error == pytest.approx(off, abs=2e-3)


@pytest.mark.parametrize(("alpha", "n_step"), [(0.0, 1), (0.5, 1), (2.0, 3)])
def test_a_constant_cost_that_terminates(alpha: float, n_step: int) -> None:
    """Nothing follows a termination, no entropy either."""
    going = 0.9 * (1 - 0.2)
    truth = 2 / (1 - going) - alpha * 0.7 * going**n_step / (1 - going**n_step)
    agent, factory = constant(truth, alpha=alpha, n_step=n_step, reward=-2.0, horizon=None, terminate=0.2)
    found = probe(agent, factory(), num_envs=64).calibration
    assert abs(found.bias) < 1.5 * found.bias_error < 0.4
    assert found.error < 0.1


class Clocked(TaskVectorEnv):
    """Its clock cannot be stopped."""

    stop_clock = None  # type: ignore[assignment]


class Stateless(Clocked):
    """Nor can its state be saved."""

    get_state = None  # type: ignore[assignment]


@pytest.mark.parametrize("cls", [Clocked, Stateless])
def test_a_time_limit_that_cannot_be_removed_bootstraps_from_c(cls: type[TaskVectorEnv]) -> None:
    agent, _ = constant(20.0, reward=-2.0, horizon=7)
    found = probe(agent, task_factory(ConstantCost, cls, reward=-2.0, horizon=7, discrete=False), within=70)
    assert found.calibration.error < 1e-5  # exact, as C is right about the rest
    assert found.calibration.left == pytest.approx(np.mean(0.9 ** np.arange(1, 8)))
    agent, _ = constant(0.0, reward=-2.0, horizon=7)
    found = probe(agent, task_factory(ConstantCost, cls, reward=-2.0, horizon=7, discrete=False), within=70)
    assert found.calibration.bias == pytest.approx(-np.mean(20 * (1 - 0.9 ** np.arange(1, 8))))
    assert (found.gradient is None) == (cls is Stateless)
    assert found.reason == ("the environment's state cannot be saved: it has no get_state and set_state") * (
        cls is Stateless
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_truncation_termination_and_entropy_at_once(alpha: float) -> None:
    """C says the rest, with its entropy, only of rows that the clock cut off."""
    truth = 20.0 - alpha * 0.7 * 0.9 / (1 - 0.9)
    agent, _ = constant(truth, alpha=alpha, reward=-2.0, horizon=7)
    found = probe(agent, task_factory(ConstantCost, Stateless, reward=-2.0, horizon=7, discrete=False), within=70)
    assert found.calibration.error < 1e-5
    going = 0.9 * (1 - 0.2)
    truth = 2 / (1 - going) - alpha * 0.7 * going / (1 - going)
    task = {"reward": -2.0, "terminate": 0.2, "horizon": 7, "discrete": False}
    agent, _ = constant(truth, alpha=alpha, reward=-2.0, horizon=7)
    found = probe(agent, task_factory(ConstantCost, Stateless, **task), num_envs=64)
    assert abs(found.calibration.bias) < 1.5 * found.calibration.bias_error < 0.4


# The agents' own C.

BOX = ("costgrad/OneStepQuadratic-v0", {})
PRICES = {A2C: 0.0, PPO: 0.0, TD3: 0.0}


@pytest.mark.parametrize("name", [name for name in AGENTS if name not in GRADIENT_FREE])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_every_agent_has_an_estimand(name: str, env_id: str) -> None:
    if name == "td3" and env_id == "CartPole-v1":
        pytest.skip("a Box only")
    cls, config = AGENTS[name]
    env = make(env_id, 2)
    agent = cls(env.single_observation_space, env.single_action_space, config(gamma=0.5))
    before = {key: value.clone() for key, value in agent.state()[0].items()}
    found = probe(agent, env, num_envs=2, visits=1, within=5)
    assert found.calibration.predicted.shape == found.calibration.realised.shape == (10,)
    assert (found.gradient is None) == (name == "ppo") and ("states alone" in found.reason) == (name == "ppo")
    assert all(torch.equal(value, before[key]) for key, value in agent.state()[0].items())
    assert all(p.grad is None for p in agent.critic.parameters())
    env.close()


@pytest.mark.parametrize("name", GRADIENT_FREE)
def test_a_search_is_not_probed_and_says_why(name: str) -> None:
    lacks = "does not say what its C estimates" if name == "guidedes" else "has no C"
    with pytest.raises(UserError, match=f"{AGENTS[name][0].__name__} {lacks}: there is nothing to probe"):
        probe(small(name), make("CartPole-v1", 2))


def test_the_entropy_coefficient_is_in_units_of_cost() -> None:
    env = make("Pendulum-v1", 2)
    spaces = env.single_observation_space, env.single_action_space
    assert SAC(*spaces, SACConfig(alpha=0.3)).estimand().alpha == pytest.approx(0.3)
    assert (
        SAC(*spaces, SACConfig(n_step=3)).estimand().n_step
        == CrossQ(*spaces, CrossQConfig(n_step=3)).estimand().n_step
        == 3
    )
    reppo = REPPO(*spaces, REPPOConfig(alpha=0.01))
    reppo.unit.largest.fill_(500.0)
    assert reppo.estimand().alpha == pytest.approx(0.01 * 100)  # alpha counts in the size of costs
    assert A2C(*spaces).estimand().alpha == 0.0
    env.close()


def test_an_ensemble_is_read_as_the_actor_reads_it() -> None:
    env = make("Pendulum-v1", 2)
    spaces = env.single_observation_space, env.single_action_space
    for agent, read in (
        (A2C(*spaces, A2CConfig(n_critics=3)), lambda cost: cost.mean(0)),
        (SAC(*spaces), lambda cost: cost.amax(0)),
        (TD3(*spaces), lambda cost: cost[0]),
    ):
        agent.critic.net.weights[-1].data.normal_(generator=torch.Generator().manual_seed(0))
        x, action = torch.randn(5, 3), torch.rand(5, 1)
        torch.testing.assert_close(agent.estimand().cost(x, action), read(agent.critic.cost(x, action)))
    env.close()


def test_td3_continues_with_target_policy_smoothing() -> None:
    env = make("Pendulum-v1", 2)
    agent = TD3(
        env.single_observation_space, env.single_action_space, TD3Config(target_policy_noise=0.2, target_noise_clip=0.3)
    )
    x, noise = torch.randn(4, 3), torch.tensor([[0.0], [1.0], [-1.0], [9.0]])
    action, entropy = agent.estimand().policy(x, noise)
    torch.testing.assert_close(action - agent.actor(x), torch.tensor([[0.0], [0.2], [-0.2], [0.3]]))
    assert entropy is None
    env.close()


def test_a_policy_is_followed_with_its_own_probabilities() -> None:
    env = make("CartPole-v1", 2)
    agent = A2C(env.single_observation_space, env.single_action_space)
    estimate = estimand_of(agent.critic, agent.actor, 0.9, 0.2)
    x = torch.randn(1, 4).expand(4000, 4)
    action, entropy = estimate.policy(x, estimate.noise(4000, generator=torch.Generator().manual_seed(0)))
    assert estimate.probs is not None and entropy is not None
    share = float(estimate.probs(x[:1])[0, 1].detach())
    assert float(action.float().mean()) == pytest.approx(share, abs=0.03)
    torch.testing.assert_close(entropy, agent.actor(x).entropy())
    env.close()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_it_takes_every_autoreset_mode(mode: str) -> None:
    def factory(num_envs: int, seed: int, render_mode: str | None) -> VectorEnv:
        return CartPole(num_envs, max_episode_steps=30, autoreset_mode=mode)

    env = factory(2, 0, None)
    agent = A2C(env.single_observation_space, env.single_action_space, A2CConfig(gamma=0.5))
    found = probe(agent, factory, within=60)
    assert found.gradient is not None and found.points is not None
    # Every step costs -1 until the pole falls: no cost-to-go is below -2, and a reset row is no state.
    assert -2.001 < found.calibration.realised.min() < found.calibration.realised.max() <= -1
    assert (len(found.points.obs) == 64) == (mode != "NextStep")


def test_common_random_numbers_make_a_difference() -> None:
    """Up and down see the same noise: a gradient of 0 comes out as exactly 0 where costs are all noise."""

    class Noise(ConstantCost):
        def transition(self, state: Any, action: Any, rng: Any) -> Any:
            state, reward, terminated = super().transition(state, action, rng)
            return state, reward + rng.normal(size=len(state)), terminated

    agent, _ = constant(0.0, horizon=None)
    found = probe(agent, task_factory(Noise, horizon=None, discrete=False), within=20)
    assert found.points is not None and not found.points.true.any()
    assert found.calibration.realised.std() > 1


# Around training.


def same_run(cls: Any, config: Any, env_id: str, probe_every: int | None) -> tuple[Any, Any, Any]:
    env = make(env_id, 4, seed=3)
    agent = cls(env.single_observation_space, env.single_action_space, config, seed=3)
    torch.manual_seed(0)
    np.random.seed(0)
    result = train(agent, env, 1600, seed=3, eval_every=800, eval_episodes=2, progress=False, probe_every=probe_every)
    world = env.get_state(), torch.random.get_rng_state(), np.random.get_state()[1]
    env.close()
    return agent.state(), world, [evaluation for _, evaluation in result.evaluations]


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (A2C, A2CConfig(gamma=0.5, critic_warmup=0)),
        (REPPO, REPPOConfig(gamma=0.5, critic_warmup=0, epochs=1)),
        (SAC, SACConfig(gamma=0.5, learning_starts=400, update_ratio=0.05, buffer_size=2000)),
    ],
)
def test_training_with_a_probe_is_bit_equal_to_training_without(cls: Any, config: Any) -> None:
    plain, probed = (same_run(cls, config, "Pendulum-v1", every) for every in (None, 400))
    assert plain[0][1] == probed[0][1] and plain[2] == probed[2]
    assert plain[0][0].keys() == probed[0][0].keys()
    assert all(torch.equal(value, probed[0][0][key]) for key, value in plain[0][0].items())
    (one, torch_one, numpy_one), (two, torch_two, numpy_two) = plain[1], probed[1]
    assert all(np.array_equal(one["arrays"][key], two["arrays"][key], equal_nan=True) for key in one["arrays"])
    assert one["generators"] == two["generators"]
    assert torch.equal(torch_one, torch_two) and np.array_equal(numpy_one, numpy_two)


def tags(folder: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [e.step for e in accumulator.Scalars(name)] for name in names if name.startswith("critic/")}


def test_a_run_logs_its_probes_and_does_not_count_their_steps(tmp_path: Path) -> None:
    env = make("costgrad/OneStepQuadratic-v0", 8)
    agent = A2C(env.single_observation_space, env.single_action_space, A2CConfig(critic_warmup=0))
    result = train(agent, env, 2000, tmp_path / "run", probe_every=800, progress=False)
    assert result.step == 2000
    rows = read_table(tmp_path / "run" / "probes.csv")
    assert [row["step"] for row in rows] == [800, 1600, 2000]
    assert all(row["environment_steps"] == 3712 and abs(row["grad_cosine"]) <= 1 for row in rows)
    found = tags(tmp_path / "run")
    for name in ("grad_cosine", "explained_variance", "calibration"):
        assert found[f"critic/{name}"] == [800, 1600, 2000]
    env.close()


def test_without_a_state_to_save_the_gradient_is_left_out_with_a_message(tmp_path: Path, capsys: Any) -> None:
    env = make("Pendulum-v1", 2, backend="sync")
    agent = A2C(env.single_observation_space, env.single_action_space, A2CConfig(gamma=0.5))
    train(agent, env, 400, tmp_path / "run", probe_every=200)
    said = capsys.readouterr().out
    assert said.count("no probe of C's gradient: the environment's state cannot be saved") == 1
    assert sorted(tags(tmp_path / "run")) == ["critic/bias", "critic/calibration", "critic/explained_variance"]
    env.close()


def test_an_agent_without_c_is_not_probed(tmp_path: Path, capsys: Any) -> None:
    env = Remade(2)
    train(fake(env), env, 40, tmp_path / "run", probe_every=10)
    assert capsys.readouterr().out.count("no probe of C: Fake has no C") == 1
    assert not (tmp_path / "run" / "probes.csv").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_envs": 1}, "num_envs must be at least 2, got 1"),
        ({"rounds": 1}, "rounds must be at least 2, got 1"),
        ({"visits": 0}, "visits must be at least 1, got 0"),
        ({"step": 0.0}, "step must be above 0 and at most 0.5, got 0.0"),
    ],
)
def test_wrong_arguments_are_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}$"):
        probe(quadratic(quadratic_cost), task_factory(OneStepQuadratic), **wrong)


def test_it_needs_environments_of_its_own() -> None:
    with pytest.raises(UserError, match="no factory"):
        probe(quadratic(quadratic_cost), TaskVectorEnv(OneStepQuadratic, 2))
    with pytest.raises(UserError, match="SimpleNamespace has no C"):
        probe(SimpleNamespace(), Remade(2, cls=Countdown))


# What the environments give for it.


def test_a_batched_task_continues_from_a_saved_state() -> None:
    env, other = TaskVectorEnv(LQR, 3, horizon=9), TaskVectorEnv(LQR, 3, horizon=9)
    env.reset(seed=1)
    other.reset(seed=2)
    for _ in range(5):
        env.step(np.ones((3, 1)))
    other.set_state(env.get_state())
    for _ in range(10):
        one, two = env.step(np.ones((3, 1))), other.step(np.ones((3, 1)))
        assert all(np.array_equal(one[k], two[k]) for k in range(4))
    with pytest.raises(ValueError, match="num_envs 3 cannot be set here: it must be 2"):
        TaskVectorEnv(LQR, 2).set_state(env.get_state())


@pytest.mark.parametrize("make_env", [partial(TaskVectorEnv, LQR, horizon=9), partial(Pendulum, max_episode_steps=9)])
def test_reseed_and_stop_clock(make_env: Any) -> None:
    env = make_env(num_envs=3)
    env.reset(seed=1)
    state = env.get_state()
    assert env.stop_clock() == 9
    ends = []
    for seed in (5, 5, 6):
        env.set_state(state)
        env.reseed(seed)
        assert not any(env.step(np.zeros((3, 1)))[3].any() for _ in range(20))
        ends.append(env.reset()[0])
    assert np.array_equal(ends[0], ends[1]) and not np.array_equal(ends[1], ends[2])

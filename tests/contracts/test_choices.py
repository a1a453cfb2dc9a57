"""Vectors of choices (MultiDiscrete, MultiBinary): units, distributions, and C's gradient, exact by enumeration."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from costgrad.agents import AGENTS
from costgrad.envs import make
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import evaluate
from costgrad.rl.gradients.estimators import expected_and_taken, expected_cost
from costgrad.rl.networks.actor import CategoricalActor
from costgrad.rl.networks.critic import MAX_JOINT_ACTIONS, Critic, CriticSpec
from costgrad.rl.networks.distributions import MultiCategorical
from costgrad.rl.runs.train import train
from costgrad.rl.spaces import Codec, space_from_json, space_to_json

OBS = spaces.Box(-1, 1, (4,), np.float32)
SPACES: dict[str, Any] = {
    "even": spaces.MultiDiscrete([3, 3], start=[-1, 4]),
    "uneven": spaces.MultiDiscrete([2, 3, 4]),
    "grid": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    "bits": spaces.MultiBinary(3),
    "bit grid": spaces.MultiBinary([2, 2]),
}
CHOICES = (2, 3, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def actor_of(choices: tuple[int, ...] = CHOICES) -> CategoricalActor:
    """Far from uniform, in float64."""
    actor = CategoricalActor(4, choices, (8,), generator=generator()).double()
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(1), dtype=torch.float64))
    return actor


def critic_of(kind: Any, choices: tuple[int, ...] = CHOICES, ensemble: int = 1) -> Critic:
    size = int(np.prod(choices)) if kind == "discrete" else sum(choices)
    spec = CriticSpec((4,), kind, size, choices=choices, starts=(0,) * len(choices), hidden=(8,), ensemble=ensemble)
    critic = Critic(spec, generator(2)).double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(3), dtype=torch.float64))
    return critic


def features(rows: int = 5) -> Tensor:
    return torch.randn(rows, 4, generator=generator(4), dtype=torch.float64)


def every_action(choices: tuple[int, ...] = CHOICES) -> Tensor:
    return torch.tensor(list(product(*map(range, choices))))  # [P, D]


# Units ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_the_agents_choices_are_the_environments_and_back(name: str) -> None:
    space = SPACES[name]
    codec = Codec(OBS, space)
    rng = np.random.default_rng(0)
    inner = np.stack([rng.integers(0, n, 200) for n in codec.choices], -1)
    env = codec.env_action(inner)
    assert env.dtype == space.dtype and all(space.contains(action) for action in env)
    np.testing.assert_array_equal(codec.agent_action(env), inner)
    assert codec.discrete and codec.multi and codec.action_size == sum(codec.choices)
    lowest = codec.env_action(np.zeros((1, len(codec.choices)), np.int64))[0]
    np.testing.assert_array_equal(lowest.ravel(), codec.first_choices)


@pytest.mark.parametrize("name", SPACES)
def test_spaces_survive_json(name: str) -> None:
    assert space_from_json(space_to_json(SPACES[name])) == SPACES[name]


def test_other_spaces_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(UserError, match="it must be a bounded Box, Discrete, MultiDiscrete or MultiBinary"):
        Codec(OBS, spaces.Text(3))


# Distributions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [CHOICES, (3, 3), (1, 5), (2,) * 6])
def test_the_distribution_is_that_of_independent_categoricals(choices: tuple[int, ...]) -> None:
    actor, x = actor_of(choices), features()
    pi = actor(x)
    assert isinstance(pi, MultiCategorical)
    logits = torch.split(actor.net(x), list(choices), -1)
    parts = [torch.distributions.Categorical(logits=part) for part in logits]
    sample = torch.stack([part.sample() for part in parts], -1)
    log_prob = sum(part.log_prob(sample[:, d]) for d, part in enumerate(parts))
    torch.testing.assert_close(pi.log_prob(sample), log_prob)
    torch.testing.assert_close(pi.entropy(), sum(part.entropy() for part in parts))
    other = MultiCategorical(actor(x + 1).logits)
    others = [torch.distributions.Categorical(logits=part) for part in torch.split(actor.net(x + 1), list(choices), -1)]
    kl = sum(torch.distributions.kl_divergence(p, q) for p, q in zip(parts, others, strict=True))
    torch.testing.assert_close(pi.kl(other), kl)
    torch.testing.assert_close(pi.kl(MultiCategorical.of(pi.columns())), torch.zeros_like(kl))


def test_samples_come_as_often_as_pi_says_and_never_beyond_a_choice() -> None:
    actor, x = actor_of(), features(1)
    draws = 20_000
    pi = actor(x)
    sample = MultiCategorical(pi.logits.expand(draws, -1, -1)).sample(actor.noise(draws, generator=generator(5)))
    seen = torch.stack([(sample == action).all(-1).double().mean() for action in every_action()])
    joint = pi.joint(every_action())[0].detach()
    assert joint.sum().item() == pytest.approx(1.0)
    assert seen.sum().item() == pytest.approx(1.0)  # nothing that cannot be
    assert ((seen - joint).abs() < 4 * (joint * (1 - joint) / draws).sqrt() + 1e-9).all()
    assert (seen - joint.flip(0)).abs().max() > 0.02  # negative control


def test_acting_on_the_host_is_sampling_from_the_tensors() -> None:
    for choices in (CHOICES, (3, 3)):
        actor, x = actor_of(choices).float(), features(7).float()
        noise = actor.noise(7, generator=generator(6))
        with torch.no_grad():
            output, pi = actor.net(x).numpy(), actor(x)
        np.testing.assert_array_equal(actor.act(output, noise.numpy())[1], pi.sample(noise).numpy())
        np.testing.assert_array_equal(actor.act(output, None)[1], pi.mode().numpy())


# C --------------------------------------------------------------------------------------------------------------------


def exact(critic: Critic, actor: CategoricalActor, x: Tensor) -> Tensor:
    """E C(s, a) by summing over every action, one at a time."""
    log_probs, total = actor(x).log_probs, torch.zeros(len(x), dtype=torch.float64)
    for action in every_action():
        prob = torch.stack([log_probs[:, d, m] for d, m in enumerate(action.tolist())]).sum(0).exp()
        with torch.no_grad():
            cost = critic(x, action.expand(len(x), -1)).mean(0)
        total = total + prob * cost
    return total


def slope(value: Tensor, actor: CategoricalActor) -> Tensor:
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(value.sum(), list(actor.parameters()), retain_graph=True)]
    )


@pytest.mark.parametrize("ensemble", [1, 3])
def test_the_listed_expectation_and_its_gradient_are_exact(ensemble: int) -> None:
    critic, actor, x = critic_of("discrete", ensemble=ensemble), actor_of(), features()
    expected, wanted = expected_cost(critic, x, actor(x), None), exact(critic, actor, x)
    torch.testing.assert_close(expected, wanted)
    torch.testing.assert_close(slope(expected, actor), slope(wanted, actor))
    probs = actor(x).joint(critic.combinations)
    torch.testing.assert_close(critic.expected(x, probs).mean(0), wanted)
    action = torch.tensor([[1, 2, 3], [0, 0, 0], [1, 0, 2], [0, 1, 1], [1, 1, 0]])
    taken = expected_and_taken(critic, x, actor(x), None, action)[1]
    torch.testing.assert_close(taken, critic(x, action).mean(0).detach())


@pytest.mark.parametrize("ensemble", [1, 3])
def test_local_expectations_have_the_exact_gradient_in_expectation(ensemble: int) -> None:
    """Averaged over every sample, weighted by its probability, value and gradient are those of E C."""
    critic, actor, x = critic_of("one_hot", ensemble=ensemble), actor_of(), features()
    wanted = exact(critic, actor, x)
    weights = actor(x).joint(every_action()).detach()  # [B, P]
    local = [expected_cost(critic, x, actor(x), action.expand(len(x), -1)) for action in every_action()]
    values = sum(weights[:, p] * value for p, value in enumerate(local))
    torch.testing.assert_close(values.detach(), wanted.detach())
    torch.testing.assert_close(slope(values, actor), slope(wanted, actor))
    # Negative control: with the others at their mode instead of sampled it is another gradient.
    mode = expected_cost(critic, x, actor(x), actor(x).mode())
    assert (slope(mode, actor) - slope(wanted, actor)).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "kind"), [("even", "discrete"), ("uneven", "discrete"), ("many", "one_hot")])
def test_c_speaks_the_environments_units_and_comes_back_from_its_file(name: str, kind: str, tmp_path: Path) -> None:
    space = SPACES.get(name, spaces.MultiDiscrete([5, 7, 9], start=[2, 0, -3]))
    codec = Codec(OBS, space)
    critic = Critic(CriticSpec.of(codec, hidden=(8,)), generator())
    assert critic.spec.action == kind and (kind == "discrete") == (np.prod(codec.choices) <= MAX_JOINT_ACTIONS)
    with torch.no_grad():
        critic.net.weights[-1].add_(torch.randn(critic.net.weights[-1].shape, generator=generator(1)))
    space.seed(0)
    action = np.stack([space.sample() for _ in range(20)])
    obs, inner = torch.randn(20, 4, generator=generator(2)), torch.from_numpy(codec.agent_action(action))
    got = critic(obs, torch.from_numpy(action))
    if kind == "discrete":
        wanted = critic.cost(obs)[0, torch.arange(20), np.ravel_multi_index(tuple(inner.T.numpy()), codec.choices)]
    else:
        hot = [torch.eye(n)[inner[:, d]] for d, n in enumerate(codec.choices)]
        wanted = critic.head.mean(critic.net(torch.cat((obs, *hot), -1)))
    torch.testing.assert_close(got[0], wanted)
    critic.save(tmp_path / "c")
    assert torch.equal(Critic.load(tmp_path / "c")(obs, torch.from_numpy(action)), got)


# Agents ---------------------------------------------------------------------------------------------------------------


class Match(gymnasium.Env):
    """One step: reward 1 for each choice that says whether its number in obs is positive. The best return is D."""

    def __init__(self, space: Any, worst: bool = False) -> None:
        codec = Codec(OBS, space)
        self.choices, self.codec, self.sign = len(codec.choices), codec, -1.0 if worst else 1.0
        self.observation_space, self.action_space = spaces.Box(-1, 1, (self.choices,), np.float32), space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-1, 1, self.choices).astype(np.float32)
        return self.obs, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        right = (self.codec.agent_action(np.asarray(action)[None])[0] > 0) == (self.obs > 0)
        return self.obs, self.sign * float(right.sum()), True, False, {}


FAST: dict[str, dict[str, Any]] = {
    "a2c": {"critic_warmup": 500},
    "ppo": {"num_steps": 32, "batch_size": 64},
    "reppo": {"hidden": (64, 64), "batch_size": 128, "epochs": 4, "critic_lr": 3e-3, "actor_lr": 3e-3},
    "sac": {"hidden": (64, 64), "learning_starts": 500, "update_ratio": 0.125, "critic_lr": 3e-3, "actor_lr": 3e-3}
    | {"alpha": 0.1, "alpha_lr": 3e-3, "entropy_target": 0.2, "gamma": 0.0},
    "crossq": {"hidden": (64, 64), "learning_starts": 500, "update_ratio": 0.125, "critic_lr": 3e-3, "actor_lr": 3e-3}
    | {"alpha": 0.1, "alpha_lr": 3e-3, "entropy_target": 0.2, "gamma": 0.0},
}


@pytest.mark.parametrize(
    ("agent", "task"),
    [
        pytest.param(agent, task, marks=[pytest.mark.slow] if agent == "crossq" else [])
        for agent in FAST
        for task in ("listed", "one_hot", "reward turned over")
        if task != "one_hot" or agent not in ("sac", "crossq")
    ],
)
def test_every_agent_learns_vectors_of_choices(agent: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if task == "one_hot":
        # Three bits are then too many to list.
        monkeypatch.setattr("costgrad.rl.networks.critic_spec.MAX_JOINT_ACTIONS", 4)
    worst = task == "reward turned over"
    env = make(lambda: Match(SPACES["bits"], worst), 8, 0, backend="sync")
    cls, config = AGENTS[agent]
    trained = cls(env.single_observation_space, env.single_action_space, config(**FAST[agent]), seed=0)
    assert trained.critic.spec.action == ("none" if agent == "ppo" else task if task == "one_hot" else "discrete")
    train(trained, env, 10_000, None, progress=False)
    mean = evaluate(trained, env, 50).mean / 3
    assert mean > -0.15 if worst else mean > 0.85  # uniform choices are right half the time; turned over, that costs
    env.close()

"""Acting in NumPy: the numbers of the tensors' forward pass, from the same memory, so that training shows in it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from costgrad.agents.a2c import A2C, A2CConfig
from costgrad.rl.data import Step
from costgrad.rl.networks.actor import CategoricalActor, GaussianActor
from costgrad.rl.networks.batch_norm import BatchNormMLP
from costgrad.rl.networks.mlp import MLP
from costgrad.rl.networks.numpy_forward import NumpyForward
from costgrad.rl.norm import RunningNorm
from costgrad.rl.optim import Optimizer, descend

ROWS = (1, 2, 7, 64)
MODULES: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}
Forward = Callable[[Tensor], Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def opinionated(module: nn.Module, seed: int = 1) -> None:
    """Every parameter far from where it starts: biases from 0, gains from 1."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(0.5 * normal(*parameter.shape, seed=100 * seed + i))


def net_of(inputs: int, activation: Any = "tanh", layer_norm: bool = True, hidden: tuple[int, ...] = (16, 9)) -> MLP:
    net = MLP((inputs, *hidden, 3), None, activation, layer_norm, generator=generator())
    opinionated(net)
    return net


def norm_of(*shape: int) -> RunningNorm:
    norm = RunningNorm(shape, clip=1.5)  # so near that it cuts
    norm.update(2 + 3 * normal(200, *shape, seed=5))
    return norm


def by_torch(norm: RunningNorm | None, net: nn.Module) -> Forward:
    return lambda obs: net((obs if norm is None else norm(obs)).flatten(1)).detach()


def layers(net: MLP) -> nn.Sequential:
    """The same perceptron of torch's own modules: another way to the same number."""
    made: list[nn.Module] = []
    for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        linear = nn.Linear(*weight.shape)
        linear.weight.data, linear.bias.data = weight.data.T, bias.data
        made.append(linear)
        if i == len(net.weights) - 1:
            break
        if len(net.gains):
            normalise = nn.LayerNorm(len(bias))
            normalise.weight.data, normalise.bias.data = net.gains[i].data, net.shifts[i].data
            made.append(normalise)
        made.append(MODULES[net.activation]())
    return nn.Sequential(*made)


def gap(host: NumpyForward, forward: Forward, obs: Tensor) -> float:
    """The largest difference."""
    ours, theirs = host(obs.numpy()), forward(obs)
    assert isinstance(ours, np.ndarray) and ours.dtype == np.float32 and ours.shape == tuple(theirs.shape)
    return float(np.abs(ours - theirs.numpy()).max())


# The same numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("activation", MODULES)
def test_it_is_the_tensors_forward_pass(activation: Any, normalised: bool, layer_norm: bool) -> None:
    net, norm = net_of(5, activation, layer_norm), norm_of(5) if normalised else None
    host = NumpyForward(norm, net)
    for rows in ROWS:
        obs = 2 + 3 * normal(rows, 5, seed=rows)
        before = obs.clone()
        assert gap(host, by_torch(norm, net), obs) < 1e-5
        assert gap(host, by_torch(norm, layers(net)), obs) < 1e-5
        assert torch.equal(obs, before)


def without(part: str) -> tuple[RunningNorm, MLP]:
    """The usual net with one of its parts left out or changed."""
    norm, net = norm_of(5), net_of(5)
    if part == "normaliser":
        norm = RunningNorm((5,))
    elif part == "clip":
        norm.clip = 100.0
    elif part == "layer norm":
        net.gains, net.shifts = nn.ParameterList(), nn.ParameterList()
    elif part == "activation":
        net.activation = "silu"
    else:
        with torch.no_grad():
            entry = {"gain": net.gains, "shift": net.shifts, "weight": net.weights, "bias": net.biases}[part][-1]
            entry.fill_(1.0 if part == "gain" else 0.0)
    return norm, net


@pytest.mark.parametrize("part", ["normaliser", "clip", "layer norm", "activation", "gain", "shift", "weight", "bias"])
def test_every_part_shows_in_the_comparison(part: str) -> None:
    """The negative control of the above: what lacks a part is told apart."""
    obs = 2 + 3 * normal(64, 5, seed=3)
    norm, net = without(part)
    assert gap(NumpyForward(norm, net), by_torch(norm, net), obs) < 1e-5
    assert gap(NumpyForward(norm_of(5), net_of(5)), by_torch(norm, net), obs) > 0.05


@pytest.mark.parametrize("layer_norm", [False, True])
def test_images_are_normalised_by_channel_and_then_flattened(layer_norm: bool) -> None:
    shape = (4, 5, 3)
    norm, net = norm_of(*shape), net_of(60, layer_norm=layer_norm)
    for rows in ROWS:
        obs = torch.tensor([0.0, 5.0, -20.0]) + 3 * normal(rows, *shape, seed=rows)
        assert gap(NumpyForward(norm, net), by_torch(norm, net), obs) < 1e-5
        assert gap(NumpyForward(None, net), by_torch(None, net), obs) < 1e-4  # its inputs are larger
        flipped = by_torch(norm, net)(obs.flip(-1))  # negative control
        assert np.abs(NumpyForward(norm, net)(obs.numpy()) - flipped.numpy()).max() > 0.05


def test_a_net_without_hidden_layers_is_affine() -> None:
    net = net_of(5, hidden=())
    assert gap(NumpyForward(None, net), by_torch(None, net), normal(7, 5)) < 1e-5


@pytest.mark.parametrize("activation", MODULES)
def test_huge_and_broken_numbers_pass_as_they_do_in_torch(activation: Any) -> None:
    """A net that diverged is found out by its actions; a warning of NumPy's would fail this test."""
    for layer_norm in (False, True):
        net = net_of(5, activation, layer_norm)
        for size in (1e3, 1e15, torch.inf, torch.nan):
            obs = size * (1 + normal(7, 5).abs())
            ours, theirs = NumpyForward(None, net)(obs.numpy()), by_torch(None, net)(obs).numpy()
            finite = np.isfinite(theirs)
            assert np.array_equal(np.isfinite(ours), finite)
            largest = np.abs(theirs[finite]).max(initial=1.0)
            np.testing.assert_allclose(ours[finite], theirs[finite], rtol=0, atol=1e-5 * largest)
        NumpyForward(None, net)(np.full((2, 5), 1e30, np.float32))  # squares beyond float32


def test_on_another_device_it_is_the_tensors_own_pass() -> None:
    net, norm = net_of(60), norm_of(4, 5, 3)
    obs = 2 + 3 * normal(7, 4, 5, 3)
    for with_norm in (norm, None):
        host = NumpyForward(with_norm, net)
        host.on_cpu = False  # as if
        assert np.array_equal(host(obs.numpy()), by_torch(with_norm, net)(obs).numpy())


def test_an_ensemble_is_refused() -> None:
    with pytest.raises(TypeError, match="single MLP"):
        NumpyForward(None, MLP((3, 4, 2), 2, generator=generator()))
    with pytest.raises(TypeError, match="not BatchNormMLP"):  # its gains are no layer normalisation's
        NumpyForward(None, BatchNormMLP((3, 4, 2), generator=generator()))


# The same memory ------------------------------------------------------------------------------------------------------


def test_it_follows_steps_loading_and_statistics() -> None:
    net, norm = net_of(5), norm_of(5)
    optimizer = Optimizer(net, lr=0.1)
    host, obs = NumpyForward(norm, net), 2 + 3 * normal(7, 5)
    start = deepcopy(net.state_dict()), deepcopy(norm.state_dict())
    first = host(obs.numpy())

    descend(optimizer, net(obs).square().mean())
    assert np.abs(host(obs.numpy()) - first).max() > 0.01 and gap(host, by_torch(norm, net), obs) < 1e-5
    second = host(obs.numpy())
    norm.update(normal(500, 5))
    assert np.abs(host(obs.numpy()) - second).max() > 0.01 and gap(host, by_torch(norm, net), obs) < 1e-5
    net.load_state_dict(start[0])
    norm.load_state_dict(start[1])
    assert np.array_equal(host(obs.numpy()), first)


def test_a_copy_follows_the_copied_net() -> None:
    net, norm = net_of(5), norm_of(5)
    ours = {"host": NumpyForward(norm, net), "net": net, "norm": norm}
    obs = normal(7, 5)
    for theirs in (deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        before = ours["host"](obs.numpy())
        assert np.array_equal(theirs["host"](obs.numpy()), before)
        opinionated(theirs["net"], seed=2)
        theirs["norm"].update(normal(500, 5))
        assert gap(theirs["host"], by_torch(theirs["norm"], theirs["net"]), obs) < 1e-5
        assert np.abs(theirs["host"](obs.numpy()) - before).max() > 0.01
        assert np.array_equal(ours["host"](obs.numpy()), before)  # and ours stayed


OBS = spaces.Box(-10, 10, (5,), np.float32)
SPACES: dict[str, Any] = {"discrete": spaces.Discrete(3), "box": spaces.Box(-1, 1, (2,), np.float32)}
N = 6


def agent_of(space: str, seed: int = 0, **settings: Any) -> A2C:
    config = A2CConfig(num_steps=4, hidden=(16,), critic_warmup=0, actor_lr=0.05, **settings)
    return A2C(OBS, SPACES[space], config, seed)


def rollouts(agent: A2C, count: int, seed: int) -> None:
    """Feeds so many rollouts, each with its update."""
    draw = np.random.default_rng(seed)
    updates = agent.updates
    while agent.updates < updates + count:
        obs, next_obs = (draw.normal(2, 3, (N, 5)).astype(np.float32) for _ in range(2))
        action, no = agent.act(obs), np.zeros(N, dtype=bool)
        agent.observe(Step(obs, action, draw.normal(size=N), next_obs, no, no, ~no, {}))
        agent.update()


def mode_by_torch(agent: A2C, obs: np.ndarray) -> np.ndarray:
    """The mode of pi as the modules of the agent have it."""
    with torch.no_grad():
        pi = agent.actor(agent.critic.features(torch.from_numpy(obs)))
        mode = pi.logits if agent.codec.discrete else pi.action(pi.mode())  # type: ignore[union-attr]
    return mode.numpy()


def mode_by_host(agent: A2C, obs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The same from what the agent itself does to act: its logits, or its action."""
    outputs = []
    call = NumpyForward.__call__
    with monkeypatch.context() as patch:
        patch.setattr(NumpyForward, "__call__", lambda self, obs: outputs.append(call(self, obs)) or outputs[-1])
        action = agent.act(obs, explore=False)
    assert len(outputs) == 1
    if agent.codec.discrete:
        assert np.array_equal(action, outputs[0].argmax(-1))
        return outputs[0]
    return action


@pytest.mark.parametrize("normalize_obs", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_an_agent_acts_by_what_it_has_learnt_or_loaded(
    space: str, normalize_obs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, other = (agent_of(space, seed, normalize_obs=normalize_obs) for seed in (0, 1))
    obs = (2 + 3 * normal(64, 5, seed=9)).numpy()
    rollouts(other, 3, seed=2)
    modes: list[np.ndarray] = []

    def stands_apart_and_agrees() -> None:
        modes.append(mode_by_host(agent, obs, monkeypatch))
        np.testing.assert_allclose(modes[-1], mode_by_torch(agent, obs), rtol=0, atol=1e-5)
        assert all(np.abs(before - modes[-1]).max() > 1e-3 for before in modes[:-1])

    stands_apart_and_agrees()
    for i in range(2):
        rollouts(agent, 1, seed=i)
        stands_apart_and_agrees()
    tensors, meta = other.state()
    agent.load_state({name: value.clone() for name, value in tensors.items()}, meta)
    stands_apart_and_agrees()
    np.testing.assert_allclose(modes[-1], mode_by_torch(other, obs), rtol=0, atol=1e-5)
    copied = deepcopy(agent)
    copied.load_state(*agent_of(space, 7, normalize_obs=normalize_obs).state())
    np.testing.assert_allclose(mode_by_host(copied, obs, monkeypatch), mode_by_torch(copied, obs), rtol=0, atol=1e-5)
    assert np.array_equal(mode_by_host(agent, obs, monkeypatch), modes[-1])


# Samples --------------------------------------------------------------------------------------------------------------


def actors() -> Iterator[CategoricalActor | GaussianActor]:
    for layer_norm, seed in ((False, 1), (True, 2)):
        categorical = CategoricalActor(5, 4, (16,), layer_norm=layer_norm, generator=generator())
        opinionated(categorical, seed)
        yield categorical
        for state_std in (False, True):
            gaussian = GaussianActor(5, 3, (16,), layer_norm=layer_norm, generator=generator(), state_std=state_std)
            opinionated(gaussian, seed)
            with torch.no_grad():
                gaussian.log_std.copy_(torch.tensor([-0.7, 5.0, -12.0]))  # two of them beyond what it is held to
            yield gaussian


def test_acting_is_the_distributions_sample_and_action_or_their_mode() -> None:
    for actor in actors():
        for rows in ROWS:
            obs = normal(rows, 5, seed=rows)
            noise = actor.noise(rows, generator=generator(rows))
            with torch.no_grad():
                pi = actor(obs)
                drawn, mode = pi.sample(noise), pi.mode()
                expected = (drawn, pi.action(drawn)), (mode, pi.action(mode))
            output = NumpyForward(None, actor.net)(obs.numpy())
            got = actor.act(output, noise.numpy()), actor.act(output, None)
            for ours, theirs in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
                assert ours.dtype == theirs.numpy().dtype and ours.shape == tuple(theirs.shape)
                np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)
        # Negative control: other noise, and none, make other samples.
        other = actor.act(output, actor.noise(rows, generator=generator(99)).numpy())[0]
        for (a, _), b in pairwise((*got, (other, None), got[0])):
            b = b[0]
            assert not np.allclose(a, b, atol=1e-2)


@pytest.mark.parametrize("space", SPACES)
def test_an_agents_noise_decides_its_samples(space: str) -> None:
    """With the noise that its generator gives, the agent acts as the distributions would."""
    agent, obs = agent_of(space, 3), normal(N, 5, seed=4)
    opinionated(agent.actor)
    noise = agent.actor.noise(4, N, generator=torch.Generator().set_state(agent.acting.generator.get_state()))
    with torch.no_grad():
        pi = agent.actor(agent.critic.features(obs))
    no = np.zeros(N, dtype=bool)
    for t in range(3):
        action = agent.act(obs.numpy())
        np.testing.assert_allclose(action, pi.action(pi.sample(noise[t])).numpy(), rtol=0, atol=1e-5)
        agent.observe(Step(obs.numpy(), action, np.zeros(N), obs.numpy(), no, no, ~no, {}))
    wrong = pi.action(pi.sample(noise[0]))  # negative control
    assert not np.allclose(action, wrong.numpy(), atol=1e-2)

"""The steps of C and of an actor through C by hand: autograd's gradients of the losses that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from costgrad.rl.gradients.by_hand import ActorPass
from costgrad.rl.gradients.entropy import soft_cost
from costgrad.rl.gradients.steps import CriticActionGradient, critic_step, deterministic_step, soft_step
from costgrad.rl.networks.actor import DeterministicActor, actor_for
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.spaces import Codec

ROWS = 9
OBS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(4),
    "even": spaces.MultiDiscrete([3, 3]),
    "uneven": spaces.MultiDiscrete([2, 4]),
}
NETS: dict[str, dict[str, Any]] = {
    "relu": {"activation": "relu"},
    "tanh": {"activation": "tanh"},
    "layer_norm": {"activation": "relu", "layer_norm": True},
    "batch_norm": {"activation": "relu", "batch_norm": True},
    "one": {"activation": "relu", "ensemble": 1},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def opinionated(module: Any) -> Any:
    module.double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.add_(0.5 * normal(*parameter.shape, seed=seed))
    return module


class Scene:
    """C with a scale of its own, an actor and a batch of which row 3 does not count."""

    def __init__(self, space: str, net: str, head: str = "regression") -> None:
        self.codec = Codec(OBS, SPACES[space], "cpu")
        settings: dict[str, Any] = {"hidden": (8, 6), "ensemble": 2, "head": head, "bins": 21} | NETS[net]
        self.critic: Critic = opinionated(Critic(CriticSpec.of(self.codec, **settings), generator())).eval()
        self.critic.cost_scale.scale.fill_(3.0)
        self.actor = opinionated(actor_for(self.codec, (7,), "relu", False, 0.0, generator(1), state_std=True))
        self.x, self.target = normal(ROWS, 3, seed=2), 4 * normal(ROWS, seed=3)
        self.weight = torch.rand(ROWS, generator=generator(4), dtype=torch.float64)
        self.weight[3] = 0
        if space == "box":
            self.action = torch.rand(ROWS, 2, generator=generator(5), dtype=torch.float64) * 2 - 1
        else:
            with torch.no_grad():
                self.action = self.actor(self.x).sample(self.actor.noise(ROWS, generator=generator(5)).double())


def assert_same(ours: Sequence[Tensor], loss: Tensor, parameters: Any) -> None:
    theirs = torch.autograd.grad(loss, list(parameters))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert sum(b.abs().sum() for b in theirs) > 1e-3


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("space", SPACES)
def test_a_step_of_c(space: str, net: str, head: str) -> None:
    scene = Scene(space, net, head)
    critic, columns = scene.critic, (scene.x, scene.action, scene.target)
    losses, gradient = critic_step(critic, *columns, scene.weight)
    expected = critic.losses(*columns)
    torch.testing.assert_close(losses, expected)
    assert_same(gradient, expected @ scene.weight, critic.parameters())


def test_a_step_of_c_with_dropout() -> None:
    scene = Scene("box", "relu")
    masks = [normal(2, ROWS, width, seed=width).abs() for width in (8, 6)]
    columns = scene.x, scene.action, scene.target
    losses, gradient = critic_step(scene.critic, *columns, scene.weight, masks)
    expected = scene.critic.losses(*columns, masks)
    torch.testing.assert_close(losses, expected)
    assert_same(gradient, expected @ scene.weight, scene.critic.parameters())
    assert not torch.allclose(losses, scene.critic.losses(*columns))


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("space", SPACES)
def test_a_soft_actors_step(space: str, net: str, head: str) -> None:
    scene = Scene(space, net, head)
    critic, actor, alpha = scene.critic, scene.actor, torch.tensor(0.7, dtype=torch.float64)
    acted = ActorPass(actor, scene.x)
    noise = actor.noise(1, ROWS, generator=generator(6)).double() if space == "box" else None
    pi = actor(scene.x)
    sample, ours = (None, None) if noise is None else (pi.sample(noise), acted.pi.sample(noise))
    expected, its_entropy = soft_cost(critic, scene.x, pi, sample, alpha)
    soft, entropy, gradient = soft_step(critic, acted, scene.x, ours, alpha, scene.weight)
    torch.testing.assert_close(soft, expected)
    torch.testing.assert_close(entropy, its_entropy)
    assert_same(gradient, expected @ scene.weight, actor.parameters())
    _, _, other = soft_step(critic, acted, scene.x, ours, 2 * alpha, scene.weight)
    assert any(not torch.allclose(a, b) for a, b in zip(gradient, other, strict=True))


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("net", NETS)
def test_a_deterministic_actors_step_goes_through_the_first_of_c(net: str, head: str) -> None:
    scene = Scene("box", net, head)
    actor = opinionated(DeterministicActor(3, 2, (7,), "relu", False, 0.1, generator(1)))
    cost, gradient = deterministic_step(scene.critic, actor, scene.x, scene.weight)
    expected = scene.critic.cost(scene.x, actor(scene.x))
    torch.testing.assert_close(cost, expected[0])
    assert_same(gradient, expected[0] @ scene.weight, actor.parameters())


@pytest.mark.parametrize("net", NETS)
def test_the_slope_in_the_action_is_the_slope_of_finite_differences(net: str) -> None:
    scene = Scene("box", net, "hl_gauss")
    critic, x, action, step = scene.critic, scene.x, scene.action, 1e-6
    through = CriticActionGradient(critic, x, action)
    of_cost = normal(*through.cost.shape, seed=7)
    slope = through.slope(of_cost)
    for d in range(2):
        way = torch.zeros(2, dtype=torch.float64)
        way[d] = step
        with torch.no_grad():
            moved = critic.cost(x, action + way) - critic.cost(x, action - way)
        torch.testing.assert_close(slope[:, d], (of_cost * moved).sum(0) / (2 * step), rtol=1e-5, atol=1e-7)

"""Steps by hand: their gradients are autograd's of the losses that define them, for known networks alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from costgrad.agents.ppo import PPOConfig, Rows, ppo_loss
from costgrad.rl.gradients.descent import Descent
from costgrad.rl.gradients.fast import (
    CriticActionGradient,
    critic_step,
    deterministic_actor_step,
    joint_critic_step,
    ppo_step,
    refusal,
    soft_actor_step,
)
from costgrad.rl.gradients.losses import (
    critic_loss,
    deterministic_actor_loss,
    joint_critic_loss,
    soft_actor_loss,
)
from costgrad.rl.networks.actor import DeterministicActor, actor_for
from costgrad.rl.networks.batch_norm import BatchNormMLP
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.encoder import build_encoder
from costgrad.rl.networks.heads import Regression
from costgrad.rl.networks.mlp import MLP
from costgrad.rl.optim import Optimizer
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


def compare(loss: Any, step: Any, networks: tuple[Any, ...], args: tuple[Any, ...], learns: Any) -> None:
    """The step gives what the loss gives, and the gradient of its first entry."""
    expected = loss(*networks, *args)
    given, gradient = step(*networks, *args, out=())
    assert len(given) == len(expected)
    assert given[0].numel() == (0 if step is ppo_step else 1)  # PPO's total is not read, and so not computed
    for a, b in list(zip(given, expected, strict=True))[step is ppo_step :]:
        assert not a.requires_grad
        torch.testing.assert_close(a, b.detach())
    assert_same(gradient, expected[0], learns.parameters())


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("space", SPACES)
def test_a_step_of_c(space: str, net: str, head: str) -> None:
    scene = Scene(space, net, head)
    args = (scene.x, scene.action, scene.target, scene.weight, None)
    compare(critic_loss, critic_step, (scene.critic,), args, scene.critic)


def test_cs_loss_is_that_of_the_units_which_dropout_leaves() -> None:
    scene = Scene("box", "relu")
    critic = Critic(
        CriticSpec.of(scene.codec, hidden=(8, 6), activation="relu", dropout=0.5, head="regression"), generator()
    )
    opinionated(critic).float()  # at its start it says 0 whatever is left out
    x, action, target, weight = (t.float() for t in (scene.x, scene.action, scene.target, scene.weight))
    masks = critic.net.dropout_masks(ROWS, generator(7))
    expected = (critic.output(x, action, masks)[..., 0] - critic.cost_scale.scaled(target)).square().sum(0)
    torch.testing.assert_close(critic_loss(critic, x, action, target, weight, masks).losses, expected)
    assert not torch.allclose(critic_loss(critic, x, action, target, weight).losses, expected)


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("space", SPACES)
def test_a_soft_actors_step(space: str, net: str, head: str) -> None:
    scene = Scene(space, net, head)
    noise = None if space != "box" else scene.actor.noise(1, ROWS, generator=generator(6)).double()
    alpha = torch.tensor(0.7, dtype=torch.float64)
    networks = (scene.actor, scene.critic)
    compare(soft_actor_loss, soft_actor_step, networks, (scene.x, noise, alpha, scene.weight, None), scene.actor)
    gradient, other = (
        soft_actor_step(*networks, scene.x, noise, a, scene.weight, None, out=())[1] for a in (alpha, 2 * alpha)
    )
    assert any(not torch.allclose(a, b) for a, b in zip(gradient, other, strict=True))


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("net", NETS)
def test_a_deterministic_actors_step_goes_through_the_first_of_c(net: str, head: str) -> None:
    scene = Scene("box", net, head)
    actor = opinionated(DeterministicActor(3, 2, (7,), "relu", False, 0.1, generator(1)))
    args = (scene.x, scene.weight)
    compare(deterministic_actor_loss, deterministic_actor_step, (actor, scene.critic), args, actor)
    given, _ = deterministic_actor_step(actor, scene.critic, *args, out=())
    torch.testing.assert_close(given.cost, scene.critic.cost(scene.x, actor(scene.x))[0].detach())


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("net", ["batch_norm", "relu"])
@pytest.mark.parametrize("space", SPACES)
def test_a_joint_step_of_c(space: str, net: str, head: str) -> None:
    scene = Scene(space, net, head)
    with torch.no_grad():
        pi = scene.actor(scene.x + 1)
        noise = scene.actor.noise(1, ROWS, generator=generator(6)).double()
        sample = None if space != "box" else pi.sample(noise)
    discount = torch.full((ROWS,), 0.9, dtype=torch.float64)
    discount[1] = 0
    args = (scene.x, scene.action, scene.target, discount, scene.x + 1, pi, sample, torch.tensor(0.3), scene.weight)
    buffers = [buffer.clone() for buffer in scene.critic.net.buffers()]
    loss, gradient = joint_critic_step(scene.critic, *args, out=())
    moved = [buffer.clone() for buffer in scene.critic.net.buffers()]
    for buffer, before in zip(scene.critic.net.buffers(), buffers, strict=True):
        buffer.copy_(before)
    expected = joint_critic_loss(scene.critic, *args)
    assert not scene.critic.net.training
    for a, b in zip(loss, expected, strict=True):
        torch.testing.assert_close(a, b.detach())
    assert_same(gradient, expected.total, scene.critic.parameters())
    for buffer, a in zip(scene.critic.net.buffers(), moved, strict=True):  # running statistics moved alike
        torch.testing.assert_close(buffer, a)


@pytest.mark.parametrize("head", ["regression", "hl_gauss"])
@pytest.mark.parametrize("bonus", [0.0, 0.1])
@pytest.mark.parametrize("space", SPACES)
def test_a_step_of_ppo(space: str, bonus: float, head: str) -> None:
    scene = Scene(space, "tanh", head)
    spec = CriticSpec.of(scene.codec, hidden=(8, 6), head=head, bins=21, state_only=True)
    critic: Critic = opinionated(Critic(spec, generator()))
    with torch.no_grad():
        pi = scene.actor(scene.x)
        sample = pi.sample(scene.actor.noise(ROWS, generator=generator(5)).double())
        log_prob = pi.log_prob(sample) + normal(ROWS, seed=11)
    returns, value = scene.target / 4, scene.target / 4 + 2 * normal(ROWS, seed=10)
    columns = (log_prob, normal(ROWS, seed=9), returns, value, scene.weight, scene.weight)
    noise = scene.actor.noise(1, ROWS, generator=generator(6)).double() if space == "box" and bonus else None
    config = PPOConfig(ent_coef=bonus, clip_range_vf=0.2 if head == "regression" else 0.0)
    both = torch.nn.ModuleList([scene.actor, critic])
    args = (Rows(scene.x, sample, *columns), noise, config)
    compare(ppo_loss, ppo_step, (scene.actor, critic), args, both)
    # Negative control: both clips hold some rows.
    free = PPOConfig(ent_coef=bonus, clip_range=1.0)
    with_clips, without = (ppo_loss(scene.actor, critic, args[0], noise, c) for c in (config, free))
    assert not torch.allclose(with_clips.actor_loss, without.actor_loss)
    assert torch.allclose(with_clips.critic_loss, without.critic_loss) == (head == "hl_gauss")


@pytest.mark.parametrize("net", NETS)
def test_the_gradient_in_the_action_is_that_of_finite_differences(net: str) -> None:
    scene = Scene("box", net, "hl_gauss")
    critic, x, action, step = scene.critic, scene.x, scene.action, 1e-6
    through = CriticActionGradient(critic, x, action)
    grad_cost = normal(*through.cost.shape, seed=7)
    gradient = through.to_action(grad_cost)
    for d in range(2):
        way = torch.zeros(2, dtype=torch.float64)
        way[d] = step
        with torch.no_grad():
            moved = critic.cost(x, action + way) - critic.cost(x, action - way)
        torch.testing.assert_close(gradient[:, d], (grad_cost * moved).sum(0) / (2 * step), rtol=1e-5, atol=1e-7)


class Tanh(MLP):
    """A class of its own, however like an MLP it is."""


class Shifted(Critic):
    """A C of its own: no step by hand can know what it adds."""

    def output(self, *args: Any, **settings: Any) -> Tensor:
        return super().output(*args, **settings) + 1


class Bent(DeterministicActor):
    """An actor of its own."""


class Halved(Regression):
    """A head of its own."""


def test_only_exactly_known_networks_go_by_hand() -> None:
    scene = Scene("box", "relu")
    assert refusal(scene.actor) is None and refusal(scene.critic) is None
    for settings, why in (
        ({"layer_norm": True}, "layer normalisation"),
        ({"dropout": 0.1}, "dropout"),
        ({"activation": "silu"}, "activation silu"),
        ({"activation": "silu", "batch_norm": True}, "activation silu"),
    ):
        assert refusal(Critic(CriticSpec.of(scene.codec, hidden=(4,), **settings))) == why
    scene.actor.net = Tanh((3, 5, 4))
    assert refusal(scene.actor) == "its network is a Tanh"
    scene.actor.net = BatchNormMLP((3, 5, 4))
    assert refusal(scene.actor) == "its network is a BatchNormMLP"
    scene.critic.head = Halved()
    assert refusal(scene.critic) == "its head is a Halved"
    assert refusal(torch.nn.Linear(1, 1)) == "Linear is a module of its own"
    assert refusal(Shifted(CriticSpec.of(scene.codec, hidden=(4,)))) == "Shifted is a module of its own"
    assert refusal(Bent(3, 2, (7,), "relu", False, 0.1)) == "Bent is a module of its own"
    encoder = build_encoder(torch.nn.Linear(3, 5), scene.codec.obs, 0)
    encoded = Critic(CriticSpec.of(scene.codec, hidden=(4,), activation="relu"), encoder=encoder)
    assert refusal(encoded) == "there is an encoder"


def test_a_descent_of_a_network_of_its_own_is_down_its_own_loss() -> None:
    """By autograd, and so through what the class changed; its plain twin's step goes elsewhere."""
    ends = []
    for kind in (Shifted, Critic):
        scene = Scene("box", "tanh")
        critic = kind(scene.critic.spec, generator()).double()
        optimizer = Optimizer(critic)
        descent = Descent(critic_loss, critic_step, optimizer, critic)
        assert descent.reason == ("Shifted is a module of its own" if kind is Shifted else None)
        args = (scene.x, scene.action, scene.target, scene.weight, None)
        expected = critic_loss(critic, *args)
        slopes = torch.autograd.grad(expected.total, list(critic.parameters()))
        told, _ = descent(*args)
        assert not any(entry.requires_grad for entry in told)
        torch.testing.assert_close(told.total, expected.total.detach())
        torch.testing.assert_close(optimizer.gradient, torch.cat([slope.flatten() for slope in slopes]))
        ends.append(optimizer.gradient.clone())
    assert not torch.allclose(*ends)


def test_a_descent_by_hand_and_one_by_autograd_end_alike() -> None:
    """A hundred steps in float64: equal to rounding, and the way that was taken is said."""
    ends = []
    for by_hand in (critic_step, None):
        scene = Scene("box", "tanh")
        optimizer = Optimizer(scene.critic, "adam", 1e-2)
        descent = Descent(critic_loss, by_hand, optimizer, scene.critic)
        assert descent.reason == (None if by_hand else "no step by hand")
        for _ in range(100):
            loss, norm = descent(scene.x, scene.action, scene.target, scene.weight, None)
        assert not loss.total.requires_grad and norm.shape == ()
        ends.append(optimizer.flat.clone())
    assert (ends[0] - ends[1]).abs().max() < 1e-9
    assert (ends[0] - Optimizer(Scene("box", "tanh").critic).flat).abs().max() > 0.1

"""Any torch module as an encoder, for every agent with a C: right gradients, and all of it learns."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from costgrad.agents import AGENTS, PPO, SAC, TD3, PPOConfig, SACConfig, TD3Config
from costgrad.agents.a2c import actor_loss as a2c_loss
from costgrad.agents.ppo import ppo_loss
from costgrad.agents.reppo import Bounds
from costgrad.agents.reppo import actor_loss as reppo_loss
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import evaluate
from costgrad.rl.gradients.losses import deterministic_actor_loss, soft_actor_loss
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.encoder import SharedEncoder
from costgrad.rl.optim import Optimizer, descend
from costgrad.rl.runs.train import train
from costgrad.rl.spaces import Codec

IMAGE = spaces.Box(0, 255, (6, 6, 2), np.uint8)
NESTED = spaces.Dict(image=spaces.Box(0, 1, (6, 6, 2), np.float32), speed=spaces.Box(-9, 9, (2,), np.float32))
VECTOR = spaces.Box(-9, 9, (4,), np.float32)
BOX, CHOICE = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)
WITH_C = ["a2c", "ppo", "reppo", "sac", "td3", "crossq", "guidedes"]
LEARNERS = WITH_C[:-1]  # whose actor has an encoder as well
SMALL: dict[str, dict[str, Any]] = {
    "a2c": {"hidden": (8,), "num_steps": 8, "critic_warmup": 0, "batch_size": 16},
    "ppo": {"hidden": (8,), "num_steps": 8, "batch_size": 16, "epochs": 2},
    "reppo": {"hidden": (8,), "num_steps": 8, "critic_warmup": 0, "batch_size": 16, "epochs": 2},
    **{
        name: {"hidden": (8,), "learning_starts": 10, "batch_size": 16, "buffer_size": 200, "update_ratio": 1.0}
        for name in ("sac", "td3", "crossq")
    },
    "guidedes": {
        **{"hidden": (4,), "critic_hidden": (8,), "learning_starts": 10, "batch_size": 16, "buffer_size": 200},
        **{"directions": 1, "update_ratio": 1.0},
    },
}


class Conv(nn.Module):
    """A small convolutional encoder, smooth so that finite differences see no kinks."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(space.shape[-1], 3, 3), nn.Linear(3 * 16, 5)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x.permute(0, 3, 1, 2)).tanh().flatten(1)).tanh()


class Own(nn.Module):
    """A module as a user writes one: parameters of its own, a residual, a scale."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.first, self.scale = nn.Linear(space.shape[0], 6), nn.Parameter(torch.ones(6))  # type: ignore[index]
        self.norm, self.second = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return h + self.second(self.norm(h)).sin() * self.scale


class Parts(nn.Module):
    """Of a Dict space."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.image, self.speed = Conv(space["image"]), nn.Linear(2, 3)  # type: ignore[index]

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        assert x["image"].shape[1:] == (6, 6, 2) and x["speed"].shape[1:] == (2,)
        return torch.cat((self.image(x["image"]), self.speed(x["speed"])), -1)


ENCODERS: dict[str, tuple[Any, spaces.Space[Any]]] = {
    "conv": (Conv, IMAGE),
    "own": (Own, VECTOR),
    "dict": (Parts, NESTED),
}


class Task(gymnasium.Env):
    """The cost is the distance of the action from what the observation shows."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def _obs(self) -> Any:
        space, self.wanted = self.observation_space, self.np_random.uniform(-0.8, 0.8)
        if isinstance(space, spaces.Dict):
            image = np.full((6, 6, 2), (self.wanted + 1) / 2, np.float32)
            return {"image": image, "speed": self.np_random.normal(size=2).astype(np.float32)}
        if space.dtype == np.uint8:
            noise = self.np_random.integers(0, 60, space.shape)
            return (noise + 190 * (self.wanted + 1) / 2).astype(np.uint8)
        return np.append(self.np_random.normal(size=3), self.wanted).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        done = float(np.asarray(action, np.float64).ravel()[0])
        place = done - 1 if isinstance(self.action_space, spaces.Discrete) else done
        reward, self.t = -abs(place - self.wanted), self.t + 1
        return self._obs(), reward, False, self.t >= 5, {}


def factory(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Any:
    def make(num_envs: int, seed: int, render_mode: str | None = None) -> SyncVectorEnv:
        def one() -> Task:
            return Task(observation_space, action_space)

        return SyncVectorEnv([one] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

    return make


def build(name: str, kind: str = "own", action_space: Any = BOX, seed: int = 0, **settings: Any) -> Any:
    cls, config_cls = AGENTS[name]
    encoder, space = ENCODERS[kind]
    return cls(space, action_space, config_cls(**{**SMALL[name], **settings}), seed=seed, encoder=encoder)


def learn(agent: Any, steps: int = 120) -> Any:
    make = factory(agent.codec.observation_space, agent.codec.action_space)
    train(agent, make, steps, num_envs=2, seed=0, progress=False, eval_episodes=1)
    return agent


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cases() -> list[Any]:
    found = [(name, kind, BOX) for name in WITH_C for kind in ENCODERS]
    found += [(name, "conv", CHOICE) for name in WITH_C if name != "td3"]
    return [pytest.param(*case, id=f"{case[0]}-{case[1]}-{type(case[2]).__name__}") for case in found]


# Gradients ------------------------------------------------------------------------------------------------------------


def loss_of(agent: Any, name: str) -> Any:
    """The agent's actor's loss as a function of its parameters, on a batch of its own."""
    codec, rows = agent.codec, 7
    obs = codec.obs.stack([codec.observation_space.sample() for _ in range(rows)])
    x = agent.critic.features(torch.from_numpy(obs).double())
    weight = torch.full((rows,), 1 / rows, dtype=torch.float64)
    actor, critic = agent.actor, agent.critic
    if name == "guidedes":
        return lambda: agent.guiding_cost(torch.from_numpy(obs).double())
    if name == "td3":
        return lambda: deterministic_actor_loss(actor, critic, x, weight).total
    noise = agent.acting.action_noise(rows)
    noise = None if noise is None else noise.double()
    if name in ("sac", "crossq"):
        return lambda: soft_actor_loss(actor, critic, x, noise, torch.tensor(0.3), weight).total
    with torch.no_grad():
        pi = actor(x)
        sample = pi.sample(actor.noise(rows, generator=agent.acting.generator).double())
        columns = pi.columns() * 1.1
    returns = normal(rows, seed=3)
    if name == "reppo":
        from costgrad.agents.reppo import Rows as REPPORows

        batch = REPPORows(x, pi.action(sample), returns, columns, weight)
        bounds = Bounds(torch.tensor(0.2), torch.tensor(0.5), 0.02, 1.5)
        return lambda: reppo_loss(actor, critic, batch, noise, bounds)[0]
    if name == "ppo":
        from costgrad.agents.ppo import Rows as PPORows

        columns = (pi.log_prob(sample) + 0.05 * normal(rows, seed=4), normal(rows, seed=5), returns, returns)
        return lambda: ppo_loss(actor, critic, PPORows(x, sample, *columns, weight, weight), noise, agent.config).total
    from costgrad.agents.a2c import Rows as A2CRows

    row = A2CRows(x, pi.action(sample), sample, returns, normal(rows, seed=6), weight)
    return lambda: a2c_loss(actor, critic, row, noise, 2 * weight, agent.config)[0]


@pytest.mark.parametrize("name, kind, action_space", cases())
def test_the_actors_gradient_through_c_equals_finite_differences(name: str, kind: str, action_space: Any) -> None:
    agent = build(name, kind, action_space)
    for module in (agent.actor, agent.critic):
        module.double()
    if name == "guidedes" and agent.policies.norm is not None:
        agent.policies.norm.double()
    with torch.no_grad():
        for module in (agent.actor, agent.critic):  # far from where they start: C's last layer is 0 there
            for seed, p in enumerate(module.parameters()):
                p.add_(0.3 * normal(*p.shape, seed=seed))
    loss, parameters = loss_of(agent, name), list(agent.actor.parameters())
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=name == "guidedes")
    step, checked = 1e-6, 0
    for seed, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        if gradient is None:
            continue
        way, ends = normal(*p.shape, seed=50 + seed), []
        for sign in (1, -2, 1):
            with torch.no_grad():
                p.add_(way, alpha=sign * step)
                ends.append(float(loss()))
        difference = (ends[0] - ends[1]) / (2 * step)
        assert float((gradient * way).sum()) == pytest.approx(difference, rel=2e-5, abs=1e-8)
        checked += abs(difference) > 1e-7
    assert checked >= len(parameters) // 2


# All of it learns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, kind, action_space", cases())
def test_after_some_updates_every_parameter_has_moved(name: str, kind: str, action_space: Any) -> None:
    agent = build(name, kind, action_space)
    modules = {"critic": agent.critic, **({} if name == "guidedes" else {"actor": agent.actor})}
    before = {part: deepcopy(dict(module.named_parameters())) for part, module in modules.items()}
    learn(agent, 400 if name == "guidedes" else 160)
    assert agent.updates > 0
    for part, module in modules.items():
        for key, p in module.named_parameters():
            assert not torch.equal(p, before[part][key]), f"{part}.{key} never moved"
    assert any(key.startswith("encoder.module.") for key in before["critic"])
    if name != "guidedes":
        assert any(key.startswith("encoder.module.") for key in before["actor"])


@pytest.mark.parametrize("name", LEARNERS)
def test_an_encoder_goes_by_autograd_and_plain_networks_by_hand(name: str) -> None:
    why = "no step by hand" if name in ("a2c", "reppo") else "there is an encoder"
    assert build(name).update_path == f"by autograd ({why})"
    cls, config_cls = AGENTS[name]
    plain = cls(VECTOR, BOX, config_cls(**SMALL[name]))
    assert plain.update_path.startswith("by hand") == (name not in ("a2c", "reppo"))


def test_the_same_seed_gives_the_same_agent_and_leaves_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    agents = [learn(build("sac", "conv", seed=seed)) for seed in (4, 4, 5)]
    assert torch.equal(before, torch.get_rng_state())
    first, again, other = ([p for p in agent.actor.parameters()] for agent in agents)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_given_module_is_copied_for_each_and_stays_as_it_was() -> None:
    module = Own(VECTOR)
    before = deepcopy(module.state_dict())
    agent = learn(SAC(VECTOR, BOX, SACConfig(**SMALL["sac"]), encoder=module))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    encoders = [agent.actor.encoder, agent.critic.encoder, agent.target_critic.copy.encoder]
    weights = [encoder.module.first.weight for encoder in encoders]
    assert len({w.data_ptr() for w in weights}) == 3 and not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("share", ["critic", "both"])
def test_a_shared_encoder_is_trained_by_c_alone_or_by_both(name: str, share: str) -> None:
    agent = build(name, "own", share_encoder=share)
    assert isinstance(agent.actor.encoder, SharedEncoder) and agent.actor.encoder.encoder is agent.critic.encoder
    assert not any(key.startswith("encoder") for key, _ in agent.actor.named_parameters())
    agent.actor.double(), agent.critic.double()
    with torch.no_grad():
        for p in agent.critic.net.parameters():
            p.add_(0.3 * normal(*p.shape))
    loss = loss_of(agent, name)()
    encoder = list(agent.critic.encoder.parameters())
    gradients = torch.autograd.grad(loss, encoder, allow_unused=True)
    if name != "ppo":  # whose loss holds C's
        assert all(g is not None and g.any() for g in gradients) == (share == "both")
    agent = learn(build(name, "own", share_encoder=share), 160)
    fresh = build(name, "own", share_encoder=share)
    for (key, a), b in zip(agent.critic.named_parameters(), fresh.critic.parameters(), strict=True):
        assert not torch.equal(a, b), key


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "ppo"])  # whose C learns by the same loss
def test_the_actors_loss_reaches_a_shared_encoder_through_the_policy_alone(name: str) -> None:
    """C's features are held: an encoder that made C's input look cheap would be no better policy."""
    agent = build(name, "own", share_encoder="both")
    agent.actor.double(), agent.critic.double()
    with torch.no_grad():
        for p in agent.critic.net.parameters():
            p.add_(0.3 * normal(*p.shape))
    loss, encoder = loss_of(agent, name), list(agent.critic.encoder.parameters())
    together = torch.autograd.grad(loss(), encoder)
    agent.critic.encoder = deepcopy(agent.critic.encoder)  # what `loss` reads C's features from
    alone = torch.autograd.grad(loss(), encoder)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(together, alone, strict=True))
    assert all(g.any() for g in alone)


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_a_targets_encoder_has_the_statistics_of_cs(name: str) -> None:
    cls, config_cls = AGENTS[name]
    agent = learn(cls(VECTOR, BOX, config_cls(**SMALL[name]), encoder=Normalised))
    online, target = agent.critic.encoder.module, agent.target_critic.copy.encoder.module
    assert not target.training and online.norm.running_mean.any()
    last = agent.updates % getattr(agent.config, "policy_delay", 1)
    assert last or torch.equal(online.norm.running_mean, target.norm.running_mean)
    assert target.norm.running_mean.any() and not torch.equal(online.linear.weight, target.linear.weight)


def test_td3s_target_actor_reads_the_target_critics_encoder() -> None:
    agent = learn(build("td3", share_encoder="critic"))
    target = agent.target_critic.copy.encoder
    assert agent.target_actor.copy.encoder.encoder is target and target is not agent.critic.encoder


class Normalised(nn.Module):
    def __init__(self, space: Any) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.linear(x)))


@pytest.mark.parametrize("name", LEARNERS)
def test_to_act_modules_are_in_evaluation_mode(name: str) -> None:
    cls, config_cls = AGENTS[name]
    agent = learn(cls(VECTOR, BOX, config_cls(**SMALL[name]), encoder=Normalised))
    encoder = agent.actor.encoder
    assert encoder.training and encoder.module.norm.num_batches_tracked > 0
    statistics, obs = deepcopy(encoder.module.norm.state_dict()), np.ones((3, 4), np.float32)
    action, again = (agent.predict(obs, deterministic=True)[0] for _ in range(2))
    assert np.array_equal(action, again) and np.allclose(action[0], action[1])  # no dropout, no batch
    assert np.allclose(agent.predict(obs[0], deterministic=True)[0], action[0])
    assert encoder.training  # as it was
    assert all(torch.equal(statistics[k], v) for k, v in encoder.module.norm.state_dict().items())


# Files hold weights, never code ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_C)
@pytest.mark.parametrize("share", ["no", "both"])
def test_an_agent_comes_back_with_its_encoder_and_not_without(name: str, share: str, tmp_path: Path) -> None:
    settings = {} if name == "guidedes" else {"share_encoder": share}
    agent = learn(build(name, "conv", **settings))
    agent.save(tmp_path / "a")
    with pytest.raises(UserError, match=r"saved with the encoder Conv, .* give encoder= .*--encoder file.py:Conv"):
        type(agent).load(tmp_path / "a")
    again = type(agent).load(tmp_path / "a", encoder=Conv)
    obs = IMAGE.sample()
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    ours, theirs = agent.state()[0], again.state()[0]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(UserError, match="does not fit"):
        type(agent).load(tmp_path / "a", encoder=lambda space: nn.Sequential(nn.Flatten(), nn.Linear(72, 5)))
    plain = AGENTS[name][0](VECTOR, BOX, AGENTS[name][1](**SMALL[name]))
    plain.save(tmp_path / "b")
    with pytest.raises(UserError, match="without an encoder"):
        type(agent).load(tmp_path / "b", encoder=Own)


def test_c_comes_back_alone_and_goes_on_learning_in_an_agent(tmp_path: Path) -> None:
    agent = learn(build("sac", "conv"))
    agent.critic.save(tmp_path / "c")
    with pytest.raises(UserError, match="saved with the encoder Conv"):
        Critic.load(tmp_path / "c")
    c = Critic.load(tmp_path / "c", encoder=Conv)
    obs, action = torch.from_numpy(np.stack([IMAGE.sample() for _ in range(4)])), torch.rand(4, 2)
    assert torch.equal(c(obs, action), agent.critic(obs, action))
    before = deepcopy(c.state_dict())
    second = SAC(IMAGE, BOX, SACConfig(**SMALL["sac"]), seed=3, critic=c)
    assert second.critic is c and second.actor.encoder is not None
    learn(second)
    assert all(not torch.equal(before[key], p) for key, p in c.named_parameters())


def test_a_c_of_another_size_is_taken_and_comes_back_with_its_agent(tmp_path: Path) -> None:
    codec = Codec(VECTOR, BOX, "cpu")
    c = Critic(CriticSpec.of(codec, hidden=(5, 5), ensemble=3, head="regression"), torch.Generator().manual_seed(0))
    agent = learn(TD3(VECTOR, BOX, TD3Config(**SMALL["td3"]), critic=c))
    agent.save(tmp_path / "a")
    again = TD3.load(tmp_path / "a")
    assert again.critic.spec == c.spec and again.critic.spec.ensemble == 3
    assert all(torch.equal(a, b) for a, b in zip(c.parameters(), again.critic.parameters(), strict=True))


@pytest.mark.parametrize(
    "spec, why",
    [
        ({"obs": IMAGE}, "critic= has obs_shape"),
        ({"action": CHOICE}, "critic= has action 'discrete'"),
        ({"head": "hl_gauss"}, "critic= has head 'hl_gauss'"),
        ({"batch_norm": True}, "critic= has batch_norm True"),
    ],
)
def test_a_c_that_does_not_fit_is_refused(spec: dict[str, Any], why: str) -> None:
    codec = Codec(spec.pop("obs", VECTOR), spec.pop("action", BOX), "cpu")
    c = Critic(CriticSpec.of(codec, **{"hidden": (5,), "head": "regression", **spec}))
    with pytest.raises(UserError, match=why):
        SAC(VECTOR, BOX, SACConfig(**SMALL["sac"]), critic=c)


# Guards ---------------------------------------------------------------------------------------------------------------


class Wrong(nn.Module):
    def __init__(self, space: Any, result: Any = None) -> None:
        super().__init__()
        self.linear, self.spare, self.result = nn.Linear(4, 6), nn.Linear(2, 2), result

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) if self.result is None else self.result(self.linear(x))


@pytest.mark.parametrize(
    "encoder, why",
    [
        (lambda space: Wrong(space, lambda y: y[0]), r"encoder Wrong gives \(6,\) for 2 observations"),
        (lambda space: Wrong(space, lambda y: (y, y)), "encoder Wrong gives tuple for 2 observations"),
        (lambda space: Wrong(space, lambda y: y.long()), r"it must give features \[2, F\]"),
        (lambda space: nn.Linear(7, 2), r"encoder Linear fails on observations \(2, 4\)"),
        (lambda space: 3, "factory gives a int: it must give a torch module"),
        (lambda: nn.Linear(4, 2), "must take the observation space alone"),
        (3, "it must be a torch module or a factory"),
    ],
)
def test_a_wrong_encoder_is_named(encoder: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        PPO(VECTOR, BOX, encoder=encoder)


def test_a_parameter_that_the_loss_does_not_reach_is_named() -> None:
    agent = PPO(VECTOR, BOX, PPOConfig(**SMALL["ppo"]), encoder=Wrong)
    with pytest.raises(UserError, match=r"does not depend on the parameter .*spare.weight: freeze it"):
        learn(agent)

    def frozen(space: Any) -> nn.Module:
        module = Wrong(space)
        module.spare.requires_grad_(False)
        return module

    learn(PPO(VECTOR, BOX, PPOConfig(**SMALL["ppo"]), encoder=frozen))


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("part", ["critic", "actor", "actor.net", "critic.net"])
def test_a_network_that_is_set_later_is_refused_when_training_starts(name: str, part: str) -> None:
    agent, other = build(name), build(name, seed=1)
    holder, _, last = part.rpartition(".")
    value = other
    for step in part.split("."):
        value = getattr(value, step)
    setattr(getattr(agent, holder) if holder else agent, last, value)
    with pytest.raises(UserError, match="belongs to no optimizer: networks are given to an agent when it is built"):
        learn(agent)


def test_the_optimizer_refuses_gradients_of_another_number_or_shape() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
    optimizer = Optimizer(module)
    good = [torch.ones_like(p) for p in module.parameters()]
    optimizer.apply(good)
    with pytest.raises(ValueError, match="3 gradients for the 4 parameters"):
        optimizer.apply(good[:3])
    with pytest.raises(ValueError, match=r"gradient of 0.weight has shape \(3, 2\): its parameter has \(2, 3\)"):
        optimizer.apply([good[2], *good[1:]])


def test_penalties_go_by_the_kind_of_a_parameter() -> None:
    """Weights of linear, convolutional and recurrent layers shrink; biases, norms and gains stay."""
    module = nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 3, 3),
            "linear": nn.Linear(3, 2),
            "norm": nn.LayerNorm((3, 3)),
            "batch": nn.BatchNorm2d(3),
            "gru": nn.GRU(3, 2),
            "critic": Critic(CriticSpec((3,), "none", hidden=(4,), ensemble=2, layer_norm=True)),
        }
    )
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(1.0)
    optimizer = Optimizer(module, "rmsprop", lr=0.1, l2=0.5)
    optimizer.apply([torch.zeros_like(p) for p in module.parameters()])
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, torch.ones_like(p))}
    weights = {"conv.weight", "linear.weight", "gru.weight_ih_l0", "gru.weight_hh_l0"}
    assert moved == weights | {"critic.net.weights.0", "critic.net.weights.1"}


def test_descend_names_the_parameter_of_a_shared_optimizer() -> None:
    a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    first, second = Optimizer(a), Optimizer(b)
    with pytest.raises(UserError, match="does not depend on the parameter weight"):
        descend(first, a(torch.ones(1, 2)).sum(), second)


# It learns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, kind", [("ppo", "dict"), ("sac", "conv")])
def test_it_learns_to_see(name: str, kind: str) -> None:
    """The best return is 0; an action that does not look at the picture costs about 0.4 a step, 2 an episode."""
    settings: dict[str, Any] = {
        "ppo": {
            "hidden": (16,),
            "num_steps": 32,
            "batch_size": 64,
            "gamma": 0.0,
            "learning_rate": 3e-3,
            "ent_coef": 0.0,
        },
        "sac": {"hidden": (16,), "batch_size": 32, "gamma": 0.0, "actor_lr": 3e-3, "critic_lr": 3e-3, "alpha": 0.05},
    }[name]
    if name == "sac":
        settings |= {"learning_starts": 100, "buffer_size": 2000, "update_ratio": 0.5, "normalize_obs": True}
    encoder, space = ENCODERS[kind]
    cls, config_cls = AGENTS[name]
    agent = cls(space, spaces.Box(-1, 1, (1,), np.float32), config_cls(**settings), encoder=encoder)
    make = factory(space, spaces.Box(-1, 1, (1,), np.float32))
    train(agent, make, 6000 if name == "ppo" else 1500, num_envs=8, seed=0, progress=False, eval_episodes=1)
    assert evaluate(agent, make, 20, seed=5).mean > -0.8

"""What every agent can do beside learning: predict, save and load, and say what was called wrongly."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor, nn

from costgrad.agents.configs import NetworkConfig
from costgrad.rl import checkpoint
from costgrad.rl.agent_files import load_agent, save_agent
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.buffers.rollout import RolloutMemory
from costgrad.rl.buffers.saved import check_learnable
from costgrad.rl.checks import LARGEST, number, whole
from costgrad.rl.errors import UserError
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.gradients.descent import Descent, path_of
from costgrad.rl.networks.acting import Acting
from costgrad.rl.networks.actor import StochasticActor, actor_for
from costgrad.rl.networks.build import build_critic
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.encoder import EncoderLike, build_encoders
from costgrad.rl.optim import Optimizer, Target, check_owners
from costgrad.rl.settings import nearest
from costgrad.rl.spaces import Codec

COUNTER_RANGES = {"updates_due": (0, 10_000), "best_cost": (-math.inf, math.inf)}  # those that a file may hold


class AgentMixin:
    """Predict, save and load of an agent that keeps its state in `parts` and `counters`.

    Every agent is an `Agent` of rl/loop.py and is built from the same arguments, those without a C from the first five.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: its settings, of `config_class`.
        seed: decides initial weights, actions or noise, and batches.
        device: where its networks live; search without gradients stays on the CPU.
        encoder: a torch module, or a factory of the observation space: observations [B, ...] -> features [B, F].
        critic: a C that was trained before and goes on learning.

    Raises:
        UserError: a space it cannot be trained on, settings, an encoder or a C that do not fit.

    Attributes:
        keeps_episodes: see `Agent`.
        config_class: of its settings.
        counters: names of attributes that a checkpoint holds as JSON.
        parts: what a checkpoint holds as tensors, by name.
    """

    keeps_episodes: ClassVar[bool] = True
    config_class: ClassVar[type[Any]]
    counters: ClassVar[tuple[str, ...]] = ("steps", "updates")
    config: Any
    codec: Codec
    parts: dict[str, checkpoint.Part]
    steps: int
    updates: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuses what other toolkits' constructors take, in one line, before the agent is built."""
        if args or kwargs:
            _check_call(cls, args, kwargs)
        return super().__new__(cls)

    @property
    def player(self) -> Acting | Policies:
        """What acts for people."""
        found: Acting | Policies = self.acting if hasattr(self, "acting") else self.policies  # type: ignore[attr-defined]
        return found

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As `Agent` of rl/loop.py has it; `state` is handed back, for the policy has no memory between steps."""
        return self.player.predict(obs, deterministic), state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides the agent's future; the tensors are the live ones."""
        tensors = checkpoint.gather(self.parts)
        if isinstance(self.player, Acting):
            tensors |= self.player.state()
        return tensors, {name: getattr(self, name) for name in self.counters}

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Restores what `state` gave: the agent goes on within its episodes, unless `on_reset` drops them.

        Raises:
            ValueError: it is of another agent, or damaged.
        """
        counts = {name: meta[name] if name in meta else meta[checkpoint.OLD_COUNTERS[name]] for name in self.counters}
        for name, value in counts.items():
            least, most = COUNTER_RANGES.get(name, (0, LARGEST))
            check = whole if isinstance(getattr(self, name), int) else number
            check(value, name, least, most)  # type: ignore[arg-type]
        if isinstance(memory := getattr(self, "memory", None), Replay | RolloutMemory):
            rows = {name.removeprefix("memory."): value for name, value in tensors.items()}
            check_learnable(rows, self.codec, 2 if isinstance(memory, RolloutMemory) else 1)
        checkpoint.hand_out(tensors, self.parts)
        if isinstance(self.player, Acting):
            self.player.load_state(tensors, counts["steps"])
        for name, value in counts.items():
            setattr(self, name, value)

    def save(self, path: str | Path) -> None:
        """Writes the agent as a checkpoint folder, see rl/checkpoint.py. Raises UserError."""
        save_agent(path, self)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", encoder: EncoderLike | None = None) -> Self:
        """Reads what `save` wrote; no code is run from it.

        Args:
            path: the folder.
            device: where the agent lives.
            encoder: what the agent was built with, where it has an encoder.

        Raises:
            UserError: it cannot be read, or its encoder is missing.
        """
        return load_agent(path, cls, cls.config_class, device, encoder)

    def check_parameters(self) -> None:
        """Raises UserError unless every parameter that learns belongs to exactly one optimizer."""
        networks = {name: getattr(self, name, part) for name, part in self.parts.items() if isinstance(part, nn.Module)}
        networks = {name: part for name, part in networks.items() if not isinstance(part, Target)}
        check_owners(networks, [part for part in self.parts.values() if isinstance(part, Optimizer)])

    @property
    def update_path(self) -> str:
        """How the updates are computed, for people: by hand, or by autograd and why; "" without a gradient."""
        descents = [value for value in vars(self).values() if isinstance(value, Descent)]
        return path_of(*descents) if descents else ""

    def learn(self, *_: Any, **__: Any) -> NoReturn:
        """Raises UserError: how an agent is trained here."""
        raise UserError(
            "an agent has no learn(): costgrad.train(agent, env, total_timesteps) trains it, env from costgrad.make"
        )


def build_networks(
    codec: Codec,
    config: NetworkConfig,
    spec: CriticSpec,
    seed: int,
    encoder: EncoderLike | None,
    critic: Critic | None,
) -> tuple[StochasticActor, Critic]:
    """Actor and C of an agent with a stochastic policy.

    Args:
        codec: of the environment's spaces; it knows the device.
        config: that of the networks; what it does not have is as by default, `state_std` on.
        spec: of C.
        seed: decides the initial weights.
        encoder: as of `AgentMixin`.
        critic: as of `AgentMixin`.
    """
    start = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
    given = critic.encoder if critic is not None else None
    of_critic, of_actor = build_encoders(encoder, config.share_encoder, codec.obs, seed, given)
    built = build_critic(critic, spec, start, of_critic, codec.device)
    layer_norm, log_std = getattr(config, "layer_norm", False), getattr(config, "log_std", 0.0)
    state_std, init = getattr(config, "state_std", True), getattr(config, "init", "orthogonal")
    shape = (config.hidden, config.activation, layer_norm, log_std)
    actor = actor_for(codec, *shape, start, state_std, init, of_actor)  # type: ignore[arg-type]
    return actor.to(codec.device), built


def _check_call(cls: type[AgentMixin], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises UserError where an agent is not called as cls(observation_space, action_space, config)."""
    name, config_class = cls.__name__, cls.config_class
    how = f"{name}(env.single_observation_space, env.single_action_space) with env = costgrad.make(...)"
    first = args[0] if args else kwargs.get("observation_space")
    if not isinstance(first, Space):
        what = repr(first) if isinstance(first, str) or first is None else f"a {type(first).__name__}"
        raise UserError(f"{name} takes the spaces of an environment, got {what}: write {how}, then costgrad.train")
    known = [*inspect.signature(cls.__init__).parameters][1:]
    settings = [field.name for field in fields(config_class)]
    for key, value in kwargs.items():
        if key in settings:
            raise UserError(f"{key} is a setting: write {name}(..., {config_class.__name__}({key}={value!r}))")
        if key not in known:
            raise UserError(f"{name} takes no {key!r}{nearest(key, [*known, *settings])}: it takes {', '.join(known)}")
    config = args[2] if len(args) > 2 else kwargs.get("config")
    if config is not None and not isinstance(config, config_class):
        example = ", ".join(f"{key}={value!r}" for key, value in config.items()) if isinstance(config, dict) else "..."
        raise UserError(
            f"config is a {type(config).__name__}: {name} takes a {config_class.__name__}, "
            f"{config_class.__name__}({example})"
        )

"""The shape of a critic as plain JSON, and the one that fits an environment's spaces."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from costgrad.rl.networks.mlp import Activation, Init
from costgrad.rl.spaces import Codec

MAX_JOINT_ACTIONS = 256  # combinations of choices up to which C gives each a cost of its own


@dataclass(frozen=True)
class CriticSpec:
    """All that decides a critic's shape; plain JSON."""

    obs_shape: tuple[int, ...]
    action: Literal["none", "discrete", "box", "one_hot"]
    """C(s); C(s) -> a cost for each of n actions; C(s, a); C(s, a) of D choices that are too many to list."""
    action_size: int = 0
    """n of the discrete actions, A of the box, or the sum of the choices."""
    action_start: int = 0
    """The environment's first discrete action."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    """The box in the environment's units, flat."""
    hidden: tuple[int, ...] = (64, 64)
    ensemble: int = 1
    head: Literal["regression", "hl_gauss"] = "hl_gauss"
    bins: int = 101
    activation: Activation = "tanh"
    layer_norm: bool = False
    batch_norm: bool = False
    """Instead: `train()` and `eval()` then say whose statistics count, see rl/networks/batch_norm.py."""
    dropout: float = 0.0
    channel_axis: int = -1
    """Of an image observation; -1 is gymnasium's height x width x channel."""
    normalize_obs: bool = True
    """Whether observations are normalised with the statistics that `obs_norm.update` gathers."""
    choices: tuple[int, ...] = ()
    """Where an action is a vector of D choices: how many there are in each; their product is the n of "discrete"."""
    starts: tuple[int, ...] = ()
    """The environment's first of each of them."""
    init: Init = "orthogonal"
    """Initial weights, as rl/networks/mlp.py has them; C then starts at cost 0 everywhere, "uniform" near it."""
    features: int = 0
    """F of the encoder in front of it; 0 has none."""

    @staticmethod
    def of(codec: Codec, config: Any = None, state_only: bool = False, **settings: Any) -> CriticSpec:
        """The spec for an environment's spaces.

        Args:
            codec: of the spaces.
            config: of an agent; what stands in it under a name of ours is taken.
            state_only: leaves the action out.
            settings: further ones, by name.
        """
        ours = [field.name for field in fields(CriticSpec)]
        named = {name: getattr(config, name) for name in ours if hasattr(config, name)}
        if hasattr(config, "n_critics"):
            named["ensemble"] = config.n_critics
        settings = named | settings
        if state_only:
            return CriticSpec(codec.obs_shape, "none", **settings)
        if codec.multi:
            size, starts = math.prod(codec.choices), tuple(codec.first_choices)
            kind, size = ("discrete", size) if size <= MAX_JOINT_ACTIONS else ("one_hot", sum(codec.choices))
            return CriticSpec(codec.obs_shape, kind, size, choices=codec.choices, starts=starts, **settings)  # type: ignore[arg-type]
        if codec.discrete:
            start = int(codec.action_space.start)  # type: ignore[attr-defined]
            return CriticSpec(codec.obs_shape, "discrete", codec.action_size, start, **settings)
        low, high = codec.action_bounds or ((), ())
        return CriticSpec(codec.obs_shape, "box", codec.action_size, low=tuple(low), high=tuple(high), **settings)

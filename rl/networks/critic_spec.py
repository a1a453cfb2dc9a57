"""The shape of a critic as plain JSON, and the one that fits an environment's spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from operator import gt
from typing import Any, Literal, get_type_hints

from torch import Tensor

from costgrad.rl.checks import LARGEST, number, short, whole
from costgrad.rl.networks.mlp import Activation, Init
from costgrad.rl.settings import unfit
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


def dense_size(widths: Sequence[int]) -> int:
    """Weights and biases of layers of these widths, the first of which is the input: P."""
    return sum((a + 1) * b for a, b in pairwise(widths))


def read_spec(given: Any, tensors: Mapping[str, Tensor]) -> CriticSpec:
    """The spec in a file's JSON, whose C is no larger than the file.

    Args:
        given: JSON.
        tensors: of the file.

    Raises:
        ValueError: it is no spec, or the file holds fewer numbers than it asks for.
    """
    hints = get_type_hints(CriticSpec)
    if not isinstance(given, dict) or not {"obs_shape", "action"} <= given.keys() <= hints.keys():
        raise ValueError(f"the spec of C is {short(given)}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    for name, value in values.items():
        if wanted := unfit(value, hints[name]):
            raise ValueError(f"{name} of C is {short(value)}: it must be {wanted}")
    spec = CriticSpec(**values)
    held = sum(value.numel() for value in tensors.values())
    for name in ("obs_shape", "hidden", "choices"):
        for part in getattr(spec, name):
            whole(part, f"{name} of C", 1, held)
    for name in ("ensemble", "bins"):
        whole(getattr(spec, name), f"{name} of C", 1 if name == "ensemble" else 11)
    for name in ("action_size", "features"):
        whole(getattr(spec, name), f"{name} of C", 0, held)
    for name in ("action_start", "starts", "channel_axis"):
        found = getattr(spec, name)
        for part in found if isinstance(found, tuple) else (found,):
            whole(part, f"{name} of C", -LARGEST)
    number(spec.dropout, "dropout of C", 0, 0.99)
    for bound in (*spec.low, *spec.high):
        number(bound, "a bound of C's actions")
    _check_actions(spec)
    heads = spec.action_size if spec.action == "discrete" else 1
    outputs = spec.bins if spec.head == "hl_gauss" else 1
    inputs = (spec.features or math.prod(spec.obs_shape)) + (spec.action_size if heads == 1 else 0)
    if (count := spec.ensemble * dense_size((inputs, *spec.hidden, heads * outputs))) > held:
        raise ValueError(f"the spec of C needs {count:,} numbers, and the file holds {held:,}")
    return spec


def _check_actions(spec: CriticSpec) -> None:
    """Raises ValueError where what a spec says of actions does not fit together."""
    size, count = spec.action_size, len(spec.choices)
    wanted = {"none": 0, "box": len(spec.low), "one_hot": sum(spec.choices)}.get(spec.action, size)
    if spec.action == "discrete":
        wanted = math.prod(spec.choices) if count else max(size, 1)
    bounds = size if spec.action == "box" else 0
    fits = size == wanted and len(spec.low) == len(spec.high) == bounds and len(spec.starts) == count
    if not fits or (spec.action in ("none", "box") and count) or any(map(gt, spec.low, spec.high)):
        raise ValueError(f"the spec of C has actions that do not fit together: {spec.action}, {size} numbers")
    if spec.action == "discrete" and count and size > MAX_JOINT_ACTIONS:
        raise ValueError(f"the spec of C lists {size:,} actions: at most {MAX_JOINT_ACTIONS}")

"""What the fields of an agent's config may be, by name: agents share the names, so they share the ranges."""

from __future__ import annotations

import sys
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

from costgrad.rl.errors import UserError

_LARGEST = sys.float_info.max
COUNT = (1, _LARGEST, "at least 1")
NOT_NEGATIVE = (0, _LARGEST, "a finite number from 0 up")
SHARE = (0, 1, "from 0 to 1")
RANGES: dict[str, tuple[float, float, str]] = {
    **dict.fromkeys(("num_steps", "minibatch", "critic_passes", "ensemble", "action_samples", "hidden"), COUNT),
    "epochs": COUNT,
    **dict.fromkeys(("actor_lr", "critic_lr", "entropy_coef", "clip_norm", "l2", "l1"), NOT_NEGATIVE),
    **dict.fromkeys(
        ("decay_steps", "critic_warmup", "lr", "multiplier_lr", "value_clip", "value_coef", "target_kl"), NOT_NEGATIVE
    ),
    **dict.fromkeys(("kl_bound", "alpha", "beta"), (1e-9, _LARGEST, "above 0")),
    "entropy_target": (-_LARGEST, _LARGEST, "a finite number"),
    "clip": (1e-6, 1, "above 0 and at most 1"),
    "beta1": (0, 0.9999, "from 0 to 0.9999"),
    "noise_correlation": (0, 0.9999, "from 0 to 0.9999"),
    **dict.fromkeys(("gamma", "gae_lambda", "tau"), SHARE),
    **dict.fromkeys(("capacity", "critics", "n_step", "policy_delay"), COUNT),
    "batch": (1, 1_000_000, "from 1 to 1,000,000"),
    **dict.fromkeys(("learning_starts", "update_ratio", "noise", "target_noise", "noise_clip"), NOT_NEGATIVE),
    **dict.fromkeys(("alpha_lr", "priority", "hindsight"), NOT_NEGATIVE),
    "priority_correction": SHARE,
    # Of search without gradients.
    **dict.fromkeys(("population", "directions", "top", "episodes", "separable_from", "subspace"), COUNT),
    **dict.fromkeys(("critic_hidden", "guide_batch"), COUNT),
    "sigma": (1e-9, _LARGEST, "above 0"),
    "shrink": (1e-9, 1, "above 0 and at most 1"),
    **dict.fromkeys(("candidates", "first_step", "stability"), NOT_NEGATIVE),
    "isotropic": SHARE,
    # Of a black box's C.
    **dict.fromkeys(("memory", "samples"), COUNT),
    "steps": NOT_NEGATIVE,
    "dropout": (0, 0.99, "from 0 to 0.99"),
    "bins": (11, _LARGEST, "at least 11"),  # of fewer the outermost are wider than the margin that costs keep
    "log_std": (-5, 2, "from -5 to 2, where the actor keeps it"),
}


def check_settings(config: Any) -> None:
    """Checks every number of a config dataclass against `RANGES`, and every Literal against its choices.

    Raises:
        UserError: the first field that is out of its range (NaN is in none), or no such number.
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        choices = get_args(hint) if "Literal" in str(hint) else ()
        if choices and value not in choices:
            raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
        if name in RANGES:
            least, most, allowed = RANGES[name]
            several, whole = get_origin(hint) is tuple, "int" in str(hint)
            if several and not isinstance(value, tuple):
                raise UserError(f"{name} must be a tuple of numbers, each {allowed}, got {value!r}")
            numbers: tuple[Any, ...] = value if several else (value,)
            if not all(isinstance(number, Real) and least <= float(number) <= most for number in numbers):
                raise UserError(f"{name} must be {allowed}, got {value!r}")
            if whole and not all(isinstance(number, Integral) for number in numbers):
                raise UserError(f"{name} must be a whole number, got {value!r}")

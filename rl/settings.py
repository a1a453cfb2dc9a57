"""Configs: frozen dataclasses of settings, checked when they are made.

Agents share the names of their settings, so they share the ranges, and the names that settings had before.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from costgrad.rl.checks import LARGEST, short
from costgrad.rl.errors import UserError

ConfigT = TypeVar("ConfigT")
_LARGEST = 3.4e38  # of float32
COUNT = (1, _LARGEST, "at least 1")
NOT_NEGATIVE = (0, _LARGEST, "a finite number from 0 up")
SHARE = (0, 1, "from 0 to 1")
RANGES: dict[str, tuple[float, float, str]] = {
    **dict.fromkeys(("num_steps", "batch_size", "critic_passes", "n_critics", "action_samples", "hidden"), COUNT),
    **dict.fromkeys(("epochs", "buffer_size", "n_step", "policy_delay"), COUNT),
    **dict.fromkeys(("actor_lr", "critic_lr", "learning_rate", "multiplier_lr", "alpha_lr"), NOT_NEGATIVE),
    **dict.fromkeys(("ent_coef", "vf_coef", "max_grad_norm", "l2", "l1", "decay_steps", "critic_warmup"), NOT_NEGATIVE),
    **dict.fromkeys(("clip_range_vf", "target_kl", "learning_starts"), NOT_NEGATIVE),
    "update_ratio": (0, 1000, "from 0 to 1,000"),
    **dict.fromkeys(("exploration_noise", "target_policy_noise", "target_noise_clip"), NOT_NEGATIVE),
    **dict.fromkeys(("per_alpha", "hindsight"), NOT_NEGATIVE),
    **dict.fromkeys(("kl_bound", "alpha", "beta"), (1e-9, _LARGEST, "above 0")),
    **dict.fromkeys(("gamma", "gae_lambda", "tau", "per_beta"), SHARE),
    "entropy_target": (-_LARGEST, _LARGEST, "a finite number"),
    "clip_range": (1e-6, 1, "above 0 and at most 1"),
    "beta1": (0, 0.9999, "from 0 to 0.9999"),
    "noise_correlation": (0, 0.9999, "from 0 to 0.9999"),
    "dropout": (0, 0.99, "from 0 to 0.99"),
    "bins": (11, _LARGEST, "at least 11"),  # of fewer the outermost are wider than the margin that costs keep
    "log_std": (-5, 2, "from -5 to 2, where the actor keeps it"),
    # Of search without gradients.
    **dict.fromkeys(("population", "directions", "top", "episodes", "separable_from", "subspace"), COUNT),
    **dict.fromkeys(("critic_hidden", "guide_batch_size"), COUNT),
    "sigma": (1e-9, _LARGEST, "above 0"),
    "shrink": (1e-9, 1, "above 0 and at most 1"),
    **dict.fromkeys(("candidates", "first_step", "stability"), NOT_NEGATIVE),
    "isotropic": SHARE,
    # Of a black box's C.
    "samples": COUNT,
    "gradient_steps": NOT_NEGATIVE,
}
MOST = {"batch_size": 1_000_000, "guide_batch_size": 1_000_000}  # more rows than that are a mistake
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts", bool: "True or False"}
# What settings were called before: old checkpoints, rows, flags and code keep working.
RENAMED = {
    "fold": "n_step",
    "batch": "batch_size",
    "minibatch": "batch_size",
    "guide_batch": "guide_batch_size",
    "capacity": "buffer_size",
    "memory": "buffer_size",
    "steps": "gradient_steps",
    "clip_norm": "max_grad_norm",
    "entropy_coef": "ent_coef",
    "value_coef": "vf_coef",
    "lr": "learning_rate",
    "clip": "clip_range",
    "value_clip": "clip_range_vf",
    "critics": "n_critics",
    "ensemble": "n_critics",
    "noise": "exploration_noise",
    "target_noise": "target_policy_noise",
    "noise_clip": "target_noise_clip",
    "priority": "per_alpha",
    "priority_correction": "per_beta",
}
# What other toolkits call them.
ELSEWHERE = {
    "learning_rate": ("actor_lr", "critic_lr"),
    "n_steps": ("num_steps", "n_step"),
    "n_epochs": ("epochs",),
    "update_epochs": ("epochs",),
    "minibatch_size": ("batch_size",),
    "num_minibatches": ("batch_size",),
    "clip_coef": ("clip_range",),
    "value_loss_coef": ("vf_coef",),
    "replay_size": ("buffer_size",),
    "polyak": ("tau",),
    "target_entropy": ("entropy_target",),
    "net_arch": ("hidden",),
    "policy_kwargs": ("hidden", "activation"),
    "policy_frequency": ("policy_delay",),
    "policy_noise": ("target_policy_noise",),
    "train_freq": ("update_ratio",),
    "utd_ratio": ("update_ratio",),
    "anneal_lr": ("decay_steps",),
    "weight_decay": ("l2",),
    "discount": ("gamma",),
    "policy_lr": ("actor_lr",),
    "q_lr": ("critic_lr",),
    "seed": (),
}


def current_names(cls: type[Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings under the names that they have now, and a line for each that had another.

    Args:
        cls: the config.
        values: settings by name; what `cls` knows under no name stays as it is.
    """
    known = {field.name for field in fields(cls)}
    renamed = {name: RENAMED[name] for name in values if name not in known and RENAMED.get(name) in known}
    lines = [f"{old} is called {new} now" for old, new in renamed.items()]
    # An old name wins over the new one: `dataclasses.replace` hands on every field under its new name, too.
    current = {name: value for name, value in values.items() if name not in renamed}
    return current | {new: values[old] for old, new in renamed.items()}, lines


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """What may have been meant by an unknown setting, as the end of a message: " (did you mean ...?)", or ""."""
    known = list(known)
    name = name.replace("-", "_").lower()
    meant = [other for other in (RENAMED.get(name, ""), *ELSEWHERE.get(name, ())) if other in known]
    meant = meant or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""


@dataclass_transform(frozen_default=True)
def settings(cls: type[ConfigT]) -> type[ConfigT]:
    """A class decorator: a frozen dataclass whose settings are checked when it is made.

    A list is taken as a tuple and 1e6 as a number of steps; what a setting was called before is taken with a warning,
    and an unknown one is refused with the nearest that there is. `check`, if the class has it, checks more.

    Raises:
        UserError: when a config is made of a setting out of its range, or of an unknown one.
    """
    made: Any = dataclass(frozen=True)(cls)
    plain = made.__init__
    known = [field.name for field in fields(made)]

    @wraps(plain)
    def init(self: Any, *args: Any, **values: Any) -> None:
        values, lines = current_names(made, values)
        for line in lines:
            warnings.warn(f"{type(self).__name__}: {line}", FutureWarning, stacklevel=2)
        for name in values:
            if name not in known:
                raise UserError(f"{type(self).__name__} has no setting {name!r}{nearest(name, known)}")
        plain(self, *args, **values)
        if type(self) is made:  # a config that inherits this one checks all of it
            _tidy(self)
            check_settings(self)
            if hasattr(self, "check"):
                self.check()

    made.__init__ = init
    return made


def _tidy(config: Any) -> None:
    """Lists become tuples, and whole floats the integers that they stand for."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, list):
            object.__setattr__(config, name, tuple(value))
        elif hint is int and isinstance(value, float) and value.is_integer():
            object.__setattr__(config, name, int(value))


def check_settings(config: Any) -> None:
    """Checks each setting of a config against its type, its choices if it is a Literal, and `RANGES`.

    Raises:
        UserError: the first field that is something else, or out of its range (NaN is in none).
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if name in RANGES and get_origin(hint) is not Literal:
            least, most, allowed = RANGES[name]
            if name in MOST:
                most, allowed = MOST[name], f"from 1 to {MOST[name]:,}"
            several = get_origin(hint) is tuple
            if several and not isinstance(value, tuple):
                raise UserError(f"{name} must be a tuple of numbers, each {allowed}, got {short(value)}")
            numbers: tuple[Any, ...] = value if several else (value,)
            if not all(is_number(number) and least <= number <= most for number in _distinct(numbers)):
                raise UserError(f"{name} must be {allowed}, got {short(value)}")
        if wanted := unfit(value, hint):
            raise UserError(f"{name} must be {wanted}, got {short(value)}")


def unfit(value: Any, hint: Any) -> str:
    """What a value must be to have a type, "" if it has it; types beside those that settings have take anything."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        fits = any(type(value) is type(choice) and value == choice for choice in choices)
        return "" if fits else f"one of {', '.join(map(str, choices))}"
    if get_origin(hint) is tuple and len(get_args(hint)) == 2 and get_args(hint)[1] is Ellipsis:
        wanted = "" if isinstance(value, tuple) else "each"
        wanted = wanted or next(filter(None, (unfit(part, get_args(hint)[0]) for part in _distinct(value))), "")
        return wanted and f"a tuple of {_PLURALS.get(get_args(hint)[0], 'values')}"
    if hint is bool:
        return "" if isinstance(value, bool) else "True or False"
    if hint is int:
        fits = is_number(value) and isinstance(value, Integral)
        return "" if fits and abs(value) <= LARGEST else "a whole number, at most 2^53" if fits else "a whole number"
    if hint is float:
        return "" if is_number(value) else "a number"
    if hint is str:
        return "" if isinstance(value, str) else "text"
    return ""


def _distinct(values: Collection[Any]) -> Collection[Any]:
    """Each value once, of each type: a million equal ones, as a damaged file may hold, are checked as one."""
    try:
        return {(type(value), value): value for value in values}.values()
    except TypeError:  # a list, say
        return values


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)

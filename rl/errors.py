"""The error that is the user's to mend."""

from __future__ import annotations

import sys
from typing import Any, get_args, get_type_hints


class UserError(ValueError):
    """Something outside the library is wrong: one line that names the thing, its value and what is allowed.

    Scripts print the line and exit with code 2; every other exception is a defect of ours and keeps its traceback.
    """


def check_settings(
    config: Any,
    at_least_one: tuple[str, ...] = (),
    not_negative: tuple[str, ...] = (),
    unit_interval: tuple[str, ...] = (),
) -> None:
    """Checks fields of a config dataclass by name, and every field of a Literal type against its choices.

    Args:
        config: the dataclass.
        at_least_one: fields, or tuples of numbers, that count something.
        not_negative: fields from 0 up.
        unit_interval: fields from 0 to 1.

    Raises:
        UserError: the first field out of its range; NaN is in none.
    """
    for names, least, most, allowed in (
        (at_least_one, 1, float("inf"), "at least 1"),
        (not_negative, 0, sys.float_info.max, "a finite number from 0 up"),
        (unit_interval, 0, 1, "from 0 to 1"),
    ):
        for name in names:
            value = getattr(config, name)
            if not all(least <= number <= most for number in (value if isinstance(value, tuple) else (value,))):
                raise UserError(f"{name} must be {allowed}, got {value}")
    for name, hint in get_type_hints(type(config)).items():
        choices = get_args(hint) if "Literal" in str(hint) else ()
        if choices and getattr(config, name) not in choices:
            raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, got {getattr(config, name)!r}")

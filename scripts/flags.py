"""What is typed, in the form that the parser takes.

1e6 is a number of steps, 0-9 are ten seeds, 64,64 are two widths, days=1 is an argument of the environment. A flag that
was renamed keeps working and is named on stderr; an unknown one is refused with the nearest that there is.
"""

from __future__ import annotations

import ast
import json
import re
import types
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from costgrad.rl.errors import UserError
from costgrad.rl.settings import RENAMED, nearest
from costgrad.scripts.pick import spelled

PAIR = re.compile(r"[A-Za-z_]\w*=")
KEY_VALUE = ("env_kwargs", "settings")  # flags that take key=value, or a JSON object
LARGEST_RANGE = 10_000  # of seeds; more are a mistake
# What other toolkits call the flags that are no agent's setting.
ELSEWHERE = {
    **dict.fromkeys(("algo", "algorithm", "policy"), "agent"),
    **dict.fromkeys(("env_id", "environment", "env_name", "task"), "env"),
    **dict.fromkeys(("timesteps", "n_timesteps", "total_steps", "num_timesteps", "steps"), "total_timesteps"),
    **dict.fromkeys(("n_envs", "nenvs", "num_workers"), "num_envs"),
    **dict.fromkeys(("log_dir", "logdir", "log_folder", "output", "output_dir", "out", "save_dir"), "run_dir"),
    **dict.fromkeys(("load", "trained_agent", "restore"), "resume"),
    **dict.fromkeys(("gpu", "cuda"), "device"),
    **dict.fromkeys(("n_eval_episodes", "num_eval_episodes", "n_episodes", "num_episodes"), "episodes"),
    **dict.fromkeys(("eval_every", "eval_interval"), "eval_freq"),
    **dict.fromkeys(("save_every", "save_interval", "checkpoint_freq"), "save_freq"),
    **dict.fromkeys(("seed", "num_seeds"), "seeds"),
    **dict.fromkeys(("verbose", "quiet"), "progress"),
    "render_mode": "render",
    "environments": "envs",
    "agents": "agent",
}


class Flag(NamedTuple):
    """One flag of a command."""

    name: str  # with underscores, as its field is called
    hint: Any  # its type

    @property
    def kinds(self) -> tuple[Any, ...]:
        """Its type, or those of a union."""
        return get_args(self.hint) if get_origin(self.hint) in (Union, types.UnionType) else (self.hint,)

    @property
    def typed(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def number(self) -> bool:
        """Whether it takes one number."""
        return int in self.kinds or float in self.kinds

    @property
    def several(self) -> bool:
        """Whether it takes whole numbers, any number of them."""
        return any(get_origin(kind) is tuple and get_args(kind)[:1] == (int,) for kind in self.kinds)


def flags_of(cls: Any, default: Any = None) -> dict[str, Flag]:
    """The flags that a dataclass gives, those of its field `config` among them, by name; short ones by their letter."""
    found: dict[str, Flag] = {}
    for field, hint in get_type_hints(get_origin(cls) or cls, include_extras=True).items():
        if field == "config":
            inner = (get_args(cls) or (type(default.config),))[0]
            found |= flags_of(inner)
            continue
        name, aliases = field, list[str]()
        while get_origin(hint) is Annotated:
            for more in hint.__metadata__:
                name = getattr(more, "name", None) or name
                aliases += getattr(more, "aliases", None) or ()
            hint = hint.__origin__
        flag = Flag(name.replace("-", "_").strip("_"), hint)
        found |= {key: flag for key in (flag.name, *(alias.strip("-") for alias in aliases))}
    return found


def tidied(argv: Sequence[str], flags: Mapping[str, Flag]) -> tuple[list[str], list[str]]:
    """The arguments in the parser's form, and a line for each flag that has another name now.

    Args:
        argv: what was typed.
        flags: those of the command.
    Raises:
        UserError: a flag is unknown, or its value is none of the forms that it takes.
    """
    done, notes = list[str](), list[str]()
    objects: dict[str, dict[str, Any]] = {}
    words, asked = list(argv), "--help" in argv or "-h" in argv
    while words:
        word = words.pop(0)
        typed, equals, value = word.partition("=")
        if not _is_flag(word) or typed in ("-h", "--help") or typed.startswith("--tyro-"):
            done.append(word)
            continue
        name = typed.strip("-").replace("-", "_")
        flag = flags.get(name) or flags.get(name.removeprefix("no_"))
        if flag is None and (flag := flags.get(RENAMED.get(name, ""))) is not None:
            old, typed = typed, flag.typed
            notes.append(f"{old} is called {typed} now")
        if flag is None:
            if asked:
                continue
            raise UserError(f"unknown flag {typed}{_meant(name, flags)}")
        values = [value] if equals else _values(flag, words)
        del words[: 0 if equals else len(values)]
        if flag.name in KEY_VALUE and values and all(map(PAIR.match, values)):
            objects.setdefault(typed, {}).update(map(_pair, values))
            continue
        if flag.several:
            values = [number for text in values for number in _numbers(text, flag)]
        elif flag.number:
            values = [_number(text, flag) for text in values]
        elif flag.name == "agent":
            values = list(map(spelled, values))
        elif equals:
            typed, values = f"{typed}={value}", []
        done += [typed, *values]
    for typed, pairs in objects.items():
        done += [typed, json.dumps(pairs)]
    return done, notes


def _values(flag: Flag, words: Sequence[str]) -> list[str]:
    """The words that belong to a flag which stands before them, as far as it is one of those that are read here."""
    behind = list(takewhile(lambda word: not _is_flag(word), words))
    if flag.name in KEY_VALUE:
        return behind[:1] + list(takewhile(PAIR.match, behind[1:]))
    if flag.several or (flag.name == "agent" and flag.hint is not str and get_origin(flag.hint) is tuple):
        return behind
    return behind[:1] if flag.number or flag.name == "agent" else []


def whole(text: str) -> int | None:
    """A whole number as people write it: 1000000, 1_000_000, 1e6; None for anything else."""
    try:
        return int(text)
    except ValueError:
        pass
    if re.fullmatch(r"[+-]?\d[\d_]*(\.\d*)?[eE]\+?\d{1,2}", text):
        number = float(text)
        return int(number) if number.is_integer() else None
    return None


def json_object(flag: str, text: str) -> dict[str, Any]:
    """A flag's value that is a JSON object. Raises UserError."""
    example = f"{flag} gravity=9.8 days=3, or {flag} '{{\"gravity\": 9.8}}'"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{flag} {text!r} is not JSON ({error}): write {example}") from error
    if not isinstance(value, dict):
        raise UserError(f"{flag} must be a JSON object or key=value, got {text!r}: write {example}")
    return value


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, and no value: -1 and -.5 are numbers."""
    return re.match(r"--?[A-Za-z]", word) is not None


def _meant(name: str, flags: Mapping[str, Flag]) -> str:
    """The end of a message about an unknown flag: " (did you mean --agent?)", or ""."""
    known = sorted({flag.name for flag in flags.values()})
    if (other := ELSEWHERE.get(name)) in known or (other := f"eval_{other}") in known:
        return f" (did you mean --{str(other).replace('_', '-')}?)"
    hint = nearest(RENAMED.get(name, name), known) or nearest(name, known)
    meant = hint.removeprefix(" (did you mean ").removesuffix("?)").split(" or ") if hint else []
    return f" (did you mean {' or '.join('--' + other.replace('_', '-') for other in meant)}?)" if meant else ""


def _number(text: str, flag: Flag) -> str:
    """A number, whole where the flag takes no other. Raises UserError."""
    if text == "None" and type(None) in flag.kinds:
        return text
    if int in flag.kinds:
        if (number := whole(text)) is None:
            raise UserError(f"{flag.typed} must be a whole number, such as 100000 or 1e5, got {text!r}")
        return str(number)
    try:
        float(text)
    except ValueError as error:
        raise UserError(f"{flag.typed} must be a number, such as 0.001 or 1e-3, got {text!r}") from error
    return text


def _numbers(text: str, flag: Flag) -> list[str]:
    """The whole numbers of one word: 64,64 or [64,64]; 0-9 of seeds. Raises UserError."""
    found, ranges = list[str](), flag.name.endswith("seeds")
    for part in filter(None, text.strip("[]() ").split(",")):
        if ranges and (ends := re.fullmatch(r"(\d+)(?:-|\.\.)(\d+)", part.strip())):
            first, last = int(ends[1]), int(ends[2])
            if not 0 <= last - first < LARGEST_RANGE:
                raise UserError(f"{flag.typed} {part} must go up, as 0-9 does, by at most {LARGEST_RANGE:,}")
            found += map(str, range(first, last + 1))
        else:
            if (number := whole(part)) is None:
                such = "0 1 2, 0-9 or 0-4,7" if ranges else "64 64 or 64,64"
                raise UserError(f"{flag.typed} must be whole numbers, such as {such}, got {text!r}")
            found.append(str(number))
    return found


def _pair(text: str) -> tuple[str, Any]:
    """key=value; the value as JSON, as Python writes it, or else as the text that it is."""
    key, _, value = text.partition("=")
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value)
            json.dumps(found)
            return key, found
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return key, value

"""What a run keeps beside its agent, so that it goes on, once resumed, as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from torch import Tensor

from costgrad.rl.ledger import StepLedger
from costgrad.rl.loop import UnderWay
from costgrad.rl.packing import pack, unpack
from costgrad.rl.spaces import Codec

TASKS = ("evaluation", "probe")  # that may be due at a step and not done yet


class Position(NamedTuple):
    """The progress of a run."""

    step: int = 0  # environment steps done
    seconds: float = 0.0  # of training
    best: float | None = None  # mean return of the best evaluation
    pending: tuple[str, ...] = ()  # those of TASKS that were due at this step when it was saved


class Kept(NamedTuple):
    """What a checkpoint of a run holds beside agent and position; None where it was not saved."""

    ledger: dict[str, int] | None = None
    log: dict[str, Any] | None = None  # of Log.state
    under_way: UnderWay | None = None
    environments: Any = None

    def packed(self) -> tuple[Any, dict[str, Tensor]]:
        """JSON and tensors of it. Raises TypeError where the environments' state is no data."""
        under_way = None if self.under_way is None else vars(self.under_way)
        return pack({**self._asdict(), "under_way": under_way}, "run")


def position_of(run: Any) -> Position:
    """The position in a checkpoint's JSON. Raises ValueError."""
    try:
        position = Position(*(run.get(name, getattr(Position(), name)) for name in Position._fields))
        position = position._replace(pending=tuple(position.pending))
    except (AttributeError, TypeError) as error:
        raise ValueError("it was not written by a run") from error
    kinds = (int, int | float, int | float | None, tuple)
    fits = all(map(isinstance, position, kinds)) and set(position.pending) <= set(TASKS)
    if not fits or not 0 <= position.step < 2**53 or not 0 <= position.seconds < float("inf"):
        raise ValueError(f"its position is {position._asdict()}")
    return position


def kept_of(run: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Kept:
    """The rest of it; all None in a checkpoint of costgrad 0.1. Raises ValueError."""
    if "kept" not in run:
        return Kept()
    values = unpack(run["kept"], tensors)
    if not isinstance(values, dict) or values.keys() != set(Kept._fields):
        raise ValueError("what it keeps of its run is damaged")
    kept = Kept(**values)
    names = asdict(StepLedger()).keys()
    if kept.ledger is not None:
        counts = kept.ledger.values() if isinstance(kept.ledger, dict) and kept.ledger.keys() == names else [-1]
        if not all(type(count) is int and 0 <= count < 2**53 for count in counts):
            raise ValueError(f"its ledger is {kept.ledger}")
    if kept.under_way is None:
        return kept
    under_way = kept.under_way
    if not isinstance(under_way, dict) or under_way.keys() != vars(UnderWay()).keys():
        raise ValueError("its episodes under way are damaged")
    return kept._replace(under_way=UnderWay(**under_way))


def add_to_ledger(ledger: StepLedger, counts: Mapping[str, int]) -> None:
    """Adds saved counts to a ledger."""
    for name, count in counts.items():
        setattr(ledger, name, getattr(ledger, name) + count)


def why_not_exact(agent: Any, env: VectorEnv) -> str:
    """Why a resumed run has to start new episodes; "" where agent and environments go on within the old ones."""
    if not getattr(agent, "keeps_episodes", False):
        return f"{type(agent).__name__} does not say that its state() keeps what is of unfinished episodes"
    if callable(why := getattr(env, "why_not_exact", None)):
        return str(why())
    if callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None)):
        return ""
    return "the environment has no get_state and set_state (those that costgrad.make gives are saved)"


def state_of(env: VectorEnv) -> Any:
    """The environments' state. Raises whatever they raise."""
    save = getattr(env, "snapshot", None) or env.get_state  # type: ignore[attr-defined]
    return save()


def go_on(env: VectorEnv, codec: Codec, kept: Kept, seed: int, started: Mapping[str, Any]) -> tuple[UnderWay, str]:
    """Puts the environments where they stood when the run was saved.

    Args:
        env: made like those of the run.
        codec: the agent's.
        kept: what the run kept.
        seed: of a reset before.
        started: config.json of the run.

    Returns:
        the episodes under way, and ""; or none, and why new episodes start.
    """
    if kept.under_way is None or kept.environments is None:
        return UnderWay(), "the run was saved without the state of its environments"
    if _recipe(vars(env)) != _recipe(started):
        return UnderWay(), "the environment is another one than that which the run began with"
    at, n = replace(kept.under_way), env.num_envs
    wanted = {"obs": (n, *codec.obs_shape), "reset_row": (n,), "returns": (n,), "lengths": (n,)}
    for name, shape in wanted.items():
        value, like = getattr(at, name), getattr(UnderWay(), name)
        if not isinstance(value, np.ndarray) or value.shape != shape or (name != "obs" and value.dtype != like.dtype):
            return UnderWay(), f"the episodes under way are not those of {n} environments like these"
    try:
        env.reset(seed=seed)
        restore = getattr(env, "restore", None) or env.set_state  # type: ignore[attr-defined]
        restore(kept.environments)
    except Exception as error:  # whatever the user's class raises: the run goes on all the same
        return UnderWay(), " ".join(str(error).split()) or type(error).__name__
    return at, ""


def _recipe(about: Mapping[str, Any]) -> Any:
    """What environments are made from, as JSON has it: their name, or the content of their file, and arguments."""
    file, name = about.get("env_file"), about.get("env_argument")
    what = [file.get("sha256"), str(name).rpartition(":")[2]] if isinstance(file, dict) else name
    return json.loads(json.dumps([what, about.get("env_kwargs") or {}], default=str))

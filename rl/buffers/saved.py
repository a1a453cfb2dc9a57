"""Checks of saved buffers before their rows are taken: of numbers, of links between rows, of what an agent can learn.

All raise a ValueError of one line.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from costgrad.rl.checks import finite, generator_state, kind, tensor, within
from costgrad.rl.spaces import Codec

NONE = -1  # no next row
BESIDE = ("position", "largest", "generator", "priority", "newest", "episodes")  # what is no column of a replay
ROWS = {"cost": torch.float32, "following": torch.int64, "terminated": torch.bool, "valid": torch.bool}
MOST_EPISODES, PER_ROW = 2**24, 64  # episode numbers: at most so many, or so many for each row


def check_replay(state: Mapping[str, Tensor], capacity: int, prioritised: bool, hindsight: bool) -> None:
    """Checks what `Replay.state_dict` gave.

    Args:
        state: by name.
        capacity: of the buffer that takes it.
        prioritised: whether that buffer has priorities.
        hindsight: whether it relabels goals.

    Raises:
        ValueError: it is of another capacity, or damaged.
    """
    position = tensor(state, "position", torch.int64, [2])
    follows, size = (int(each) for each in position.tolist())
    if not 0 <= size <= capacity or not 0 <= follows < capacity or (size < capacity and follows != size):
        raise ValueError(f"its replay had another capacity than {capacity:,}: it holds {size:,} rows up to {follows:,}")
    within(tensor(state, "largest", torch.float64, []), "largest", 1e-300, 1e300)
    generator_state(tensor(state, "generator", torch.uint8, [None]), "generator")
    names = {"obs", "action", "next_obs", *ROWS} | ({"episode"} if hindsight else set())
    found = state.keys() - set(BESIDE)
    if found != (names if found or size else set()):
        wrong = sorted(map(str, found ^ names))[0]
        raise ValueError(f"its replay has other columns than those of this agent: {wrong[:60]}")
    if found:
        _check_columns(state, size, follows, capacity, hindsight)
    if prioritised and found:
        weight = tensor(state, "priority", torch.float64, [size])
        within(weight, "priority", 0, 1e300)
        if not bool(((weight > 0) & state["valid"]).any()) or bool(((weight > 0) & ~state["valid"]).any()):
            raise ValueError("its replay has priorities where there are no transitions, or none at all")
    if "newest" in state:
        within(tensor(state, "newest", torch.int64, [None]), "newest", 0, capacity if size else -1)
    if hindsight and "episodes" in state:
        highest = int(state["episode"].max()) if size else NONE
        within(tensor(state, "episodes", torch.int64, [None]), "episodes", NONE, highest)


def _check_columns(state: Mapping[str, Tensor], size: int, follows: int, capacity: int, hindsight: bool) -> None:
    for name in ("obs", "action", "next_obs"):
        if state[name].shape[:1] != (size,):
            raise ValueError(f"the tensor {name} is {kind(state[name])}: it must have {size:,} rows")
        finite(state[name], name)
    for name, dtype in ROWS.items():
        tensor(state, name, dtype, [size])
    if not bool(state["valid"].any()):
        raise ValueError("its replay holds no transition")
    following = state["following"]
    within(following, "following", NONE, size - 1)
    linked = (following != NONE).nonzero().squeeze(1)
    # Rows are older the further they are ahead of the next one to be written: a link leads from an older to a newer.
    older, newer = ((row - follows) % capacity for row in (linked, following[linked]))
    if not bool((older < newer).all()):
        raise ValueError("its replay links a row to an older one")
    if hindsight:
        episode = tensor(state, "episode", torch.int64, [size])
        within(episode, "episode", 0, max(MOST_EPISODES, PER_ROW * size))
        ends = episode[following == NONE]
        of_one = bool((episode[linked] == episode[following[linked]]).all())
        if not of_one or len(torch.unique(episode)) != len(torch.unique(ends)) or len(torch.unique(ends)) != len(ends):
            raise ValueError("its replay has episodes that do not hang together")


def check_learnable(columns: Mapping[str, Tensor], codec: Codec, axes: int) -> None:
    """Checks observations and actions of a buffer against an agent's spaces.

    Args:
        columns: with `obs`, `action` and `next_obs`; {} of an empty buffer.
        codec: of the spaces.
        axes: that come before those of one observation.

    Raises:
        ValueError: they are of other spaces.
    """
    if "obs" not in columns:
        return
    of_action = (len(codec.choices),) * codec.multi if codec.discrete else (codec.action_size,)
    of_obs, numbers = (torch.float32, torch.uint8), torch.int64 if codec.discrete else torch.float32
    wanted = {name: (codec.obs_shape, of_obs) for name in ("obs", "next_obs")} | {"action": (of_action, (numbers,))}
    for name, (shape, dtypes) in wanted.items():
        value = columns[name]
        if value.dim() < axes or tuple(value.shape[axes:]) != tuple(shape) or value.dtype not in dtypes:
            raise ValueError(f"the tensor {name} is {kind(value)}: its rows do not belong to this agent's spaces")
    if columns["obs"].dtype != columns["next_obs"].dtype:
        raise ValueError("its obs and next_obs are of two dtypes")
    sample, action = columns.get("extra.sample"), columns["action"]
    if sample is not None and (sample.shape != action.shape or sample.dtype != action.dtype):
        raise ValueError(f"the tensor sample is {kind(sample)}: it must be like the actions, {kind(action)}")
    if codec.discrete:
        most = torch.tensor(codec.choices) if codec.multi else torch.tensor(codec.choices[0])
        if bool((columns["action"] < 0).any()) or bool((columns["action"] >= most).any()):
            raise ValueError("its actions are none of this agent's")

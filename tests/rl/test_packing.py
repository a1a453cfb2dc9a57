"""Data that goes into a file comes back as it was, and what is no data is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from costgrad.rl.packing import pack, unpack

ARRAYS = st.sampled_from(
    [np.arange(6.0).reshape(2, 3), np.zeros((0, 4), np.int64), np.array(3, np.uint8), np.array([True, False])]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | ARRAYS
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text())
DATA = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert a == b or (math.isnan(a) and math.isnan(b))


@given(DATA)
@settings(max_examples=150, deadline=None)
def test_data_comes_back_as_it_was(value: Any) -> None:
    packed, tensors = pack(value, "run")
    text = json.dumps(packed, allow_nan=False)
    assert all(name.startswith("run.") for name in tensors)
    assert_same(value, unpack(json.loads(text), {name: tensor.clone() for name, tensor in tensors.items()}))


def test_generators_of_numpy_come_back_through_their_state() -> None:
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        one, other = kind(3), kind(4)
        np.random.Generator(one).random(7)
        packed, tensors = pack(one.state, "g")
        other.state = unpack(json.loads(json.dumps(packed)), tensors)
        assert np.random.Generator(one).random() == np.random.Generator(other).random()


def test_numpy_scalars_keep_their_type() -> None:
    for value in (np.float32(1.5), np.int8(-3), np.bool_(True), np.float64("nan")):
        again = unpack(*pack(value, "a"))
        assert type(again) is type(value) and again.tobytes() == value.tobytes()


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, np.array([None]), np.array(["a"]), 1j, np.longdouble(1), [lambda: 0], torch.zeros(2), range(3)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        pack(value, "a")


def test_data_nested_for_ever_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="nested too deeply"):
        pack(loop, "a")


@pytest.mark.parametrize(
    "packed",
    [{}, {"array": "gone"}, {"float": "__import__"}, {"what": "a.0"}, {"dict": [[[1], 2]]}, {"tuple": 3},
     {"array": ["a.0"]}, {"a": 1, "b": 2}, {"scalar": "a.0"}, {"dict": {"a": 1}}],
    ids=repr,
)  # fmt: skip
def test_what_is_not_packed_is_refused(packed: Any) -> None:
    with pytest.raises(ValueError, match="no "):
        unpack(packed, {"a.0": torch.zeros(2)})

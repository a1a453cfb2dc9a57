"""Policies as rows of an array: each row acts as the network with its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from costgrad.rl.data import to_numpy
from costgrad.rl.evolution.policies import Policies
from costgrad.rl.spaces import Codec

OBS = spaces.Box(-10, 10, (3,), np.float32)
ACTIONS: dict[str, Any] = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(4, start=2),
    "even": spaces.MultiDiscrete([3, 3]),
    "uneven": spaces.MultiDiscrete([2, 4]),
    "bits": spaces.MultiBinary(3),
}
NETS: list[tuple[tuple[int, ...], Any]] = [((), "tanh"), ((8,), "relu"), ((8, 6), "silu"), ((8, 6), "tanh")]


@pytest.mark.parametrize("hidden, activation", NETS)
@pytest.mark.parametrize("action", ACTIONS)
def test_each_row_acts_as_the_network_of_its_parameters(action: str, hidden: tuple[int, ...], activation: Any) -> None:
    policies = Policies(Codec(OBS, ACTIONS[action]), hidden, activation, True, 0)
    draw = np.random.default_rng(0)
    obs = draw.normal(2, 3, (5, 3)).astype(np.float32)
    policies.record_obs(obs, np.ones(5, np.bool_))
    policies.renew_norm()
    rows = draw.normal(size=(5, policies.size)).astype(np.float32)
    layers = policies.layers(rows)
    assert all(np.shares_memory(part, rows) for layer in layers for part in layer)
    together = policies.act(layers, obs)
    assert policies.norm is not None
    for i, row in enumerate(rows):
        policies.move(row)
        np.testing.assert_array_equal(policies.center, row)
        np.testing.assert_allclose(policies.best(obs)[i], together[i], rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            output = policies.actor.net(policies.norm(torch.from_numpy(obs)))
        theirs = output.tanh() if action == "box" else policies.actor.policy(output).mode()  # type: ignore[operator, union-attr]
        np.testing.assert_allclose(to_numpy(theirs)[i], together[i], rtol=1e-4, atol=1e-6)
    if action == "box":
        assert np.abs(together).max() <= 1 and len(np.unique(together)) == 10
    else:
        env = policies.codec.env_action(together)
        assert all(ACTIONS[action].contains(a) for a in (env if env.ndim > 1 else env.astype(np.int64)))


def test_the_parts_of_a_vector_are_the_networks_own() -> None:
    policies = Policies(Codec(OBS, ACTIONS["box"]), (8,), "tanh", False, 0)
    vector = torch.arange(float(policies.size))
    parts = policies.split(vector)
    assert [part.shape for part in parts] == [p.shape for p in policies.actor.net.parameters()]
    assert torch.equal(torch.cat([part.flatten() for part in parts]), vector)


def test_the_centre_starts_with_the_same_action_everywhere() -> None:
    policies = Policies(Codec(OBS, ACTIONS["box"]), (8,), "tanh", False, 0)
    assert (policies.best(np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)) == 0).all()
    assert np.abs(policies.center).max() > 0  # but not because all is 0


def test_a_state_of_another_normalisation_is_refused() -> None:
    plain, normal = (Policies(Codec(OBS, ACTIONS["box"]), (), "tanh", on, 0) for on in (False, True))
    with pytest.raises(ValueError, match=r"policy\.norm\.center too many"):
        plain.load_state_dict(normal.state_dict())

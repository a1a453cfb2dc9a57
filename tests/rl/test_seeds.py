"""Seeds of generators: all different, within a run and among runs of neighbouring seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from costgrad.agents.a2c import A2C
from costgrad.rl.errors import UserError
from costgrad.rl.seeds import spawn_seeds

COUNT, SEEDS = 4, range(50)


def streams(seeds: list[int]) -> list[tuple[int, ...]]:
    """The first numbers of each generator."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return [tuple(torch.randint(2**62, (4,), generator=generator).tolist()) for generator in generators]


def test_streams_of_neighbouring_seeds_and_of_one_seed_differ() -> None:
    ours = streams([given for seed in SEEDS for given in spawn_seeds(seed, COUNT)])
    assert len(set(ours)) == len(ours) == COUNT * len(SEEDS)
    # Negative control: seed, seed + 1, ... of neighbouring seeds are for the most part the same.
    plain = streams([seed + i for seed in SEEDS for i in range(COUNT)])
    assert len(set(plain)) == len(SEEDS) + COUNT - 1


def test_streams_are_not_correlated() -> None:
    drawn = torch.stack(
        [
            torch.randn(4_000, generator=torch.Generator().manual_seed(given))
            for seed in range(8)
            for given in spawn_seeds(seed, COUNT)
        ]
    )
    correlation = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert correlation.abs().max() < 5 / 4_000**0.5  # of 496 pairs, five standard errors


def test_the_same_seed_gives_the_same_seeds_and_more_of_them_begin_alike() -> None:
    assert spawn_seeds(3, COUNT) == spawn_seeds(3, COUNT) != spawn_seeds(4, COUNT)
    assert spawn_seeds(3, COUNT + 2)[:COUNT] == spawn_seeds(3, COUNT)
    assert all(isinstance(given, int) and 0 <= given < 2**64 for given in spawn_seeds(3, COUNT))


@pytest.mark.parametrize("seed", [0, 2**31, 2**63])
def test_generators_take_spawned_seeds(seed: int) -> None:
    assert len(set(streams(spawn_seeds(seed, COUNT)))) == COUNT


def test_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    spawn_seeds(0, COUNT)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_agents_of_neighbouring_seeds_share_no_stream() -> None:
    agents = [A2C(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), seed=seed) for seed in range(5)]
    states = [
        tuple(g.get_state().tolist())
        for agent in agents
        for g in (agent.acting.generator, agent.acting.predict_generator)
    ]
    assert len(set(states)) == 10
    # Nor do the weights' draws come back as actions' or samples' noise.
    weights = [torch.Generator().manual_seed(spawn_seeds(seed, 1)[0]).get_state() for seed in range(5)]
    assert len({*states, *(tuple(state.tolist()) for state in weights)}) == 15


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_an_invalid_seed_is_refused_in_one_line(seed: Any) -> None:
    with pytest.raises(UserError, match="seed must be a whole number of at least 0, got"):
        A2C(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), seed=seed)

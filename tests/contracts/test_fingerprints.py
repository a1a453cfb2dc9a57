"""No agent learns anything else than it did at the commit that fingerprints.json is of: bit for bit on its machine."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.contracts.fingerprints import CASES, FILE, Case, digest, machine

STAND: dict[str, Any] = json.loads(FILE.read_text())
# Once half by hand and half by autograd, by autograd since: equal to rounding after more than 100 updates.
REWRITTEN = (
    "ppo Pendulum-v1 hidden=(16, 16) num_steps=16 batch_size=32 layer_norm",
    "sac Pendulum-v1 hidden=(16, 16) la",
)


@pytest.fixture(scope="module")
def here() -> bool:
    """Whether this machine, torch and NumPy give the bits of the one that wrote the file."""
    assert torch.get_num_threads() == 1, "OMP_NUM_THREADS=1, as make test sets it"
    return bool(machine() == STAND["machine"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_agent_comes_to_what_it_came_to_before(case: Case, here: bool) -> None:
    stands, found = STAND["cases"][case.name], digest(case)
    if here and not case.name.startswith(REWRITTEN):
        assert found == stands
    assert found["size"] == pytest.approx(stands["size"], rel=1e-7 if here else 0.05)


def test_a_fingerprint_sees_a_setting(here: bool) -> None:
    case = CASES[0]
    assert digest(case._replace(config={**case.config, "critic_lr": 1.9e-3}))["digest"] != digest(case)["digest"]
    assert digest(case) == digest(case)


def test_every_agent_has_a_fingerprint() -> None:
    from costgrad.agents import AGENTS

    assert {case.agent for case in CASES} == set(AGENTS) and set(STAND["cases"]) == {case.name for case in CASES}

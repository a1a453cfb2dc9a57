"""A run that was stopped and goes on ends, bit for bit, like one that never stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from costgrad.agents import AGENTS
from costgrad.envs.make import make
from costgrad.rl.agent_files import restore, save_agent
from costgrad.rl.checkpoint import read
from costgrad.rl.loop import UnderWay, interact
from tests.contracts import kills
from tests.contracts.fingerprints import CASES, Case

TICKS = 37  # no multiple of any rollout, so that one is under way
MORE = 60


def trained(case: Case, env: Any) -> tuple[Any, UnderWay]:
    cls, config_cls = AGENTS[case.agent]
    return cls(env.single_observation_space, env.single_action_space, config_cls(**case.config), seed=7), UnderWay()


def assert_same_state(a: Any, b: Any, seen: UnderWay, again: UnderWay) -> None:
    (tensors, meta), (others, other_meta) = a.state(), b.state()
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name
    assert meta == other_meta
    for name, value in vars(seen).items():
        np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_agent_goes_on_within_its_episodes(tmp_path: Path, case: Case) -> None:
    envs = [make(case.env, 2, 3, backend="native") for _ in range(2)]
    try:
        agent, under_way = trained(case, envs[0])
        ticking = interact(agent, envs[0], 3, under_way=under_way)
        step = list(islice(ticking, TICKS))[-1].step
        save_agent(tmp_path / "a", agent)
        state, kept = envs[0].get_state(), UnderWay(**{k: np.copy(v) for k, v in vars(under_way).items()})
        for _ in islice(ticking, MORE):
            pass
        again, _ = trained(case, envs[1])
        restore("a", again, *read(tmp_path / "a"))
        envs[1].reset(seed=99)
        envs[1].set_state(state)
        for _ in islice(interact(again, envs[1], 5, step, kept), MORE):
            pass
        assert_same_state(agent, again, under_way, kept)
    finally:
        for env in envs:
            env.close()


def test_runs_that_are_killed_end_like_those_that_are_not(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.contracts.kills", "--count", "5", "--seed", "11", "--every", "4"]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": equal") >= 2


def test_a_difference_between_two_runs_is_seen() -> None:
    """The comparison of the runs is no test that cannot fail."""
    a, b = ({"last: actor": np.arange(3.0), "rows": [{"step": 3}]} for _ in range(2))
    assert not kills.differs(a, b)
    a["last: actor"][1] = np.nextafter(1.0, 2.0)
    assert kills.differs(a, b)
    a["last: actor"][1] = 1.0
    assert not kills.differs(a, b)
    b["rows"][0]["step"] = 4
    assert kills.differs(a, b)

"""The ledger of a run equals the steps that its environments counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from costgrad.agents import AGENTS
from costgrad.envs import make
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import run_episodes
from costgrad.rl.ledger import StepLedger
from costgrad.rl.runs.train import train
from tests.fakes import fake
from tests.streams import SMALL

OBS, BOX = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (2,), np.float32)


class Counted(gymnasium.Env):
    """Episodes of 3 to 9 steps; all of them together count their steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    observation_space, action_space = OBS, spaces.Discrete(2)
    steps = 0

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 10))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        Counted.steps += 1
        self.left -= 1
        return np.zeros(1, np.float32), float(action), self.left <= 0, False, {}

    def render(self) -> np.ndarray:
        return np.zeros((32, 48, 3), np.uint8)


@pytest.mark.parametrize("name", ["ars", "a2c", "td3"])
def test_the_ledger_equals_the_steps_of_the_environments(name: str, tmp_path: Path) -> None:
    Counted.steps = 0
    action = BOX if name == "td3" else spaces.Discrete(2)
    kind = type("Counted", (Counted,), {"action_space": action, "step": _first} if name == "td3" else {})
    env = make(kind, 3, 0, backend="sync")
    cls, config = AGENTS[name]
    agent = cls(env.single_observation_space, env.single_action_space, config(**SMALL[name]))
    ledger = StepLedger()
    probe = kind()
    probe.reset(seed=0)

    def hook(tick: Any, _: Any) -> None:
        if tick.metrics and ledger.probes < 5 + env.steps_tried:
            probe.step(env.single_action_space.sample())
            ledger.probes += 1

    run, settings = tmp_path / "run", {"eval_every": 100, "eval_episodes": 4, "progress": False, "hooks": [hook]}
    result = train(agent, env, 300, run, video=True, ledger=ledger, **settings)
    assert result.ledger is ledger and result.video is not None
    probes = 5 + env.steps_tried  # those that try out whether a copy acts alike
    assert env.steps_tried > 10
    assert ledger.training == result.step and ledger.probes == probes and ledger.evaluation > 60
    assert ledger.total == Counted.steps
    assert json.loads((run / "ledger.json").read_text()) == vars(ledger)
    # A run that goes on counts on.
    more = train(agent, env, 400, run, resume=True, **settings).ledger
    assert more.total == Counted.steps and more.training == 402 and more.probes == probes
    env.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    for tag, value in (("training", 402), ("probes", probes)):
        assert events.Scalars(f"ledger/{tag}")[-1].value == value
    assert events.Scalars("ledger/evaluation")[-1].value == more.evaluation  # no film the second time


def test_probes_of_c_are_on_the_ledger(tmp_path: Path) -> None:
    Counted.steps = 0
    env = make(type("Counted", (Counted,), {"action_space": spaces.Discrete(2)}), 3, 0, backend="sync")
    cls, config = AGENTS["a2c"]
    agent = cls(env.single_observation_space, env.single_action_space, config(**SMALL["a2c"]))
    result = train(agent, env, 300, tmp_path / "run", probe_every=150, progress=False)
    env.close()
    assert result.ledger.probes > 0 and result.ledger.total == Counted.steps
    assert json.loads((tmp_path / "run" / "ledger.json").read_text()) == vars(result.ledger)


def _first(self: Any, action: Any) -> Any:
    return Counted.step(self, action[0])


def test_a_damaged_ledger_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text('{"training": "many"}')
    with pytest.raises(UserError, match=r"ledger .*ledger.json is damaged"):
        StepLedger().read(tmp_path / "ledger.json")
    ledger = StepLedger(1, 2, 3)
    ledger.read(tmp_path / "none.json")
    assert str(ledger) == "6 environment steps: 1 in training, 2 in evaluation, 3 in probes"


def test_later_steps_are_added_to_an_existing_ledger(tmp_path: Path) -> None:
    later, file = StepLedger(probes=5), tmp_path / "ledger.json"
    later.add_to(file)
    assert not file.exists()  # it would say that training took nothing
    StepLedger(1, 2, 3).write(file)
    later.add_to(file)
    assert json.loads(file.read_text()) == {"training": 1, "evaluation": 2, "probes": 8}
    assert later == StepLedger(probes=5)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_evaluation_counts_steps_and_no_resets(mode: AutoresetMode) -> None:
    """Those of environments that wait for the others too."""
    Counted.steps, ledger = 0, StepLedger()
    env = SyncVectorEnv([Counted] * 3, autoreset_mode=mode)
    result = run_episodes(fake(env), env, 10, True, 0, ledger=ledger)
    assert ledger.evaluation == ledger.total == Counted.steps > sum(result.lengths)

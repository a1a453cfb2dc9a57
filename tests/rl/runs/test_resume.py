"""What a resumed run does first, what it says, and what it leaves as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costgrad.agents.ppo import PPO, PPOConfig
from costgrad.envs.make import MadeEnv, make
from costgrad.rl.checkpoint import read
from costgrad.rl.drawing import paint
from costgrad.rl.errors import UserError
from costgrad.rl.loop import UnderWay
from costgrad.rl.packing import pack
from costgrad.rl.runs import plot
from costgrad.rl.runs import session as sessions
from costgrad.rl.runs.resume import Kept, Position, go_on, kept_of, position_of
from costgrad.rl.runs.session import Session
from costgrad.rl.runs.table import read_table
from costgrad.rl.runs.train import TrainResult, train
from tests.contracts.kills import differs, outcome
from tests.contracts.user_envs import Counted


class Crash(BaseException):
    """As sudden as a kill: nothing is saved after it."""


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else."""
    monkeypatch.setattr(paint, "pictures", lambda *_: (b"svg", bytes(24)))
    monkeypatch.setattr(plot, "learning_curve", lambda path, *_: path.write_bytes(b"png"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not broken off."""
    env, folder = make("CartPole-v1", 2, 3), tmp_path_factory.mktemp("runs") / "whole"
    run(folder, env, video=True)
    env.close()
    return folder


@pytest.fixture
def env() -> Iterator[MadeEnv]:
    with_env = make("CartPole-v1", 2, 3)
    yield with_env
    with_env.close()


def run(folder: Path, env: MadeEnv, total: int = 600, **more: Any) -> TrainResult:
    agent = PPO(
        env.single_observation_space, env.single_action_space, PPOConfig(hidden=(8,), num_steps=32, batch_size=32), 7
    )
    about = {"eval_every": 200, "save_every": 150, "eval_episodes": 2, "progress": False}
    return train(agent, env, total, folder, **{**about, **more})


def crash_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int) -> None:
    """Ends the run where a method of the session is called for the so-manieth time, until monkeypatch is undone."""
    real, calls = getattr(Session, method), []

    def crashing(self: Session, *args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        if len(calls) == call:
            raise Crash
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Session, method, crashing)


@pytest.mark.parametrize(
    "method, call", [("observe", 90), ("evaluate", 2), ("evaluate", 3), ("draw", 1), ("film", 1), ("save", 4)]
)
def test_a_run_ends_as_if_it_had_not_been_broken_off(
    tmp_path: Path, whole: Path, env: MadeEnv, monkeypatch: pytest.MonkeyPatch, method: str, call: int
) -> None:
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        crash_at(patch, method, call)
        with pytest.raises(Crash):
            run(broken, env, video=True)
    result = run(broken, env, video=True, resume=True)
    one, other = outcome(whole), outcome(broken)
    assert [key for key in one if differs(one[key], other.get(key))] == []
    assert result.evaluation is not None and (broken / "video.mp4").exists()
    with pytest.raises(UserError, match="has done 600 steps"):
        run(broken, env, resume=True)


def test_only_what_is_missing_is_done(tmp_path: Path, env: MadeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash_at(patch, "film", 1)
        with pytest.raises(Crash):
            run(tmp_path / "a", env, video=True)
    (tmp_path / "a" / "learning_curve.png").unlink()
    monkeypatch.setattr(Session, "evaluate", None)  # whoever calls it fails
    monkeypatch.setattr(sessions, "run_episodes", None)
    result = run(tmp_path / "a", env, video=True, resume=True)
    assert result.evaluation is not None and result.step == 600 and result.evaluations == []
    assert result.evaluation.mean == read_table(tmp_path / "a" / "evaluations.csv")[-1]["mean_return"]
    assert result.ledger.evaluation == json.loads((tmp_path / "a" / "ledger.json").read_text())["evaluation"] > 0
    assert (tmp_path / "a" / "learning_curve.png").exists() and result.video is not None


def test_a_run_is_saved_before_each_evaluation(tmp_path: Path, env: MadeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[int, list[str]]] = []
    real = Session.evaluate

    def evaluate(self: Session) -> Any:
        saved.append((self.step, read(tmp_path / "a" / "checkpoints" / "last")[1]["run"]["step"]))
        return real(self)

    monkeypatch.setattr(Session, "evaluate", evaluate)
    run(tmp_path / "a", env)
    assert [step for step, _ in saved] == [200, 400, 600]
    assert all(step == at for step, at in saved)


def test_a_run_that_goes_on_for_longer_goes_on_within_its_episodes(tmp_path: Path, env: MadeEnv) -> None:
    run(tmp_path / "one", env, 300, eval_every=None, save_every=None)
    run(tmp_path / "one", env, 640, eval_every=None, save_every=None, resume=True)
    run(tmp_path / "other", env, 640, eval_every=None, save_every=None)
    one, other = (read(tmp_path / name / "checkpoints" / "last")[0] for name in ("one", "other"))
    names = [name for name in one if not name.startswith("run.")]
    assert names and all(one[name].equal(other[name]) for name in names)


def test_the_best_so_far_is_that_of_the_final_policy_too(tmp_path: Path, env: MadeEnv) -> None:
    first = run(tmp_path / "a", env, 300, eval_every=None)
    assert first.evaluation is not None
    again = run(tmp_path / "a", env, 320, eval_every=None, resume=True)
    assert again.evaluation is not None
    best = read(tmp_path / "a" / "checkpoints" / "best")[1]["run"]
    assert best["best"] == max(first.evaluation.mean, again.evaluation.mean)


# Where it cannot be exact

ABOUT = {"env_argument": "CartPole-v1", "env_kwargs": {}, "env_file": None}


class Outside(Counted):
    """Part of its state lies outside of it."""

    drawn = iter(range(10**9))

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *rest = super().step(action)
        return obs, reward + 1e-3 * next(self.drawn), *rest


def test_a_run_says_at_its_start_whether_it_can_go_on_exactly(
    tmp_path: Path, env: MadeEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "exact", env, 100, progress=True)
    assert json.loads((tmp_path / "exact" / "config.json").read_text())["resume"] == "exact"
    assert "new episodes" not in capsys.readouterr().out
    other = make(Outside, 2, backend="sync")
    try:
        run(tmp_path / "other", other, 100, progress=True)
        said = "new episodes: a copy of it acts differently"
        assert json.loads((tmp_path / "other" / "config.json").read_text())["resume"] == said
        assert "were this run resumed, new episodes would start: a copy of it acts" in capsys.readouterr().out
        run(tmp_path / "other", other, 300, progress=True, resume=True)
        assert "new episodes start, so the run is not as if it had never stopped: " in capsys.readouterr().out
    finally:
        other.close()


def test_episodes_of_other_environments_are_not_gone_on_with(env: MadeEnv) -> None:
    env.reset(seed=0)
    at = UnderWay(np.zeros((2, 4), np.float32), np.zeros(2, bool), np.zeros(2), np.zeros(2, np.int64))
    codec = PPO(env.single_observation_space, env.single_action_space).codec
    kept = Kept(under_way=at, environments=env.snapshot())
    assert go_on(env, codec, kept, 0, ABOUT)[1] == ""
    for wrong in ({"obs": np.zeros((2, 5), np.float32)}, {"returns": np.zeros(3)}, {"lengths": None}, {"reset_row": 1}):
        different = UnderWay(**{**vars(at), **wrong})
        found, why = go_on(env, codec, kept._replace(under_way=different), 0, ABOUT)
        assert not found.begun and "not those of 2 environments" in why
    for nothing in (Kept(), kept._replace(environments=None), kept._replace(under_way=None)):
        found, why = go_on(env, codec, nothing, 0, ABOUT)
        assert not found.begun and why == "the run was saved without the state of its environments"
    found, why = go_on(env, codec, kept._replace(environments={"data": {"kind": "Pendulum"}}), 0, ABOUT)
    assert not found.begun and why


@pytest.mark.parametrize(
    "run",
    [None, [], {"step": -1}, {"step": 1.5}, {"step": 2**60}, {"seconds": float("inf")}, {"pending": ["rm"]},
     {"pending": 3}, {"best": "high"}, {"step": None}, {"seconds": float("nan")}],
    ids=str,
)  # fmt: skip
def test_a_damaged_position_is_refused(run: Any) -> None:
    with pytest.raises(ValueError, match=r"it was not written by a run|its position is"):
        position_of(run)


def test_a_position_of_an_older_version_is_read() -> None:
    assert position_of({"step": 30, "seconds": 1.5, "best": None}) == Position(30, 1.5)
    assert kept_of({"step": 30}, {}) == Kept()


@pytest.mark.parametrize(
    "field, value", [("ledger", {"training": -1}), ("ledger", 3), ("under_way", {"obs": 1})], ids=str
)
def test_what_a_run_kept_is_checked(field: str, value: Any) -> None:
    packed, tensors = Kept(**{field: value}).packed() if field == "ledger" else _packed(field, value)
    with pytest.raises(ValueError, match="its"):
        kept_of({"kept": packed}, tensors)


def _packed(field: str, value: Any) -> Any:
    return pack({**Kept()._asdict(), field: value}, "run")


class Forgets(PPO):
    """An agent of the user's, whose state says nothing of unfinished episodes."""

    keeps_episodes = False  # type: ignore[misc]


def test_an_agent_that_does_not_keep_its_episodes_starts_new_ones(tmp_path: Path, env: MadeEnv, capsys: Any) -> None:
    for total in (100, 200):
        agent = Forgets(env.single_observation_space, env.single_action_space, PPOConfig(hidden=(8,), num_steps=32), 7)
        train(agent, env, total, tmp_path / "a", eval_episodes=1, resume=total == 200)
        assert "new episodes" in (said := capsys.readouterr().out) and "Forgets does not say that its state()" in said
    assert json.loads((tmp_path / "a" / "config.json").read_text())["resume"].startswith("new episodes: Forgets")


@pytest.mark.parametrize("name", ["argument", "kwargs"])
def test_another_environment_starts_new_episodes(tmp_path: Path, env: MadeEnv, capsys: Any, name: str) -> None:
    """Else the state of the old one would bring its arguments back."""
    run(tmp_path / "a", env, 100)
    kwargs = {"env_kwargs": {"sutton_barto_reward": True}} if name == "kwargs" else {}
    other = make("CartPole-v1" if kwargs else "CartPole-v0", 2, 3, **kwargs)  # type: ignore[arg-type]
    capsys.readouterr()
    try:
        run(tmp_path / "a", other, 200, resume=True, progress=True)
    finally:
        other.close()
    said = capsys.readouterr().out
    assert "never stopped: the environment is another one than that which the run began with" in said

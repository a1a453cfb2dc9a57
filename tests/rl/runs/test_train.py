"""What stands around the loop: evaluations, checkpoints, signals, resume, hooks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from costgrad.rl.agent_files import load_agent
from costgrad.rl.checkpoint import read
from costgrad.rl.errors import Diverged, UserError
from costgrad.rl.evaluate import SEED_OFFSET, run_episodes
from costgrad.rl.loop import interact
from costgrad.rl.runs.folder import environment_seed, read_config
from costgrad.rl.runs.table import read_table
from costgrad.rl.runs.train import train
from tests.contracts.fuzz import seal
from tests.fakes import Countdown, Fake, FakeConfig, Remade, fake


def steps_of(path: Path) -> list[float]:
    return [row["step"] for row in read_table(path)]


def test_a_run_leaves_everything(tmp_path: Path, capsys: Any) -> None:
    env = Remade(4, seed=3)
    agent = fake(env)
    run = tmp_path / "deep" / "run"
    result = train(
        agent, env, 1001, run, eval_every=300, eval_episodes=5, save_every=400, video=True, config={"note": "mine"}
    )
    assert result.step == agent.steps == 1004  # the lower bound, and whole vector steps
    assert result.stopped == "total" and result.run_dir == run and result.seconds > 0
    assert [step for step, _ in result.evaluations] == [300, 600, 900, 1004]
    assert result.evaluation == result.evaluations[-1][1] and len(result.evaluation.returns) == 5
    assert steps_of(run / "evaluations.csv") == [300, 600, 900, 1004]
    assert steps_of(run / "training.csv")[-1] == 1004
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best", "last", "step_400", "step_800"]
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert result.video == run / "video.mp4" and result.video.stat().st_size > 1000
    assert list(run.glob("events.out.tfevents.*"))
    config = read_config(run)
    assert config["agent"] == "fake" and config["config"]["size"] == 3 and config["note"] == "mine"
    assert (config["seed"], config["num_envs"], config["total_timesteps"]) == (3, 4, 1001)
    assert config["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0] and config["command"]
    assert not [p for p in run.rglob("*") if p.name.endswith(("tmp", "old"))]
    last = load_agent(run / "checkpoints" / "last", Fake, FakeConfig)
    assert last.updates == agent.updates and torch.equal(last.weights, agent.weights)
    assert read(run / "checkpoints" / "step_400")[1]["state"]["updates"] == 100
    assert "evaluation: return" in capsys.readouterr().out


def test_best_is_the_best_and_the_figure_is_the_last(tmp_path: Path) -> None:
    class Fading(Fake):
        """Its episodes are long only between updates 100 and 150."""

        def predict(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
            return np.full(len(obs), int(100 <= self.updates < 150)), None

    class Obedient(Countdown):
        def step(self, action: Any) -> Any:
            self.length = 9 if action == 1 else 3
            return super().step(action)

    env = Remade(2, cls=Obedient)
    agent = Fading(env.single_observation_space, env.single_action_space, FakeConfig())
    result = train(agent, env, 400, tmp_path / "run", eval_every=100, progress=False)
    means = [row["mean_return"] for row in read_table(tmp_path / "run" / "evaluations.csv")]
    assert means == [3, 9, 3, 3]
    assert result.evaluation is not None and result.evaluation.mean == 3
    assert read(tmp_path / "run" / "checkpoints" / "best")[1]["run"]["step"] == 200
    last = read(tmp_path / "run" / "checkpoints" / "last")[1]["run"]
    assert (last["step"], last["best"], last["pending"]) == (400, 9.0, [])


def test_nothing_is_written_without_a_run_dir(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    env = Remade(2)
    result = train(fake(env), env, 50, eval_every=20, save_every=20, video=True, progress=False)
    assert result.run_dir is None and result.video is None and len(result.evaluations) == 3
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


class SeedRecorder(Remade):
    log: list[Any] = []  # noqa: RUF012 (shared on purpose)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.log.append((self.num_envs, seed))
        return super().reset(seed=seed, options=options)

    def factory(self, num_envs: int, seed: int, render_mode: str | None = None) -> VectorEnv:
        return SeedRecorder(num_envs, seed, render_mode)


@pytest.mark.parametrize("given, initial, expected", [(5, 9, 5), (None, 9, 9), (None, None, 0), (0, 9, 0)])
def test_seeds(given: int | None, initial: int | None, expected: int) -> None:
    env = SeedRecorder(2)
    env.initial_seed = initial  # type: ignore[assignment]
    SeedRecorder.log.clear()
    train(fake(env), env, 40, seed=given, eval_every=20, eval_episodes=3, progress=False)
    assert SeedRecorder.log[0] == (2, expected)
    assert set(SeedRecorder.log[1:]) == {(3, expected + SEED_OFFSET)}


def test_environment_seeds_of_a_run_that_goes_on_are_new() -> None:
    assert environment_seed(7, 0) == 7
    seeds = {environment_seed(seed, step) for seed in range(20) for step in range(1, 50)}
    assert len(seeds) == 20 * 49 and min(seeds) >= 2**30 and max(seeds) + SEED_OFFSET < 2**31


def test_evaluation_does_not_touch_training() -> None:
    def actions(eval_every: int | None) -> Any:
        env = Remade(3, seed=1)
        agent = fake(env)
        train(agent, env, 300, eval_every=eval_every, progress=False)
        return agent

    with_evaluations, without = actions(30), actions(None)
    assert len(without.seen) == len(with_evaluations.seen) == 100
    assert all(np.array_equal(a, b) for a, b in zip(with_evaluations.seen, without.seen, strict=True))
    assert torch.equal(with_evaluations.generator.get_state(), without.generator.get_state())


def test_an_environment_that_cannot_be_made_again(capsys: Any) -> None:
    env = SyncVectorEnv([Countdown] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    result = train(fake(env), env, 100, eval_every=10, eval_episodes=4)
    assert "no evaluation during training" in capsys.readouterr().out
    assert len(result.evaluations) == 1 and len(result.evaluation.returns) == 4  # at the end, in the same one

    class Refusing(Remade):
        def factory(self, num_envs: int, seed: int, render_mode: str | None = None) -> VectorEnv:
            raise ValueError("it is the only one")

    env = Refusing(2)
    assert len(train(fake(env), env, 100, eval_every=10).evaluations) == 1
    assert "it is the only one" in capsys.readouterr().out


def test_a_factory() -> None:
    made = []

    def make(num_envs: int, seed: int, render_mode: str | None) -> VectorEnv:
        made.append((num_envs, seed, Remade(num_envs, seed, render_mode)))
        return made[-1][2]

    train(fake(Remade(1)), make, 60, num_envs=3, eval_every=30, eval_episodes=4, seed=2, progress=False)
    assert [(n, seed) for n, seed, _ in made] == [(3, 2), (4, 2 + SEED_OFFSET)]
    assert all(env.closed for _, _, env in made)


def test_hooks_see_every_step_and_may_stop(tmp_path: Path) -> None:
    env = Remade(2)
    agent = fake(env)
    seen: list[int] = []

    def stop(tick: Any, of: Any) -> bool | None:
        assert of is agent
        seen.append(tick.step)
        return False if tick.step >= 30 else None

    other: list[int] = []
    one: list[int] = []
    train(fake(env), env, 10, hooks=lambda tick, _: one.append(tick.step), progress=False)
    assert one == [2, 4, 6, 8, 10]
    result = train(
        agent, env, 1000, tmp_path / "run", hooks=(stop, lambda tick, _: other.append(tick.step)), progress=False
    )
    assert result.stopped == "hook" and result.step == 30 and result.evaluation is not None
    assert seen == other == list(range(2, 31, 2))
    assert read(tmp_path / "run" / "checkpoints" / "last")[1]["run"]["step"] == 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_exactly(tmp_path: Path, number: signal.Signals, capsys: Any) -> None:
    env = Remade(2)
    agent = fake(env)
    before = signal.getsignal(number)

    def interrupt(tick: Any, _: Any) -> None:
        if tick.step == 100:
            os.kill(os.getpid(), number)

    result = train(agent, env, 400, tmp_path / "run", eval_every=60, hooks=(interrupt,))
    assert result.stopped == "signal" and result.step == 100 and result.evaluation is None
    assert "stopped after 100 steps and saved" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    position = read(tmp_path / "run" / "checkpoints" / "last")[1]["run"]
    assert position["step"] == 100

    again = fake(env)
    result = train(again, env, 400, tmp_path / "run", eval_every=60, resume=True, progress=False)
    assert result.step == 400 == again.steps and again.updates == 200 and float(again.weights[0]) == 200
    assert steps_of(tmp_path / "run" / "evaluations.csv") == [60, 120, 180, 240, 300, 360, 400]
    assert steps_of(tmp_path / "run" / "training.csv") == sorted(set(steps_of(tmp_path / "run" / "training.csv")))
    assert result.seconds > position["seconds"]
    assert not np.array_equal(again.seen[0], agent.seen[0])  # fresh episodes


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_a_second_ctrl_c_ends_at_once_what_the_first_lets_end(tmp_path: Path, before: Any) -> None:
    """Where it was ignored, as in the background of a shell's script, too."""
    outside, env, said = signal.signal(signal.SIGINT, before), Remade(2), []

    def interrupt(tick: Any, _: Any) -> None:
        if tick.step == 100:
            os.kill(os.getpid(), signal.SIGINT)
            said.append("once")
            os.kill(os.getpid(), signal.SIGINT)
            said.append("twice")

    try:
        result = train(fake(env), env, 400, tmp_path / "run", eval_every=60, hooks=(interrupt,), progress=False)
        assert result.stopped == "signal" and said == ["once"] and signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, outside)
    assert read(tmp_path / "run" / "checkpoints" / "last")[1]["run"]["step"] == 100


def test_an_agent_that_diverges_after_a_signal_is_not_saved(tmp_path: Path) -> None:
    """Nor is any other error after it lost learning: that one is taken for the signal's doing."""
    for error, saved in ((Diverged("nan"), 60), (OSError("a process is gone"), 100)):

        def fails(tick: Any, _: Any, error: Exception = error) -> None:
            if tick.step == 100:
                os.kill(os.getpid(), signal.SIGINT)
                raise error

        env, run = Remade(2), tmp_path / str(saved)
        with pytest.raises(Diverged) if isinstance(error, Diverged) else nullcontext():
            train(fake(env), env, 400, run, eval_every=60, hooks=(fails,), progress=False)
        assert read(run / "checkpoints" / "last")[1]["run"]["step"] == saved


def test_resume_drops_what_came_after_the_last_save(tmp_path: Path) -> None:
    env = Remade(2)

    class Crash(Exception):
        pass

    def crash(tick: Any, _: Any) -> None:
        if tick.step == 150:
            raise Crash

    with pytest.raises(Crash):
        train(fake(env), env, 400, tmp_path / "run", save_every=100, hooks=(crash,), progress=False)
    assert steps_of(tmp_path / "run" / "training.csv")[-1] > 100
    agent = fake(env)
    train(agent, env, 300, tmp_path / "run", resume=True, progress=False)
    assert agent.steps == 300 and agent.updates == 150
    assert steps_of(tmp_path / "run" / "training.csv")[-1] == 300


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    env = Remade(2)
    train(fake(env), env, 20, tmp_path / "run", progress=False)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="is not empty"):
        train(fake(env), env, 20, tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="has done 20 steps: total_timesteps must be more"):
        train(fake(env), env, 20, tmp_path / "run", resume=True, progress=False)
    damaged = {tmp_path / "run" / "checkpoints" / name / "meta.json" for name in ("last", "best")}
    for path in damaged:
        path.write_text("{")
    with pytest.raises(UserError, match="last is damaged"):
        train(fake(env), env, 40, tmp_path / "run", resume=True, progress=False)
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    lock = tmp_path / "run" / ".lock"  # the next one to have it is this process again
    assert {p for p in before if before[p] != after[p]} == damaged and lock in before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("training.csv", b"step,secnds\n1,2\n", r"training.csv is damaged: it has no column"),
        ("training.csv", b"", r"training.csv is damaged: it has no column"),
        ("training.csv", b"\xff\xfe,\x00\n", r"training.csv is damaged: 'utf-8' codec"),
        ("evaluations.csv", None, r"evaluations.csv cannot be read: Is a directory"),
        ("checkpoints/last/meta.json", ("step", "far"), r"last is damaged: its position is \{'step': 'far'"),
        ("checkpoints/last/meta.json", ("step", -1), r"last is damaged: its position is \{'step': -1"),
        ("checkpoints/last/meta.json", ("best", "x"), r"last is damaged: its position is .*'best': 'x'"),
    ],
)
def test_what_is_damaged_in_a_run_is_named(tmp_path: Path, file: str, content: Any, message: str) -> None:
    env = Remade(2)
    train(fake(env), env, 20, tmp_path / "run", progress=False)
    path = tmp_path / "run" / file
    if content is None:
        path.unlink()
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        meta = json.loads(path.read_text())
        meta["meta"]["run"][content[0]] = content[1]
        path.write_text(json.dumps(meta))
        seal(path.parent)
        shutil.rmtree(path.parents[1] / "best")
    with pytest.raises(UserError, match=message):
        train(fake(env), env, 40, tmp_path / "run", resume=True, progress=False)


def test_what_is_no_environment_is_told_what_is() -> None:
    with pytest.raises(
        UserError, match=r"env is a int: it must be a gymnasium VectorEnv, which costgrad.make gives, an"
    ):
        train(fake(Remade(2)), 3, 10, progress=False)  # type: ignore[arg-type]


def test_a_plain_vector_env_goes_with_an_eval_env(tmp_path: Path, capsys: Any) -> None:
    """The remedies that the message names: a second environment, an id or a factory."""
    env = SyncVectorEnv([Countdown] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    result = train(fake(env), env, 100, tmp_path / "none", eval_every=20, eval_episodes=4, video=True)
    said = capsys.readouterr().out
    told = "env cannot be made again: pass eval_env=, a second environment, an id or a factory, to costgrad.train"
    assert f"no evaluation during training: {told}" in said and f"no video: {told}" in said
    assert [step for step, _ in result.evaluations] == [100]

    second: Any = SyncVectorEnv(
        [lambda: Countdown(render_mode="rgb_array")] * 3, autoreset_mode=AutoresetMode.SAME_STEP
    )
    for name, other in (("batch", second), ("one", Countdown()), ("factory", Remade(1).factory), ("class", Countdown)):
        run = tmp_path / name
        result = train(fake(env), env, 100, run, eval_env=other, eval_every=20, eval_episodes=4, video=True)
        assert [step for step, _ in result.evaluations] == [20, 40, 60, 80, 100], name
        assert result.video is not None and result.video.is_file(), capsys.readouterr().out
        assert not getattr(other, "closed", False)  # the user's own
    with pytest.raises(UserError, match="eval_env is the env that trains"):
        train(fake(env), env, 100, eval_env=env)


def test_evaluations_are_in_the_eval_env() -> None:
    env = Remade(2, lengths=(3,))
    result = train(fake(env), env, 60, eval_every=20, eval_env=Remade(1, lengths=(7,)), progress=False)
    assert {evaluation.mean for _, evaluation in result.evaluations} == {7}


def test_a_single_environment_is_trained_on_as_it_is(tmp_path: Path) -> None:
    env = Countdown(lengths=(5,))
    result = train(fake(Remade(1)), env, 50, tmp_path / "run", eval_every=20, eval_env=Countdown, progress=False)
    assert result.step == 50 and len(result.evaluations) == 3
    assert read_config(tmp_path / "run")["num_envs"] == 1


def test_an_id_is_trained_on_and_can_be_evaluated_again(tmp_path: Path) -> None:
    made = gymnasium.make("CartPole-v1")
    agent = Fake(made.observation_space, made.action_space, FakeConfig())
    result = train(agent, "CartPole-v1", 100, tmp_path / "run", num_envs=2, eval_every=40, progress=False)
    assert result.step == 100 and len(result.evaluations) == 3
    config = read_config(tmp_path / "run")
    assert (config["env_argument"], config["env_kwargs"], config["num_envs"]) == ("CartPole-v1", {}, 2)


def test_spaces_of_a_whole_vector_env_are_named(monkeypatch: Any) -> None:
    env = Remade(4)
    agent = Fake(env.observation_space, env.action_space, FakeConfig())
    told = "the agent was given the observation_space of 4 environments: give it single_observation_space"
    with pytest.raises(UserError, match=told):
        train(agent, env, 10, progress=False)
    with pytest.raises(UserError, match=told):
        run_episodes(agent, env, 4, True, 0)
    with pytest.raises(UserError, match=told):
        run_episodes(agent, Remade(3), 4, True, 0)  # also where there are fewer of them
    with pytest.raises(UserError, match=r"obs is a single one: .* \(an agent is given single_observation_space and"):
        next(interact(agent, env, 0))  # where nothing stands around the loop
    train(Fake(env.single_observation_space, env.single_action_space, FakeConfig()), env, 10, progress=False)


def test_a_run_that_is_too_short_to_learn_says_so(capsys: Any) -> None:
    class Waits(Fake):
        def update(self) -> dict[str, torch.Tensor]:
            return super().update() if self.steps >= 60 else {}

    env = Remade(2)
    for total, said in ((40, True), (80, False)):
        train(Waits(env.single_observation_space, env.single_action_space, FakeConfig()), env, total)
        assert (
            "no update was made in 40 steps: the agent learns from more at a time" in capsys.readouterr().out
        ) == said


def test_bad_arguments_are_one_line(tmp_path: Path) -> None:
    env = Remade(2)
    for bad in ({"total_timesteps": -5}, {"eval_every": 0}, {"eval_episodes": 0}, {"save_every": -1}):
        with pytest.raises(UserError, match=f"{next(iter(bad))} must be at least 1, got"):
            train(fake(env), env, **({"total_timesteps": 10, "run_dir": tmp_path / "run"} | bad))
    with pytest.raises(UserError, match="resume needs"):
        train(fake(env), env, 10, resume=True)
    with pytest.raises(UserError, match="no run to resume"):
        train(fake(env), env, 10, tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        train(fake(env), env, 10, tmp_path / "file" / "run")


class Poisoned(Countdown):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        self.count = getattr(self, "count", 0) + 1
        return (obs, float("nan") if self.count == 30 else reward, *rest)


def test_nan_from_the_environment_keeps_what_was_learnt(tmp_path: Path) -> None:
    env = Remade(2, cls=Poisoned)
    agent = fake(env)
    with pytest.raises(UserError, match="returned reward nan"):
        train(agent, env, 1000, tmp_path / "run", progress=False)
    meta = read(tmp_path / "run" / "checkpoints" / "last")[1]
    assert meta["run"]["step"] == 58 and meta["state"]["updates"] == 29
    json.loads((tmp_path / "run" / "config.json").read_text())


def test_outside_the_main_thread() -> None:
    env = Remade(2)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(train(fake(env), env, 20, progress=False)))
    thread.start()
    thread.join()
    assert results[0].step == 20


def test_a_video_that_fails_loses_no_run(tmp_path: Path, capsys: Any) -> None:
    class Broken(Countdown):
        def render(self) -> Any:
            raise RuntimeError("no picture today")

    env = Remade(2, cls=Broken)
    result = train(fake(env), env, 20, tmp_path / "run", video=True)
    assert result.video is None and result.evaluation is not None
    assert "no video: no picture today" in capsys.readouterr().out


def test_time_in_evaluation_is_not_training_time() -> None:
    import time

    class Slow(Fake):
        def predict(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
            time.sleep(0.01)
            return super().predict(obs, *args, **kwargs)

    env = Remade(2, lengths=(20,))
    agent = Slow(env.single_observation_space, env.single_action_space, FakeConfig())
    start = time.perf_counter()
    result = train(agent, env, 200, eval_every=100, progress=False)
    assert time.perf_counter() - start > 0.4 > 2 * result.seconds


class Endless(Countdown):
    """Its episodes have no end."""

    def step(self, action: Any) -> Any:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


def test_a_hook_that_returns_zero_stops_nothing() -> None:
    env = Remade(2)
    zero: Any = lambda tick, agent: 0  # noqa: E731
    assert train(fake(env), env, 40, hooks=(zero,), progress=False).stopped == "total"


def test_episodes_that_never_end_are_said_once_and_lose_no_run(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("costgrad.rl.runs.session.run_episodes", partial(run_episodes, max_steps=50))
    env = Remade(2, cls=Endless)
    result = train(fake(env), env, 100, tmp_path / "run", eval_every=20)
    assert result.stopped == "total" and result.evaluation is None
    assert capsys.readouterr().out.count("no evaluation") == 1
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()

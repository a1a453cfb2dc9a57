"""Evaluation counts whole episodes, fairly, and films them."""

from __future__ import annotations

import gc
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import SEED_OFFSET, evaluate, run_episodes, t_quantile
from costgrad.rl.runs.video import record_video
from tests.fakes import Countdown, Remade, fake

MODES = list(AutoresetMode)


def vector(n: int, mode: AutoresetMode = AutoresetMode.SAME_STEP, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Countdown(**kwargs)] * n, autoreset_mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_returns_and_lengths_are_those_of_whole_episodes(mode: AutoresetMode) -> None:
    env = vector(3, mode, lengths=(5,))
    result = evaluate(fake(env), env, episodes=7)
    assert result.returns == [5.0] * 7 and result.lengths == [5] * 7
    assert result.mean == 5 and result.std == 0 and result.interval == (5, 5)


def test_all_autoreset_modes_meet_the_same_episodes() -> None:
    results = [run_episodes(fake(vector(1)), vector(3, mode, lengths=(2, 9, 30)), 12, True, 4) for mode in MODES]
    assert results[0].lengths == results[1].lengths == results[2].lengths
    assert len(set(results[0].lengths)) > 1


def first_to_end(env: VectorEnv, episodes: int, seed: int) -> list[int]:
    """The wrong way: whichever episodes end first."""
    obs, _ = env.reset(seed=seed)
    lengths: list[int] = []
    while len(lengths) < episodes:
        before = obs
        obs, _, terminated, _, _ = env.step(np.zeros(env.num_envs, dtype=np.int64))
        lengths += before[terminated, 0].astype(int).tolist()
    return lengths[:episodes]


def test_long_episodes_are_not_left_out() -> None:
    # Lengths 2 and 40 are equally likely: the mean is 21, one estimate from 10 episodes has a deviation of 6.
    env, agent = vector(10), fake(vector(1))
    quota = [run_episodes(agent, env, 10, True, 100 * i).mean for i in range(60)]
    greedy = [float(np.mean(first_to_end(env, 10, 100 * i))) for i in range(60)]
    error = 19 / math.sqrt(10 * 60)
    assert abs(np.mean(quota) - 21) < 4 * error
    assert np.mean(greedy) < 21 - 10 * error  # the negative control


@pytest.mark.parametrize("episodes, num_envs", [(1, 4), (4, 4), (5, 4), (11, 3)])
def test_exactly_so_many_episodes(episodes: int, num_envs: int) -> None:
    result = evaluate(fake(vector(1)), vector(num_envs, lengths=(3,)), episodes)
    assert len(result.returns) == len(result.lengths) == episodes


class Watching(Remade):
    """Remembers which seeds its resets got."""

    seeds: list[Any] = []  # noqa: RUF012 (shared on purpose)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.seeds.append((self.num_envs, seed))
        return super().reset(seed=seed, options=options)

    def factory(self, num_envs: int, seed: int, render_mode: str | None = None) -> VectorEnv:
        return Watching(num_envs, seed, render_mode)


def test_evaluation_seeds_are_not_training_seeds() -> None:
    Watching.seeds.clear()
    env = Watching(4, seed=7)
    evaluate(fake(env), env, episodes=5)
    evaluate(fake(env), env, episodes=5, seed=3)
    assert Watching.seeds == [(5, 7 + SEED_OFFSET), (5, 3 + SEED_OFFSET)]  # and the training env was left alone


def test_training_state_is_left_alone() -> None:
    env = Remade(2)
    agent = fake(env)
    before = agent.state()
    evaluate(agent, env, 4)
    after = agent.state()
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0]) and before[1] == after[1]


def test_a_factory_is_called_with_keywords_and_closed() -> None:
    made = []

    def make(num_envs: int, seed: int, render_mode: str | None) -> VectorEnv:
        made.append(vector(num_envs, lengths=(2,)))
        return made[-1]

    assert len(evaluate(fake(vector(1)), make, episodes=20).returns) == 20
    assert made[0].num_envs == 16 and made[0].closed


def test_the_same_seed_gives_the_same_figure() -> None:
    env = Remade(3)
    one, two = evaluate(fake(env), env, 20), evaluate(fake(env), env, 20)
    assert one == two and one.std > 0
    assert evaluate(fake(env), env, 20, seed=1).returns != one.returns


class Recurrent:
    """Wants its state back, and to know where episodes start."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, np.ndarray, np.ndarray]] = []

    def predict(self, obs: Any, state: Any, episode_start: np.ndarray, deterministic: bool) -> Any:
        self.calls.append((state, episode_start.copy(), np.array(obs[:, 1])))
        return np.zeros(len(obs), dtype=np.int64), len(self.calls)


@pytest.mark.parametrize("mode", MODES)
def test_agents_with_memory_learn_where_episodes_start(mode: AutoresetMode) -> None:
    agent = Recurrent()
    run_episodes(agent, vector(2, mode, lengths=(3,)), 6, True, 0)
    assert [state for state, _, _ in agent.calls] == [None, *range(1, len(agent.calls))]
    for _, start, done in agent.calls:
        assert start.tolist() == (done == 0).tolist()  # obs[1] counts the steps of the episode


def test_t_quantile_and_interval() -> None:
    # From printed tables of Student's t.
    for freedom, value in ((1, 12.706), (4, 2.776), (9, 2.262), (10, 2.228), (11, 2.201), (19, 2.093), (99, 1.984)):
        assert t_quantile(freedom) == pytest.approx(value, abs=1e-3)
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        from costgrad.rl.evaluate import summary

        low, high = summary(rng.normal(3, 2, 6).tolist(), [1] * 6).interval
        hits += low < 3 < high
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


def test_one_episode_has_no_interval() -> None:
    result = evaluate(fake(vector(1)), vector(1), 1)
    assert result.std == 0 and math.isnan(result.interval[0])
    assert "interval" not in str(result) and "over 1 episode" in str(result)


class Endless(Countdown):
    def step(self, action: Any) -> Any:
        return self._obs(), float("nan") if self.lengths == (1,) else 0.0, False, False, {}


class Mist(Countdown):
    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return (np.full_like(obs, np.nan), *rest)


def test_bad_environments_are_one_line() -> None:
    agent = fake(vector(1))
    with pytest.raises(UserError, match="3 of 3 evaluation episodes had not ended after 50 steps"):
        evaluate(agent, SyncVectorEnv([Endless] * 2), 3, max_steps=50)
    for n in (1, 2):  # a policy of choices would choose something
        with pytest.raises(UserError, match=r"environment 1 returned observation \[nan nan\] in an evaluation"):
            evaluate(agent, SyncVectorEnv([lambda: Countdown((4,)), Mist]), 2 * n)
    with pytest.raises(UserError, match="returned reward nan"):
        evaluate(agent, SyncVectorEnv([lambda: Endless((1,))] * 2), 3)
    with pytest.raises(UserError, match="episodes must be at least 1, got 0"):
        evaluate(agent, vector(1), 0)


def frames(path: Path) -> list[np.ndarray]:
    import imageio.v2 as imageio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # imageio's reader leaves the pipes to the collector
        film = [np.asarray(frame) for frame in imageio.mimread(path)]
        gc.collect()
    return film


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_video(tmp_path: Path, ending: str) -> None:
    env = Remade(4, lengths=(6,))
    path = record_video(fake(env), env, tmp_path / "deep" / f"a.{ending}", episodes=2)
    film = frames(path)
    # Autoreset in the same step: the last frame of an episode shows the next one's start.
    assert len(film) == 13 and film[0].shape[:2] == (32, 48)
    assert [path.name for path in path.parent.iterdir()] == [path.name]
    brightness = [int(frame[..., :3].mean().round()) for frame in film]
    assert max(brightness) >= 4 and min(brightness) <= 1


def test_gif_where_ffmpeg_is_missing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    env = Remade(1, lengths=(3,))
    assert record_video(fake(env), env, tmp_path / "a.mp4") == tmp_path / "a.gif"
    assert len(frames(tmp_path / "a.gif")) >= 2


class Blind(Countdown):
    metadata = {"render_modes": []}  # noqa: RUF012

    def render(self) -> Any:
        return None


class Floats(Countdown):
    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.float32)


class Grows(Countdown):
    def render(self) -> Any:
        return np.zeros((16, 16 + 2 * self.done, 3), np.uint8)


PICTURES = {  # what render may give for a picture of brightness 200
    "grey": np.full((16, 16), 200, np.uint8),
    "grey with a channel": np.full((16, 16, 1), 200, np.uint8),
    "with transparency": np.full((16, 16, 4), 200, np.uint8),
    "int64": np.full((16, 16, 3), 200, np.int64),
    "a list of frames": [np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 200, np.uint8)],
}


@pytest.mark.parametrize("what", PICTURES)
def test_pictures_of_every_kind_are_filmed(tmp_path: Path, what: str) -> None:
    class Shows(Countdown):
        def render(self) -> Any:
            return PICTURES[what]

    path = record_video(fake(vector(1)), SyncVectorEnv([lambda: Shows((3,))]), tmp_path / "a.gif")
    assert {int(frame[..., :3].mean().round()) for frame in frames(path)} == {200}


def test_what_cannot_be_filmed_is_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    agent, env = fake(vector(1)), Remade(1)
    with pytest.raises(UserError, match="must end in"):
        record_video(agent, env, tmp_path / "a.avi")
    with pytest.raises(UserError, match="cannot be filmed"):
        record_video(agent, Remade(1, cls=Blind), tmp_path / "a.mp4")
    with pytest.raises(UserError, match="cannot be filmed"):
        record_video(agent, SyncVectorEnv([Blind]), tmp_path / "a.mp4")
    with pytest.raises(UserError, match="its picture has dtype float32, it must be uint8"):
        record_video(agent, SyncVectorEnv([Floats]), tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"a picture has shape .16, 18, 3., the first had .16, 16, 3."):
        record_video(agent, SyncVectorEnv([Grows]), tmp_path / "a.mp4")
    monkeypatch.setitem(Blind.metadata, "render_modes", None)
    with pytest.raises(UserError, match=r"it gave no picture; make it with render_mode='rgb_array' .its metadata"):
        record_video(agent, SyncVectorEnv([Blind]), tmp_path / "a.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        record_video(agent, env, tmp_path / "file" / "a.mp4")
    monkeypatch.setitem(sys.modules, "imageio.v2", None)
    with pytest.raises(UserError, match=r"costgrad\[video\]"):
        record_video(agent, env, tmp_path / "a.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_gymnasium_environment_is_filmed_without_a_display(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    pytest.importorskip("pygame")

    def make(num_envs: int, seed: int, render_mode: str | None) -> VectorEnv:
        return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1", render_mode=render_mode)] * num_envs)

    path = record_video(fake(make(1, 0, None)), make, tmp_path / "a.mp4")
    film = frames(path)
    assert 5 < len(film) < 60 and film[0].shape == (400, 600, 3)
    assert float(np.std(film[0])) > 1  # a picture, not a blank

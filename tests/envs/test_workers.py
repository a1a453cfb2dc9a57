"""Environments in processes that hang, raise or die: named, restarted or ended, never waited for, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import psutil
import pytest
from gymnasium import spaces

from costgrad.envs import EnvError, make, workers

ALL_RIGHT, FAILS = 0, 1


class Fragile(gymnasium.Env):
    """Walks from a random start, 1 a step; action 1 makes it fail in a way that the constructor names."""

    def __init__(self, fails: str = "hangs", always: bool = False, as_dict: bool = False) -> None:
        box = spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.observation_space = spaces.Dict({"at": box}) if as_dict else box
        self.action_space = spaces.Discrete(2)
        self.fails, self.always, self.as_dict = fails, always, as_dict

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = self.np_random.uniform(0, 1, 1)
        if options == "hang":
            time.sleep(3600)
        return self.obs(), {"started": True}

    def obs(self) -> Any:
        return {"at": self.at.copy()} if self.as_dict else self.at.copy()

    def step(self, action: int) -> Any:
        if action == FAILS or self.always:
            if self.fails == "ignores SIGTERM":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if self.fails == "is slow":
                time.sleep(0.7)
            elif self.fails == "raises":
                raise ZeroDivisionError("not today")
            elif self.fails == "exits":
                os._exit(3)
            elif self.fails == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                time.sleep(3600)
        self.at += 1
        return self.obs(), 1.0, False, False, {}


@contextmanager
def made(num_envs: int = 3, seed: int = 5, timeout: float | None = 1.0, error: str = "stop", **kwargs: Any) -> Iterator:
    env = make(Fragile, num_envs, seed, None, kwargs, "async", timeout, error)
    try:
        yield env
    finally:
        env.close()


def actions(*bad: int, count: int = 3) -> np.ndarray:
    return np.isin(np.arange(count), bad).astype(np.int64)


HOW = {
    "hangs": "environment 1 has not answered for 1 s (env_timeout)",
    "raises": "environment 1: test_workers.Fragile.step raised ZeroDivisionError: not today",
    "exits": "the process of environment 1 ended (exit code 3)",
    "is killed": "the process of environment 1 ended (exit code -9)",
}


@pytest.mark.parametrize(("how", "line"), HOW.items())
def test_what_fails_is_named_and_nobody_is_waited_for(how: str, line: str) -> None:
    with made(fails=how) as env:
        env.reset(seed=5)
        env.step(actions())
        began = time.perf_counter()
        with pytest.raises(EnvError) as caught:
            env.step(actions(1))
        assert line in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(EnvError) as again:  # and at every later call
            env.reset(seed=5)
        assert again.value is caught.value
        processes = env.unwrapped.processes
    assert time.perf_counter() - began < 5 and not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("how", HOW)
def test_a_row_that_is_restarted_starts_an_episode_and_the_others_go_on(how: str, capfd: Any) -> None:
    def play(*bad: int) -> Any:
        with made(fails=how, error="restart") as env:
            first, _ = env.reset(seed=5)
            env.step(actions())
            obs, reward, terminated, truncated, info = env.step(actions(*bad))
            later = env.step(actions())
            return first, obs, reward, info, later, env.restarts.tolist(), terminated | truncated

    first, obs, reward, info, later, restarts, ended = play(1)
    _, plain, _, plain_info, plain_later, none, _ = play()
    np.testing.assert_array_equal(obs[[0, 2]], plain[[0, 2]])
    np.testing.assert_array_equal(later[0][[0, 2]], plain_later[0][[0, 2]])
    assert reward.tolist() == [1, 0, 1] and restarts == [0, 1, 0] and not ended.any() and none == [0, 0, 0]
    assert info["process_restarted"].tolist() == [False, True, False] and info["started"].tolist() == [
        False,
        True,
        False,
    ]
    assert "process_restarted" not in plain_info and "process_restarted" not in later[-1]
    assert 0 <= obs[1, 0] <= 1 and obs[1, 0] != first[1, 0] and later[0][1, 0] == obs[1, 0] + 1
    np.testing.assert_array_equal(play(1)[1], obs)  # the new seed follows from the first one
    assert HOW[how].split(" (env")[0] in capfd.readouterr().err


def test_seeds_after_restarts_are_all_different() -> None:
    with made(fails="exits", error="restart") as env:
        env.reset(seed=5)
        starts = [env.step(actions(0, 1, 2))[0][:, 0].tolist()]
        env.step(actions())
        starts.append(env.step(actions(0, 1, 2))[0][:, 0].tolist())
        assert env.restarts.tolist() == [2, 2, 2]
        starts.append(env.reset(seed=5)[0][:, 0].tolist())
        assert len({start for row in starts for start in row}) == 9


def test_observations_in_a_dict_are_those_of_the_new_process() -> None:
    with made(fails="exits", error="restart", as_dict=True) as env:
        env.reset(seed=5)
        obs = env.step(actions(2))[0]["at"]
        np.testing.assert_array_equal(env.step(actions())[0]["at"], obs + 1)


def test_one_that_fails_at_every_step_ends_the_run() -> None:
    with made(fails="exits", error="restart", always=True, num_envs=1) as env:
        env.reset(seed=5)
        for _ in range(workers.MOST_IN_A_ROW):
            env.step(actions(count=1))
        with pytest.raises(EnvError, match=r"exit code 3.*environment 0 was restarted 3 times without a step between"):
            env.step(actions(count=1))


def test_a_reset_that_hangs_and_a_process_that_died_between() -> None:
    with made() as env, pytest.raises(EnvError, match=r"environment 0 has not answered for 1 s"):
        env.reset(seed=5, options="hang")
    for error in ("stop", "restart"):
        with made(error=error) as env:
            env.reset(seed=5)
            env.unwrapped.processes[1].kill()
            env.unwrapped.processes[1].join()
            if error == "stop":
                with pytest.raises(EnvError, match=r"process of environment 1 ended \(exit code -9\)"):
                    env.reset(seed=5)
            else:
                np.testing.assert_array_equal(env.reset(seed=5)[0], env.reset(seed=5)[0])
                assert env.restarts.tolist() == [0, 1, 0] and "process_restarted" not in env.step(actions())[-1]


def test_without_a_timeout_it_is_named_and_waited_for(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(workers, "NOTICE", 0.2)
    with made(timeout=None, fails="is slow") as env:
        first, _ = env.reset(seed=5)
        obs, *_ = env.step(actions(1))
        np.testing.assert_array_equal(obs, first + 1)
    assert capfd.readouterr().err == "environment 1 has not answered for 0 s\n"


def test_close_ends_a_process_that_ignores_sigterm() -> None:
    with made(timeout=1.0, fails="ignores SIGTERM") as env:
        env.reset(seed=5)
        with pytest.raises(EnvError, match="environment 0"):
            env.step(actions(0))
        processes, began = env.unwrapped.processes, time.perf_counter()
    assert time.perf_counter() - began < 4 and [p.exitcode for p in processes] == [-9, -15, -15]


def test_close_does_not_wait_for_one_that_hangs_where_an_interrupted_step_left_it() -> None:
    with made(timeout=None) as env:
        env.reset(seed=5)
        timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            env.step(actions(1))
        processes, began = env.unwrapped.processes, time.perf_counter()
    assert time.perf_counter() - began < 4 and not any(process.is_alive() for process in processes)


PARENT = """
    import sys, threading
    import numpy as np
    from costgrad.envs import make
    from tests.envs.test_workers import Fragile, actions

    made = []
    go = lambda: made.append(make(Fragile, 3, backend="async"))
    if sys.argv[1] == "thread":  # one that ends long before its process does
        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
    else:
        go()
    env = made[0]
    env.reset(seed=0)
    env.step(actions())
    print(*(process.pid for process in env.unwrapped.processes), flush=True)
    env.step(actions(0, 2))
"""


@pytest.mark.parametrize("by", ["main", "thread"])
def test_workers_end_with_a_parent_that_is_killed(by: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PARENT), by]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        found = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        time.sleep(0.3)
        assert len(found) == 3 and all(process.is_running() for process in found)
        parent.kill()
    end = time.perf_counter() + 3
    while (left := [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]) and (
        time.perf_counter() < end
    ):
        time.sleep(0.05)
    assert not left


def test_attributes_are_set_in_each_and_what_is_raised_is_of_its_kind() -> None:
    with made() as env:
        env.set_attr("fails", ["raises", "is killed", "raises"])
        assert env.get_attr("fails") == ("raises", "is killed", "raises")
        env.set_attr("always", True)
        assert env.get_attr("always") == (True, True, True)
        with pytest.raises(AttributeError, match="nothing_like_it"):
            env.get_attr("nothing_like_it")
    with made(error="restart") as env:  # an attribute that is not there ends the worker, as in gymnasium
        env.reset(seed=5)
        with pytest.raises(AttributeError):
            env.get_attr("nothing_like_it")
        assert env.step(actions())[-1]["process_restarted"].all()


MISTAKES = [
    ({"env_timeout": 0}, "env_timeout is 0: it must be a number of seconds above 0, or None"),
    ({"env_timeout": float("nan")}, "env_timeout is nan"),
    ({"env_timeout": "5"}, "env_timeout is '5'"),
    ({"on_env_error": "ignore"}, "on_env_error is 'ignore': it must be one of stop, restart"),
    ({"on_env_error": "restart", "backend": "sync"}, "on_env_error 'restart' needs backend async, not sync"),
]


@pytest.mark.parametrize(("arguments", "line"), MISTAKES)
def test_each_mistake_gets_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(EnvError) as caught:
        make("CartPole-v1", 2, **arguments)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_what_can_be_restarted_is_in_processes_and_what_cannot_says_so() -> None:
    env = make("CartPole-v1", 2, on_env_error="restart", env_timeout=9)
    assert env.backend == "async" and env.factory(1, 0).backend == "async" and env.factory(1, 0).env_timeout == 9
    env.close()
    env = make("CartPole-v1", 2, env_timeout=9)
    assert env.backend == "native" and env.env_timeout == 9
    assert env.backend_reason.endswith(
        "one that hangs is named after 9 s, but only backend async can end or restart it"
    )

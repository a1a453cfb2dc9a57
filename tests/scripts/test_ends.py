"""How a run of the command train ends that does not end by itself: signals, hangs, restarts, numbers that go wrong."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import sys
import textwrap
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import pytest

from costgrad.agents import AGENTS
from costgrad.rl.checkpoint import read
from costgrad.scripts.train import main

ENVS = """
    import ctypes
    import os
    import time

    import gymnasium
    import numpy as np


    class Bad(gymnasium.Env):
        def __init__(self, bad="", at=50):
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
            self.action_space = gymnasium.spaces.Discrete(2)
            self.bad, self.at, self.count = bad, at, 0

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.t += 1
            self.count += 1
            obs, reward = np.array([self.t, action], np.float32), 1.0
            if self.count == self.at:
                if self.bad == "sleeps":
                    print("HANGS", flush=True)
                    time.sleep(3600)
                if self.bad == "hangs in C":
                    print("HANGS", flush=True)
                    mutex = ctypes.create_string_buffer(64)
                    for _ in range(2):
                        ctypes.CDLL(None).pthread_mutex_lock(mutex)
                if self.bad == "exits":
                    os._exit(1)
                if self.bad == "reward":
                    reward = -3e38
                if self.bad == "obs":
                    obs[0] = 1e30
            return obs, reward, self.t == 20, False, {}
"""


@pytest.fixture
def env(tmp_path: Path) -> str:
    (tmp_path / "bad.py").write_text(textwrap.dedent(ENVS))
    return f"{tmp_path / 'bad.py'}:Bad"


def flags(env: str, run: Path, *more: str) -> list[str]:
    return ["--env", env, "--run-dir", str(run), "--num-envs", "2", "--no-capture-video", *more]


def child(given: list[str]) -> tuple[int, int]:
    """The number of a process that trains on a terminal of its own with short graces, and that terminal."""
    code = "from costgrad.rl.runs import signals; signals.GRACE = 0.7; from costgrad.scripts.train import main; "
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code + "raise SystemExit(main())", *given])
    return pid, terminal


def heard(terminal: int, until: str = "") -> str:
    """What comes from a terminal, up to something or to its end."""
    said = b""
    with contextlib.suppress(OSError):  # its other end is closed
        while select.select([terminal], [], [], 20)[0] and (new := os.read(terminal, 4096)):
            said += new
            if until and until.encode() in said:
                break
    return said.decode()


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of a child that ends within so many seconds."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@pytest.mark.parametrize(
    ("bad", "backend", "number"),
    [("sleeps", "async", signal.SIGUSR1), ("sleeps", "sync", signal.SIGINT), ("hangs in C", "sync", signal.SIGTERM)],
)
def test_a_run_is_saved_while_an_environment_hangs(
    bad: str, backend: str, number: signal.Signals, env: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pid, terminal = child(flags(env, run, "-n", "100000", "--env-backend", backend, "--env-kwargs", f"bad={bad}"))
    heard(terminal, "HANGS")
    children, began = psutil.Process(pid).children(recursive=True), time.perf_counter()
    os.kill(pid, number)
    said = heard(terminal)
    assert ended(pid, 5) == 128 + number and time.perf_counter() - began < 6
    os.close(terminal)
    assert "stopping after this step and saving" in said and "Traceback" not in said
    assert read(run / "checkpoints" / "last")[1]["run"]["step"] == 98  # nothing of the step that hangs
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_a_run_is_saved_where_its_terminal_goes_away(tmp_path: Path) -> None:
    run = tmp_path / "run"
    pid, terminal = child(flags("CartPole-v1", run, "-n", "10000000", "--eval-freq", "10000000"))
    heard(terminal, "steps/s")  # the bar is there
    os.close(terminal)
    assert ended(pid, 10) == 128 + signal.SIGHUP
    assert read(run / "checkpoints" / "last")[1]["run"]["step"] > 0


def test_a_process_that_dies_is_restarted_and_counted(env: str, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    given = flags(env, run, "-n", "200", "--env-kwargs", "bad=exits", "--on-env-error", "restart", "--no-progress")
    assert main(given) == 0
    said = capsys.readouterr()
    assert re.search("restarted an environment's process [2-4] times", said.out)  # both, at their 50th step
    assert "the process of environment 0 ended (exit code 1)" in said.err


@pytest.mark.parametrize("bad", ["reward", "obs"])
def test_what_an_environment_does_is_not_called_a_learning_rate(
    bad: str, env: str, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    more = ("-n", "4000", "--env-kwargs", f"bad={bad}", "--no-progress", "--agent", "sac", "--learning-starts", "40")
    assert main(flags(env, run, *more)) == 2
    error = capsys.readouterr().err
    assert "learning rates" not in error
    assert "environment 0 returned " in error and "step 98" in error


RATES = 1e6


def diverges(agent: str, env: str, run: Path, steps: int) -> int:
    config = AGENTS[agent][1]
    rates = [f"--{f.name.replace('_', '-')}" for f in fields(config) if f.name.endswith(("_lr", "learning_rate"))]
    assert rates
    given = ["--agent", agent, "--env", env, "-n", str(steps), "--run-dir", str(run), "--no-capture-video"]
    given += ["--no-progress", "--eval-episodes", "1", *(word for rate in rates for word in (rate, str(RATES)))]
    return main(given)


@pytest.mark.parametrize("agent", ["ppo", "a2c", "ars"])
def test_an_agent_that_diverges_ends_with_an_error_and_no_broken_checkpoint(
    agent: str, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    assert diverges(agent, "CartPole-v1", run, 4000) == 2
    assert "learning diverged, lower its learning rates" in capsys.readouterr().err
    for checkpoint in (run / "checkpoints").glob("*"):  # those of before the first update, if there are any
        for name, tensor in read(checkpoint)[0].items():
            assert not tensor.is_floating_point() or bool((tensor.abs() < 1e5).all()), (checkpoint, name)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("agent", ["a2c", "ppo", "reppo", "sac", "td3", "crossq", "es", "ars", "guidedes"])
def test_every_agent_that_diverges_ends_with_an_error(agent: str, env: str, tmp_path: Path) -> None:
    if (agent, env) == ("td3", "CartPole-v1"):
        pytest.skip("TD3 has no discrete actions")
    assert diverges(agent, env, tmp_path / "run", 40_000) == 2

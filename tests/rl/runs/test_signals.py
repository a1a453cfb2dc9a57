"""A signal ends a run within seconds, wherever it is; an agent that changes is neither interrupted nor saved."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costgrad.rl.evaluate import run_episodes
from costgrad.rl.loop import interact
from costgrad.rl.runs import signals as module
from costgrad.rl.runs.signals import Interrupted, Stop, signals
from tests.fakes import Countdown, Fake, Remade, fake

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)


@pytest.fixture
def stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread ends this process, whatever goes wrong."""
    monkeypatch.setattr(module._Watch, "_end", lambda self, number: self.save())


class Act:
    """Does something at the third step."""

    do: Callable[[], None] = staticmethod(lambda: None)
    at = 3


class Acting(Countdown):
    """Acts in a step."""

    def step(self, action: Any) -> Any:
        Act.at -= 1
        if Act.at == 0:
            Act.do()
        return super().step(action)


def run(do: Callable[[], None], where: Any = interact, agent: Fake | None = None) -> tuple[Stop, list[str], Any]:
    """Runs until a signal or an exception ends it: the stop, what was said, and the exception."""
    env, said = Remade(1, cls=Acting), list[str]()
    Act.do, Act.at = staticmethod(do), 3
    agent = agent or fake(env)
    with signals(said.append, lambda: said.append("saved by the thread")) as stop:
        try:
            if where is interact:
                for _ in interact(agent, env, 0):
                    if stop.is_set():
                        break
            else:
                where(agent, env, 10**9, True, 0)
        except KeyboardInterrupt as error:
            return stop, said, error
    return stop, said, None


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ALL)
def test_the_step_under_way_ends(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    agent = fake(Remade(1))
    stop, said, error = run(lambda: both(ask(number), time.sleep(0.1)), agent=agent)
    assert stop.number == number and stop.is_set() and not stop.torn and error is None
    assert agent.updates == 3  # that of the step, too
    line = "; Ctrl-C again ends at once" if number == signal.SIGINT else f" ({number.name})"
    assert said == ["stopping after this step and saving" + line]
    assert signal.getsignal(number) is before and signal.set_wakeup_fd(-1) == -1


def test_the_line_comes_while_the_main_thread_is_busy() -> None:
    seen: list[int] = []
    said: list[str] = []

    def busy() -> None:
        ask(signal.SIGINT)
        end = time.perf_counter() + 5
        while not said and time.perf_counter() < end:
            ctypes.CDLL(None).usleep(10_000)
        seen.append(len(said))

    with signals(said.append, lambda: None):
        busy()
    assert seen == [1]


@pytest.mark.usefixtures("stays")
@pytest.mark.parametrize("where", [interact, run_episodes])
def test_a_step_that_does_not_end_is_interrupted(where: Any) -> None:
    agent, began = fake(Remade(1)), time.perf_counter()
    stop, said, error = run(lambda: both(ask(signal.SIGTERM), time.sleep(4)), where, agent)
    assert isinstance(error, Interrupted) and stop.number == signal.SIGTERM and not stop.torn
    assert time.perf_counter() - began < 3 and agent.updates == (2 if where is interact else 0)
    assert "saved by the thread" not in said


def test_an_update_is_waited_for() -> None:
    class Slow(Fake):
        def update(self) -> Any:
            if self.updates == 2:
                ask(signal.SIGTERM)
                time.sleep(1.2)  # of four times the grace
            return super().update()

    env = Remade(1)
    agent = Slow(env.single_observation_space, env.single_action_space, fake(env).config)
    stop, said, error = run(lambda: None, agent=agent)
    assert stop.number == signal.SIGTERM and error is None and agent.updates == 3 and len(said) == 1


def test_a_second_ctrl_c_tells_whether_the_agent_is_whole() -> None:
    class Changing(Fake):
        def update(self) -> Any:
            if self.updates == 2:
                ask(signal.SIGINT)
                ask(signal.SIGINT)
            return super().update()

    env = Remade(1)
    agent = Changing(env.single_observation_space, env.single_action_space, fake(env).config)
    stop, _, error = run(lambda: None, agent=agent)
    assert isinstance(error, KeyboardInterrupt) and stop.torn
    stop, _, error = run(lambda: both(ask(signal.SIGINT), ask(signal.SIGINT)))
    assert isinstance(error, KeyboardInterrupt) and not stop.torn


def both(*_: Any) -> None:
    """One thing after the other, in a lambda."""


def in_child(do: Callable[[], None]) -> int | None:
    """The exit code of a process of its own that does it."""
    child = multiprocessing.get_context("fork").Process(target=do)
    child.start()
    child.join(20)
    child.kill()
    child.join()
    return child.exitcode


@pytest.mark.parametrize("number", ALL)
def test_what_hangs_in_c_is_left_and_a_thread_saves(number: signal.Signals, tmp_path: Path) -> None:
    def hang() -> None:
        ask(number)
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):  # the second never returns, and no signal interrupts it
            ctypes.CDLL(None).pthread_mutex_lock(mutex)

    def child() -> None:
        env = Remade(1, cls=Acting)
        Act.do, Act.at = staticmethod(hang), 3
        agent = fake(env)
        with signals(lambda line: None, lambda: both((tmp_path / "saved").write_text(str(agent.updates)))):
            for _ in interact(agent, env, 0):
                pass

    began = time.perf_counter()
    assert in_child(child) == 128 + number and time.perf_counter() - began < 5
    assert (tmp_path / "saved").read_text() == "2"


def test_a_second_sigterm_ends_the_process() -> None:
    def child() -> None:
        with signals(lambda line: None, lambda: None):
            ask(signal.SIGTERM)
            ask(signal.SIGTERM)
            time.sleep(60)

    assert in_child(child) == -signal.SIGTERM


@pytest.mark.parametrize("kept", [signal.SIG_IGN, lambda *_: None])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_what_something_else_is_made_of_stays(number: signal.Signals, kept: Any) -> None:
    """As under nohup."""
    before = signal.signal(number, kept)
    try:
        with signals(lambda line: None, lambda: None) as stop:
            assert signal.getsignal(number) is kept
            ask(number)
            assert not stop.is_set()
    finally:
        signal.signal(number, before)


def test_another_thread_takes_none() -> None:
    found: list[Any] = []

    def go() -> None:
        with signals(found.append, lambda: None) as stop:
            found.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    assert found == [(False, before)]

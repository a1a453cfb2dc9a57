"""Signals that ask a run to end: it saves and ends within seconds, wherever it is, also where an environment hangs.

The first one lets the vector step under way end. An environment (or an evaluation, a probe, a video) that takes longer
than a few seconds is interrupted by an exception, which reaches whatever runs in Python. What does not is left to a
thread, which saves the agent as it is, since a step of the environment changes nothing about it, and ends the process.
An update of the agent is never interrupted: it is waited for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from costgrad.rl.diagnostics.probe import probe
from costgrad.rl.evaluate import run_episodes
from costgrad.rl.loop import interact
from costgrad.rl.runs.video import record_video

GRACE = 3.0  # seconds that an environment gets for its step, and again before a thread ends the process
_ASKED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_HARMLESS = {run_episodes.__code__, probe.__code__, record_video.__code__}  # the agent is only read there


class Interrupted(KeyboardInterrupt):
    """Ends a step of an environment that takes too long; it passes `except Exception` of user code."""


class Stop:
    """Whether a signal has asked a run to end.

    Attributes:
        number: of the first signal; None before there is one.
        torn: whether an update of the agent was interrupted, by a second Ctrl-C: then the agent must not be saved.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.torn = False

    def is_set(self) -> bool:
        """Whether there was a signal."""
        return self.number is not None


@contextmanager
def signals(say: Callable[[str], None], save: Callable[[], Any]) -> Iterator[Stop]:
    """Takes SIGINT, SIGTERM, SIGHUP and SIGUSR1 as requests to end; a second signal acts as it would without this.

    SIGHUP and SIGUSR1 are left alone where something else is made of them, `nohup` for instance. Nothing is taken
    outside of the main thread.

    Args:
        say: prints a line.
        save: saves the agent without its environment; called by a thread, in place of all that would follow.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield stop
        return
    taken = [getattr(signal, name) for name in _ASKED if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in taken}
    taken = [n for n in taken if n in (signal.SIGINT, signal.SIGTERM) or before[n] is signal.SIG_DFL]
    watch = _Watch(stop, say, save)

    def restore() -> None:
        for number in taken:
            signal.signal(number, before[number])

    def handle(number: int, frame: FrameType | None) -> None:
        first, stop.number = stop.number is None, stop.number or number
        if watch.poked:  # also instead of the first, where both came in one call of C
            watch.poked = False
            with watch.saving:  # for ever where the thread is about to end the process
                if in_environment(frame):
                    raise Interrupted
        elif not first:
            restore()
            stop.torn = in_update(frame)
            if number != signal.SIGINT:
                os.kill(os.getpid(), number)
            elif callable(own := before[number]):
                own(number, frame)
            else:  # in a script's background it is ignored; what stops the run shall also end it
                raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, handle)
    try:
        with watch:
            yield stop
    finally:
        restore()


class _Watch:
    """A thread that is told of signals by the interpreter, also while the main thread is in a call of C."""

    def __init__(self, stop: Stop, say: Callable[[str], None], save: Callable[[], Any]) -> None:
        self.stop, self.say, self.save = stop, say, save
        self.poked = False  # the next signal comes from this thread
        self.saving = threading.Lock()
        self._left = threading.Event()
        self._main = threading.main_thread().ident or 0

    def __enter__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="signals of a run", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        signal.set_wakeup_fd(self._before)
        with contextlib.suppress(OSError):
            self._write.send(b"\0")
        self._thread.join(GRACE)
        for end in (self._write, self._read):
            end.close()

    def _run(self) -> None:
        number = self._first()
        if number is None:
            return
        line = "stopping after this step and saving"
        again = "; Ctrl-C again ends at once" if number == signal.SIGINT else f" ({signal.Signals(number).name})"
        with contextlib.suppress(Exception):  # the terminal may be gone
            self.say(line + again)
        waits = 0  # in a row in an environment
        while not self._left.wait(GRACE):
            waits = waits + 1 if in_environment(sys._current_frames().get(self._main)) else 0
            if waits == 1 and hasattr(signal, "pthread_kill"):
                self.poked = True
                signal.pthread_kill(self._main, number)
            elif waits > 1:
                with self.saving:  # the main thread waits here, should it return: `handle` is due first
                    if in_environment(sys._current_frames().get(self._main)):
                        self._end(number)

    def _first(self) -> int | None:
        """The first signal; None where the run has ended without one. Others go where they went before."""
        while not self._left.is_set():
            for number in self._read.recv(64):
                if number == 0:
                    return None
                if self._before >= 0:
                    with contextlib.suppress(OSError):
                        os.write(self._before, bytes([number]))
                if signal.Signals(number).name in _ASKED:
                    return number
        return None

    def _end(self, number: int) -> None:
        """Saves, and ends the process as the signal would, so that nothing of what hangs is waited for."""
        code = 128 + number
        try:
            self.save()
            said = "the environment does not return: saved without it"
        except Exception as error:
            said, code = f"error: not saved: {error}", 2
        with contextlib.suppress(Exception):
            print(said, file=sys.stderr, flush=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def in_environment(frame: FrameType | None) -> bool:
    """Whether a thread at this frame is where an interruption loses nothing but steps of environments."""
    below: Any = None
    inside = False
    while frame is not None:
        if frame.f_code in _HARMLESS:
            return True
        if frame.f_code is interact.__code__:
            inside = below is not None and below.f_code.co_name in ("step", "reset")
        below, frame = frame, frame.f_back
    return inside


def in_update(frame: FrameType | None) -> bool:
    """Whether a thread at this frame may be changing the agent: in the loop, but not in an environment."""
    if in_environment(frame):
        return False
    while frame is not None:
        if frame.f_code is interact.__code__:
            return True
        frame = frame.f_back
    return False

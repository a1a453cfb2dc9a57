"""What a worker process does before it makes its environment: which signals it takes, and that it ends with its parent.

It ends also where the environment hangs: Linux kills it, and elsewhere a thread looks once a second.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import gymnasium

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_LOOK_SECONDS = 1.0


class Child:
    """Makes an environment, in a worker process or in this one.

    Signals that end a run are left to the process that trains: Ctrl-C and a terminal that goes away reach all of them.

    Args:
        make: one environment.
    """

    def __init__(self, make: Callable[[], gymnasium.Env]) -> None:
        self.make, self.parent = make, os.getpid()
        self.by_main_thread = threading.current_thread() is threading.main_thread()

    def __call__(self) -> gymnasium.Env:
        """One environment. Raises EnvError."""
        if os.getpid() != self.parent:
            self._settle()
        return self.make()

    def _settle(self) -> None:
        signal.set_wakeup_fd(-1)  # that of a training, too
        for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler of a training
        above = os.getppid()
        # The signal comes when the thread that forked ends: a main thread with its process, another perhaps before.
        if sys.platform == "linux" and self.by_main_thread:
            with suppress(AttributeError, OSError):  # a C library without it: the thread is there
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        forked = multiprocessing.get_start_method() == "fork"
        if os.getppid() != (self.parent if forked else above):  # it died before that was asked for
            os._exit(1)
        threading.Thread(target=_end_with, args=(above,), name="ends with its parent", daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when another one is its parent."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

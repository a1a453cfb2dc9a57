"""A run goes on where the file system refuses to write, says so in one line, and tries again at the next occasion."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from costgrad.rl.errors import WriteError

LAST = "checkpoint last"  # what a run goes on from


class RunWarning(UserWarning):
    """A run goes on, but not as it should: what it could not write, what it lost."""


def warn(line: str) -> None:
    """Says a line where there is no display."""
    warnings.warn(line, RunWarning, stacklevel=3)


class Faults:
    """What a run could not write.

    Args:
        say: takes one line for people.

    Attributes:
        open: by the name of what is not written, the line that says why.
    """

    def __init__(self, say: Callable[[str], None] = warn) -> None:
        self.say = say
        self.open: dict[str, str] = {}
        self._reasons: set[str] = set()  # said since everything was written

    @contextmanager
    def tolerated(self, what: str, once: bool = False) -> Iterator[None]:
        """A context in which a `WriteError` is said, once for each reason as long as it lasts, and goes no further.

        Args:
            what: is written, "checkpoint last" for instance.
            once: whether the same is not tried again, as a checkpoint of a step that is past.
        """
        try:
            yield
        except WriteError as error:
            reason = str(error).rpartition(": ")[2]
            if reason not in self._reasons:
                self.say(f"{error}: training goes on and tries again at the next save")
            self._reasons.add(reason)
            if not once:
                self.open[what] = str(error)
        else:
            again = self.open.pop(what, None) is not None
            if not self.open and (again or what == LAST):
                self._reasons.clear()
                if again:
                    self.say("the disk can be written again, and holds the run as it is now")

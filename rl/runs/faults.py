"""A run goes on where the file system refuses to write, says so in one line, and tries again at the next occasion."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from costgrad.rl.errors import WriteError


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

    @contextmanager
    def tolerated(self, what: str) -> Iterator[None]:
        """A context in which a `WriteError` is said, once as long as it lasts, and goes no further.

        Args:
            what: is written, "checkpoint last" for instance.
        """
        try:
            yield
        except WriteError as error:
            if what not in self.open:
                self.say(f"{error}: training goes on and tries again at the next save")
            self.open[what] = str(error)
        else:
            if self.open.pop(what, None) is not None:
                self.say(f"{what} could be written again")

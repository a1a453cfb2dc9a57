"""Progress of a run: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_BAR_SECONDS, _LINE_SECONDS = 0.2, 5.0


class Display:
    """Shows the progress of a run.

    Args:
        total: environment steps of the whole run.
        step: environment steps at the start.
        seconds: of training before the start.
        enabled: False prints nothing.
    """

    def __init__(self, total: int, step: int = 0, seconds: float = 0.0, enabled: bool = True) -> None:
        self.total, self.enabled = total, enabled
        console = Console(file=sys.stdout)
        self._bar: Progress | None = None
        self._every = _LINE_SECONDS
        if enabled and console.is_terminal:
            self._every = _BAR_SECONDS
            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.completed:,}/{task.total:,} steps"),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(compact=True),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, completed=step, state="")
            self._bar.start()
        self._last = (step, seconds)
        self._rate = 0.0
        self._due = time.perf_counter() + self._every

    def due(self) -> bool:
        """Whether it is time to `show`; cheap enough to call after each step."""
        return self.enabled and time.perf_counter() >= self._due

    def show(self, step: int, seconds: float, mean_return: float | None) -> None:
        """Updates the bar, or prints one line.

        Args:
            step: environment steps so far.
            seconds: of training so far.
            mean_return: of the latest episodes; None before one has ended.
        """
        rate = (step - self._last[0]) / max(seconds - self._last[1], 1e-9)
        self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
        self._last, self._due = (step, seconds), time.perf_counter() + self._every
        state = f"return {'-' if mean_return is None else f'{mean_return:.5g}'}, {self._rate:,.0f} steps/s"
        if self._bar is not None:
            with self._heard():
                self._bar.update(self._task, completed=step, state=state)
        else:
            left = max(self.total - step, 0) / max(self._rate, 1e-9)
            share = min(100 * step // self.total, 100)
            self.say(f"{step:>10,} of {self.total:,} steps ({share} %): {state}, {_duration(left)} left")

    def say(self, line: str) -> None:
        """Prints one line, above the bar where there is one; nothing once the terminal is gone."""
        if not self.enabled:
            return
        with self._heard():
            self._print(line)

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            with self._heard():
                self._bar.stop()
            self._bar = None

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Ends the display where the terminal is gone (SIGHUP): a run is not lost for that."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.enabled = False


def _duration(seconds: float) -> str:
    seconds = int(seconds)
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02}"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"

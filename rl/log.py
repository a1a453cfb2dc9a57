"""What a run tells people: TensorBoard, CSV, and the only place that waits for the device."""

from __future__ import annotations

import csv
import io
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import Tensor

from rl.checkpoint import write_text, writing
from rl.errors import UserError
from rl.evaluate import Evaluation

TRAINING_COLUMNS = ("step", "seconds", "mean_return", "min_return", "max_return", "mean_length", "steps_per_second")
EVALUATION_COLUMNS = (
    *("step", "seconds", "mean_return", "std_return", "min_return", "max_return"),
    *("interval_low", "interval_high", "episodes", "mean_length"),
)
WINDOW = 100  # episodes that rollout/ep_rew_mean is the mean of
_FOLD = 256  # updates whose metrics are kept before they are added up


class Clock:
    """Seconds of training; `pause` stops it while something else runs.

    Args:
        seconds: on it when it starts (a run that goes on).
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._start = time.perf_counter() - seconds
        self._paused: float | None = None

    @property
    def seconds(self) -> float:
        """Since the start, without the pauses."""
        return (self._paused or time.perf_counter()) - self._start

    def __enter__(self) -> Clock:
        """Pauses."""
        self._paused = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Goes on."""
        assert self._paused is not None
        self._start += time.perf_counter() - self._paused
        self._paused = None


class Table:
    """A CSV file of numbers that grows by rows.

    Args:
        path: of the file, None to keep rows in memory only.
        columns: its head.
        until: where it exists already, rows of a later step are dropped: the run goes on from here.

    Raises:
        UserError: it cannot be written, or holds something else.
    """

    def __init__(self, path: Path | None, columns: tuple[str, ...], until: int = 0) -> None:
        self.path, self.columns = path, columns
        self.rows: list[dict[str, float]] = []
        if path is None:
            return
        if path.exists():
            self.rows = [row for row in read_table(path) if row["step"] <= until]
        write_text(path, "".join([",".join(columns) + "\n", *(self._line(row) for row in self.rows)]))

    def add(self, **row: float) -> None:
        """Appends one row, on disk at once. Raises UserError."""
        assert tuple(row) == self.columns, f"columns are {self.columns}, got {tuple(row)}"
        self.rows.append(row)
        if self.path is not None:
            with writing(self.path), self.path.open("a", newline="") as file:
                file.write(self._line(row))

    def _line(self, row: Mapping[str, float]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([f"{row[key]:.10g}" for key in self.columns])
        return text.getvalue()


def read_table(path: Path) -> list[dict[str, float]]:
    """The rows of a `Table`'s file. Raises UserError where a cell is not a number (a line cut short is left out)."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    try:
        return [{key: float(value) for key, value in line.items()} for line in lines if None not in line.values()]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


class Log:
    """Collects what the ticks of a run say and writes it every `every` environment steps.

    Between two writes the metrics stay tensors on their device; an agent hands over new ones at each update.

    Args:
        folder: of TensorBoard's files and `training.csv`; None writes nothing.
        clock: of the run.
        every: environment steps between two writes.
        step: where the run stands; later entries, of a run that went on without being saved, are dropped.
    """

    def __init__(self, folder: Path | None, clock: Clock, every: int, step: int = 0) -> None:
        self.clock, self.every = clock, every
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.lengths: deque[int] = deque(maxlen=WINDOW)
        self.training = Table(folder and folder / "training.csv", TRAINING_COLUMNS, step)
        self.evaluations = Table(folder and folder / "evaluations.csv", EVALUATION_COLUMNS, step)
        self._pending: list[dict[str, Tensor]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._last = (step, clock.seconds)
        self._due = step + every
        self._writer: EventFileWriter | None = None
        if folder is not None:
            with writing(folder):
                self._writer = EventFileWriter(str(folder))
            if step:
                self._event(step, session_log=SessionLog(status=SessionLog.START))  # hides what came after this step

    def add(self, step: int, metrics: dict[str, Tensor], returns: list[float], lengths: list[int]) -> None:
        """Takes in one tick of the loop; a microsecond unless it is time to write."""
        if metrics:
            self._pending.append(metrics)
            if len(self._pending) >= _FOLD:
                self._fold()
        if returns:
            self.episodes += len(returns)
            self.returns.extend(returns)
            self.lengths.extend(lengths)
        if step >= self._due:
            self.write(step)

    def write(self, step: int) -> None:
        """Writes the means since the last time, at this step; nothing where it did so already."""
        if step == self._last[0]:
            return
        self._due = step + self.every
        seconds = self.clock.seconds
        before, then = self._last
        self._last = (step, seconds)
        fps = (step - before) / max(seconds - then, 1e-9)
        self._fold()
        scalars = {f"train/{name}": (total / self._counts[name]).item() for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        if (mean := self.mean_return) is not None:
            length = sum(self.lengths) / len(self.lengths)
            scalars |= {"rollout/ep_rew_mean": mean, "rollout/ep_len_mean": length}
            self.training.add(
                step=step,
                seconds=seconds,
                mean_return=mean,
                min_return=min(self.returns),
                max_return=max(self.returns),
                mean_length=length,
                steps_per_second=fps,
            )
        self._scalars(step, scalars | {"time/fps": fps})

    def add_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Writes one evaluation of the policy as it was after `step` environment steps."""
        self.evaluations.add(
            step=step,
            seconds=self.clock.seconds,
            mean_return=evaluation.mean,
            std_return=evaluation.std,
            min_return=min(evaluation.returns),
            max_return=max(evaluation.returns),
            interval_low=evaluation.interval[0],
            interval_high=evaluation.interval[1],
            episodes=len(evaluation.returns),
            mean_length=sum(evaluation.lengths) / len(evaluation.lengths),
        )
        length = sum(evaluation.lengths) / len(evaluation.lengths)
        self._scalars(step, {"eval/mean_reward": evaluation.mean, "eval/mean_ep_length": length})

    @property
    def mean_return(self) -> float | None:
        """Of the last 100 training episodes; None before the first has ended."""
        return sum(self.returns) / len(self.returns) if self.returns else None

    def close(self) -> None:
        """Closes the files."""
        if self._writer is not None:
            self._writer.close()

    def _fold(self) -> None:
        """Adds up the pending metrics on their device, one operation a name."""
        columns: dict[str, list[Tensor]] = {}
        for metrics in self._pending:
            for name, value in metrics.items():
                columns.setdefault(name, []).append(value)
        for name, values in columns.items():
            total = torch.stack(values).detach().double().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] = self._counts.get(name, 0) + len(values)
        self._pending.clear()

    def _scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._event(step, summary=Summary(value=values))

    def _event(self, step: int, **what: Any) -> None:
        if self._writer is not None:
            self._writer.add_event(Event(wall_time=time.time(), step=step, **what))

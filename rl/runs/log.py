"""Logs a run to TensorBoard and CSV. Only here are metrics copied from the device."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from costgrad.rl.diagnostics.probe import Probe
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import Evaluation
from costgrad.rl.ledger import StepLedger
from costgrad.rl.runs.clock import Clock
from costgrad.rl.runs.events import Events
from costgrad.rl.runs.faults import Faults
from costgrad.rl.runs.health import Health
from costgrad.rl.runs.metrics import Thinned, means
from costgrad.rl.runs.table import EVALUATION_COLUMNS, PROBE_COLUMNS, TRAINING_COLUMNS, Table

WINDOW = 100  # episodes that rollout/ep_rew_mean is the mean of


class Log:
    """Collects the metrics and returns of a run, and writes them every `every` environment steps.

    Between two writes the metrics stay tensors on their device (see `Thinned`).

    Args:
        folder: for TensorBoard's files, `training.csv`, `evaluations.csv` and `probes.csv`; None writes nothing.
        clock: of the run.
        every: environment steps between two writes.
        step: environment steps so far; later entries, written after the last checkpoint of a resumed run, are dropped.
        ledger: of the run.
        state: of `state`, of a resumed run.
        pending: what is due at `step` and not done yet ("evaluation", "probe"): its entries are dropped as well.
        health: judges what is written.
        faults: takes what cannot be written.
        check: is called before each write.

    Attributes:
        further: more scalars of each write.
    """

    def __init__(
        self,
        folder: Path | None,
        clock: Clock,
        every: int,
        step: int = 0,
        ledger: StepLedger | None = None,
        state: Mapping[str, Any] | None = None,
        pending: Sequence[str] = (),
        health: Health | None = None,
        faults: Faults | None = None,
        check: Callable[[], object] = bool,
    ) -> None:
        self.faults, self.check = faults or Faults(), check
        self.clock, self.every, self.ledger = clock, every, ledger or StepLedger()
        self.health = health or Health(None)
        self.further: Callable[[], dict[str, float]] = dict
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.lengths: deque[int] = deque(maxlen=WINDOW)
        self._metrics: dict[tuple[str, ...], Thinned] = {}
        self._last = (step, clock.seconds)
        self._due = step + every
        if state is not None:
            self._restore(state)
        self.training = Table(folder and folder / "training.csv", TRAINING_COLUMNS, self._last[0])
        until = step - ("evaluation" in pending)
        self.evaluations = Table(folder and folder / "evaluations.csv", EVALUATION_COLUMNS, until)
        self._probes: Table | None = None  # a file once there is a probe
        self._probed = (folder and folder / "probes.csv", step - ("probe" in pending))
        self._writer: Events | None = None
        if folder is not None:
            earlier = any(folder.glob("events.out.tfevents.*"))
            self._writer = Events(folder)
            if earlier:
                # TensorBoard then hides what came after this step.
                self._event(self._last[0] + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, metrics: dict[str, Tensor], returns: list[float], lengths: list[int]) -> None:
        """Adds one tick of the loop; takes about a microsecond unless it is time to write."""
        if metrics:
            self._metrics.setdefault(tuple(metrics), Thinned()).add(metrics)
        if returns:
            self.episodes += len(returns)
            self.returns.extend(returns)
            self.lengths.extend(lengths)
        if step >= self._due:
            self.write(step)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to write the same rows: the latest episodes, metrics since the last write."""
        metrics = []
        for names, sample in self._metrics.items():
            rows = [torch.stack(list(kept.values())).cpu().numpy() for kept in sample.kept]
            metrics.append([names, rows, sample.seen, sample.stride])
        returns, lengths = list(self.returns), list(self.lengths)
        last = {"last": self._last, "due": self._due, "metrics": metrics}
        return {"episodes": self.episodes, "returns": returns, "lengths": lengths, **last}

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` gave. Raises UserError where it is not that."""
        try:
            self.episodes = int(state["episodes"])
            self.returns.extend(float(each) for each in state["returns"])
            self.lengths.extend(int(each) for each in state["lengths"])
            step, seconds = state["last"]
            self._last, self._due = (int(step), float(seconds)), int(state["due"])
            for names, rows, seen, stride in state["metrics"]:
                kept = [dict(zip(names, torch.from_numpy(row).unbind(), strict=True)) for row in rows]
                self._metrics[tuple(names)] = Thinned(kept, int(seen), max(int(stride), 1))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"the log of the run to resume is damaged: {error}") from error

    def write(self, step: int) -> None:
        """Writes the means since the last write; does nothing if this step was written already."""
        if step == self._last[0]:
            return
        self._due = step + self.every
        seconds = self.clock.seconds
        last_step, last_seconds = self._last
        self._last = (step, seconds)
        fps = (step - last_step) / max(seconds - last_seconds, 1e-9)
        scalars = {f"train/{name}": value for name, value in means(self._metrics).items()}
        self.health.check_metrics(step, scalars)
        self.health.check_now_and_then(step)
        self._metrics = {}
        if (mean := self.mean_return) is not None:
            length = sum(self.lengths) / len(self.lengths)
            scalars |= {"rollout/ep_rew_mean": mean, "rollout/ep_len_mean": length}
            self._row(
                self.training,
                step=step,
                seconds=seconds,
                mean_return=mean,
                min_return=min(self.returns),
                max_return=max(self.returns),
                mean_length=length,
                steps_per_second=fps,
            )
        self._scalars(step, scalars | {"time/fps": fps} | self.further() | self._ledger_scalars())

    def add_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Writes one evaluation of the policy after `step` environment steps."""
        self._row(
            self.evaluations,
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
        scalars = {"eval/mean_reward": evaluation.mean, "eval/mean_ep_length": length}
        self._scalars(step, scalars | self._ledger_scalars())

    def add_picture(self, step: int, tag: str, png: bytes) -> None:
        """Adds a PNG to TensorBoard's images."""
        width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))  # offsets in every PNG
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._event(step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def add_probe(self, step: int, probe: Probe) -> None:
        """Writes a probe of C after `step` environment steps; NaN values get no tag."""
        if self._probes is None:
            path, start = self._probed
            self._probes = Table(path, PROBE_COLUMNS, start, begin=False)
        nan, cal, grad = math.nan, probe.calibration, probe.gradient
        self._row(
            self._probes,
            step=step,
            seconds=self.clock.seconds,
            grad_cosine=nan if grad is None else grad.cosine,
            grad_cosine_error=nan if grad is None else grad.cosine_error,
            grad_relative_error=nan if grad is None else grad.relative_error,
            grad_relative_error_error=nan if grad is None else grad.relative_error_error,
            explained_variance=cal.explained_variance,
            explained_variance_error=cal.explained_variance_error,
            calibration=cal.error,
            calibration_error=cal.error_error,
            bias=cal.bias,
            left=cal.left,
            environment_steps=probe.steps,
        )
        tags = ("grad_cosine", "grad_relative_error", "explained_variance", "calibration", "bias")
        found = {f"critic/{tag}": self._probes.rows[-1][tag] for tag in tags}
        self._scalars(step, {tag: value for tag, value in found.items() if not math.isnan(value)})

    @property
    def mean_return(self) -> float | None:
        """Mean return of the last 100 training episodes; None before the first has ended."""
        return sum(self.returns) / len(self.returns) if self.returns else None

    def _ledger_scalars(self) -> dict[str, float]:
        return {f"ledger/{name}": float(count) for name, count in asdict(self.ledger).items()}

    def close(self) -> None:
        """Closes the files."""
        if self._writer is not None:
            with suppress(UserError):  # said where it was first met
                self.sync()
            self._writer.close()

    def sync(self) -> None:
        """Waits until the disk holds all rows and events, those too that could not be written before."""
        for table in filter(None, (self.training, self.evaluations, self._probes)):
            if table.path is not None:
                with self.faults.tolerated(table.path.name):
                    self.check()
                    table.sync()
        if self._writer is not None:
            with self.faults.tolerated("TensorBoard's events"):
                self.check()
                self._writer.sync()

    def _row(self, table: Table, **row: float) -> None:
        with self.faults.tolerated(table.path.name if table.path is not None else ""):
            if table.path is not None:
                self.check()
            table.add(**row)

    def _scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._event(step, summary=Summary(value=values))

    def _event(self, step: int, **what: Any) -> None:
        if self._writer is not None:
            with self.faults.tolerated("TensorBoard's events"):
                self.check()
                self._writer.add(Event(wall_time=time.time(), step=step, **what))

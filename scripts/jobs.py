"""The runs of an experiment, each in a process of its own, and the rows that they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

from costgrad.scripts.reporting.rows import Key, Measured, Row, append, commit, evaluations_path, machine, remove

RESULT = "costgrad result: "  # begins the line by which the process of a run hands it over
ENV_FILE = "env_sha256"  # in the config column of a row: that of the environment's file


class Run(NamedTuple):
    """One run to be done."""

    agent: str
    variant: str
    env: str
    seed: int
    total: int
    num_envs: int
    config: dict[str, Any]  # settings that are not the agent's defaults
    evaluations: int
    episodes: int
    env_sha256: str | None = None  # of the environment's file; None for an id

    @property
    def key(self) -> Key:
        """As in its row."""
        return self.agent, self.variant, self.env, str(self.seed), str(self.total)

    @property
    def settings(self) -> str:
        """The config column."""
        return json.dumps({"num_envs": self.num_envs, **self.config, **self._file})

    @property
    def _file(self) -> dict[str, str]:
        return {} if self.env_sha256 is None else {ENV_FILE: self.env_sha256}

    def __str__(self) -> str:
        """For people."""
        return f"{f'{self.agent} {self.variant}'.strip()} {self.env}:{self.total} seed {self.seed}"


def run_all(todo: list[Run], path: Path, jobs: int, stale: Collection[Key] = ()) -> int:
    """Runs all, `jobs` at a time, and appends rows in the order in which they finish; one takes a stale one's place."""
    waiting, failed, number = list(reversed(todo)), 0, 0
    running: list[Job] = []
    stops: list[int] = []  # a flag, and no exception: that could fall between a run's start and our knowing of it
    before = {s: signal.signal(s, lambda number, _: stops.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        while (waiting or running) and not stops:
            while waiting and len(running) < jobs:
                running.append(Job(waiting.pop()))
            time.sleep(0.05)
            ended = [job for job in running if job.process.poll() is not None]
            for job in [] if stops else ended:  # Ctrl-C reaches the runs too: what it ended has not failed
                running.remove(job)
                row, evaluations, said = job.finish()
                if row.key in stale:
                    remove(path, row.key)
                append(evaluations_path(path), Measured._fields, evaluations)
                append(path, Row._fields, [row])
                failed += not row.final_return
                number += 1
                print(f"[{number}/{len(todo)}] {job.run}: {said}", flush=True)
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        for job in running:
            job.process.kill()
            job.process.wait()
    if stops:
        raise KeyboardInterrupt
    return 1 if failed else 0


class Job:
    """A run in a process of its own, on one thread."""

    def __init__(self, run: Run) -> None:
        self.run, self.commit, self.begin = run, commit(), time.perf_counter()
        self._out: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in finish
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-P", "-m", "costgrad", "experiment", "--run-one", json.dumps(run._asdict())]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environ, stdout=self._out, stderr=self._errors)

    def finish(self) -> tuple[Row, list[Measured], str]:
        """What the ended process leaves: its row, its evaluations, a line for people."""
        self._out.seek(0)
        self._errors.seek(0)
        lines, errors = self._out.read().splitlines(), self._errors.read().strip().splitlines()
        self._out.close()
        self._errors.close()
        run, tail = self.run, (self.commit, machine(), self.run.settings)
        results = [line.removeprefix(RESULT) for line in lines if line.startswith(RESULT)]
        if self.process.returncode != 0 or not results:
            why = errors[-1] if errors else f"exit code {self.process.returncode}"
            seconds = f"{time.perf_counter() - self.begin:.1f}"
            return Row(*run.key, seconds, "", "", *tail), [], f"failed: {why.removeprefix('error: ')}"
        done = json.loads(results[-1])
        figures = (f"{done['seconds']:.1f}", f"{done['final_return']:.6g}", f"{done['steps_per_second']:.0f}")
        evaluations = [Measured(*run.key, *(f"{value:.10g}" for value in cells)) for cells in done["evaluations"]]
        said = f"return {done['final_return']:.5g}, {done['steps_per_second']:,.0f} steps/s"
        return Row(*run.key, *figures, *tail), evaluations, said

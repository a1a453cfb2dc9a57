"""Counts the environment steps of a run, by purpose."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from costgrad.rl.checks import short, whole
from costgrad.rl.errors import UserError
from costgrad.rl.files import write_text


@dataclass
class StepLedger:
    """Environment steps of a run; reset rows do not count.

    Sample efficiency compares all steps, those of evaluations included. Steps of environments that had to continue
    because others were not done count too.
    """

    training: int = 0
    evaluation: int = 0
    """Evaluations during and after training, and videos."""
    probes: int = 0
    """Everything else that steps the environment, such as scripts/probe.py on the run; hooks add their own steps."""

    @property
    def total(self) -> int:
        """Sum over all purposes."""
        return self.training + self.evaluation + self.probes

    def __str__(self) -> str:
        """One line for people."""
        parts = (f"{count:,} in {name}" for name, count in asdict(self).items())
        return f"{self.total:,} environment steps: {', '.join(parts)}"

    def write(self, path: Path) -> None:
        """Writes it as JSON. Raises UserError."""
        write_text(path, json.dumps(asdict(self)) + "\n")

    def add_to(self, path: Path) -> None:
        """Adds the counts to a file of `write`; does nothing without one. Raises UserError."""
        if path.exists():
            both = replace(self)
            both.read(path)
            both.write(path)

    def read(self, path: Path) -> None:
        """Adds the counts of a file of `write`; does nothing without one. Raises UserError if the file is damaged."""
        if not path.exists():  # the run is older than ledgers
            return
        try:
            counts = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(counts, dict) or not counts.keys() <= asdict(self).keys():
                raise ValueError(f"it holds {short(counts)}")
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + whole(count, name))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"ledger {path} is damaged: {error}") from error

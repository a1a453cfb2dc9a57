"""What a run spends: environment steps, by what they are spent on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from costgrad.rl.checkpoint import write_text
from costgrad.rl.errors import UserError


@dataclass
class StepLedger:
    """Environment steps of a run; a row that only resets is none.

    Agents compare by what they took from the environment, and a step of an evaluation is a step. Those of environments
    that had to step on because others were not done are in it.
    """

    training: int = 0
    evaluation: int = 0
    """Of the policy on the way and at the end, and of the film."""
    probes: int = 0
    """Of whatever else asks the environment for a cost, scripts/probe.py on the run among it; a hook adds its own."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.training + self.evaluation + self.probes

    def __str__(self) -> str:
        """One line for people."""
        parts = (f"{count:,} in {name}" for name, count in asdict(self).items())
        return f"{self.total:,} environment steps: {', '.join(parts)}"

    def write(self, path: Path) -> None:
        """Writes it as JSON. Raises UserError."""
        write_text(path, json.dumps(asdict(self)) + "\n")

    def add_to(self, path: Path) -> None:
        """Adds it to what `write` wrote; nothing where there is no file. Raises UserError."""
        if path.exists():
            both = replace(self)
            both.read(path)
            both.write(path)

    def read(self, path: Path) -> None:
        """Adds what `write` wrote; nothing where there is no file. Raises UserError where it holds something else."""
        if not path.exists():  # a run from before there were ledgers
            return
        try:
            for name, count in json.loads(path.read_text(encoding="utf-8")).items():
                setattr(self, name, getattr(self, name) + int(count))
        except (AttributeError, OSError, TypeError, ValueError) as error:
            raise UserError(f"ledger {path} is damaged: {error}") from error

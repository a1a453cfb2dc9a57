"""The CSV files of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from costgrad.rl.checks import short
from costgrad.rl.errors import UserError
from costgrad.rl.files import sync, write_text, writing

TRAINING_COLUMNS = ("step", "seconds", "mean_return", "min_return", "max_return", "mean_length", "steps_per_second")
EVALUATION_COLUMNS = (
    *("step", "seconds", "mean_return", "std_return", "min_return", "max_return"),
    *("interval_low", "interval_high", "episodes", "mean_length"),
)
PROBE_COLUMNS = (
    *("step", "seconds", "grad_cosine", "grad_cosine_error", "grad_relative_error", "grad_relative_error_error"),
    *("explained_variance", "explained_variance_error", "calibration", "calibration_error", "bias", "left"),
    "environment_steps",
)


class Table:
    """A CSV file of numbers to which rows are appended.

    Args:
        path: of the file; None keeps rows in memory only.
        columns: its header.
        until: if the file exists, rows of later steps are dropped, as a resumed run continues from this step.
        begin: whether the file is written at once, and not with the first row.

    Raises:
        WriteError: the file cannot be written.
        UserError: it is not such a table.
    """

    def __init__(self, path: Path | None, columns: tuple[str, ...], until: int = 0, begin: bool = True) -> None:
        self.path, self.columns = path, columns
        self.rows: list[dict[str, float]] = []
        self._is_whole = False  # that the file holds all rows
        if path is None:
            return
        if path.exists():
            self.rows = [row for row in read_table(path, columns) if row["step"] <= until]
        if begin:
            self.write()
        self._begun = begin

    def add(self, **row: float) -> None:
        """Appends one row and writes it to the file, with those that could not be written before.

        Raises:
            WriteError: the file system refuses; the row is kept.
        """
        assert tuple(row) == self.columns, f"columns are {self.columns}, got {tuple(row)}"
        self.rows.append(row)
        if self.path is None:
            return
        if not self._is_whole or not self.path.exists():  # the folder was removed
            self.write()
            return
        self._is_whole = False
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(self._line(row))
        self._is_whole = True

    def write(self) -> None:
        """Writes all rows anew. Raises WriteError."""
        if self.path is not None:
            write_text(self.path, "".join([",".join(self.columns) + "\n", *map(self._line, self.rows)]))
            self._is_whole = True

    def sync(self) -> None:
        """Waits until the disk holds all rows. Raises WriteError."""
        if self.path is None:
            return
        if not self._is_whole or not self.path.exists():
            if self.rows or self._begun:
                self.write()
        else:
            with writing(self.path):
                sync(self.path)

    def _line(self, row: Mapping[str, float]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([f"{row[key]:.10g}" for key in self.columns])
        return text.getvalue()


def read_table(path: Path, columns: Sequence[str] = ()) -> list[dict[str, float]]:
    """The rows of a `Table`'s file, without an incomplete last line, as a crash leaves it.

    Args:
        path: of the file.
        columns: required columns.

    Raises:
        UserError: the file cannot be read, a column is missing, or a cell is not a number.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # cut, or followed by zeros where the power failed
            text = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(text))
        lines, head = list(reader), reader.fieldnames or ()
        rows = [{key: float(value) for key, value in line.items()} for line in lines if None not in line.values()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {short(str(error))[1:-1]}") from error
    if missing := set(columns) - set(head):
        raise UserError(f"{path} is damaged: it has no column {min(missing)}")
    return rows

"""What the examples leave: rows as CSV, a table for people, a figure."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from costgrad.rl.errors import UserError
from costgrad.rl.files import write_text, writing


def check_folder(out: str) -> Path:
    """The folder, made where it is not there. Raises UserError."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out {out} cannot be a folder: {error.strerror}") from error
    return folder


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Writes named tuples as CSV, whole or not at all. Raises UserError."""
    text = io.StringIO()
    cells = ([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows([rows[0]._fields, *cells])
    write_text(path, text.getvalue())


def print_table(rows: Sequence[Any], by: str, figure: str, worst: Callable[[Sequence[float]], float]) -> None:
    """Prints, for each method, what it asked for and the mean and the worst of its figure over seeds."""
    table = Table(by, "seeds", "evaluations", f"{figure}, mean", "worst seed")
    for name in dict.fromkeys(getattr(row, by) for row in rows):
        mine = [row for row in rows if getattr(row, by) == name]
        values = [getattr(row, figure) for row in mine]
        asked = max(row.evaluations for row in mine)
        table.add_row(name, str(len(mine)), f"{asked:,}", f"{np.mean(values):.4g}", f"{worst(values):.4g}")
    Console().print(table)


def save_figure(path: Path, draw: Callable[[Any], None]) -> None:
    """One panel that `draw` fills, whole or not at all. Raises UserError."""
    from matplotlib.figure import Figure  # takes a second to import: only where it is needed

    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    panel = figure.add_subplot()
    draw(panel)
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with writing(path):
        try:
            figure.savefig(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

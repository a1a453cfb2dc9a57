"""Plots of a run: the learning curve and the calibration of C."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from costgrad.rl.diagnostics.fidelity import Calibration
from costgrad.rl.files import writing

Rows = Sequence[dict[str, float]]


def learning_curve(path: str | Path, training: Rows, evaluations: Rows, title: str) -> None:
    """Draws returns against environment steps as a PNG.

    Args:
        path: of the PNG.
        training: rows of `training.csv`: mean, minimum and maximum return of the last 100 episodes.
        evaluations: rows of `evaluations.csv`.
        title: of the plot.
    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    # Evaluation is drawn last, on top.
    for rows, label, colour, marker in (
        (training, "training, mean of the last 100 episodes", "tab:blue", ""),
        (evaluations, "evaluation, mean", "tab:red", "o"),
    ):
        if rows:
            steps = [row["step"] for row in rows]
            low, high = [row["min_return"] for row in rows], [row["max_return"] for row in rows]
            axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0, label="worst to best episode")
            axes.plot(steps, [row["mean_return"] for row in rows], color=colour, marker=marker, ms=3, label=label)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return (sum of rewards of an episode)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if training or evaluations:
        axes.legend(loc="best", fontsize="small")
    _save(figure, path)


def calibration_plot(path: str | Path, found: Calibration, title: str) -> None:
    """Draws realised costs-to-go against C's predictions as a PNG, and the means of ten groups of similar predictions.

    Args:
        path: of the PNG.
        found: the calibration of a probe.
        title: of the plot.
    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(6, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    predicted, realised = found.predicted, found.realised
    axes.plot(predicted, realised, ".", ms=3, alpha=0.3, color="tab:blue", label="state-action pair", rasterized=True)
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(10, len(predicted)))
    means = [(predicted[part].mean(), realised[part].mean()) for part in parts]
    axes.plot(*zip(*means, strict=True), "o", color="tab:red", label="mean of a tenth")
    ends = [min(predicted.min(), realised.min()), max(predicted.max(), realised.max())]
    axes.plot(ends, ends, color="black", lw=1, label="identity")
    axes.set_xlabel("C: discounted cost-to-go")
    axes.set_ylabel("realised")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    _save(figure, Path(path))


def _save(figure: Figure, path: Path) -> None:
    """Writes a plot atomically. Raises UserError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.png")
    with writing(path):
        try:
            figure.savefig(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

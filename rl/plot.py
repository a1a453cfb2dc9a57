"""The picture of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from rl.checkpoint import writing

Rows = Sequence[dict[str, float]]


def learning_curve(path: str | Path, training: Rows, evaluations: Rows, title: str) -> None:
    """Draws returns against environment steps as a PNG.

    Args:
        path: of the picture.
        training: rows of `training.csv`: means over the last 100 episodes, with the worst and the best of them.
        evaluations: rows of `evaluations.csv`.
        title: above the picture.
    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    # Later curves lie on top: evaluation is what counts.
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.png")
    with writing(path):
        try:
            figure.savefig(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

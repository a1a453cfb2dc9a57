"""Trains a classifier of handwritten digits on 0-1 error alone, beside cross-entropy and REINFORCE.

The black box says whether a chosen class is wrong, and nothing else: it never names the right one. It is asked once a
training digit and pass, 20 times in all. Cross-entropy is told the labels; REINFORCE gets the same answers as C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from costgrad.rl.black_box.loss import BlackBoxLoss
from costgrad.rl.errors import UserError
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.examples.tables import check_folder, print_table, save_figure, write_rows

METHODS = ("cross-entropy", "C", "REINFORCE")
TRAIN = 1_347  # of 1,797 digits; the others are held out
BATCH, LEARNING_RATE = 64, 3e-3
# The entropy coefficient, in errors per nat. A class whose probability has come near 0 has no gradient any more behind
# softmax: without this, whole classes are lost before the black box has said that they were right. For C and REINFORCE
# alike 0.4 was best of 0.03 to 0.4, and the learning rate of 1e-3 to 1e-2, on seeds from 100 on.
ENTROPY = 0.4


@dataclass(frozen=True)
class Args:
    """Flags of scripts/examples/digits.py."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of split, initial weights and choices, a run of each method for each."""
    passes: int = 20
    """Epochs over the training digits: evaluations of each digit."""
    out: str = "results/examples"
    """Folder to write digits.csv and digits.png to."""


class Row(NamedTuple):
    """One run."""

    method: str
    seed: int
    evaluations: int  # of the black box
    accuracy: float  # on held-out digits, of the likeliest class


class Digits(NamedTuple):
    """Pixels [N, 64] in [-1, 1] and labels [N]."""

    x: Tensor
    label: Tensor


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, prints and draws; returns the exit code: 0, or 2 for wrong input."""
    return guarded(_digits, argv)


def _digits(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "examples/digits", __doc__ or "")
    if args.passes < 1 or not args.seeds or min(args.seeds) < 0:
        raise UserError(f"passes must be at least 1 and seeds at least 0, got {args.passes} and {args.seeds}")
    folder = check_folder(args.out)
    torch.set_num_threads(1)
    curves: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    rows = []
    for method, seed in track([(m, s) for m in METHODS for s in args.seeds], "digits"):
        evaluations, accuracy = train(method, seed, args.passes)
        curves[method].append(accuracy)
        rows.append(Row(method, seed, evaluations, accuracy[-1]))
    write_rows(folder / "digits.csv", rows)
    print_table(rows, "method", "accuracy", worst=min)
    save_figure(folder / "digits.png", lambda panel: _draw(panel, curves))
    return 0


def split(seed: int) -> tuple[Digits, Digits]:
    """Training and held-out digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(f'this example needs scikit-learn: pip install -e ".[examples]" ({error})') from error
    pixels, label = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(label))
    x, y = torch.tensor(pixels[order] / 8 - 1, dtype=torch.float32), torch.tensor(label[order])
    return Digits(x[:TRAIN], y[:TRAIN]), Digits(x[TRAIN:], y[TRAIN:])


def wrong(choice: np.ndarray, context: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The black box: [N] 1.0 where a chosen class is not the digit's."""
    return (choice != label).astype(np.float64)


def train(method: str, seed: int, passes: int) -> tuple[int, list[float]]:
    """Trains one network: evaluations of the black box, and the accuracy on held-out digits after each pass."""
    (x, label), held_out = split(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    criterion = BlackBoxLoss(wrong, choices=10, seed=seed, budget=passes * TRAIN)  # one more would be an error
    reinforce = Reinforce(generator)
    accuracy = []
    for _ in range(passes):
        for row in torch.randperm(TRAIN, generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            log_probs = model(x[row]).log_softmax(1)
            if method == "cross-entropy":
                loss = F.nll_loss(log_probs, label[row])
            elif method == "C":
                loss = criterion(log_probs.exp(), context=x[row], private=label[row])
            else:
                loss = reinforce(log_probs, label[row])
            if method != "cross-entropy":
                loss = loss + ENTROPY * (log_probs.exp() * log_probs).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            accuracy.append(float((model(held_out.x).argmax(1) == held_out.label).float().mean()))
    asked = {"cross-entropy": 0, "C": criterion.ledger.evaluations, "REINFORCE": reinforce.evaluations}
    return asked[method], accuracy


class Reinforce:
    """The score-function gradient (Williams 1992) with the running mean of costs as its baseline."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.baseline, self.evaluations = generator, 0.9, 0

    def __call__(self, log_probs: Tensor, label: Tensor) -> Tensor:
        """Log probabilities [B, 10], labels [B] -> a scalar with the gradient."""
        choice = torch.multinomial(log_probs.detach().exp(), 1, generator=self.generator)
        cost = torch.from_numpy(wrong(choice[:, 0].numpy(), np.empty(0), label.numpy())).float()
        self.evaluations += len(cost)
        loss = ((cost - self.baseline) * log_probs.gather(1, choice)[:, 0]).mean()
        self.baseline += 0.05 * (float(cost.mean()) - self.baseline)
        return loss


def _draw(panel: Any, curves: dict[str, list[list[float]]]) -> None:
    """Mean accuracy over seeds against passes, worst to best as a band."""
    for method, runs in curves.items():
        error = 100 * (1 - np.array(runs))
        passes = np.arange(1, error.shape[1] + 1)
        panel.plot(passes, error.mean(0), label=method)
        panel.fill_between(passes, error.min(0), error.max(0), alpha=0.2, linewidth=0)
    panel.set(xlabel="evaluations of each training digit (passes)", ylabel="error on held-out digits [%]", yscale="log")


if __name__ == "__main__":
    raise SystemExit(main())

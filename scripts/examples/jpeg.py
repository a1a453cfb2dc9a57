"""A small network picks JPEG's quality for each picture: the fewest bytes at a given likeness, with a real encoder.

The black box encodes a picture by Pillow at the quality it is told, and charges kilobytes, and more where the decoded
picture is less like the original than is asked (PSNR in dB). How much quality that takes differs from picture to
picture; the rival is the best one quality for all, found by a grid that asks the encoder as often.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from costgrad.rl.black_box.loss import BlackBoxLoss
from costgrad.rl.errors import UserError
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.examples.tables import check_folder, print_table, save_figure, write_rows

SIDE = 32  # of a picture, a tile of one of scikit-learn's two photographs at half their size
PSNR = 32.0  # dB that is asked
PRICE = 0.2  # kilobytes that each missing dB costs
QUALITY = (5.0, 95.0)  # of Pillow's encoder
BATCH, SIGMA = 20, 0.1
LEARNING_RATE = 5e-3


@dataclass(frozen=True)
class Args:
    """Flags of scripts/examples/jpeg.py."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of split, initial weights and noise, a run for each."""
    passes: int = 60
    """Epochs over the training pictures: evaluations of each, by the network as by the grid."""
    out: str = "results/examples"
    """Folder to write jpeg.csv and jpeg.png to."""


class Row(NamedTuple):
    """One run."""

    method: str
    seed: int
    evaluations: int
    cost: float  # of held-out pictures, mean: kilobytes and what missing dB cost
    kilobytes: float
    psnr: float  # dB, mean


class Encoded(NamedTuple):
    """What the encoder made of pictures."""

    kilobytes: np.ndarray  # [N]
    psnr: np.ndarray  # [N] dB

    @property
    def cost(self) -> np.ndarray:
        """[N]."""
        return self.kilobytes + PRICE * np.maximum(PSNR - self.psnr, 0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, prints and draws; returns the exit code: 0, or 2 for wrong input."""
    return guarded(_jpeg, argv)


def _jpeg(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "examples/jpeg", __doc__ or "")
    if args.passes < 1 or not args.seeds or min(args.seeds) < 0:
        raise UserError(f"passes must be at least 1 and seeds at least 0, got {args.passes} and {args.seeds}")
    folder = check_folder(args.out)
    torch.set_num_threads(1)
    rows, points = [], []
    for seed in track(args.seeds, "jpeg"):
        train, held_out = split(seed)
        fixed, asked = grid(train, args.passes)
        picked, evaluations = learn(train, held_out, seed, args.passes)
        for method, quality, count in (
            ("one quality", np.full(len(held_out), fixed), asked),
            ("network", picked, evaluations),
        ):
            found = encode(held_out, quality)
            figures = (float(found.cost.mean()), float(found.kilobytes.mean()), float(found.psnr.mean()))
            rows.append(Row(method, seed, count, *figures))
            points.append((method, quality, found.psnr))
    write_rows(folder / "jpeg.csv", rows)
    print_table(rows, "method", "cost", worst=max)
    save_figure(folder / "jpeg.png", lambda panel: _draw(panel, points))
    return 0


def tiles() -> np.ndarray:
    """Pictures [120, 32, 32, 3] uint8, of two photographs."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise UserError(
            f'this example needs scikit-learn and pillow: pip install -e ".[examples]" ({error})'
        ) from error
    cut = []
    for photo in load_sample_images().images:
        high, wide = photo.shape[0] // 2, photo.shape[1] // 2
        # They have been JPEGs before: at half the size nothing is left of the grid and the quality of that.
        photo = photo[: 2 * high, : 2 * wide].reshape(high, 2, wide, 2, 3).mean((1, 3)).round().astype(np.uint8)
        high, wide = photo.shape[0] // SIDE, photo.shape[1] // SIDE
        grid = photo[: high * SIDE, : wide * SIDE].reshape(high, SIDE, wide, SIDE, 3)
        cut.append(grid.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3))
    return np.concatenate(cut)


def split(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """80 pictures for training, 40 held out."""
    pictures = tiles()
    order = np.random.default_rng(seed).permutation(len(pictures))
    return pictures[order[:80]], pictures[order[80:]]


def encode(pictures: np.ndarray, quality: np.ndarray) -> Encoded:
    """Pillow's JPEG of pictures [N, 32, 32, 3], each at its quality [N], rounded to whole numbers."""
    from PIL import Image

    kilobytes, psnr = np.empty(len(pictures)), np.empty(len(pictures))
    for i, (picture, q) in enumerate(zip(pictures, quality, strict=True)):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=round(float(np.clip(q, *QUALITY))), subsampling=0)
        error = np.square(np.asarray(Image.open(file), float) - picture).mean()
        kilobytes[i], psnr[i] = file.tell() / 1000, 10 * np.log10(255**2 / max(error, 1e-9))
    return Encoded(kilobytes, psnr)


def grid(pictures: np.ndarray, qualities: int) -> tuple[float, int]:
    """The quality that costs least of `qualities` evenly spaced ones, tried on every picture; evaluations."""
    tried = np.linspace(*QUALITY, qualities)
    cost = [encode(pictures, np.full(len(pictures), q)).cost.mean() for q in tried]
    return float(tried[int(np.argmin(cost))]), qualities * len(pictures)


def features(pictures: np.ndarray) -> Tensor:
    """What network and C see of pictures [N, F]: how strong their details are, at three scales and in each colour."""
    x = pictures.astype(np.float64) / 255
    seen = [x.std((1, 2)), x.mean((1, 2))]
    for scale in (1, 2, 4):
        coarse = x.reshape(len(x), SIDE // scale, scale, SIDE // scale, scale, 3).mean((2, 4))
        seen += [np.log(1e-4 + np.square(np.diff(coarse, axis=axis)).mean((1, 2))) for axis in (1, 2)]
    return torch.tensor(np.concatenate(seen, 1), dtype=torch.float32)


def learn(train: np.ndarray, held_out: np.ndarray, seed: int, passes: int) -> tuple[np.ndarray, int]:
    """Trains the network: the qualities [N] that it picks for held-out pictures, and evaluations."""

    def black_box(output: np.ndarray, context: np.ndarray, index: np.ndarray) -> np.ndarray:
        return encode(train[index], to_quality(output[:, 0])).cost

    x, aside = features(train), features(held_out)
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, aside = (x - mean) / spread, (aside - mean) / spread
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, weight_decay=1e-3)
    criterion = BlackBoxLoss(black_box, sigma=SIGMA, seed=seed)
    for _ in range(passes):
        for row in torch.randperm(len(x), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            loss = criterion(model(x[row]), context=x[row], private=row)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return to_quality(model(aside)[:, 0].numpy()), criterion.ledger.evaluations


def to_quality(output: np.ndarray) -> np.ndarray:
    """The network's numbers, about -1 to 1, as qualities."""
    low, high = QUALITY
    return np.clip((low + high) / 2 + output * (high - low) / 2, low, high)


def _draw(panel: Any, points: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """PSNR of held-out pictures against the quality they were given, of all seeds."""
    for number, method in enumerate(("one quality", "network")):
        mine = [(quality, psnr) for name, quality, psnr in points if name == method]
        quality, psnr = (np.concatenate(column) for column in zip(*mine, strict=True))
        panel.plot(quality, psnr, ".", ms=4, alpha=0.6, color=f"C{number}", label=method)
    panel.axhline(PSNR, color="0.4", lw=1, label=f"{PSNR:g} dB are asked")
    panel.set(xlabel="quality of a held-out picture", ylabel="likeness, PSNR [dB]")


if __name__ == "__main__":
    raise SystemExit(main())

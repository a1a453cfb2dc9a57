"""The examples of C as a loss: what they come to, and what they say to bad input."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from costgrad.scripts.examples import digits, jpeg

ROOT = Path(__file__).resolve().parents[3]


def call(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "examples" / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Digits.


def test_digits_the_black_box_names_no_label() -> None:
    label = np.array([3, 1, 4])
    assert digits.wrong(np.array([3, 2, 4]), np.zeros((3, 64)), label).tolist() == [0, 1, 0]
    train, held_out = digits.split(7)
    assert train.x.shape == (1347, 64) and held_out.x.shape == (450, 64) and train.x.abs().max() == 1
    assert len(torch.cat((train.x, held_out.x)).unique(dim=0)) == 1797  # none is in both


def test_digits_are_learnt_from_errors_alone_within_the_budget() -> None:
    """In 8 passes; a label that says nothing (negative control) teaches nothing."""
    asked, accuracy = digits.train("C", 100, 8)
    assert asked == 8 * digits.TRAIN and accuracy[-1] > 0.93


def test_digits_without_the_answers_are_not_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(digits, "wrong", lambda choice, context, label: (rng.random(len(choice)) < 0.9).astype(float))
    assert digits.train("C", 100, 2)[1][-1] < 0.3


def test_reinforce_is_the_score_function() -> None:
    """Its mean gradient over choices is that of the expected error."""
    torch.manual_seed(0)
    logits, label = torch.randn(1, 10), torch.tensor([4])
    rival = digits.Reinforce(torch.Generator().manual_seed(1))
    many = logits.repeat(40_000, 1).requires_grad_()
    rival(many.log_softmax(1), label.repeat(40_000)).backward()  # type: ignore[no-untyped-call]
    assert many.grad is not None and rival.evaluations == 40_000
    probs = logits.softmax(1)[0]
    exact = probs * (probs[4] - (torch.arange(10) == 4).float())  # d (1 - p_4) / d logit
    torch.testing.assert_close(many.grad.sum(0), exact, atol=0.01, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_digits_come_within_two_points_of_cross_entropy(seed: int) -> None:
    asked, ours = digits.train("C", seed, 20)
    assert asked <= 20 * digits.TRAIN and ours[-1] > digits.train("cross-entropy", seed, 20)[1][-1] - 0.02


def test_digits_script(tmp_path: Path) -> None:
    done = call("digits", "--seeds", "3", "--passes", "1", "--out", "made/here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "made/here/digits.csv")
    assert {row["method"]: int(row["evaluations"]) for row in rows} == {
        "cross-entropy": 0,
        "C": 1347,
        "REINFORCE": 1347,
    }
    assert (tmp_path / "made/here/digits.png").read_bytes()[:4] == b"\x89PNG" and "REINFORCE" in done.stdout


@pytest.mark.parametrize(
    "flags, said", [(("--passes", "0"), "passes must be"), (("--seeds", "-1"), "seeds at least 0")]
)
def test_digits_bad_input(flags: tuple[str, ...], said: str, capsys: Any, tmp_path: Path) -> None:
    assert digits.main([*flags, "--out", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("kept")
    assert digits.main(["--out", str(tmp_path / "file")]) == 2
    assert "cannot be a folder" in capsys.readouterr().err and (tmp_path / "file").read_text() == "kept"


# JPEG.


def test_jpeg_the_encoder_is_real_and_the_price_is_of_missing_decibels() -> None:
    pictures = jpeg.tiles()
    assert pictures.shape == (120, 32, 32, 3) and pictures.dtype == np.uint8
    coarse, fine = (jpeg.encode(pictures[:9], np.full(9, quality)) for quality in (5.0, 95.0))
    assert (coarse.kilobytes < fine.kilobytes).all() and (coarse.psnr < fine.psnr).all()
    told = jpeg.Encoded(np.array([2.0, 2.0]), np.array([jpeg.PSNR + 3, jpeg.PSNR - 3]))
    assert told.cost.tolist() == [2.0, 2.0 + 3 * jpeg.PRICE]
    assert jpeg.to_quality(np.array([-9.0, -1.0, 0.0, 1.0, 9.0])).tolist() == [5, 5, 50, 95, 95]


def test_jpeg_the_grid_asks_for_each_quality_and_takes_the_cheapest() -> None:
    train, held_out = jpeg.split(3)
    assert len(train) == 80 and len(held_out) == 40
    best, asked = jpeg.grid(train[:6], 4)
    costs = {q: jpeg.encode(train[:6], np.full(6, q)).cost.mean() for q in (5.0, 35.0, 65.0, 95.0)}
    assert asked == 24 and best == min(costs, key=lambda q: costs[q])


def test_jpeg_the_network_beats_one_quality_for_all() -> None:
    """On pictures that neither has seen, on a tuning seed; with shuffled pictures (negative control) it does not."""
    train, held_out = jpeg.split(100)
    fixed = jpeg.encode(held_out, np.full(40, jpeg.grid(train, 20)[0])).cost.mean()
    picked, asked = jpeg.learn(train, held_out, 100, 40)
    assert asked == 40 * 80 and jpeg.encode(held_out, picked).cost.mean() < fixed - 0.01
    assert jpeg.encode(held_out[::-1], picked).cost.mean() > fixed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_jpeg_the_network_beats_a_grid_of_as_many_evaluations(seed: int) -> None:
    train, held_out = jpeg.split(seed)
    best, asked = jpeg.grid(train, 60)
    picked, evaluations = jpeg.learn(train, held_out, seed, 60)
    assert evaluations == asked
    assert jpeg.encode(held_out, picked).cost.mean() < jpeg.encode(held_out, np.full(40, best)).cost.mean()


def test_jpeg_script(tmp_path: Path) -> None:
    done = call("jpeg", "--seeds", "3", "--passes", "2", "--out", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "made/jpeg.csv")
    assert {row["method"]: int(row["evaluations"]) for row in rows} == {"one quality": 160, "network": 160}
    assert (tmp_path / "made/jpeg.png").read_bytes()[:4] == b"\x89PNG"
    bad = call("jpeg", "--passes", "0", cwd=tmp_path)
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1 and "passes must be at least 1" in bad.stderr

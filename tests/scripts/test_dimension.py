"""The staircase in many dimensions, the exponents fitted to what agents need there, and the script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costgrad.envs.errors import EnvError
from costgrad.envs.tasks.contextual import STAIR, ContextualStairs
from costgrad.rl.errors import UserError
from costgrad.rl.files import check_writable
from costgrad.scripts.dimension import CARTPOLE, METHODS, STAIRS, Args, Run, hidden, main, measure, plan
from costgrad.scripts.reporting.dimension import Row, append, draw, exponent, exponents, read, through

ROOT = Path(__file__).resolve().parents[2]


def row(size: int, seed: int, within_10: int, within_1: int, method: str = "ARS", limit: int = 9000) -> Row:
    taken = within_1 or limit
    return Row("full", method, size, seed, limit, 5 * size, within_10, within_1, taken, 1.5, 0.005, "abc", "cpu")


# The cost.


@pytest.mark.parametrize("dimension, intrinsic", [(1, None), (7, None), (7, 2), (64, 2), (3, 3)])
def test_the_best_action_costs_1_and_nothing_costs_about_2(dimension: int, intrinsic: int | None) -> None:
    cost = ContextualStairs(dimension, intrinsic, seed=3)
    context = np.random.default_rng(1).uniform(-1, 1, (4000, 4))
    assert (cost(context, cost.target(context)) == 1).all()
    assert abs(cost(context, np.zeros((4000, dimension))).mean() - (2 - STAIR / 2)) < 0.05
    assert (np.abs(cost.target(context)) < 1).all()


def test_it_is_a_staircase_of_the_squared_distance() -> None:
    cost = ContextualStairs(2, seed=0)
    context = np.zeros((1, 4))  # whose target is 0
    for distance in (0.5, 1.5, 7.5):
        action = np.array([[np.sqrt(distance * STAIR * cost.unit), 0.0]])
        assert cost(context, action) == pytest.approx(1 + STAIR * np.floor(distance))
        assert cost(context, action) == cost(context, action + 1e-6)  # flat


def test_only_the_intrinsic_dimensions_matter() -> None:
    cost, rng = ContextualStairs(9, 2, seed=5), np.random.default_rng(0)
    assert cost.directions is not None
    context, action = rng.uniform(-1, 1, (50, 4)), rng.uniform(-0.4, 0.4, (50, 9))
    aside = rng.normal(size=(50, 9))
    aside -= aside @ cost.directions.T @ cost.directions
    np.testing.assert_allclose(cost.distance(context, action), cost.distance(context, action + aside))
    along = 0.3 * cost.directions[0]
    assert (cost.distance(context, action) != cost.distance(context, action + along)).all()
    assert cost.directions @ cost.directions.T == pytest.approx(np.eye(2))


@pytest.mark.parametrize("arguments, said", [((0,), "dimension=0"), ((4, 5), "intrinsic=5"), ((4, 0), "intrinsic=0")])
def test_what_it_refuses(arguments: tuple[int, ...], said: str) -> None:
    with pytest.raises(EnvError, match=said):
        ContextualStairs(*arguments)


# The exponents.


def test_the_exponent_of_a_power_is_found_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(2)
    exact = {size: np.full(3, 40.0 * size**1.5) for size in (2, 8, 32)}
    assert exponent(exact) == pytest.approx((1.5, 1.5, 1.5))
    noisy = {size: 40.0 * size**0.5 * np.exp(rng.normal(0, 0.2, 5)) for size in (2, 8, 32, 128)}
    value, low, high = exponent(noisy)
    assert low < value < high and low < 0.5 < high and high - low < 0.4


def test_sizes_that_a_seed_did_not_come_through_are_left_out_and_said() -> None:
    rows = [row(size, seed, 10 * size, 100 * size) for size in (2, 4, 8) for seed in (0, 1, 2)]
    rows += [row(16, seed, 160, 0 if seed else 1600) for seed in (0, 1, 2)]
    assert list(through(rows, "within_1")) == [2, 4, 8] and list(through(rows, "within_10")) == [2, 4, 8, 16]
    (line,) = [line for line in exponents(rows) if line.startswith("| ARS")]
    assert line == "| ARS | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] up to 8 | 160 | more than 9,000 |"
    (line,) = [line for line in exponents(rows[:5]) if line.startswith("| ARS")]
    assert "not fitted: 2 of 2 sizes came near" in line


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.csv", [row(2, 0, 10, 0), row(4, 1, 20, 30)]
    for one in rows:
        append(path, one)
    assert read(path) == rows
    draw(tmp_path / "picture.png", rows)
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    path.write_text(path.read_text() + "full,ARS,two\n")
    with pytest.raises(UserError, match="row 4"):
        read(path)


# Runs.


def test_a_run_counts_the_steps_of_its_environment_until_it_is_near() -> None:
    found = measure(Run("full", "ARS", 2, 0, 30_000))
    assert 0 < found.within_10 <= found.within_1 == found.evaluations < 30_000 and found.excess <= 0.01
    assert found.parameters == 2 * 4 + 2
    given_up = measure(Run("full", "random search", 32, 0, 1_000))
    assert given_up.within_1 == 0 and 1_000 <= given_up.evaluations < 1_100 and given_up.excess > 0.1


def test_a_policy_has_about_the_parameters_that_are_asked_for() -> None:
    for asked in (100, 1_000, 10_000, 100_000, 1_000_000):
        w, _ = hidden(asked)
        assert abs(w * w + 8 * w + 2 - asked) < 0.2 * asked
    found = measure(Run("policy", "ES", 100, 0, 500))
    assert found.parameters == 7 * 7 + 8 * 7 + 2 and found.evaluations >= 500


def test_both_tasks_know_the_same_methods_and_small_sizes_come_first() -> None:
    assert STAIRS.keys() == CARTPOLE.keys() == set(METHODS)
    runs = plan(Args(tasks=("full",), methods=("ES", "ARS"), sizes=(8, 2), seeds=(0, 1)))
    assert [(run.size, run.method, run.seed) for run in runs][:3] == [(2, "ES", 0), (2, "ES", 1), (2, "ARS", 0)]


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "dimension.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def test_the_script_runs_what_is_missing_and_draws(tmp_path: Path) -> None:
    flags = (
        "--rows",
        "rows.csv",
        "--tasks",
        "full",
        "--methods",
        "ARS",
        "--seeds",
        "0",
        "--jobs",
        "1",
        "--limit",
        "3000",
    )
    done = call(*flags, "--sizes", "2", cwd=tmp_path)
    assert done.returncode == 0 and "0 of 1 runs are there, 1 to do" in done.stdout, done.stderr
    bad = call(*flags, "--methods", "magic", cwd=tmp_path)
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1 and "magic" in bad.stderr
    again = call(*flags, "--sizes", "2", "--plot", "picture.svg", cwd=tmp_path)
    assert "1 of 1 runs are there, 0 to do" in again.stdout and "| ARS |" in again.stdout
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--methods", "magic"), "methods must be of random search, SPSA"),
        (("--tasks", "none"), "tasks must be of full, fixed, policy, got 'none'"),
        (("--limit", "0"), "limit must be at least 1, got 0"),
        (("--seeds", "-1"), "seeds must be numbers of at least 0"),
        (("--plot", "picture.txt"), "must end in one of"),
    ],
)
def test_bad_input_is_one_line(flags: tuple[str, ...], said: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["--rows", str(tmp_path / "rows.csv"), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_rows_that_cannot_be_written_are_refused_before_anything_runs(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("no folder")
    assert main(["--rows", str(tmp_path / "file" / "rows.csv"), "--sizes", "256", "--methods", "ES"]) == 2
    assert "cannot write" in capsys.readouterr().err
    check_writable(tmp_path / "new" / "rows.csv")
    assert not list((tmp_path / "new").iterdir())


def test_a_seed_that_is_asked_for_twice_runs_once() -> None:
    assert [run.seed for run in plan(Args(tasks=("full",), methods=("ES",), sizes=(2,), seeds=(0, 1, 0)))] == [0, 1]

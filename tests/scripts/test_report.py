"""What is read from results files: figures with their intervals, comparisons, curves."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from costgrad.scripts import report
from costgrad.scripts.reporting import plot as report_plot
from costgrad.scripts.reporting.rows import OLD_HEAD, Measured, Row, append, evaluations_path
from costgrad.scripts.reporting.statistics import REQUIRED, Estimate, improvement_interval, iqm, iqm_interval

ROOT = Path(__file__).resolve().parents[2]
HEAD = ",".join(Row._fields)
GOOD = "a2c,,E-v0,0,100,1.0,7,50,abc,cpu,{}"


def row(seed: int, final: str, agent: str = "a2c", variant: str = "", env: str = "E-v0", steps: str = "100") -> Row:
    speed = str(50 + seed) if final else ""
    return Row(agent, variant, env, str(seed), steps, f"{10 - seed}.25", final, speed, "abc", "cpu", "{}")


def rows(*finals: str, **more: str) -> list[Row]:
    return [row(seed, final, **more) for seed, final in enumerate(finals)]


def measured(of: Row, *points: tuple[float, float, float]) -> list[Measured]:
    """Evaluations of a run at (step, seconds, return)."""
    return [Measured(*of.key, f"{step:.10g}", f"{at:.10g}", f"{mean:.10g}", "0") for step, at, mean in points]


def write(path: Path, rows: Sequence[Row], evaluations: Sequence[Measured] = ()) -> Path:
    append(path, Row._fields, rows)
    if evaluations:
        append(evaluations_path(path), Measured._fields, evaluations)
    return path


def printed(capsys: pytest.CaptureFixture[str], number: int = 0) -> list[list[str]]:
    """The cells below the head of a table."""
    tables = [block for block in capsys.readouterr().out.split("\n\n") if block.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[number].splitlines()[2:]]


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


# --- statistics


def test_iqm_by_hand() -> None:
    assert iqm(np.array([100.0, 1.0, 3.0, 2.0, -50.0])) == 2.0  # of five the middle three, alike
    assert iqm(np.array([9.0, 1.0, 2.0, 0.0])) == 1.5
    assert iqm(np.array([1.0, 3.0, 8.0])) == 4.0  # floor(3 / 4) = 0 are left out
    assert iqm(np.arange(8.0)) == 3.5


@pytest.mark.parametrize("n", range(1, 10))
def test_iqm_is_rliables(n: int) -> None:
    from rliable.metrics import aggregate_iqm

    returns = np.random.default_rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(iqm(returns), [aggregate_iqm(returns[:, [i]]) for i in range(3)], rtol=1e-12)


def test_the_interval_is_that_of_all_resamples() -> None:
    """Five runs can be drawn anew in 5^5 ways: all of them, counted."""
    returns = np.array([0.0, 1.0, 3.0, 7.0, 20.0])
    every = np.sort([iqm(np.array(drawn)) for drawn in itertools.product(returns, repeat=5)])
    estimate = iqm_interval(returns[:, None])
    assert estimate.value == [11 / 3]
    assert np.percentile(every, 2) <= estimate.low[0] <= np.percentile(every, 3)
    assert np.percentile(every, 97) <= estimate.high[0] <= np.percentile(every, 98)


def test_the_interval_holds_the_iqm_and_is_the_same_each_time() -> None:
    returns = np.random.default_rng(0).normal(size=(5, 50))
    np.random.seed(7)
    state = np.random.get_state()[1]
    first = iqm_interval(returns, 500)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # the global generator is as it was
    np.random.seed(8)
    second = iqm_interval(returns, 500)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (first.low < first.value).all() and (first.value < first.high).all()


def test_equal_returns_have_no_width_and_three_runs_reach_from_worst_to_best() -> None:
    assert iqm_interval(column(500, 500, 500, 500, 500)) == Estimate(*np.array([[500.0]] * 3))
    assert iqm_interval(column(1, 9, 2)) == Estimate(*np.array([[4.0], [1.0], [9.0]]))


def test_probability_of_improvement() -> None:
    def estimate(*tasks: tuple[np.ndarray, np.ndarray]) -> Estimate:
        return improvement_interval(tasks, resamples=500)

    low, high = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([6.0, 7.0, 8.0])
    assert estimate((high, low)) == Estimate(*np.array([[1.0]] * 3))
    assert estimate((low, high)) == Estimate(*np.array([[0.0]] * 3))  # reversed
    assert estimate((low, low)).value == 0.5
    assert estimate((high, low), (low, high), (high, low), (high, high)).value == 0.625
    assert estimate((np.full(5, 500.0), np.full(3, 500.0))) == Estimate(*np.array([[0.5]] * 3))
    # 1 beats neither, 3 beats one and ties with the other, of two each.
    assert estimate((np.array([1.0, 3.0]), np.array([2.0, 3.0]))).value == 1.5 / 4
    uncertain = estimate((low, low + 0.5))
    assert 0 < uncertain.low < uncertain.value < uncertain.high < 1


def test_probability_of_improvement_is_rliables() -> None:
    from rliable.metrics import probability_of_improvement

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (5, 4)).astype(float), rng.integers(0, 6, (7, 4)).astype(float)  # with ties
    mine = improvement_interval([(x[:, i], y[:, i]) for i in range(4)], resamples=200)
    np.testing.assert_allclose(mine.value, probability_of_improvement(x, y))


def test_rliable_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "r.csv", rows("1", "2", "3"))
    monkeypatch.setitem(sys.modules, "rliable", None)
    assert report.main([str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and 'pip install "rliable' in said.err
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert tuple(extras["stats"]) == REQUIRED


# --- tables


def test_the_table_shows_worst_failed_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = rows("10", "500", "480", "490", "20", variant="score")
    runs += [row(0, "7"), row(1, ""), row(0, "1", env="F-v0"), *rows("", "", agent="ppo")]
    assert report.main([str(write(tmp_path / "r.csv", runs))]) == 0
    out = printed(capsys)
    assert [line[:3] for line in out] == [
        [env, "100", name] for env in ("E-v0", "F-v0") for name in ("a2c", "a2c score", "ppo")
    ]
    alone, score, failed, other, *missing = (line[3:] for line in out)
    middle, interval = score[0].split(" ", 1)
    low, high = (float(end) for end in interval.strip("[]").split(","))
    assert middle == "330" and 10 < low < 330 < high < 500
    assert score[1:] == ["10", "10, 500, 480, 490, 20", "52", "8.2"]
    assert alone == ["7 (1 of 5)", "failed", "7, failed, not run, not run, not run", "50", "10.2"]
    assert failed == ["failed", "failed", "failed, failed, not run, not run, not run", "", ""]
    assert other == ["1", "1", "1", "50", "10.2"]
    assert missing == [["not run"] * 5] * 2


def test_what_no_seed_ran_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [row(0, "1"), row(0, "2", env="F-v0"), *rows("", agent="ppo")]
    file = str(write(tmp_path / "r.csv", runs))
    names = {}
    for flag in ("--missing", "--no-missing"):
        assert report.main([file, flag]) == 0
        names[flag] = [(line[0], line[2]) for line in printed(capsys)]
    assert names["--missing"] == [("E-v0", "a2c"), ("E-v0", "ppo"), ("F-v0", "a2c"), ("F-v0", "ppo")]
    assert names["--no-missing"] == names["--missing"][:3], "what failed stays"


def test_few_seeds_have_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [*rows("1", "2"), *rows("1", "2", "6", env="F-v0"), *rows("4", "", "4", "4", env="G-v0")]
    assert report.main([str(write(tmp_path / "r.csv", runs))]) == 0
    assert [line[3] for line in printed(capsys)] == ["1.5", "3 [1, 6]", "4 [4, 4] (3 of 4)"]


def test_files_are_put_together_and_steps_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.csv", rows("1", "1", "1"))
    two = write(tmp_path / "two.csv", [*rows("2", agent="ppo"), *rows("3", steps="2000")])
    assert report.main([str(one), str(two)]) == 0
    out = [line[1:4] for line in printed(capsys)]
    assert out == [
        ["100", "a2c", "1 [1, 1]"],
        ["100", "ppo", "2 (1 of 3)"],
        ["2,000", "a2c", "3"],
        ["2,000", "ppo", "not run"],
    ]
    assert report.main([str(one), str(two), str(one)]) == 2
    assert "a2c E-v0:100 seed 0 stands in" in capsys.readouterr().err


def test_improvement_over_shared_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [*rows("5", "6", "7"), *rows("5", "6", "7", env="F-v0"), *rows("5", "6", "7", env="Alone-v0")]
    runs += [*rows("1", "2", "3", agent="ppo"), *rows("8", "9", "8", agent="ppo", env="F-v0")]
    runs += [*rows("1", "1", "1", agent="ppo", env="Alone-v0", steps="200"), *rows("6", variant="x", env="G-v0")]
    runs += [*rows("", "6", agent="reppo"), *rows("", agent="reppo", env="G-v0")]
    assert report.main([str(write(tmp_path / "r.csv", runs)), "--improvement"]) == 0
    assert printed(capsys, 1) == [
        ["a2c", "a2c x", "no task shared", "", ""],
        ["a2c", "ppo", "0.50 [0.50, 0.50]", "6 and 6", "E-v0:100, F-v0:100"],
        ["a2c", "reppo", "0.75", "3 and 2", "E-v0:100"],  # 3 over the failed one, 1.5 over the 6
        ["a2c x", "ppo", "no task shared", "", ""],
        ["a2c x", "reppo", "1.00", "1 and 1", "G-v0:100"],
        ["ppo", "reppo", "0.50", "3 and 2", "E-v0:100"],
    ]


# --- bad input


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        ("", "first line"),
        ("a,b\n1,2\n", "first line"),
        (f"{HEAD}\n", "no rows yet"),
        (f"{HEAD}\na2c,x\n", "row 2 has 2 cells"),
        (f"{HEAD}\n{GOOD}\n{GOOD}\n", "again"),
        (f"{HEAD}\n{GOOD.replace(',0,100', ',zero,100')}\n", "seed 'zero'"),
        (f"{HEAD}\n{GOOD.replace(',0,100', ',0,-1')}\n", "total_timesteps '-1'"),
        (f"{HEAD}\n{GOOD.replace(',7,', ',seven,')}\n", "row 2: final_return 'seven'"),
        (f"{HEAD}\n{GOOD.replace(',7,', ',nan,')}\n", "final_return 'nan'"),
        (f"{HEAD}\n{GOOD.replace(',7,', ',,')}\n", "final_return and steps_per_second"),
        (f"{HEAD}\n{GOOD.replace('{}', '{')}\n", "config '{'"),
        ("\xff\xfe", "cannot read"),
    ],
)
def test_a_bad_file_is_one_line(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.csv"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    assert report.main([str(path)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and said in error and str(path) in error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "file"),
        (["r.csv", "--plot", "p.bmp"], "plot p.bmp must end in"),
        (["r.csv", "--plot", "nowhere/p.png"], "no folder nowhere"),
        (["r.csv", "--plot", "p.png"], "no evaluations"),
        (["r.csv", "--improvement"], "a2c alone"),
        (["r.csv", "--plto", "p.png"], "--plto"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("r.csv"), rows("1", "2"))
    assert report.main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert [path.name for path in tmp_path.iterdir()] == ["r.csv"]


def test_damaged_evaluations_and_a_picture_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = rows("1", "2")
    path = write(tmp_path / "r.csv", runs, measured(runs[0], (100, 1, 5)))
    (tmp_path / "p.png").mkdir()
    assert report.main([str(path), "--plot", str(tmp_path / "p.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(found.name for found in tmp_path.iterdir()) == ["p.png", "r.csv", "r.evaluations.csv"]
    append(evaluations_path(path), Measured._fields, [("a2c", "", "E-v0", "0", "100", "100", "1", "five", "0")])
    assert report.main([str(path), "--plot", str(tmp_path / "q.png")]) == 2
    assert "row 3: mean_return 'five'" in capsys.readouterr().err
    assert report.main([str(path)]) == 0  # a table needs none of them


def test_typed_by_a_user(tmp_path: Path) -> None:
    def typed(*flags: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "report.py"), *flags]
        return subprocess.run(command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, timeout=120)

    runs = [*rows("1", "2", "4", "8", "16"), *rows("3", "3", "3", "5", "9", agent="ppo")]
    path = str(write(tmp_path / "r.csv", runs))
    done = typed(path, "--improvement")
    assert done.returncode == 0, done.stderr
    assert "| E-v0 | 100 | a2c | 4.6667 [1." in done.stdout and "| a2c | ppo | 0.48 [" in done.stdout
    assert typed(path, "--improvement").stdout == done.stdout
    done = typed("none.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: cannot read none.csv: No such file or directory\n"
    (tmp_path / "rliable").mkdir()
    (tmp_path / "rliable" / "__init__.py").write_text("raise TypeError('as beside pandas 3')\n")
    before = filter(None, [os.environ.get("PYTHONPATH")])
    done = typed(path, PYTHONPATH=os.pathsep.join([str(tmp_path), *before]))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and "pip install" in done.stderr


# --- curves


def test_curves_by_hand() -> None:
    first, second = rows("1", "2")
    runs = [
        measured(first, (10, 1, 0), (20, 2, 10), (30, 4, 20)),
        measured(second, (12, 1.5, 4), (22, 3, 8)),
    ]
    steps, returns = report_plot.curves(runs, "step")
    np.testing.assert_allclose(steps, [12, 20, 22])  # what both have reached
    np.testing.assert_allclose(returns, [[2, 10, 12], [4, 7.2, 8]])
    seconds, returns = report_plot.curves(runs, "seconds")
    np.testing.assert_allclose(seconds, [1.5, 2, 3])  # ends where the first seed ends
    np.testing.assert_allclose(returns, [[5, 10, 15], [4, 4 + 4 / 3, 8]])
    late = measured(second, (100, 50, 4))
    assert report_plot.curves([runs[0], late], "seconds")[0].size == 0  # never at the same time
    assert report_plot.curves([], "step")[0].size == 0


def test_a_run_that_was_done_again_counts_once_and_lengths_do_not_mix() -> None:
    short, long = row(0, "1"), row(0, "1", steps="400")
    again = measured(short, (48, 1, 3), (96, 2, 3), (104, 3, 4))
    longer = measured(long, (200, 1, 5), (400, 2, 6))
    stale = measured(short, (50, 1, 0), (100, 2, 0))
    assert report_plot.last_tries([*stale, *longer, *again]) == {short.key: again, long.key: longer}
    single = measured(short, (100, 1, 0)), measured(short, (120, 1, 9))
    assert report_plot.last_tries([*single[0], *single[1]]) == {short.key: single[1]}


def pictured(monkeypatch: pytest.MonkeyPatch, flags: Sequence[str]) -> Figure:
    """The figure that a report saves."""
    kept: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k)))
    assert report.main(list(flags)) == 0
    return kept[0]


def suite(tmp_path: Path, tasks: Sequence[str]) -> Path:
    """Three seeds of two agents on each task, but only ppo on the last."""
    runs = [
        r for env in tasks for a in ("a2c", "ppo")[env == tasks[-1] :] for r in rows("1", "2", "3", agent=a, env=env)
    ]
    evaluations = [m for r in runs for m in measured(r, (50, 1, 0), (100, 2 + int(r.seed), float(r.final_return)))]
    return write(tmp_path / "r.csv", runs, evaluations)


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_of_each_kind(number: int, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = suite(tmp_path, [f"E{i}-v0" for i in range(number)])
    (tmp_path / f"p.{ending}").write_text("an older picture")
    figure = pictured(monkeypatch, [str(path), "--plot", str(tmp_path / f"p.{ending}")])
    content = (tmp_path / f"p.{ending}").read_bytes()
    assert content[:4] == b"\x89PNG" if ending == "png" else b"<svg" in content
    assert {found.suffix for found in tmp_path.iterdir()} == {".csv", f".{ending}"}  # no temporary file stays
    assert len(figure.axes) == 2 * number
    places = [axis.get_subplotspec().get_geometry()[:3] for axis in figure.axes]
    assert places == ([(2, 1, 0), (2, 1, 1)] if number == 1 else [(4, 4, i) for i in (0, 4, 1, 5, 2, 6, 3, 7, 8, 12)])
    assert [axis.get_xlabel() for axis in figure.axes] == ["environment steps", "seconds of training"] * number
    assert [axis.get_title() for axis in figure.axes[::2]] == [f"E{i}-v0" for i in range(number)]


def test_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = suite(tmp_path, ["E-v0", "F-v0"])
    figure = pictured(monkeypatch, [str(path), "--plot", str(tmp_path / "p.png")])
    (legend,) = figure.legends
    colours = {text.get_text(): line.get_color() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    assert list(colours) == ["a2c", "ppo"] and len(set(colours.values())) == 2
    steps, seconds, other, _ = figure.axes
    assert [line.get_color() for line in steps.lines] == list(colours.values())
    assert [line.get_color() for line in other.lines] == [colours["ppo"]]  # its own, though it is alone there
    np.testing.assert_allclose(steps.lines[0].get_xydata(), [[50, 0], [100, 2]])  # (1 + 2 + 3) / 3
    # Seed 0 goes from 0 at 1 s to 1 at 2 s and ends the curve, seed 1 is then at 2 / 2, seed 2 at 3 / 3.
    np.testing.assert_allclose(seconds.lines[0].get_xydata(), [[1, 0], [2, 1]])
    band = steps.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} == {(50, 0), (100, 1), (100, 3)}  # of three seeds: worst to best


def test_other_lengths_have_panels_of_their_own_and_orphans_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long, gone = row(0, "1"), row(0, "2", steps="2000"), row(1, "3")
    evaluations = [m for r in (short, long, gone) for m in measured(r, (50, 1, 0), (int(r.total_timesteps), 2, 1))]
    path = write(tmp_path / "r.csv", [short, long], evaluations)
    figure = pictured(monkeypatch, [str(path), "--plot", str(tmp_path / "p.png")])
    assert [axis.get_title() for axis in figure.axes[::2]] == ["E-v0, 100 steps", "E-v0, 2,000 steps"]
    assert [axis.lines[0].get_xdata()[-1] for axis in figure.axes[::2]] == [100, 2000]


def test_other_lengths_can_be_drawn_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long, other = row(0, "1"), row(0, "2", steps="2000"), row(0, "3", steps="2000")._replace(env="G-v0")
    paths = [write(tmp_path / f"{i}.csv", rows, [m for r in rows for m in measured(r, (50, 1, 0), (ends, 9, 1))])
             for i, (rows, ends) in enumerate((([short], 100), ([long, other], 2000)))]  # fmt: skip
    flags = [str(paths[0]), "--plot", str(tmp_path / "p.png"), "--beside", str(paths[1])]
    steps, seconds = (figure := pictured(monkeypatch, flags)).axes
    assert [text.get_text() for text in figure.legends[0].texts] == ["a2c", "a2c, of 2,000 steps"]
    for panel in (steps, seconds):
        assert len(panel.lines) == 2 and panel.lines[0].get_color() != panel.lines[1].get_color()
    assert steps.get_xlim()[1] == pytest.approx(102) and steps.lines[1].get_xdata()[-1] == 2000
    assert report.main([str(paths[0]), "--beside", str(paths[1])]) == 2


def test_evaluations_of_old_are_drawn_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "r.csv", rows("1"))
    append(evaluations_path(path), OLD_HEAD, [("a2c", "", "E-v0", "0", step, "1", "7", "0") for step in ("50", "100")])
    figure = pictured(monkeypatch, [str(path), "--plot", str(tmp_path / "p.pdf")])
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[50, 7], [100, 7]])
    assert (tmp_path / "p.pdf").read_bytes()[:4] == b"%PDF"

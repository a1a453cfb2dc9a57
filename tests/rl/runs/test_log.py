"""The log of a run is correct, and takes little time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import Evaluation
from costgrad.rl.runs.clock import Clock
from costgrad.rl.runs.log import Log
from costgrad.rl.runs.metrics import Thinned, means
from costgrad.rl.runs.progress import Display
from costgrad.rl.runs.table import Table, read_table

EVALUATION = Evaluation(2.0, 1.0, (1.0, 3.0), [1.0, 3.0], [10, 20])


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def tick(log: Log, step: int, loss: float | None = None, returns: tuple[float, ...] = ()) -> None:
    metrics = {} if loss is None else {"loss": torch.tensor(loss)}
    log.add(step, metrics, list(returns), [7] * len(returns))


def test_tags_steps_and_means(tmp_path: Path) -> None:
    log = Log(tmp_path, Clock(), every=20)
    tick(log, 8, 1.0)
    tick(log, 16, None, (4.0, 6.0))
    tick(log, 24, 3.0)  # writes
    tick(log, 32, 10.0, (11.0,))
    log.add_evaluation(32, EVALUATION)
    tick(log, 44)  # writes
    log.close()
    found = events(tmp_path)
    assert found["train/loss"] == [(24, 2.0), (44, 10.0)]
    assert found["rollout/ep_rew_mean"] == [(24, 5.0), (44, 7.0)]
    assert found["rollout/ep_len_mean"] == [(24, 7.0), (44, 7.0)]
    assert found["eval/mean_reward"] == [(32, 2.0)]
    assert [step for step, _ in found["time/fps"]] == [24, 44]
    rows = read_table(tmp_path / "training.csv")
    assert [(row["step"], row["mean_return"], row["min_return"], row["max_return"]) for row in rows] == [
        (24, 5, 4, 6),
        (44, 7, 4, 11),
    ]


def test_evaluations_csv(tmp_path: Path) -> None:
    log = Log(tmp_path, Clock(5.0), every=10)
    log.add_evaluation(100, EVALUATION)
    log.close()
    text = (tmp_path / "evaluations.csv").read_text().splitlines()
    assert text[0].startswith("step,seconds,mean_return,std_return,")
    (row,) = read_table(tmp_path / "evaluations.csv")
    assert (row["step"], row["mean_return"], row["std_return"], row["mean_length"]) == (100, 2, 1, 15)
    assert 5 <= row["seconds"] < 6


def test_metrics_that_do_not_come_with_every_update() -> None:
    groups: dict[tuple[str, ...], Thinned] = {}
    for i in range(1000):  # an actor that learns at every second update, as in TD3
        metrics = {"critic": torch.tensor(float(i))} | ({"actor": torch.tensor(2.0 * i)} if i % 2 else {})
        groups.setdefault(tuple(metrics), Thinned()).add(metrics)
    assert all(len(sample.kept) < 128 for sample in groups.values())
    found = means(groups)
    assert found["critic"] == pytest.approx(499.5, rel=0.02)
    assert found["actor"] == pytest.approx(1000, rel=0.02)


def test_few_metrics_are_averaged_exactly() -> None:
    sample = Thinned()
    for i in range(100):
        sample.add({"a": torch.tensor(float(i)), "b": torch.tensor(1.0)})
    assert means({("a", "b"): sample}) == {"a": 49.5, "b": 1.0}


def test_a_tick_costs_microseconds() -> None:
    # Counted in the time of an empty method call, so that a slow or busy machine does not fail it.
    log = Log(None, Clock(), every=10_000_000)
    display = Display(1, enabled=False)
    metrics = {f"m{i}": torch.tensor(1.0) for i in range(8)}

    def empty(a: Any, b: Any, c: Any, d: Any) -> None:
        pass

    def seconds(call: Any) -> float:
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for i in range(5000):
                call(i, metrics if i % 5 == 0 else {}, [1.0] if i % 10 == 0 else [], [20] if i % 10 == 0 else [])
                display.due()
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(log.add) < 12 * seconds(empty)


def test_a_resumed_run_drops_what_was_not_saved(tmp_path: Path) -> None:
    log = Log(tmp_path, Clock(), every=10)
    for step in (10, 20, 30):
        tick(log, step, float(step), (1.0,))
        log.add_evaluation(step, EVALUATION)
    log.close()
    time.sleep(1.1)  # TensorBoard orders its files by the second of their names
    log = Log(tmp_path, Clock(), every=10, step=20)
    tick(log, 30, 99.0, (1.0,))
    log.add_evaluation(30, EVALUATION)
    log.close()
    for name in ("training.csv", "evaluations.csv"):
        assert [row["step"] for row in read_table(tmp_path / name)] == [10, 20, 30]
    assert events(tmp_path)["train/loss"] == [(10, 10.0), (20, 20.0), (30, 99.0)]


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    table = Table(tmp_path / "a.csv", ("step", "x"))
    table.add(step=1, x=2.5)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("2")
    table = Table(tmp_path / "a.csv", ("step", "x"), until=5)
    table.add(step=3, x=1.0)
    assert (tmp_path / "a.csv").read_text() == "step,x\n1,2.5\n3,1\n"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    table = Table(tmp_path / "a.csv", ("step",))
    (tmp_path / "a.csv").unlink()
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        table.add(step=1)


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log(None, Clock(), every=1)
    tick(log, 8, 1.0, (1.0,))
    log.add_evaluation(8, EVALUATION)
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert log.mean_return == 1.0


def test_the_clock_excludes_pauses() -> None:
    clock = Clock(100.0)
    with clock:
        before = clock.seconds
        time.sleep(0.05)
        assert clock.seconds == before
    time.sleep(0.01)
    assert 100.01 <= clock.seconds < 100.05


def test_plain_lines_where_there_is_no_terminal(capsys: Any) -> None:
    display = Display(1000, step=100, seconds=2.0)
    display.show(350, 3.0, 12.345)
    display.say("[red]as it is[/red]")
    display.close()
    said = capsys.readouterr().out.splitlines()
    assert said[0].strip() == "350 of 1,000 steps (35 %): return 12.345, 250 steps/s, 0:02 left"
    assert said[1] == "[red]as it is[/red]"
    Display(1000, enabled=False).say("nothing")
    assert capsys.readouterr().out == ""

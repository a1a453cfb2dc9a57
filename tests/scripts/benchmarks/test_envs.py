"""The benchmark of environments, as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from costgrad.scripts import bench
from costgrad.scripts.benchmarks import envs as bench_envs

SHORT = ("envs", "--env", "CartPole-v1", "--kernel", "numpy", "--seconds", "0.02", "--repeats", "3")


def test_prints_a_ratio_for_each_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--num-envs", "2", "5", "--against", "sync", "gymnasium-native", "--json", str(tmp_path / "figures.json"))
    assert bench.main([*SHORT, *flags]) == 0
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [(row["num_envs"], row["peer"]) for row in rows] == [
        (n, peer) for n in (2, 5) for peer in ("sync", "gymnasium-native")
    ]
    assert all(len(row["rounds"]) == 3 for row in rows)
    said = capsys.readouterr().out
    for row in rows:
        ratios = sorted(ours / theirs for ours, theirs in row["rounds"])
        assert f"{ratios[1]:.2f}" in said and f"{ratios[0]:.2f}..{ratios[2]:.2f}" in said


def test_counts_steps_of_all_environments_over_the_time_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("costgrad.scripts.benchmarks.envs.time.perf_counter", lambda: now[0])
    actions = [np.array([i]) for i in range(bench_envs.BATCHES)]
    seen = []

    class Clockwork:
        def step(self, action: np.ndarray) -> None:
            seen.append(int(action[0]))
            now[0] += 0.25

    run = bench_envs._stepper(Clockwork(), actions)  # type: ignore[arg-type]
    assert run(6.0) == 4.0  # vector steps a second
    assert run(1.0) == 4.0
    assert seen == [*range(25), *range(5)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env", "NoSuchEnv-v9"], "NoSuchEnv-v9"),
        (["--env", "Blackjack-v1"], "Blackjack-v1 has no native form"),
        (["--env", "costgrad/LQR-v0"], "costgrad/LQR-v0 has no native form"),
        (["--env", "Pendulum-v1", "--against", "gymnasium-native"], "gymnasium has no batched Pendulum-v1"),
        (["--seconds", "0"], "seconds"),
        (["--repeats", "0"], "repeats"),
        (["--threads", "0"], "threads"),
        (["--num-envs", "0"], "num-envs"),
        (["--against", "me"], "against"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["envs", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error

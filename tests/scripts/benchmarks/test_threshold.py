"""The benchmark of seconds until a task is solved, as a person runs it; the peer is a few lines of its protocol."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from costgrad.scripts import bench
from costgrad.scripts.benchmarks.tasks import TASKS
from costgrad.scripts.benchmarks.threshold import Run, table
from costgrad.scripts.benchmarks.turns import Goal
from tests.scripts.test_bench import executable, run

PEER = """#!{python}
import json, pathlib, sys
job = json.loads(sys.argv[2])
with pathlib.Path(__file__).with_name("jobs.jsonl").open("a") as file:
    print(sys.argv[2], file=file)
steps = 7_000 if job["agent"] == "PPO" else 9_000
print(json.dumps(dict(reached=True, steps=steps, seconds=steps / 100, process_seconds=steps / 10, cpu_seconds=1)))
"""


def test_runs_every_seed_until_the_threshold_beside_the_peer(tmp_path: Path) -> None:
    peer = executable(tmp_path / "peer", PEER.format(python=sys.executable))
    flags = ("--env", "CartPole-v1", "--steps", "4000", "--threshold", "12", "--agent", "ppo", "--seeds", "3", "4")
    done = run("threshold", *flags, "--peer-python", peer, "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    runs = [Run(**row) for row in json.loads((tmp_path / "figures.json").read_text())["runs"]]
    assert [(r.agent, r.seed) for r in runs] == [(a, s) for s in (3, 4) for a in ("ppo", "sb3 PPO", "sb3 A2C")]
    ours = [r for r in runs if not r.peer]
    assert all(r.reached and 50 * 8 <= r.steps < 4000 for r in ours)  # 50 episodes must have ended
    assert all(0 < r.seconds < r.process_seconds < 60 for r in ours)
    for line in table(runs):
        assert line in done.stdout
    assert "| sb3 PPO | 7,000, 7,000 | 70.0 (700.0), 70.0 (700.0) | 70.0 (700.0) |  |" in done.stdout
    jobs = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    assert [job["seed"] for job in jobs] == [3, 3, 4, 4]
    for job in jobs:
        assert (job["threshold"], job["window"], job["threads"]) == (12, 50, 1)
        assert job["settings"] == next(zoo for zoo in TASKS["CartPole-v1"].peers if zoo.agent == job["agent"]).settings


def test_says_where_the_threshold_is_not_reached(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--env", "Pendulum-v1", "--steps", "2000", "--threshold", "-1", "--agent", "a2c", "--seeds", "0")
    assert bench.main(["threshold", *flags, "--peer", "None"]) == 0
    assert "| Pendulum-v1 | -1 | a2c | not reached in 2,000 | - | - |  |" in capfd.readouterr().out


def test_the_ratio_is_of_medians_and_to_the_fastest_peer() -> None:
    def runs(agent: str, seconds: list[float | None]) -> list[Run]:
        return [
            Run("E", 1.0, agent, agent.startswith("p"), i, s is not None, 10, s or 999.0, 2 * (s or 999.0) + 1, 0.0)
            for i, s in enumerate(seconds)
        ]

    rows = list(
        table(
            [
                *runs("a", [2.0, 1.0, 30.0]),
                *runs("b", [1.0, None, None]),
                *runs("p fast", [9.0, 8.0, None]),
                *runs("p slow", [11.0, 5.0, 12.0]),
                *runs("p never", [None, None, 1.0]),
            ]
        )
    )
    assert rows[2].endswith("| 2.0 (5.0) | 4.5 (3.8) |")  # 9 / 2, 19 / 5
    assert rows[3] == "| E | 1 | b | 10, not reached in 10, not reached in 10 | 1.0 (3.0), -, - | - | - |"
    assert rows[4].endswith("| 9.0 (19.0) |  |") and rows[6].endswith("| - |  |")
    assert list(table(runs("a", [2.0])))[2].endswith("| 2.0 (5.0) |  |")  # nobody to compare with


def test_the_goal_is_the_mean_of_the_last_episodes_once_there_are_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("costgrad.scripts.benchmarks.turns.time.time", lambda: now[0])
    monkeypatch.setattr("costgrad.scripts.benchmarks.turns.time.process_time", lambda: now[0] / 2)
    goal = Goal(threshold=5.0, window=3, launched=90.0)
    for steps, returns, reached in ((8, [], False), (16, [50.0, 6.0], False), (24, [-60.0], False), (32, [2.0], False)):
        now[0] += 1.0
        assert goal(steps, returns) == reached, steps
    now[0] += 1.0
    assert goal(40, [70.0, -61.0, 6.0])  # the mean of these three, and not of all
    times = {"seconds": 5.0, "process_seconds": 15.0, "cpu_seconds": 2.5}
    assert goal.figures == {"reached": True, "steps": 40, **times}


@pytest.mark.slow
@pytest.mark.parametrize("env", TASKS)
def test_the_real_peer_trains_with_the_zoos_settings(env: str, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    flags = ("--env", env, "--steps", "100", "--threshold", "-10000", "--agent", "a2c", "--seeds", "0")
    done = run("threshold", *flags, "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    runs = [Run(**row) for row in json.loads((tmp_path / "figures.json").read_text())["runs"]]
    theirs = [r for r in runs if r.peer]
    assert len(theirs) == len(TASKS[env].peers) and all(r.reached and r.steps >= 400 for r in theirs)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env", "LunarLander-v3"], "LunarLander-v3"),
        (["--env"], "env must be at least one"),
        (["--agent", "dqn"], "'dqn'"),
        (["--agent"], "agent must be at least one"),
        (["--seeds"], "seeds must be at least one"),
        (["--seeds", "-1"], "seeds must be at least 0, got -1"),
        (["--steps", "100"], "steps must be one for each of the 3 environments, got 1"),
        (["--env", "CartPole-v1", "--steps", "0"], "steps must be at least 1, got 0"),
        (["--threshold", "1", "2"], "threshold must be one for each of the 3 environments, got 2"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--peer-python", "/no/such/python"], "/no/such/python"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["threshold", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error

"""The benchmark as a person runs it; the peer is a few lines that speak its protocol."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from torch.utils.flop_counter import FlopCounterMode

from costgrad.agents import AGENTS
from costgrad.envs.make import make
from costgrad.rl.data import Step
from costgrad.scripts import bench
from costgrad.scripts.benchmarks import ours as bench_ours
from costgrad.scripts.benchmarks.floor import update_flop
from costgrad.scripts.benchmarks.turns import Turns
from costgrad.scripts.benchmarks.work import WORK

ROOT = Path(__file__).resolve().parents[2]
TURNS = ("--seconds", "0.1", "--warmup", "0.05", "--repeats", "2")
SHORT = (*TURNS, "--actor-gradient", "score")
PEER = """#!{python}
import json, pathlib, sys
job = json.loads(sys.argv[2])
pathlib.Path(__file__).with_name("job.json").write_text(sys.argv[2])
if job["mode"] == "env":
    print(json.dumps(dict(steps_per_second=7)))
else:
    print(json.dumps(dict(ready=True)), flush=True)
    for i, _ in enumerate(sys.stdin):
        print(json.dumps(dict(steps_per_second=10 + 10 * i, steps_per_cpu_second=20)), flush=True)
"""


def transition(obs: int, actions: int) -> Step:
    """One step of one environment."""
    flag, seen = np.zeros(1, bool), np.ones((1, obs), np.float32)
    return Step(seen, np.zeros((1, actions), np.float32), np.ones(1), seen, flag, flag, ~flag, {})


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_prints_the_ratio_to_a_peer_round_by_round(tmp_path: Path) -> None:
    peer = executable(tmp_path / "peer", PEER.format(python=sys.executable))
    done = run(*SHORT, "--peer", "sb3", "--peer-python", peer, "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    rounds = figures["rounds"]
    assert [figures["peer"]["steps_per_second"] for figures in rounds] == [10, 20]  # one turn a round
    low, high = sorted(
        ours["score"]["steps_per_second"] / theirs for ours, theirs in zip(rounds, (10, 20), strict=True)
    )
    said = f"ratio score / sb3: min {low:.2f}, median {(low + high) / 2:.2f}, max {high:.2f}"
    assert said in done.stdout.replace("\n", " ")
    assert figures["peer_env_alone"] == 7
    assert figures["env_alone"] > rounds[0]["score"]["steps_per_second"]
    shares = figures["shares"]["score"]
    assert set(shares) == {"act", "env.step", "observe", "update", "rest"}
    assert all(shares[part] > 0 for part in ("act", "env.step", "observe", "update", "rest"))


def test_ppo_is_the_same_work_on_both_sides(tmp_path: Path) -> None:
    peer = executable(tmp_path / "peer", PEER.format(python=sys.executable))
    flags = ("ppo", *TURNS, "--num-envs", "2", "--peer", "sb3", "--peer-python", peer)
    done = run(*flags, "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    assert "ratio ppo / sb3: min" in done.stdout and "normalised once a rollout" in done.stdout.replace("\n", " ")
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["rounds"][0]) == {"peer", "ppo"} and set(figures["shares"]) == {"ppo"}
    job = json.loads((tmp_path / "job.json").read_text())
    assert (job["agent"], job["num_envs"], job["num_steps"], job["optimizer"]) == ("ppo", 2, 128, "adam")
    ours, theirs = WORK["ppo"].config(job, "ppo"), job["config"]
    assert theirs == {key: list(value) if isinstance(value, tuple) else value for key, value in ours.items()}
    assert (theirs["batch_size"], theirs["epochs"], theirs["hidden"]) == (64, 4, [64, 64])


QUICK = {"sac": {"hidden": (16,), "batch_size": 8}, "td3": {"hidden": (16,), "batch_size": 8}}


@pytest.mark.parametrize("agent", QUICK)
def test_an_off_policy_agent_beside_a_peer_and_the_arithmetic_floor(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    executable(tmp_path / "venv" / "bin" / "python", PEER.format(python=sys.executable))
    small = replace(WORK[agent], settings={**WORK[agent].settings, **QUICK[agent], "learning_starts": 20})
    monkeypatch.setitem(WORK, agent, small)
    flags = (agent, *TURNS, "--env", "Pendulum-v1", "--peer", "sbx", "--peer-python", str(tmp_path / "venv"))
    assert bench.main([*flags, "--json", str(tmp_path / "figures.json")]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["rounds"][0]) == {"peer", agent, "floor"} and f"ratio {agent} / sbx: min" in said
    gflop = 1e-9 * update_flop(agent, small.settings, obs=3, actions=1)
    assert figures["gflop_per_update"] == pytest.approx(gflop)
    share = sorted(
        gflop * turn[agent]["steps_per_second"] / turn["floor"]["gflop_per_second"] for turn in figures["rounds"]
    )
    assert f"whole steps run at {sum(share) / 2:.0%} (min {share[0]:.0%}, max {share[1]:.0%})" in said
    job = json.loads((tmp_path / "venv" / "bin" / "job.json").read_text())
    assert (job["peer"], job["num_envs"], job["threads"], job["config"]["batch_size"]) == ("sbx", 1, 1, 8)


@pytest.mark.parametrize(("agent", "updates"), [("sac", 1), ("td3", 2), ("td3", 6)])
def test_the_floor_is_what_torch_counts_in_an_update(agent: str, updates: int) -> None:
    cls, config = AGENTS[agent]
    more = {"policy_delay": updates // 2} if agent == "td3" else {}
    settings = config(hidden=(48, 40), batch_size=32, n_critics=3, learning_starts=0, **more)
    learner = cls(Box(-1, 1, (5,)), Box(-1, 1, (2,)), settings)
    learner.observe(transition(5, 2))
    learner.updates_due, learner.updates = float(updates), 0
    with FlopCounterMode(display=False) as counter:
        learner.update()
    # Torch counts products of matrices alone. C's one output is a sum over its inputs, and its slope in them a multiple
    # of a row: in the target, in C's step there and back, in the actor's there and back through all C or the first.
    column, asked = 2 * 32 * 40, 3 if agent == "sac" else 1
    sums = column * (updates * (3 + 2 * 3) + updates // more.get("policy_delay", 1) * 2 * asked)
    assert counter.get_total_flops() + sums == updates * update_flop(agent, asdict(settings), obs=5, actions=2)


@pytest.mark.parametrize("agent", WORK)
def test_the_work_says_all_settings_that_cost_time(agent: str) -> None:
    """So that a change of the agent's defaults is no change of the work."""
    work, config = WORK[agent], AGENTS[agent][1]
    job = {"num_envs": work.num_envs, "num_steps": work.num_steps, "optimizer": "adam", "normalize_obs": False}
    said = work.config(job, (work.gradients or ("",))[0])
    silent = {field.name for field in fields(config)} - set(said)
    assert silent <= {"bins", "log_std", "state_std", "noise_correlation", "share_encoder"}  # of other networks
    config(**said)


@pytest.mark.parametrize(("agent", "rollout"), [("a2c", 40), ("ppo", 512)])
def test_a_turn_holds_whole_rollouts(agent: str, rollout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def turns(steps: int) -> bool:
        seen.append(steps)
        return len(seen) < 3

    monkeypatch.setattr("costgrad.scripts.benchmarks.ours.Turns", lambda warmup, seconds: turns)
    monkeypatch.setattr("costgrad.scripts.benchmarks.ours.PATIENCE", -1)
    work = WORK[agent]
    job = {"num_envs": work.num_envs, "num_steps": work.num_steps, "optimizer": "adam", "normalize_obs": False}
    job |= {"agent": agent, "config": work.config(job, "score"), "seed": 0, "seconds": 1, "warmup": 0, "total": 10_000}
    assert bench_ours._learn(job, make("CartPole-v1", work.num_envs)) is None
    assert seen == [rollout, 2 * rollout, 3 * rollout]


@pytest.mark.slow
@pytest.mark.parametrize("agent", WORK)
def test_the_real_peer_takes_its_turns(agent: str, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    done = run(agent, *TURNS, "--peer", "sb3", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    rounds = json.loads((tmp_path / "figures.json").read_text())["rounds"]
    assert all(10 < figures["peer"]["steps_per_second"] < 100_000 for figures in rounds)


def test_a_peer_that_fails_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer = executable(tmp_path / "peer", f"#!{sys.executable}\nimport sys\nsys.exit('no such package')\n")
    assert bench.main([*SHORT, "--peer", "sb3", "--peer-python", peer]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no such package" in error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seconds", "0"], "seconds"),
        (["--repeats", "0"], "repeats"),
        (["--num-envs", "many"], "num-envs"),
        (["--actor-gradient", "other"], "actor-gradient"),
        (["--nonsense"], "nonsense"),
        (["dqn"], "dqn"),
        (["ppo", "--actor-gradient", "score"], "actor-gradient score is no setting of ppo"),
        (["ppo", "--optimizer", "rmsprop"], "optimizer of ppo must be adam, got rmsprop"),
        (["sac", "--num-steps", "5"], "num-steps 5 is no setting of sac"),
        (["td3", "--env", "CartPole-v1"], "td3 is measured on a Box of actions, CartPole-v1 has Discrete(2)"),
        (["ppo", "--peer", "sbx"], "sbx has no ppo: peer must be sb3"),
        (["sac", "--peer", "sbx"], "sbx is not installed here: install it and tensorboard in a venv of its own"),
        (["sac", "--peer", "sbx", "--peer-python", "/tmp"], "cannot run /tmp/bin/python"),
        (["ppo", "--num-steps", "0"], "num-steps must be at least 1, got 0"),
        (["--actor-gradient"], "actor-gradient"),
        (["ppo", "--json", "/no/such/folder/file"], "/no/such/folder/file"),
        (["--env", "NoSuchEnv-v9"], "NoSuchEnv"),
        (["--peer", "sb3", "--peer-python", "/no/such/python"], "/no/such/python"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_turns_count_only_what_was_done_in_the_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("costgrad.scripts.benchmarks.turns.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("costgrad.scripts.benchmarks.turns.time.process_time", lambda: now[0] / 2)

    class Parent:
        lines: list[str] = ["go\n", "go\n", ""]  # noqa: RUF012

        def readline(self) -> str:
            now[0] += 100.0  # the other side's turn
            return self.lines.pop(0)

    monkeypatch.setattr("costgrad.scripts.benchmarks.turns.sys.stdin", Parent())
    turns = Turns(warmup=1.0, seconds=2.0)
    steps = 0
    while True:
        now[0] += 0.5
        steps += 8
        if not turns(steps):
            break
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"ready": True}] + 2 * [{"steps_per_second": 16.0, "steps_per_cpu_second": 32.0}]

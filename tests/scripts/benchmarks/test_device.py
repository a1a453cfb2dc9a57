"""The benchmark of devices, as a person runs it; without a GPU the CPU stands on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from costgrad.scripts import bench
from costgrad.scripts.benchmarks import device as bench_device

SHORT = ("device", "--env", "Pendulum-v1", "--seconds", "0.05", "--warmup", "0", "--repeats", "3")


def test_prints_a_ratio_for_each_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_device, "GPU", "cpu")
    flags = ("--agent", "ppo", "td3", "--widths", "8", "--json", str(tmp_path / "figures.json"))
    assert bench.main([*SHORT, *flags]) == 0
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [(row["agent"], row["width"]) for row in rows] == [("ppo", 8), ("td3", 8)]
    said = capsys.readouterr().out
    for row in rows:
        ratios = sorted(gpu / cpu for gpu, cpu in row["rounds"])
        assert len(ratios) == 3 and f"| {ratios[1]:.2f} ({ratios[0]:.2f}, {ratios[2]:.2f}) |" in said


def test_both_sides_do_the_same_work_each_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []

    class Clockwork:
        """A side that makes as many steps a second as its device has letters."""

        def __init__(self, job: dict) -> None:
            jobs.append(job)
            self.turn = self.answer = lambda: {"steps_per_second": float(len(job["device"]))}

        def __enter__(self) -> Clockwork:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(bench_device, "ours", Clockwork)
    rows = list(bench_device._compare(bench_device.Args(agent=("sac",), env="Pendulum-v1", widths=(16, 32), repeats=2)))
    assert [row.width for row in rows] == [16, 32]
    assert [row.rounds for row in rows] == 2 * [[(4.0, 3.0), (4.0, 3.0)]] and rows[0].ratios() == [4 / 3, 4 / 3]
    gpu, cpu = jobs[2:]
    assert (gpu.pop("device"), cpu.pop("device")) == ("cuda", "cpu") and gpu == cpu
    assert gpu["num_envs"] == 1 and gpu["config"]["actor_lr"] == 1e-3  # of the task's own settings
    assert (gpu["config"]["hidden"], gpu["config"]["learning_starts"]) == ((32, 32), 1_000)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env", "NoSuchEnv-v9"], "NoSuchEnv-v9"),
        (["--agent", "dqn"], "'dqn'"),
        (["--agent", "ars"], "agent 'ars' is not measured here"),
        (["--agent"], "agent must be at least one"),
        (["--agent", "td3", "--env", "CartPole-v1"], "TD3 acts in a bounded Box"),
        (["--widths"], "widths must be at least one"),
        (["--widths", "64", "0"], "widths must be at least 1, got 0"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--repeats", "0"], "repeats must be at least 1, got 0"),
        (["--seconds", "0"], "seconds must be above 0"),
        (["--json", "/no/such/folder/f.json"], "/no/such/folder"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_device, "GPU", "cpu")
    assert bench.main([*SHORT, *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*SHORT, "--agent", "ppo"]) == 2
    assert "device cuda is not there" in capsys.readouterr().err

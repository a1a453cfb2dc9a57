"""Damaged files are refused in one line, or hold what can be used; see fuzz.py, which makes more of them on call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contracts import fuzz

SEED = 3


def test_two_thousand_damaged_files() -> None:
    faults, seen = fuzz.run(2000, SEED)
    print(f"seed {SEED}")
    assert not faults, faults[:5]
    names = {name for name, _ in seen}
    assert len(names) == 12 and all(seen[name, False] > 0 for name in names)
    assert sum(count for (_, loaded), count in seen.items() if loaded) > 200  # what stands behind the checks is reached


@pytest.mark.parametrize(
    ("check", "only", "fault"),
    [
        ("costgrad.rl.checkpoint._check_digests", "ppo", "no digest fits"),
        ("costgrad.rl.buffers.replay.check_replay", "sac", "used"),
    ],
)
def test_it_finds_what_a_check_keeps_out(monkeypatch: Any, check: str, only: str, fault: str) -> None:
    monkeypatch.setattr(check, lambda *_: None)
    monkeypatch.setattr(fuzz, "PATIENCE", 0.5)
    faults, _ = fuzz.run(300, SEED, only=only)
    assert any(fault in outcome.fault for _, outcome in faults)

"""Checkpoints: exact, atomic, and without code."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from costgrad.agents import PPO, SAC, PPOConfig, SACConfig
from costgrad.rl import checkpoint
from costgrad.rl.agent_files import load_agent, restore, save_agent
from costgrad.rl.checkpoint import read, write
from costgrad.rl.errors import UserError
from costgrad.rl.files import write_text
from tests.fakes import Fake, FakeConfig

TENSORS = {
    "float": torch.randn(3, 4),
    "double": torch.tensor(1e-300, dtype=torch.float64),
    "int": torch.arange(5),
    "bool": torch.tensor([True, False]),
    "bytes": torch.Generator().manual_seed(1).get_state(),
    "empty": torch.zeros(0, 3),
    "nan": torch.tensor([float("nan"), float("inf")]),
}
META = {"n": 3, "name": "é", "nested": {"list": [1, 2.5, None, True]}, "inf": float("inf")}


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "a", TENSORS, META)
    tensors, meta = read(tmp_path / "deep" / "a")
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype and tensors[name].shape == value.shape
        assert torch.equal(tensors[name].nan_to_num(7), value.nan_to_num(7))


def test_views_that_share_memory(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    views = {"a": flat[:4].view(2, 2), "b": flat[4:], "t": flat.view(3, 4).t(), "same": flat, "again": flat}
    write(tmp_path / "a", views, {})
    tensors, _ = read(tmp_path / "a")
    assert all(torch.equal(tensors[name], value) for name, value in views.items())


def test_the_filled_part_of_a_longer_memory_is_written_as_it_lies(tmp_path: Path) -> None:
    """A replay has no room for a second one beside it."""
    memory = torch.arange(1000.0).view(100, 10)
    (plain,) = checkpoint._plain({"filled": memory[:60]}).values()
    assert plain.data_ptr() == memory.data_ptr() and plain.shape == (60, 10)
    write(tmp_path / "a", {"filled": memory[:60], "rest": memory[60:], "late": torch.arange(9)[4:]}, {})
    tensors, _ = read(tmp_path / "a")
    assert torch.equal(tensors["filled"], memory[:60]) and torch.equal(tensors["rest"], memory[60:])
    assert tensors["late"].tolist() == [4, 5, 6, 7, 8]
    assert (tmp_path / "a" / checkpoint.TENSORS).stat().st_size < 4500


def test_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "a", {"x": torch.tensor(i)}, {"i": i})
    assert read(tmp_path / "a")[1] == {"i": 2}
    assert os.listdir(tmp_path) == ["a"]


def fork(work: Callable[[], None]) -> int:
    """Runs `work` in a child process that ends with it; returns the child's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn where threads run
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


@pytest.mark.parametrize("call", ["save_file", "rename 1", "rename 2", "sync"])
def test_a_crash_at_any_point_leaves_the_old_or_the_new(tmp_path: Path, call: str) -> None:
    path = tmp_path / "a"
    write(path, {"x": torch.tensor(1)}, {"i": 1})

    def work() -> None:
        rename, calls = os.rename, []

        def dying_rename(*args: Any) -> None:
            calls.append(args)
            if f"rename {len(calls)}" == call:
                os._exit(9)
            rename(*args)

        os.rename = dying_rename
        if " " not in call:
            setattr(checkpoint, call, lambda *_: os._exit(9))
        write(path, {"x": torch.tensor(2)}, {"i": 2})

    _, status = os.waitpid(fork(work), 0)
    assert os.waitstatus_to_exitcode(status) == 9
    tensors, meta = read(path)
    assert int(tensors["x"]) == meta["i"] == 1
    write(path, {"x": torch.tensor(3)}, {"i": 3})  # and the next one is not in its way
    assert read(path)[1] == {"i": 3}
    assert not [name for name in os.listdir(tmp_path) if name.endswith("old")]


def test_kill_9_while_writing_over_and_over(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def work() -> None:
        i = 0
        while True:
            write(path, {"x": torch.full((20_000,), float(i))}, {"i": i})
            i += 1

    for pause in (0.05, 0.011, 0.023, 0.037, 0.041, 0.053, 0.067):
        write(path, {"x": torch.full((20_000,), -1.0)}, {"i": -1})
        child = fork(work)
        time.sleep(pause)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        tensors, meta = read(path)
        assert bool((tensors["x"] == meta["i"]).all())


def test_a_full_disk_damages_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, {"x": torch.tensor(1)}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # a file that grows beyond fails to be written
    try:
        with pytest.raises(UserError, match="cannot write") as error:
            write(path, {"x": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    one_line(error)
    assert int(read(path)[0]["x"]) == 1
    assert os.listdir(tmp_path) == ["a"]


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_pickles_are_refused_and_do_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "evil was here"
    bad = pickle.dumps(Evil(mark))
    write(tmp_path / "tensors", {"x": torch.tensor(1)}, {})
    (tmp_path / "tensors" / "tensors.safetensors").write_bytes(bad)
    write(tmp_path / "meta", {"x": torch.tensor(1)}, {})
    (tmp_path / "meta" / "meta.json").write_bytes(bad)
    (tmp_path / "file.pt").write_bytes(bad)
    torch.save({"x": Evil(mark)}, tmp_path / "torch.pt")
    for name in ("tensors", "meta", "file.pt", "torch.pt"):
        with pytest.raises(UserError) as error:
            read(tmp_path / name)
        one_line(error)
    assert not mark.exists()
    pickle.loads(bad)  # the test can fail: it would have run
    assert mark.exists()


def damage(folder: Path, how: str) -> None:
    tensors, meta = folder / "tensors.safetensors", folder / "meta.json"
    if how.startswith("tensors cut"):
        tensors.write_bytes(tensors.read_bytes()[: int(how.split()[-1])])
    elif how == "meta cut":
        meta.write_text(meta.read_text()[:-5])
    elif how == "no tensors":
        tensors.unlink()
    elif how == "no meta":
        meta.unlink()
    elif how == "version":
        meta.write_text(meta.read_text().replace('"version": 3', '"version": 99'))
    elif how == "foreign":
        meta.write_text(json.dumps({"model": "other"}))
    elif how == "list":
        meta.write_text("[1]")
    elif how == "deep":
        meta.write_text("[" * 100_000)


HOWS = ("tensors cut 0", "tensors cut 7", "tensors cut 40", "tensors cut 300", "meta cut", "no tensors", "no meta")


@pytest.mark.parametrize("how", [*HOWS, "version", "foreign", "list", "deep"])
def test_a_damaged_one_is_one_line(tmp_path: Path, how: str) -> None:
    write(tmp_path / "a", {"x": torch.zeros(100)}, {})
    damage(tmp_path / "a", how)
    with pytest.raises(UserError) as error:
        read(tmp_path / "a")
    assert str(tmp_path / "a") in one_line(error)


def test_a_missing_one_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        read(tmp_path / "a")


def test_does_not_replace_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    with pytest.raises(UserError, match="no checkpoint stands there"):
        write(tmp_path / "thesis", {}, {})
    assert (tmp_path / "thesis" / "text").read_text() == "years of work"


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "file" / "a", {}, {})
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "file" / "a", "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        write(tmp_path / "a", {}, {})


def an_agent(**config: Any) -> Fake:
    return Fake(spaces.Box(-1, 2, (3,)), spaces.Discrete(3, start=-1), FakeConfig(**config), seed=5)


def test_an_agent_comes_back_and_goes_on_alike(tmp_path: Path) -> None:
    agent = an_agent(size=5, hidden=(2,))
    agent.act(np.zeros((4, 3), np.float32))
    agent.update()
    save_agent(tmp_path / "a", agent)
    again = load_agent(tmp_path / "a", Fake, FakeConfig)
    assert again.config == agent.config and isinstance(again.config.hidden, tuple)
    assert again.codec.observation_space == agent.codec.observation_space
    assert again.codec.action_space == agent.codec.action_space
    assert again.updates == 1 and torch.equal(again.weights, agent.weights)
    obs = np.zeros((50, 3), np.float32)
    assert np.array_equal(again.act(obs), agent.act(obs))


def test_an_agent_of_another_kind_or_shape_is_refused(tmp_path: Path) -> None:
    class Other(Fake):
        pass

    save_agent(tmp_path / "a", an_agent())
    with pytest.raises(UserError, match="holds agent 'fake', not 'other'"):
        load_agent(tmp_path / "a", Other, FakeConfig)
    tensors, meta = read(tmp_path / "a")
    with pytest.raises(UserError, match="does not fit this Fake"):
        restore("a", an_agent(size=9), tensors, meta)
    meta["config"]["colour"] = "red"
    write(tmp_path / "b", tensors, meta)
    with pytest.raises(UserError, match="does not know: colour"):
        load_agent(tmp_path / "b", Fake, FakeConfig)


def test_every_byte_counts(tmp_path: Path) -> None:
    """A flip of any bit is noticed, but for one that says the same in other words."""
    path = tmp_path / "a"
    write(path, {"x": torch.arange(6.0), "n": torch.tensor([1, 2])}, {"step": 3, "name": "é", "list": [1.5, None]})
    tensors, meta = read(path)
    refused = 0
    for name in (checkpoint.TENSORS, checkpoint.META):
        file = path / name
        data = file.read_bytes()
        for i in range(len(data)):
            for bit in (1 << i % 8, 0x20):
                file.write_bytes(data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :])
                try:
                    others, other_meta = read(path)
                except UserError as error:
                    assert "\n" not in str(error) and str(path) in str(error)
                    refused += 1
                    continue
                assert name == checkpoint.META and other_meta == meta
                assert all(torch.equal(value, others[key]) for key, value in tensors.items())
        file.write_bytes(data)
    assert refused > 800


def test_a_checkpoint_of_version_2_is_read_and_one_of_3_does_not_pass_for_it(tmp_path: Path) -> None:
    write(tmp_path / "a", {"x": torch.tensor(1)}, {"i": 1})
    file = tmp_path / "a" / checkpoint.META
    outer = json.loads(file.read_text())
    file.write_text(json.dumps({"format": outer["format"], "version": 2, "meta": outer["meta"]}))
    assert read(tmp_path / "a")[1] == {"i": 1}
    file.write_text(json.dumps(outer | {"version": 2, "meta": {"i": 2}}))
    with pytest.raises(UserError, match="other entries than those of version 2"):
        read(tmp_path / "a")
    file.write_text(json.dumps(outer | {"version": True}))
    with pytest.raises(UserError, match="has version 'True'"):
        read(tmp_path / "a")


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_is_a_checkpoint_of_its_own(tmp_path: Path, monkeypatch: Any, links: bool) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "a", {"x": torch.tensor(1)}, {"i": 1})
    write(tmp_path / "b", {"x": torch.tensor(0)}, {"i": 0})
    checkpoint.copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / checkpoint.TENSORS).stat().st_nlink == (2 if links else 1)
    write(tmp_path / "a", {"x": torch.tensor(2)}, {"i": 2})  # does not reach the copy
    assert read(tmp_path / "b")[1] == {"i": 1} and int(read(tmp_path / "b")[0]["x"]) == 1
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_restart_under_the_same_process_id_finds_no_name_taken(tmp_path: Path) -> None:
    """In a container each process is number 1 or 7 again."""
    (tmp_path / f".a.{os.getpid()}.tmp").mkdir()
    write(tmp_path / "a", {"x": torch.tensor(1)}, {"i": 1})
    assert read(tmp_path / "a")[1] == {"i": 1}


def test_a_reader_never_sees_halves_of_two(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def work() -> None:
        for i in range(10**6):
            write(path, {"x": torch.full((2000,), float(i))}, {"i": i})
            time.sleep(0.003)

    write(path, {"x": torch.full((2000,), -1.0)}, {"i": -1})
    child = fork(work)
    try:
        seen = set()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            tensors, meta = read(path)
            assert bool((tensors["x"] == meta["i"]).all())
            seen.add(meta["i"])
        assert len(seen) > 10
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("name", ["actor.net.weights.0", "optimizer.square", "optimizer.mean", "critic.obs_norm.scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_and_moments_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    agent = PPO(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), PPOConfig(hidden=(4,)))
    agent.save(tmp_path / "a")
    assert isinstance(PPO.load(tmp_path / "a"), PPO)
    agent.state()[0][name].view(-1)[0] = value
    agent.save(tmp_path / "a")
    part = name.partition(".")[0]
    with pytest.raises(UserError, match=rf"does not fit this PPO: the tensor {part}\..* not finite"):
        PPO.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("counter", "value"),
    [
        *(("steps", value) for value in (-1, 1e9, True, "3", 2**60, None)),
        *(("updates_due", value) for value in (float("inf"), float("nan"), -0.5, 1e9)),
    ],
)
def test_counters_are_whole_numbers_and_nothing_is_due_for_ever(tmp_path: Path, counter: str, value: Any) -> None:
    agent = SAC(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,)), SACConfig(hidden=(4,)))
    agent.save(tmp_path / "a")
    tensors, meta = read(tmp_path / "a")
    meta["state"][counter] = value
    write(tmp_path / "a", tensors, meta)
    with pytest.raises(UserError, match=f"does not fit this SAC: {counter} is "):
        SAC.load(tmp_path / "a")


BOMBS = """
import resource, sys, time
from gymnasium import spaces
from costgrad.agents import SAC, PPO, CMAES, ES, SACConfig, PPOConfig, CMAESConfig, ESConfig
from costgrad.rl.checkpoint import read, write
from costgrad.rl.errors import UserError
folder, box = sys.argv[1], spaces.Box(-1, 1, (3,))
bombs = {
    (SAC, SACConfig(hidden=(4,))): [
        {"hidden": [10**9]}, {"hidden": [30_000, 30_000]}, {"hidden": [1] * 10**6}, {"n_critics": 10**9},
    ],
    (PPO, PPOConfig(hidden=(4,), head="hl_gauss")): [{"bins": 10**9}, {"hidden": [10**5]}],
    (CMAES, CMAESConfig()): [{"candidates": 10**9}, {"hidden": [3000]}, {"episodes": 10**12}],
    (ES, ESConfig(hidden=(4,))): [{"directions": 10**9}, {"episodes": 10**9}],
}
for (cls, config), settings in bombs.items():
    cls(box, box, config).save(folder)
    tensors, meta = read(folder)
    for setting in settings:
        write(folder, tensors, {**meta, "config": meta["config"] | setting})
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            cls.load(folder)
            print("LOADED", str(setting)[:60], flush=True)
        except UserError as error:
            assert len(str(error).splitlines()) == 1, error
        grown, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - start
        assert grown < 64 * 1024 and seconds < 5, (str(setting)[:50], grown, seconds)
    write(folder, tensors, {**meta, "observation_space": {"type": "MultiBinary", "shape": [10**9]}})
    try:
        cls.load(folder)
        print("LOADED", cls)
    except UserError as error:
        assert "holds" in str(error), error
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2**20, "a GiB"
print("done")
"""


def test_a_config_that_asks_for_more_than_its_file_holds_takes_neither_memory_nor_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BOMBS, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["done"], done.stdout + done.stderr

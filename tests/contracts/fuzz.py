"""Damages saved files at random and loads them: each is refused in one line, or loads and can be used.

`python -m tests.contracts.fuzz --count 100000 --seed 1` prints how many of which kind were loaded and refused, and each
mutation that ended in anything else: another exception, a hang, memory beyond `MOST_MEMORY`, a damage that digests
should have noticed. Exit code 1 if there was one.

A mutation is of bytes, which digests notice, or of what the files say, with digests made anew: what stands behind them
is reached by those alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from costgrad.agents import AGENTS
from costgrad.envs.make import make
from costgrad.rl.black_box.loss import BlackBoxLoss, CostConfig
from costgrad.rl.checkpoint import META, TENSORS, _digest, read
from costgrad.rl.errors import UserError
from costgrad.rl.ledger import StepLedger
from costgrad.rl.loop import interact
from costgrad.rl.networks.critic import Critic
from costgrad.rl.runs.folder import read_config
from costgrad.rl.runs.session import Session
from costgrad.rl.runs.table import TRAINING_COLUMNS, Table
from costgrad.scripts.train import main as train_main

PATIENCE = 5.0  # seconds that a load may take
MOST_MEMORY = 600 * 2**20  # bytes by which all loads together may make the process grow
DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(math.nan, math.inf, -math.inf, -1, 0, 1, 2, 1e9, 10**9, 10**30, -(10**30), 0.5, 1e308, 2**63, True, False, None),
    *("", "x", "x" * 10_000, "é\n\x00", [], {}, [[]], [1, 2], [10**9], [10**9, 10**9], [1] * 1000, {"a": {}}, DEEP),
)
DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1.0, 1e9, -1e9, 1e30, 2.0**62)


class Hang(BaseException):
    """A load took too long."""


class Target(NamedTuple):
    """Files, what loads them, and what uses what was loaded; whatever they raise but a UserError is a fault."""

    name: str
    folder: Path
    load: Callable[[Path], Any]
    use: Callable[[Any], Any]
    weight: int = 10
    patience: float = 1.0


class Outcome(NamedTuple):
    """What came of a mutation; `fault` is "" unless it is one."""

    target: str
    kind: str
    loaded: bool
    fault: str


# Mutations


def nodes(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Each place in JSON as its container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        if depth < 8:
            yield from nodes(inner, depth + 1)


def mutate_json(rng: random.Random, value: Any) -> str:
    """Changes one place of JSON; says how."""
    places = list(nodes(value))
    if len(places) > 40 and rng.random() < 0.7:  # bounds of spaces are many
        places = [place for place in places if isinstance(place[0], dict)] or places
    container, key = rng.choice(places)
    how = rng.choice(("replaced", "replaced", "replaced", "renamed", "removed", "copied"))
    if how == "renamed" and isinstance(container, dict):
        container[rng.choice(("x", "", key + "x", "version"))] = container.pop(key)
    elif how == "removed":
        del container[key]
    elif how == "copied":
        other, there = rng.choice(places)
        container[key] = json.loads(json.dumps(other[there])) if there in other or isinstance(other, list) else None
    else:
        container[key] = rng.choice(VALUES)
    return how


def mutate_tensors(rng: random.Random, tensors: dict[str, torch.Tensor]) -> str:
    """Changes one tensor, or two; says how."""
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    how = rng.choice(
        ("dtype", "shape", "shape", "number", "number", "number", "filled", "removed", "renamed", "extra", "swapped")
    )
    if how == "dtype":
        tensors[name] = value.to(rng.choice(DTYPES))
    elif how == "shape":
        flat = value.reshape(-1)
        shapes = (value[None], flat, flat[:0], flat[: len(flat) // 2], value.new_zeros(()), torch.cat((flat, flat)))
        tensors[name] = rng.choice((*shapes, value.reshape(*value.shape, 1), value.flip(0) if value.dim() else value))
    elif how in ("number", "filled"):
        value, number = value.clone(), rng.choice(NUMBERS)
        number = number if value.is_floating_point() or math.isfinite(number) else -7.0
        place = rng.randrange(max(value.numel(), 1)) if how == "number" else slice(None)
        if value.numel():
            number = max(0.0, min(number, 255.0)) if value.dtype == torch.uint8 else number
            value.reshape(-1)[place] = torch.tensor(number, dtype=torch.float64).to(value.dtype)
        tensors[name] = value
    elif how == "swapped":
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
    else:
        if how != "extra":
            del tensors[name]
        if how != "removed":
            tensors[rng.choice((name + "x", "x", name[1:] or "y", "memory.x", "run.x"))] = value
    return how


def mutate_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Changes bytes; says how."""
    changed, how = bytearray(data), rng.choice(("flip", "flip", "truncate", "insert", "swap", "zero"))
    at, length = rng.randrange(max(len(data), 1)), rng.randrange(1, 40)
    if how == "flip" and data:
        changed[at] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del changed[at:]
    elif how == "insert":
        changed[at:at] = rng.randbytes(length)
    elif how == "zero":
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    else:
        other = rng.randrange(max(len(data), 1))
        a, b = bytes(changed[at : at + length]), bytes(changed[other : other + length])
        if len(a) == len(b):
            changed[at : at + length], changed[other : other + length] = b, a
    return bytes(changed), how


def seal(folder: Path) -> None:
    """Makes the digests of a checkpoint anew, as one would who forges it."""
    try:
        outer = json.loads((folder / META).read_text(encoding="utf-8"))
        outer.pop("sha256", None)
        outer["tensors_sha256"] = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
        (folder / META).write_text(json.dumps(outer | {"sha256": _digest(outer)}), encoding="utf-8")
    except (ValueError, AttributeError, TypeError, RecursionError):
        return  # no JSON any more


def same_content(folder: Path, original: Path) -> bool:
    """Whether the checkpoints in two folders say the same."""
    for path in original.rglob(META):
        pairs = [read(root / path.parent.relative_to(original)) for root in (folder, original)]
        (tensors, meta), (others, other_meta) = pairs
        if (
            json.dumps(meta, sort_keys=True) != json.dumps(other_meta, sort_keys=True)
            or tensors.keys() != others.keys()
        ):
            return False
        if not all(torch.equal(value, others[name]) for name, value in tensors.items()):
            return False
    return True


def damage(rng: random.Random, folder: Path) -> str:
    """Damages one of the files of a folder, or two; says how, and whether digests fit."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".csv", ".safetensors")
    )
    how = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        path = rng.choice(files)
        if rng.random() < 0.3 or path.suffix == ".csv":
            data, said = mutate_bytes(rng, path.read_bytes())
            path.write_bytes(data)
        elif path.suffix == ".json":
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
                places = [value["meta"]] if isinstance(value, dict) and isinstance(value.get("meta"), dict) else []
                said = mutate_json(rng, places[0] if places and rng.random() < 0.9 else value)
                path.write_text(json.dumps(value), encoding="utf-8")
            except (ValueError, IndexError):
                continue  # two mutations of one file, and it is none any more
        else:
            try:
                tensors = dict(load_file(path))
            except (SafetensorError, ValueError):
                continue
            said = mutate_tensors(rng, tensors) if tensors else "none"
            save_file({name: value.clone().contiguous() for name, value in tensors.items()}, path)
        how.append(f"{path.suffix[1:]} {said}")
    if rng.random() < 0.85:
        for path in folder.rglob(META):
            seal(path.parent)
        how.append("sealed")
    return ", ".join(how)


# Targets


def _agent_target(root: Path, name: str, env_id: str, **config: Any) -> Target:
    env = make(env_id, 2, 3, backend="native")
    cls, config_cls = AGENTS[name]
    agent = cls(env.single_observation_space, env.single_action_space, config_cls(**config), seed=1)
    for _ in islice(interact(agent, env, 3), 31):
        pass
    agent.save(root / name / "agent")

    def use(loaded: Any) -> None:
        if loaded.codec.observation_space != agent.codec.observation_space:
            return
        if loaded.codec.action_space == agent.codec.action_space:
            for _ in islice(interact(loaded, env, 4), 5):
                pass
        loaded.save(root / "again")

    return Target(name, root / name, lambda folder: cls.load(folder / "agent"), use)


def _critic_target(root: Path, name: str, agent: str) -> Target:
    AGENTS[agent][0].load(root / agent / "agent").critic.save(root / name / "critic")

    def use(loaded: Critic) -> None:
        obs = torch.zeros(2, *loaded.spec.obs_shape)
        width = (len(loaded.spec.choices),) if loaded.spec.choices else (loaded.spec.action_size,)
        action = torch.zeros(2, *width) if loaded.spec.action == "box" else None
        if loaded.spec.action != "one_hot":
            assert bool(torch.isfinite(loaded(obs, action)).all())

    return Target(name, root / name, lambda folder: Critic.load(folder / "critic"), use)


def _loss_target(root: Path, name: str, per: Any, choices: Any) -> Target:
    def cost(output: Any, context: Any, private: Any) -> Any:
        rows = len(output[0]) if isinstance(output, tuple) else len(output)
        return np.ones(rows) if per == "sample" else 1.0

    criterion = BlackBoxLoss(cost, choices, per, config=CostConfig(hidden=(4,), buffer_size=16, gradient_steps=1))
    output = torch.cat((torch.zeros(3, 2), torch.full((3, 3), 1 / 3)), 1) if choices else torch.zeros(3, 2)
    criterion(output.requires_grad_(), torch.ones(3, 2))
    criterion.save(root / name / "loss")

    def use(loaded: BlackBoxLoss) -> None:
        width, context = loaded.shape
        if width == output.shape[1] and context == (2,) and loaded.outputs.choices == criterion.outputs.choices:
            loaded.config = CostConfig(hidden=(4,), buffer_size=16, gradient_steps=1)  # settings may ask for much
            if loaded.evaluations < 10:
                loaded.eval()(output, torch.ones(3, 2))

    return Target(name, root / name, lambda folder: BlackBoxLoss.load(folder / "loss", cost), use)


def _run_targets(root: Path) -> list[Target]:
    flags = ["--env", "CartPole-v1", "--agent", "a2c", "--total-timesteps", "64", "--num-envs", "2", "--hidden", "4"]
    flags += [
        "--num-steps",
        "8",
        "--no-capture-video",
        "--no-progress",
        "--eval-episodes",
        "1",
        "--env-backend",
        "native",
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        assert train_main([*flags, "--run-dir", str(root / "run")]) == 0

    no_graph, no_curve = (
        patch.object(Session, name, lambda _: None) for name in ("introduce", "draw")
    )  # a second each

    def resume(folder: Path) -> None:
        said = io.StringIO()
        total = ["--total-timesteps", "80", "--eval-episodes", "1", "--no-capture-video", "--no-progress"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), no_graph, no_curve:
            code = train_main(["--resume", str(folder), *total])
        errors = [line for line in said.getvalue().splitlines() if not line.startswith("note: ")]
        assert code == 2 or not errors, errors
        if code == 2:
            assert len(errors) == 1, errors
            raise UserError(errors[0])

    for name in ("config", "files"):
        (root / name).mkdir()
    shutil.copy(root / "run" / "config.json", root / "config")
    for name in ("ledger.json", "training.csv"):
        shutil.copy(root / "run" / name, root / "files")

    def tables(folder: Path) -> None:
        StepLedger().read(folder / "ledger.json")
        Table(folder / "training.csv", TRAINING_COLUMNS, 10**9)

    return [
        Target("config", root / "config", read_config, lambda _: None, 4),
        Target("files", root / "files", tables, lambda _: None, 4),
        Target("resume", root / "run", resume, lambda _: None, 1, 10.0),
    ]


def targets(root: Path, only: str = "") -> list[Target]:
    """Everything that is loaded, small: that whose name holds `only`."""
    small: dict[str, Any] = {"hidden": (4,)}
    off = {"buffer_size": 40, "learning_starts": 10, "batch_size": 4, "update_ratio": 0.25}
    agents: dict[str, tuple[str, dict[str, Any]]] = {
        "ppo": ("CartPole-v1", {"num_steps": 16, "batch_size": 8, **small}),
        "sac": ("costgrad/BitFlip-v0", {"hindsight": 4, "per_alpha": 0.6, **off, **small}),
        "td3": ("Pendulum-v1", {**off, **small}),
        "cmaes": ("Pendulum-v1", {}),
        "es": ("CartPole-v1", {"directions": 2, **small}),
    }
    made = [_agent_target(root, name, env, **config) for name, (env, config) in agents.items() if only in ("", name)]
    if not only:
        made += [_critic_target(root, "critic of actions", "td3"), _critic_target(root, "critic of choices", "sac")]
    if only not in agents:
        made += [_loss_target(root, "loss of rows", "sample", (3,)), _loss_target(root, "loss of sets", "batch", ())]
        made += _run_targets(root)
    return [target for target in made if only in target.name]


def once(target: Target, rng: random.Random, scratch: Path) -> Outcome:
    """Damages a copy of a target's files and loads it."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(target.folder, scratch)
    kind, loaded = damage(rng, scratch), False

    def ring(*_: Any) -> None:
        raise Hang(f"not done after {PATIENCE:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * target.patience)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = target.load(scratch)
            loaded = True
            if "sealed" not in kind and target.name != "resume" and not same_content(scratch, target.folder):
                return Outcome(target.name, kind, loaded, "loaded, though no digest fits it")
            target.use(found)
    except UserError as error:
        line = str(error)
        fault = "" if line and "\n" not in line and len(line) < 700 else f"no line: {line[:300]!r}"
        return Outcome(target.name, kind, loaded, fault)
    except Exception as error:
        return Outcome(
            target.name, kind, loaded, f"{'used' if loaded else 'load'}: {type(error).__name__}: {error}"[:400]
        )
    except Hang as error:
        return Outcome(target.name, kind, loaded, f"{'used' if loaded else 'load'}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return Outcome(target.name, kind, loaded, "")


def run(
    count: int, seed: int, every: int = 0, only: str = "", at: int | None = None
) -> tuple[list[tuple[int, Outcome]], Counter[Any]]:
    """Makes `count` mutations.

    Args:
        count: of mutations.
        seed: of all; mutation i depends on (seed, i) alone.
        every: mutations between two lines of progress; 0 prints none.
        only: names of targets must hold this.
        at: makes this mutation alone.

    Returns:
        the faults with their number, and how often each (target, loaded) occurred.
    """
    faults, seen, start = [], Counter[Any](), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        all_targets = targets(root / "targets", only)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        weights = [target.weight for target in all_targets]
        for i in range(count) if at is None else (at,):
            rng = random.Random(f"{seed} {i}")
            (target,) = rng.choices(all_targets, weights)
            outcome = once(target, rng, root / "scratch")
            seen[outcome.target, outcome.loaded] += 1
            if (
                not outcome.fault
                and (grown := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) > MOST_MEMORY // 1024
            ):
                memory += grown
                outcome = outcome._replace(fault=f"the process grew by {grown // 1024} MiB")
            if outcome.fault:
                faults.append((i, outcome))
                if every:
                    print(f"{i}: {outcome.target}: {outcome.kind}: {outcome.fault}", flush=True)
            if every and (i + 1) % every == 0:
                rate = (i + 1) / (time.monotonic() - start)
                print(f"{i + 1:>9,} mutations, {rate:,.0f}/s, {len(faults)} faults", flush=True)
    return faults, seen


def main() -> int:
    """Prints a table; 0 if there was no fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the name of what is loaded")
    parser.add_argument("--at", type=int, default=None, help="make this mutation alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    faults, seen = run(args.count, args.seed, max(args.count // 20, 1), args.only, args.at)
    print(f"\nseed {args.seed}\n{'loaded':>10} {'refused':>10}")
    for name in sorted({name for name, _ in seen}):
        print(f"{seen[name, True]:>10,} {seen[name, False]:>10,}  {name}")
    print(f"{len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())

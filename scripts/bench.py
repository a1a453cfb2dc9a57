"""Measures environment steps per second, end to end and logging on, alone or alternating with a peer."""

from __future__ import annotations

if not __package__:  # run as a file: our packages come from this checkout, whatever lies beside us or where we are
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import scripts  # noqa: F401

    __package__ = "scripts"

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from envs.make import make
from rl.errors import UserError
from rl.session import LOG_POINTS

from . import bench_envs
from .bench_tables import print_learning, print_parts, print_rounds
from .cli import guarded, parse

# The work of Stable-Baselines3's A2C as it ships: one pass of C over the whole rollout, plain regression. All that
# costs time is said here, so that a change of the agent's defaults is no change of the work.
SETTINGS: dict[str, dict[str, Any]] = {
    "a2c": {
        "hidden": (64, 64),
        "activation": "tanh",
        "layer_norm": False,
        "dropout": 0.0,
        "ensemble": 1,
        "actor_lr": 7e-4,
        "critic_lr": 7e-4,
        "gamma": 0.99,
        "gae_lambda": 1.0,
        "entropy_coef": 0.0,
        "clip_norm": 0.5,
        "decay_steps": 0,
        "l2": 0.0,
        "l1": 0.0,
        "critic_passes": 1,
        "critic_warmup": 0,
        "head": "regression",
    }
}
# An actor that follows C alone must not start before C knows anything, or it stays at a return of 9: C learns alone for
# the first 2,000 steps, which are not measured, and a bonus keeps the policy from growing certain too early.
NEEDED: dict[str, dict[str, Any]] = {"pathwise": {"critic_warmup": 2000, "entropy_coef": 0.01}}
DIFFERENCES = (
    "The same on both sides: environment id, number of environments, rollout length, networks, optimiser, learning "
    "rate, gamma, lambda, clipping, episode statistics, TensorBoard at the same intervals, one process each, nothing "
    "displayed.",
    "Ours differs in: actor and C have an optimiser and a clipped gradient each, not one of both; advantages are "
    "divided by their running size; episodes are counted in the loop, not by a Monitor around each environment; the "
    "environments' back end, as printed (--env-backend sync steps them one by one); pathwise has an entropy bonus of "
    "0.01, and its C learns alone for 2,000 steps, not measured.",
)


@dataclass(frozen=True)
class Args:
    """Flags of scripts/bench.py."""

    agent: Positional[str] = "a2c"
    """Algorithm."""
    env: str = "CartPole-v1"
    """Environment; with a peer it must be one that the peer knows too."""
    num_envs: int = 8
    """Environments side by side."""
    num_steps: int = 5
    """Steps of each environment between two updates."""
    actor_gradient: tuple[Literal["score", "pathwise", "control_variate"], ...] = ("score", "pathwise")
    """One measurement for each of these."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """On both sides; A2C is known by the first, ours ships with the second."""
    normalize_obs: bool = False
    """Normalise observations on our side; the peer does not."""
    env_backend: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How our environments step."""
    seconds: float = 1.0
    """Length of one measurement."""
    warmup: float = 1.0
    """Seconds of training before it, on our side until classic control goes on in machine code."""
    repeats: int = 10
    """Rounds; the sides take turns within each. Short turns and many rounds are least disturbed by others."""
    threads: int = 1
    """Threads of torch, on both sides."""
    seed: int = 0
    """Of both sides."""
    peer: Literal["sb3"] | None = None
    """Whom to compare with."""
    peer_python: str = sys.executable
    """The interpreter that the peer is installed in."""
    check_learning: bool = False
    """Also train both sides to the end at these settings and evaluate them."""
    learning_steps: int = 150_000
    """Steps of that training."""
    learning_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of that training."""
    json_file: Annotated[str | None, arg(name="json")] = None
    """Where to write all figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code, 2 for wrong input. `envs` as first word: environments alone."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["envs"]:
        return bench_envs.main(words[1:])
    return guarded(_bench, words)


def _bench(argv: Sequence[str]) -> int:
    args = parse(Args, argv, "bench", __doc__ or "")
    _check(args)
    console = Console(width=max(Console().width, 100))
    where = f"{args.num_envs} x {args.env}, {args.num_steps} steps a rollout, {args.threads} thread(s)"
    console.print(
        f"{args.agent} on {where}; {args.repeats} x {args.seconds:g} s after {args.warmup:g} s", highlight=False
    )
    rounds = _rounds(args)
    print_rounds(console, args, rounds)
    parts = _once(_ours(args, mode="parts", configs={g: _config(args, g) for g in args.actor_gradient}))
    figures: dict[str, Any] = {"args": asdict(args), "rounds": rounds, **parts}
    if args.peer:
        figures["peer_env_alone"] = _once(_peer(args, mode="env"))["steps_per_second"]
    print_parts(console, args, figures)
    if args.check_learning:
        figures["learning"] = _learning(args)
        print_learning(console, args, figures["learning"])
    if args.peer:
        for line in DIFFERENCES:
            console.print(line, highlight=False)
    if args.json_file is not None:
        try:
            Path(args.json_file).write_text(json.dumps(figures, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {args.json_file}: {error.strerror}") from error
    return 0


def _check(args: Args) -> None:
    if args.agent not in SETTINGS:
        raise UserError(f"no settings to measure agent {args.agent!r} with: it must be one of {', '.join(SETTINGS)}")
    for name in ("num_envs", "num_steps", "repeats", "threads", "learning_steps"):
        if (value := getattr(args, name)) < 1:
            raise UserError(f"{name.replace('_', '-')} must be at least 1, got {value}")
    if args.seconds <= 0 or args.warmup < 0:
        raise UserError(f"seconds must be above 0 and warmup at least 0, got {args.seconds:g} and {args.warmup:g}")
    if not args.actor_gradient:
        raise UserError("actor-gradient needs at least one of score, pathwise, control_variate")
    if args.peer and shutil.which(args.peer_python) is None:
        raise UserError(f"cannot run {args.peer_python}: there is no such interpreter")
    if args.peer and args.peer_python == sys.executable and importlib.util.find_spec("stable_baselines3") is None:
        raise UserError(
            "stable_baselines3 is not installed here: install it in a venv of its own, "
            "and give --peer-python that venv's interpreter"
        )
    make(args.env, 1, backend=args.env_backend).close()  # raises here, not in a process, if it cannot be made


JOB = ("env", "num_envs", "num_steps", "optimizer", "seconds", "warmup", "threads", "seed")  # of both sides


class Side:
    """One training run in a process of its own, which stands still but when it is its turn."""

    def __init__(self, command: Sequence[str], job: dict[str, Any]) -> None:
        self.name, self.python = command[-1], command[0]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        environ = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:
            self._process = subprocess.Popen([*command, json.dumps(job)], env=environ, text=True, **pipes)
        except OSError as error:
            raise UserError(f"cannot run {self.python}: {error.strerror}") from error

    def __enter__(self) -> Side:
        """Nothing but itself; leaving ends the process."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def turn(self) -> dict[str, Any]:
        """Lets it run for one measurement. Raises UserError where it has failed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next figures it prints. Raises UserError where it has failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        with contextlib.suppress(ValueError):
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or [f"exit code {self._process.returncode}"]
        raise UserError(f"{Path(self.name).name} failed in {self.python}: {said[-1].removeprefix('error: ')}")


def _config(args: Args, gradient: str) -> dict[str, Any]:
    """The agent's settings."""
    own: dict[str, Any] = {
        "num_steps": args.num_steps,
        "minibatch": args.num_steps * args.num_envs,
        "actor_gradient": gradient,
    }
    own["optimizer"] = args.optimizer
    return {**SETTINGS[args.agent], **own, "normalize_obs": args.normalize_obs, **NEEDED.get(gradient, {})}


def _ours(args: Args, gradient: str = "score", **changes: Any) -> Side:
    more = {"agent": args.agent, "env_backend": args.env_backend, "config": _config(args, gradient)}
    ours = [str(_beside("bench_ours.py"))] if __package__ == "scripts" else ["-m", f"{__package__}.bench_ours"]
    return Side([sys.executable, *ours], _job(args, {**more, **changes}))


def _peer(args: Args, **changes: Any) -> Side:
    return Side([args.peer_python, str(_beside(f"bench_{args.peer}.py"))], _job(args, changes))


def _beside(name: str) -> Path:
    return Path(__file__).with_name(name)


def _job(args: Args, changes: dict[str, Any]) -> dict[str, Any]:
    """What a side has to do."""
    # Long enough not to end before its last turn; at least 800,000 steps, for then ours logs every 4,000 as
    # Stable-Baselines3's A2C does as it ships. Where it is longer, both log less often.
    total = max(800_000, int(100_000 * (args.seconds * args.repeats + args.warmup)))
    job = {key: getattr(args, key) for key in JOB}
    job |= {"mode": "learn", "total": total, "episodes": 20, **changes}
    return job | {"log_every": max(job["total"] // LOG_POINTS, args.num_envs)}


def _rounds(args: Args) -> list[dict[str, dict[str, float]]]:
    """Measures in turns, so that what slows the machine down hits every side alike; the figures of each round."""
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side] = {}
        if args.peer:
            sides["peer"] = stack.enter_context(_peer(args))
            sides["peer"].answer()  # it is warm
        for gradient in args.actor_gradient:
            sides[gradient] = stack.enter_context(_ours(args, gradient))
            sides[gradient].answer()
        return [{name: side.turn() for name, side in sides.items()} for _ in range(args.repeats)]


def _once(side: Side) -> dict[str, Any]:
    """The figures of a side that measures a single thing."""
    with side:
        return side.answer()


def _learning(args: Args) -> list[dict[str, float]]:
    """Final returns of both sides after `learning_steps`, a row a seed."""
    rows = []
    for seed in args.learning_seeds:
        job = {"seconds": 0, "total": args.learning_steps, "seed": seed}
        row: dict[str, float] = {g: _once(_ours(args, g, **job))["final_return"] for g in args.actor_gradient}
        if args.peer:
            row["peer"] = _once(_peer(args, **job))["final_return"]
        rows.append({"seed": seed, **row})
    return rows


if __name__ == "__main__":
    raise SystemExit(main())

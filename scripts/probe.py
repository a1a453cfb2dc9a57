"""Measures how far the C of a run can be trusted: its word beside realised costs, its gradient beside the true one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tyro.conf import Positional

from costgrad.envs.make import make
from costgrad.rl.data import to_numpy
from costgrad.rl.diagnostics.jacobian import action_jacobian, cost_jacobian
from costgrad.rl.diagnostics.probe import Points, Probe, probe
from costgrad.rl.errors import UserError
from costgrad.rl.files import writing
from costgrad.rl.ledger import StepLedger
from costgrad.rl.runs.folder import RunFolder, read_config
from costgrad.rl.runs.plot import calibration_plot
from costgrad.scripts.cli import Device, guarded, parse, use_threads
from costgrad.scripts.environment import environment_of_run
from costgrad.scripts.evaluate import check_spaces, load


@dataclass(frozen=True)
class Args:
    """Flags of scripts/probe.py."""

    run: Positional[str]
    """Folder of the run."""
    checkpoint: str = "last"
    """Checkpoint to load: last, best or step_N."""
    agent: str | None = None
    """file.py:Name of the agent's class, for a run of an agent that is not one of costgrad's."""
    encoder: str | None = None
    """file.py:Name of the encoder, for a run that was trained with one."""
    env: str | None = None
    """Another environment than the run names, as train takes it: where its file has moved, or the run is not yours."""
    env_kwargs: str | None = None
    """Environment arguments, key=value ... or a JSON object; they override those of the run, and with --env replace
    them."""
    trust: bool = False
    """Run the module or file that the run names as its environment, though you did not train it on this machine."""
    num_envs: int = 16
    """Number of parallel environments."""
    visits: int = 4
    """States per environment at which the gradient is measured."""
    rounds: int = 2
    """Rollouts per state with different random numbers, 2 or more; more states are worth more than more rounds."""
    step: float = 0.1
    """Finite-difference step of an action, scaled to [-1, 1]."""
    within: int = 200
    """Steps per environment from which the states are drawn."""
    plot: str | None = None
    """Where to draw the calibration, a .png; calibration.png in the run folder unless given."""
    points: str | None = None
    """Also write states, both gradients and, for a Box, the Jacobians dC/da and da/dobs to this .npz file."""
    seed: int | None = None
    """Seed, to which 2,000,000 is added; that of the run unless given."""
    device: Device = "auto"
    """Device of the networks."""
    threads: int = 1
    """CPU threads of torch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Probes; returns the exit code: 0, or 2 for wrong input."""
    return guarded(_probe, argv)


def _probe(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "probe", __doc__ or "")
    if args.seed is not None and args.seed < 0:
        raise UserError(f"seed must be at least 0, got {args.seed}")
    plot = Path(args.run) / "calibration.png" if args.plot is None else Path(args.plot)
    for flag, path, ending in (("--plot", plot, ".png"), ("--points", args.points, ".npz")):
        if path is not None and Path(path).suffix != ending:
            raise UserError(f"{flag} {path} must end in {ending}")
    use_threads(args.threads)
    started = read_config(args.run)
    wanted = environment_of_run(args.run, started, args.env, args.env_kwargs, args.trust)
    agent = load(args.run, args.checkpoint, args.device, started, args.agent, args.encoder)
    seed: int = started.get("seed", 0) if args.seed is None else args.seed
    env = make(wanted.env, 1, seed, env_kwargs=wanted.kwargs)
    try:
        check_spaces(env, agent)
        sizes = {"num_envs": args.num_envs, "visits": args.visits, "rounds": args.rounds, "within": args.within}
        found = probe(agent, env, step=args.step, seed=seed, **sizes)
    finally:
        env.close()
    StepLedger(probes=found.steps).add_to(RunFolder(args.run, resume=True).ledger)
    _say(args, started["agent"], agent, found)
    calibration_plot(plot, found.calibration, f"C of {started['agent']} on {wanted.env}, {args.checkpoint}")
    print(f"picture      {plot}")
    if args.points is not None:
        if found.points is None:
            raise UserError(f"--points {args.points}: there are none, {found.reason}")
        _write(Path(args.points), agent, found.points)
        print(f"points       {args.points}")
    return 0


def _say(args: Args, name: str, agent: Any, found: Probe) -> None:
    estimand, told = agent.estimand(), found.calibration
    soft = f", entropy coefficient {estimand.alpha:.3g}" if estimand.alpha else ""
    print(f"C of {name} in {args.run}, checkpoint {args.checkpoint}: cost-to-go with gamma {estimand.gamma:g}{soft}")
    print(f"calibration  {told}")
    print(f"             bias {told.bias:.4g} +- {told.bias_error:.2g}, slope {told.slope:.3g} (1 is right)")
    print(f"             of {len(told.predicted):,} costs-to-go; {told.left:.2%} of their weight not realised")
    if found.gradient is None:
        print(f"gradient     not measured: {found.reason}")
    else:
        kind = "advantages" if agent.codec.discrete else "dC/da"
        size = f"{kind} of size {found.gradient.size_of_c:.3g}, the true ones {found.gradient.size:.3g}"
        print(f"gradient     {found.gradient}\n             {size}, at {found.gradient.states} states")
    print(f"it took      {found.steps:,} environment steps")


def _write(path: Path, agent: Any, points: Points) -> None:
    """The points as NumPy arrays. Raises UserError."""
    arrays = points._asdict()
    if not agent.codec.discrete:
        obs = torch.from_numpy(points.obs)
        action = torch.from_numpy(agent.codec.env_action(points.action))
        arrays["dcost_daction"] = to_numpy(cost_jacobian(agent.critic, obs, action))
        arrays["daction_dobs"] = to_numpy(action_jacobian(agent, obs))
    with writing(path), path.open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    raise SystemExit(main())

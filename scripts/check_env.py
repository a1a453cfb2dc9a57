"""Checks whether an environment can be trained on, and says what to change."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from tyro.conf import Positional

from costgrad.envs.errors import EnvError
from costgrad.envs.make import make
from costgrad.rl.errors import UserError
from costgrad.rl.observations import Observations
from costgrad.rl.spaces import Codec
from costgrad.scripts.cli import guarded, invocation, parse
from costgrad.scripts.flags import json_object


@dataclass(frozen=True)
class Args:
    """Flags of scripts/check_env.py."""

    env: Positional[str]
    """Environment: a gymnasium id, module:Id, module:Class or file.py:Name (a class, a factory or a cost function)."""
    env_kwargs: str = "{}"
    """Environment arguments, key=value ... or a JSON object."""
    env_backend: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How the environments of a training run would step, see train."""
    steps: int = 2000
    """Number of random steps to try."""
    seed: int = 0
    """Seed of the environment and of the random actions."""


class Trace(NamedTuple):
    """What random actions met; reset rows are left out."""

    obs: list[np.ndarray]
    reward: np.ndarray  # [steps]
    lengths: list[int]  # of the episodes that ended
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Checks; returns the exit code: 0, or 2 for what cannot be trained on."""
    return guarded(_check, argv)


def _check(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "check_env", __doc__ or "")
    if args.steps < 1:
        raise UserError(f"steps must be at least 1, got {args.steps}")
    kwargs = json_object("--env-kwargs", args.env_kwargs)

    def fresh() -> VectorEnv:
        return make(args.env, 1, args.seed, env_kwargs=kwargs, backend=backend)

    backend = "sync"
    try:
        env = fresh()
    except EnvError:  # perhaps one that is a batch by itself
        backend = "auto"
        env = fresh()
    needed: list[str] = []  # flags of training
    try:
        checks: list[Callable[[], list[str]]] = [lambda: _spaces(env)]
        if (single := _single(env)) is not None:
            checks.append(lambda: _gymnasium(single))
        failed = _failures(args.env, checks)
    finally:
        env.close()  # before others are made: there may be room for one only
    failed += _failures(
        args.env, [lambda: _steps(fresh, args.steps, args.seed), lambda: _backend(args, kwargs, needed)]
    )
    if failed:
        print(f"\n{args.env} cannot be trained on yet: mend what is marked FAIL")
        return 2
    more = "" if args.env_kwargs == Args.env_kwargs else f" --env-kwargs {shlex.quote(args.env_kwargs)}"
    train = " ".join((invocation("train"), "--env", shlex.quote(args.env) + more, *needed))
    print(f"\n{args.env} can be trained on: {train}")
    return 0


def _failures(env: str, checks: Sequence[Callable[[], list[str]]]) -> int:
    """Prints what checks say; how many failed."""
    failed = 0
    for check in checks:
        try:
            for line in check():
                print(line, flush=True)
        except (UserError, EnvError) as error:
            print(f"FAIL  {' '.join(str(error).split())}", flush=True)
            failed += 1
        except Exception as error:  # the user's code ran: anything may come
            print(f"FAIL  {env}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
            failed += 1
    return failed


def _spaces(env: VectorEnv) -> list[str]:
    """Whether an agent can be built. Raises UserError."""
    obs, action = env.single_observation_space, env.single_action_space
    codec = Codec(obs, action)
    lines = [f"ok    observations {obs}", f"ok    actions {action}"]
    if int(np.prod(codec.obs_shape)) > 10_000:
        lines.append("warn  observations are large: shrink images (gymnasium.wrappers.ResizeObservation)")
    return lines


def _backend(args: Args, kwargs: dict[str, Any], needed: list[str]) -> list[str]:
    """How eight of them step; where only one can, `needed` gets the flag. Raises EnvError where none can as asked."""
    try:
        env = make(args.env, 8, args.seed, env_kwargs=kwargs, backend=args.env_backend)
    except EnvError as error:
        make(args.env, 1, args.seed, env_kwargs=kwargs, backend=args.env_backend).close()
        needed.append("--num-envs 1")
        return [
            f"warn  one can be made, but not eight at a time ({' '.join(str(error).split())}):",
            "      train with --num-envs 1; if one is all there may be, it is evaluated only when training has ended",
        ]
    env.close()
    return [f"ok    environments {env.backend_reason}"]


def _single(env: Any) -> gymnasium.Env | None:
    """The one environment inside; None for an environment that is a batch by itself."""
    inside = getattr(env, "envs", None)
    return inside[0] if inside else None


def _gymnasium(env: gymnasium.Env) -> list[str]:
    """The checker of gymnasium itself. Raises UserError where it refuses."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env.unwrapped, skip_render_check=True)
        except Exception as error:  # the checker runs the user's code: anything may come
            raise UserError(f"gymnasium's checker: {type(error).__name__}: {error}") from error
    said = dict.fromkeys(
        " ".join(str(w.message).replace("\x1b[33m", "").replace("\x1b[0m", "").split()) for w in caught
    )
    return ["ok    gymnasium's checker", *(f"warn  {text.removeprefix('WARN: ')}" for text in said)]


def _steps(fresh: Callable[[], VectorEnv], steps: int, seed: int) -> list[str]:
    """Finite numbers, determinism, ends of episodes, speed. Raises UserError for numbers that are not finite."""
    first = _run(fresh, steps, seed)
    second = _run(fresh, min(steps, 200), seed)
    n = len(second.reward)
    reward = first.reward
    lines = [f"ok    finite: rewards from {reward.min():.5g} to {reward.max():.5g}, mean {reward.mean():.5g}"]
    same = all(np.array_equal(a, b) for a, b in zip(first.obs, second.obs, strict=False))
    if same and np.array_equal(reward[:n], second.reward):
        lines.append(f"ok    the same seed gives the same {n} steps")
    else:
        lines.append("warn  the same seed gives other steps: take every random number from self.np_random")
    if len(first.lengths) > 0:
        lines.append(f"ok    {len(first.lengths)} episodes ended, {np.mean(first.lengths):.5g} steps long on average")
    else:
        lines.append(
            f"warn  no episode ended in {steps} steps: pass max_episode_steps in --env-kwargs, or the return of"
        )
        lines.append("      an episode is never known")
    if np.ptp(reward) == 0 and not np.any(np.diff(first.lengths)):
        lines.append("warn  random actions always meet the same reward: there may be nothing to learn from")
    if np.abs(reward).max() > 1e4:
        lines.append("warn  rewards are large: agents scale costs themselves, but smaller units are easier to read")
    lines.append(f"ok    {len(reward) / max(first.seconds, 1e-9):,.0f} steps/s, one environment")
    return lines


def _run(fresh: Callable[[], VectorEnv], steps: int, seed: int) -> Trace:
    """Random actions in a new environment."""
    env = fresh()
    numbers = Observations(env.single_observation_space)
    try:
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        env.action_space.seed(seed)
        obs, _ = env.reset(seed=seed)
        seen = [numbers(obs)]
        rewards: list[float] = []
        lengths: list[int] = []
        length, reset_row, start = 0, False, time.perf_counter()
        while len(rewards) < steps:
            obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            done = bool(terminated[0] or truncated[0])
            if not reset_row:
                length += 1
                rewards.append(float(reward[0]))
                if not np.isfinite(reward[0]):
                    raise UserError(f"the reward is {reward[0]} after {len(rewards)} steps: it must be finite")
            array = numbers(obs)
            if not np.isfinite(array).all():
                raise UserError(f"the observation is not finite after {len(rewards)} steps: {array[0].tolist()}")
            if len(seen) <= 200:
                seen.append(array)
            if done:
                lengths.append(length)
                length = 0
                if mode == AutoresetMode.DISABLED:
                    obs, _ = env.reset(options={"reset_mask": np.array([True])})
            reset_row = done and mode == AutoresetMode.NEXT_STEP
        return Trace(seen, np.array(rewards), lengths, time.perf_counter() - start)
    finally:
        env.close()


if __name__ == "__main__":
    raise SystemExit(main())

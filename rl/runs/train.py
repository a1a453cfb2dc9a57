"""A training run: the loop, and around it evaluation, checkpoints, log and progress."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium
from gymnasium.vector import VectorEnv

from costgrad.rl.errors import Diverged, UserError
from costgrad.rl.evaluate import Evaluation
from costgrad.rl.factories import Factory, check_single_spaces, factory_of, vector_of
from costgrad.rl.ledger import StepLedger
from costgrad.rl.loop import Agent, Tick, interact
from costgrad.rl.runs.beside import Beside
from costgrad.rl.runs.folder import Result, RunFolder
from costgrad.rl.runs.malloc import keep_freed_memory
from costgrad.rl.runs.resume import TASKS, Kept, Position, add_to_ledger
from costgrad.rl.runs.session import Session, settings
from costgrad.rl.runs.signals import Stop, signals
from costgrad.rl.runs.watch import watching

Hook = Callable[[Tick, Any], bool | None]
Environments = VectorEnv | gymnasium.Env | Factory | str


class TrainResult(NamedTuple):
    """What a run came to. Its figures are those of the final policy; the best checkpoint is a convenience only."""

    step: int  # environment steps, those before a resume included
    seconds: float  # of training, evaluations and checkpoints left out
    steps_per_second: float  # of this call
    stopped: Literal["total", "hook", "signal"]  # why it ended
    evaluation: Evaluation | None  # of the final policy; None where a signal stopped the run, or episodes never end
    evaluations: list[tuple[int, Evaluation]]  # (step, evaluation) of this call, the final one too
    run_dir: Path | None
    video: Path | None
    ledger: StepLedger  # environment steps of the whole run, by what they were spent on
    signal: int | None = None  # the number of the signal that stopped the run
    restarts: int = 0  # how often a process of the environments that train was started again
    unsaved: str = ""  # why checkpoints/last is not that of the end of this call; "" where it is


def train(
    agent: Agent,
    env: Environments,
    total_timesteps: int,
    run_dir: str | Path | None = None,
    *,
    seed: int | None = None,
    num_envs: int = 8,
    eval_env: Environments | None = None,
    eval_every: int | None = None,
    eval_episodes: int = 10,
    save_every: int | None = None,
    keep: int | None = None,
    probe_every: int | None = None,
    progress: bool = True,
    video: bool = False,
    hooks: Hook | Sequence[Hook] = (),
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    ledger: StepLedger | None = None,
) -> TrainResult:
    """Trains the agent in place until `total_timesteps` environment steps are done.

    The environment is not closed. SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGUSR1 end the run after the current step and
    save it, within seconds also where an environment hangs (rl/runs/signals.py); a second one ends it at once.

    Args:
        agent: any that keeps the protocol `Agent` of rl/loop.py.
        env: a VectorEnv with `.factory`, as costgrad.make gives it; a factory `make(num_envs, seed, render_mode)`, a
            class or function that makes one environment, or an id of gymnasium's; or a plain VectorEnv or a single
            environment. Evaluation and video need other environments than those that train: the last two cannot be
            made again, and go with `eval_env`.
        total_timesteps: a lower bound, earlier steps of a resumed run included.
        run_dir: where the run's files go; None writes nothing.
        seed: of the environments: number i starts from seed + i; by default `env.initial_seed` or 0.
        num_envs: number of parallel environments, where they are made here.
        eval_env: environments for evaluation and video, in the same forms; those that `env` makes unless given. A plain
            VectorEnv or a single environment is used itself and not closed.
        eval_every: environment steps between evaluations; None evaluates only at the end.
        eval_episodes: of one evaluation, the same start states each time.
        save_every: environment steps between checkpoints `step_N`; `last` is written with each of them and each
            evaluation, `best` whenever an evaluation is the best so far.
        keep: how many of the checkpoints `step_N` stay, the newest; None keeps all.
        probe_every: environment steps between probes of C (rl/diagnostics/probe.py), one at the end too; None makes
            none. Training is the same as without, to the bit; a probe's steps and seconds are not counted in it.
        progress: a bar or lines on stdout.
        video: film one episode of the final policy, if the environment can render.
        hooks: one or several `hook(tick, agent)`, called after each vector step; returning False ends the run.
        resume: go on with the run in `run_dir`, exactly as if it had not stopped where its config.json says
            `"resume": "exact"`, else with the exact agent in new episodes. Of a run that was killed in its last
            evaluation, plot or film, just that is done.
        config: further entries of config.json.
        ledger: counts what the run spends; a hook that asks an environment for more adds to its `probes`.
    Raises:
        UserError: an argument out of range, a folder in use, no permission, an environment that returns NaN.
        Diverged: the agent's numbers are none any more; the checkpoints before that stay.
    """
    _at_least_one(
        total_timesteps=total_timesteps,
        num_envs=num_envs,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        save_every=save_every,
        keep=keep,
        probe_every=probe_every,
    )
    if resume and run_dir is None:
        raise UserError("resume needs the run_dir of the run that is to go on")
    make, hooks = factory_of(env), (hooks,) if callable(hooks) else tuple(hooks)
    if eval_env is not None and (eval_env is env and make is None):
        raise UserError("eval_env is the env that trains: an evaluation there would break its episodes off")
    keep_freed_memory()
    if seed is None:
        seed = getattr(env, "initial_seed", None) or 0
    folder = RunFolder(run_dir, resume, keep) if run_dir is not None else None
    with _closed_on_error(folder):
        position, kept = folder.restore(agent) if folder is not None and resume else (Position(), Kept())
        result = folder.read_result(position.step) if folder is not None else None
        position = _unfinished(position, kept, result, total_timesteps)
        ledger = ledger or StepLedger()
        if kept.ledger is not None and not (result and result.finished):
            add_to_ledger(ledger, kept.ledger if result is None else asdict(result.ledger))
        elif folder is not None and resume:  # which others may have added to since
            ledger.read(folder.ledger)
        ledger.training = position.step
        if isinstance(env, VectorEnv | gymnasium.Env):
            vector = vector_of(env)
        else:
            assert make is not None
            vector = make(num_envs=num_envs, seed=seed, render_mode=None)
        check_single_spaces(agent, vector)
        if folder is not None and not resume:
            folder.write_config(agent, **settings(agent, seed, vector, total_timesteps, config))
            folder.keep_source(getattr(vector, "env_argument", None), getattr(vector, "env_file", None))
        about = total_timesteps, seed, eval_episodes, progress, ledger
        session = Session(agent, vector, Beside(make, eval_env), folder, position, kept, *about)
    say = session.display.say if progress else partial(print, file=sys.stderr, flush=True)
    stopped: Literal["total", "hook", "signal"] = "total"
    seconds, final, film = session.clock.seconds, None, None
    try:
        with (
            signals(say, lambda: session.save("last", environments=False)) as stop,
            watching(say, getattr(vector, "env_timeout", None)),
        ):
            session.introduce()
            if position.step < total_timesteps:
                schedule = Schedule(position.step, save=save_every, evaluation=eval_every, probe=probe_every)
                stopped = _loop(session, total_timesteps, schedule, hooks, stop)
                if stopped == "signal":  # saved first: the run that goes on has no row here
                    session.save("last")
                session.log.write(session.step)
                if stopped != "signal":
                    session.save("last")
            if not session.learnt and session.step > position.step:
                done = f"no update was made in {session.step - position.step:,} steps"
                session.display.say(
                    f"{done}: the agent learns from more at a time (num_steps, say, or learning_starts)"
                )
            seconds = session.clock.seconds
            if stopped != "signal":
                try:
                    final, film = session.finish(probe_every is not None, video)
                except KeyboardInterrupt:
                    if not stop.is_set():
                        raise
                    stopped = "signal"
        if stopped == "signal":
            session.draw()
            saved = " and saved" if folder is not None and not session.unsaved else ""
            session.display.say(f"stopped after {session.step:,} steps{saved}")
    except Diverged as error:  # the checkpoints before it stay
        raise session.health.blamed(error) from error
    except ValueError:  # the user's to mend (NaN from the environment, say): keep what was learnt before it
        with suppress(UserError):
            session.save("last")
        raise
    finally:
        session.close()
        if not isinstance(env, VectorEnv | gymnasium.Env):
            vector.close()
    rate = (session.step - position.step) / max(seconds - position.seconds, 1e-9)
    path = folder.path if folder is not None else None
    number = stop.number if stopped == "signal" else None
    figures = (session.step, seconds, rate, stopped, final, session.evaluations, path, film, ledger)
    return TrainResult(*figures, number, session.restarts, session.unsaved)


def _unfinished(position: Position, kept: Kept, result: Result | None, total: int) -> Position:
    """The position from which a run goes on, its best evaluation that of the final policy where it ended already.

    Raises:
        UserError: there is nothing left to do.
    """
    finished = kept.log is None if result is None else result.finished  # costgrad 0.1 wrote neither log nor result
    if position.step >= total and finished:
        raise UserError(f"the run has done {position.step} steps: total_timesteps must be more than that, got {total}")
    if result is None and position.step >= total:
        return position._replace(pending=TASKS)  # of the final policy
    if result is not None and result.evaluation is not None:
        best = -math.inf if position.best is None else position.best
        return position._replace(best=max(result.evaluation.mean, best))
    return position


@contextmanager
def _closed_on_error(folder: RunFolder | None) -> Iterator[None]:
    """Lets others write in the folder where its run does not come to begin."""
    try:
        yield
    except BaseException:
        if folder is not None:
            folder.close()
        raise


class Schedule:
    """What is due at which environment step.

    Args:
        step: environment steps done.
        every: steps between two times, by task; None for never.
    """

    def __init__(self, step: int, **every: int | None) -> None:
        self._every = every
        self._next = {task: _after(step, count) for task, count in every.items()}

    def due(self, step: int) -> list[str]:
        """The tasks whose time has come; each is named once."""
        due = [task for task, following in self._next.items() if step >= following]
        for task in due:
            self._next[task] = _after(step, self._every[task])
        return due

    def has(self, task: str) -> bool:
        """Whether it is ever due."""
        return self._every[task] is not None

    def leave_out(self, task: str) -> None:
        """It is never due."""
        self._next[task] = math.inf


def _loop(
    session: Session, total: int, schedule: Schedule, hooks: Sequence[Hook], stop: Stop
) -> Literal["total", "hook", "signal"]:
    """Steps until the total, a hook's False or a signal."""
    if schedule.has("evaluation") and not session.can_evaluate():
        schedule.leave_out("evaluation")
    agent = session.agent
    ticks = interact(agent, session.env, session.start, session.step, session.under_way, session.health.extremes)
    while True:
        try:
            session.do_pending()  # what a run was killed in comes first
            session.between_steps = False
            tick = next(ticks)
            session.between_steps = True
            session.observe(tick)
            if hooks and any([hook(tick, agent) is False for hook in hooks]):  # a list: every hook is called
                return "hook"
            if tick.step >= total:
                return "total"
            if due := schedule.due(tick.step):
                session.work_off(due)
        except Diverged:
            raise
        except (Exception, KeyboardInterrupt):
            if not stop.is_set() or stop.torn:
                raise  # else a second signal, or the first has ended an environment's process too
        if stop.is_set():
            return "signal"


def _after(step: int, every: int | None) -> float:
    """The next multiple of `every` after `step`; infinity for None."""
    return math.inf if every is None else (step // every + 1) * every


def _at_least_one(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")

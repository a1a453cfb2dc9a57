"""Environments in worker processes: one that hangs, raises or dies is named, and ends the run or is started again."""

from __future__ import annotations

import multiprocessing
import queue
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker
from gymnasium.vector.utils import CloudpickleWrapper, clear_mpi_env_vars, iterate

from costgrad.envs.child import Child
from costgrad.envs.errors import EnvError
from costgrad.envs.pipes import copied, join, poller, store

NOTICE = 60.0  # seconds after which an environment that has not answered is named
MOST_IN_A_ROW = 3  # restarts of an environment without a step between
START_SECONDS = 30.0  # at least so long may a new process take to its first observation
CLOSE_SECONDS, END_SECONDS = 5.0, 1.0  # to close an environment; to end of SIGTERM
_PARAMETERS = len(signature(_async_worker).parameters)  # their number depends on gymnasium's version


class Failure:
    """Why a worker gave no answer: `error` is raised where the run ends, `why` is said where it is started again."""

    def __init__(self, error: BaseException, why: str) -> None:
        self.error, self.why = error, why


class WorkerVectorEnv(AsyncVectorEnv):
    """N environments in N processes, in gymnasium's SAME_STEP mode.

    A worker fails if it does not answer within `timeout` seconds, dies, or its environment raises. Then `step` raises
    EnvError; or with `restart`, the process is started again and the row is the first of a new episode: its obs is that
    of the reset, its reward 0, both flags False, and `info["process_restarted"]` [N] bool is True. The transition under
    way is lost: such a row must not be learnt from, and the episode before it ended without a flag.

    Args:
        make: one environment.
        num_envs: N.
        timeout: seconds; None only names an environment that has not answered for 60 s, on stderr, and waits on.
        restart: whether a worker that fails is started again; EnvError after three times without a step between.

    Attributes:
        restarts: [N] int64, how often each was started again.
    """

    def __init__(
        self, make: Callable[[], gymnasium.Env], num_envs: int, timeout: float | None = None, restart: bool = False
    ) -> None:
        self._make, self.timeout, self._restart = make, timeout, restart
        self.restarts = np.zeros(num_envs, np.int64)
        self._unproven: dict[int, int] = {}  # restarts without a step since, by environment
        self._seeds: list[int | None] = [None] * num_envs
        self._errors: dict[int, BaseException] = {}  # what environments raised, not yet asked for
        self._sends_obs: set[int] = set()  # started again: what it observes comes through the pipe
        self._broken: BaseException | None = None
        super().__init__([Child(make)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        self._ready = [poller(pipe) for pipe in self.parent_pipes]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As gymnasium's. Raises EnvError where a worker fails."""
        self._assert_is_running()
        for i, process in enumerate(self.processes):
            if not process.is_alive():
                failure = self._death(i)
                if not self._restart:
                    self._end(failure.error)
                self._start_again(i, failure.why)
        if seed is not None:
            self._seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        self.reset_async(seed=seed, options=options)
        infos: dict[str, Any] = {}
        for i, answer in enumerate(self._answers()):
            obs, info = self._revived(i, answer) if isinstance(answer, Failure) else answer
            self._keep(i, obs)
            infos = self._add_info(infos, info, i)
        self._state = AsyncState.DEFAULT
        return self._observed(), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As gymnasium's. Raises EnvError where a worker fails and is not started again."""
        self._assert_is_running()
        self._state = AsyncState.WAITING_STEP  # whoever is interrupted from here on does not know who was asked
        for pipe, action in zip(self.parent_pipes, iterate(self.action_space, actions), strict=True):
            try:
                pipe.send(("step", action))
            except ConnectionError:  # it is dead, which its answer will say
                continue
        reward, infos = np.zeros(self.num_envs), dict[str, Any]()
        terminated, truncated = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        for i, answer in enumerate(self._answers()):
            if isinstance(answer, Failure):
                obs, info = self._revived(i, answer)
                info = {**info, "process_restarted": True}
            else:
                obs, reward[i], terminated[i], truncated[i], info = answer
                if self._unproven:
                    self._unproven.pop(i, None)
            if obs is not None:
                self._keep(i, obs)
            infos = self._add_info(infos, info, i)
        self._state = AsyncState.DEFAULT
        return self._observed(), reward, terminated, truncated, infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As gymnasium's. Raises what the call raises, or EnvError where a worker does not answer or dies."""
        self.call_async(name, *args, **kwargs)
        return self._collect()

    def set_attr(self, name: str, values: Any) -> None:
        """As gymnasium's. Raises what it raises, or EnvError where a worker does not answer or dies."""
        self._assert_is_running()
        of_each = values if isinstance(values, list | tuple) else [values] * self.num_envs
        self._state = AsyncState.WAITING_CALL
        for pipe, value in zip(self.parent_pipes, of_each, strict=True):
            pipe.send(("_setattr", (name, value)))
        self._collect()

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends the workers within seconds, those that hang too: asks them, then SIGTERM, then SIGKILL.

        Nobody is asked where one failed or was interrupted in a step: who has an answer to give is not known then.
        """
        if not terminate and self._broken is None and self._state is AsyncState.DEFAULT:
            for pipe in self.parent_pipes:
                with suppress(OSError):
                    pipe.send(("close", None))
            join(self.processes, CLOSE_SECONDS if timeout is None else timeout)
        for end in ("terminate", "kill"):
            for process in self.processes:
                if process.is_alive():
                    getattr(process, end)()
            join(self.processes, END_SECONDS)
        for pipe in self.parent_pipes:
            pipe.close()

    def _assert_is_running(self) -> None:
        if self._broken is not None:
            raise self._broken
        super()._assert_is_running()

    # What a worker answers

    def _answers(self) -> list[Any]:
        """What each worker answered, or a Failure; all are waited for, and those that failed are ended."""
        asked = time.perf_counter()
        first = asked + (NOTICE if self.timeout is None else min(self.timeout, NOTICE))
        answers = []
        for i, ready in enumerate(self._ready):
            if ready(first - time.perf_counter()) or self._late(i, asked, self.timeout):
                answers.append(self._answer(i))
            else:
                said = f"environment {i} has not answered for {self.timeout:g} s (env_timeout)"
                answers.append(Failure(EnvError(f"{said}: on_env_error restart starts it again"), said))
        if not self._restart:
            for answer in answers:
                if isinstance(answer, Failure):
                    self._end(answer.error)
        return answers

    def _collect(self) -> tuple[Any, ...]:
        """What all of them answered. Raises what one of them raised."""
        results = self._answers()
        self._state = AsyncState.DEFAULT
        for result in results:
            if isinstance(result, Failure):
                self._end(result.error)
        return tuple(results)

    def _late(self, i: int, asked: float, timeout: float | None) -> bool:
        """Whether a worker answers between the notice and the timeout, which may be none."""
        end = None if timeout is None else asked + timeout
        noticed = end is None or end - asked > NOTICE
        if noticed and not self._ready[i](asked + NOTICE - time.perf_counter()):
            _say(f"environment {i} has not answered for {NOTICE:.0f} s")
        return self._ready[i](None if end is None else end - time.perf_counter())

    def _answer(self, i: int) -> Any:
        """What stands in the pipe of worker i."""
        try:
            result, fine = self.parent_pipes[i].recv()
        except (EOFError, OSError):
            return self._death(i)
        return result if fine else self._raised(i)

    def _death(self, i: int) -> Failure:
        self.processes[i].join(END_SECONDS)  # one that has just died may not be known to be dead
        said = (
            f"the process of environment {i} ended (exit code {self.processes[i].exitcode}): "
            "it crashed, was killed or called exit"
        )
        return Failure(EnvError(said), said)

    def _raised(self, i: int) -> Failure:
        """What the environment of worker i raised; the queue holds that of others, too."""
        try:
            while i not in self._errors:
                index, kind, value, _ = self.error_queue.get(timeout=CLOSE_SECONDS)
                self._errors[index] = value if isinstance(value, BaseException) else kind(value)
        except queue.Empty:
            return self._death(i)
        error = self._errors.pop(i)
        error = EnvError(f"environment {i}: {error}") if isinstance(error, EnvError) else error
        return Failure(error, str(error) if isinstance(error, EnvError) else f"environment {i}: {error!r}")

    def _end(self, error: BaseException) -> NoReturn:
        """Raises; and again at every later call, where workers are not started again."""
        self._broken = None if self._restart else error
        raise error

    # Starting again

    def _revived(self, i: int, failure: Failure) -> tuple[Any, dict[str, Any]]:
        """The observation and the info of a new worker's reset. Raises EnvError where it fails again and again."""
        while True:
            self._start_again(i, failure.why)
            source, count = self._seeds[i], int(self.restarts[i])
            seed = None if source is None else int(np.random.SeedSequence((source, i, count)).generate_state(1)[0] >> 1)
            self.parent_pipes[i].send(("reset", {"seed": seed, "options": None}))
            limit = None if self.timeout is None else max(self.timeout, START_SECONDS)
            answer = self._answer(i) if self._late(i, time.perf_counter(), limit) else failure
            if not isinstance(answer, Failure):
                obs, info = answer
                return obs, info
            failure = answer

    def _start_again(self, i: int, why: str) -> None:
        """Ends the process of an environment, and starts another. Raises EnvError."""
        times = self._unproven.get(i, 0)
        self.processes[i].kill()
        join([self.processes[i]], END_SECONDS)
        if times == MOST_IN_A_ROW:
            self._broken = EnvError(f"{why} (environment {i} was restarted {times} times without a step between)")
            raise self._broken
        self._unproven[i] = times + 1
        self.restarts[i] += 1
        self._sends_obs.add(i)
        self.parent_pipes[i].close()
        context = multiprocessing.get_context()
        self.parent_pipes[i], theirs = context.Pipe()
        wrapped = CloudpickleWrapper(Child(self._make))
        arguments = [i, wrapped, theirs, self.parent_pipes[i], None, self.error_queue, self.autoreset_mode, None]
        with clear_mpi_env_vars():
            process = context.Process(target=_async_worker, args=arguments[:_PARAMETERS], daemon=True)
            process.start()
        theirs.close()
        self.processes[i], self._ready[i] = process, poller(self.parent_pipes[i])
        if (count := int(self.restarts[i])) & (count - 1) == 0:  # of one that fails all the time not every line
            _say(f"{why}: its process was restarted (environment {i}, restart {count})")

    # Observations

    def _keep(self, i: int, obs: Any) -> None:
        """Stores an observation that came through the pipe, not through shared memory."""
        if i in self._sends_obs:
            store(self.single_observation_space, self.observations, i, obs)

    def _observed(self) -> Any:
        return copied(self.observations)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

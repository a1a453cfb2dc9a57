"""What stands around the loop of a run: log, progress, evaluation, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from costgrad.rl.agent_files import agent_name
from costgrad.rl.diagnostics.probe import probe
from costgrad.rl.drawing.describe import describe
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import MAX_AT_ONCE, SEED_OFFSET, Evaluation, NeverEnds, run_episodes
from costgrad.rl.files import write_bytes
from costgrad.rl.ledger import StepLedger
from costgrad.rl.loop import Agent, Tick, UnderWay
from costgrad.rl.runs.beside import NO_OTHER, Beside
from costgrad.rl.runs.clock import Clock
from costgrad.rl.runs.faults import LAST, Faults, warn
from costgrad.rl.runs.folder import Result, RunFolder, environment_seed, read_config
from costgrad.rl.runs.health import Health
from costgrad.rl.runs.log import Log
from costgrad.rl.runs.progress import Display
from costgrad.rl.runs.resume import Kept, Position, go_on, state_of, why_not_exact
from costgrad.rl.runs.video import record_video

LOG_POINTS = 200  # of TensorBoard's training curves in a run


class Session:
    """One call of `train`; it holds no part of the algorithm.

    Args:
        agent: that is trained.
        env: that it is trained in.
        beside: further environments for evaluation, video and probes.
        folder: of the run, None to write nothing.
        position: where the run stands.
        kept: what it kept beside its agent.
        total: environment steps of the whole run.
        seed: of the run.
        episodes: of one evaluation.
        progress: whether to say anything.
        ledger: takes what the run spends.
    """

    def __init__(
        self,
        agent: Agent,
        env: VectorEnv,
        beside: Beside,
        folder: RunFolder | None,
        position: Position,
        kept: Kept,
        total: int,
        seed: int,
        episodes: int,
        progress: bool,
        ledger: StepLedger,
    ) -> None:
        self.agent, self.env, self.beside, self.folder = agent, env, beside, folder
        self.health = Health(agent)
        self.seed, self.episodes, self.ledger = seed, episodes, ledger
        self.step, self.best = position.step, position.best
        self.pending = list(position.pending)  # what is due at this step
        self.start = environment_seed(seed, position.step)  # of new episodes
        self.under_way = UnderWay()
        self.between_steps = True  # that agent and environments are, and not within one
        self.evaluations: list[tuple[int, Evaluation]] = []
        self.clock = Clock(position.seconds)
        path = None if folder is None else folder.path
        self.display = Display(total, position.step, position.seconds, progress)
        self.faults = Faults(self.display.say if progress else warn)
        if folder is not None:
            folder.say = self.faults.say
            for line in folder.notes:
                folder.say(line)
        check = (lambda: None) if folder is None else folder.check
        every = max(total // LOG_POINTS, env.num_envs)
        since = (position.step, ledger, kept.log, position.pending)
        self.log = Log(path, self.clock, every, *since, self.health, self.faults, check)
        self._eval_env: VectorEnv | None = None
        self.learnt = False  # whether there was an update
        self._endless = False
        if hasattr(env, "restarts"):
            self.log.further = lambda: {"env/restarts": float(self.restarts)}
        self._probes = True  # that a probe was not refused
        self._probed = False
        with self.clock:
            self._inexact = "" if folder is None else why_not_exact(agent, env)  # why a run that goes on is not exact
            if folder is not None and not position.step:
                ledger.probes += getattr(env, "steps_tried", 0)
            if position.step:
                started = {} if folder is None else read_config(folder.path)
                self.under_way, reason = (
                    (UnderWay(), self._inexact) if self._inexact else go_on(env, agent.codec, kept, self.start, started)
                )
                if reason:
                    self.display.say(f"new episodes start, so the run is not as if it had never stopped: {reason}")

    def introduce(self) -> None:
        """Says how updates are computed, and draws the agent as `agent.svg` and among TensorBoard's images.

        Anything that keeps the protocol can be trained; whether it can also be drawn is only said.
        """
        if path := getattr(self.agent, "update_path", ""):
            self.display.say(f"updates {path}")
        if self.folder is None:
            return
        if self._inexact:
            self.display.say(f"were this run resumed, new episodes would start: {self._inexact}")
        with self.clock:
            from costgrad.rl.drawing.paint import pictures  # matplotlib takes a second: only where something is drawn

            try:
                svg, png = pictures(describe(self.agent, getattr(self.env, "name", "environment")), "svg", "png")
            except Exception as error:
                self.display.say(f"no drawing: {error}")
                return
            with self.faults.tolerated("agent.svg", once=True):
                write_bytes(self.folder.path / "agent.svg", svg)
            self.log.add_picture(self.step, "agent", png)

    def observe(self, tick: Tick) -> None:
        """Takes in one tick: a few microseconds."""
        self.step = self.ledger.training = tick.step
        self.learnt = self.learnt or bool(tick.metrics)
        self.log.add(*tick)
        if self.display.due():
            self.display.show(tick.step, self.clock.seconds, self.log.mean_return)

    @property
    def restarts(self) -> int:
        """How often a process of the environments that train was started again."""
        counts = getattr(self.env, "restarts", None)
        return 0 if counts is None else int(counts.sum())

    def can_evaluate(self) -> bool:
        """Whether there is an environment beside the one that trains; says so where there is none."""
        if self._eval_env is None:
            n, seed = min(self.episodes, MAX_AT_ONCE), self.seed + SEED_OFFSET
            try:
                self._eval_env, reason = self.beside.for_evaluation(n, seed), NO_OTHER
            except ValueError as error:  # the user's to mend, whichever library says so
                reason = str(error)
            if self._eval_env is None:
                self.display.say(f"no evaluation during training: {reason}")
        return self._eval_env is not None

    def evaluate(self) -> Evaluation | None:
        """Evaluates the policy as it is, in the evaluation environment if there is one; saves `best`.

        None, once said and not tried again, where the episodes never end.
        """
        if self._endless:
            return None
        with self.clock:
            env = self.env if self._eval_env is None else self._eval_env
            try:
                seed = self.seed + SEED_OFFSET
                result = run_episodes(self.agent, env, self.episodes, True, seed, ledger=self.ledger)
            except NeverEnds as error:
                self._endless = True
                self.display.say(f"no evaluation: {error}")
                return None
            self.evaluations.append((self.step, result))
            self.log.add_evaluation(self.step, result)
            self.display.say(f"{self.step:>10,} steps: evaluation: {result}")
            if self.best is None or result.mean > self.best:
                before, self.best = self.best, result.mean
                if not self.save("best"):
                    self.best = before  # the best that is saved
        return result

    def probe(self) -> None:
        """Measures how far C can be trusted; says once what cannot be measured, and leaves that out."""
        if not self._probes:
            return
        with self.clock:
            try:
                found = probe(self.agent, self.beside.for_probes, seed=self.seed)
            except UserError as error:
                self._probes = False
                self.display.say(f"no probe of C: {error}")
                return
            if found.reason and not self._probed:
                self.display.say(f"no probe of C's gradient: {found.reason}")
            self._probed = True
            self.ledger.probes += found.steps
            self.write_ledger()
            self.log.add_probe(self.step, found)
            self.display.say(f"{self.step:>10,} steps: C: {found}")

    def work_off(self, due: Sequence[str]) -> None:
        """Does what is due at this step: "save", "evaluation", "probe".

        The run is saved before an evaluation, so that nothing is lost where it fails or is killed.
        """
        self.pending = [task for task in ("evaluation", "probe") if task in due]
        with self.clock:
            if "save" in due:
                self.save(f"step_{self.step}")
            if "save" in due or self.pending[:1] == ["evaluation"]:
                self.save("last")
        self.do_pending()

    def do_pending(self) -> None:
        """Evaluates and probes, where that is due."""
        while self.pending:
            {"evaluation": self.evaluate, "probe": self.probe}[self.pending[0]]()
            self.pending = self.pending[1:]

    def save(self, name: str, environments: bool = True) -> bool:
        """Writes checkpoint `name`, if there is a run folder; what the disk refuses is only said.

        Args:
            name: `last`, `best` or `step_N`.
            environments: whether their state is saved too. Without it a resumed run starts new episodes.

        Returns:
            whether it was written, or there is no folder.

        Raises:
            Diverged: the agent's numbers are none any more; nothing is written.
        """
        self.health.check(self.step)
        if self.folder is None:
            return True
        self.log.sync()  # the rows that it stands behind
        position = Position(self.step, self.clock.seconds, self.best, tuple(self.pending))
        kept = Kept(asdict(self.ledger), self.log.state())
        if environments and not self._inexact and name != "best" and self.between_steps and self.under_way.begun:
            try:
                whole = kept._replace(under_way=self.under_way, environments=state_of(self.env))
                whole.packed()
                kept = whole
            except Exception as error:  # whatever the user's class raises: the agent is saved all the same
                said = " ".join(str(error).split())
                self.display.say(f"saved without the state of the environments, new episodes will start: {said}")
        saved = False
        with self.faults.tolerated(f"checkpoint {name}", once=name != "last"):
            self.folder.save(name, self.agent, position, kept)
            saved = True
        self.write_ledger()
        return saved

    def write_ledger(self) -> None:
        """Writes ledger.json, if there is a run folder."""
        if self.folder is not None:
            with self.faults.tolerated("ledger.json"):
                self.ledger.write(self.folder.ledger)

    @property
    def unsaved(self) -> str:
        """Why the run as it is now is not saved; "" where it is, or has no folder."""
        return self.faults.open.get(LAST, "")

    def draw(self) -> None:
        """Writes the learning curve, if there is a run folder."""
        if self.folder is not None:
            from costgrad.rl.runs.plot import learning_curve  # as in `introduce`

            title = f"{agent_name(self.agent)} on {getattr(self.env, 'name', 'environment')}, seed {self.seed}"
            rows = self.log.training.rows, self.log.evaluations.rows
            with self.faults.tolerated("learning_curve.png", once=True):
                learning_curve(self.folder.path / "learning_curve.png", *rows, title)

    def film(self) -> Path | None:
        """Films one episode; a run is not lost for a video, so whatever goes wrong is only said."""
        if self.folder is None:
            return None
        if (filmed := self.beside.filmed) is None:
            self.display.say(f"no video: {NO_OTHER}")
            return None
        try:
            path = self.folder.path / "video.mp4"
            film = record_video(self.agent, filmed, path, seed=self.seed, ledger=self.ledger)
            self.write_ledger()
            return film
        except Exception as error:
            self.display.say(f"no video: {error}")
            return None

    def finish(self, probe: bool, video: bool) -> tuple[Evaluation | None, Path | None]:
        """Evaluates the final policy, draws and films: all of it, or what a killed run had not done yet.

        Returns:
            the evaluation, None where episodes never end, and the path of the film.
        """
        self.pending = []
        result = self.folder.read_result(self.step) if self.folder is not None else None
        if result is None:
            self.can_evaluate()
            result = Result(False, self.evaluate(), self.ledger)
            if probe:
                self.probe()
            self._write(result)
        self.draw()
        film = self.film() if video else None
        self._write(result._replace(finished=True, ledger=self.ledger))
        return result.evaluation, film

    def _write(self, result: Result) -> None:
        if self.folder is not None:
            with self.faults.tolerated("result.json"):
                self.folder.write_result(self.step, result)
            self.write_ledger()

    def close(self) -> None:
        """Closes files and the evaluation environment."""
        self.display.close()
        self.log.close()
        if self.folder is not None:
            self.folder.close()
        if self._eval_env is not None and self._eval_env is not self.beside.ready:
            self._eval_env.close()


def settings(agent: Agent, seed: int, env: VectorEnv, total: int, more: Mapping[str, Any] | None) -> dict[str, Any]:
    """What config.json says of a run beside its agent."""
    entries = ("env_argument", "env_kwargs", "env_file", "env_stamp", "backend")  # of envs/make.py
    about = {key: getattr(env, key) for key in entries if hasattr(env, key)}
    resume = why_not_exact(agent, env)
    about["resume"] = f"new episodes: {resume}" if resume else "exact"
    return about | {"seed": seed, "num_envs": env.num_envs, "total_timesteps": total} | dict(more or {})

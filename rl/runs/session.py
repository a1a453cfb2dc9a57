"""What stands around the loop of a run: log, progress, evaluation, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from costgrad.rl.checkpoint import agent_name, write_bytes
from costgrad.rl.diagnostics.probe import probe
from costgrad.rl.drawing.describe import describe
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import MAX_AT_ONCE, SEED_OFFSET, Evaluation, Factory, NeverEnds, run_episodes
from costgrad.rl.ledger import StepLedger
from costgrad.rl.loop import Agent, Tick
from costgrad.rl.runs.folder import Position, RunFolder
from costgrad.rl.runs.log import Clock, Log
from costgrad.rl.runs.progress import Display
from costgrad.rl.runs.video import record_video

LOG_POINTS = 200  # of TensorBoard's training curves in a run


class Session:
    """One call of `train`; it holds no part of the algorithm.

    Args:
        agent: that is trained.
        env: that it is trained in.
        make: makes further environments for evaluation and video, or None.
        folder: of the run, None to write nothing.
        position: where the run stands.
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
        make: Factory | None,
        folder: RunFolder | None,
        position: Position,
        total: int,
        seed: int,
        episodes: int,
        progress: bool,
        ledger: StepLedger,
    ) -> None:
        self.agent, self.env, self.make, self.folder = agent, env, make, folder
        self.seed, self.episodes, self.ledger = seed, episodes, ledger
        self.step, self.best = position.step, position.best
        self.evaluations: list[tuple[int, Evaluation]] = []
        self.clock = Clock(position.seconds)
        path = None if folder is None else folder.path
        self.log = Log(path, self.clock, max(total // LOG_POINTS, env.num_envs), position.step, ledger)
        self.display = Display(total, position.step, position.seconds, progress)
        self._eval_env: VectorEnv | None = None
        self.learnt = False  # whether there was an update
        self._endless = False
        self._probes = True  # that a probe was not refused
        self._probed = False

    def introduce(self) -> None:
        """Draws the agent as a graph, as `agent.svg` and among TensorBoard's images, if there is a run folder.

        Anything that keeps the protocol can be trained; whether it can also be drawn is only said.
        """
        if self.folder is None:
            return
        with self.clock:
            from costgrad.rl.drawing.paint import (
                pictures,
            )  # matplotlib takes a second to import: only where something is drawn

            try:
                svg, png = pictures(describe(self.agent, getattr(self.env, "name", "environment")), "svg", "png")
            except Exception as error:
                self.display.say(f"no drawing: {error}")
                return
            write_bytes(self.folder.path / "agent.svg", svg)
            self.log.add_picture(self.step, "agent", png)

    def observe(self, tick: Tick) -> None:
        """Takes in one tick: a few microseconds."""
        self.step = self.ledger.training = tick.step
        self.learnt = self.learnt or bool(tick.metrics)
        self.log.add(*tick)
        if self.display.due():
            self.display.show(tick.step, self.clock.seconds, self.log.mean_return)

    def can_evaluate(self) -> bool:
        """Whether there is an environment beside the one that trains; says so where there is none."""
        if self._eval_env is None:
            n, seed = min(self.episodes, MAX_AT_ONCE), self.seed + SEED_OFFSET
            try:
                self._eval_env = self.make and self.make(num_envs=n, seed=seed, render_mode=None)
                reason = "the environment has no factory, and a second one is needed"
            except ValueError as error:  # the user's to mend, whichever library says so
                reason = str(error)
            if self._eval_env is None:
                self.display.say(f"no evaluation during training: {reason}")
        return self._eval_env is not None

    def evaluate(self) -> Evaluation | None:
        """Evaluates the policy as it is, in the evaluation environment if there is one; saves `best` and `last`.

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
                self.best = result.mean
                self.save("best")
            self.save("last")
        return result

    def probe(self) -> None:
        """Measures how far C can be trusted; says once what cannot be measured, and leaves that out."""
        if not self._probes:
            return
        with self.clock:
            try:
                found = probe(self.agent, self._fresh, seed=self.seed)
            except UserError as error:
                self._probes = False
                self.display.say(f"no probe of C: {error}")
                return
            if found.reason and not self._probed:
                self.display.say(f"no probe of C's gradient: {found.reason}")
            self._probed = True
            self.ledger.probes += found.steps
            if self.folder is not None:
                self.ledger.write(self.folder.ledger)
            self.log.add_probe(self.step, found)
            self.display.say(f"{self.step:>10,} steps: C: {found}")

    def _fresh(self, **arguments: Any) -> VectorEnv:
        """Further environments. Raises UserError where there are none."""
        if self.make is None:
            raise UserError("the environment has no factory, and a second one is needed")
        try:
            return self.make(**arguments)
        except ValueError as error:  # the user's to mend, whichever library says so
            raise UserError(str(error)) from error

    def save(self, name: str) -> None:
        """Writes checkpoint `name`, if there is a run folder."""
        if self.folder is not None:
            self.folder.save(name, self.agent, Position(self.step, self.clock.seconds, self.best))
            self.ledger.write(self.folder.ledger)

    def draw(self) -> None:
        """Writes the learning curve, if there is a run folder."""
        if self.folder is not None:
            from costgrad.rl.runs.plot import learning_curve  # as in `introduce`

            title = f"{agent_name(self.agent)} on {getattr(self.env, 'name', 'environment')}, seed {self.seed}"
            rows = self.log.training.rows, self.log.evaluations.rows
            learning_curve(self.folder.path / "learning_curve.png", *rows, title)

    def film(self) -> Path | None:
        """Films one episode; a run is not lost for a video, so whatever goes wrong is only said."""
        if self.folder is None or self.make is None:
            return None
        try:
            path = self.folder.path / "video.mp4"
            film = record_video(self.agent, self.make, path, seed=self.seed, ledger=self.ledger)
            self.ledger.write(self.folder.ledger)
            return film
        except Exception as error:
            self.display.say(f"no video: {error}")
            return None

    def close(self) -> None:
        """Closes files and the evaluation environment."""
        self.display.close()
        self.log.close()
        if self._eval_env is not None:
            self._eval_env.close()


def settings(seed: int, env: VectorEnv, total: int, more: Mapping[str, Any] | None) -> dict[str, Any]:
    """What config.json says of a run beside its agent."""
    about = {key: getattr(env, key) for key in ("env_argument", "env_kwargs", "backend") if hasattr(env, key)}
    return about | {"seed": seed, "num_envs": env.num_envs, "total_timesteps": total} | dict(more or {})

"""A generation of candidates among environments: who plays whom, and what it costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from costgrad.rl.checkpoint import restore_generator
from costgrad.rl.data import Step, cost_of, to_numpy
from costgrad.rl.evolution.policies import Policies

Array = np.ndarray
RESTS = -1


class Population:
    """Every environment plays one candidate until its episode ends, and then the next in the queue.

    A generation is over when each of its K candidates has played its episodes, however long they were: each has its
    quota, so that no candidate is preferred for being short. An environment that finds the queue empty rests: it plays
    the centre, and what that costs is nobody's. It joins the next generation with its next episode, for what an episode
    began under one policy says nothing of another. One environment never rests, nor do N whose episodes are equally
    long where N divides the number of episodes.

    Start states are the environments' own: mirrored candidates do not share them.

    Args:
        policies: what the candidates are parameters of.
        episodes: that each candidate plays.
        seed: of the noise.

    Attributes:
        candidates: [K, P] float32.
        played: [K] episodes that have ended.
        idle: share of the generation's environment steps that rested.
    """

    _playing: Array  # [N] which candidate, or RESTS
    _going: Array  # [N] what the episodes under way have cost
    _fresh: Array  # [N] whether the next step may be an episode's first
    _any_fresh: bool
    _rows: Array  # [N, P] parameters of the policies that act

    def __init__(self, policies: Policies, episodes: int, seed: int) -> None:
        self.policies, self.episodes = policies, episodes
        self.generator = torch.Generator().manual_seed(seed)
        self.candidates = np.zeros((0, policies.size), np.float32)
        self._cost = np.zeros(0)  # [K] of all ended episodes together
        self.played = np.zeros(0, np.int64)
        self._steps = np.zeros(2, np.int64)  # of this generation: all, and those that rested
        self.on_reset()

    def noise(self, rows: int) -> Array:
        """Normal noise [rows, P] float32."""
        return to_numpy(torch.randn(rows, self.policies.size, generator=self.generator))

    def start(self, candidates: Array) -> None:
        """A new generation [K, P]; observations are normalised by all that was seen before it."""
        self.candidates = candidates.astype(np.float32)
        self._cost, self.played = np.zeros(len(candidates)), np.zeros(len(candidates), np.int64)
        self._steps[:] = 0
        self.policies.renew()
        self._enqueue()

    def on_reset(self) -> None:
        """Fresh episodes start, perhaps in another number: candidates under way play theirs again."""
        self._seat(0)
        self._enqueue()

    @property
    def done(self) -> bool:
        """Whether all episodes of the generation have ended."""
        return bool((self.played == self.episodes).all())

    @property
    def cost(self) -> Array:
        """The mean cost of an episode of each candidate [K] float64, undiscounted."""
        return self._cost / self.episodes

    @property
    def metrics(self) -> dict[str, Tensor]:
        """Of a generation that is over: mean and least cost of its candidates, the share of steps that rested."""
        steps, rested = self._steps.tolist()
        cost, idle = self.cost, rested / max(steps, 1)
        values = {"candidate_cost": cost.mean(), "cheapest_candidate_cost": cost.min(), "idle": idle}
        return {name: torch.tensor(float(value)) for name, value in values.items()}

    def act(self, obs: Array) -> Array:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D] int64."""
        if not len(self._playing):  # how many there are is known now
            self._seat(len(obs))
        if self._any_fresh:
            self._any_fresh = False
            for i in np.flatnonzero(self._fresh & (self._playing == RESTS)):
                self._playing[i] = self._queue.popleft() if self._queue else RESTS
                resting = self._playing[i] == RESTS
                self._rows[i] = self.policies.center if resting else self.candidates[self._playing[i]]
        return self.policies.act(self.policies.layers(self._rows), obs)

    def observe(self, step: Step) -> None:
        """Adds up what the step cost each candidate, and what the environments show."""
        self.policies.see(step.obs, step.valid)
        self._going += np.where(step.valid, cost_of(step.reward), 0.0)
        self._steps += (step.valid.sum(), (step.valid & (self._playing == RESTS)).sum())
        ended = (step.terminated | step.truncated) & step.valid
        # A reset row is no step of an episode yet: the one behind it starts it.
        self._fresh = ended | ~step.valid
        self._any_fresh = bool(self._fresh.any())
        for i in np.flatnonzero(ended):
            if (k := self._playing[i]) != RESTS:
                self._cost[k] += self._going[i]
                self.played[k] += 1
                self._playing[i] = RESTS
            self._going[i] = 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """The generation with its ended episodes, and the noise to come; episodes under way are not in it."""
        arrays = {"candidates": self.candidates, "cost": self._cost, "played": self.played, "steps": self._steps}
        return {name: torch.from_numpy(a) for name, a in arrays.items()} | {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave. Raises ValueError where it is of another policy or population."""
        if (got := tuple(state_dict["candidates"].shape)) != self.candidates.shape:
            raise ValueError(f"candidates are {got}, not {self.candidates.shape}")
        self.candidates, self._cost, self.played, self._steps = (
            to_numpy(state_dict[name]).copy() for name in ("candidates", "cost", "played", "steps")
        )
        restore_generator(self.generator, state_dict["generator"], int(self.played.sum()))
        self.on_reset()

    def _enqueue(self) -> None:
        """Queues the episodes that have not ended: every candidate's next one, then every candidate's second next."""
        missing = self.episodes - self.played
        turns = range(int(missing.max(initial=0)))
        self._queue = deque(int(k) for turn in turns for k in np.flatnonzero(missing > turn))

    def _seat(self, count: int) -> None:
        """Makes room for N environments, all of them at the start of an episode."""
        self._playing = np.full(count, RESTS)
        self._fresh = np.ones(count, np.bool_)
        self._any_fresh = True
        self._going = np.zeros(count)
        self._rows = np.zeros((count, self.policies.size), np.float32)

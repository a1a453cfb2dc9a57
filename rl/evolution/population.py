"""Rolls out a generation of candidates in parallel environments, and sums up what their episodes cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from costgrad.rl.checkpoint import restore_generator
from costgrad.rl.checks import LARGEST, tensor, within
from costgrad.rl.data import Step, cost_of, to_numpy
from costgrad.rl.evolution.policies import Policies

Array = np.ndarray
IDLE = -1


class Population:
    """Each environment plays one candidate until its episode ends, and then the next one in the queue.

    A generation is complete when each of its K candidates has finished its fixed number of episodes, so that candidates
    with short episodes are not preferred. An environment that finds the queue empty is idle: it plays the centre, and
    that cost is ignored. It joins the next generation with its next episode, because an episode belongs to one policy.
    A single environment is never idle, nor are N with equally long episodes where N divides the number of episodes.

    Mirrored candidates do not share start states.

    Args:
        policies: whose parameters the candidates are.
        episodes: per candidate and generation.
        seed: of the noise.

    Attributes:
        candidates: [K, P] float32.
        played: [K] finished episodes.
    """

    _playing: Array  # [N] index of the candidate, or IDLE
    _episode_cost: Array  # [N] cost so far of the unfinished episodes
    _starts: Array  # [N] whether the next step may be an episode's first
    _any_starts: bool
    _rows: Array  # [N, P] parameters of the policies that act

    def __init__(self, policies: Policies, episodes: int, seed: int) -> None:
        self.policies, self.episodes = policies, episodes
        self.generator = torch.Generator().manual_seed(seed)
        self.candidates = np.zeros((0, policies.size), np.float32)
        self._cost = np.zeros(0)  # [K] sum over finished episodes
        self.played = np.zeros(0, np.int64)
        self._steps = np.zeros(2, np.int64)  # of this generation: all, and idle ones
        self.on_reset()

    def noise(self, rows: int) -> Array:
        """Normal noise [rows, P] float32."""
        return to_numpy(torch.randn(rows, self.policies.size, generator=self.generator))

    def start(self, candidates: Array) -> None:
        """Starts a new generation [K, P]; observations are normalised by the statistics of all earlier ones."""
        self.candidates = candidates.astype(np.float32)
        self._cost, self.played = np.zeros(len(candidates)), np.zeros(len(candidates), np.int64)
        self._steps[:] = 0
        self.policies.renew_norm()
        self._enqueue()

    def on_reset(self) -> None:
        """Called after every reset; restarts the unfinished episodes. num_envs may have changed."""
        self._allocate(0)
        self._enqueue()

    @property
    def done(self) -> bool:
        """Whether all episodes of the generation are finished."""
        return bool((self.played == self.episodes).all())

    @property
    def cost(self) -> Array:
        """The mean undiscounted episode cost of each candidate [K] float64."""
        return self._cost / self.episodes

    @property
    def metrics(self) -> dict[str, Tensor]:
        """Of a complete generation: mean and minimum cost of its candidates, the fraction of idle steps."""
        steps, idle_steps = self._steps.tolist()
        cost, idle = self.cost, idle_steps / max(steps, 1)
        values = {"candidate_cost": cost.mean(), "cheapest_candidate_cost": cost.min(), "idle": idle}
        return {name: torch.tensor(float(value)) for name, value in values.items()}

    def act(self, obs: Array) -> Array:
        """[N, *obs_shape] -> [N, A] in [-1, 1], [N] or [N, D] int64."""
        if not len(self._playing):  # the first call tells num_envs
            self._allocate(len(obs))
        if self._any_starts:
            self._any_starts = False
            for i in np.flatnonzero(self._starts & (self._playing == IDLE)):
                self._playing[i] = self._queue.popleft() if self._queue else IDLE
                idle = self._playing[i] == IDLE
                self._rows[i] = self.policies.center if idle else self.candidates[self._playing[i]]
        return self.policies.act(self.policies.layers(self._rows), obs)

    def observe(self, step: Step) -> None:
        """Adds the costs of a step to the candidates, and its observations to the statistics."""
        self.policies.record_obs(step.obs, step.valid)
        self._episode_cost += np.where(step.valid, cost_of(step.reward), 0.0)
        self._steps += (step.valid.sum(), (step.valid & (self._playing == IDLE)).sum())
        self._episode_cost[~step.valid] = 0.0  # one that was cut off is played again by the same candidate
        ended = (step.terminated | step.truncated) & step.valid
        # A reset row is not part of an episode: the step after it is the first one.
        self._starts = ended | ~step.valid
        self._any_starts = bool(self._starts.any())
        for i in np.flatnonzero(ended):
            if (k := self._playing[i]) != IDLE:
                self._cost[k] += self._episode_cost[i]
                self.played[k] += 1
                self._playing[i] = IDLE
            self._episode_cost[i] = 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """The generation with its finished episodes and those under way, and the generator of the noise."""
        arrays = {"candidates": self.candidates, "cost": self._cost, "played": self.played, "steps": self._steps}
        arrays |= {"playing": self._playing, "episode_cost": self._episode_cost, "starts": self._starts}
        arrays |= {"rows": self._rows, "queue": np.array(self._queue, np.int64)}
        return {name: torch.from_numpy(a) for name, a in arrays.items()} | {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned. Raises ValueError if it is of another policy or population."""
        self._check(state_dict)
        self.candidates, self._cost, self.played, self._steps = (
            to_numpy(state_dict[name]).copy() for name in ("candidates", "cost", "played", "steps")
        )
        restore_generator(self.generator, state_dict["generator"], int(self.played.sum()))
        self.on_reset()
        if "playing" in state_dict:  # else it is older than runs that go on within their episodes
            self._playing, self._episode_cost, self._starts, self._rows = (
                to_numpy(state_dict[name]).copy() for name in ("playing", "episode_cost", "starts", "rows")
            )
            self._any_starts = bool(self._starts.any()) or not len(self._starts)
            self._queue = deque(state_dict["queue"].tolist())

    def _check(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError where a saved generation is not of this policy and population, or damaged."""
        (count, size), ints = self.candidates.shape, torch.int64
        tensor(state, "candidates", torch.float32, [count, size])
        tensor(state, "cost", torch.float64, [count])
        within(tensor(state, "played", ints, [count]), "played", 0, self.episodes)
        within(tensor(state, "steps", ints, [2]), "steps", 0, LARGEST)
        tensor(state, "generator", torch.uint8, [None])
        if "playing" not in state:
            return
        playing = tensor(state, "playing", ints, [None])
        within(playing, "playing", IDLE, count - 1)
        envs, queue = len(playing), tensor(state, "queue", ints, [None])
        tensor(state, "episode_cost", torch.float64, [envs])
        tensor(state, "starts", torch.bool, [envs])
        tensor(state, "rows", torch.float32, [envs, size])
        within(queue, "queue", 0, count - 1)
        # Each candidate's episodes are played, under way or in the queue.
        due = torch.bincount(torch.cat((playing[playing != IDLE], queue)), minlength=count) + state["played"]
        if bool((due != self.episodes).any()):
            raise ValueError(f"its candidates do not have {self.episodes} episodes each")

    def _enqueue(self) -> None:
        """Queues the missing episodes: the next one of every candidate, then the second next, and so on."""
        missing = self.episodes - self.played
        turns = range(int(missing.max(initial=0)))
        self._queue = deque(int(k) for turn in turns for k in np.flatnonzero(missing > turn))

    def _allocate(self, count: int) -> None:
        """Allocates for N environments, all of them at the start of an episode."""
        self._playing = np.full(count, IDLE)
        self._starts = np.ones(count, np.bool_)
        self._any_starts = True
        self._episode_cost = np.zeros(count)
        self._rows = np.zeros((count, self.policies.size), np.float32)

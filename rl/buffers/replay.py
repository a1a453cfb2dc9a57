"""The replay buffer of off-policy agents: a ring buffer of transitions, allocated once, with raw observations.

Sampling is uniform, or in proportion to the errors of C: prioritised experience replay (PER; Schaul et al. 2016,
1511.05952).

n-step returns are computed when a batch is sampled (Sutton & Barto 2018, section 7.1, with episode ends), so the buffer
holds single transitions, whatever n is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import psutil
import torch
from torch import Tensor

from costgrad.rl.buffers.hindsight import NONE, Hindsight
from costgrad.rl.buffers.saved import BESIDE, check_replay
from costgrad.rl.buffers.sum_tree import SumTree
from costgrad.rl.data import Batch, Step, cost_of, to_numpy
from costgrad.rl.errors import UserError

GIB = 2**30
SPARE = 0.9  # fraction of the free memory that a buffer may take
MIN_ERROR = 1e-6  # added to absolute errors, so that every row can be sampled


class Replay:
    """The newest transitions, sampled in batches.

    Each row links to the next row of its episode. Rows that are not valid are stored too, but never sampled.

    Args:
        capacity: buffer size in transitions.
        gamma: discount of a step.
        n_step: n of n-step returns; fewer steps where an episode or the buffer ends.
        seed: of the sampling.
        priority: alpha of PER: sampling probabilities are proportional to |error|^alpha; 0 is uniform.
        correction: beta of PER, from 0 to 1: exponent of the importance weights that correct the sampling bias.
        hindsight: relabels goals (hindsight experience replay); None does not.
    """

    def __init__(
        self,
        capacity: int,
        gamma: float,
        n_step: int = 1,
        seed: int = 0,
        priority: float = 0.0,
        correction: float = 0.4,
        hindsight: Hindsight | None = None,
    ) -> None:
        self.capacity, self.gamma, self.n_step = capacity, gamma, n_step
        self.priority, self.correction, self.hindsight = priority, correction, hindsight
        self.tree: SumTree | None = None  # with priorities only
        self.largest = 1.0  # largest priority so far, given to new rows
        self.generator = torch.Generator().manual_seed(seed)
        self.size = self.next = 0  # number of filled rows, and the row to write next
        self.columns: dict[str, Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}  # of the same memory
        self._newest = np.empty(0, np.int64)  # the rows of the last step, whose episodes may continue

    def on_reset(self) -> None:
        """Called after every reset; the next step starts new episodes. num_envs may have changed."""
        self._newest = self._newest[:0]
        if self.hindsight is not None:
            self.hindsight.on_reset()

    def add(self, step: Step) -> None:
        """Copies one vector step into the buffer, over the oldest rows when it is full.

        Raises:
            UserError: at the first step, if there is too little free memory or more environments than rows; or
                with hindsight, if the environment's rewards differ from `compute_reward`.
        """
        if not self.columns:
            if len(step.reward) > self.capacity:
                raise UserError(
                    f"buffer_size must be at least the number of environments, {len(step.reward)}: {self.capacity}"
                )
            like = {"obs": step.obs, "action": step.action, "next_obs": step.next_obs, "cost": np.empty(0, np.float32)}
            like |= {"following": np.empty(0, np.int64), "terminated": step.terminated, "valid": step.valid}
            like |= {"episode": np.empty(0, np.int64)} if self.hindsight is not None else {}
            self._allocate(like, self.capacity)
        arrays, count = self._arrays, len(step.reward)
        row = np.arange(self.next, self.next + count) % self.capacity
        arrays["obs"][row], arrays["action"][row], arrays["next_obs"][row] = step.obs, step.action, step.next_obs
        arrays["cost"][row], arrays["terminated"][row] = cost_of(step.reward), step.terminated
        if len(self._newest) == count:
            arrays["following"][self._newest] = np.where(step.valid, row, NONE)
        arrays["valid"][row], arrays["following"][row] = step.valid, NONE  # last: a small buffer overwrites the newest
        self._newest = np.where(step.terminated | step.truncated, self.capacity, row)  # a spare row that is never read
        if self.tree is not None:
            self.tree.set(row, self.largest * step.valid)
        if self.hindsight is not None:
            self.hindsight.add(arrays["episode"], row, step)
        self.next = (self.next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, rows: int) -> Batch:
        """Samples a batch of B `rows` with replacement; the buffer must hold a valid transition."""
        indices = self.draw(rows)
        if self.hindsight is None:
            return self.batch(indices)
        return self.batch(indices, self.hindsight.goal(self.columns, indices, self.generator))

    def draw(self, rows: int) -> Tensor:
        """Samples indices [B] int64 of valid transitions."""
        if self.tree is not None:
            share = torch.rand(rows, generator=self.generator, dtype=torch.float64)
            return torch.from_numpy(self.tree.draw(share.numpy()))
        indices = torch.randint(self.size, (rows,), generator=self.generator)
        column = self.columns["valid"]
        while not bool((valid := column.index_select(0, indices)).all()):  # reset rows, at most one per episode
            indices = torch.where(valid, indices, torch.randint(self.size, (rows,), generator=self.generator))
        return indices

    def batch(self, indices: Tensor, goal: Tensor | None = None) -> Batch:
        """The n-step transitions that start at `indices` [B]; the first M under new goals [M, G].

        cost = sum_j gamma^j c_{t+j} and discount = gamma^k over k <= n steps: the sum stops at an episode's end and at
        the newest step of the buffer; discount is 0 only where the task terminated.
        """
        select = {name: column.index_select for name, column in self.columns.items()}  # a third of the time of indexing
        (cost, terminated), last = self._cost_and_terminated(indices, goal), indices
        discount = torch.full_like(cost, self.gamma)
        for _ in range(self.n_step - 1):
            following = select["following"](0, last)
            continues = (following != NONE) & ~terminated
            if not bool(continues.any()):
                break
            last = torch.where(continues, following, last)
            next_cost, terminated = self._cost_and_terminated(last, goal)
            cost = cost + torch.where(continues, discount * next_cost, 0.0)
            discount = torch.where(continues, discount * self.gamma, discount)
        discount = discount * ~terminated
        obs, next_obs = select["obs"](0, indices), select["next_obs"](0, last)
        if self.hindsight is not None and goal is not None:
            self.hindsight.set_goal(goal, obs)
            self.hindsight.set_goal(goal, next_obs)
        return Batch(obs, select["action"](0, indices), cost, discount, next_obs, self._weight(indices), indices)

    def _cost_and_terminated(self, row: Tensor, goal: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cost [B] and terminated [B] of rows."""
        if self.hindsight is not None and goal is not None:
            return self.hindsight.relabelled(self.columns, row, goal)
        return self.columns["cost"].index_select(0, row), self.columns["terminated"].index_select(0, row)

    def prioritise(self, indices: Tensor, square: Tensor) -> None:
        """Updates the priorities of the rows of a batch; does nothing without priorities.

        Args:
            indices: [B] of the batch.
            square: [B] squared errors of C.
        """
        if self.tree is not None:
            weight = (to_numpy(square).astype(np.float64) ** 0.5 + MIN_ERROR) ** self.priority
            self.largest = max(self.largest, float(weight.max()))
            self.tree.set(to_numpy(indices), weight)

    def _weight(self, indices: Tensor) -> Tensor:
        """Importance weights (size P(i))^-beta over the batch's maximum, over B: [B] -> [B] (1511.05952, 3.4)."""
        if self.tree is None:
            return torch.full((len(indices),), 1 / len(indices))
        probability = self.tree.weight(indices.numpy()) / self.tree.total
        weight = (self.size * probability) ** -self.correction
        return torch.from_numpy(weight / (weight.max() * len(weight))).float()

    def state_dict(self) -> dict[str, Tensor]:
        """The filled rows, the position, and the rows from which the episodes under way continue."""
        position = torch.tensor([self.next, self.size])
        filled = {name: column[: self.size] for name, column in self.columns.items()}
        if self.tree is not None:
            filled["priority"] = torch.from_numpy(self.tree.weight(np.arange(self.size)))
        largest = torch.tensor(self.largest, dtype=torch.float64)
        beside = {"position": position, "largest": largest, "generator": self.generator.get_state()}
        beside["newest"] = torch.from_numpy(self._newest)
        if self.hindsight is not None:
            beside["episodes"] = torch.from_numpy(self.hindsight.current)
        return filled | beside

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            UserError: there is not enough free memory for the filled rows.
            ValueError: the saved buffer had another capacity, or is damaged.
        """
        check_replay(state_dict, self.capacity, self.tree is not None or self.priority > 0, self.hindsight is not None)
        self.generator.set_state(state_dict["generator"])
        self.next, self.size = state_dict["position"].tolist()
        self.largest = float(state_dict["largest"].numpy())
        filled = {name: value for name, value in state_dict.items() if name not in BESIDE}
        self.columns, self._arrays, self.tree = {}, {}, None
        if filled:
            self._allocate({name: value.numpy() for name, value in filled.items()}, self.size)
        for name, value in filled.items():
            self.columns[name][: self.size] = value
        if self.tree is not None:
            self.tree.set(np.arange(self.size), state_dict["priority"].numpy())
        if self.hindsight is not None and self.size:
            self.hindsight.restore(*(self._arrays[name][: self.size] for name in ("episode", "following")))
        self.on_reset()
        if "newest" in state_dict:  # else the buffer is older than runs that go on within their episodes
            self._newest = state_dict["newest"].numpy().copy()
        if self.hindsight is not None and "episodes" in state_dict:
            self.hindsight.current = state_dict["episodes"].numpy().copy()

    def _allocate(self, like: Mapping[str, np.ndarray], rows: int) -> None:
        """Allocates columns with shapes and dtypes of `like`. Raises UserError if `rows` rows do not fit."""
        row = sum(value.itemsize * int(np.prod(value.shape[1:])) for value in like.values())
        needed = rows * (row + (SumTree.ROW if self.priority else 0))
        free = psutil.virtual_memory().available
        if needed > SPARE * free:
            raise UserError(
                f"a replay of {rows:,} transitions takes {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free: "
                "lower buffer_size"
            )
        try:
            self._arrays = {
                name: np.empty((self.capacity + 1, *value.shape[1:]), value.dtype) for name, value in like.items()
            }
            self.tree = SumTree(self.capacity) if self.priority else None
        except (MemoryError, OverflowError, ValueError) as error:
            raise UserError(f"there is no memory for a replay of {self.capacity:,} transitions: {error}") from error
        self.columns = {name: torch.from_numpy(array) for name, array in self._arrays.items()}

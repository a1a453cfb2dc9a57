"""The memory of an off-policy agent: a ring of transitions, allocated once, its observations as they came.

Rows are drawn with equal chances, or in proportion to how far C was off them (Schaul et al. 2016, 1511.05952).

Several steps are folded into one when a batch is drawn (Sutton & Barto 2018, section 7.1, with endings), so the ring
holds plain transitions and any n can be read from it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import psutil
import torch
from torch import Tensor

from costgrad.rl.buffers.hindsight import NONE, Hindsight
from costgrad.rl.buffers.sum_tree import SumTree
from costgrad.rl.data import Batch, Step, cost_of, to_numpy
from costgrad.rl.errors import UserError

GIB = 2**30
SPARE = 0.9  # share of the machine's free memory that a replay may take
LEAST = 1e-6  # added to an error, so that no row is forgotten


class Replay:
    """The newest transitions, and batches of them.

    A row knows the row that its episode went on with. A reset row lies in the ring too, but is never drawn.

    Args:
        capacity: transitions.
        gamma: discount of a step.
        n_step: n, the steps that one row of a batch spans; fewer where an episode or the ring ends.
        seed: decides what is drawn.
        priority: alpha: a row's chance is proportional to its error to this power; 0 makes chances equal.
        correction: beta: how much of the bias that unequal chances bring is taken back by weights, from 0 to 1.
        hindsight: gives rows of a batch other goals; None leaves them.
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
        self.tree: SumTree | None = None  # where there are priorities
        self.largest = 1.0  # weight so far: what a new row gets, so that each is soon seen
        self.generator = torch.Generator().manual_seed(seed)
        self.size = self.next = 0  # rows that are filled, and the row that is written next
        self.columns: dict[str, Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}  # the same memory
        self._newest = np.empty(0, np.int64)  # the rows of the step before, whose episodes may go on

    def on_reset(self) -> None:
        """Fresh episodes start, perhaps in another number: nothing goes on from the newest step."""
        self._newest = self._newest[:0]
        if self.hindsight is not None:
            self.hindsight.on_reset()

    def add(self, step: Step) -> None:
        """Copies one vector step in, over the oldest rows where the ring is full.

        Raises:
            UserError: at the first step, if the machine has not got the memory or more environments than rows step, or
                if goals are to be replaced and the environment's rewards are not those of its goals.
        """
        if not self.columns:
            if len(step.reward) > self.capacity:
                raise UserError(
                    f"capacity must be at least the number of environments, {len(step.reward)}: {self.capacity}"
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
            arrays["following"][self._newest] = row
        arrays["valid"][row], arrays["following"][row] = step.valid, NONE  # last: a small ring overwrites the newest
        self._newest = np.where(step.terminated | step.truncated, self.capacity, row)  # a spare row: nobody reads it
        if self.tree is not None:
            self.tree.set(row, self.largest * step.valid)
        if self.hindsight is not None:
            self.hindsight.add(arrays["episode"], row, step)
        self.next = (self.next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, rows: int) -> Batch:
        """Draws a batch of B `rows`, with replacement; at least one transition that counts must be in."""
        place = self.draw(rows)
        if self.hindsight is None:
            return self.batch(place)
        return self.batch(place, self.hindsight.goal(self.columns, place, self.generator))

    def draw(self, rows: int) -> Tensor:
        """Places [B] int64 of transitions that count."""
        if self.tree is not None:
            share = torch.rand(rows, generator=self.generator, dtype=torch.float64)
            return torch.from_numpy(self.tree.draw(share.numpy()))
        place = torch.randint(self.size, (rows,), generator=self.generator)
        valid = self.columns["valid"]
        while not bool((counts := valid.index_select(0, place)).all()):  # a reset row: once an episode at most
            place = torch.where(counts, place, torch.randint(self.size, (rows,), generator=self.generator))
        return place

    def batch(self, place: Tensor, goal: Tensor | None = None) -> Batch:
        """The transitions that start at `place` [B], each over up to n steps; the first M for other goals [M, G].

        cost = sum_j gamma^j c_{t+j} and discount = gamma^k over k <= n steps: an ending of the episode and the newest
        step of the ring end the sum; discount is 0 only where the task terminated.
        """
        kept = {name: column.index_select for name, column in self.columns.items()}  # a third of what indexing takes
        (cost, ended), last = self._told(place, goal), place
        discount = torch.full_like(cost, self.gamma)
        for _ in range(self.n_step - 1):
            following = kept["following"](0, last)
            goes_on = (following != NONE) & ~ended
            if not bool(goes_on.any()):
                break
            last = torch.where(goes_on, following, last)
            more, ended = self._told(last, goal)
            cost = cost + torch.where(goes_on, discount * more, 0.0)
            discount = torch.where(goes_on, discount * self.gamma, discount)
        discount = discount * ~ended
        obs, next_obs = kept["obs"](0, place), kept["next_obs"](0, last)
        if self.hindsight is not None and goal is not None:
            self.hindsight.put(goal, obs)
            self.hindsight.put(goal, next_obs)
        return Batch(obs, kept["action"](0, place), cost, discount, next_obs, self._weight(place), place)

    def _told(self, row: Tensor, goal: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cost [B] and terminated [B] of rows."""
        if self.hindsight is not None and goal is not None:
            return self.hindsight.told(self.columns, row, goal)
        return self.columns["cost"].index_select(0, row), self.columns["terminated"].index_select(0, row)

    def prioritise(self, place: Tensor, square: Tensor) -> None:
        """Tells how far C was off the rows of a batch.

        Args:
            place: [B] as the batch has it.
            square: [B] squared errors of C.
        """
        if self.tree is not None:
            weight = (to_numpy(square).astype(np.float64) ** 0.5 + LEAST) ** self.priority
            self.largest = max(self.largest, float(weight.max()))
            self.tree.set(to_numpy(place), weight)

    def _weight(self, place: Tensor) -> Tensor:
        """What each row counts in a batch: (size P(i))^-beta over the largest of the batch, over B (eq. 2 there)."""
        if self.tree is None:
            return torch.full((len(place),), 1 / len(place))
        chance = self.tree.weight(place.numpy()) / self.tree.total
        weight = (self.size * chance) ** -self.correction
        return torch.from_numpy(weight / (weight.max() * len(weight))).float()

    def state_dict(self) -> dict[str, Tensor]:
        """What is filled, and where the ring stands; nothing goes on from the newest step of a replay taken up."""
        position = torch.tensor([self.next, self.size])
        filled = {name: column[: self.size] for name, column in self.columns.items()}
        if self.tree is not None:
            filled["priority"] = torch.from_numpy(self.tree.weight(np.arange(self.size)))
        largest = torch.tensor(self.largest, dtype=torch.float64)
        return filled | {"position": position, "largest": largest, "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave.

        Raises:
            UserError: the machine has not got the memory of the rows that are filled.
            ValueError: they are of a ring of another capacity.
        """
        self.generator.set_state(state_dict["generator"])
        self.next, self.size = state_dict["position"].tolist()
        if self.size > self.capacity or (self.size < self.capacity and self.next != self.size):
            raise ValueError(f"its replay had another capacity than {self.capacity:,}")
        self.largest = float(state_dict["largest"].numpy())
        beside = ("position", "largest", "generator", "priority")
        filled = {name: value for name, value in state_dict.items() if name not in beside}
        self.columns, self._arrays, self.tree = {}, {}, None
        if filled:
            self._allocate({name: value.numpy() for name, value in filled.items()}, self.size)
        for name, value in filled.items():
            self.columns[name][: self.size] = value
        if self.tree is not None:
            self.tree.set(np.arange(self.size), state_dict["priority"].numpy())
        if self.hindsight is not None and self.size:
            self.hindsight.take_up(*(self._arrays[name][: self.size] for name in ("episode", "following")))
        self.on_reset()

    def _allocate(self, like: Mapping[str, np.ndarray], rows: int) -> None:
        """Makes columns of rows like those of some arrays. Raises UserError where so many do not fit in memory."""
        row = sum(value.itemsize * int(np.prod(value.shape[1:])) for value in like.values())
        needed = rows * (row + (SumTree.ROW if self.priority else 0))
        free = psutil.virtual_memory().available
        if needed > SPARE * free:
            raise UserError(
                f"a replay of {rows:,} transitions takes {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free: "
                "lower its capacity"
            )
        self._arrays = {
            name: np.empty((self.capacity + 1, *value.shape[1:]), value.dtype) for name, value in like.items()
        }
        self.columns = {name: torch.from_numpy(array) for name, array in self._arrays.items()}
        self.tree = SumTree(self.capacity) if self.priority else None

"""Rows drawn in proportion to weights that change: a complete binary tree of sums, in one array."""

from __future__ import annotations

import numpy as np


class SumTree:
    """Weights of rows; a parent holds the sum of its two children, so that a draw costs one step a level.

    Args:
        rows: how many; their weights start at 0.
    """

    ROW = 32  # bytes that a row takes, at most

    def __init__(self, rows: int) -> None:
        self.leaves = 1 << max(rows - 1, 0).bit_length()
        self.sums = np.zeros(2 * self.leaves)  # node k has the children 2k and 2k + 1; the root is 1

    @property
    def total(self) -> float:
        """Of all weights."""
        return float(self.sums[1])

    def weight(self, row: np.ndarray) -> np.ndarray:
        """Of rows [B] -> [B]."""
        return self.sums[row + self.leaves]

    def set(self, row: np.ndarray, weight: np.ndarray | float) -> None:
        """Gives rows [B] new weights [B]; of a row that stands twice in them, the last counts."""
        node = row + self.leaves
        self.sums[node] = weight
        while (node := np.unique(node // 2))[0]:
            self.sums[node] = self.sums[2 * node] + self.sums[2 * node + 1]

    def draw(self, share: np.ndarray) -> np.ndarray:
        """The row at each share [B] in [0, 1) of the total: uniform shares draw rows in proportion to their weights."""
        rest, node = share * self.total, np.ones(len(share), dtype=np.int64)
        while node[0] < self.leaves:
            left = self.sums[2 * node]
            # A right side of weight 0 is never entered, whatever rounding has made of the rest.
            right = (rest >= left) & (self.sums[2 * node + 1] > 0)
            rest = np.where(right, rest - left, rest)
            node = 2 * node + right
        return node - self.leaves

"""A sum tree: sampling in proportion to changing weights (prioritised experience replay)."""

from __future__ import annotations

import numpy as np


class SumTree:
    """A complete binary tree in one array: a parent is the sum of its two children. A draw takes O(log rows).

    Args:
        rows: number of weights, which start at 0.
    """

    ROW = 32  # bytes per row, at most

    def __init__(self, rows: int) -> None:
        self.leaves = 1 << max(rows - 1, 0).bit_length()
        self.sums = np.zeros(2 * self.leaves)  # node k has the children 2k and 2k + 1; the root is 1

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self.sums[1])

    def weight(self, row: np.ndarray) -> np.ndarray:
        """Weights of rows: [B] -> [B]."""
        return self.sums[row + self.leaves]

    def set(self, row: np.ndarray, weight: np.ndarray | float) -> None:
        """Sets the weights [B] of rows [B]; for a repeated row the last one counts."""
        node = row + self.leaves
        self.sums[node] = weight
        while (node := np.unique(node // 2))[0]:
            self.sums[node] = self.sums[2 * node] + self.sums[2 * node + 1]

    def draw(self, share: np.ndarray) -> np.ndarray:
        """The rows at fractions `share` [B] in [0, 1) of the total; uniform ones sample by the weights."""
        remainder, node = share * self.total, np.ones(len(share), dtype=np.int64)
        while node[0] < self.leaves:
            left = self.sums[2 * node]
            # A right child of weight 0 is never chosen, whatever the rounding error of the remainder.
            right = (remainder >= left) & (self.sums[2 * node + 1] > 0)
            remainder = np.where(right, remainder - left, remainder)
            node = 2 * node + right
        return node - self.leaves

"""The layout of an agent's diagram: positions of its parts, and routes of the lines between them.

Lengths are in drawing units; (0, 0) is at the lower left.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from costgrad.rl.drawing.describe import Edge

Point = tuple[float, float]


class Place(NamedTuple):
    """Centre and size of a part."""

    x: float
    y: float
    width: float
    height: float


PLACES = {
    "obs": Place(0.95, 5.2, 0.9, 0.9),
    "norm": Place(2.65, 5.2, 1.5, 1.5),
    "actor": Place(5.35, 5.2, 3.0, 2.2),
    "policy": Place(8.15, 5.2, 1.7, 1.9),
    "noise": Place(8.15, 7.0, 0.8, 0.8),
    "action": Place(10.1, 5.2, 0.9, 0.9),
    "env": Place(10.1, 8.3, 3.4, 1.4),
    "reward": Place(12.85, 8.3, 0.9, 0.9),
    "memory": Place(15.0, 8.3, 2.2, 1.4),
    "critic": Place(12.4, 2.2, 3.0, 2.2),
    "value": Place(15.1, 2.2, 0.9, 0.9),
    "cost": Place(15.1, 3.75, 0.9, 0.9),
    "advantage": Place(17.5, 3.55, 0.9, 0.9),
    "score": Place(17.5, 4.95, 1.0, 0.9),
    "target": Place(19.9, 8.3, 3.6, 1.5),
    "target_critic": Place(13.9, 5.2, 2.6, 1.5),
    "fit": Place(20.7, 5.2, 0.9, 0.9),
    "perturbation": Place(5.35, 2.2, 0.9, 0.9),
    "episodes": Place(14.9, 8.3, 0.9, 0.9),
    "estimate": Place(8.6, 2.2, 3.0, 1.4),
}
LEFTWARD = {"estimate"}  # parts that point to the left
# Captions of circles and squares: offset from the centre, horizontal and vertical alignment.
CAPTIONS: dict[str, tuple[float, float, str, str]] = {
    "obs": (0.0, -0.6, "center", "top"),
    "noise": (-0.55, 0.0, "right", "center"),
    "action": (0.55, 0.7, "left", "center"),
    "reward": (0.0, -0.6, "center", "top"),
    "value": (0.0, -0.58, "center", "top"),
    "cost": (0.6, 0.2, "left", "bottom"),
    "advantage": (-0.15, -0.45, "right", "top"),
    "score": (0.0, 0.6, "center", "bottom"),
    "fit": (0.6, 0.2, "left", "bottom"),
    "perturbation": (-0.6, 0.0, "right", "center"),
    "episodes": (0.0, 0.6, "center", "bottom"),
}
# Corner points of lines that are not straight, both ends included.
ROUTES: dict[tuple[str, str], tuple[Point, ...]] = {
    ("env", "obs"): ((8.4, 8.3), (1.1, 8.3), (1.1, 5.67)),
    ("memory", "obs"): ((15.0, 9.0), (15.0, 9.5), (0.8, 9.5), (0.8, 5.67)),
    ("norm", "critic"): ((2.65, 4.45), (2.65, 1.8), (10.9, 1.8)),
    ("obs", "critic"): ((2.65, 5.2), (2.65, 1.8), (10.9, 1.8)),
    ("action", "critic"): ((10.2, 4.76), (10.2, 2.7), (10.9, 2.7)),
    ("critic", "action"): ((10.9, 2.4), (9.95, 2.4), (9.95, 4.78)),
    ("policy", "cost"): ((8.0, 4.25), (8.0, 3.9), (14.65, 3.9)),
    ("cost", "policy"): ((14.65, 3.6), (7.7, 3.6), (7.7, 4.25)),
    ("action", "score"): ((10.55, 5.25), (17.0, 5.25)),
    ("score", "policy"): ((17.0, 4.6), (8.98, 4.6)),
    ("value", "advantage"): ((15.47, 2.45), (17.5, 2.45), (17.5, 3.1)),
    ("target", "advantage"): ((18.45, 7.55), (18.45, 3.55), (17.95, 3.55)),
    ("value", "target"): ((15.47, 2.45), (18.9, 2.45), (18.9, 7.55)),
    ("value", "fit"): ((15.55, 2.18), (19.35, 2.18), (19.35, 5.2), (20.25, 5.2)),
    ("target", "fit"): ((20.7, 7.55), (20.7, 5.65)),
    ("fit", "value"): ((20.7, 4.75), (20.7, 1.9), (15.44, 1.9)),
    ("memory", "target_critic"): ((14.4, 7.6), (14.4, 6.1)),
    ("critic", "target_critic"): ((13.2, 3.3), (13.2, 4.45)),
    ("target_critic", "target"): ((15.2, 5.2), (18.45, 5.2), (18.45, 7.55)),
    ("episodes", "estimate"): ((14.9, 7.85), (14.9, 3.9), (9.0, 3.9), (9.0, 2.9)),
    ("perturbation", "estimate"): ((5.35, 1.75), (5.35, 1.25), (9.2, 1.25), (9.2, 1.5)),
    ("estimate", "actor"): ((7.1, 2.2), (6.4, 2.2), (6.4, 4.1)),
}
LABELS: dict[tuple[str, str], tuple[float, float, str]] = {  # where it is not above the longest segment
    ("memory", "target_critic"): (14.55, 7.0, "left"),
    ("target_critic", "target"): (16.9, 5.32, "center"),
    ("action", "score"): (13.2, 5.33, "center"),
    ("episodes", "estimate"): (12.0, 4.02, "center"),
}


def route(edge: Edge, shift: float) -> Sequence[Point]:
    """Corner points of an edge's line, both ends included; a straight one is offset sideways by `shift`."""
    known = ROUTES.get((edge.source, edge.target))
    return known or _straight(PLACES[edge.source], PLACES[edge.target], shift)


def label_at(edge: Edge, points: Sequence[Point]) -> tuple[float, float, str]:
    """Position of an edge's label: x, y of its lower side, and the horizontal alignment."""
    return LABELS.get((edge.source, edge.target)) or _beside(points)


def _straight(source: Place, target: Place, shift: float) -> tuple[Point, Point]:
    """From side to side; the two directions are parallel lines."""
    if abs(source.y - target.y) < abs(source.x - target.x):
        sign = 1 if target.x > source.x else -1
        y = source.y + shift
        return (source.x + sign * source.width / 2, y), (target.x - sign * target.width / 2, y)
    sign = 1 if target.y > source.y else -1
    x = target.x + shift
    return (x, source.y + sign * source.height / 2), (x, target.y - sign * target.height / 2)


def _beside(points: Sequence[Point]) -> tuple[float, float, str]:
    """Above the longest segment of a line."""
    pairs = pairwise(points)
    (x0, y0), (x1, y1) = max(pairs, key=lambda pair: abs(pair[0][0] - pair[1][0]) + abs(pair[0][1] - pair[1][1]))
    return (x0 + x1) / 2, max(y0, y1) + 0.1, "center"

"""The shapes of a diagram: circles, rounded blocks, squares, a black box, buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D

from costgrad.rl.drawing.describe import Node
from costgrad.rl.drawing.layout import CAPTIONS, LEFTWARD, PLACES, Place

INK, GREY, PALE, RED, SOFT = "#1f2933", "#c3cad3", "#eaf0f7", "#cf3a3a", "#5f6b78"
SCALE = 0.6  # inches per unit
SMALL = 8.0  # font size in points


class Paper:
    """A figure without axes, which are slow; lengths are in units."""

    def __init__(self, figure: Figure) -> None:
        self.figure, self.transform = figure, Affine2D().scale(SCALE) + figure.dpi_scale_trans

    def add(self, artist: Artist) -> None:
        """Adds an artist."""
        artist.set_transform(self.transform)
        self.figure.add_artist(artist)

    def line(self, x: Sequence[float], y: Sequence[float], colour: str, **more: Any) -> None:
        """Draws a straight line, or a marker."""
        self.add(Line2D(x, y, color=colour, **more))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        side: str = "center",
        level: str = "center",
        colour: str = INK,
        **more: Any,
    ) -> None:
        """Adds text; `side` and `level` are matplotlib's alignments, `size` is in points."""
        more |= {"size": size, "ha": side, "va": level, "color": colour, "transform": self.transform}
        self.figure.text(x, y, text, zorder=6, linespacing=1.25, **more)


def draw_node(paper: Paper, node: Node) -> None:
    """Draws a node and its caption."""
    place, shape = PLACES[node.key], _SHAPES.get(node.kind, _variable)
    shape(paper, node, place)
    if node.key in CAPTIONS:
        dx, dy, side, level = CAPTIONS[node.key]
        paper.text(place.x + dx, place.y + dy, "\n".join(node.lines), SMALL, side, level)


def _variable(paper: Paper, node: Node, place: Place) -> None:
    """A circle, filled if observed; or a square for a cost, with its scalar output."""
    x, y = place.x, place.y
    if node.kind != "cost":
        fill = GREY if node.kind == "observed" else "white"
        paper.add(Circle((x, y), place.width / 2, fc=fill, ec=INK, lw=1.3, zorder=4))
        paper.text(x, y, node.name, 12, style="italic")
        return
    paper.add(rectangle(place, RED, "#8f1f1f"))
    paper.line([x + place.width / 2, x + place.width / 2 + 0.22], [y, y], RED, lw=1.6, zorder=4)
    paper.add(Circle((x + place.width / 2 + 0.28, y), 0.07, fc="white", ec=RED, lw=1.3, zorder=5))
    paper.text(x, y, node.name, 9 if len(node.name) < 5 else SMALL, colour="white", weight="bold")


def _function(paper: Paper, node: Node, place: Place) -> None:
    left = node.key in LEFTWARD
    for i in reversed(range(min(node.copies, 3))):
        paper.add(block(place.x - 0.1 * i, place.y + 0.12 * i, place.width - 0.2 * i, place.height, left))
    x, top = place.x + (0.12 if left else -0.1), place.y + 0.135 * len(node.lines)
    paper.text(x, top, node.name, 10, weight="bold")
    paper.text(x, top - 0.2, "\n".join(node.lines), SMALL, level="top")


def _network(paper: Paper, node: Node, place: Place) -> None:
    """A frame with one rounded block per layer, labelled by its width; an ensemble is a stack of frames."""
    for i in reversed(range(min(node.copies, 3))):
        box = FancyBboxPatch(
            (place.x - place.width / 2 + 0.1 * i, place.y - place.height / 2 + 0.12 * i),
            *(place.width - 0.2 * i, place.height),
            boxstyle="round,pad=0,rounding_size=0.15",
            fc="#f7f9fc",
            ec=SOFT,
            lw=1,
            zorder=3,
        )
        paper.add(box)
    members = f", {node.copies} members" if node.copies > 1 else ""
    paper.text(place.x, place.y + 0.82, node.name + members, 10, weight="bold")
    for line, y in zip(node.lines, (0.53, -0.85), strict=False):
        paper.text(place.x, place.y + y, line, SMALL)
    widths = [str(width) for width in node.layers]
    shown = widths if len(widths) <= 5 else [*widths[:3], "...", widths[-1]]
    room = (place.width - 0.3) / max(len(shown), 1)
    for i, width in enumerate(shown):
        x = place.x + room * (i - (len(shown) - 1) / 2)
        paper.add(block(x, place.y - 0.15, min(room - 0.1, 0.9), 0.85))
        paper.text(x - 0.04, place.y - 0.15, width, 8 if len(width) < 4 or room > 0.7 else 7)


def _black_box(paper: Paper, node: Node, place: Place) -> None:
    paper.add(rectangle(place, "#15191e", "black"))
    name = node.name if len(node.name) <= 24 else node.name[:22] + "..."
    paper.text(place.x, place.y + 0.3, name, 10 if len(name) <= 17 else SMALL, colour="white", weight="bold")
    paper.text(place.x, place.y + 0.08, "\n".join(node.lines), SMALL, level="top", colour="#c9d1d9")


def _memory(paper: Paper, node: Node, place: Place) -> None:
    """A strip of steps for a rollout, a cylinder for a replay buffer."""
    x, y, w, h = place
    if node.kind == "rollout":
        paper.add(rectangle(place, "white", INK))
        for i in range(8):
            paper.add(
                Rectangle((x - w / 2 + i * w / 8, y + h / 2 - 0.28), w / 8, 0.28, fc=GREY, ec=INK, lw=1, zorder=4)
            )
    else:
        paper.add(Ellipse((x, y - h / 2 + 0.16), w, 0.42, fc="white", ec=INK, lw=1.3, zorder=4))
        paper.add(Rectangle((x - w / 2, y - h / 2 + 0.16), w, h - 0.36, fc="white", ec="none", zorder=4))
        for side in (-w / 2, w / 2):
            paper.line([x + side, x + side], [y - h / 2 + 0.16, y + h / 2 - 0.2], INK, lw=1.3, zorder=4)
        paper.add(Ellipse((x, y + h / 2 - 0.2), w, 0.42, fc=GREY, ec=INK, lw=1.3, zorder=4))
    low = 0.1 if node.kind == "replay" else 0.0
    paper.text(x, y + 0.12 - low, node.name, 10, weight="bold")
    paper.text(x, y - 0.06 - low, "\n".join(node.lines), SMALL, level="top")


def block(x: float, y: float, width: float, height: float, left: bool = False) -> PathPatch:
    """A block, flat on the input side and round on the output side."""
    sign = -1 if left else 1
    flat, tip = x - sign * width / 2, x + sign * width / 2
    shoulder = tip - sign * min(height / 2, width / 3)
    low, high = y - height / 2, y + height / 2
    points = [
        (flat, low),
        (shoulder, low),
        (tip, low),
        (tip, y),
        (tip, high),
        (shoulder, high),
        (flat, high),
        (flat, low),
    ]
    c = Outline
    codes = [c.MOVETO, c.LINETO, c.CURVE3, c.CURVE3, c.CURVE3, c.CURVE3, c.LINETO, c.CLOSEPOLY]
    return PathPatch(Outline(points, codes), fc=PALE, ec=INK, lw=1.2, zorder=4)


_SHAPES = {"network": _network, "function": _function, "black_box": _black_box, "rollout": _memory, "replay": _memory}


def rectangle(place: Place, fill: str, line: str) -> Rectangle:
    """A filled rectangle of a part's size."""
    corner = (place.x - place.width / 2, place.y - place.height / 2)
    return Rectangle(corner, place.width, place.height, fc=fill, ec=line, lw=1.3, zorder=4)

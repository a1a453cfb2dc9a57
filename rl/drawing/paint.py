"""Paints a graph of rl/drawing/describe.py with matplotlib, in the notation of energy-based models.

Every part has a fixed position, the environment at the top, the actor in the middle, C at the bottom, so that diagrams
of two agents can be compared. Data are solid lines, detached values dotted lines, gradients dashed lines in colour.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch, Polygon
from matplotlib.path import Path as Outline

from costgrad.rl.drawing.describe import Edge, Flow, Graph
from costgrad.rl.drawing.layout import PLACES, Place, Point, label_at, route
from costgrad.rl.drawing.shapes import GREY, INK, RED, SCALE, SMALL, SOFT, Paper, block, draw_node, rectangle

Format = Literal["svg", "png"]
MARK = "costgrad draw"  # in the metadata of every file


class Look(NamedTuple):
    """How a flow is drawn."""

    colour: str
    dashes: Any  # matplotlib's linestyle
    shift: float  # sideways offset of a straight line, so that two directions are parallel lines
    label: str  # in the legend


LOOKS: dict[Flow, Look] = {
    "data": Look(INK, "solid", 0.14, "data"),
    "constant": Look(SOFT, (0, (1, 1.6)), 0.14, "detached"),
    "blocked": Look(SOFT, (0, (3, 2)), -0.2, "no gradient"),
    "pathwise": Look("#1565d8", (0, (5, 2)), -0.08, "pathwise gradient"),
    "score": Look("#d97800", (0, (5, 1.5, 1.2, 1.5)), -0.3, "score-function gradient"),
    "search": Look("#138a4b", (0, (2.5, 1.5)), -0.14, "search update"),
    "fit": Look("#8a4fd3", (0, (3, 1.5)), -0.25, "training of C"),
}
SHAPES = {
    "observed": "observed",
    "computed": "computed",
    "function": "function",
    "cost": "cost (scalar)",
}


def draw(graph: Graph) -> Figure:
    """The diagram of an agent, as wide as its content."""
    right = max(PLACES[node.key].x + PLACES[node.key].width / 2 for node in graph.nodes) + 1.3
    right = max(right, 17.2)
    figure = Figure(figsize=(right * SCALE, 11 * SCALE), dpi=110)
    paper = Paper(figure)
    paper.text(0.5, 10.55, graph.title, 13, "left", weight="bold")
    paper.text(0.5, 10.05, graph.subtitle, 9, "left", colour=SOFT)
    pairs = {(edge.source, edge.target) for edge in graph.edges}
    for edge in graph.edges:
        _edge(paper, edge, two_way=(edge.target, edge.source) in pairs)
    for node in graph.nodes:
        draw_node(paper, node)
    _legend(paper, graph, right)
    return figure


def _edge(paper: Paper, edge: Edge, two_way: bool) -> None:
    look = LOOKS[edge.flow]
    points = route(edge, look.shift if two_way else 0.0)
    if edge.flow == "blocked":  # it ends halfway
        (x, y), (to, _) = points
        points = ((x, y), ((x + to) / 2, y))
        paper.line([(x + to) / 2], [y], RED, marker="x", ms=6, mew=1.6, zorder=5)
    _line(paper, points, look, head=edge.flow != "blocked")
    if abs(points[0][0] - PLACES[edge.source].x) > PLACES[edge.source].width:  # it branches off another line
        paper.line([points[0][0]], [points[0][1]], look.colour, marker="o", ms=4, zorder=3)
    if edge.label:
        x, y, side = label_at(edge, points)
        paper.text(x, y, edge.label, SMALL, side, "bottom", colour=look.colour)


def _line(paper: Paper, points: Sequence[Point], look: Look, head: bool = True) -> None:
    """A line through the points with rounded corners, and an arrow head at its end."""
    end, before = points[-1], points[-2]
    length = ((end[0] - before[0]) ** 2 + (end[1] - before[1]) ** 2) ** 0.5
    ux, uy = (end[0] - before[0]) / length, (end[1] - before[1]) / length
    neck = (end[0] - 0.17 * ux, end[1] - 0.17 * uy) if head else end
    vertices, codes = [points[0]], [Outline.MOVETO]
    for previous, corner, following in zip(points, points[1:-1], points[2:], strict=False):
        vertices += [_towards(corner, previous), corner, _towards(corner, following)]
        codes += [Outline.LINETO, Outline.CURVE3, Outline.CURVE3]
    path = Outline([*vertices, neck], [*codes, Outline.LINETO])
    paper.add(PathPatch(path, fc="none", ec="white", lw=4, zorder=1))
    paper.add(PathPatch(path, fc="none", ec=look.colour, lw=1.4, ls=look.dashes, capstyle="butt", zorder=2))
    if head:
        wings = [(end[0] - 0.2 * ux + s * 0.09 * uy, end[1] - 0.2 * uy - s * 0.09 * ux) for s in (1, -1)]
        paper.add(Polygon([end, *wings], fc=look.colour, ec="none", zorder=2))


def _towards(corner: Point, other: Point, radius: float = 0.15) -> Point:
    length = ((other[0] - corner[0]) ** 2 + (other[1] - corner[1]) ** 2) ** 0.5
    share = min(radius / length, 0.5)
    return corner[0] + share * (other[0] - corner[0]), corner[1] + share * (other[1] - corner[1])


def _legend(paper: Paper, graph: Graph, right: float) -> None:
    """The legend of the shapes, and of the flows in this diagram."""
    paper.line([0.5, right - 0.5], [0.95, 0.95], GREY, lw=0.8)
    x, y = 0.6, 0.5
    for kind, label in SHAPES.items():
        mark = Place(x + 0.15, y, 0.3, 0.3)
        if kind == "function":
            paper.add(block(mark.x, y, 0.4, 0.3))
        elif kind == "cost":
            paper.add(rectangle(mark, RED, "#8f1f1f"))
        else:
            paper.add(Circle((mark.x, y), 0.15, fc=GREY if kind == "observed" else "white", ec=INK, lw=1.2))
        paper.text(x + 0.45, y, label, SMALL, "left", "center_baseline")
        x += 0.78 + 0.107 * len(label)
    for flow, look in LOOKS.items():
        if flow != "blocked" and any(edge.flow == flow for edge in graph.edges):
            _line(paper, ((x, y), (x + 0.8, y)), look)
            paper.text(x + 0.9, y, look.label, SMALL, "left", "center_baseline")
            x += 1.15 + 0.107 * len(look.label)


def pictures(graph: Graph, *kinds: Format) -> list[bytes]:
    """The diagram as the contents of files, one for each of `kinds`; SVG keeps its text as text.

    The same graph gives the same bytes, and `MARK` is in the first 4096 of them.
    """
    figure, made = draw(graph), []
    for kind in kinds:
        buffer = io.BytesIO()
        more: dict[str, Any] = {"metadata": {"Date": None, "Creator": MARK}}
        if kind == "png":  # less compression takes half the time
            more = {"metadata": {"Software": MARK}, "pil_kwargs": {"compress_level": 1}}
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": MARK}):
            figure.savefig(buffer, format=kind, **more)
        made.append(buffer.getvalue())
    return made

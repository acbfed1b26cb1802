"""A part of the study as a graph, drawn with networkx and matplotlib: who descends from whom.

Generations stand in columns. A generation of many is two staggered columns, so that an arrow to the second passes
between two boxes of the first. Experiments without relatives in the part stand below, in rows.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.path import Path as Curve

from coopnet.report.figures import drawing

BEFORE, AFTER = ("raw data", "prepare"), ("evaluate", "tables", "report")
HEIGHT, GAP, CHANNEL = 0.40, 0.14, 0.62
"""Of a box, between two boxes of a column, and between two columns, in inches."""
TALL = 12
"""Boxes in a column above which it becomes two staggered ones."""
BROAD = 9.0
"""Inches that the rows of experiments without relatives may fill, where the graph above them is narrower."""

FILLS = {
    "random": "#e0f2fe",
    "continue": "#fef3c7",
    "surgery": "#dcfce7",
    "imported": "#ede9fe",
    "elsewhere": "#ffffff",
    "step": "#f3f4f6",
}
EDGES = {
    "random": "#0072B2",
    "continue": "#b45309",
    "surgery": "#047857",
    "imported": "#6d28d9",
    "elsewhere": "#9ca3af",
    "step": "#6b7280",
}
LABELS = {
    "random": "trained from scratch",
    "continue": "control: trained on, dashed outline",
    "surgery": "begins with surgery, thick outline",
    "imported": "imported checkpoint, dotted outline",
    "elsewhere": "of another part, grey",
}
LINES: dict[str, Any] = {"continue": (0, (3, 1.6)), "imported": (0, (1, 1.2))}
FEW = 4
"""Experiments without relatives that need no row broader than the graph."""
TAUGHT: Any = (0, (2.5, 1.8))
"""Dashes of the arrow from a teacher."""


@dataclass(frozen=True)
class Box:
    """A node as it is drawn: two lines of text, centre and width in inches (y grows upwards).

    `enter` and `leave` are the edges of its generation, where arrows may change their height.
    """

    name: str
    detail: str
    kind: str
    width: float
    x: float = 0.0
    y: float = 0.0
    enter: float = 0.0
    leave: float = 0.0


def graph(experiments: Sequence[Mapping[str, Any]], part: str | None = None) -> nx.DiGraph:
    """The experiments of a part (None: all) and the parents that they have elsewhere, in the study's order.

    An edge leads from each parent to its child; it holds how many `times` the parent is taken, and whether it `teaches`
    (which a parent does whose child starts from nothing).
    """
    own = [row for row in experiments if part in (None, row["part"])]
    shown = {row["name"] for row in own} | {parent for row in own for parent in row["parents"]}
    result: nx.DiGraph = nx.DiGraph()
    result.add_nodes_from(row["name"] for row in experiments if row["name"] in shown)
    for row in own:
        for parent, times in Counter(row["parents"]).items():
            result.add_edge(parent, row["name"], times=times, teaches=row["start"] == "random")
    return result


def columns(descent: nx.DiGraph) -> list[list[str]]:
    """Generations of those who have relatives; within one, siblings stay together, beside their parents."""
    study = {name: index for index, name in enumerate(descent)}
    related = descent.subgraph([name for name in descent if descent.degree(name)])
    generations = [sorted(generation, key=study.__getitem__) for generation in nx.topological_generations(related)]
    for index in range(1, len(generations)):
        rank = {name: place for place, name in enumerate(itertools.chain(*generations[:index]))}

        def beside(name: str, rank: Mapping[str, int] = rank) -> tuple[float, int]:
            parents = [rank[parent] for parent in related.predecessors(name)]
            return sum(parents) / len(parents), study[name]

        generations[index].sort(key=beside)
    return generations


def draw(experiments: Sequence[Mapping[str, Any]], part: str | None = None, *, steps: bool = True) -> Figure:
    """Draw a part from left to right, generation by generation.

    Args:
        experiments: all experiments of the study.
        part: the part to draw (None: all), with its parents from other parts.
        steps: whether the steps of the pipeline stand on both sides: data before, the report after.
    """
    rows = {row["name"]: row for row in experiments}
    descent = graph(experiments, part)
    boxes = _layout([[_box(rows[name], part) for name in column] for column in columns(descent)], descent)
    single = [_box(rows[name], part) for name in descent if not descent.degree(name)]
    boxes |= _shelves(single, boxes)
    left = min(box.x - box.width / 2 for box in boxes.values())
    right = max(box.x + box.width / 2 for box in boxes.values())
    top = max(box.y for box in boxes.values()) + HEIGHT / 2
    bottom = min(box.y for box in boxes.values()) - HEIGHT / 2
    before = _steps(BEFORE, left - CHANNEL, top, -1) if steps else []
    after = _steps(AFTER, right + CHANNEL, top, +1) if steps else []

    ends = (left - 0.2, right + 0.2)
    if steps:
        ends = (before[0].x - before[0].width / 2, after[-1].x + after[-1].width / 2)
    kinds = {box.kind for box in boxes.values()}
    taught = any(edge["teaches"] for _, _, edge in descent.edges.data())
    lines = math.ceil((len(kinds) + taught) / _keys_abreast(right - left))
    figure = drawing.canvas(ends[1] - ends[0] + 0.2, top - bottom + 0.35 + 0.26 * lines)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(ends[0] - 0.1, ends[1] + 0.1), ylim=(bottom - 0.15, top + 0.2 + 0.26 * lines))
    axes.set_axis_off()
    _frame(axes, left, right, bottom, top)
    for parent, child, edge in descent.edges.data():
        _descends(axes, boxes[parent], boxes[child], edge["times"], teaches=edge["teaches"])
    _chain(axes, before, after, left, right)
    for box in [*boxes.values(), *before, *after]:
        _draw_box(axes, box)
    _key(axes, kinds, (left, top), abreast=_keys_abreast(right - left), taught=taught)
    return figure


def _box(row: Mapping[str, Any], part: str | None) -> Box:
    kind = row["start"] if row["start"] in LABELS else "surgery"
    start = "" if row["start"] == "random" else f" · {row['start']}"
    if part not in (None, row["part"]):
        kind = "elsewhere"
    detail = f"B = {row['branches']}{start}"
    return Box(row["name"], detail, kind, _width(row["name"], detail))


def _width(name: str, detail: str) -> float:
    """Enough for the text: 0.082 inches a letter of the name, a little less for the detail."""
    return max(0.082 * len(name), 0.07 * len(detail), 0.5) + 0.22


def _layout(layers: Sequence[Sequence[Box]], descent: nx.DiGraph) -> dict[str, Box]:
    """Columns of equal boxes, every box as near to its parents' height as the gaps allow."""
    placed: dict[str, Box] = {}
    x = 0.0
    for layer in layers:
        fold = 2 if len(layer) > TALL else 1
        wanted = []
        for box in layer:
            parents = [placed[name].y for name in descent.predecessors(box.name)]
            wanted.append(sum(parents) / len(parents) if parents else 0.0)
        heights = _spaced(wanted, (HEIGHT + GAP) / fold)
        if fold == 2:  # the second column stands exactly between the boxes of the first
            highest = _mean(heights) + (HEIGHT + GAP) / 4 * (len(layer) - 1)
            heights = [highest - (HEIGHT + GAP) / 2 * place for place in range(len(layer))]
        widths = [max(box.width for box in layer[first::fold]) for first in range(fold)]
        enter, leave = x, x + sum(widths) + 0.3 * (fold - 1)
        for place, (box, y) in enumerate(zip(layer, heights, strict=True)):
            column = place % fold
            centre = enter + widths[0] / 2 if column == 0 else leave - widths[1] / 2
            placed[box.name] = replace(box, width=widths[column], x=centre, y=y, enter=enter, leave=leave)
        x = leave + CHANNEL
    return placed


def _shelves(single: Sequence[Box], placed: Mapping[str, Box]) -> dict[str, Box]:
    """Boxes without relatives in rows below the others, as broad as the graph or a page."""
    if not single:
        return {}
    graph = max((box.leave for box in placed.values()), default=0.0)
    width = max(box.width for box in single)
    each = max(1, int((max(graph, BROAD if len(single) > FEW else 0.0) + GAP) / (width + GAP)))
    y = min((box.y for box in placed.values()), default=HEIGHT + 2 * GAP) - HEIGHT - 2 * GAP
    return {
        box.name: replace(
            box,
            width=width,
            x=width / 2 + (place % each) * (width + GAP),
            y=y - (place // each) * (HEIGHT + GAP),
        )
        for place, box in enumerate(single)
    }


def _spaced(wanted: Sequence[float], pitch: float) -> list[float]:
    """Heights in falling order, at least `pitch` apart, with the least squared distance to those wanted.

    Pool adjacent violators: boxes that would collide form a block, which sits where its members on average want to.
    """
    blocks: list[list[float]] = []
    for index, height in enumerate(wanted):
        blocks.append([height + pitch * index])
        while len(blocks) > 1 and _mean(blocks[-1]) > _mean(blocks[-2]):
            blocks[-2].extend(blocks.pop())
    levels = [_mean(block) for block in blocks for _ in block]
    return [level - pitch * index for index, level in enumerate(levels)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _steps(names: Sequence[str], edge: float, top: float, direction: int) -> list[Box]:
    """A chain of pipeline steps that begins (or ends) at `edge`, at the height of the experiments' frame."""
    boxes: list[Box] = []
    for name in names if direction > 0 else reversed(names):
        width = _width(name, "")
        boxes.append(Box(name, "", "step", width, edge + direction * width / 2, top - HEIGHT / 2))
        edge += direction * (width + 0.32)
    return boxes if direction > 0 else boxes[::-1]


def _frame(axes: Axes, left: float, right: float, bottom: float, top: float) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (left - 0.1, bottom - 0.02),
            right - left + 0.2,
            top - bottom + 0.04,
            boxstyle="round,pad=0.06,rounding_size=0.1",
            facecolor="#fafafa",
            edgecolor=drawing.GRID,
            linewidth=1.0,
            zorder=0,
        )
    )


def _draw_box(axes: Axes, box: Box) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2 + 0.05, box.y - HEIGHT / 2 + 0.05),
            box.width - 0.1,
            HEIGHT - 0.1,
            boxstyle="round,pad=0.05,rounding_size=0.07",
            facecolor=FILLS[box.kind],
            edgecolor=EDGES[box.kind],
            linewidth=2.0 if box.kind == "surgery" else 1.1,
            linestyle=LINES.get(box.kind, "-"),
            zorder=3,
        )
    )
    raised = 0.075 if box.detail else 0.0
    text: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 4}
    ink = drawing.NEUTRAL if box.kind == "elsewhere" else drawing.INK
    axes.text(box.x, box.y + raised, box.name, fontsize=8.5, color=ink, **text)
    if box.detail:
        axes.text(box.x, box.y - 0.095, box.detail, fontsize=7, color="#4b5563", **text)


def _descends(axes: Axes, start: Box, end: Box, times: int, *, teaches: bool) -> None:
    """From the right edge of one box to the left edge of another, changing height just before the child's column."""
    (x0, y0), (x1, y1) = (start.x + start.width / 2, start.y), (end.x - end.width / 2, end.y)
    turn = end.enter - CHANNEL / 2
    points = [(x0, y0), (end.enter - CHANNEL, y0), (turn, y0), (turn, y1), (end.enter, y1)]
    codes = [Curve.MOVETO, Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    if x1 > end.enter:  # through a gap, to the second of two staggered columns
        points, codes = [*points, (x1, y1)], [*codes, Curve.LINETO]
    path = Curve(points, codes)
    style = _ARROW | ({"linestyle": TAUGHT} if teaches else {})
    axes.add_patch(FancyArrowPatch(path=path, **style))
    if times > 1:
        axes.text(x1 - 0.1, y1 + 0.02, f"×{times}", fontsize=6.5, color="#4b5563", ha="right", va="bottom", zorder=4)


def _chain(axes: Axes, before: Sequence[Box], after: Sequence[Box], left: float, right: float) -> None:
    """Arrows from step to step, into the frame of experiments and out of it."""
    for chain in (before, after):
        for start, end in itertools.pairwise(chain):
            _line(axes, (start.x + start.width / 2, start.y), (end.x - end.width / 2, end.y))
    if before and after:
        y = before[-1].y
        _line(axes, (before[-1].x + before[-1].width / 2, y), (left - 0.16, y))
        _line(axes, (right + 0.16, y), (after[0].x - after[0].width / 2, y))


_ARROW: dict[str, Any] = {
    "arrowstyle": "-|>,head_length=4,head_width=2.2",
    "mutation_scale": 1.0,
    "color": "#6b7280",
    "linewidth": 1.0,
    "shrinkA": 0,
    "shrinkB": 0,
    "zorder": 2,
}


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, **_ARROW))


def _keys_abreast(width: float) -> int:
    """How many entries of the key stand side by side above a graph of this width."""
    return max(2, int(width / 2.3))


def _key(axes: Axes, kinds: set[str], corner: tuple[float, float], *, abreast: int, taught: bool) -> None:
    handles: list[Artist] = [
        Patch(
            facecolor=FILLS[kind],
            edgecolor=EDGES[kind],
            linewidth=2.0 if kind == "surgery" else 1.1,
            linestyle=LINES.get(kind, "-"),
            label=LABELS[kind],
        )
        for kind in LABELS
        if kind in kinds
    ]
    if taught:
        handles.append(Line2D([], [], color=_ARROW["color"], linewidth=1.0, linestyle=TAUGHT, label="from a teacher"))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(corner[0] - 0.15, corner[1] + 0.12),
        bbox_transform=axes.transData,
        ncols=min(abreast, len(handles)),
        borderaxespad=0,
    )

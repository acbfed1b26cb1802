"""The study as a graph, drawn with networkx and matplotlib: who descends from whom, and the steps around it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.path import Path as Curve

from coopnet.reporting import figures

BEFORE, AFTER = ("raw data", "prepare"), ("evaluate", "tables", "report")
HEIGHT, GAP, CHANNEL = 0.40, 0.14, 0.62
"""Of a box, between two boxes of a column, and between two columns, in inches."""

FILLS = {"random": "#e0f2fe", "continue": "#fef3c7", "surgery": "#dcfce7", "imported": "#ede9fe", "step": "#f3f4f6"}
EDGES = {"random": "#0072B2", "continue": "#b45309", "surgery": "#047857", "imported": "#6d28d9", "step": "#6b7280"}
LABELS = {
    "random": "trained from scratch",
    "continue": "control: trained on, dashed outline",
    "surgery": "begins with surgery, thick outline",
    "imported": "imported checkpoint, dotted outline",
}
LINES: dict[str, Any] = {"continue": (0, (3, 1.6)), "imported": (0, (1, 1.2))}


@dataclass(frozen=True)
class Box:
    """A node as it is drawn: two lines of text, centre and width in inches (y grows upwards)."""

    name: str
    detail: str
    kind: str
    width: float
    x: float = 0.0
    y: float = 0.0


def graph(experiments: Sequence[Mapping[str, Any]]) -> nx.DiGraph:
    """Experiments as nodes, an edge from every parent to its child; both in the study's order."""
    result: nx.DiGraph = nx.DiGraph()
    result.add_nodes_from(row["name"] for row in experiments)
    result.add_edges_from((parent, row["name"]) for row in experiments for parent in row["parents"])
    return result


def columns(experiments: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Generations of the graph; within one, siblings stay together, beside their parents."""
    descent = graph(experiments)
    study = {row["name"]: index for index, row in enumerate(experiments)}
    generations = [sorted(generation, key=study.__getitem__) for generation in nx.topological_generations(descent)]
    for index in range(1, len(generations)):
        rank = {name: place for place, name in enumerate(itertools.chain(*generations[:index]))}

        def beside(name: str, rank: Mapping[str, int] = rank) -> tuple[float, int]:
            parents = [rank[parent] for parent in descent.predecessors(name)]
            return sum(parents) / len(parents), study[name]

        generations[index].sort(key=beside)
    return generations


def draw(experiments: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the study from left to right: data, generations of experiments, report."""
    rows = {row["name"]: row for row in experiments}
    descent = graph(experiments)
    boxes = _layout([[_box(rows[name]) for name in column] for column in columns(experiments)], descent)
    left = min(box.x - box.width / 2 for box in boxes.values())
    right = max(box.x + box.width / 2 for box in boxes.values())
    top = max(box.y for box in boxes.values()) + HEIGHT / 2
    bottom = min(box.y for box in boxes.values()) - HEIGHT / 2
    before = _steps(BEFORE, left - CHANNEL, top, -1)
    after = _steps(AFTER, right + CHANNEL, top, +1)

    extent = (before[0].x - before[0].width / 2, after[-1].x + after[-1].width / 2)
    figure = figures.canvas(extent[1] - extent[0] + 0.2, top - bottom + 0.61)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(extent[0] - 0.1, extent[1] + 0.1), ylim=(bottom - 0.15, top + 0.46))
    axes.set_axis_off()
    _frame(axes, left, right, bottom, top)
    for parent, child in descent.edges:
        _arrow(axes, boxes[parent], boxes[child], curve=True)
    chain = [*before, None, *after]
    for start, end in itertools.pairwise(chain):
        if start and end:
            _arrow(axes, start, end)
    y = before[-1].y
    _line(axes, (before[-1].x + before[-1].width / 2, y), (left - 0.16, y))
    _line(axes, (right + 0.16, y), (after[0].x - after[0].width / 2, y))
    for box in [*boxes.values(), *before, *after]:
        _draw_box(axes, box)
    _key(axes, {box.kind for box in boxes.values()}, (left, top))
    return figure


def _box(row: Mapping[str, Any]) -> Box:
    kind = row["start"] if row["start"] in LABELS else "surgery"
    start = "" if kind == "random" else f" · {row['start']}"
    detail = f"B = {row['branches']}{start}"
    return Box(row["name"], detail, kind, _width(row["name"], detail))


def _width(name: str, detail: str) -> float:
    """Enough for the text: 0.082 inches a letter of the name, a little less for the detail."""
    return max(0.082 * len(name), 0.07 * len(detail), 0.5) + 0.22


def _layout(layers: Sequence[Sequence[Box]], descent: nx.DiGraph) -> dict[str, Box]:
    """Columns of equal boxes, every box as near to its parents' height as the gaps allow."""
    placed: dict[str, Box] = {}
    pitch, x = HEIGHT + GAP, 0.0
    for layer in layers:
        width = max(box.width for box in layer)
        x += width / 2
        wanted = []
        for box in layer:
            parents = [placed[name].y for name in descent.predecessors(box.name)]
            wanted.append(sum(parents) / len(parents) if parents else 0.0)
        for box, y in zip(layer, _spaced(wanted, pitch), strict=True):
            placed[box.name] = Box(box.name, box.detail, box.kind, width, x, y)
        x += width / 2 + CHANNEL
    return placed


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
            edgecolor=figures.GRID,
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
    axes.text(box.x, box.y + raised, box.name, fontsize=8.5, color=figures.INK, **text)
    if box.detail:
        axes.text(box.x, box.y - 0.095, box.detail, fontsize=7, color="#4b5563", **text)


def _arrow(axes: Axes, start: Box, end: Box, *, curve: bool = False) -> None:
    """From the right edge of one box to the left edge of another, as an S where their heights differ."""
    (x0, y0), (x1, y1) = (start.x + start.width / 2, start.y), (end.x - end.width / 2, end.y)
    if not curve or abs(y0 - y1) < 1e-9:
        _line(axes, (x0, y0), (x1, y1))
        return
    middle = (x1 - CHANNEL / 2) if x1 - x0 > CHANNEL else (x0 + x1) / 2
    path = Curve([(x0, y0), (middle, y0), (middle, y1), (x1, y1)], [1, 4, 4, 4])
    axes.add_patch(FancyArrowPatch(path=path, **_ARROW))


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


def _key(axes: Axes, kinds: set[str], corner: tuple[float, float]) -> None:
    shown = [kind for kind in LABELS if kind in kinds]
    handles = [
        Patch(
            facecolor=FILLS[kind],
            edgecolor=EDGES[kind],
            linewidth=2.0 if kind == "surgery" else 1.1,
            linestyle=LINES.get(kind, "-"),
            label=LABELS[kind],
        )
        for kind in shown
    ]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(corner[0] - 0.15, corner[1] + 0.12),
        bbox_transform=axes.transData,
        ncols=len(handles),
        borderaxespad=0,
    )

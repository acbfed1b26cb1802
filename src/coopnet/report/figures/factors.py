"""The learning-rate factor of every module, epoch by epoch."""

import math
from collections.abc import Sequence
from itertools import groupby

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from coopnet.report.figures import drawing
from coopnet.report.figures.drawing import HEIGHT, WIDTH


def draw(factors: pd.DataFrame, order: Sequence[str]) -> Figure:
    """A heat map per experiment, of its first seed: modules from input (top) to output, epochs from left to right.

    Args:
        factors: the table `factors`.
        order: experiments, in the order of the panels.
    """
    columns = min(2, len(order))
    rows = -(-len(order) // columns)
    figure = drawing.canvas(WIDTH, min(0.8 + 4.6 * rows, HEIGHT))
    grid = figure.subplots(rows, columns, squeeze=False)
    tables = [_first_seed(factors[factors["experiment"] == name]) for name in order]
    limit = max(float(abs(table.map(math.log)).max().max()) for table in tables) or math.log(2)
    norm = LogNorm(math.exp(-limit), math.exp(limit))
    for axes in list(grid.flat)[len(order) :]:
        axes.set_visible(False)
    for name, axes, table in zip(order, grid.flat, tables, strict=False):
        # White is factor 1; orange and purple are told apart by colour-blind readers.
        image = axes.imshow(table.to_numpy(), cmap="PuOr_r", norm=norm, aspect="auto", interpolation="none")
        image.set_extent((0.5, table.shape[1] + 0.5, table.shape[0] - 0.5, -0.5))
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _modules(axes, [str(module) for module in table.index])
    figure.tight_layout(h_pad=1.2, w_pad=1.2)
    bar = figure.colorbar(image, ax=list(grid.flat), fraction=0.035, pad=0.02)
    bar.set_label("learning-rate factor")
    steps = [value for value in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 100) if abs(math.log(value)) <= limit]
    bar.ax.yaxis.set_major_locator(FixedLocator(steps))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def _first_seed(factors: pd.DataFrame) -> pd.DataFrame:
    """Modules × epochs, in the modules' order."""
    first = factors[factors["seed"] == factors["seed"].min()]
    table = first.pivot(index=["place", "module"], columns="epoch", values="factor").sort_index()
    return table.droplevel("place")


def _modules(axes: Axes, modules: Sequence[str]) -> None:
    """Name stretches of modules that lie together: the stem, each stage, each branch, gate and classifiers."""
    axes.grid(visible=False)
    ticks, labels, start = [], [], 0
    for label, members in groupby(modules, key=stretch):
        size = len(list(members))
        ticks.append(start + (size - 1) / 2)
        labels.append("classifier" if size == 1 and start + size == len(modules) else label)
        start += size
        if start < len(modules):
            axes.axhline(start - 0.5, color="#374151", linewidth=0.4)
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0, labelsize=7.0 if len(labels) < 24 else 5.5)


def stretch(module: str) -> str:
    """The part of the network that a module (`trunk.stages.0.2.conv1`) belongs to, for a person."""
    match module.split("."):
        case [("trunk" | "trunks"), *inside] if "stages" in inside:
            return f"stage {int(inside[inside.index('stages') + 1]) + 1}"
        case [("trunk" | "trunks"), *_]:
            return "stem"
        case ["branches", branch, part, *_] if part != "classifier":
            return f"branch {int(branch) + 1}"
    return "gate, classifiers"

"""How every figure of a report is drawn: as SVG (text as paths) and PNG, with the same bytes every time.

Colours are those of Okabe and Ito, told apart by colour-blind readers; shape, fill or dash says the same again.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from coopnet import files

ENSEMBLE, BRANCH, NEUTRAL, GOOD = "#0072B2", "#D55E00", "#6b7280", "#009E73"
INK, GRID = "#1f2937", "#e5e7eb"
WIDTH = 9.0
"""Width of a full figure, in inches."""
PAD = 0.08
"""Inches of white around a figure."""
HEIGHT = 9.4
"""Height that a figure may have, in inches: with its caption it fits a page."""

STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "coopnet",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": "#9ca3af",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a $ in a name is a dollar
    "lines.solid_capstyle": "round",
}

LEGEND_ABOVE: Mapping[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1.0),
    "borderaxespad": 0.2,
    "handletextpad": 0.4,
}

Draw = Callable[[], Figure]


def save(draw: Draw, path: Path) -> None:
    """Draw in the report's style and write `path` (`.svg` or `.png`), atomically and without date or tool name."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change a report
        mpl.rcParams.update(STYLE)
        figure = draw()
        kind = path.suffix.removeprefix(".")
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        with files.replacing(path) as temporary:
            # Not bbox_inches="tight": it draws everything once before, to find a box like this one.
            box = figure.get_tightbbox().padded(PAD)
            figure.savefig(temporary, format=kind, dpi=200, metadata=metadata, bbox_inches=box)


def canvas(width: float, height: float) -> Figure:
    """A figure outside pyplot's global state, so that nothing is shared between two reports."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def pitch(rows: int, taken: float, roomy: float = 0.42) -> float:
    """Inches between two rows of a figure that has `taken` inches of other things: less where there are many."""
    return min(roomy, (HEIGHT - taken) / max(rows, 1))

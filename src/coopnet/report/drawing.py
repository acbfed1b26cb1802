"""How every figure of a report is drawn: as SVG and PNG, with the same bytes every time.

Text stays text, so that it can be searched and read aloud. Each file embeds the letters that it needs from the font
with which they were measured (DejaVu Sans, which comes with matplotlib). A figure fits the width of a telephone, and no
letter is smaller than 9 points. The colours are those of Okabe and Ito, which colour-blind readers can tell apart;
shape, fill or dash repeats the information.
"""

import base64
import functools
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from fontTools import subset, ttLib  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from coopnet import files

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6b7280"
INK, LINE, PAPER, FRAME = "#1f2937", "#e5e7eb", "#ffffff", "#9ca3af"
VARIABLES = {
    **{BLUE: "--blue", ORANGE: "--orange", GREEN: "--green", PURPLE: "--purple", GREY: "--soft"},
    **{INK: "--ink", LINE: "--line", PAPER: "--paper", FRAME: "--frame"},
}
"""The page's variable for each colour. In dark mode it has another value."""
WIDTH = 4.9
"""Inches of every figure: 353 points, so that on a telephone (358 CSS pixels) a point is a pixel."""
NARROWEST = 0.8
"""Inches of the narrowest panel. Only a figure of very long names is wider than `WIDTH`."""
PAD = 0.03
"""Inches of white around a figure."""
FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
FONTS = FONT.parent

STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "coopnet",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": FRAME,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.0,
    "figure.facecolor": PAPER,
    "text.parse_math": False,  # a $ in a name is a dollar
    "lines.solid_capstyle": "round",
    "lines.markersize": 5.0,
    "lines.markeredgewidth": 1.3,
}

Draw = Callable[[], Figure]


def save(draw: Draw, path: Path) -> None:
    """Draw in the report's style and write `path` (`.svg` or `.png`), atomically and without date or tool name."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change a report
        mpl.rcParams.update(STYLE)
        figure = draw()
        # Not bbox_inches="tight": it draws everything once before, to find a box like this one.
        box = figure.get_tightbbox().padded(PAD)
        kind = path.suffix.removeprefix(".")
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        written = io.BytesIO()
        figure.savefig(written, format=kind, dpi=200, metadata=metadata, bbox_inches=box)
    content = written.getvalue() if kind == "png" else _with_font(written.getvalue().decode()).encode()
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)


def letters(svgs: Iterable[str]) -> str:
    """Every letter in the text of some figures, sorted, and those that any text may need."""
    text = html.unescape("".join(piece for svg in svgs for piece in re.findall(r">([^<>]+)</(?:text|tspan)>", svg)))
    return "".join(sorted({letter for letter in text if not letter.isspace()} | {" "}))


@functools.cache
def font_face(wanted: str) -> str:
    """A style rule with the font, reduced to the letters `wanted`."""
    with ttLib.TTFont(FONT, recalcTimestamp=False) as font:
        options = subset.Options(layout_features=["kern"], hinting=False, notdef_outline=True)
        # FFTM has the date on which the font was made; the others are for formulas and ligatures, and slow to cut.
        options.drop_tables += ["FFTM", "GDEF", "GSUB", "MATH"]
        cutter = subset.Subsetter(options)
        cutter.populate(text=wanted)
        cutter.subset(font)
        font.flavor = "woff"
        written = io.BytesIO()
        font.save(written)
    data = base64.b64encode(written.getvalue()).decode()
    return f'@font-face {{ font-family: "DejaVu Sans"; src: url("data:font/woff;base64,{data}") format("woff"); }}\n'


def _with_font(svg: str) -> str:
    """The figure with its font embedded."""
    return svg.replace("<defs>", f"<defs>\n  <style>{font_face(letters([svg]))}</style>", 1)


def inches(text: str) -> float:
    """The width of a text in a figure."""
    font = FontProperties(fname=str(FONT), size=STYLE["font.size"])
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def canvas(height: float) -> Figure:
    """A figure outside pyplot's global state, so that nothing is shared between two reports."""
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure


def mark(colour: str, shape: str, label: str, *, filled: bool = True, line: bool = False) -> Line2D:
    """An entry of a legend."""
    face = colour if filled else PAPER
    return Line2D([], [], color=colour, marker=shape, mfc=face, ls="-" if line else "", lw=1.4, label=label)


def legend(figure: Figure, marks: Sequence[Line2D]) -> None:
    """A legend of two columns above everything else, which starts at the left edge."""
    height = figure.get_size_inches()[1]
    place = (0.0, 1 + 0.02 / height)
    figure.legend(handles=marks, loc="lower left", bbox_to_anchor=place, ncols=min(2, len(marks)))


class Rows:
    """A figure of rows, one above the other: a name at the left, marks beside it, headings above groups of rows."""

    PITCH, HEAD, SCALE = 0.235, 0.30, 0.27

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        panels: Sequence[str],
        asides: Mapping[tuple[str, str], str] | None = None,
        above: str = "",
        own_scales: bool = False,
    ):
        """Create the figure.

        Args:
            groups: names of the rows by the heading of their group; an empty heading takes no space.
            panels: the label below each panel, from left to right.
            asides: short texts at the right of rows, by heading and name.
            above: the heading of the asides.
            own_scales: each group has panels and scales of its own, from top to bottom.
        """
        left = max(inches(name) for names in groups.values() for name in names) + 0.1
        right = max(inches(text) for text in [above, *(asides or {}).values()]) + 0.08 if asides else 0.0
        tall = {title: (self.HEAD if title else 0) + self.PITCH * len(names) for title, names in groups.items()}
        blocks = [[title] for title in groups] if own_scales else [list(groups)]
        height = sum(tall.values()) + self.SCALE * (len(blocks) - 1) + 0.5
        self.figure = canvas(height)
        width = max(NARROWEST, (WIDTH - left - right - 0.2 - 0.18 * (len(panels) - 1)) / len(panels))
        self.panels: list[Axes] = []
        self.y: dict[tuple[str, str], float] = {}
        self._width = width
        bottom = height - 0.08
        for block in blocks:
            size = sum(tall[title] for title in block)
            bottom -= size
            for place, label in enumerate(panels):
                x = left + place * (width + 0.18)
                axes = self.figure.add_axes((x / WIDTH, bottom / height, width / WIDTH, size / height))
                axes.set(ylim=(size, 0), xlabel=label if block is blocks[-1] else "")
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
                self.panels.append(axes)
            bottom -= self.SCALE
            first, top = self.panels[-len(panels)], 0.0
            if asides and block is blocks[0]:
                self._write(first, width + right - 0.02, self.HEAD * 0.62, above, GREY, ha="right")
            for title in block:
                if title:
                    heading = self._write(first, -left, top + self.HEAD * 0.62, title, GREY)
                    heading.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1})  # it hides lines behind it
                for row, name in enumerate(groups[title]):
                    y = top + (self.HEAD if title else 0) + self.PITCH * (row + 0.5)
                    self.y[title, name] = y
                    self._write(first, -0.07, y, name, INK, ha="right")
                    if asides:
                        self._write(first, width + right - 0.02, y, asides[title, name], GREY, ha="right")
                top += tall[title]

    def _write(self, axes: Axes, inches: float, y: float, text: str, colour: str, ha: str = "left") -> Text:
        """Text that many inches from the left edge of a panel."""
        x, across = inches / self._width, axes.get_yaxis_transform()
        return axes.text(x, y, text, transform=across, ha=ha, va="center", color=colour)

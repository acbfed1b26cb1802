"""What a cooperative network is, how it learns, and how a trained one grows: two drawings, the loss, and a glossary."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from coopnet.claims.entries import MARGIN
from coopnet.report import drawing
from coopnet.report.document import Picture, Section
from coopnet.report.drawing import BLUE, FRAME, GREEN, GREY, INK, LINE, ORANGE, PAPER, WIDTH
from coopnet.report.frames import DATASETS, Tables
from coopnet.report.wording import count

REFERENCES = {
    "one": "X. Lan, X. Zhu, S. Gong. Knowledge Distillation by On-the-Fly Native Ensemble. NeurIPS 2018, "
    "arXiv:1806.04606.",
    "hinton": "G. Hinton, O. Vinyals, J. Dean. Distilling the Knowledge in a Neural Network. 2015, arXiv:1503.02531.",
    "mutual": "Y. Zhang, T. Xiang, T. Hospedales, H. Lu. Deep Mutual Learning. CVPR 2018, arXiv:1706.00384.",
    "born": "T. Furlanello, Z. Lipton, M. Tschannen, L. Itti, A. Anandkumar. Born-Again Neural Networks. ICML 2018, "
    "arXiv:1805.04770.",
    "resnet": "K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016, "
    "arXiv:1512.03385.",
    "cifar": "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, 2009.",
    "readers": "N. A. Obuchowski, H. E. Rockette. Hypothesis testing of diagnostic accuracy for multiple readers and "
    "multiple tests: an ANOVA approach with dependent observations. Communications in Statistics, Simulation and "
    "Computation 24(2), 1995.",
    "cochran": "W. G. Cochran, G. M. Cox. Experimental Designs. 2nd edition, Wiley, 1957.",
    "holm": "S. Holm. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics "
    "6(2), 1979.",
    "ece": "C. Guo, G. Pleiss, Y. Sun, K. Weinberger. On Calibration of Modern Neural Networks. ICML 2017, "
    "arXiv:1706.04599.",
    "copies": "B. Barz, J. Denzler. Do We Train on Test Data? Purging CIFAR of Near-Duplicates. Journal of Imaging "
    "6(6), 2020, arXiv:1902.00423.",
}
"""Works that the report refers to."""


def cite(*keys: str) -> str:
    """`[1, 3]`."""
    return "[" + ", ".join(str(list(REFERENCES).index(key) + 1) for key in keys) + "]"


WAYS = {
    "zero_pad": "new branches fresh, new gate rows zero: not exact",
    "zero_output": "as zero_pad, new classifiers zero: keeps top-1, not ECE",
    "masked": "new branches fresh, log-prior −∞: exact; let in slowly later",
    "split": "copies share their donors’ weight: exact without noise",
}
"""The four ways to grow, with what each keeps."""

TERMS = (
    ("ONE", "On-the-Fly Native Ensemble (Lan, Zhu, Gong, 2018): branches that learn from their own ensemble"),
    ("trunk", "all layers before the split: the stem and all stages but the last"),
    ("branch", "the last stage with its own pooling and linear classifier; a network has B of them"),
    (
        "gate",
        "one weight per branch and image, from the trunk’s pooled features: linear, BatchNorm, ReLU, plus a log-prior, "
        "softmax",
    ),
    ("log-prior", "a number per branch, added before the gate’s softmax; −∞ switches the branch off"),
    ("ensemble", "the gate-weighted sum of the branches’ logits; it is the teacher while all learn"),
    (
        "plain ensemble",
        "independent networks without a gate, whose outputs are averaged: logits, or in Part 3 probabilities",
    ),
    ("replicate", "one repetition of an experiment with all its ancestors, such as an ensemble with its five networks"),
    ("baseline", "the plain network: one branch, no gate, cross-entropy alone"),
    ("transfer", "building a network’s first weights out of trained ones: growing, expanding, merging, combining"),
    ("at transfer", "measured right after the transfer, before any training"),
    (
        "continued-training control",
        "the parent, trained with the same schedule as its child and without the transfer: what a gain by transfer has "
        "to beat",
    ),
    (
        "control",
        "what a network is compared with, so that the difference has one cause; each group of rows names its own",
    ),
    (
        "95 % interval",
        "Student’s t over the seeds, with the variance from the choice of test images added; networks without a common "
        "ancestor are two groups of seeds (Welch); never narrower than the interval over images alone",
    ),
    ("margin", f"{MARGIN:g} points of accuracy: a loss smaller than it still counts as not worse"),
    (
        "verdict",
        "of a claim: supported, contradicted or inconclusive, as its interval lies; not decided; not run",
    ),
    (
        "Holm’s correction",
        "p values corrected for the number of verdicts (top-1 and top-5 apart), the stricter reading; those on too few "
        "seeds, or with a failed run, count as if their p were 1",
    ),
    *WAYS.items(),
    ("exact", "the largest difference of logits is at most 10⁻⁶ of the largest logit (float32, evaluation mode)"),
    ("chance level", "accuracy of guessing: 100 % divided by the number of classes"),
    (
        "ECE, NLL",
        "expected calibration error (15 bins, %) and negative log-likelihood (nats); lower is better for both",
    ),
)


def section(tables: Tables) -> Section:
    """The method in half a page."""
    sizes, ways = _grown(tables)
    sentences = [tables.study["description"]] if tables.study["description"] else []
    sentences.append(
        "A cooperative network has a shared trunk, B parallel branches and a gate that weighs the branches into an "
        f"ensemble. The ensemble teaches its branches while all of them learn together (ONE, {cite('one')}): the loss "
        "of an image is Σ CE(branch) + CE(ensemble) + r(t) · T² · Σ KL(ensemble ‖ branch), where CE is the "
        "cross-entropy with the label, T the temperature of distillation, and r(t) its ramp-up; no gradient flows into "
        "the teacher."
    )
    if sizes:
        before, after = next(iter(sizes))
        how = f"in {count(len(ways), 'way')}, and then fine-tuned"
        sentences.append(
            (
                f"A trained network with {before} branches is grown into one with {after} {how}. "
                if len(sizes) == 1
                else f"Trained networks are grown by branches {how}. "
            )
            + "Only a gain over the continued-training control, the parent trained for as long without growth, is a "
            "gain by growth."
        )
    residual = not any(row["row"]["model"].get("split") for row in tables.experiments)
    sentences.append(
        f"Networks are residual networks {cite('resnet')}, for images like those of CIFAR {cite('cifar')}. "
        * residual
        + "Of the test images of CIFAR-10 and CIFAR-100, 3.3 % and 10 % have a near-copy among the training images "
        f"{cite('copies')}; they are counted like all others. "
        * any(row["row"]["data"]["dataset"] in DATASETS for row in tables.experiments)
        + "Intervals combine the spread over seeds with the choice of test images "
        f"{cite('readers', 'cochran')}; each verdict says whether it survives Holm’s correction {cite('holm')}."
    )
    items = [figure for figure, _ in figures(tables).values()]
    return Section("method", "Method", sentences, list(items), TERMS)


def _grown(tables: Tables) -> tuple[dict[tuple[int, int], None], list[str]]:
    """Numbers of branches before and after the growth of networks with several, and the ways in which they grew."""
    rows = {row["name"]: row for row in tables.experiments}
    sizes: dict[tuple[int, int], None] = {}
    ways: set[str] = set()
    for row in rows.values():
        before = rows[row["parents"][0]]["branches"] if len(row["parents"]) == 1 and row["parents"][0] in rows else 0
        if row["start"] in WAYS and before > 1:
            sizes[before, row["branches"]] = None
            ways.add(row["start"])
    return sizes, [way for way in WAYS if way in ways]


def figures(tables: Tables) -> dict[str, tuple[Picture, Callable[[], Figure]]]:
    """The drawings, by name."""
    network = Picture(
        "method",
        "A cooperative network. The trunk is shared, each branch classifies, the gate weighs the branches’ logits into "
        "the ensemble, and the ensemble teaches the branches (dashed).",
        "An image goes through the trunk into three branches; the gate weighs their logits into the ensemble, which "
        "teaches the branches.",
    )
    drawn: dict[str, tuple[Picture, Callable[[], Figure]]] = {"method": (network, draw_network)}
    sizes, ways = _grown(tables)
    if (3, 5) in sizes:
        picture = Picture(
            "ways",
            "Ways to grow three branches into five, as the network stands at transfer. Filled branches are the "
            "parent’s.",
            "; ".join(f"{way}: {WAYS[way]}" for way in ways),
        )
        drawn["ways"] = (picture, lambda: draw_ways(ways))
    return drawn


def draw_network() -> Figure:
    """Image, trunk, branches, gate, ensemble."""
    figure, axes = _paper(2.15)
    _box(axes, (0.0, 0.85, 0.58, 0.42), "image", PAPER)
    _box(axes, (0.88, 0.85, 0.68, 0.42), "trunk", LINE)
    for place in range(3):
        y = 1.45 - 0.6 * place
        _box(axes, (2.0, y, 0.92, 0.42), f"branch {place + 1}", BLUE, PAPER)
        _arrow(axes, (1.56, 1.06), (2.0, y + 0.21))
        _arrow(axes, (2.92, y + 0.21), (3.5, 1.06))
        if place != 1:
            bend = 0.28 if place == 0 else -0.28
            _arrow(
                axes, (4.15, 1.27 if place == 0 else 0.85), (2.92, y + 0.3 if place == 0 else y + 0.12), ORANGE, bend
            )
    _arrow(axes, (0.58, 1.06), (0.88, 1.06))
    _box(axes, (3.5, 0.85, 0.95, 0.42), "ensemble", GREEN, PAPER)
    _box(axes, (0.93, -0.02, 0.58, 0.38), "gate", LINE)
    _arrow(axes, (1.22, 0.85), (1.22, 0.36))
    axes.plot([1.51, 3.97, 3.97], [0.08, 0.08, 0.3], color=GREY, linewidth=1.1, linestyle=":")
    _arrow(axes, (3.97, 0.3), (3.97, 0.85), GREY)
    axes.text(1.62, -0.1, "a weight per branch and image", color=GREY)
    axes.text(3.62, 1.9, "teaches", color=ORANGE)
    return figure


def draw_ways(ways: list[str]) -> Figure:
    """Five branches for each way; the last two are new."""
    figure, axes = _paper(0.78 * len(ways))
    kinds = {
        "zero_pad": (PAPER, INK, "new"),
        "zero_output": (PAPER, INK, "new, 0"),
        "masked": (LINE, GREY, "−∞"),
        "split": (BLUE, PAPER, ""),
    }
    for row, way in enumerate(ways):
        y = 0.78 * (len(ways) - 1 - row) + 0.28
        axes.text(0.0, y + 0.15, way, va="center")
        for place in range(5):
            new = place >= 3
            face, colour, word = kinds[way] if new else (BLUE, PAPER, str(place + 1))
            if new and way == "split":
                word = f"= {place - 2}"
            _box(axes, (0.92 + 0.79 * place, y, 0.7, 0.3), word, face, colour, dashed=new)
        axes.text(0.92, y - 0.15, WAYS[way], va="center", color=GREY)
    return figure


def _paper(height: float) -> tuple[Figure, Axes]:
    """A canvas measured in inches."""
    figure = drawing.canvas(height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.02, WIDTH - 0.02), ylim=(-0.2, height - 0.2))
    axes.set_axis_off()
    return figure, axes


def _box(
    axes: Axes,
    place: tuple[float, float, float, float],
    word: str,
    face: str,
    colour: str = INK,
    *,
    dashed: bool = False,
) -> None:
    x, y, width, height = place
    shape = FancyBboxPatch(
        (x + 0.04, y + 0.04),
        *(width - 0.08, height - 0.08),
        boxstyle="round,pad=0.04",
        facecolor=face,
        edgecolor=INK if dashed else FRAME,
        linewidth=1.1 if dashed else 0.9,
        linestyle=(0, (3, 2)) if dashed else "-",
    )
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, word, ha="center", va="center", color=colour)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = GREY, bend: float | None = None
) -> None:
    style = "arc3" if bend is None else f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            *(start, end),
            arrowstyle="-|>",
            mutation_scale=7,
            color=colour,
            linewidth=1.1,
            linestyle="-" if bend is None else (0, (3, 2)),
            connectionstyle=style,
            shrinkA=0,
            shrinkB=1,
        )
    )

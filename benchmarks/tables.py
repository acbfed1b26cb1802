"""The figures as tables: all of them on the terminal, the speeds also in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from benchmarks import SIDES
from coopnet.report.wording import count, listing, number

PARTS = ("data", "forward", "backward", "optimiser", "metrics")
SCALED = "epoch_seconds_scaled_from_fewer_images"


class Cells(NamedTuple):
    """A table: its title, columns and rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(report: Mapping[str, Any]) -> list[Cells]:
    """All tables of a `results/bench/<kind>.json`."""
    return [speed(report), ceilings(report), parts(report)]


def speed(report: Mapping[str, Any]) -> Cells:
    """Images per second, and relative cost."""
    rows = []
    for model, loop, own in _sides(report):
        ratios = report["models"][model]["ratios"]
        cells = [_spread(own["images_per_second"], 0), _spread(ratios) if loop == "ours" else ""]
        cells += [_spread(own["cost_relative_to_baseline"]), _spread(own.get("epoch_seconds") or own[SCALED], 1)]
        rows.append([model, loop, *cells, decimal(own["peak_memory_bytes"])])
    scaled = any(SCALED in own for _, _, own in _sides(report))
    seconds = "seconds per epoch" + (", scaled from fewer images" if scaled else "")
    columns = ("model", "loop", "training images/s", "ratio", "cost relative to baseline", seconds, "peak memory")
    return Cells("Speed", columns, rows)


def ceilings(report: Mapping[str, Any]) -> Cells:
    """How close the loops come to the measured limits of the machine."""
    rows, bound = [], report["ceiling"]
    for model, loop, own in _sides(report):
        share, kind = own["share_of_ceiling"], own["precision"]
        rate, moved = bound["flops_per_second"][kind]["highest"], bound["bytes_per_second"]["highest"]
        products = f"{_percent(share['matrix_products'])} of {number(rate / 1e9, 0)} GFLOP/s ({kind})"
        rows.append([model, loop, products, f"{_percent(share['bandwidth'])} of {number(moved / 1e9, 1)} GB/s"])
    return Cells("Share of the machine's measured ceiling", ("model", "loop", "matrix products", "bandwidth"), rows)


def parts(report: Mapping[str, Any]) -> Cells:
    """Shares of a step's time."""
    rows = [
        [model, loop, *(_percent(own["time_shares"].get(part, 0.0)) for part in PARTS)]
        for model, loop, own in _sides(report)
    ]
    return Cells("Where the time goes", ("model", "loop", *PARTS), rows)


def circumstances(report: Mapping[str, Any]) -> str:
    """One paragraph about the machine and the settings of the measurement."""
    machine, settings = report["machine"], report["settings"]
    images = settings["images"]
    sentences = [
        f"{machine['device']['name']}, {count(machine['cores'], 'core')}, {count(machine['threads'], 'thread')}, "
        f"PyTorch {machine['libraries']['torch']}, load {number(machine['load_average_before'][0])} before.",
        f"Medians (lowest to highest) of {count(settings['repetitions'], 'repetition')} with "
        f"{images['train']:,} training and {images['test']:,} test images each; "
        f"the reference has {count(machine['reference_workers'], 'worker')}.",
    ]
    if report["deterministic"]:
        priced = report["deterministic"]
        sentences.append(
            f"Without deterministic algorithms ours is {_spread(priced['prices'])} times as fast on {priced['model']}."
        )
    return " ".join(sentences)


def agreement(curves: Mapping[str, Any]) -> str:
    """One paragraph about whether the loss curves agree."""
    comparisons = []
    for name, one in curves["comparisons"].items():
        places = 3 if "loss" in name else 2
        ours, other = (_deviation(one[loop], places) for loop in SIDES)
        difference = number(one["difference"], places, sign=True)
        error = number(one["standard_error"], places)
        comparisons.append(
            f"{name.replace('_', ' ')} {ours} against {other} (difference {difference}, standard error {error})"
        )
    verdict = "agree within" if curves["within_spread"] else "differ by more than"
    row, seeds = f"`{curves['study']}/{curves['experiment']}`", count(len(curves["seeds"]), "seed")
    return (
        f"Ours in {curves['precision']} against the reference on {row}, {curves['device']['name']}, {seeds}: "
        f"{listing(comparisons)}; the loss curves {verdict} the spread of seeds.\n"
    )


def markdown(report: Mapping[str, Any]) -> str:
    """Circumstances and speeds as Markdown, for the documentation."""
    table = speed(report)
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join([circumstances(report), "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print everything on a terminal."""
    console.print(circumstances(report), highlight=False)
    for cells in tables(report):
        table = Table(*cells.columns, title=cells.title, title_justify="left")
        for row in cells.rows:
            table.add_row(*row)
        console.print(table)


def _sides(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Model, loop and measurement, fewest branches first."""
    models = sorted(report["models"], key=lambda name: report["models"][name]["ours"]["flops_per_image"])
    for model in models:
        for loop in SIDES:
            yield model, loop, report["models"][model][loop]


def _spread(samples: Mapping[str, Any], places: int = 2) -> str:
    median, low, high = (number(samples[name], places) for name in ("median", "lowest", "highest"))
    return median if low == high else f"{median} ({low} to {high})"


def _deviation(values: Mapping[str, float], places: int) -> str:
    return f"{number(values['mean'], places)} ± {number(values['std'], places)}"


def _percent(share: float) -> str:
    return f"{number(100 * share, 1)} %"

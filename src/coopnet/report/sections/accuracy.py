"""Final accuracy of every experiment, and of every branch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from coopnet.report import starts
from coopnet.report.document import Cell, Column, Picture, Section, Table
from coopnet.report.frames import PARTS, Tables
from coopnet.report.sections import cells
from coopnet.report.wording import DOT, between, count, listing, number, spread


def brief(tables: Tables) -> list[str]:
    """The best of each dataset, and how far ensembles are ahead."""
    trained = [row for row in tables.experiments if row["branches"] > 1 and row["epochs"] and not _muted(row)]
    sentences = _best(tables)
    if trained:
        gains, leads = _gains(tables, trained), [_lead(tables, row) for row in trained]
        sentences.append(
            f"In {_ahead(gains)} of {count(len(gains), 'experiment')} that trained several branches the ensemble is "
            f"ahead of the mean of its branches; its lead is {between(gains)} points of top-1."
        )
        sentences.append(
            f"It is ahead of its best branch, picked on these test images, in {_ahead(leads)} of {len(leads)}, by "
            f"{between(leads)} points."
        )
    return sentences


def _best(tables: Tables) -> list[str]:
    """The highest ensemble of each dataset, in one sentence."""
    ensemble, groups = tables.final("ensemble"), tables.by_dataset(tables.names)
    found = []
    for data, names in groups.items():
        best = max(names, key=lambda name: ensemble[name])
        over = ", mean over seeds" if len(tables.seeds(best, "ensemble", "top1")) > 1 else ""
        where = f" on {data}" if len(groups) > 1 else ""
        found.append(f"{number(ensemble[best])} %{where} ({best}{over})")
    return [f"Highest ensemble top-1 of all experiments, picked on these test images: {listing(found)}."]


def _muted(row: Mapping[str, Any]) -> bool:
    """Whether some of its branches have no say in the ensemble for good."""
    return row["row"]["start"].get("opens") is False


def _gains(tables: Tables, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Ensemble minus mean of branches, per experiment."""
    ensemble, branches = tables.final("ensemble"), tables.final("branch_mean")
    return [ensemble[row["name"]] - branches[row["name"]] for row in rows]


def _lead(tables: Tables, row: Mapping[str, Any]) -> float:
    """Ensemble minus the most accurate branch."""
    best = max(tables.final(f"branch{number}")[row["name"]] for number in range(1, row["branches"] + 1))
    return tables.final("ensemble")[row["name"]] - best


def _ahead(values: Sequence[float]) -> int:
    return sum(value > 0 for value in values)


def overview(tables: Tables, part: str) -> Picture:
    """The figure of a part's accuracies."""
    marks = ", a mark per seed and a bar at the mean" if tables.replicated else ""
    title = f"{PARTS.get(part, part)}. " if len(tables.parts) > 1 else ""
    caption = (
        f"{title}Test top-1 of the ensemble (filled diamond) and of branch 1 (open circle){marks}. "
        "A network with one branch is its own ensemble: its two marks agree."
    )
    return Picture(tables.by_part("overview")[part], caption, "runs.csv")


def section(tables: Tables) -> Section:
    """Accuracy by part; the first part's overview stands in the summary."""
    pictures = [overview(tables, part) for part in tables.parts][1:]
    plain = [row["name"] for row in tables.experiments if starts.is_plain_ensemble(row["row"])]
    sentences = [_selection(tables)]
    if plain:
        sentences.append("A plain ensemble is the mean of its networks' logits here, as everywhere but in Part 3.")
    return Section("accuracy", "Accuracy", sentences, [*pictures, _accuracy_table(tables), _branches_table(tables)])


def _chosen_epochs(tables: Tables, experiment: str) -> list[tuple[int, int]]:
    """(epoch whose network is reported, epochs trained) of each run, both counted from 1."""
    runs = [run for run in tables.records_of_runs if run["experiment"] == experiment]
    return [
        (run["epochs"] if math.isnan(run["selected_epoch"]) else int(run["selected_epoch"]) + 1, run["epochs"])
        for run in runs
    ]


def _rules(tables: Tables) -> dict[str, str]:
    """How each experiment picks its epoch: `last` unless its row says otherwise."""
    return {row["name"]: row["row"]["training"]["selection"].replace("_", " ") for row in tables.experiments}


def _epoch_note(tables: Tables, experiment: str) -> str:
    """Which epochs were picked and how; empty where every run is that of its last epoch, by rule."""
    rule, epochs = _rules(tables)[experiment], _chosen_epochs(tables, experiment)
    if not any(trained for _, trained in epochs) or (
        rule == "last" and all(chosen == trained for chosen, trained in epochs)
    ):
        return ""
    return f"epoch {listing(f'{chosen} of {trained}' for chosen, trained in epochs)}, {rule}"


def _selection(tables: Tables) -> str:
    if not any(_epoch_note(tables, name) for name in tables.names):
        return "All numbers are measured on the test images with the network of the last epoch; no epoch was picked."
    return (
        "Numbers are measured on the test images with the network of the last epoch, except where the cell names "
        "another epoch and how it was picked."
    )


def _accuracy_table(tables: Tables) -> Table:
    columns = [Column("Experiment", numeric=False), Column("n")]
    models = (("ensemble", "ensemble"), ("branch_mean", "mean of branches"), ("branch1", "branch 1"))
    columns += [Column(label, group) for group in ("top-1 (%)", "top-5 (%)") for _, label in models]
    rows: list[list[Cell]] = []
    first = {}
    for row in tables.ordered:
        first[row["name"]] = len(rows)
        line = [cells.name(tables, row), cells.counted(tables, row["name"], len(row["seeds"]))]
        for score in ("top1", "top5"):
            line += [_score(tables, row["name"], model, score) for model, _ in models]
        rows.append(line)
    caption = "Final test accuracy: mean ± standard deviation over n seeds, with each seed's value below."
    if not tables.replicated:
        caption = "Final test accuracy of one seed each, so without a standard deviation."
    headings = cells.part_headings(tables, first)
    return Table("accuracy-table", caption, columns, rows, "accuracy.csv", headings=headings)


def _score(tables: Tables, experiment: str, model: str, score: str) -> Cell:
    """Mean ± std of a score on the test images, below it every seed, and the epoch where it is not the last."""
    average = tables.average(experiment, model)
    values = tables.seeds(experiment, model, score)
    seeds = DOT.join(number(value) for value in values) if len(values) > 1 else ""
    detail = "; ".join(part for part in (seeds, _epoch_note(tables, experiment)) if part)
    return Cell(spread(average[f"{score}_mean"], average[f"{score}_std"]), detail)


def _branches_table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Model", numeric=False),
        *(Column(label) for label in ("gate weight", "top-1 (%)", "top-5 (%)", "NLL", "ECE (%)")),
    ]
    rows: list[list[Cell]] = []
    first = {}
    for row in tables.ordered:
        first[row["name"]] = len(rows)
        for model in ("ensemble", *(f"branch{b}" for b in range(1, row["branches"] + 1))):
            head = Cell(row["name"] if model == "ensemble" else "", tone="code")
            rows.append([head, *_model(tables, row["name"], model)])
    caption = (
        "Every branch and its ensemble on the test images, with calibration: negative log-likelihood (nats) and "
        "expected calibration error (15 bins), lower is better for both. Gate weights are means over images."
    )
    rules, headings = list(first.values()), cells.part_headings(tables, first)
    return Table("branches-table", caption, columns, rows, "accuracy.csv", rules, headings, folded=True)


def _model(tables: Tables, experiment: str, model: str) -> list[Cell]:
    average, gate = tables.average(experiment, model), tables.seeds(experiment, model, "gate")
    return [
        Cell(model.replace("branch", "branch ")),
        Cell(number(sum(gate) / len(gate)) if gate else ""),
        *(
            Cell(spread(average[f"{score}_mean"], average[f"{score}_std"], places))
            for score, places in (("top1", 2), ("top5", 2), ("nll", 3), ("ece", 2))
        ),
    ]

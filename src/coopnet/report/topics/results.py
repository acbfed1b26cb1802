"""All results in one table: description, cost, accuracy and difference to the control of each experiment."""

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from coopnet.data.datasets import DATASETS
from coopnet.report import starts
from coopnet.report.differences import Difference, of_ensembles
from coopnet.report.document import Cell, Column, Row, Section, Table
from coopnet.report.frames import Tables, dataset, records
from coopnet.report.topics import cells
from coopnet.report.wording import flops, listing, number, span, spread


def section(tables: Tables) -> Section:
    """The table of all, and the table of every branch."""
    sentences = [f"{_selection(tables)} {_chance(tables)}"]
    plain = [row["name"] for row in tables.experiments if starts.is_plain_ensemble(row["row"])]
    if plain:
        sentences.append(
            "A plain ensemble is the mean of its networks’ logits here, in each of its rows. Where Part 3 compares "
            "plain ensembles, they are the mean of probabilities."
        )
    return Section("results", "All results", sentences, [_table(tables), _branches(tables)])


def chance(row: Mapping[str, Any]) -> float:
    """The chance level of an experiment's data, in percent."""
    own = len(row.get("class_names") or ())  # of a dataset that params.yaml describes
    return 100 / (own or DATASETS[row["row"]["data"]["dataset"]].classes)


def _chance(tables: Tables) -> str:
    levels = {dataset(row): chance(row) for row in tables.experiments}
    return f"Chance level: {listing(f'{level:g} % on {data}' for data, level in levels.items())}."


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("B"),
        Column("n"),
        Column("Epochs"),
        Column("FLOPs, with ancestors"),
        Column("ensemble", "test top-1 (%)"),
        Column("branch 1", "test top-1 (%)"),
        Column("ensemble", "test top-5 (%)"),
        Column("minus control, [95\u00a0%]", "top-1 (points)"),
    ]
    costs = {line["experiment"]: line for line in records(tables.compute)}
    against = of_ensembles(tables)
    rows: list[Row] = []
    first = []
    for row in tables.ordered:
        first.append((row["name"], len(rows)))
        # The column of ensembles has the mean of logits; Part 3 compares another combination.
        one = None if starts.is_plain_ensemble(row["row"]) else against.get(row["name"])
        top1, top5 = (_score(tables, row["name"], "ensemble", score) for score in ("top1", "top5"))
        branch = _score(tables, row["name"], "branch1", "top1") if row["branches"] > 1 else Cell("")
        line = [
            Cell(row["name"], _what(tables, row), "code", f"record-{row['name']}"),
            Cell(str(row["branches"])),
            cells.counted(tables, row["name"], len(row["seeds"])),
            Cell(str(row["epochs"]), value=row["epochs"]),
            _cost(costs[row["name"]]),
            *(top1, branch, top5, cells.to_control(one)),
        ]
        rows.append(Row(line, cells.anchor(row["name"]), _more(tables, row, one)))
    headings = cells.part_headings(tables, first)
    if tables.without_results:
        headings[len(rows)] = "Failed, or not run because of a failure"
        rows += [_without_results(tables, row) for row in tables.without_results]
    network, data = _usual(tables)
    settings = [row["row"] for row in tables.experiments]
    caption = (
        "All experiments. Mean ± standard deviation over n seeds, B branches; a name on the page unfolds its seeds. "
        f"Networks are {network} on {data} unless a line below the name says otherwise. FLOPs are those of "
        "its training and its ancestors’. The last column is the ensemble against its own control. A network "
        "with one branch is its own ensemble."
        + (" Plain ensembles are compared in Part 3." if any(map(starts.is_plain_ensemble, settings)) else "")
    )
    return Table("results-table", caption, columns, rows, "accuracy.csv", headings)


def _without_results(tables: Tables, row: Mapping[str, Any]) -> Row:
    """An experiment without results: its description, and the reason."""
    kinds = {one["kind"] for one in tables.missing_runs if one["experiment"] == row["name"]}
    why = Cell("not run" if kinds == {cells.WAITING} else "failed", tone="no")
    head = [Cell(row["name"], row["about"], "code"), Cell(str(row["branches"]))]
    return Row([*head, cells.counted(tables, row["name"], 0), Cell(str(row["epochs"])), *[why] * 5])


def _usual(tables: Tables) -> tuple[str, str]:
    """The network and the data that most of the study has."""
    networks, data = ([kind(row) for row in tables.experiments] for kind in (itemgetter("network"), tables.data))
    return max(networks, key=networks.count), max(data, key=data.count)


def _what(tables: Tables, row: Mapping[str, Any]) -> str:
    """Network and data, if they are not the usual ones."""
    pairs = zip((row["network"], tables.data(row)), _usual(tables), strict=True)
    return ", ".join(own for own, usual in pairs if own != usual)


def _more(tables: Tables, row: Mapping[str, Any], one: Difference | None) -> list[tuple[str, str]]:
    name = row["name"]
    return cells.unfolded(
        ("", row["about"]),
        ("control", one.control if one else ""),
        ("top-1, ensemble", cells.seeds(tables.seeds(name, "ensemble", "top1"))),
        ("top-1, branch 1", cells.seeds(tables.seeds(name, "branch1", "top1")) if row["branches"] > 1 else ""),
        ("top-5, ensemble", cells.seeds(tables.seeds(name, "ensemble", "top5"))),
    )


def _score(tables: Tables, experiment: str, model: str, score: str) -> Cell:
    average = tables.average(experiment, model)
    text = spread(average[f"{score}_mean"], average[f"{score}_std"])
    return Cell(text, _epoch_note(tables, experiment), value=average[f"{score}_mean"])


def _cost(line: Mapping[str, Any]) -> Cell:
    value = line["lineage_flops"]
    return Cell(flops(value), value=value) if value > 0 else Cell("not known" if math.isnan(value) else "0", value=0)


# Which epoch ---------------------------------------------------------------------------------------


def _chosen_epochs(tables: Tables, experiment: str) -> list[tuple[int, int]]:
    """(epoch whose network is reported, epochs trained) of each run, both counted from 1."""
    runs = [run for run in tables.records_of_runs if run["experiment"] == experiment]
    return [
        (run["epochs"] if math.isnan(run["selected_epoch"]) else int(run["selected_epoch"]) + 1, run["epochs"])
        for run in runs
    ]


def _epoch_note(tables: Tables, experiment: str) -> str:
    """The earliest and the latest picked epoch, and the rule; empty if every run uses its last epoch, by rule."""
    rules = {row["name"]: row["row"]["training"]["selection"].replace("_", " ") for row in tables.experiments}
    rule, epochs = rules[experiment], _chosen_epochs(tables, experiment)
    if not any(trained for _, trained in epochs) or (
        rule == "last" and all(chosen == trained for chosen, trained in epochs)
    ):
        return ""
    chosen, trained = (span(numbers) for numbers in zip(*epochs, strict=True))
    return f"{'epochs' if ' ' in chosen else 'epoch'} {chosen} of {trained}, {rule}"


def _selection(tables: Tables) -> str:
    if not any(_epoch_note(tables, name) for name in tables.names):
        return "All numbers are measured on the test images with the network of the last epoch; no epoch was picked."
    return (
        "Numbers are measured on the test images with the network of the last epoch, except where the cell names "
        "another epoch and how it was picked."
    )


# Every branch --------------------------------------------------------------------------------------


def _branches(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Model", numeric=False),
        *(Column(label) for label in ("gate weight", "top-1 (%)", "top-5 (%)", "NLL", "ECE (%)")),
    ]
    rows: list[Row] = []
    first = []
    for row in tables.ordered:
        first.append((row["name"], len(rows)))
        branches = [f"branch{b}" for b in range(1, row["branches"] + 1)] if row["branches"] > 1 else []
        for model in ("ensemble", *branches):
            head = Cell(row["name"] if model == "ensemble" else "", tone="code")
            rows.append(Row([head, *_model(tables, row["name"], model)]))
    caption = (
        "Every branch and its ensemble on the test images, with calibration. Means over seeds; gate weights are means "
        "over images, too."
    )
    headings = cells.part_headings(tables, first)
    title = "Every branch, with calibration"
    return Table("branches-table", caption, columns, rows, "accuracy.csv", headings, title, where="appendix")


def _model(tables: Tables, experiment: str, model: str) -> Sequence[Cell]:
    average, gate = tables.average(experiment, model), tables.seeds(experiment, model, "gate")
    return [
        Cell(model.replace("branch", "branch ")),
        Cell(number(sum(gate) / len(gate)) if gate and model != "ensemble" else ""),
        *(
            Cell(spread(average[f"{score}_mean"], average[f"{score}_std"], places))
            for score, places in (("top1", 2), ("top5", 2), ("nll", 3), ("ece", 2))
        ),
    ]

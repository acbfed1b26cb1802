"""What a report says: sections of sentences, tables and figures, computed from a study's tables.

The web page and the PDF both lay out this one structure. A new part of the report is a function that returns a
`Section`, added to `SECTIONS`. No sentence here states a result in advance: each is filled in from the tables.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coopnet.reporting import origins
from coopnet.reporting.document import Cell, Column, Picture, Report, Section, Table
from coopnet.reporting.frames import Tables, records
from coopnet.reporting.wording import DOT, MINUS, TIMES, between, count, listing, number, scientific, span, spread

PUBLISHED_EPOCHS = 300
"""Epochs of the published training from scratch (ONE paper, section 4); shorter studies say that they are."""

FEW = 4
"""Results up to this many are named one by one in a sentence; more are summed up."""


# The study and its scale --------------------------------------------------------------------------


def compose(tables: Tables) -> Report:
    """The whole report."""
    study = tables.study
    sections = [section for make in SECTIONS if (section := make(tables))]
    return Report(study["name"], study["title"], study["description"], facts(tables), limits(tables), sections)


def facts(tables: Tables) -> list[tuple[str, str]]:
    """The scale of the study, one plain figure each."""
    rows = tables.experiments
    scratch = [row["epochs"] for row in rows if row["start"] == "random"]
    tuned = [row["epochs"] for row in rows if row["parents"]]
    images = [row["images"] for row in rows]
    validation = [i["validation"] for i in images]
    seeds = [len(row["seeds"]) for row in rows]
    pairs = [
        ("Dataset", listing(dict.fromkeys(str(name) for name in tables.provenance["dataset"]))),
        ("Network", listing(dict.fromkeys(row["network"] for row in rows))),
        ("Training images", span(i["train"] for i in images)),
        ("Validation images", (span(validation) if any(validation) else "none held out")),
        ("Test images", span(i["test"] for i in images)),
        ("Epochs from scratch", span(scratch) if scratch else ""),
        ("Epochs from parents", span(tuned) if tuned else ""),
        ("Experiments", f"{len(rows)} ({count(tables.study['runs'], 'run')})"),
        ("Seeds per experiment", span(seeds)),
    ]
    return [(name, value) for name, value in pairs if value]


def limits(tables: Tables) -> list[str]:
    """What a study of this scale cannot show, and how finely its test images measure."""
    rows, sentences = tables.experiments, []
    longest = max(row["epochs"] for row in rows)
    if longest < PUBLISHED_EPOCHS:
        sentences.append(
            f"Networks were trained for at most {count(longest, 'epoch')}, against {PUBLISHED_EPOCHS} in the published "
            "study: nothing here says how accurate fully trained networks would be."
        )
    sentences.append(_sampling_error(tables))
    single = [row["name"] for row in rows if len(row["seeds"]) == 1]
    if len(single) == len(rows):
        sentences.append(
            "Every experiment was run with one seed: a difference between two numbers may be chance, and no "
            "uncertainty can be given."
        )
    elif single:
        sentences.append(f"With one seed only, and so without an uncertainty: {listing(single)}.")
    few = max(len(row["seeds"]) for row in rows)
    if 1 < few < 3:
        sentences.append(f"{few} seeds give a rough idea of the spread, and no reliable interval.")
    return sentences


def _sampling_error(tables: Tables) -> str:
    """How far an accuracy would move with other test images: the binomial standard error, at the median accuracy."""
    accuracies = sorted(tables.final("ensemble").values())
    share = accuracies[len(accuracies) // 2] / 100
    images = min(row["images"]["test"] for row in tables.experiments)
    error = 100 * math.sqrt(share * (1 - share) / images)
    return (
        f"With {count(images, 'test image')}, an accuracy of {number(100 * share)} % has a standard error of "
        f"{number(error)} points from the choice of images alone."
    )


# Results in brief ---------------------------------------------------------------------------------


def _brief(tables: Tables) -> Section:
    sentences = [*_brief_accuracy(tables), *_brief_step0(tables), *_brief_growth(tables)]
    marks = ", a mark per seed and a bar at the mean" if tables.replicated else ""
    picture = Picture(
        "overview",
        f"Test top-1 of the ensemble (filled diamond) and of branch 1 (open circle){marks}. "
        "A network with one branch is its own ensemble: its two marks agree.",
        "runs.csv",
    )
    return Section("brief", "Results in brief", sentences, [picture])


def _brief_accuracy(tables: Tables) -> list[str]:
    ensemble, branches = tables.final("ensemble"), tables.final("branch_mean")
    best = max(ensemble, key=lambda name: ensemble[name])
    over = ", mean over seeds" if len(tables.seeds(best, "ensemble", "top1")) > 1 else ""
    sentences = [f"Highest ensemble top-1: {number(ensemble[best])} % ({best}{over})."]
    several = [row["name"] for row in tables.experiments if row["branches"] > 1]
    if several:
        gains = [ensemble[name] - branches[name] for name in several]
        ahead = sum(gain > 0 for gain in gains)
        sentences.append(
            f"In {ahead} of {count(len(several), 'experiment')} with several branches the ensemble is ahead of the "
            f"mean of its branches; its lead is {between(gains)} points of top-1."
        )
        leads = [ensemble[row["name"]] - _best_branch(tables, row) for row in tables.experiments if row["branches"] > 1]
        sentences.append(
            f"It is ahead of its best branch, picked on these test images, in {sum(lead > 0 for lead in leads)} of "
            f"{len(leads)}, by {between(leads)} points."
        )
    return sentences


def _best_branch(tables: Tables, row: Mapping[str, Any]) -> float:
    """Top-1 of an experiment's most accurate branch."""
    return max(tables.final(f"branch{number}")[row["name"]] for number in range(1, row["branches"] + 1))


def _brief_step0(tables: Tables) -> list[str]:
    starts = [row for row in records(tables.step0_mean) if row["exact"] in ("yes", "no")]
    if not starts:
        return []
    exact = [row["experiment"] for row in starts if row["exact"] == "yes"]
    others = [row for row in starts if row["exact"] == "no"]
    named = f" ({listing(exact)})" if 0 < len(exact) <= FEW else ""
    sentence = (
        f"Right after growth, {len(exact)} of {count(len(starts), 'network')} compute exactly what the parent "
        f"computes{named}."
    )
    if len(others) > FEW:
        shifts = between([row["ece"] - row["parent_ece"] for row in others])
        changed = [row["changed_percent"] for row in others]
        sentence += (
            f" The others change {number(min(changed))} to {number(max(changed))} % of the predictions and move ECE by "
            f"{shifts} points."
        )
        return [sentence]
    return [" ".join([sentence, *(_brief_change(row) for row in others)])]


def _brief_change(row: Mapping[str, Any]) -> str:
    changed = row["changed_predictions"]
    return (
        f"{row['experiment']} changes {number(changed, 0 if float(changed).is_integer() else 1)} of "
        f"{row['images']:,} predictions and moves ECE by {number(row['ece'] - row['parent_ece'], sign=True)} points."
    )


def _brief_growth(tables: Tables) -> list[str]:
    rows = [
        row
        for row in records(tables.growth_mean)
        if row["model"] == "ensemble" and row["metric"] == "top1" and not math.isnan(row["over_control_mean"])
    ]
    if not rows:
        return []
    whose = (
        "the grown network that has a control" if len(rows) == 1 else f"the {len(rows)} grown networks with a control"
    )
    parent = between([row["over_parent_mean"] for row in rows])
    control = between([row["over_control_mean"] for row in rows])
    return [
        f"After fine-tuning, the ensemble top-1 of {whose} differs by {parent} points from the parent's, and by "
        f"{control} from the control's, the same parent trained on for as long without growth."
    ]


# Accuracy -----------------------------------------------------------------------------------------


def _accuracy(tables: Tables) -> Section:
    return Section("accuracy", "Accuracy", [_selection(tables)], [_accuracy_table(tables), _branches_table(tables)])


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
    if rule == "last" and all(chosen == trained for chosen, trained in epochs):
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
    rows = []
    for row in tables.experiments:
        cells = [_name(row), Cell(str(len(row["seeds"])))]
        for score in ("top1", "top5"):
            cells += [_score(tables, row["name"], model, score) for model, _ in models]
        rows.append(cells)
    caption = "Final test accuracy: mean ± standard deviation over n seeds, with each seed's value below."
    if not tables.replicated:
        caption = "Final test accuracy of one seed each, so without a standard deviation."
    return Table("accuracy-table", caption, columns, rows, "accuracy.csv")


def _name(row: Mapping[str, Any]) -> Cell:
    return Cell(row["name"], f"{row['network']}, B = {row['branches']}", "code")


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
    rules = []
    for row in tables.experiments:
        rules.append(len(rows))
        for model in ("ensemble", *(f"branch{b}" for b in range(1, row["branches"] + 1))):
            first = model == "ensemble"
            average, gate = tables.average(row["name"], model), tables.seeds(row["name"], model, "gate")
            rows.append(
                [
                    Cell(row["name"] if first else "", tone="code"),
                    Cell(model.replace("branch", "branch ")),
                    Cell(number(sum(gate) / len(gate)) if gate else ""),
                    *(
                        Cell(spread(average[f"{score}_mean"], average[f"{score}_std"], places))
                        for score, places in (("top1", 2), ("top5", 2), ("nll", 3), ("ece", 2))
                    ),
                ]
            )
    caption = (
        "Every branch and its ensemble on the test images, with calibration: negative log-likelihood (nats) and "
        "expected calibration error (15 bins), lower is better for both. Gate weights are means over images."
    )
    return Table("branches-table", caption, columns, rows, "accuracy.csv", rules, folded=True)


# Step 0 -------------------------------------------------------------------------------------------

STARTS = {
    "zero_pad": "new branches fresh, gate rows zero (published code)",
    "zero_output": "as zero_pad, new classifiers zero too (published proof)",
    "masked": "new branches fresh, switched off by log-prior −∞",
    "split": "new branches are copies that share their donors' weight",
}
"""What the starts of DESIGN.md do to the new branches."""


def _step0(tables: Tables) -> Section | None:
    if tables.step0.empty:
        return None
    single = tables.step0[tables.step0["exact"].notna()]
    items: list[Table | Picture] = [_step0_table(tables)]
    if not single.empty:
        items.append(
            Picture(
                "step0",
                "Left, how many predictions of the test images differ from the parent's; right, how far calibration "
                "moved. A green square marks a start whose logits are the parent's.",
                "step0.csv",
            )
        )
    sentence = (
        "Networks right after surgery, before any training, on the test images, beside the network they grew from."
    )
    return Section("step0", "Step 0: right after growth", [sentence], items)


def _start(tables: Tables, experiment: str) -> str:
    """What its start did, in words, with the noise on copies, which decides whether they are exact."""
    row = next(row for row in tables.experiments if row["name"] == experiment)
    noise = row["row"]["start"].get("noise")
    return STARTS.get(row["start"], row["start"]) + ("" if noise is None else f"; noise {noise:g}")


def _step0_table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Seed"),
        *(Column(label, "against the parent") for label in ("exact", "changed", "max |Δ logit|")),
        *(Column(label, "ensemble (parent below)") for label in ("top-1 (%)", "top-5 (%)", "NLL", "ECE (%)")),
    ]
    rows: list[list[Cell]] = []
    rules = []
    for line in records(tables.step0_mean):
        rules.append(len(rows))
        seeds = [seed for seed in records(tables.step0) if seed["experiment"] == line["experiment"]]
        head = Cell(line["experiment"], _start(tables, line["experiment"]), "code")
        if len(seeds) > 1:
            rows.append([head, Cell("mean"), *_step0_cells(line)])
            head = Cell("")
        for seed in seeds:
            rows.append([head, Cell(str(seed["seed"])), *_step0_cells(seed)])
            head = Cell("")
    images = span(int(n) for n in tables.step0["images"])
    caption = (
        f"Exact: max |Δ logit| against the parent is at most 10⁻⁶ {TIMES} max |logit| (their ratio stands below it). "
        f"Changed: predictions, of {images} test images, that differ from the parent's."
    )
    return Table("step0-table", caption, columns, rows, "step0.csv", rules)


def _step0_cells(line: Mapping[str, Any]) -> list[Cell]:
    """Cells of one seed, or of the mean; dashes for a network with several parents."""
    known = line["exact"] in ("yes", "no")
    changed = line["changed_predictions"]
    places = 0 if not known or float(changed).is_integer() else 1
    return [
        Cell({"yes": "✓ yes", "no": "✗ no"}.get(line["exact"], "–"), tone=line["exact"] if known else ""),
        Cell(number(changed, places), f"{number(line['changed_percent'])} %" if known else ""),
        Cell(scientific(line["largest_logit_difference"]), scientific(line["relative_difference"]) if known else ""),
        *(
            Cell(number(line[score], places), f"({number(line[f'parent_{score}'], places)})" if known else "")
            for score, places in (("top1", 2), ("top5", 2), ("nll", 3), ("ece", 2))
        ),
    ]


# Growth -------------------------------------------------------------------------------------------


def _growth(tables: Tables) -> Section | None:
    if tables.growth_mean.empty:
        return None
    controls = [row["name"] for row in tables.experiments if row["start"] == "continue"]
    sentence = "Each network is paired with its own parent and with the control made from that parent, seed by seed."
    if controls:
        sentence += (
            f" The control ({listing(controls)}) is the parent trained on with the same schedule and no surgery: only "
            "a gain over the control is a gain by growth."
        )
    else:
        sentence += " This study has no control, so a gain over the parent may come from training longer."
    return Section("growth", "After fine-tuning: child, parent, control", [sentence], [_growth_table(tables)])


def _growth_table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Model", numeric=False),
        Column("n"),
        Column("child", "top-1 (%)"),
        Column("minus parent", "top-1 (points)"),
        Column("minus control", "top-1 (points)"),
        Column("minus parent", "top-5 (points)"),
        Column("minus control", "top-5 (points)"),
    ]
    means = {_lineage(row): row for row in records(tables.growth_mean)}
    pairs = records(tables.growth)
    rows: list[list[Cell]] = []
    rules = []
    for row in tables.experiments:
        for parent in dict.fromkeys(row["parents"]):
            lineage = (row["name"], parent)
            if (*lineage, "ensemble", "top1") not in means:
                continue  # its parent is of another study
            rules.append(len(rows))
            for model, label in (("ensemble", "ensemble"), ("branch_mean", "mean of branches")):
                top1 = means[(*lineage, model, "top1")]
                head = Cell(row["name"], f"from {parent}, {row['start']}", "code")
                cells = [
                    head if model == "ensemble" else Cell(""),
                    Cell(label),
                    Cell(str(top1["n"])),
                    Cell(spread(top1["child_mean"], top1["child_std"])),
                ]
                for score in ("top1", "top5"):
                    line = means[(*lineage, model, score)]
                    seeds = [pair for pair in pairs if _lineage(pair) == _lineage(line)]
                    cells += [_gain(line, seeds, versus) for versus in ("over_parent", "over_control")]
                rows.append(cells)
    caption = "Final test accuracy of each child, and how far it is above (+) or below (−) the parent and the control"
    caption += ": mean ± standard deviation of the paired differences, each seed below." if tables.replicated else "."
    return Table("growth-table", caption.replace("−", MINUS), columns, rows, "growth.csv", rules)


def _lineage(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return row["experiment"], row["parent"], row["model"], row["metric"]


def _gain(line: Mapping[str, Any], seeds: Sequence[Mapping[str, Any]], versus: str) -> Cell:
    """A paired difference with each seed below; a dash for the control itself and where there is none."""
    values = [seed[versus] for seed in seeds if not math.isnan(seed[versus])]
    detail = DOT.join(number(value, sign=True) for value in values) if len(values) > 1 else ""
    return Cell(spread(line[f"{versus}_mean"], line[f"{versus}_std"], sign=True), detail)


# Learning curves and the graph --------------------------------------------------------------------


def _curves(tables: Tables) -> Section:
    tail = " Lines are means over seeds, bands span all seeds." if tables.replicated else ""
    items: list[Table | Picture] = []
    for name in tables.panels:
        caption = "Training from scratch: test top-1 after every epoch."
        if "finetuning" in name:
            caption = "Training that starts from a parent; the dotted line is the parent's final ensemble."
        items.append(Picture(name, caption + tail, "history.csv"))
    return Section("curves", "Learning curves", [], items)


def _descent(tables: Tables) -> Section:
    picture = Picture(
        "dag",
        "An arrow leads from a parent to the experiment that starts from its weights; B is the number of branches.",
        "study.json",
    )
    labels = ("Experiment", "What it is", "Start", "Parents", "Seeds")
    columns = [Column(label, numeric=False, wide=label == "What it is") for label in labels]
    rows = [
        [
            _name(row),
            Cell(row["about"]),
            Cell(row["start"], tone="code"),
            Cell(", ".join(row["parents"]) or "–", tone="code" if row["parents"] else ""),
            Cell(", ".join(str(seed) for seed in row["seeds"])),
        ]
        for row in tables.experiments
    ]
    caption = "The experiments of this study, in the order of its parameter file."
    table = Table("experiments-table", caption, columns, rows, "study.json")
    return Section("experiments", "Experiments and their descent", [], [picture, table])


SECTIONS: tuple[Callable[[Tables], Section | None], ...] = (
    _brief,
    _accuracy,
    _step0,
    _growth,
    _curves,
    _descent,
    origins.section,
)

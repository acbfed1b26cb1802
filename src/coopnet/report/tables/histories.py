"""Epoch by epoch: `history` of loss and accuracy, `factors` of the modules' own learning rates."""

from collections.abc import Iterable, Sequence

from coopnet.evaluation.gather import FACTOR, SCHEDULE, SPLITS
from coopnet.report.lineage import Lineage
from coopnet.report.runs import Run, StudyInfo, digits, mean
from coopnet.report.tables.rows import Row, Tables

LOSSES = ("loss", "cross_entropy", "kl")


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Tables `history` and `factors`."""
    branches = max((run.branches for run in runs), default=0)
    models = ["ensemble", "branch_mean", *(f"branch{number}" for number in range(1, branches + 1))]
    accuracies = [f"{score}_{model}" for score in ("top1", "top5") for model in models]
    header = ("experiment", "seed", *SCHEDULE, "split", *LOSSES, *accuracies)
    return {
        "history": (header, [row for run in runs for row in _epochs(run)]),
        "factors": (
            ("experiment", "seed", "epoch", "place", "module", "factor"),
            [row for run in runs for row in _factors(run)],
        ),
    }


def _epochs(run: Run) -> Iterable[Row]:
    """One row per epoch and split; the digits are those of the run's own history."""
    columns = list(run.history[0]) if run.history else []
    of_split = {split: [column for column in columns if column.startswith(f"{split}_")] for split in SPLITS}
    head = {"experiment": run.experiment, "seed": run.seed}
    for line in run.history:
        schedule = {column: line.get(column) for column in SCHEDULE}
        for split, own in of_split.items():
            row: Row = {column.removeprefix(f"{split}_"): line[column] for column in own}
            if not row.get("loss"):
                continue  # the run lacks this split, or did not measure it after this epoch
            for score in ("top1", "top5"):
                branches = [float(cell) for column, cell in row.items() if column.startswith(f"{score}_branch")]
                row[f"{score}_branch_mean"] = digits(mean(branches))
            yield head | schedule | {"split": split} | row


def _factors(run: Run) -> Iterable[Row]:
    """One row per epoch and module, in the modules' order from input to output (`place` from 1)."""
    modules = [column for column in (run.history[0] if run.history else ()) if column.startswith(FACTOR)]
    for line in run.history:
        for place, column in enumerate(modules, start=1):
            head = {"experiment": run.experiment, "seed": run.seed, "epoch": line["epoch"]}
            yield head | {"place": place, "module": column.removeprefix(FACTOR), "factor": line[column]}

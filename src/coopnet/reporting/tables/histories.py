"""Epoch by epoch: `history` of loss and accuracy, `factors` of the modules' own learning rates."""

from collections.abc import Iterable, Sequence

from coopnet.reporting.lineage import Lineage
from coopnet.reporting.runs import Run, StudyInfo, digits, mean
from coopnet.reporting.tables.rows import Row, Tables

SCHEDULE = ("epoch", "lr", "rampup", "prior_alpha")
LOSSES = ("loss", "cross_entropy", "kl")
FACTOR = "factor_"


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Tables `history` and `factors`."""
    branches = max(run.branches for run in runs)
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
    for line in run.history:
        for split in ("train", "validation", "test"):
            row: Row = {
                column.removeprefix(f"{split}_"): line[column] for column in line if column.startswith(f"{split}_")
            }
            if not row.get("loss"):
                continue  # a split this run does not have, or did not look at after this epoch
            for score in ("top1", "top5"):
                branches = [float(row[column]) for column in row if column.startswith(f"{score}_branch")]
                row[f"{score}_branch_mean"] = digits(mean(branches))
            schedule = {column: line.get(column) for column in SCHEDULE}
            yield {"experiment": run.experiment, "seed": run.seed, "split": split} | schedule | row


def _factors(run: Run) -> Iterable[Row]:
    """One row per epoch and module, in the modules' order from input to output (`place` from 1)."""
    for line in run.history:
        modules = [column for column in line if column.startswith(FACTOR)]
        for place, column in enumerate(modules, start=1):
            head = {"experiment": run.experiment, "seed": run.seed, "epoch": line["epoch"]}
            yield head | {"place": place, "module": column.removeprefix(FACTOR), "factor": line[column]}

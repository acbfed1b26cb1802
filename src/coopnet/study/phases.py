"""The phases of the method: which phase trains a run, and which one builds its initial network."""

from collections.abc import Sequence

from coopnet.study.settings import GROWING, TRANSFERS, Experiment, Masked

TRAINING = ("train_baseline", "train_one", "transfer", "expand", "merge", "ensemble", "distil", "finetune")
"""The phases that make networks, in their usual order. A row may start from any network, so correctness does not
depend on this order."""


def of_run(row: Experiment, parents: Sequence[Experiment]) -> str:
    """The phase that makes a run of this row, given the rows of its parents."""
    kind = row.start.kind
    if kind == "random":
        taught = bool(parents) or row.training.distillation.kind == "mutual"
        if taught:
            return "distil"
        return "train_baseline" if row.model.gate == "none" else "train_one"
    if row.training.epochs == 0 and kind in TRANSFERS:
        return of_transfer(row, parents)
    return "finetune"


def of_transfer(row: Experiment, parents: Sequence[Experiment]) -> str:
    """The phase that builds the initial network of a run of this row from its parents."""
    if row.start.kind in GROWING:
        return "transfer" if parents[0].model.branches > 1 else "expand"
    plain = row.start.kind == "combine" and row.model.gate == "mean"
    return "ensemble" if plain else "merge"


def begins_with_transfer(row: Experiment) -> bool:
    """Whether a run of this row trains a network that was built by a transfer."""
    return row.start.kind in TRANSFERS and row.training.epochs > 0


def untrained(row: Experiment) -> Experiment:
    """The row of the transfer alone: the network at transfer, without the training that follows.

    Rows that differ only in their training share it.
    """
    plain = {"epochs": 0, "optimizer": {"kind": "sgd", "lr": 1.0}}
    start = Masked(kind="masked", opens=False) if row.start.kind == "masked" else row.start
    training = type(row.training).model_validate(plain)
    return row.model_copy(update={"training": training, "start": start})

"""A study's histories and scores for experiment trackers, sent after training from its tables alone.

The clients are the trackers' own: TensorBoard's writer in PyTorch, Trackio, MLflow. Each gets the same data per run:
the resolved row, the history by epoch, and the scores at transfer and at the end.
"""

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.files.errors import CoopNetError

SCHEDULE = ("lr", "rampup", "prior_alpha")
LEFT_OUT = ("reliability", "images", "pairs", "parent")
"""Metrics that are not sent: curves, counts, single pairs of branches, and scores of other runs."""

UNFINISHED = " (being sent)"
"""Suffix of a run's name until the whole run has been sent to Trackio."""

AT_ONCE = 100
"""Most metrics or parameters that MLflow accepts in one call."""

Value = str | int | float | bool


@dataclass(frozen=True)
class Tracked:
    """The data of a run that a tracker gets.

    Attributes:
        name: `one3/seed0`.
        key: the run's key.
        parameters: its resolved row and seed, flat: `training.optimizer.lr`.
        epochs: scalars of each epoch, numbered from 0: `train/loss`, `test/top1_ensemble`, `lr`.
        scores: scalars of the networks at transfer and at the end: `final/test/ensemble/top1`.
    """

    name: str
    key: str
    parameters: Mapping[str, Value]
    epochs: Mapping[int, Mapping[str, float]]
    scores: Mapping[str, float]

    @property
    def last(self) -> int:
        """The last epoch; 0 for a network that was not trained."""
        return max(self.epochs, default=0)


def read(results: Path, study: str) -> list[Tracked]:
    """The runs of a study, from its committed results.

    Args:
        results: `results/<study>`.
        study: its name, for messages.

    Raises:
        CoopNetError: there are no tables, or a file is damaged.
    """
    table = results / "tables" / "history.csv"
    if not table.is_file():
        raise CoopNetError(f"{table} is missing; make the study's tables first: coopnet tables {study}")
    epochs: dict[str, dict[int, dict[str, float]]] = {}
    try:
        with table.open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                of_run = epochs.setdefault(f"{row['experiment']}/seed{row['seed']}", {})
                of_run.setdefault(int(row["epoch"]), {}).update(_scalars(row))
        metrics, records = (files.read_json(results / name) for name in ("metrics.json", "records.json"))
        return [
            Tracked(
                name=name,
                key=str(one["key"]),
                parameters=_flat(records[name]["row"], ".") | {"seed": records[name]["seed"]},
                epochs=epochs.get(name, {}),
                scores={
                    f"{when}/{what}": float(value)
                    for when in ("at_transfer", "final")
                    for what, value in _flat(one.get(when) or {}, "/").items()
                    if not isinstance(value, str) and not set(what.split("/")) & set(LEFT_OUT)
                },
            )
            for name, one in metrics.items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise CoopNetError(
            f"{results} holds damaged tables ({error!r}); make them again: coopnet tables {study}"
        ) from error


def _scalars(row: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """The numbers of a line of the history: `split/name`, and plain names for the schedule."""
    head = ("experiment", "seed", "epoch", "split")
    for column, cell in row.items():
        if cell and column not in head:
            yield (column if column in SCHEDULE else f"{row['split']}/{column}"), float(cell)


def _flat(content: Any, between: str, before: str = "") -> dict[str, Value]:
    """Nested values under joined names; branches are numbered from 1, other lists are text."""
    flat: dict[str, Value] = {}
    for name, value in content.items():
        place = f"{before}{between}{name}" if before else str(name)
        if isinstance(value, Mapping):
            flat |= _flat(value, between, place)
        elif name == "branches" and isinstance(value, list):
            for number, one in enumerate(value, start=1):
                flat |= _flat(one, between, f"{before}{between}branch{number}")
        elif name not in LEFT_OUT:
            flat[place] = value if isinstance(value, str | int | float) else str(value)
    return flat


# Clients -------------------------------------------------------------------------------------------------------------


def tensorboard(runs: Sequence[Tracked], study: str, place: str | None) -> str:
    """Write event files, a folder per run, all of them or none; returns the command that shows them.

    Raises:
        CoopNetError: the folder is not empty.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(place or f"logs/tensorboard/{study}")
    with files.new_folder(folder) as scratch:
        for run in runs:
            with SummaryWriter(scratch / run.name) as writer:
                for epoch, scalars in run.epochs.items():
                    for name, value in scalars.items():
                        writer.add_scalar(name, value, epoch)
                writer.add_text("run key", run.key)
                writer.add_hparams(dict(run.parameters), dict(run.scores), run_name=".", global_step=run.last)
    return f"tensorboard --logdir {folder}"


def mlflow(runs: Sequence[Tracked], study: str, place: str | None) -> str:
    """Send runs to an MLflow store. Runs whose keys are there already are skipped.

    A run whose sending was interrupted is removed and sent again.

    Raises:
        CoopNetError: the store cannot be reached, or refuses the runs.
    """
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=place)
        name = f"coopnet/{study}"
        known = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if known is None else known.experiment_id
        for run in runs:
            there = client.search_runs([experiment], f"tags.`coopnet.key` = '{run.key}'")
            there = [one for one in there if one.info.run_name == run.name]  # equal rows have the same key
            if any(one.info.status == "FINISHED" for one in there):
                continue
            for one in there:
                client.delete_run(one.info.run_id)
            made = client.create_run(experiment, run_name=run.name, tags={"coopnet.key": run.key})
            when = made.info.start_time
            metrics = [Metric(n, v, when, e) for e, scalars in run.epochs.items() for n, v in scalars.items()]
            metrics += [Metric(name, value, when, run.last) for name, value in run.scores.items()]
            params = [Param(name, str(value)) for name, value in run.parameters.items()]
            for first in range(0, len(params), AT_ONCE):
                client.log_batch(made.info.run_id, params=params[first : first + AT_ONCE])
            for first in range(0, len(metrics), AT_ONCE):
                client.log_batch(made.info.run_id, metrics=metrics[first : first + AT_ONCE])
            client.log_batch(made.info.run_id, tags=[RunTag("coopnet.study", study)])
            client.set_terminated(made.info.run_id)
    except MlflowException as error:
        raise CoopNetError(f"MLflow refuses the runs: {' '.join(str(error).split())[:300]}") from error
    return f"mlflow ui, experiment {name}"


def trackio(runs: Sequence[Tracked], study: str, place: str | None) -> str:
    """Write runs to Trackio's store on this machine. Runs whose keys are there already are skipped.

    A run gets its final name when all of it is written. An incomplete run is removed and sent again.

    Raises:
        CoopNetError: `place` is given; only `trackio sync` can send runs elsewhere.
    """
    import trackio as client

    if place is not None:
        raise CoopNetError(
            "Trackio keeps runs on this machine first; leave --place out, and use trackio sync afterwards"
        )
    project, sent = f"coopnet-{study}", set()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # four lines a run
        with contextlib.suppress(ValueError):  # no such project yet
            for one in client.Api().runs(project):
                if one.name.endswith(UNFINISHED):
                    one.delete()
                else:
                    sent.add((one.name, (one.config or {}).get("coopnet.key")))
        for run in runs:
            if (run.name, run.key) in sent:
                continue
            made = client.init(
                project=project,
                name=run.name + UNFINISHED,
                config=dict(run.parameters) | {"coopnet.key": run.key},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            for epoch, scalars in run.epochs.items():
                made.log(dict(scalars), step=epoch)
            made.log(dict(run.scores), step=run.last)
            made.finish()
            next(one for one in client.Api().runs(project) if one.name == run.name + UNFINISHED).rename(run.name)
    return f"trackio show --project {project}"


CLIENTS: dict[str, Callable[[Sequence[Tracked], str, str | None], str]] = {
    "tensorboard": tensorboard,
    "trackio": trackio,
    "mlflow": mlflow,
}
"""Clients by the name of the tracker, which is also the extra that installs the client."""


def send(results: Path, study: str, to: str, place: str | None) -> str:
    """Send the runs of a study to a tracker; returns the command that shows them.

    Raises:
        CoopNetError: the tracker is unknown, its client is not installed, or `read` or the client fails.
    """
    if to not in CLIENTS:
        raise CoopNetError(f"there is no tracker {to!r}; choose {', '.join(CLIENTS)}")
    runs = read(results, study)
    try:
        return CLIENTS[to](runs, study, place)
    except ModuleNotFoundError as error:
        raise CoopNetError(f"--to {to} needs {error.name}; install it with pip install '.[{to}]' in a clone") from error

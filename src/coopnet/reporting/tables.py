"""The tables of a study: everything the report needs, as CSV and JSON that are committed with the results.

Every table is sorted as the study lists its experiments, then by seed, and holds no wall-clock figure, except
`timing.csv`, which nothing else depends on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.data.datasets import DATASETS
from coopnet.errors import CoopNetError
from coopnet.evaluation.metrics import EXACT
from coopnet.reporting.runs import SCORES, Run, RunFolder, StudyInfo, digits, mean, read, std

__all__ = ["RunFolder", "StudyInfo", "build"]

Row = dict[str, Any]


def build(runs: Sequence[RunFolder], study: StudyInfo, out: Path) -> None:
    """Write `out/*.csv` and `out/study.json` from the files of finished runs.

    Args:
        runs: one folder for every experiment and seed of the study, in any order.
        study: what the study is.
        out: the folder of the tables, `results/<study>/tables`.

    Raises:
        CoopNetError: a run of the study is missing, unfinished or damaged; the message names it.
    """
    finished = _read_all(runs, study)
    step0 = list(_step0(finished))
    growth = list(_growth(finished, study))
    scores = list(_scores(finished))
    _write(out / "runs.csv", RUNS, scores)
    _write(out / "accuracy.csv", *_averaged(scores, ("experiment", "split", "model"), SCORES))
    _write(out / "step0.csv", STEP0, step0)
    _write(out / "step0_mean.csv", *_step0_mean(step0))
    _write(out / "growth.csv", GROWTH, growth)
    _write(out / "growth_mean.csv", *_growth_mean(growth))
    _write_history(out / "history.csv", finished)
    _write(out / "provenance.csv", PROVENANCE, _provenance(finished, study))
    _write(out / "timing.csv", TIMING, (_timing(run) for run in finished))
    files.write_json(out / "study.json", _study(study, finished))


def _read_all(runs: Sequence[RunFolder], study: StudyInfo) -> list[Run]:
    """All runs in the study's order; a planned run without a folder is an error, never a gap."""
    folders = {(run.experiment, run.seed): run for run in runs}
    rows = {row["name"]: row["row"] for row in study.experiments}
    planned = [(row["name"], seed) for row in study.experiments for seed in sorted(row["seeds"])]
    if not planned:
        raise CoopNetError(f"study {study.name} has no runs to report; add an experiment with a seed")
    for experiment, seed in planned:
        if (experiment, seed) not in folders:
            raise CoopNetError(f"{experiment} seed {seed} is missing from the report; run that experiment first")
    return [read(folders[run], rows[run[0]]) for run in planned]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table; one without rows keeps its header, so that a reader always finds the file."""
    complete = [{column: row.get(column) for column in columns} for row in rows]
    if complete:
        files.write_rows(path, complete)
    else:
        files.write_text(path, ",".join(columns) + "\n")


# Accuracy and calibration -------------------------------------------------------------------------

RUNS = ("experiment", "seed", "split", "model", "images", *SCORES, "gate")


def _scores(runs: Sequence[Run]) -> Iterable[Row]:
    """One row per run, split and model: final scores; `gate` is the mean gate weight of a branch."""
    for run in runs:
        for split in ("test", "validation"):
            block = run.metrics["final"].get(split)
            for model, scores in run.models(block).items() if block else ():
                yield {
                    "experiment": run.experiment,
                    "seed": run.seed,
                    "split": split,
                    "model": model,
                    "images": block["images"],
                    **scores,
                }


def _groups(rows: Iterable[Row], keys: Sequence[str]) -> Iterable[tuple[Row, list[Row]]]:
    """Rows that agree in `keys`, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    for values, members in groups.items():
        yield dict(zip(keys, values, strict=True)), members


def _statistics(members: Sequence[Row], columns: Sequence[str]) -> Row:
    """`<column>_mean` and `<column>_std` (empty for a single value) of each column that has values."""
    statistics: Row = {}
    for column in columns:
        values = [row[column] for row in members if row.get(column) is not None]
        spread = std(values)
        statistics[f"{column}_mean"] = digits(mean(values)) if values else None
        statistics[f"{column}_std"] = None if spread is None else digits(spread)
    return statistics


def _averaged(rows: Sequence[Row], keys: Sequence[str], columns: Sequence[str]) -> tuple[tuple[str, ...], list[Row]]:
    """Header and rows of the mean ± std over seeds of every group, with n."""
    header = (*keys, "n", *(f"{column}_{suffix}" for column in columns for suffix in ("mean", "std")))
    table = [group | {"n": len(m)} | _statistics(m, columns) for group, m in _groups(rows, keys)]
    return header, table


# Step 0: right after surgery, before any training -------------------------------------------------

PARENT_SCORES = tuple(f"parent_{score}" for score in SCORES)
LOGITS = (
    "changed_predictions",
    "changed_percent",
    "largest_logit_difference",
    "largest_logit",
    "relative_difference",
)
STEP0 = ("experiment", "start", "seed", "images", *LOGITS, "exact", *SCORES, *PARENT_SCORES)


def _step0(runs: Sequence[Run]) -> Iterable[Row]:
    """One row per run that began with surgery: the test images' ensemble scores, and the parent's beside them."""
    for run in runs:
        if run.metrics.get("step0") and run.grown:
            block = run.metrics["step0"]["test"]
            row: Row = {
                "experiment": run.experiment,
                "start": run.start,
                "seed": run.seed,
                "images": block["images"],
            }
            row |= {key: block["ensemble"][key] for key in SCORES}
            yield row | _versus_parent(block.get("versus_parent"), block["images"])


def _versus_parent(versus: Mapping[str, Any] | None, images: int) -> Row:
    """How far the logits are from the parent's; empty for a network with several parents."""
    if not versus:
        return {}
    difference, largest = versus["largest_logit_difference"], versus["largest_logit"]
    return {
        "changed_predictions": versus["changed_predictions"],
        "changed_percent": digits(100 * versus["changed_predictions"] / images),
        "largest_logit_difference": difference,
        "largest_logit": largest,
        "relative_difference": digits(difference / largest) if largest else None,
        "exact": "yes" if difference <= EXACT * largest else "no",
        **{f"parent_{key}": versus["parent"][key] for key in SCORES},
    }


def _step0_mean(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[Row]]:
    """Means over seeds; `exact` only where every seed is."""
    numbers = (*LOGITS, *SCORES, *PARENT_SCORES)
    table = []
    for group, members in _groups(rows, ("experiment", "start")):
        row = group | {"n": len(members), "images": members[0]["images"]}
        for column in numbers:
            values = [member[column] for member in members if member.get(column) is not None]
            row[column] = digits(mean(values)) if values else None
        verdicts = {member.get("exact") for member in members}
        row["exact"] = None if None in verdicts else ("yes" if verdicts == {"yes"} else "no")
        table.append(row)
    return ("experiment", "start", "n", "images", *LOGITS, "exact", *SCORES, *PARENT_SCORES), table


# Growth: a child against its own parent, and against the parent trained on ------------------------

LINEAGE = ("experiment", "start", "parent", "control", "model", "metric")
VALUES = ("child", "parent_value", "control_value", "over_parent", "over_control")
GROWTH = (*LINEAGE, "seed", "parent_seed", *VALUES)


def _growth(runs: Sequence[Run], study: StudyInfo) -> Iterable[Row]:
    """One row per run, parent, model and metric; `over_*` is child minus parent or control, paired by lineage."""
    descent = _descent(runs, study)
    for run in runs:
        for parent in descent[run.experiment, run.seed]:
            control = _control(run, parent, runs, descent)
            lineage = {
                "experiment": run.experiment,
                "start": run.start,
                "seed": run.seed,
                "parent": parent.experiment,
                "parent_seed": parent.seed,
                "control": control.experiment if control else None,
            }
            for values in _comparison(run, parent, control):
                yield lineage | values


Descent = dict[tuple[str, int], list[Run]]


def _descent(runs: Sequence[Run], study: StudyInfo) -> Descent:
    """The parents of every run, found by the keys in its record among the experiments its row names."""
    declared = {row["name"]: [p["experiment"] for p in row.get("parents") or ()] for row in study.experiments}
    descent: Descent = {}
    for run in runs:
        named = {other.record["key"]: other for other in runs if other.experiment in declared[run.experiment]}
        keys = [parent["key"] for parent in run.record.get("parents") or ()]
        descent[run.experiment, run.seed] = [named[key] for key in keys if key in named]
    return descent


def _control(run: Run, parent: Run, runs: Sequence[Run], descent: Descent) -> Run | None:
    """The run that trained the same parent on, without surgery, for as many epochs."""
    if not run.grown:
        return None
    for other in runs:
        if (
            other.start == "continue"
            and descent[other.experiment, other.seed] == [parent]
            and len(other.history) == len(run.history)
        ):
            return other
    return None


def _comparison(run: Run, parent: Run, control: Run | None) -> Iterable[Row]:
    """Ensemble, mean of branches and branch 1 in every score, on the test images."""
    scores: Callable[[Run], dict[str, dict[str, float]]] = lambda r: r.models(r.metrics["final"]["test"])  # noqa: E731
    child_scores, parent_scores = scores(run), scores(parent)
    control_scores = scores(control) if control else None
    for model in ("ensemble", "branch_mean", "branch1"):
        for metric in SCORES:
            child, before = child_scores[model][metric], parent_scores[model][metric]
            longer = control_scores[model][metric] if control_scores else None
            yield {
                "model": model,
                "metric": metric,
                "child": child,
                "parent_value": before,
                "control_value": longer,
                "over_parent": digits(child - before),
                "over_control": None if longer is None else digits(child - longer),
            }


def _growth_mean(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[Row]]:
    """Mean ± std over seeds; several parents of one child are averaged first, so that n counts networks."""
    per_seed = []
    for group, members in _groups(rows, (*LINEAGE, "seed")):
        means = {key: value for key, value in _statistics(members, VALUES).items() if key.endswith("_mean")}
        per_seed.append(group | {key.removesuffix("_mean"): value for key, value in means.items()})
    return _averaged(per_seed, LINEAGE, VALUES)


# Histories, provenance, timing --------------------------------------------------------------------

SCHEDULE = ("epoch", "lr", "rampup", "prior_alpha")
LOSSES = ("loss", "cross_entropy", "kl")


def _write_history(path: Path, runs: Sequence[Run]) -> None:
    """One row per run, epoch and split; the digits are those of the run's own history."""
    branches = max(len(run.metrics["final"]["test"]["branches"]) for run in runs)
    models = ["ensemble", "branch_mean", *(f"branch{number}" for number in range(1, branches + 1))]
    accuracies = [f"{score}_{model}" for score in ("top1", "top5") for model in models]
    header = ("experiment", "seed", *SCHEDULE, "split", *LOSSES, *accuracies)
    _write(path, header, (row for run in runs for row in _history(run)))


def _history(run: Run) -> Iterable[Row]:
    for line in run.history:
        for split in ("train", "validation", "test"):
            row: Row = {
                column.removeprefix(f"{split}_"): line[column] for column in line if column.startswith(f"{split}_")
            }
            if not row.get("loss"):
                continue  # a split this run does not have
            for score in ("top1", "top5"):
                branches = [float(row[column]) for column in row if column.startswith(f"{score}_branch")]
                row[f"{score}_branch_mean"] = digits(mean(branches))
            schedule = {column: line.get(column) for column in SCHEDULE}
            yield {"experiment": run.experiment, "seed": run.seed, "split": split} | schedule | row


PROVENANCE = (
    *(
        "experiment",
        "seed",
        "key",
        "parents",
        "dataset",
        "data_digest",
        "parameters",
        "epochs",
        "selected_epoch",
    ),
    *("threads", "device", "libraries", "code", "numerics"),
)


def _provenance(runs: Sequence[Run], study: StudyInfo) -> Iterable[Row]:
    descent = _descent(runs, study)
    for run in runs:
        record, code = run.record, run.record["code"]
        modified = " (modified)" if code.get("modified") else ""
        yield {
            "experiment": run.experiment,
            "seed": run.seed,
            "key": record["key"],
            "parents": "; ".join(f"{p.experiment} seed {p.seed}" for p in descent[run.experiment, run.seed]),
            "dataset": record["data"].get("dataset"),
            "data_digest": _flat(record["data"].get("digest")),
            "parameters": record["parameters"],
            "epochs": len(run.history),
            "selected_epoch": record.get("selected_epoch"),
            "threads": record.get("threads"),
            "device": _device(record["device"]),
            "libraries": _flat(record["libraries"]),
            "code": f"{code.get('version')}, commit {code.get('commit') or 'unknown'}{modified}",
            "numerics": code.get("numerics"),
        }


def _device(device: Mapping[str, Any]) -> str:
    """`cpu: AMD EPYC; …`: kind and name first, then whatever else the run recorded."""
    rest = _flat({key: value for key, value in device.items() if key not in ("type", "name")})
    name = f"{device.get('type')}: {device.get('name') or 'unnamed'}"
    return f"{name}; {rest}" if rest else name


def _flat(value: Any) -> str:
    """A mapping as `key value; key value`, sorted, without what is empty; a list with commas; else plain text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_flat(value[key])}" for key in sorted(value) if value[key] not in (None, []))
    if isinstance(value, list | tuple):
        return ", ".join(_flat(item) for item in value)
    return "" if value is None else str(value)


TIMING = ("experiment", "seed", "epochs", "train_seconds", "evaluation_seconds", "images_per_second")


def _timing(run: Run) -> Row:
    """Totals of one run; images/s is the training rate, averaged over time."""
    train = [float(row["train_seconds"]) for row in run.timing]
    images = [float(row["images_per_second"]) * float(row["train_seconds"]) for row in run.timing]
    return {
        "experiment": run.experiment,
        "seed": run.seed,
        "epochs": len(run.timing),
        "train_seconds": round(sum(train), 2),
        "evaluation_seconds": round(sum(float(row["evaluation_seconds"]) for row in run.timing), 2),
        "images_per_second": round(sum(images) / sum(train), 1) if sum(train) else None,
    }


# What the study is --------------------------------------------------------------------------------


def _study(study: StudyInfo, runs: Sequence[Run]) -> Row:
    return {
        "name": study.name,
        "title": study.title,
        "description": study.description,
        "threads": study.threads,
        "device": study.device,
        "seeds": sorted({run.seed for run in runs}),
        "runs": len(runs),
        "experiments": [_experiment(row, runs) for row in study.experiments],
    }


def _experiment(experiment: Mapping[str, Any], runs: Sequence[Run]) -> Row:
    row = experiment["row"]
    own = next(run for run in runs if run.experiment == experiment["name"])
    data = row["data"]
    return {
        "name": experiment["name"],
        "about": experiment.get("about") or "",
        "network": network_name(row["model"]),
        "branches": len(own.metrics["final"]["test"]["branches"]),
        "epochs": len(own.history),
        "start": row["start"]["kind"],
        "parents": [parent["experiment"] for parent in experiment.get("parents") or ()],
        "seeds": sorted(experiment["seeds"]),
        "images": {
            "train": data["training_subset"] or DATASETS[data["dataset"]].counts["train"] - data["validation"],
            "validation": data["validation"],
            "test": own.metrics["final"]["test"]["images"],
        },
        "row": row,
    }


def network_name(model: Mapping[str, Any]) -> str:
    """`ResNet-32`, and what sets it apart from the usual network of that name."""
    name = f"ResNet-{model['depth']}"
    if model["block"] == "bottleneck":
        name += ", bottleneck blocks"
    usual = 64 if model["family"] == "resnet18" else 16
    return name if model["width"] == usual else f"{name}, width {model['width']}"

"""Seed, data, software and machine of every run, and its duration: `provenance` and `timing`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopnet.report.lineage import Lineage
from coopnet.report.runs import Run, StudyInfo
from coopnet.report.tables.rows import Row, Tables

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
TIMING = ("experiment", "seed", "epochs", "train_seconds", "evaluation_seconds", "images_per_second")


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Tables `provenance` and `timing`."""
    return {"provenance": (PROVENANCE, _provenance(runs, lineage)), "timing": (TIMING, [_timing(run) for run in runs])}


def _provenance(runs: Sequence[Run], lineage: Lineage) -> Iterable[Row]:
    for run in runs:
        record, code = run.record, run.record["code"]
        modified = " (modified)" if code.get("modified") else ""
        yield {
            "experiment": run.experiment,
            "seed": run.seed,
            "key": record["key"],
            "parents": "; ".join(f"{p.experiment} seed {p.seed}" for p in lineage.origins(run)),
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
    """A mapping as `key value; key value`, sorted, without empty values; a list with commas; else plain text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_flat(value[key])}" for key in sorted(value) if value[key] not in (None, []))
    if isinstance(value, list | tuple):
        return ", ".join(_flat(item) for item in value)
    return "" if value is None else str(value)


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

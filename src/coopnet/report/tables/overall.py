"""The description of the study: `study.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from coopnet.data.datasets import DATASETS
from coopnet.report.runs import Run, StudyInfo
from coopnet.report.tables.rows import Row


def describe(study: StudyInfo, runs: Sequence[Run]) -> Row:
    """The study's name, words, scale and experiments."""
    return _whole(study, runs) | (_missing_runs(study) if study.missing_runs else {})


def _whole(study: StudyInfo, runs: Sequence[Run]) -> Row:
    return {
        "name": study.name,
        "title": study.title,
        "description": study.description,
        "threads": study.threads,
        "device": study.device,
        "seeds": sorted({run.seed for run in runs}),
        "runs": len(runs),
        "experiments": [_experiment(row, runs) for row in study.with_results],
    }


def _missing_runs(study: StudyInfo) -> Row:
    """The runs without results, and the experiments without any. A complete study does not have these keys."""
    return {
        "losses": list(study.missing_runs),
        "lost": [_words(row) for row in study.experiments if not row["seeds"]],
    }


def _experiment(experiment: Mapping[str, Any], runs: Sequence[Run]) -> Row:
    own = next(run for run in runs if run.experiment == experiment["name"])
    words = _words(experiment)
    images = words["images"] | {"test": own.metrics["final"]["test"]["images"]}
    names = (own.record.get("data") or {}).get("class_names")  # of a user's own data
    classes = {"class_names": list(names)} if names else {}
    return words | classes | {"branches": own.branches, "epochs": len(own.history), "images": images}


def _words(experiment: Mapping[str, Any]) -> Row:
    """The description of an experiment, without its results."""
    row = experiment["row"]
    return {
        "name": experiment["name"],
        "about": experiment.get("about") or "",
        "part": experiment.get("part") or "foundation",
        "backbone": backbone(row["model"]),
        "network": network_name(row["model"]),
        "branches": row["model"]["branches"],
        "epochs": row["training"]["epochs"],
        "start": row["start"]["kind"],
        "parents": [parent["experiment"] for parent in experiment.get("parents") or ()],
        "seeds": sorted(experiment["seeds"]),
        "images": {"train": training_images(row["data"]), "validation": row["data"]["validation"]},
        "row": row,
    }


def training_images(data: Mapping[str, Any]) -> int:
    """Number of training images of a row, from its settings `data`."""
    available = data.get("images") or DATASETS[data["dataset"]].counts["train"]
    return int(data["training_subset"] or available - data["validation"])


def network_name(model: Mapping[str, Any]) -> str:
    """`ResNet-32`, and its differences from the usual cooperative network of that name."""
    several = model["branches"] > 1
    parts = [backbone(model)]
    parts += ["own trunks"] if several and model.get("trunk") == "own" else []
    parts += ["plain mean"] if several and model["gate"] == "mean" else []
    return ", ".join(parts)


def backbone(model: Mapping[str, Any]) -> str:
    """`ResNet-32`, and the differences of its layers from the usual ones."""
    if model.get("split"):
        return f"{model['name']} of {model['family']}, split at {model['split']}"
    usual = 64 if model["family"] == "resnet18" else 16
    parts = ["bottleneck blocks"] if model["block"] == "bottleneck" else []
    parts += [] if model["width"] == usual else [f"width {model['width']}"]
    return f"ResNet-{model['depth']}" + (f" ({', '.join(parts)})" if parts else "")

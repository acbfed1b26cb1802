"""What the study is: `study.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from coopnet.data.datasets import DATASETS
from coopnet.reporting.runs import Run, StudyInfo
from coopnet.reporting.tables.rows import Row


def describe(study: StudyInfo, runs: Sequence[Run]) -> Row:
    """The study's name, words, scale and experiments."""
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
        "part": experiment.get("part") or "foundation",
        "backbone": backbone(row["model"]),
        "network": network_name(row["model"]),
        "branches": own.branches,
        "epochs": len(own.history),
        "start": row["start"]["kind"],
        "parents": [parent["experiment"] for parent in experiment.get("parents") or ()],
        "seeds": sorted(experiment["seeds"]),
        "images": {
            "train": training_images(data),
            "validation": data["validation"],
            "test": own.metrics["final"]["test"]["images"],
        },
        "row": row,
    }


def training_images(data: Mapping[str, Any]) -> int:
    """How many images a row learns from, by its settings `data`."""
    return int(data["training_subset"] or DATASETS[data["dataset"]].counts["train"] - data["validation"])


def network_name(model: Mapping[str, Any]) -> str:
    """`ResNet-32`, and what sets it apart from the usual cooperative network of that name."""
    several = model["branches"] > 1
    parts = [backbone(model)]
    parts += ["own trunks"] if several and model.get("trunk") == "own" else []
    parts += ["plain mean"] if several and model["gate"] == "mean" else []
    return ", ".join(parts)


def backbone(model: Mapping[str, Any]) -> str:
    """`ResNet-32`, and what sets its layers apart from the usual ones."""
    usual = 64 if model["family"] == "resnet18" else 16
    parts = ["bottleneck blocks"] if model["block"] == "bottleneck" else []
    parts += [] if model["width"] == usual else [f"width {model['width']}"]
    return f"ResNet-{model['depth']}" + (f" ({', '.join(parts)})" if parts else "")

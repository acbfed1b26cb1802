"""`coopnet stages`: what DVC has to know of the studies, derived from `params.yaml` and the overlays.

The full study is `dvc.yaml` at the root, every other one `dvc/<study>/dvc.yaml`, with the root as its working folder.
What the stages of one kind have in common stands there once; `dvc/<study>/runs.yaml` lists the runs they are made for.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from coopnet import files, numerics, stamps, study
from coopnet.data.datasets import DATASETS
from coopnet.errors import CoopNetError
from coopnet.study import FULL, Run, Study
from coopnet.workspace import CHECKPOINT, EVALUATED, PREPARED, REPORT, TABLES, Workspace

log = logging.getLogger(__name__)

SOURCES = ("claims", "evaluation", "networks", "numerics", "reporting")
"""Fingerprints in `dvc/source/`: a comment changes none of them, so nothing but the stage that takes them is run."""

HERE = Workspace(Path())
"""Paths as DVC has them, relative to the root."""

PLOTS = {
    "history.csv": {"x": "epoch", "y": "top1_ensemble", "y_label": "ensemble top-1 on test images (%)"},
    "reliability.csv": {"x": "confidence", "y": "accuracy", "x_label": "confidence (%)", "y_label": "accuracy (%)"},
    "votes.csv": {"x": "size", "y": "top1", "x_label": "branches that vote", "y_label": "mean top-1 of such votes (%)"},
}
"""Tables that `dvc plots` draws, a panel per experiment: of test images, at the end of a run, and of the gate's votes."""

HEAD = "# Written by `coopnet stages` from params.yaml and studies/; `dvc repro` reads it. Do not edit.\n"


def write(workspace: Workspace, *, check: bool) -> None:
    """Write the stages of all studies, or only see whether they are up to date.

    Raises:
        CoopNetError: with `check`, a file is not what it would be written as.
    """
    for path, content in stages(workspace).items():
        text = HEAD + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)
        known = path.read_text(encoding="utf-8") if path.is_file() else None
        if known == text:
            continue
        if check:
            raise CoopNetError(f"{path} is not that of params.yaml and studies/ any more; run `coopnet stages`")
        files.write_text(path, text)
        log.info("%s", path)


def stages(workspace: Workspace) -> dict[Path, dict[str, Any]]:
    """The content of every file that DVC needs, by its path."""
    written: dict[Path, dict[str, Any]] = {}
    for name in study.names(workspace.root):
        plan = study.load(workspace.root, name)
        folder = workspace.root / "dvc" / name
        written[folder / "runs.yaml"] = {
            "study": name,
            "runs": {_id(run): _item(plan, run) for run in plan.runs.values()},
        }
        if name == FULL:
            shared = {"source": _source(workspace), "prepare": _prepare()}
            made = shared | _stages(workspace, plan)
            written[workspace.root / "dvc.yaml"] = _file(f"dvc/{name}/runs.yaml", made, _plots(plan, ""))
        else:
            own = {key: _from_root(stage) for key, stage in _stages(workspace, plan).items()}
            written[folder / "dvc.yaml"] = _file("runs.yaml", own, _plots(plan, "../../"))
    return written


def _file(runs: str, made: Mapping[str, Any], plots: list[Any]) -> dict[str, Any]:
    return {"vars": [runs], "stages": dict(made), "plots": plots}


def _plots(plan: Study, root: str) -> list[Any]:
    """Tables to draw, by their paths from the file; the template is `.dvc/plots/by_experiment.json`."""
    return [
        {f"{root}{HERE.tables(plan) / name}": {"template": "by_experiment", **axes}} for name, axes in PLOTS.items()
    ]


def _from_root(stage: dict[str, Any]) -> dict[str, Any]:
    if "do" in stage:
        return stage | {"do": {"wdir": "../..", **stage["do"]}}
    return {"wdir": "../..", **stage}


def _id(run: Run) -> str:
    return f"{run.experiment}-seed{run.seed}"


def _item(plan: Study, run: Run) -> dict[str, Any]:
    """What sets a run's stages apart: DVC fills in single values, so each parent has a place of its own."""
    parents = {f"parent{place}": _record(plan, parent) for place, parent in enumerate(run.parents, start=1)}
    none = str(HERE.prepared(run.row.data.dataset) / "manifest.json")  # a dependency may be named twice
    most = max(len(row.parents) for row in plan.experiments.values())
    empty = {f"parent{place}": none for place in range(1, most + 1)}
    return {"experiment": run.experiment, "seed": run.seed, "dataset": run.row.data.dataset} | empty | parents


def _record(plan: Study, run: Run) -> str:
    """The record of a run, which names the digests of all its other files."""
    return str(HERE.run(plan, run) / "run.json")


def source(workspace: Workspace) -> None:
    """Write the fingerprint of each kind of source to `dvc/source/`, leaving alone what has not changed."""
    package = Path(numerics.__file__).parent
    for name in SOURCES:
        digest = numerics.source_hash() if name == "numerics" else stamps.source_of(package / name)
        stamps.mark(workspace.root / "dvc" / "source" / name, digest + "\n")


def _source(workspace: Workspace) -> dict[str, Any]:
    """Fingerprints of the source that decides results."""
    modules = sorted(f"src/coopnet/{module}" for module in numerics.MODULES)
    packages = [f"src/coopnet/{name}" for name in SOURCES if name != "numerics"]
    return {
        "cmd": "coopnet source",
        "deps": sorted({*packages, *(one for one in modules if not one.startswith("src/coopnet/networks/"))}),
        "outs": [_kept(f"dvc/source/{name}") for name in SOURCES],
    }


def _prepare() -> dict[str, Any]:
    outs = [{f"data/prepared/${{item}}/{name}": {"persist": True}} for name in PREPARED]
    return {"foreach": sorted(DATASETS), "do": {"cmd": "coopnet prepare ${item}", "outs": outs}}


def _stages(workspace: Workspace, plan: Study) -> dict[str, Any]:
    """Train, evaluate, tables, claims, report and timing of a study."""
    most = max(len(row.parents) for row in plan.experiments.values())
    here = "results/${study}/${item.experiment}/seed${item.seed}"
    weights = "checkpoints/${item.dataset}/${study}/${item.experiment}/seed${item.seed}"
    run = "${study} ${item.experiment} ${item.seed}"
    parents = [f"${{item.parent{place}}}" for place in range(1, most + 1)]
    # These two name the digests of a run's other files.
    records = [str(HERE.run(plan, one) / name) for one in plan.runs.values() for name in ("metrics.json", "run.json")]
    tables = [str(HERE.tables(plan) / name) for name in (*TABLES, "timing.csv")]
    claims, report = str(HERE.claims(plan)), HERE.report(plan)
    words = ["title", "description", "device", "experiments"]
    return {
        "train": {
            "foreach": "${runs}",
            "do": {
                "cmd": f"coopnet train {run}",
                "deps": [
                    "dvc/source/numerics",
                    *(f"data/prepared/${{item.dataset}}/{name}" for name in PREPARED),
                    *parents,
                ],
                "params": _parameters(workspace, plan),
                "outs": [
                    *({f"{weights}/{name}": {"cache": name != "model.json", "persist": True}} for name in CHECKPOINT),
                    {f"{here}/logits.safetensors": {"persist": True}},
                    *(_kept(f"{here}/{name}") for name in ("run.json", "timing.csv")),
                ],
                "plots": [
                    {f"{here}/history.csv": {"cache": False, "persist": True, "x": "epoch", "y": "test_top1_ensemble"}}
                ],
            },
        },
        "evaluate": {
            "foreach": "${runs}",
            "do": {
                "cmd": f"coopnet evaluate {run}",
                "deps": ["dvc/source/evaluation", f"{here}/run.json", f"{here}/logits.safetensors", *parents],
                "outs": [_kept(f"{here}/{name}") for name in EVALUATED if name != "scores.json"],
                "metrics": [_kept(f"{here}/scores.json")],
            },
        },
        "tables": {
            "cmd": f"coopnet tables {plan.name}",
            "deps": ["dvc/source/networks", "dvc/source/reporting", "figures.yaml", *records],
            "params": _keys(workspace, plan, words, words),
            "outs": [_kept(name) for name in tables],
        },
        "claims": {
            "cmd": f"coopnet claims {plan.name}",
            "deps": ["dvc/source/claims", "claims.yaml", str(HERE.tables(plan) / "compute.csv"), *records],
            "outs": [_kept(claims)],
        },
        "report": {
            "cmd": f"coopnet report {plan.name}",
            "deps": ["dvc/source/reporting", claims, *(name for name in tables if not name.endswith("timing.csv"))],
            "outs": [_kept(f"{report}/{name}") for name in REPORT],
        },
        "timing": {
            "cmd": f"coopnet timing {plan.name}",
            "deps": [
                "dvc/source/reporting",
                str(HERE.tables(plan) / "study.json"),
                str(HERE.tables(plan) / "timing.csv"),
            ],
            "outs": [_kept(f"{report}/timing.html")],
        },
    }


def _kept(path: str) -> dict[str, Any]:
    """An output that git keeps, and that stays in place until there is another one."""
    return {path: {"cache": False, "persist": True}}


def _parameters(workspace: Workspace, plan: Study) -> list[Any]:
    """What decides a run: its row, and what is laid over all rows."""
    own = ["threads", "defaults", "experiments.${item.experiment}"]
    return _keys(workspace, plan, own, ["threads", "time_scale", "every_experiment", "experiments"])


def _keys(workspace: Workspace, plan: Study, keys: list[str], overlaid: list[str]) -> list[Any]:
    """Keys of `params.yaml`, and of a study's overlay those it has: DVC refuses keys that are missing."""
    files_of: list[Any] = [{"params.yaml": keys}]
    if plan.name != FULL:
        overlay = study.read_yaml(workspace.root / "studies" / f"{plan.name}.yaml")
        files_of.append({f"studies/{plan.name}.yaml": [key for key in overlaid if key in overlay]})
    return files_of

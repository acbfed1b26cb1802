"""`coopnet stages`: what DVC has to know of the studies, derived from `params.yaml` and the overlays.

`dvc.yaml` at the root is the full study, `dvc/<study>/dvc.yaml` every other one; all work in the root.
The runs are in `dvc/<study>/<experiment>/dvc.yaml`, each with a `dvc.lock` of its own: DVC rewrites the whole of a lock
after every stage, so one for all runs would cost more than small networks to train.
"""

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from coopnet import files, study
from coopnet.data.datasets import Dataset
from coopnet.files.errors import CoopNetError
from coopnet.runs import steps
from coopnet.runs.steps import Step
from coopnet.runs.workspace import CHECKPOINT, EVALUATED, PREPARED, Workspace
from coopnet.study import FULL, Run, Study, numerics

log = logging.getLogger(__name__)

KINDS = ("numerics", *steps.SOURCES)
"""Fingerprints in `dvc/source/`: a comment changes none of them, so nothing but the stage that takes them is run."""

HERE = Workspace(Path())
"""Paths as DVC has them, relative to the root."""

PLOTS = {
    "history.csv": {"x": "epoch", "y": "top1_ensemble", "y_label": "ensemble top-1 on test images (%)"},
    "reliability.csv": {"x": "confidence", "y": "accuracy", "x_label": "confidence (%)", "y_label": "accuracy (%)"},
    "votes.csv": {"x": "size", "y": "top1", "x_label": "branches that vote", "y_label": "mean top-1 of such votes (%)"},
}
"""Tables that `dvc plots` draws, a panel per experiment: of test images, after training, by the votes of the gate."""

STYLE: dict[str, Any] = {"sort_keys": False, "width": 120, "allow_unicode": True}


class _Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # C where PyYAML has it
    """Lists that occur twice are written twice: a reader should not have to look for an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


HEAD = "# Written by `coopnet stages` from params.yaml and studies/; `dvc repro` reads it. Do not edit.\n"


def write(workspace: Workspace, *, check: bool) -> None:
    """Write the stages of all studies, or only see whether they are up to date.

    Raises:
        CoopNetError: with `check`, a file is not what it would be written as.
    """
    wanted = stages(workspace)
    outdated = [path for path, content in wanted.items() if not path.is_file() or path.read_text("utf-8") != content]
    written = [path for path in (workspace.root / "dvc").rglob("dvc.yaml") if path.read_text("utf-8").startswith(HEAD)]
    left_over = sorted(set(written) - set(wanted))
    if check and (outdated or left_over):
        path = [*outdated, *left_over][0]
        raise CoopNetError(f"{path} is not that of params.yaml and studies/ any more; run `coopnet stages`")
    for path in outdated:
        files.write_text(path, wanted[path])
    for path in left_over:
        for name in (path, path.with_name("dvc.lock")):
            name.unlink(missing_ok=True)
    if outdated or left_over:
        log.info("stages of DVC: %d files written, %d removed", len(outdated), len(left_over))


def stages(workspace: Workspace) -> dict[Path, str]:
    """The text of every file that DVC needs, by its path."""
    written: dict[Path, dict[str, Any]] = {}
    for name in study.names(workspace.root):
        plan = study.load(workspace.root, name)
        folder, in_git, overlaid = workspace.root / "dvc" / name, _in_git(workspace, name), _overlaid(workspace, name)
        runs: dict[str, list[Run]] = {experiment: [] for experiment in plan.experiments}
        for run in plan.runs.values():
            runs[run.experiment].append(run)
        for experiment in plan.experiments:
            params = _parameters(plan, experiment, overlaid)
            written[folder / experiment / "dvc.yaml"] = _experiment(plan, experiment, runs[experiment], in_git, params)
        if name == FULL:
            whole = {"source": _source(), "prepare": _prepare(plan)} | _study(plan, in_git, overlaid)
            written[workspace.root / "dvc.yaml"] = {"stages": whole, "plots": _plots(plan, "")}
        else:
            own = _from_root(_study(plan, in_git, overlaid), "../..")
            written[folder / "dvc.yaml"] = {"stages": own, "plots": _plots(plan, "../../")}
    return {path: HEAD + yaml.dump(content, Dumper=_Plain, **STYLE) for path, content in written.items()}


def _from_root(stages: Mapping[str, dict[str, Any]], root: str) -> dict[str, Any]:
    """Stages in a folder of their own, with paths from the root."""
    return {
        name: stage | {"do": {"wdir": root, **stage["do"]}} if "do" in stage else {"wdir": root, **stage}
        for name, stage in stages.items()
    }


def _plots(plan: Study, root: str) -> list[Any]:
    """Tables to draw, by their paths from the file; the template is `.dvc/plots/by_experiment.json`."""
    return [
        {f"{root}{HERE.tables(plan.name) / name}": {"template": "by_experiment", **axes}}
        for name, axes in PLOTS.items()
    ]


def source(workspace: Workspace) -> None:
    """Write the fingerprints of the source, as DVC's first stage.

    Raises:
        CoopNetError: DVC's stages are not up to date, so that it would leave something out.
    """
    write(workspace, check=True)
    write_fingerprints(workspace)


def write_fingerprints(workspace: Workspace) -> None:
    """Write the fingerprint of each kind of source to `dvc/source/`, leaving alone what has not changed."""
    for kind in KINDS:
        path, content = workspace.root / "dvc" / "source" / kind, steps.fingerprint(kind) + "\n"
        if not path.is_file() or path.read_text() != content:
            files.write_text(path, content)


def _source() -> dict[str, Any]:
    """Fingerprints of the source that decides results; and that the stages are those of the parameters."""
    places = sorted({*numerics.MODULES, *(place for places in steps.SOURCES.values() for place in places)})
    inside = [place for place in places if place.split("/")[0] in places and "/" in place]  # a folder that is listed
    return {
        "cmd": "coopnet source",
        "deps": ["params.yaml", "studies", *(f"src/coopnet/{place}" for place in places if place not in inside)],
        "outs": [_kept(f"dvc/source/{kind}", True) for kind in KINDS],
    }


def _prepare(plan: Study) -> dict[str, Any]:
    """How each dataset that can be trained on is prepared; of one's own, what `params.yaml` says is in the command.

    DVC would refuse it as a parameter of datasets that `params.yaml` does not describe.
    """
    ready = sorted(name for name, dataset in plan.data.items() if dataset.digest)
    described = {name: f"  # {_described(plan.data[name])}" if plan.data[name].measured else "" for name in ready}
    if not any(described.values()):
        outs = [{f"data/prepared/${{item}}/{name}": {"persist": True}} for name in PREPARED]
        return {"foreach": ready, "do": {"cmd": "coopnet prepare ${item}", "outs": outs}}
    outs = [{f"data/prepared/${{key}}/{name}": {"persist": True}} for name in PREPARED]
    return {"foreach": described, "do": {"cmd": "coopnet prepare ${key}${item}", "outs": outs}}


def _described(dataset: Dataset) -> str:
    """Fingerprint of all that decides what is prepared."""
    return "datasets of params.yaml: " + hashlib.sha256(repr(dataset).encode()).hexdigest()[:16]


def _experiment(plan: Study, name: str, runs: Iterable[Run], in_git: bool, params: list[Any]) -> dict[str, Any]:
    """How the runs of an experiment are trained and evaluated; they differ in seeds and parents only."""
    row = plan.experiments[name]
    here = str(HERE.results(plan.name) / name / "seed${item.seed}")
    weights = str(HERE.root / "checkpoints" / row.data.dataset / plan.name / name / "seed${item.seed}")
    parents = [f"${{item.parent{place}}}" for place in range(1, len(row.parents) + 1)]
    made = {
        "train": {
            "foreach": "${runs}",
            "do": {
                "cmd": _reading(f"coopnet train {plan.name} {name} ${{item.seed}}", params),
                "deps": [
                    "dvc/source/numerics",
                    *(str(HERE.prepared(row.data.dataset) / array) for array in PREPARED),
                    *parents,
                ],
                "params": params,
                "outs": [
                    *({f"{weights}/{file}": {"persist": True}} for file in CHECKPOINT),
                    {f"{here}/logits.safetensors": {"persist": True}},
                    *(_kept(f"{here}/{file}", in_git) for file in ("run.json", "timing.csv")),
                ],
                "plots": [_kept(f"{here}/history.csv", in_git, x="epoch", y="test_top1_ensemble")],
            },
        },
        "evaluate": {
            "foreach": "${runs}",
            "do": {
                "cmd": f"coopnet evaluate {plan.name} {name} ${{item.seed}}",
                "deps": ["dvc/source/evaluation", f"{here}/run.json", f"{here}/logits.safetensors", *parents],
                "outs": [_kept(f"{here}/{file}", in_git) for file in EVALUATED if file != "scores.json"],
                "metrics": [_kept(f"{here}/scores.json", in_git)],
            },
        },
    }
    seeds = {f"seed{run.seed}": _item(plan, run) for run in runs}
    return {"vars": [{"runs": seeds}], "stages": _from_root(made, "../../..")}


def _item(plan: Study, run: Run) -> dict[str, Any]:
    """What sets a run's stages apart; the record of a parent names the digests of all its other files."""
    parents = {
        f"parent{place}": str(HERE.run(plan, parent) / "run.json") for place, parent in enumerate(run.parents, start=1)
    }
    return {"seed": run.seed} | parents


def _study(plan: Study, in_git: bool, overlaid: Collection[str]) -> dict[str, Any]:
    """What is computed from all runs of a study."""
    words = ["title", "description", "device", "threads", "seeds", "defaults", "experiments"]
    laid_over = [*words, "parts", "only", "time_scale", "every_experiment"]
    return {
        "tables": _whole(steps.tables(HERE, plan), in_git, _keys(plan, overlaid, words, laid_over)),
        "claims": _whole(steps.claims(HERE, plan), in_git),
        "report": _whole(steps.report(HERE, plan.name), in_git),
        "timing": _whole(steps.timing(HERE, plan.name), in_git),
    }


def _in_git(workspace: Workspace, name: str) -> bool:
    """Whether git keeps the results of a study, which are DVC's to keep if it ignores them."""
    ignored = workspace.root / ".gitignore"
    return not ignored.is_file() or f"/results/{name}/" not in ignored.read_text(encoding="utf-8").splitlines()


def _whole(step: Step, in_git: bool, params: list[Any] | None = None) -> dict[str, Any]:
    """A step of the whole study as a stage."""
    study_name, command = step.name.split("/")
    stage: dict[str, Any] = {"cmd": _reading(f"coopnet {command} {study_name}", params or [])}
    stage["deps"] = [f"dvc/source/{step.source}", *map(str, step.inputs)]
    if params:
        stage["params"] = params
    return stage | {"outs": [_kept(str(path), in_git) for path in step.outputs]}


def _kept(path: str, in_git: bool, **settings: str) -> dict[str, Any]:
    """An output that stays in place until there is another one, in git or in DVC's cache."""
    return {path: {"cache": not in_git, "persist": True} | settings}


def _parameters(plan: Study, name: str, overlaid: Collection[str]) -> list[Any]:
    """What decides a run: its row, and what is laid over all rows."""
    own, dataset = f"experiments.{name}", plan.experiments[name].data.dataset
    keys = ["threads", "defaults", own] + ([f"datasets.{dataset}"] if plan.data[dataset].measured else [])
    return _keys(plan, overlaid, keys, ["threads", "time_scale", "every_experiment", own])


def _reading(command: str, params: list[Any]) -> str:
    """A command with the overlay's keys that it reads in a comment.

    DVC does not miss a key that is no longer read. So when an overlay loses one, it would call what was made with it
    unchanged; but a command that differs it runs again.
    """
    overlaid = [f"{path}: {', '.join(keys)}" for each in params[1:] for path, keys in each.items() if keys]
    return "  # ".join([command, *overlaid])


def _keys(plan: Study, overlaid: Collection[str], keys: list[str], laid_over: list[str]) -> list[Any]:
    """Keys of `params.yaml`, and of a study's overlay those it has: DVC refuses keys that are missing."""
    files_of: list[Any] = [{"params.yaml": keys}]
    if plan.name != FULL:
        files_of.append({f"studies/{plan.name}.yaml": [key for key in laid_over if key in overlaid]})
    return files_of


def _overlaid(workspace: Workspace, name: str) -> Collection[str]:
    """The keys of a study's overlay, those of its rows too."""
    if name == FULL:
        return ()
    overlay = study.read_yaml(workspace.root / "studies" / f"{name}.yaml")
    return {*overlay, *(f"experiments.{row}" for row in overlay.get("experiments") or {})}

"""Networks alone, ensembles of networks, and students: `distillation`, per run, split and accuracy.

It has the rows of part `distillation`, their ancestors, every plain ensemble of the study, and ONE for comparison:
networks of several branches that were trained from random weights with the protocol of one of these.
"""

import json
from collections.abc import Iterable, Sequence

from coopnet.report.lineage import Lineage
from coopnet.report.runs import Run, StudyInfo, digits, mean
from coopnet.report.tables.rows import Row, Tables, difference

COLUMNS = (
    *("experiment", "seed", "method", "split", "score"),
    *("network", "probabilities", "logits", "value"),
    *("teacher", "teacher_seed", "teacher_value", "over_teacher", "disagreement"),
    *("single", "single_value", "over_single"),
)
METHODS = {
    "none": "without distillation",
    "on_the_fly": "ONE",
    "mutual": "mutual learning",
    "soft_labels": "student, soft labels",
    "knowledge": "student, labels and teacher",
}


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Table `distillation`."""
    shown = _shown(runs, study)
    rows = [row for run in runs if run.experiment in shown for row in _rows(run, runs, lineage)]
    return {"distillation": (COLUMNS, rows)}


def _shown(runs: Sequence[Run], study: StudyInfo) -> set[str]:
    """Names of the experiments in the table."""
    parents = {row["name"]: [p["experiment"] for p in row.get("parents") or ()] for row in study.experiments}
    pending = [row["name"] for row in study.experiments if row.get("part") == "distillation"]
    shown = {run.experiment for run in runs if run.plain_ensemble}
    while pending:
        name = pending.pop()
        shown.add(name)
        pending += [parent for parent in parents[name] if parent not in shown]
    protocols = {_protocol(run) for run in runs if run.experiment in shown and run.start == "random"}
    several = [run for run in runs if run.branches > 1 and run.start == "random"]
    return shown | {run.experiment for run in several if _protocol(run) in protocols}


def _rows(run: Run, runs: Sequence[Run], lineage: Lineage) -> Iterable[Row]:
    """`network` is the mean of its networks alone; `value` is compared: the ensemble's score if there is one.

    `probabilities` and `logits` are the two ensembles of a network with several branches: the plain mean of
    probabilities, and the gate's mean of logits, which is plain in a plain ensemble. `disagreement` counts the images
    (%) on which a student predicts another class than its teacher.
    """
    teacher, alone = lineage.teacher(run), _alone(run, runs, lineage)
    for split in ("test", "validation"):
        block = run.metrics["final"].get(split)
        for score in ("top1", "top5") if block else ():
            models = run.final(split)
            network, several = models["branch_mean"][score], run.branches > 1
            value = _together(run, split, score) if run.plain_ensemble else network
            taught = _together(teacher, split, score) if teacher else None
            single = network if run.plain_ensemble else _mean(alone, split, score)
            yield {
                "experiment": run.experiment,
                "seed": run.seed,
                "method": _method(run, lineage),
                "split": split,
                "score": score,
                "network": network,
                "probabilities": block["mean_probabilities"][score] if several else None,
                "logits": models["ensemble"][score] if several else None,
                "value": value,
                "teacher": teacher.experiment if teacher else None,
                "teacher_seed": teacher.seed if teacher else None,
                "teacher_value": taught,
                "over_teacher": difference(value, taught),
                "disagreement": block["versus_teacher"]["disagreement"] if teacher else None,
                "single": _single(run, alone),
                "single_value": single,
                "over_single": difference(value, single),
            }


def _together(run: Run, split: str, score: str) -> float:
    """The score of a network as a whole and as a teacher; a plain ensemble uses its mean of probabilities."""
    block = run.metrics["final"][split]
    scores = block["mean_probabilities"] if run.plain_ensemble else block["ensemble"]
    return float(scores[score])


def _method(run: Run, lineage: Lineage) -> str:
    if run.plain_ensemble:
        return f"plain ensemble of {run.branches} networks"
    if run.transferred:
        return run.start
    if run.start == "continue":
        return "continued training"
    if run.branches == 1 and not lineage.teacher(run):
        return "trained alone"
    kind = (run.row["training"].get("distillation") or {}).get("kind", "on_the_fly")
    return METHODS.get(kind, kind)


def _single(run: Run, alone: Sequence[Run]) -> str | None:
    if run.plain_ensemble:
        return "its members"
    return alone[0].experiment if alone else None


def _mean(runs: Sequence[Run], split: str, score: str) -> float | None:
    values = [run.final(split)["ensemble"][score] for run in runs if run.metrics["final"].get(split)]
    return digits(mean(values)) if values else None


def _alone(run: Run, runs: Sequence[Run], lineage: Lineage) -> list[Run]:
    """The same network trained alone: one branch, from random weights, same data and training, no teacher.

    These are its seeds among the run's ancestors, or all of them if there are none, as the ledger compares them. A
    plain network is preferred to one with a gate. Empty for that network itself, and if the study has none.
    """
    own = _protocol(run)
    twins = [
        other
        for other in runs
        if other.start == "random"
        and other.branches == 1
        and not other.record.get("parents")
        and _protocol(other) == own
    ]
    best = min(twins, key=lambda other: other.row["model"]["gate"] != "none", default=None)
    if best is None or best.experiment == run.experiment:
        return []
    seeds, ancestors = [other for other in twins if other.experiment == best.experiment], lineage.whole(run)
    return [other for other in seeds if other in ancestors] or seeds


def _protocol(run: Run) -> str:
    """Data, network and training, without the settings in which a student and its teacher may differ."""
    model = {key: run.row["model"].get(key) for key in ("family", "depth", "block", "width")}
    training = {key: value for key, value in run.row["training"].items() if key not in ("distillation", "test_every")}
    return json.dumps([run.row["data"], model, training], sort_keys=True)

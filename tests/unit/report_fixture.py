"""A synthetic study with known numbers, in the file formats of real runs."""

import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.report.runs import RunFolder, StudyInfo
from coopnet.study import merge

IMAGES = 10_000
EPOCHS, TUNING = 20, 7
MODULES = ("trunk.stem.0", "trunk.stages.0.0.conv1", "branches.0.stage.0.conv1", "gate.linear", "branches.0.classifier")
"""Modules with their own learning rate, in rows that have them; the factor of the p-th (from 1) is p / 2."""


@dataclass(frozen=True)
class Row:
    """One experiment: `top1` is the final ensemble accuracy of seed 0; each further seed adds 0.5 points.

    A plain ensemble has the mean of its parents plus `PLAIN` instead. `parent` is one name, or several separated by
    commas; `settings` override everything else.
    """

    name: str
    about: str
    branches: int
    top1: float
    start: str = "random"
    parent: str | None = None
    gate: str = "learned"
    part: str = "foundation"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parents(self) -> list[str]:
        """Names of its parents."""
        return self.parent.split(",") if self.parent else []


ROWS = (
    Row("baseline", "The plain ResNet: one branch, no gate, cross-entropy only.", 1, 44.0, gate="none"),
    Row("one1", "The published one-branch model: B = 1 through the ONE code.", 1, 44.4),
    Row("one3", "ONE with three branches.", 3, 47.0),
    Row("one5", "ONE with five branches.", 5, 48.1),
    Row("one3_continued", "The control: one3 trained on, no growth.", 3, 47.3, "continue", "one3"),
    Row("one3_to_5_zero_pad", "Grown to five: the published transfer code.", 5, 47.2, "zero_pad", "one3"),
    Row("one3_to_5_zero_output", "Grown to five: the published proof.", 5, 47.1, "zero_output", "one3"),
    Row("one3_to_5_masked", "Grown to five: new branches switched off first.", 5, 47.9, "masked", "one3"),
    Row("one3_to_5_split", "Grown to five: copies of branches 1 and 2.", 5, 47.8, "split", "one3"),
)
TAUGHT = {"distillation": {"kind": "soft_labels", "temperature": 1.0}}
PLAIN_ENSEMBLE = {"model": {"trunk": "own"}, "training": {"epochs": 0}}
LONG = {"epochs": EPOCHS, "optimizer": {"lr": 0.1}, "schedule": {"milestones": [10, 15]}}
"""Training of a student, which starts from random weights although it has a parent."""
ALL_PARTS = (
    *ROWS,
    Row("one5_holdout", "one5 with images kept.", 5, 46.1, part="variants", settings={"data": {"validation": 2000}}),
    Row(
        *("one5_ratio", "A learning rate for each module.", 5, 46.5),
        part="variants",
        settings={"training": {"schedule": {"gradient_ratio": {"every": 1}}}},
    ),
    Row("c10_one3", "one3 on CIFAR-10.", 3, 71.0, part="variants", settings={"data": {"dataset": "cifar10"}}),
    Row("one3_sparse", "Tested every 6 epochs.", 3, 46.9, part="variants", settings={"training": {"test_every": 6}}),
    Row("one1_continued", "The control of merges.", 1, 45.0, "continue", "one1", part="step2"),
    Row(
        *("one1_ensemble3", "Three one1, logits averaged.", 3, 0.0, "combine", "one1,one1,one1", "mean", "step2"),
        settings=PLAIN_ENSEMBLE,
    ),
    Row(
        *("control3", "Three one1_continued, logits averaged.", 3, 0.0, "combine"),
        *("one1_continued,one1_continued,one1_continued", "mean", "step2"),
        settings=PLAIN_ENSEMBLE,
    ),
    Row(
        *("combine3", "Three one1 under one gate.", 3, 48.0, "combine", "one1,one1,one1"),
        part="step2",
        settings={"model": {"trunk": "own"}},
    ),
    Row(
        *("merge3_refit", "Three one1 on one trunk.", 3, 47.5, "merge", "one1,one1,one1"),
        part="step2",
        settings={"start": {"trunk": "refit"}},
    ),
    Row(
        *("merge3_mean", "On the mean trunk; at transfer only.", 3, 5.0, "merge", "one1,one1,one1"),
        part="step2",
        settings={"start": {"trunk": "mean", "reestimate": True}, "training": {"epochs": 0}},
    ),
    Row("expand1to3", "One branch becomes three.", 3, 45.5, "split", "one1", part="step2"),
    Row(
        *("embed1in3", "The others off for good.", 3, 44.9, "masked", "one1"),
        part="step2",
        settings={"start": {"opens": False}},
    ),
    Row(
        *("ensemble3", "Three baselines, averaged.", 3, 0.0, "combine", "baseline,baseline,baseline", "mean"),
        part="distillation",
        settings=PLAIN_ENSEMBLE,
    ),
    Row(
        *("distilled", "Taught by the three.", 1, 45.4, "random", "ensemble3", "none", "distillation"),
        settings={"training": TAUGHT | LONG},
    ),
    Row(
        *("self_distilled", "Taught by one of its kind.", 1, 44.8, "random", "baseline", "none", "distillation"),
        settings={"training": TAUGHT | LONG},
    ),
    Row(
        *("mutual2", "Two teach each other.", 2, 45.9, "random", None, "mean", "distillation"),
        settings={
            "model": {"trunk": "own"},
            "training": {"distillation": {"kind": "mutual", "temperature": 1.0}},
        },
    ),
)
"""A study with every part and every kind of row."""

CHANGED = {"zero_pad": 812}
"""Predictions that differ from the parent's at transfer, for seed 0; 10 more per further seed; 0 in all other rows."""
DIFFERENCE = {"zero_pad": 4.2, "zero_output": 5.5, "split": 3.8e-6}
ECE_SHIFT = {"zero_pad": 6.5, "zero_output": 8.0}
LARGEST_LOGIT = 20.0
PLAIN, PROBABILITIES = 2.0, 0.25
"""Points by which a plain ensemble's mean of logits exceeds its networks, and its mean of probabilities that."""
MERGE_LOSS = {"refit": 1.0, "first": 20.0, "matched": 28.0, "mean": 38.0}
"""Points by which the ensemble of a merge, at transfer, is below the mean of its parents."""
SURE, UNSURE = 97.0, 17.0
"""Confidence (%) in the two non-empty bins, the 15th and the 3rd."""
COPIES = {"at_transfer": 3.0, "final": 2.0}
"""Disagreement (%) of a copy and its donor; otherwise it is 21.2 for branches 1 and 2, and 20 + i.j for i and j."""


# The study -----------------------------------------------------------------------------------------


def write_study(
    root: Path, seeds: Sequence[int] = (0, 1), title: str = "A synthetic study", rows: Sequence[Row] = ROWS
) -> tuple[list[RunFolder], StudyInfo]:
    """Write every run's files under `root` and describe the study."""
    description = "ResNet-8 on CIFAR-100 at reduced length: three branches grown to five, in four ways."
    experiments = [
        {
            "name": row.name,
            "about": row.about,
            "part": row.part,
            "row": resolved(row),
            "seeds": replicates(rows, row.name, seeds),
            "parents": [{"experiment": parent} for parent in row.parents],
            "compute": _compute(rows, row),
        }
        for row in rows
    ]
    study = StudyInfo("mini", title, description, 1, "cpu", experiments)
    return write_runs(root, study, {row.name: row.top1 for row in rows}), study


REASON = "the training loss is nan in epoch 3, step 2 of 94: training has diverged; lower training.optimizer.lr"


def without(
    runs: Sequence[RunFolder], study: StudyInfo, failed: Collection[tuple[str, int]]
) -> tuple[list[RunFolder], StudyInfo]:
    """The remaining study when some runs fail, without those runs and their descendants."""
    parents = {row["name"]: [parent["experiment"] for parent in row["parents"]] for row in study.experiments}
    missing: dict[tuple[str, int], dict[str, Any]] = {}
    for name, seed in ((row["name"], seed) for row in study.experiments for seed in row["seeds"]):
        above = [(parent, len(parents[name]) * seed + j) for j, parent in enumerate(parents[name])]
        causes = list(dict.fromkeys(cause for one in above if one in missing for cause in missing[one]["causes"]))
        if causes:
            kind, text = "waiting", f"waiting for {', '.join(causes)}, which failed"
        elif (name, seed) in failed:
            kind, text, causes = "diverged", f"failed: {REASON}", [f"{name}/seed{seed}"]
        else:
            continue
        missing[name, seed] = {"experiment": name, "seed": seed, "kind": kind, "text": text, "causes": causes}
    left = [row | {"seeds": [k for k in row["seeds"] if (row["name"], k) not in missing]} for row in study.experiments]
    there = [run for run in runs if (run.experiment, run.seed) not in missing]
    return there, replace(study, experiments=left, missing_runs=list(missing.values()))


def _compute(rows: Sequence[Row], row: Row) -> dict[str, int]:
    """1000 FLOPs per branch and image; three times that per step, plus those of a teacher."""
    trained = resolved(row)["training"]["epochs"] > 0
    taught = [other.branches for other in rows if other.name in row.parents and row.start == "random"]
    step = 3000 * row.branches + 1000 * sum(taught) if trained else 0
    return {"parameters": parameters(row.branches), "inference_flops": 1000 * row.branches, "step_flops": step}


def parameters(branches: int) -> int:
    """Number of parameters of a network."""
    return 20_000 + 55_000 * branches


def replicates(rows: Sequence[Row], name: str, seeds: Sequence[int]) -> list[int]:
    """The seeds of an experiment: the study's, and those that its children need."""
    needed = set(seeds)
    for row in rows:
        places = [place for place, parent in enumerate(row.parents) if parent == name]
        if places:
            needed |= {len(row.parents) * seed + j for seed in replicates(rows, row.name, seeds) for j in places}
    return sorted(needed)


def write_runs(root: Path, study: StudyInfo, top1s: Mapping[str, float]) -> list[RunFolder]:
    """Write the files of every run of a study, given the final ensemble accuracy of each experiment's seed 0."""
    experiments = {experiment["name"]: experiment for experiment in study.experiments}
    made: dict[tuple[str, int], Made] = {}

    def make(name: str, seed: int) -> "Made":
        if (name, seed) not in made:
            parents = [parent["experiment"] for parent in experiments[name]["parents"]]
            origins = [make(parent, len(parents) * seed + j) for j, parent in enumerate(parents)]
            made[name, seed] = Made(name, seed, experiments[name]["row"], origins, top1s[name] + 0.5 * seed)
        return made[name, seed]

    runs = []
    for name, experiment in experiments.items():
        for seed in experiment["seeds"]:
            folder = root / name / f"seed{seed}"
            _write_run(folder, make(name, seed))
            runs.append(RunFolder(name, seed, folder))
    return runs


def top1(name: str, seed: int) -> float:
    """Final ensemble top-1 (%) of a row that was trained."""
    return next(row.top1 for row in ALL_PARTS if row.name == name) + 0.5 * seed


def resolved(row: Row) -> dict[str, Any]:
    """All settings of a row, with defaults filled in."""
    settings = {
        "data": {
            "dataset": "cifar100",
            "validation": 0,
            "split_seed": 0,
            "training_subset": 12_000,
            "augmentation": "crop_flip",
            "normalization": "dataset",
        },
        "model": {
            "family": "cifar_resnet",
            "depth": 8,
            "block": "basic",
            "width": 16,
            "branches": row.branches,
            "gate": row.gate,
            "trunk": "shared",
        },
        "training": {
            "epochs": TUNING if row.parent else EPOCHS,
            "batch_size": 128,
            "optimizer": {"kind": "sgd", "lr": 0.01 if row.parent else 0.1, "momentum": 0.9, "weight_decay": 1e-4},
            "schedule": {"milestones": [4] if row.parent else [10, 15], "gamma": 0.1, "gradient_ratio": None},
            "distillation": {"kind": "on_the_fly", "temperature": 3.0, "rampup": 0},
            "selection": "last",
            "precision": "fp32",
            "test_every": 1,
        },
        "start": {"kind": row.start} | ({"donors": None, "noise": 0.0} if row.start == "split" else {}),
    }
    return merge(settings, row.settings)


# The ledger ----------------------------------------------------------------------------------------

HOSTILE_CLAIM = "<img src=x onerror=alert(1)> & #let $x$ \\evil {{ 7 * 7 }} [*bold*]"


REGIONS = {
    "better": (0.0, None),
    "not_worse": (-0.5, None),
    "nothing": (-0.5, 0.5),
    "about": (2.0, 3.5),
    "calibration_kept": (None, 0.001),
    "fewer_epochs": (None, 0.0),
    "less_compute_to_target": (None, 0.0),
}
FREEDOM = 2.5
COUNTED = {"basis": "counted", "p": None, "df": None, "region": None, "paired": None}
FEW = {"basis": "too few seeds", "p": None}


def _part(text: str, kind: str, verdict: str, values: Sequence[float] | None, **more: Any) -> dict[str, Any]:
    """A tested part; `values` are estimate, lower and upper bound, or only the estimate."""
    estimate, *interval = values or [None]
    head = {"text": text, "kind": kind, "verdict": verdict, "estimate": estimate, "interval": interval or None}
    p = 0.4 if verdict == "inconclusive" else 0.02
    run = {"basis": "tested", "n": 3, "df": FREEDOM, "paired": False, "p": p, "region": REGIONS.get(kind)}
    none = {"basis": None, "n": 0, "df": None, "paired": None, "p": None, "region": None}
    rest = {"unit": "points", "beside": {}, "given": [], "note": "", "missing": [], "lost": [], "target": None}
    return head | (run if values else none) | rest | more


def _decision(claim: str, number: str, score: str | None, parts: Sequence[Mapping[str, Any]], **more: Any) -> Any:
    """An entry of the ledger that reports its first part."""
    head = {"id": f"{claim}/{score}" if score else claim, "claim": claim, "number": number, "score": score}
    words = {"text": f"The text of {claim}.", "source": "ONE paper, section 4.1", "section": "accuracy"}
    own = ("text", "kind", "beside", "target", "missing", "lost")
    kept = {key: value for key, value in parts[0].items() if key not in own}
    settled = kept["basis"] == "tested" and kept["verdict"] in ("supported", "contradicted")
    holm = {"p_holm": kept["p"] and (0.04 if settled else 1.0), "survives_holm": settled or None}
    rest = {"level": 0.95, "caution": "", "missing": [], "parts": list(parts)}
    return head | words | kept | holm | rest | more


def claims() -> list[dict[str, Any]]:
    """A ledger with every verdict, every kind of part and every unit."""
    lost = {"survives_holm": False, "p_holm": 0.31}
    beside = {"mean of branches": {"estimate": 0.7, "interval": [0.1, 1.3]}}
    changes = {"change of nll": {"estimate": -0.0125, "interval": None}}
    absent = {"missing": ["one3_no_gate", "one3_no_sharing"], "section": "nowhere"}
    shared = ["one choice of 12,000 training images for all seeds"]
    alone = ["these networks"]
    return [
        _decision("one_over_baseline", "1", "top1", [
            _part("one3 branch 1 − baseline", "better", "supported", (1.23, 0.4, 2.1), beside=beside, p=4e-4),
        ]),
        _decision("one_over_baseline", "1", "top5", [
            _part("one3 branch 1 − baseline", "better", "supported", (0.52, 0.05, 0.9), given=shared),
        ], **lost),
        _decision("growth", "4a", "top1", [
            _part("masked − one3", "not_worse", "contradicted", (-2.25, -3.5, -1.0), paired=True, p=0.01),
            _part("split − one3", "not_worse", "supported", (0.31, -0.2, 0.8), paired=True),
        ], section="growth", p=0.02, level=0.975, interval=[-3.75, -0.75]),
        _decision("growth", "4a", "top5", [
            _part("masked − one3", "not_worse", "inconclusive", (-0.35, -0.9, 0.2), paired=True, n=2, **FEW),
            _part("split − one3", "not_worse", "inconclusive", (0.11, -0.3, 0.5), paired=True, n=2, **FEW),
        ], section="growth", caution="one1 has 160 epochs, baseline has 300 epochs"),
        _decision("exact", "3", None, [
            _part("masked", "predictions_kept", "supported", (0,), unit="images", beside=changes, **COUNTED),
            _part("NLL of masked", "calibration_kept", "supported", (0.0004, -0.0002, 0.0009), unit="nats"),
            _part("ECE of masked", "calibration_kept", "supported", (-0.25, -0.4, -0.1), unit="ECE points"),
            _part("masked − one3", "nothing", "supported", (0.1, -0.2, 0.3)),
        ], section="transfer"),
        _decision("faster", "6", None, [
            _part("epochs until one5", "fewer_epochs", "contradicted", (12.0, 4.0, 20.5), unit="epochs"),
        ], section="curves", **lost),
        _decision("slower", "6b", "top1", [
            _part("epochs until one5", "fewer_epochs", "inconclusive", (7.0,), interval=[-3.0, None], unit="epochs"),
        ], section="curves", note="one3 never reaches where one5 ends"),
        _decision("saving", "6c", "top1", [
            _part("FLOPs until one5 − 1", "less_compute_to_target", "supported", (-0.25, -0.4, -0.1), unit="change"),
        ], section="curves"),
        _decision("cheaper", "19", None, [
            _part("compute of one3 / ensemble3 − 1", "less_compute", "supported", (-0.38,), unit="change", **COUNTED),
        ]),
        _decision("embedding", "10", "top1", [
            _part("embed1in3 − one1", "nothing", "inconclusive", (0.62, -0.4, 1.6), n=1, given=alone, **FEW),
        ]),
        _decision("ensemble", "11", None, [
            _part("ensemble3 − baseline", "about", "supported", (2.71, 2.1, 3.4), target=[2.5, 3.0]),
        ]),
        _decision("gate", "16", "top1", [_part("one3 − one3_no_gate", "better", "not run", None)], **absent),
        _decision("gate", "16", "top5", [_part("one3 − one3_no_gate", "better", "not run", None)], **absent),
        _decision("hostile", "99", "top1", [
            _part(HOSTILE_CLAIM, "better", "inconclusive", (0.1, -1.0, 1.2), beside={HOSTILE_CLAIM: {"estimate": 1.0}}),
        ], text=HOSTILE_CLAIM, source=HOSTILE_CLAIM, note=HOSTILE_CLAIM),
    ]  # fmt: skip


# A run's files -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A run: `planned` is the final ensemble accuracy of one that is trained."""

    name: str
    seed: int
    row: Mapping[str, Any]
    parents: "list[Made]"
    planned: float

    @property
    def branches(self) -> int:
        """Number of branches."""
        return int(self.row["model"]["branches"])

    @property
    def start(self) -> str:
        """Kind of the start."""
        return str(self.row["start"]["kind"])

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return int(self.row["training"]["epochs"])

    @property
    def key(self) -> str:
        """Its key."""
        return key(self.name, self.seed)

    @property
    def plain(self) -> bool:
        """Whether it is a plain ensemble."""
        return self.start == "combine" and self.row["model"]["gate"] == "mean"

    @property
    def accuracy(self) -> float:
        """Final top-1 of the ensemble."""
        if self.plain:
            return _mean(parent.accuracy for parent in self.parents) + PLAIN
        return self.planned if self.epochs else self.start_accuracy

    @property
    def start_accuracy(self) -> float:
        """Top-1 of the ensemble at transfer."""
        inherited = _mean(parent.accuracy for parent in self.parents)
        if self.start == "combine":
            return inherited + PLAIN
        if self.start == "merge":
            return max(5.0, inherited - MERGE_LOSS[self.row["start"]["trunk"]])
        return inherited - self.changed / 1000

    @property
    def changed(self) -> int:
        """Predictions that the transfer changed."""
        return CHANGED[self.start] + 10 * self.seed if self.start in CHANGED else 0


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _scores(value: float, ece: float) -> dict[str, float]:
    return {
        "top1": round(value, 2),
        "top5": round(min(value + 28, 99.5), 2),
        "nll": round(4 - value / 25, 4),
        "ece": ece,
    }


def _block(run: Made, stage: str, accuracy: float, ece: float) -> dict[str, Any]:
    """Branch b is 1 + 0.2·(b − 1) points below the ensemble; a single branch is the ensemble.

    The branches of a plain ensemble are its parents.
    """
    behind = [1 + 0.2 * b if run.branches > 1 else 0.0 for b in range(run.branches)]
    if run.plain:
        behind = [accuracy - parent.accuracy for parent in run.parents]
    branches = [_scores(accuracy - gap, ece) | {"gate": 1 / run.branches} for gap in behind]
    block = {"images": IMAGES, "ensemble": _scores(accuracy, ece), "branches": branches}
    block["reliability"] = _reliability(accuracy, ece)
    if run.branches > 1:
        block["mean_probabilities"] = _scores(accuracy + PROBABILITIES, ece)
        block["diversity"] = _diversity(run, stage)
    return block


def _reliability(accuracy: float, ece: float) -> list[dict[str, Any]]:
    """Two of fifteen bins have images, in numbers that give the accuracy; both have that error in confidence."""
    sure = min(max((accuracy + ece - UNSURE) / (SURE - UNSURE), 0.0), 1.0)
    images = {3: IMAGES - round(IMAGES * sure), 15: round(IMAGES * sure)}
    bins = []
    for place in range(1, 16):
        n, confidence = images.get(place, 0), SURE if place == 15 else UNSURE
        bins.append({"images": n, "confidence": confidence if n else None, "accuracy": confidence - ece if n else None})
    return bins


def _diversity(run: Made, stage: str) -> dict[str, Any]:
    copies = range(run.parents[0].branches + 1, run.branches + 1) if run.start == "split" else ()
    donors = run.row["start"].get("donors") or [(copy - 1) % run.parents[0].branches + 1 for copy in copies]
    pairs = {}
    for i, j in itertools.combinations(range(1, run.branches + 1), 2):
        disagreement = COPIES[stage] if (i, j) in zip(donors, copies, strict=False) else 20 + i + j / 10
        pairs[f"{i}-{j}"] = {"disagreement": disagreement, "kl": disagreement / 50}
    return {key: _mean(pair[key] for pair in pairs.values()) for key in ("disagreement", "kl")} | {"pairs": pairs}


def _versus(run: Made, inherited: float) -> dict[str, Any]:
    """The comparison with its parents or its teacher, under the name of that comparison."""
    if not run.parents:
        return {}
    if run.start == "random":
        teacher = _scores(run.parents[0].accuracy, inherited)
        return {"versus_teacher": {"disagreement": 18.5, "teacher": teacher}}
    parents = [_scores(parent.accuracy, inherited) for parent in run.parents]
    if len(parents) == 1:
        versus = {
            "changed_predictions": run.changed,
            "largest_logit_difference": DIFFERENCE.get(run.start, 0.0),
            "largest_logit": LARGEST_LOGIT,
            "parent": parents[0],
        }
        return {"versus_parent": versus}
    together = _mean(parent.accuracy for parent in run.parents) + PLAIN
    ensembles = {
        "logit_ensemble": _scores(together, inherited),
        "probability_ensemble": _scores(together + PROBABILITIES, inherited),
    }
    return {"versus_parents": {"singles": parents} | ensembles}


def _metrics(run: Made) -> dict[str, Any]:
    splits = {"test": 0.0} | ({"validation": 0.4} if run.row["data"]["validation"] else {})
    inherited = 2.0 + 0.1 * run.seed
    versus = _versus(run, inherited)
    final = {split: _block(run, "final", run.accuracy + more, 2.5) | versus for split, more in splits.items()}
    if run.start == "random":
        return {"final": final}
    ece = inherited + ECE_SHIFT.get(run.start, 0.0)
    at_transfer = {
        split: _block(run, "at_transfer", run.start_accuracy + more, ece) | versus for split, more in splits.items()
    }
    return {"final": final, "at_transfer": at_transfer}


def _votes(run: Made) -> list[dict[str, Any]]:
    """A vote of k of B branches is 2 / k − 2 / B points below that of all.

    A subset with branch 1 gains 0.3 points on validation images and loses 0.3 points on test images.
    """
    lines = []
    for split in ("test", "validation") if run.row["data"]["validation"] else ("test",):
        for rule, less in (("gate", 0.0), ("majority", 0.6), ("mean", 0.2)):
            for size in range(1, run.branches + 1):
                for subset in itertools.combinations(range(1, run.branches + 1), size):
                    first = (0.3 if split == "validation" else -0.3) * (1 in subset and size < run.branches)
                    value = round(run.accuracy + 2 / run.branches - 2 / size - less + first - 0.01 * subset[-1], 2)
                    head = {"split": split, "subset": "+".join(map(str, subset)), "size": size, "rule": rule}
                    lines.append(head | {"top1": value, "top5": round(min(value + 28, 99.5), 2)})
    return lines if run.branches > 1 else []


def _history(run: Made) -> list[dict[str, Any]]:
    lines = []
    for epoch in range(run.epochs):
        left = 1 - (epoch + 1) / run.epochs
        wiggle = 0.8 * left * math.sin(3.1 * epoch + run.seed + len(run.name))
        accuracy = run.accuracy - (34 if run.start == "random" else 1.8) * left**2 + wiggle
        alpha: float | str = ""
        if run.start == "masked":
            opened = min(1.0, max(0.0, ((epoch + 1) / run.epochs - 0.4) / 0.2))
            alpha = opened if run.row["start"].get("opens", True) else 0.0
        line: dict[str, Any] = {"epoch": epoch, "lr": 0.1, "rampup": 1.0, "prior_alpha": alpha}
        tested = (epoch + 1) % run.row["training"]["test_every"] == 0 or epoch + 1 == run.epochs
        for split, shift in (("train", 2.0), ("test", 0.0)):
            line |= _epoch(run, split, accuracy + shift, left, blank=split == "test" and not tested)
        if run.row["training"]["schedule"].get("gradient_ratio"):
            line |= {f"factor_{module}": place / 2 for place, module in enumerate(MODULES, start=1)}
        lines.append(line)
    return lines


def _epoch(run: Made, split: str, accuracy: float, left: float, *, blank: bool) -> dict[str, Any]:
    """The columns of one split, empty where the network was not tested."""
    line: dict[str, Any] = {"loss": 5 * left + 3, "cross_entropy": 4 * left + 2.5, "kl": 0.5}
    for score, more in (("top1", 0.0), ("top5", 28.0)):
        value = max(1.0, min(accuracy + more, 99.5))
        for b in range(run.branches):
            line[f"{score}_branch{b + 1}"] = round(max(0.5, value - (1 + 0.2 * b if run.branches > 1 else 0.0)), 2)
        line[f"{score}_ensemble"] = round(value, 2)
    return {f"{split}_{column}": "" if blank else number for column, number in line.items()}


def _write_run(folder: Path, run: Made) -> None:
    history = _history(run)
    files.write_rows(folder / "history.csv", history)
    votes = _votes(run)
    if votes:
        files.write_rows(folder / "votes.csv", votes)
    else:
        files.write_text(folder / "votes.csv", "split,subset,size,rule,top1,top5\n")
    digests = {"votes.csv": files.sha256(folder / "votes.csv")}
    files.write_json(folder / "metrics.json", {"key": run.key, "files": digests} | _metrics(run))
    times = [
        {"epoch": e, "train_seconds": 10.5, "evaluation_seconds": 1.5, "images_per_second": 950.0}
        for e in range(len(history))
    ]
    files.write_rows(folder / "timing.csv", times)
    record = {
        "key": run.key,
        "seed": run.seed,
        "row": run.row,
        "threads": 1,
        "parents": [{"key": parent.key, "digest": "0" * 64} for parent in run.parents],
        "data": {"dataset": run.row["data"]["dataset"], "digest": {"train": "ab" * 32, "test": "cd" * 32}},
        "parameters": parameters(run.branches),
        "code": {"version": "0.1.0", "numerics": "ef" * 32, "commit": "12" * 20, "modified": False},
        "libraries": {"python": "3.11.9", "torch": "2.11.0+cpu", "torchvision": "0.26.0", "numpy": "2.4.6"},
        "device": {"type": "cpu", "name": "AMD EPYC", "capability": "AVX2"},
        "selected_epoch": len(history) - 1 if history else None,
        "files": {"history.csv": files.sha256(folder / "history.csv")},
    }
    files.write_json(folder / "run.json", record)


def key(experiment: str, seed: int) -> str:
    """A run's key."""
    return hashlib.sha256(f"{experiment} {seed}".encode()).hexdigest()[:32]

"""`params.yaml` and its overlays give the runs that they describe, or are refused in one clear line."""

import copy
import datetime
import functools
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from coopnet import study
from coopnet.data.datasets import DATASETS
from coopnet.files.errors import CoopNetError
from coopnet.study import numerics
from coopnet.study.plan import plan
from coopnet.study.settings import TRANSFERS, Experiment, OnTheFly

OVERLAYS = sorted(path.stem for path in (ROOT / "studies").glob("*.yaml") if path.name != "dvc.yaml")
SCALED = ("demo", "demo_all", "mini")
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
FINE_TUNED = ("one3_continued", *(f"one3_to_5_{kind}" for kind in ("zero_pad", "zero_output", "masked", "split")))
FOUNDATION = ("baseline", "one1", "one3", "one5", *FINE_TUNED)
ADAM = ("resnet18_single", "resnet18_distilled", "resnet18_self_distilled")
"""Rows that Part 3 trains as published; all other rows have ONE's protocol."""
SMALL = (
    *FOUNDATION,
    *("one5_gradient_ratio", "one3_no_gate", "one3_no_sharing", "resnet110_baseline", "one3_to_5_masked_closed"),
    *("one1_ensemble3", "combine3", "merge3_refit"),
    *("baseline_self_distilled", "distilled_from_resnet110", "mutual2", "baseline_ensemble2"),
)
"""Rows of this project with every kind of start and distillation, few enough to be loaded hundreds of times."""
DELETED = object()


def write(
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    overlay: Any = None,
    name: str = "small",
    rows: Iterable[str] = SMALL,
) -> Path:
    """A folder with some rows of this project's `params.yaml`, changed at dotted paths, and an optional overlay."""
    content = copy.deepcopy(some(rows))
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = content
        for part in parents:
            place = place.setdefault(part, {})
        if value is DELETED:
            del place[last]
        else:
            place[last] = value
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if overlay is not None:
        (folder / "studies").mkdir(exist_ok=True)
        (folder / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    return folder


def some(rows: Iterable[str]) -> dict[str, Any]:
    """This project's `params.yaml` with these rows only, in its order."""
    chosen = set(rows)
    return PARAMS | {"experiments": {name: row for name, row in PARAMS["experiments"].items() if name in chosen}}


def refusal(root: Path, name: str = "full") -> str:
    """The error message for a study; it is one line, and not a library's own."""
    with pytest.raises(CoopNetError) as caught:
        study.load(root, name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert "Traceback" not in message
    assert "pydantic" not in message
    return message


@functools.cache
def project(name: str = "full") -> study.Study:
    """A study of this project."""
    return study.load(ROOT, name)


def keys(root: Path, name: str = "full") -> dict[str, str]:
    """The key of each run."""
    return {run.name: run.key for run in study.load(root, name).runs.values()}


@functools.cache
def small_keys() -> Mapping[str, str]:
    """The current keys of the rows in `SMALL`."""
    with tempfile.TemporaryDirectory() as folder:
        return keys(write(Path(folder)))


def experiments_of(runs: Iterable[str]) -> set[str]:
    """The experiments of runs given as `one3/seed0`."""
    return {run.partition("/")[0] for run in runs}


def descendants(ancestor: str) -> set[str]:
    """An experiment and all rows of `SMALL` that descend from it."""
    family = {ancestor}
    for name, row in ROWS.items():  # parents come first
        if name in SMALL and family & set(row.parents):
            family.add(name)
    return family


ROWS = project().experiments
TRAINED = {name: row for name, row in ROWS.items() if row.training.epochs}


# The studies of this project


@pytest.mark.parametrize("name", ["full", *OVERLAYS])
def test_studies_of_this_project_load(name: str) -> None:
    """Every study has a title, a description, and runs of each of its experiments."""
    plan = project(name)
    assert plan.title
    assert plan.description
    assert {run.experiment for run in plan.runs.values()} == set(plan.experiments)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("full", {"foundation", "variants", "elsewhere", "growth", "step2", "distillation"}),
        ("demo_all", {"foundation", "variants", "elsewhere", "growth", "step2", "distillation"}),
    ],
)
def test_studies_of_this_project_have_whole_parts(name: str, parts: set[str]) -> None:
    """The full study and demo_all have all rows of all parts; the other studies list their rows."""
    whole = [row for row in project(name).experiments if ROWS[row].part in parts]
    assert whole == [row for row in PARAMS["experiments"] if ROWS[row].part in parts]
    assert whole == list(project(name).experiments)


def test_the_row_that_the_readme_adds_is_accepted(tmp_path: Path) -> None:
    """It is a new row, and its network has what the row says and, beyond that, the defaults."""
    (added,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    ((name, row),) = yaml.safe_load(added).items()
    assert name not in PARAMS["experiments"]
    loaded = study.load(write(tmp_path, {f"experiments.{name}": row})).experiments[name]
    assert (loaded.model.branches, loaded.training.epochs) == (4, PARAMS["defaults"]["training"]["epochs"])
    assert loaded.training.distillation.temperature == 5  # type: ignore[union-attr]


def test_full_study_has_every_part() -> None:
    """The foundation has nine rows, and every other part has the rows that the study requires by name."""
    parts = defaultdict(set)
    for name, row in ROWS.items():
        parts[row.part].add(name)
    assert parts["foundation"] == set(FOUNDATION)
    assert parts["variants"] >= {f"{one}_gradient_ratio" for one in ("baseline", "one5")}
    assert parts["variants"] >= {f"{one}_gamma_third" for one in ("baseline", "one5")}
    assert parts["variants"] >= {"one2", "one4", "one3_no_rampup", "one5_constant_lr", "one5_holdout"}
    assert parts["variants"] >= {f"one3_no_{what}" for what in ("distillation", "gate", "sharing")}
    assert parts["elsewhere"] >= {f"cifar10_{one}" for one in ("baseline", "one1", "one3", "one5", "one3_to_5_split")}
    assert parts["growth"] >= {f"one3_to_5_split_{noise}" for noise in ("exact", "noise_0_3", "noise_1")}
    assert parts["growth"] >= {"one3_to_5_masked_closed", "one3_to_5_published", "one5_matched_compute"}
    assert parts["step2"] >= {"combine3", "combine3_with_baseline", "one1_ensemble3", "embed1in3"}
    assert parts["step2"] >= {f"merge3_{start}" for start in ("refit", "published", "first", "mean", "matched")}
    assert parts["step2"] >= {f"merge3_{trunk}_bn" for trunk in ("first", "mean", "matched")}
    assert parts["step2"] >= {
        f"expand1to{many}_{start}" for many in (3, 5) for start in ("split_exact", "split", "masked")
    }
    assert parts["distillation"] >= {
        f"{network}_{what}"
        for network in ("resnet18", "baseline")
        for what in ("ensemble5", "distilled", "self_distilled", "self_ensemble5")
    }
    assert parts["distillation"] >= {"distilled_from_resnet110", "mutual2", "baseline_ensemble2", "baseline_ensemble3"}


def test_seeds_of_each_study() -> None:
    """Three replicates in full; in mini five of Step 1, three of Step 2; else one. Parents have what children need."""
    assert all(row.seeds is None for row in ROWS.values())
    assert project().seeds("one3_to_5_split") == [0, 1, 2]
    assert project().seeds("one1") == list(range(9))
    assert project().seeds("baseline_continued_merge") == list(range(9))
    assert project().seeds("resnet18_single") == list(range(15))
    for name in SCALED:
        assert project(name).seeds("one3_to_5_split") == list(range(5 if name == "mini" else 1))
    for name, replicates in (("demo", 1), ("demo_all", 1), ("mini", 3)):
        assert project(name).seeds("one1") == list(range(3 * replicates))
    assert project("mini").seeds("merge3_refit") == project("mini").seeds("resnet18_ensemble5") == [0, 1, 2]
    for part in ("distillation", "gate", "rampup", "sharing"):
        assert project("mini").seeds(f"one3_no_{part}") == [0, 1, 2]
    assert project("mini").seeds("expand1to3_split") == project("mini").seeds("one1_continued_expand") == [3, 4, 5]
    assert project("mini").seeds("one5_holdout") == project("mini").seeds("one3_holdout_to_5_split") == [0]
    assert project("mini").seeds("baseline") == list(range(9))
    assert project("mini").seeds("resnet18_single") == list(range(15))


SCHEDULES: dict[str, tuple[int, float, list[int]]] = {
    "one3_*_published": (100, 0.01, []),
    "*one3*_continued": (100, 0.01, [60]),
    "*one3*_to_5_*": (100, 0.01, [60]),
    "*_continued_merge": (75, 0.01, [55]),
    "*combine3*": (75, 0.01, [55]),
    "merge3_*": (75, 0.01, [55]),
    "*_continued_expand": (120, 0.01, [80]),
    "expand1to*": (120, 0.01, [80]),
    "*_continued_embed": (200, 0.01, [100, 150]),
    "embed1in3": (200, 0.01, [100, 150]),
    "one1": (160, 0.1, [151, 225]),
    "cifar10_one1": (160, 0.1, [151, 225]),
    "one5_constant_lr": (300, 0.1, []),
    "one5*_matched_compute": (315, 0.1, [159, 236]),
    "*": (300, 0.1, [151, 225]),
}
"""Epochs, learning rate and milestones by name; the first matching pattern applies."""


def test_full_study_has_the_published_schedules() -> None:
    """From scratch, growth, merges, expansions and the embedding: one schedule each, as published."""
    used = set()
    for name, row in TRAINED.items():
        if name in ADAM:
            continue
        pattern = next(pattern for pattern in SCHEDULES if fnmatch(name, pattern))
        used.add(pattern)
        training = row.training
        assert (training.epochs, training.optimizer.lr, training.schedule.milestones) == SCHEDULES[pattern], name
        assert training.schedule.gamma == (0.333 if name.endswith("_gamma_third") else 0.1), name
        adaptive = {"every": 1, "smoothing": 0, "lowest": 0.1, "highest": 20} if "gradient_ratio" in name else None
        assert training.model_dump()["schedule"]["gradient_ratio"] == adaptive, name
    assert used == set(SCHEDULES)


def test_full_study_distils_at_full_weight_after_transfer() -> None:
    """From scratch ONE ramps up for 80 epochs; networks made from trained ones start at full weight; two exceptions."""
    for name, row in TRAINED.items():
        if isinstance(row.training.distillation, OnTheFly):
            slow = row.start.kind == "random"
            if name in ("one3_no_rampup", "merge3_published"):
                slow = not slow
            assert row.training.distillation.rampup == (80 if slow else 0), name


def test_full_study_has_the_published_optimizer() -> None:
    """SGD with momentum 0.9 without Nesterov, weight decay 1e-4, last epoch, crop and flip, all images."""
    for name, row in TRAINED.items():
        assert row.training.batch_size == 128, name
        assert row.training.test_every == 1, name
        assert row.data.training_subset is None, name
        assert row.data.normalization == "dataset", name
        if name in ADAM:
            continue
        assert row.training.optimizer.model_dump(exclude={"lr"}) == {
            "kind": "sgd",
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-4,
        }, name
        assert row.training.selection == "last", name
        assert row.data.augmentation == "crop_flip", name
        assert row.data.validation == (5_000 if "holdout" in name else 0), name


def test_part_3_has_its_published_protocol() -> None:
    """CIFAR-10, Adam 1e-3 without any decay, 100 epochs, no augmentation, the best epoch on 5,000 images."""
    for name in ADAM:
        training = ROWS[name].training
        assert training.optimizer.model_dump(include={"kind", "lr", "weight_decay"}) == {
            "kind": "adam",
            "lr": 1e-3,
            "weight_decay": 0,
        }
        assert (training.epochs, training.schedule.milestones, training.schedule.gradient_ratio) == (100, [], None)
        assert training.selection == "best_validation"
    for name in (*ADAM, "resnet18_ensemble5", "resnet18_self_ensemble5"):
        data = ROWS[name].data
        assert (data.dataset, data.validation, data.augmentation) == ("cifar10", 5_000, "none")


def test_full_study_has_the_published_losses() -> None:
    """ONE at T = 3 unless the name says otherwise; mutual learning and soft labels at T = 1, ResNet-110 at T = 3."""
    others = {
        "one3_no_distillation": {"kind": "none"},
        "mutual2": {"kind": "mutual", "temperature": 1},
        "distilled_from_resnet110": {"kind": "knowledge", "temperature": 3},
    } | {
        f"{network}_{what}": {"kind": "soft_labels", "temperature": 1}
        for network in ("baseline", "resnet18")
        for what in ("distilled", "self_distilled")
    }
    for name, row in TRAINED.items():
        distillation = row.training.distillation.model_dump(exclude={"rampup"})
        assert distillation == others.get(name, {"kind": "on_the_fly", "temperature": 3}), name


def test_teachers_of_the_full_study() -> None:
    """A student learns from five networks, from one of its kind, or from a ResNet-110, without using their weights."""
    assert {name: row.parents for name, row in ROWS.items() if row.taught} == {
        "resnet18_distilled": ["resnet18_ensemble5"],
        "resnet18_self_distilled": ["resnet18_single"],
        "baseline_distilled": ["baseline_ensemble5"],
        "baseline_self_distilled": ["baseline"],
        "distilled_from_resnet110": ["resnet110_baseline"],
    }


NETWORKS = {
    "resnet110_bottleneck_*": ("cifar_resnet", 164, "bottleneck", 16),
    "resnet110_*": ("cifar_resnet", 110, "basic", 16),
    "resnet18_*": ("resnet18", 18, "basic", 64),
    "*": ("cifar_resnet", 32, "basic", 16),
}


def test_full_study_has_the_published_networks() -> None:
    """ResNet-32 with basic blocks, except for rows that name another network."""
    for name, row in ROWS.items():
        expected = next(network for pattern, network in NETWORKS.items() if fnmatch(name, pattern))
        assert (row.model.family, row.model.depth, row.model.block, row.model.width) == expected, name


def test_names_say_the_branches() -> None:
    """`one3_to_5_split` has five branches, `expand1to3_split` three, `baseline` one."""
    for name, row in ROWS.items():
        numbers = re.findall(r"(?:one|to_?|in|combine|merge|ensemble|mutual)(\d)", name)
        assert row.model.branches == int((numbers or "1")[-1]), name


def test_gates_and_trunks_of_the_full_study() -> None:
    """Plain networks have no gate, ensembles have equal weights; combined networks keep their trunks."""
    for name, row in ROWS.items():
        ensemble = "_ensemble" in name or name == "mutual2"
        plain = row.model.branches == 1 and "one1" not in name
        assert row.model.gate == ("none" if plain else "mean" if ensemble or name == "one3_no_gate" else "learned")
        apart = ensemble or "combine3" in name or name == "one3_no_sharing"
        assert row.model.trunk == ("own" if apart else "shared"), name


def test_other_data_of_the_full_study() -> None:
    """CIFAR-10 if the name says so, and in Part 3 as published; otherwise CIFAR-100."""
    for name, row in ROWS.items():
        cifar10 = name.startswith("cifar10_") or (name.startswith("resnet18_") and row.part == "distillation")
        assert row.data.dataset == ("cifar10" if cifar10 else "cifar100"), name


def test_grown_experiments_have_the_designed_starts() -> None:
    """Each starts from one3 in its own way; the prior of masked opens from 40 to 60 %; split copies branches 1, 2."""
    starts = {name: row.start.model_dump() for name, row in ROWS.items() if row.parents == ["one3"]}
    masked = {"kind": "masked", "opens": True, "closed_until": 0.4, "open_from": 0.6}
    split = {"kind": "split", "donors": [1, 2], "noise": 0.1}
    assert starts == {
        "one3_continued": {"kind": "continue"},
        "one3_to_5_zero_pad": {"kind": "zero_pad"},
        "one3_to_5_zero_output": {"kind": "zero_output"},
        "one3_to_5_masked": masked,
        "one3_to_5_masked_early": masked | {"closed_until": 0.1, "open_from": 0.3},
        "one3_to_5_split": split,
        "one3_to_5_split_exact": split | {"noise": 0},
        "one3_to_5_split_noise_0_3": split | {"noise": 0.3},
        "one3_to_5_split_noise_1": split | {"noise": 1},
        "one3_to_5_masked_closed": masked | {"opens": False},
        "one3_continued_published": {"kind": "continue"},
        "one3_to_5_published": {"kind": "zero_pad"},
    }


def test_merged_experiments_have_the_designed_starts() -> None:
    """Three networks on each kind of trunk, with and without new BatchNorm statistics; four of them are fine-tuned."""
    starts = {name: row.start for name, row in ROWS.items() if row.start.kind == "merge"}
    assert {name: (start.trunk, start.reestimate, start.gate_rows) for name, start in starts.items()} == {
        "merge3_refit": ("refit", False, "uniform"),
        "merge3_refit_baselines": ("refit", False, "uniform"),
        "merge3_published": ("first", False, "parents"),
    } | {
        f"merge3_{trunk}{ending}": (trunk, bool(ending), "uniform")
        for trunk in ("first", "mean", "matched")
        for ending in ("", "_bn")
    }
    assert {name for name in starts if name in TRAINED} == {
        "merge3_refit",
        "merge3_refit_baselines",
        "merge3_first",
        "merge3_published",
    }
    assert all(ROWS[name].parents == ["baseline" if "baselines" in name else "one1"] * 3 for name in starts)


def test_expanded_experiments_have_the_designed_starts() -> None:
    """one1 as 3 and as 5 branches: exact copies, noisy copies, masked; and in a network whose others stay off."""
    for many in (3, 5):
        exact, noisy, masked = (ROWS[f"expand1to{many}_{kind}"].start for kind in ("split_exact", "split", "masked"))
        assert (exact.kind, exact.noise, noisy.kind, noisy.noise) == ("split", 0, "split", 0.1)
        assert (masked.kind, masked.opens) == ("masked", True)
    assert (ROWS["embed1in3"].start.kind, ROWS["embed1in3"].start.opens) == ("masked", False)
    assert all(row.parents == ["one1"] for name, row in ROWS.items() if name.startswith(("expand1to", "embed1in3")))


def test_untrained_experiments_are_ensembles_or_merges() -> None:
    """A row with 0 epochs is a plain ensemble of trained networks, or a merge that is measured at transfer."""
    untrained = set(ROWS) - set(TRAINED)
    ensembles = {name for name in untrained if "_ensemble" in name}
    assert {(ROWS[name].start.kind, ROWS[name].model.gate) for name in ensembles} == {("combine", "mean")}
    assert untrained - ensembles == {f"merge3_{start}" for start in ("first_bn", "mean", "mean_bn")} | {
        "merge3_matched",
        "merge3_matched_bn",
    }
    assert not [name for name in TRAINED if "_ensemble" in name]


# Controls


def training_but_distillation(row: Experiment) -> dict[str, Any]:
    """The settings that a row and its control share: data and training, without the loss."""
    return {"data": row.data.model_dump(), "training": row.training.model_dump(exclude={"distillation"})}


def continuation(parent: str, row: Experiment, rows: Mapping[str, Experiment]) -> str | None:
    """The experiment that trains `parent` further with the training of `row`."""
    for name, other in rows.items():
        trained_on = (other.start.kind, other.parents) == ("continue", [parent])
        if trained_on and training_but_distillation(other) == training_but_distillation(row):
            return name
    return None


def plain_ensemble(members: list[str | None], row: Experiment, rows: Mapping[str, Experiment]) -> str | None:
    """The experiment that is the plain logit ensemble of `members`, on the data of `row`."""
    for name, other in rows.items():
        plain = (other.start.kind, other.model.gate, other.training.epochs) == ("combine", "mean", 0)
        if plain and other.parents == members and other.data == row.data:
            return name
    return None


@pytest.mark.parametrize("study_name", ["full", *OVERLAYS])
def test_every_fine_tuned_row_has_a_control(study_name: str) -> None:
    """A control trains the parent with the same settings; for several parents it is the ensemble of such controls."""
    rows = project(study_name).experiments
    fine_tuned = {name for name, row in rows.items() if row.start.kind in TRANSFERS and row.training.epochs}
    without = set()
    for name in fine_tuned:
        row = rows[name]
        controls = [continuation(parent, row, rows) for parent in row.parents]
        if None in controls or (len(controls) > 1 and plain_ensemble(controls, row, rows) is None):
            without.add(name)
    assert without == set()


def test_controls_continue_the_networks_that_are_joined() -> None:
    """For each replicate, the ensemble of the continued networks has the same ancestors as the row that it controls."""
    pairs = {
        "combine3": "one1_continued_ensemble3",
        "combine3_with_baseline": "mixed_continued_ensemble3",
        "cifar10_combine3": "cifar10_one1_continued_ensemble3",
        "cifar10_combine3_with_baseline": "cifar10_mixed_continued_ensemble3",
        "merge3_refit": "one1_continued_ensemble3",
    }
    for row, control in pairs.items():
        for seed in (0, 1, 2):
            singles = project().run(control, seed).parents
            ancestors = [parent.key for single in singles for parent in single.parents]
            assert ancestors == [parent.key for parent in project().run(row, seed).parents], row


@pytest.mark.parametrize(
    ("name", "precision"), [("full", "bf16"), ("demo", "fp32"), ("demo_all", "fp32"), ("mini", "fp32")]
)
def test_precision_of_each_study(name: str, precision: str) -> None:
    """bf16 is for the GPU of the full study; emulated, it is ten times slower than fp32."""
    assert {row.training.precision for row in project(name).experiments.values()} == {precision}


def test_defaults_of_the_settings_are_not_needed() -> None:
    """`params.yaml` has every setting of a plain row, so that a reader sees the whole method there."""
    row = ROWS["one3"]
    silent = {"data": {"split_seed"}}
    for section in ("data", "model", "training"):
        said = set(PARAMS["defaults"][section])
        assert set(getattr(row, section).model_dump()) - said == silent.get(section, set())


# Overlays


def test_time_scale_stretches_all_epochs_together(tmp_path: Path) -> None:
    """Epochs, milestones and ramp-up are multiplied by one factor, so that a short study still distils."""
    root = write(tmp_path, overlay={"time_scale": 0.1})
    short = study.load(root, "small").experiments
    assert (short["one3"].training.epochs, short["one3"].training.schedule.milestones) == (30, [15, 23])
    assert short["one3"].training.distillation.rampup == pytest.approx(8)
    assert (short["one3_to_5_masked"].training.epochs, short["one3_to_5_masked"].training.schedule.milestones) == (
        10,
        [6],
    )


def test_time_scale_leaves_shares_alone(tmp_path: Path) -> None:
    """The prior of masked opens at fractions of the steps, which are the same in a study of any length."""
    root = write(tmp_path, overlay={"time_scale": 0.1})
    short, full = (study.load(root, name).experiments["one3_to_5_masked"] for name in ("small", "full"))
    assert short.start == full.start


def test_time_scale_leaves_the_untrained_untrained(tmp_path: Path) -> None:
    """Rows with 0 epochs keep 0 in a study of any length; all other rows keep at least one."""
    root = write(tmp_path, overlay={"time_scale": 0.0001})
    epochs = {name: row.training.epochs for name, row in study.load(root, "small").experiments.items()}
    assert epochs == {name: int(name in TRAINED) for name in SMALL}


def time_scale(name: str) -> float:
    """The factor of a study of this project."""
    overlay = yaml.safe_load((ROOT / "studies" / f"{name}.yaml").read_text(encoding="utf-8"))
    return float(overlay["time_scale"])


def starts_whole(experiment: str) -> bool:
    """Whether the full study trains it for the 300 epochs of rows with random weights."""
    return ROWS[experiment].training.epochs == 300


@pytest.mark.parametrize("name", SCALED)
def test_short_studies_still_distil(name: str) -> None:
    """In every scaled study, ramp-up and milestones end within the training of rows with random weights."""
    whole = {experiment: row for experiment, row in project(name).experiments.items() if starts_whole(experiment)}
    assert "one3" in whole
    for experiment, row in whole.items():
        full, short = ROWS[experiment].training, row.training
        if isinstance(full.distillation, OnTheFly):
            assert isinstance(short.distillation, OnTheFly)
            assert (short.distillation.rampup > 0) == (full.distillation.rampup > 0), experiment
            assert short.distillation.rampup < short.epochs / 2, experiment
        assert len(short.schedule.milestones) == len(full.schedule.milestones), experiment
        assert all(0 < milestone < short.epochs for milestone in short.schedule.milestones), experiment


@pytest.mark.parametrize("name", SCALED)
def test_short_studies_keep_ramp_ups_and_losses(name: str) -> None:
    """A scaled row has the start and the loss of the full one, except for a scaled ramp-up."""
    for experiment, short in project(name).experiments.items():
        full = ROWS[experiment]
        assert short.start == full.start, experiment
        assert short.parents == full.parents, experiment
        said = full.training.distillation.model_dump()
        if "rampup" in said:
            said["rampup"] = pytest.approx(said["rampup"] * time_scale(name))
        assert short.training.distillation.model_dump() == said, experiment
        assert short.training.schedule.gradient_ratio == full.training.schedule.gradient_ratio, experiment
        assert short.training.optimizer == full.training.optimizer, experiment
        assert short.training.selection == full.training.selection, experiment


@pytest.mark.parametrize("name", SCALED)
def test_short_studies_keep_the_drops_of_the_learning_rate(name: str) -> None:
    """Each drop with at least one whole epoch after it is still within the scaled training, and not at its start."""
    for experiment, row in project(name).experiments.items():
        full, short = ROWS[experiment].training, row.training
        for before, after in zip(full.schedule.milestones, short.schedule.milestones, strict=True):
            if (full.epochs - before) * time_scale(name) >= 1:
                assert 0 < after < short.epochs, experiment


def test_overlay_of_one_experiment_wins(tmp_path: Path) -> None:
    """Rows are merged in this order: defaults, row, every_experiment, the overlay's row; kinds replace as a whole."""
    adam = {"kind": "adam", "lr": 0.001}
    overlay = {
        "every_experiment": {"model": {"depth": 8}, "training": {"batch_size": 64}},
        "experiments": {"baseline": {"training": {"batch_size": 32, "optimizer": adam}}},
    }
    rows = study.load(write(tmp_path, overlay=overlay), "small").experiments
    assert rows["baseline"].training.batch_size == 32
    assert rows["baseline"].training.optimizer.model_dump(include={"kind", "lr", "weight_decay"}) == adam | {
        "weight_decay": 0.0
    }
    assert {row.training.batch_size for name, row in rows.items() if name != "baseline"} == {64}
    assert {row.model.depth for row in rows.values()} == {8}


def test_only_picks_experiments(tmp_path: Path) -> None:
    """A study may consist of some of the experiments."""
    plan = study.load(write(tmp_path, overlay={"only": ["one3", "one3_continued"]}), "small")
    assert list(plan.experiments) == ["one3", "one3_continued"]


def test_yaml_anchors_may_be_merged(tmp_path: Path) -> None:
    """YAML's `<<: *anchor` is supported."""
    file = tmp_path / "some.yaml"
    file.write_text("a: &a {lr: 1, epochs: 2}\nb:\n  <<: *a\n  epochs: 3\n", encoding="utf-8")
    assert study.read_yaml(file)["b"] == {"lr": 1, "epochs": 3}


# Errors

ONE1, ONE3, ONE5, SPLIT, MASKED, BASELINE, MUTUAL, STUDENT, COMBINED, ENSEMBLE, MERGED = (
    f"experiments.{name}"
    for name in (
        *("one1", "one3", "one5", "one3_to_5_split", "one3_to_5_masked", "baseline", "mutual2"),
        *("baseline_self_distilled", "combine3", "one1_ensemble3", "merge3_refit"),
    )
)

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key at the top": ({"seed": [0]}, ["params.yaml", "seed is not", "did you mean 'seeds'?"]),
    "unknown key in the defaults": (
        {"defaults.training.epoch": 3},
        ["experiments.baseline", "training.epoch is not a known key", "did you mean 'epochs'?"],
    ),
    "misspelt key that is now missing": (
        {"defaults.training.epochs": DELETED, "defaults.training.epoch": 3},
        ["training.epoch is not a known key", "did you mean 'epochs'?"],
    ),
    "unknown key in a row": ({f"{ONE3}.modle": {}}, [ONE3, "modle is not", "did you mean 'model'?"]),
    "unknown key of an optimiser": (
        {f"{ONE3}.training.optimizer.learning_rate": 1},
        [ONE3, "training.optimizer.learning_rate is not a known key", "known: kind, lr, momentum"],
    ),
    "unknown key of a start": (
        {f"{MASKED}.start.open_form": 0.5},
        [MASKED, "start.open_form is not a known key", "did you mean 'open_from'?"],
    ),
    "key of another kind": ({f"{SPLIT}.start.closed_until": 0.5}, [SPLIT, "start.closed_until", "donors, kind, noise"]),
    "key with a line break": ({"defaults.a\nb": 1}, [r"'a\nb' is not a known key"]),
    "missing key": ({"defaults.training.epochs": DELETED}, ["training.epochs is missing"]),
    "missing device": ({"device": DELETED}, ["params.yaml: device is missing"]),
    "missing kind": (
        {"defaults.training.optimizer.kind": DELETED},
        ["training.optimizer.kind is missing", "known: adam, sgd"],
    ),
    "missing about": ({f"{ONE3}.about": DELETED}, [ONE3, "about is missing"]),
    "unknown kind": (
        {f"{MASKED}.start.kind": "maskd"},
        [MASKED, "start.kind: 'maskd' is not known", "did you mean 'masked'?", "split"],
    ),
    "kind of the wrong type": ({f"{MASKED}.start": "masked"}, [MASKED, "start", '"masked"', "must be a mapping"]),
    "empty section": ({f"{ONE3}.model": None}, [ONE3, "model: null", "must be a mapping"]),
    "empty row": ({ONE3: None}, [ONE3, "null", "must be a mapping"]),
    "no experiments": ({"experiments": {}}, ["experiments", "at least 1"]),
    "impossible choice": (
        {"defaults.training.precision": "fp16"},
        ["training.precision", '"fp16"', "'fp32' or 'bf16'"],
    ),
    "unknown dataset": ({"defaults.data.dataset": "imagenet"}, ["data.dataset", '"imagenet"', "'cifar100'"]),
    "word for a number": ({"defaults.training.epochs": "many"}, ["training.epochs", '"many"', "integer"]),
    "truth for a number": ({"defaults.training.epochs": True}, ["training.epochs", "true is not a number"]),
    "truth for a learning rate": ({f"{ONE3}.training.optimizer.lr": True}, ["optimizer.lr", "true is not a number"]),
    "fraction for an integer": ({"defaults.training.epochs": 2.5}, ["training.epochs", "2.5", "integer"]),
    "number for a list": ({"seeds": 3}, ["seeds: 3 is not valid: it must be a list, such as [0, 1, 2]"]),
    "no seeds": ({"seeds": []}, ["seeds", "[]", "at least 1"]),
    "seed twice": ({"seeds": [0, 0]}, ["seeds: [0, 0] has a seed twice"]),
    "seed twice in a row": ({f"{ONE3}.seeds": [1, 1]}, [ONE3, "seeds: [1, 1] has a seed twice"]),
    "negative seed": ({"seeds": [0, -1]}, ["seeds.1", "-1", "greater than or equal to 0"]),
    "no threads": ({"threads": 0}, ["threads", "0", "greater than or equal to 1"]),
    "negative epochs": ({"defaults.training.epochs": -1}, ["training.epochs", "-1", "greater than or equal to 0"]),
    "endless training": ({"defaults.training.epochs": 10**400}, ["training.epochs", "less than or equal to 1000000"]),
    "learning rate 0": ({f"{ONE3}.training.optimizer.lr": 0}, ["training.optimizer.lr", "0", "greater than 0"]),
    "learning rate NaN": ({f"{ONE3}.training.optimizer.lr": float("nan")}, ["optimizer.lr", "NaN", "finite"]),
    "infinite temperature": (
        {"defaults.training.distillation.temperature": float("inf")},
        ["distillation.temperature", "Infinity", "finite"],
    ),
    "momentum 1": ({f"{ONE3}.training.optimizer.momentum": 1}, ["optimizer.momentum", "1", "less than 1"]),
    "Nesterov without momentum": (
        {"defaults.training.optimizer.momentum": 0, "defaults.training.optimizer.nesterov": True},
        ["training.optimizer: nesterov needs a momentum above 0"],
    ),
    "batches of one image": ({"defaults.training.batch_size": 1}, ["batch_size", "1", "greater than or equal to 2"]),
    "milestones out of order": (
        {"defaults.training.schedule.milestones": [225, 151]},
        ["training.schedule", "milestones [225, 151] must be in ascending order"],
    ),
    "prior that opens before it closes": (
        {f"{MASKED}.start.open_from": 0.3},
        [MASKED, "open_from 0.3 is below closed_until 0.4"],
    ),
    "depth of no ResNet": ({"defaults.model.depth": 33}, ["depth 33 is not 6n+2 (basic blocks); 32 would be"]),
    "depth of no bottleneck ResNet": (
        {"defaults.model.block": "bottleneck"},
        ["depth 32 is not 9n+2 (bottleneck blocks); 29 would be"],
    ),
    "depth of no ResNet-18": ({"defaults.model.family": "resnet18"}, ["resnet18 has depth 18 and basic blocks"]),
    "no branches": ({f"{ONE3}.model.branches": 0}, [ONE3, "model.branches", "greater than or equal to 1"]),
    "branches without a gate": ({f"{ONE3}.model.gate": "none"}, [ONE3, "3 branches need gate: learned or mean"]),
    "selection without validation": (
        {f"{BASELINE}.training.selection": "best_validation"},
        [BASELINE, "best_validation needs data.validation above 0"],
    ),
    "more images than there are": (
        {"defaults.data.validation": 49_000, "defaults.data.training_subset": 1_001},
        ["validation 49000 and training_subset 1001 do not fit into the 50000 training images of cifar100"],
    ),
    "random network left untrained": ({f"{ONE3}.training.epochs": 0}, [ONE3, "epochs 0 leaves a random network"]),
    "unknown gate": ({f"{ONE3}.model.gate": "meen"}, [ONE3, "model.gate", '"meen"', "'learned', 'mean' or 'none'"]),
    "unknown trunk": ({f"{ONE3}.model.trunk": "none"}, [ONE3, "model.trunk", '"none"', "'shared' or 'own'"]),
    "own trunk of a single branch": (
        {f"{ONE1}.model.trunk": "own"},
        [ONE1, "trunk: own needs at least 2 branches; a single branch always has its own trunk"],
    ),
    "unknown part": ({f"{ONE3}.part": "growht"}, [ONE3, "part", '"growht"', "'growth'"]),
    "random start with a parent": (
        {f"{ONE5}.parents": ["one3"]},
        [ONE5, "start random with training.distillation on_the_fly needs no parents, not ['one3']"],
    ),
    "mutual learning with a parent": (
        {f"{MUTUAL}.parents": ["one3"]},
        [MUTUAL, "start random with training.distillation mutual needs no parents, not ['one3']"],
    ),
    "student without a teacher": (
        {f"{STUDENT}.parents": []},
        [STUDENT, "start random with training.distillation soft_labels needs 1 parent, not []"],
    ),
    "student of two teachers": (
        {f"{STUDENT}.parents": ["one3", "one5"]},
        [STUDENT, "training.distillation soft_labels needs 1 parent, not ['one3', 'one5']"],
    ),
    "student with a gate": (
        {f"{STUDENT}.model.gate": "learned"},
        [STUDENT, "training.distillation soft_labels is for a student with start random and gate none"],
    ),
    "student with a mean gate": (
        {f"{STUDENT}.model": {"branches": 2, "gate": "mean"}},
        [STUDENT, "training.distillation soft_labels is for a student with start random and gate none"],
    ),
    "student that starts from weights": (
        {f"{STUDENT}.start": {"kind": "continue"}, f"{STUDENT}.training.distillation": {"kind": "knowledge"}},
        [STUDENT, "training.distillation knowledge is for a student with start random and gate none"],
    ),
    "teacher that has seen the student's validation images": (
        {f"{STUDENT}.data": {"validation": 5000}},
        [f"{STUDENT}.parents: baseline has data.validation 0, its child 5000; both must have the same value"],
    ),
    "teacher with other validation images": (
        {f"{STUDENT}.data": {"validation": 5000, "split_seed": 1}, f"{BASELINE}.data": {"validation": 5000}},
        [f"{STUDENT}.parents: baseline has data.split_seed 0, its child 1; both must have the same value"],
    ),
    "teacher on another dataset": (
        {f"{STUDENT}.data": {"dataset": "cifar10"}},
        [f"{STUDENT}.parents: baseline has data.dataset cifar100, its child cifar10; both must have the same value"],
    ),
    "mutual learning of a single branch": (
        {f"{MUTUAL}.model": {"branches": 1}},
        [MUTUAL, "training.distillation mutual needs at least 2 branches, which teach each other"],
    ),
    "unknown distillation": (
        {f"{STUDENT}.training.distillation.kind": "soft_lables"},
        [STUDENT, "training.distillation.kind: 'soft_lables' is not known", "did you mean 'soft_labels'?", "knowledge"],
    ),
    "ramp-up of another distillation": (
        {f"{STUDENT}.training.distillation.rampup": 80},
        [STUDENT, "training.distillation.rampup is not a known key", "known: kind, temperature"],
    ),
    "temperature without distillation": (
        {f"{ONE3}.training": {"distillation": {"kind": "none", "temperature": 1}}},
        [ONE3, "training.distillation.temperature is not a known key", "known: kind"],
    ),
    "temperature 0": (
        {f"{STUDENT}.training.distillation.temperature": 0},
        [STUDENT, "training.distillation.temperature: 0 is not valid", "greater than or equal to 0.01"],
    ),
    "unknown key of the gradient ratio": (
        {f"{ONE3}.training": {"schedule": {"gradient_ratio": {"evry": 1}}}},
        [ONE3, "training.schedule.gradient_ratio.evry is not a known key", "did you mean 'every'?", "smoothing"],
    ),
    "misspelt gradient ratio": (
        {f"{ONE3}.training": {"schedule": {"gradient_ration": {"every": 1}}}},
        [ONE3, "training.schedule.gradient_ration is not a known key", "did you mean 'gradient_ratio'?"],
    ),
    "truth for a gradient ratio": (
        {f"{ONE3}.training": {"schedule": {"gradient_ratio": True}}},
        [ONE3, "training.schedule.gradient_ratio: true is not valid", "must be a mapping"],
    ),
    "gradient ratio that is never taken": (
        {f"{ONE3}.training": {"schedule": {"gradient_ratio": {"every": 0}}}},
        [ONE3, "training.schedule.gradient_ratio.every: 0", "greater than or equal to 1"],
    ),
    "gradient ratio smoothed for ever": (
        {f"{ONE3}.training": {"schedule": {"gradient_ratio": {"smoothing": 1}}}},
        [ONE3, "training.schedule.gradient_ratio.smoothing: 1", "less than 1"],
    ),
    "gradient ratio without room": (
        {f"{ONE3}.training": {"schedule": {"gradient_ratio": {"lowest": 3, "highest": 2}}}},
        [ONE3, "training.schedule.gradient_ratio", "lowest 3", "highest 2"],
    ),
    "test images never looked at": (
        {"defaults.training.test_every": 0},
        ["training.test_every: 0", "greater than or equal to 1"],
    ),
    "combination with a branch too many": (
        {f"{COMBINED}.model.branches": 4},
        [COMBINED, "start combine needs at least 2 parents and makes one branch of each, not", "branches 4"],
    ),
    "combination of one network": (
        {f"{COMBINED}.parents": ["one1"]},
        [COMBINED, "start combine needs at least 2 parents and makes one branch of each, not", "branches 3"],
    ),
    "combination of nothing": ({f"{COMBINED}.parents": []}, [COMBINED, "not [] with model.branches 3"]),
    "combination on one trunk": (
        {f"{COMBINED}.model.trunk": "shared"},
        [COMBINED, "start combine makes model.trunk own, not shared"],
    ),
    "ensemble without a gate": (
        {f"{ENSEMBLE}.model.gate": "none"},
        [ENSEMBLE, "3 branches need gate: learned or mean"],
    ),
    "merge without its branches": (
        {f"{MERGED}.model": {"branches": 5}},
        [MERGED, "start merge needs at least 2 parents and makes one branch of each, not", "branches 5"],
    ),
    "merge with a mean gate": (
        {f"{MERGED}.model": {"gate": "mean"}},
        [MERGED, "start merge needs model.gate learned, not mean"],
    ),
    "merge with own trunks": (
        {f"{MERGED}.model": {"trunk": "own"}},
        [MERGED, "start merge makes model.trunk shared, not own"],
    ),
    "merge on an unknown trunk": (
        {f"{MERGED}.start.trunk": "match"},
        [MERGED, "start.trunk", '"match"', "'first', 'mean', 'matched' or 'refit'"],
    ),
    "merge on a word for a number of images": ({f"{MERGED}.start.images": "all"}, [MERGED, "start.images", '"all"']),
    "refit without a ridge": (
        {f"{MERGED}.start.ridge": 0},
        [MERGED, "start.ridge: 0", "greater than or equal to 0.0000000001"],
    ),
    "trunk of a combination": (
        {f"{COMBINED}.start.trunk": "first"},
        [COMBINED, "start.trunk is not a known key", "known: gate_rows, kind"],
    ),
    "merge of networks with branches": (
        {f"{MERGED}.parents": ["one1", "one3", "one1"]},
        [f"{MERGED}.parents: one3 has 3 branches; start merge needs networks with one branch"],
    ),
    "combination of networks with branches": (
        {f"{COMBINED}.parents": ["one1", "one1", "one5"]},
        [f"{COMBINED}.parents: one5 has 5 branches; start combine needs networks with one branch"],
    ),
    "merge with a deeper network": (
        {f"{MERGED}.parents": ["one1", "one1", "resnet110_baseline"]},
        [f"{MERGED}.parents: resnet110_baseline has model.depth 110, its child 32; both must have the same value"],
    ),
    "merge with a network for other data": (
        {
            "experiments.resnet110_baseline": {"about": "x", "model": {"branches": 1}, "data": {"dataset": "cifar10"}},
            "experiments.distilled_from_resnet110": DELETED,
            f"{MERGED}.parents": ["one1", "resnet110_baseline", "one1"],
        },
        [
            f"{MERGED}.parents: resnet110_baseline has data.dataset cifar10, its child cifar100; "
            "both must have the same value"
        ],
    ),
    "combination with a deeper network": (
        {f"{COMBINED}.parents": ["resnet110_baseline", "one1", "one1"]},
        [f"{COMBINED}.parents: resnet110_baseline has model.depth 110, its child 32; both must have the same value"],
    ),
    "growth of own trunks": (
        {f"{SPLIT}.parents": ["one3_no_sharing"]},
        [
            f"{SPLIT}.parents: one3_no_sharing has model.gate learned and model.trunk own",
            "start split grows networks with a learned gate, or none, on a shared trunk",
        ],
    ),
    "growth under a mean gate": (
        {f"{MASKED}.parents": ["one3_no_gate"]},
        [
            f"{MASKED}.parents: one3_no_gate has model.gate mean and model.trunk shared",
            "start masked grows networks with a learned gate, or none, on a shared trunk",
        ],
    ),
    "growth into own trunks": (
        {f"{SPLIT}.model.trunk": "own"},
        [SPLIT, "start split needs model.gate learned and model.trunk shared"],
    ),
    "growth into a mean gate": (
        {f"{SPLIT}.model.gate": "mean"},
        [SPLIT, "start split needs model.gate learned and model.trunk shared"],
    ),
    "continuation with another gate": (
        {"experiments.one3_continued.model": {"gate": "mean"}},
        ["one3 has model.gate learned, its child mean"],
    ),
    "continuation with other trunks": (
        {"experiments.one3_continued.model": {"trunk": "own"}},
        ["one3 has model.trunk shared, its child own"],
    ),
    "prior that has no time to open": (
        {f"{MASKED}.training.epochs": 0},
        [MASKED, "epochs 0 never opens the prior of start masked; give it at least 1 epoch, or opens: false"],
    ),
    "start without its parent": ({f"{SPLIT}.parents": []}, [SPLIT, "start split needs 1 parent, not []"]),
    "start with two parents": (
        {f"{SPLIT}.parents": ["one3", "one5"]},
        [SPLIT, "start split needs 1 parent, not ['one3', 'one5']"],
    ),
    "missing parent": ({f"{SPLIT}.parents": ["one_3"]}, [f"{SPLIT}.parents", "'one_3'", "did you mean 'one3'?"]),
    "its own parent": (
        {f"{SPLIT}.parents": ["one3_to_5_split"]},
        [f"{SPLIT}.parents", "one3_to_5_split → one3_to_5_split is a circle; remove"],
    ),
    "circle of parents": (
        {
            f"{ONE3}.parents": ["one3_continued"],
            f"{ONE3}.start": {"kind": "continue"},
        },
        ["one3", "one3_continued", "is a circle; remove one of these parents"],
    ),
    "circle of grown networks": (
        {f"{ONE3}.parents": ["one3_to_5_masked"], f"{ONE3}.start": {"kind": "zero_pad"}},
        ["is a circle; remove one of these parents"],
    ),
    "parent of another dataset": (
        {f"{ONE3}.data.dataset": "cifar10"},
        ["one3 has data.dataset cifar10, its child cifar100; both must have the same value"],
    ),
    "parent with another normalisation": (
        {f"{SPLIT}.data.normalization": "lan2018"},
        [SPLIT, "one3 has data.normalization dataset, its child lan2018"],
    ),
    "parent of another depth": ({f"{ONE3}.model.depth": 20}, ["one3 has model.depth 20, its child 32"]),
    "parent of another width": ({f"{ONE3}.model.width": 8}, ["one3 has model.width 8, its child 16"]),
    "parent with other blocks": (
        {"defaults.model.depth": 20, f"{ONE3}.model": {"block": "bottleneck"}},
        ["one3 has model.block bottleneck, its child basic"],
    ),
    "continuation with other branches": (
        {"experiments.one3_continued.model.branches": 5},
        ["one3 has model.branches 3, its child 5"],
    ),
    "growth to fewer branches": (
        {f"{MASKED}.model.branches": 3},
        [MASKED, "one3 has 3 branches; its child needs more, not 3"],
    ),
    "too few donors": ({f"{SPLIT}.start.donors": [1]}, [SPLIT, "donors [1] must name 2 of its branches 1 to 3"]),
    "donors that the parent lacks": ({f"{SPLIT}.start.donors": [0, 4]}, [SPLIT, "donors [0, 4]", "branches 1 to 3"]),
    "imported network without seeds": (
        {ONE3: {"about": "x", "start": {"kind": "imported", "path": "x"}}},
        [ONE3, "give it exactly one seed, e.g. seeds: [0]"],
    ),
    "imported network that is not there": (
        {ONE3: {"about": "x", "seeds": [0], "start": {"kind": "imported", "path": "missing"}}},
        ["missing/model.json is missing", "coopnet import"],
    ),
    "name of no experiment": ({"experiments.One-3": {"about": "x"}}, ["experiments.One-3", '"One-3"', "pattern"]),
    "number for a name": ({"experiments": {3: {"about": "x"}}}, ["experiments.3", "string"]),
    "value with a line break": ({"device": "cuda\ncpu"}, ["device", r'"cuda\ncpu"', "'cpu' or 'cuda'"]),
    "value with a key that JSON lacks": (
        {"device": {datetime.date(2020, 1, 1): 1}},
        ["device", "'cpu' or 'cuda'"],
    ),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    """An impossible setting is refused in one line that names the key, its value and the remedy."""
    message = refusal(write(tmp_path, changes))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "changes",
    [
        {f"{STUDENT}.parents": ["resnet110_baseline"]},
        {f"{STUDENT}.parents": ["baseline_ensemble2"]},
        {f"{STUDENT}.parents": ["one3_no_sharing"]},
        {f"{MASKED}.training.epochs": 0, f"{MASKED}.start.opens": False},
        {f"{SPLIT}.parents": ["baseline"], f"{SPLIT}.start.donors": [1, 1, 1, 1]},
        {f"{MUTUAL}.model": {"branches": 2, "gate": "mean"}},
        {f"{MERGED}.parents": ["baseline", "one1", "baseline"]},
        {f"{ONE5}.model.gate": "mean", f"{ONE5}.model.trunk": "own"},
        {f"{ONE3}.training": {"schedule": {"gradient_ratio": {}}}},
        {"experiments.one5_gradient_ratio.training.schedule.gradient_ratio": None},
    ],
    ids=[
        "teacher of another depth",
        "ensemble as teacher",
        "teacher with a gate and trunks",
        "prior that stays closed, untrained",
        "growth of a network without gate",
        "mutual learning of branches on one trunk",
        "merge of networks with and without gate",
        "own trunks under a mean gate",
        "gradient ratio with its defaults",
        "gradient ratio switched off",
    ],
)
def test_accepted(changes: dict[str, Any], tmp_path: Path) -> None:
    """Settings that resemble a refused one but are possible load."""
    assert study.load(write(tmp_path, changes)).runs


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"seeds": [0, 0]}, ["studies/small.yaml", "seeds: [0, 0] has a seed twice"]),
        ({"time_scal": 0.1}, ["studies/small.yaml", "time_scal is not", "did you mean 'time_scale'?"]),
        ({"time_scale": 0}, ["studies/small.yaml", "time_scale", "greater than 0"]),
        ({"time_scale": 1e308}, ["studies/small.yaml", "time_scale", "less than or equal to 1000"]),
        ({"only": ["one33"]}, ["'one33' is not an experiment of params.yaml", "did you mean"]),
        ({"only": []}, ["studies/small.yaml", "only", "at least 1"]),
        ({"only": ["one3_continued"]}, ["one3_continued.parents", "'one3'", "add it to `only`"]),
        ({"parts": ["growth"]}, ["studies/small.yaml", "parts is not a known key"]),
        ({"only": ["one3"], "experiments": {"one5": {}}}, ["experiments.one5 is not in this study; add it to `only`"]),
        ({"experiments": {"one_3": {}}}, ["'one_3' is not an experiment of params.yaml", "did you mean 'one3'?"]),
        ({"every_experiment": {"model": {"depth": 9}}}, ["studies/small.yaml over params.yaml", "8 would be"]),
        ([1, 2], ["studies/small.yaml must be a mapping of keys to values, not list"]),
    ],
)
def test_refused_overlay(overlay: Any, words: list[str], tmp_path: Path) -> None:
    """An overlay is checked as strictly as `params.yaml`, and named in the message."""
    message = refusal(write(tmp_path, overlay=overlay), "small")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' is given twice in params.yaml, line 3"),
        ("a: {b: 1, b: 2}\n", "key 'b' is given twice"),
        ("- 1\n", "must be a mapping of keys to values, not list"),
        ("", "must be a mapping of keys to values, not NoneType"),
        ("a: [1\n", "in params.yaml, line 2"),
        ("a:\tb: c\n", "is not valid YAML"),
        ("a: 2024-13-45\n", "is not valid YAML"),
        ("a: 0x_\n", "is not valid YAML"),
        ("a: [1, 010]\n", "010 would be read as 8; write 10"),
        ("a: -007\n", "-007 would be read as -7; write -7"),
        ("a: [1:30]\n", "1:30 would be read as 90; write 90"),
        ("a: !!bool maybe\n", "is not valid YAML"),
        ("a: !!timestamp never\n", "is not valid YAML"),
        ("a: &a {b: *a}\n", "is not valid YAML"),
        ("? [a]\n: 1\n", "is not valid YAML"),
        ("a: !!python/object:os.system {}\n", "is not valid YAML"),
        (f"a: {'[' * 1_000}\n", "is not valid YAML"),
    ],
)
def test_refused_yaml(text: str, words: str, tmp_path: Path) -> None:
    """A file that is not a YAML mapping without repeated keys is refused in one line that names it."""
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    message = refusal(tmp_path)
    assert "params.yaml" in message
    assert words in message


def test_numbers_are_read_as_they_look(tmp_path: Path) -> None:
    """Also zero, and numbers with a prefix."""
    (tmp_path / "some.yaml").write_text("a: [0, -5, 1_000, 0x1f, 0b11]\n", encoding="utf-8")
    assert study.read_yaml(tmp_path / "some.yaml") == {"a": [0, -5, 1000, 31, 3]}


def test_refused_encoding(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused by name."""
    (tmp_path / "params.yaml").write_bytes("title: Zürich\n".encode("latin-1"))
    assert "params.yaml" in refusal(tmp_path)


def test_missing_params_says_where_to_run(tmp_path: Path) -> None:
    """In another folder, the message says what to do."""
    assert "run this from the folder that holds it" in refusal(tmp_path)


def test_unknown_study_names_the_nearest(tmp_path: Path) -> None:
    """The error for a misspelt study has the nearest and all known ones; a path is not a name."""
    root = write(tmp_path, overlay={})
    assert "there is no study 'smal'; did you mean 'small'? (known: full, small)" in refusal(root, "smal")
    assert "there is no study" in refusal(root, "../studies/small")


def test_file_that_an_editor_left_is_no_study(tmp_path: Path) -> None:
    """Emacs' lock of an open overlay, and macOS' file in an archive, stop no study."""
    root = write(tmp_path, overlay={})
    (root / "studies" / ".#small.yaml").symlink_to("somebody@somewhere.1")
    (root / "studies" / "._small.yaml").write_bytes(b"\0\5\x16\7")
    assert study.names(root) == ["full", "small"]
    assert study.load(root, "small").runs


def test_unknown_run_is_refused() -> None:
    """The error for an experiment or seed that is not planned names those that are."""
    plan = project()
    with pytest.raises(CoopNetError, match="study full has no experiment 'one33'; did you mean 'one3'"):
        plan.run("one33", 0)
    with pytest.raises(CoopNetError, match=r"one3 of study full has seeds \[0, 1, 2\], not 7"):
        plan.run("one3", 7)


# Replicates


def experiment_with_parents(*parents: str) -> Experiment:
    """A row with any number of parents; `plan` does not check whether its start allows them."""
    return ROWS["one3_to_5_zero_pad"].model_copy(update={"parents": list(parents)})


def test_replicate_of_three_parents_takes_three_seeds() -> None:
    """Replicate k of a row with three parents uses seeds 3k, 3k+1, 3k+2 of its parent experiment."""
    rows = {"one3": ROWS["one3"], "merged": experiment_with_parents("one3", "one3", "one3")}
    runs = plan(rows, [0, 1, 2], 1, ROOT, "test", DATASETS)
    for k in range(3):
        parents = runs["merged", k].parents
        assert [(p.experiment, p.seed) for p in parents] == [("one3", 3 * k + j) for j in range(3)]
    assert sorted(seed for name, seed in runs if name == "one3") == list(range(9))


def test_seeds_of_a_parent_include_those_its_children_need() -> None:
    """A parent experiment has its own seeds and all those that its descendants need."""
    grandchild = ROWS["one3_continued"].model_copy(update={"parents": ["merged"], "seeds": [4]})
    family = {"merged": experiment_with_parents("one3", "one3"), "grandchild": grandchild, "one3": ROWS["one3"]}
    runs = plan(family, [0], 1, ROOT, "test", DATASETS)
    assert sorted(runs) == [
        ("grandchild", 4),
        ("merged", 0),
        ("merged", 4),
        ("one3", 0),
        ("one3", 1),
        ("one3", 8),
        ("one3", 9),
    ]


@given(
    parents=st.lists(st.sampled_from(["one3", "one5", "baseline"]), min_size=1, max_size=4),
    seeds=st.sets(st.integers(0, 20), min_size=1, max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_no_network_serves_two_replicates(parents: list[str], seeds: set[int]) -> None:
    """For any parents and seeds of a row, its replicates share no ancestor."""
    rows = {name: ROWS[name] for name in ("one3", "one5", "baseline")}
    rows["merged"] = experiment_with_parents(*parents)
    runs = plan(rows, sorted(seeds), 1, ROOT, "test", DATASETS)
    used = [parent.key for seed in seeds for parent in runs["merged", seed].parents]
    assert len(set(used)) == len(parents) * len(seeds)


def test_mixed_parents_take_their_own_replicates() -> None:
    """Replicate k of a row with a baseline and two one1 uses seed 3k of the first, 3k+1 and 3k+2 of the second."""
    for k in range(3):
        parents = project().run("combine3_with_baseline", k).parents
        assert [p.name for p in parents] == [f"baseline/seed{3 * k}", f"one1/seed{3 * k + 1}", f"one1/seed{3 * k + 2}"]


@pytest.mark.parametrize("name", ["full", *OVERLAYS])
def test_parents_are_planned_before_children(name: str) -> None:
    """The runs can be made in the order of the list."""
    seen = set()
    for place, run in project(name).runs.items():
        assert {(p.experiment, p.seed) for p in run.parents} <= seen
        seen.add(place)


# Keys


def test_keys_are_distinct() -> None:
    """No two runs of the full study share a key, also not with a run of another study of this project."""
    by_study = {name: [run.key for run in project(name).runs.values()] for name in ("full", *OVERLAYS)}
    assert len(set(by_study["full"])) == len(by_study["full"])
    for name in OVERLAYS:
        assert not set(by_study["full"]) & set(by_study[name]), name
    assert len(set(by_study["mini"])) == len(by_study["mini"])
    assert not set(by_study["mini"]) & {*by_study["demo"], *by_study["demo_all"]}


def test_demos_share_their_runs() -> None:
    """The rows of demo are those of demo_all, so neither repeats runs of the other."""
    demo, everything = ({run.name: run.key for run in project(name).runs.values()} for name in ("demo", "demo_all"))
    assert demo.items() < everything.items()


@pytest.mark.parametrize("name", ["full", *OVERLAYS])
def test_runs_share_a_key_exactly_where_they_are_the_same(name: str) -> None:
    """Experiments with equal rows, seeds and ancestors are one computation; no others are."""

    def content(run: study.Run) -> str:
        parents = [content(parent) for parent in run.parents]
        return json.dumps([run.row.decisive(), run.seed, run.threads, parents], sort_keys=True)

    runs = project(name).runs.values()
    assert len({run.key for run in runs}) == len({content(run) for run in runs})
    assert len({(run.key, content(run)) for run in runs}) == len({run.key for run in runs})


@pytest.mark.parametrize(
    ("row", "path", "value"),
    [
        ("one5", "data.dataset", "cifar10"),
        ("one5", "data.validation", 5_000),
        ("one5", "data.split_seed", 1),
        ("one5", "data.training_subset", 10_000),
        ("one5", "data.augmentation", "none"),
        ("one5", "data.normalization", "lan2018"),
        ("one5", "model.depth", 20),
        ("one5", "model.width", 8),
        ("one5", "model.branches", 4),
        ("one5", "model.gate", "mean"),
        ("one5", "model.trunk", "own"),
        ("one5", "training.epochs", 299),
        ("one5", "training.batch_size", 64),
        ("one5", "training.optimizer.lr", 0.05),
        ("one5", "training.optimizer.momentum", 0.8),
        ("one5", "training.optimizer.nesterov", True),
        ("one5", "training.optimizer.weight_decay", 0.0),
        ("one5", "training.optimizer", {"kind": "adam", "lr": 0.1}),
        ("one5", "training.schedule.milestones", [150, 225]),
        ("one5", "training.schedule.gamma", 0.2),
        ("one5", "training.schedule.gradient_ratio", {"every": 1}),
        ("one5", "training.distillation.temperature", 2.0),
        ("one5", "training.distillation.rampup", 0),
        ("one5", "training.distillation", {"kind": "none"}),
        ("one5", "training.precision", "fp32"),
        ("one5", "training.test_every", 2),
        ("one5_gradient_ratio", "training.schedule.gradient_ratio", None),
        ("one5_gradient_ratio", "training.schedule.gradient_ratio.every", 2),
        ("one5_gradient_ratio", "training.schedule.gradient_ratio.smoothing", 0.9),
        ("one5_gradient_ratio", "training.schedule.gradient_ratio.lowest", 0.2),
        ("one5_gradient_ratio", "training.schedule.gradient_ratio.highest", 10),
        ("mutual2", "training.distillation.temperature", 3),
        ("baseline_self_distilled", "training.distillation.temperature", 3),
        ("baseline_self_distilled", "training.distillation", {"kind": "knowledge", "temperature": 1}),
        ("baseline_self_distilled", "parents", ["resnet110_baseline"]),
        ("distilled_from_resnet110", "training.distillation.temperature", 1),
        ("one3_to_5_split", "start", {"kind": "zero_pad"}),
        ("one3_to_5_split", "start.donors", [2, 3]),
        ("one3_to_5_split", "start.noise", 0),
        ("one3_to_5_masked", "start.opens", False),
        ("one3_to_5_masked", "start.closed_until", 0.3),
        ("one3_to_5_masked", "start.open_from", 0.5),
        ("combine3", "start.gate_rows", "parents"),
        ("combine3", "model.gate", "mean"),
        ("combine3", "parents", ["one1", "baseline", "one1"]),
        ("merge3_refit", "start.trunk", "first"),
        ("merge3_refit", "start.reestimate", True),
        ("merge3_refit", "start.gate_rows", "parents"),
        ("merge3_refit", "start.images", 1_000),
        ("merge3_refit", "start.ridge", 0.01),
    ],
)
def test_key_changes_with_every_field_of_the_row(row: str, path: str, value: Any, tmp_path: Path) -> None:
    """A field of a row decides the result, so it changes the keys of that row's runs, and no others."""
    after = keys(write(tmp_path, {f"experiments.{row}.{path}": value}))
    changed = {run for run, key in small_keys().items() if after[run] != key}
    assert changed == {f"{row}/seed{k}" for k in range(3)}


def test_key_changes_with_the_selection(tmp_path: Path) -> None:
    """The selected epoch decides the result, so it changes the key, apart from its validation images."""
    holdout = {f"{ONE5}.data": {"validation": 5_000}}
    last = keys(write(tmp_path / "last", holdout))
    best = keys(write(tmp_path / "best", holdout | {f"{ONE5}.training": {"selection": "best_validation"}}))
    assert experiments_of(run for run in last if last[run] != best[run]) == {"one5"}


@pytest.mark.parametrize("parent", ["one3", "one1", "baseline", "resnet110_baseline"])
def test_key_changes_with_the_parents_row(parent: str, tmp_path: Path) -> None:
    """The row of a parent or teacher changes the keys of all its descendants, and no others."""
    after = keys(write(tmp_path, {f"experiments.{parent}.training.batch_size": 64}))
    changed = experiments_of(run for run, key in small_keys().items() if after[run] != key)
    assert changed == descendants(parent)
    assert len(changed) > 1


def test_key_changes_with_the_order_of_parents() -> None:
    """The first of the joined networks has a special role."""
    run = project().run("merge3_first", 0)
    turned = (*run.parents[1:], run.parents[0])
    assert study.run_key(run.row, run.seed, run.threads, turned, ROOT, run.dataset) != run.key


def test_key_changes_with_the_parents_seed() -> None:
    """Two replicates of a child differ in their own seed and in their parent's key."""
    first, second = (project().run("one3_continued", seed) for seed in (0, 1))
    assert first.key != second.key
    assert study.run_key(first.row, 0, first.threads, second.parents, ROOT, first.dataset) != first.key


def test_key_changes_with_threads(tmp_path: Path) -> None:
    """The number of threads decides the order of additions, and thus the bits."""
    after = keys(write(tmp_path, {"threads": 3}))
    assert not set(after.values()) & set(small_keys().values())


def test_key_changes_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pinned digest of the dataset is part of the keys of its runs, and of no others."""
    monkeypatch.setitem(DATASETS, "cifar100", replace(DATASETS["cifar100"], digest={"train": "0", "test": "1"}))
    after = keys(ROOT)
    for run in project().runs.values():
        assert (after[run.name] != run.key) == (run.row.data.dataset == "cifar100"), run.name


def test_key_changes_with_the_numerics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source that computes a run's numbers is part of the key."""
    before = {run.key for run in project().runs.values()}
    monkeypatch.setattr(numerics, "source_hash", lambda: "other")
    assert not before & set(keys(ROOT).values())


@pytest.mark.parametrize(
    "changes",
    [
        {f"{ONE3}.about": "Another phrase"},
        {f"{ONE3}.part": "variants"},
        {f"{MERGED}.part": "distillation", f"{STUDENT}.part": DELETED},
        {f"{ONE5}.model.trunk": "shared", f"{ONE5}.training.schedule.gradient_ratio": None},
        {f"{ONE5}.training.distillation.kind": "on_the_fly", f"{ONE5}.training.test_every": 1},
        {f"{MERGED}.start": {"kind": "merge"}},
        {f"{MASKED}.start": {"kind": "masked", "opens": True}},
        {"title": "Another title", "description": "Another description"},
        {"device": "cpu"},
        {"seeds": [2, 0, 1]},
        {f"{ONE3}.seeds": [0, 1, 2]},
        {f"{ONE3}.training.epochs": 300},
        {f"{ONE3}.training.optimizer.lr": "1e-1"},
    ],
)
def test_key_ignores_words_and_repetitions(changes: dict[str, Any], tmp_path: Path) -> None:
    """Texts, parts, device, order of seeds, explicit defaults and number formats do not change any key."""
    assert keys(write(tmp_path, changes)) == small_keys()


def test_key_ignores_other_seeds(tmp_path: Path) -> None:
    """More replicates do not change those that exist."""
    assert small_keys().items() < keys(write(tmp_path, {"seeds": [0, 1, 2, 3]})).items()


def test_key_ignores_the_name_of_the_study(tmp_path: Path) -> None:
    """Two studies with the same rows share their runs."""
    assert keys(write(tmp_path, overlay={"title": "Twin"}, name="twin"), "twin") == small_keys()


def test_key_ignores_the_rest_of_the_study() -> None:
    """An experiment has the same runs whatever else is in the study."""
    assert small_keys().items() < {run.name: run.key for run in project().runs.values()}.items()


def test_key_ignores_names_of_experiments(tmp_path: Path) -> None:
    """An experiment may be renamed, and its children's parents with it."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("one3", "teacher")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert keys(tmp_path) == {run.name.replace("one3", "teacher"): run.key for run in project().runs.values()}


def test_key_ignores_the_order_of_keys(tmp_path: Path) -> None:
    """The order of keys in `params.yaml` does not matter."""

    def turned(content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {key: turned(value) for key, value in reversed(content.items())}

    (tmp_path / "params.yaml").write_text(yaml.safe_dump(turned(some(SMALL)), sort_keys=False), encoding="utf-8")
    assert keys(tmp_path) == small_keys()


def test_keys_need_no_torch() -> None:
    """A workflow engine needs the keys while it parses: neither torch nor another heavy library is imported."""
    script = (
        "import sys; from pathlib import Path; from coopnet import study; "
        "assert study.load(Path(sys.argv[1])).runs; "
        "print(*{'torch', 'pandas', 'scipy', 'sklearn', 'matplotlib', 'snakemake', 'dvc'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, ROOT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# Imported checkpoints


def imported(folder: Path, weights: str = "a" * 64) -> Path:
    """A study whose one3 is an imported checkpoint, with the record that `coopnet import` writes."""
    start = {"kind": "imported", "path": "published"}
    row = {"about": "Published", "seeds": [0], "start": start, "training": {"epochs": 0}}
    root = write(folder, {ONE3: row, "seeds": [0]})
    record = {"files": {"model.safetensors": weights}, "architecture": {}, "preprocessing": {}}
    (root / "published").mkdir(exist_ok=True)
    (root / "published" / "model.json").write_text(json.dumps(record), encoding="utf-8")
    return root


def test_imported_network_can_be_a_parent(tmp_path: Path) -> None:
    """A row may start from an imported checkpoint."""
    plan = study.load(imported(tmp_path))
    assert [p.name for p in plan.run("one3_to_5_split", 0).parents] == ["one3/seed0"]


def test_key_of_an_imported_network_is_that_of_its_files(tmp_path: Path) -> None:
    """The imported weights decide the key; their folder does not."""
    root = imported(tmp_path / "a")
    before = keys(root)
    (root / "published").rename(root / "elsewhere")
    params = root / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("path: published", "path: elsewhere"))
    assert keys(root) == before
    other = keys(imported(tmp_path / "b", weights="b" * 64))
    assert experiments_of(name for name in before if before[name] != other[name]) == descendants("one3")


def test_imported_network_cannot_serve_two_replicates(tmp_path: Path) -> None:
    """It is one network, so its children have one replicate; the error for more has the remedy."""
    root = imported(tmp_path)
    params = root / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("seeds:\n- 0\ndefaults", "seeds:\n- 0\n- 1\ndefaults"))
    message = refusal(root)
    assert "experiments.one3_continued" in message
    assert "set experiments.one3_continued.seeds: [0]" in message


def test_part_may_come_from_the_defaults(tmp_path: Path) -> None:
    """The part in `defaults` applies to rows without their own."""
    root = write(tmp_path, {"defaults.part": "growth"})
    assert study.load(root).experiments["one3"].part == "growth"


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"files": {}}'])
def test_damaged_record_of_an_imported_network_is_refused(record: str, tmp_path: Path) -> None:
    """An invalid record is refused by name."""
    root = imported(tmp_path)
    (root / "published" / "model.json").write_text(record, encoding="utf-8")
    assert "published/model.json" in refusal(root)


# Random changes

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 400),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([10**400, "one3", "kind", "masked", "none", "1e-3", b"\xff", datetime.date(2020, 1, 1), {1, "a"}]),
)
ODD_KEYS = st.one_of(st.text(max_size=8), st.integers(), st.none(), st.booleans(), st.just(datetime.date(2020, 1, 1)))
JUNK = st.recursive(
    SCALARS, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(ODD_KEYS, inside, max_size=3), max_leaves=4
)


FAMILY = some(
    ("baseline", "one1", "one3", "one3_to_5_split", "one5_gradient_ratio", "merge3_refit", "baseline_self_distilled")
)
"""Few rows, with the deepest nesting."""
SHORT = {
    "device": "cpu",
    "threads": 1,
    "seeds": [0],
    "only": list(FAMILY["experiments"]),
    "time_scale": 0.02,
    "every_experiment": {"data": {"dataset": "digits", "augmentation": "none"}, "training": {"batch_size": 64}},
    "experiments": {"one3": {"model": {"width": 16}}, "merge3_refit": {"start": {"images": 500}}},
}
"""An overlay that fits `FAMILY`, with every kind of entry."""


def test_what_is_changed_at_random_is_right_before(tmp_path: Path) -> None:
    """The tests below start from valid settings."""
    root = write(tmp_path, overlay=SHORT, rows=FAMILY["experiments"])
    assert list(study.load(root, "small").experiments) == list(FAMILY["experiments"])


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every container in a tree with each of its keys."""
    if isinstance(content, dict):
        return [(content, key) for key in content] + [p for value in content.values() for p in places(value)]
    if isinstance(content, list):
        return [(content, index) for index in range(len(content))]
    return []


def load_or_refuse(edit: Callable[[Path], None], overlay: Mapping[str, Any] | None = None) -> None:
    """Load an edited `params.yaml`: it loads, or is refused in one line; no other exception is raised."""
    with tempfile.TemporaryDirectory() as name:
        root = write(Path(name), overlay=overlay, rows=FAMILY["experiments"])
        edit(root)
        message = ""
        try:
            study.load(root, "full" if overlay is None else "small")
        except CoopNetError as error:
            message = str(error)
        assert len(message.splitlines()) <= 1


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_any_change_is_accepted_or_refused_in_one_line(data: st.DataObject) -> None:
    """Keys that are deleted, added or given values of any type, anywhere, never raise an unexpected exception."""
    which = data.draw(st.sampled_from(["params.yaml", "studies/small.yaml"]))
    content = copy.deepcopy(FAMILY if which == "params.yaml" else SHORT)
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(content)))
        match data.draw(st.sampled_from(["delete", "replace", "insert"])):
            case "delete":
                del container[key]
            case "insert" if isinstance(container, dict):
                container[data.draw(ODD_KEYS)] = data.draw(JUNK)
            case _:
                container[key] = data.draw(JUNK)
        if not places(content):
            break
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    load_or_refuse(lambda root: (root / which).write_text(text, encoding="utf-8") and None, SHORT)


def written_rows(names: Iterable[str]) -> list[str]:
    """The lines of this project's `params.yaml` up to its rows, and those of some rows, with comments."""
    lines, kept = [], True
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines(keepends=True):
        row = re.match(r"  ([a-z]\w*):", line)
        if row and row[1] in PARAMS["experiments"]:
            kept = row[1] in names
        if kept:
            lines.append(line)
    return lines


@given(seed=st.integers(0, 2**32), edits=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_any_slip_of_the_pen_is_accepted_or_refused_in_one_line(seed: int, edits: int) -> None:
    """Characters that are lost, doubled or mistyped anywhere in params.yaml never raise an unexpected exception."""
    draw = random.Random(seed)
    text = "".join(written_rows(FAMILY["experiments"]))
    for _ in range(edits):
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice(["", *":{}[]&*!|>-#?%@`,'\"\n\t 0.é\x00\u2028"]) + text[place + 1 :]
    load_or_refuse(lambda root: (root / "params.yaml").write_text(text, encoding="utf-8") and None)

"""`params.yaml` and its overlays become the runs that they describe, or are refused in one clear line."""

import copy
import datetime
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from coopnet import numerics, study
from coopnet.data.datasets import DATASETS
from coopnet.errors import CoopNetError
from coopnet.settings import Experiment

OVERLAYS = sorted(path.stem for path in (ROOT / "studies").glob("*.yaml"))
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
FINE_TUNED = ("one3_continued", *(f"one3_to_5_{kind}" for kind in ("zero_pad", "zero_output", "masked", "split")))
ROWS = study.load(ROOT).experiments
DELETED = object()


def write(folder: Path, changes: Mapping[str, Any] | None = None, overlay: Any = None, name: str = "small") -> Path:
    """A folder with the `params.yaml` of this project, changed at dotted paths, and perhaps an overlay."""
    content = copy.deepcopy(PARAMS)
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


def refusal(root: Path, name: str = "full") -> str:
    """The message with which a study is refused; it is one line, and no library's."""
    with pytest.raises(CoopNetError) as caught:
        study.load(root, name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert "Traceback" not in message
    assert "pydantic" not in message
    return message


def keys(root: Path, name: str = "full") -> dict[str, str]:
    """The key of each run."""
    return {run.name: run.key for run in study.load(root, name).runs.values()}


# The studies of this project


@pytest.mark.parametrize("name", ["full", *OVERLAYS])
def test_studies_of_this_project_load(name: str) -> None:
    """Every study has all nine experiments and a title; full and demo have more than one seed."""
    plan = study.load(ROOT, name)
    assert set(plan.experiments) == {"baseline", "one1", "one3", "one5", *FINE_TUNED}
    assert plan.title
    assert {run.experiment for run in plan.runs.values()} == set(plan.experiments)
    assert name == "mini" or len(plan.seeds("one3_to_5_split")) >= 2


def test_full_study_has_the_published_schedule() -> None:
    """300 epochs (one1: 160), lr 0.1 × 0.1 at 151 and 225; fine-tuning 100 epochs, lr 0.01 × 0.1 at 60, no ramp-up."""
    for name, row in study.load(ROOT).experiments.items():
        training = row.training
        fine = name in FINE_TUNED
        assert training.epochs == (100 if fine else 160 if name == "one1" else 300), name
        assert training.optimizer.lr == (0.01 if fine else 0.1), name
        assert training.schedule.milestones == ([60] if fine else [151, 225]), name
        assert training.schedule.gamma == 0.1, name
        assert training.distillation.rampup == (0 if fine else 80), name


def test_full_study_has_the_published_optimizer_and_loss() -> None:
    """SGD with momentum 0.9 without Nesterov, weight decay 1e-4, batch 128, T = 3, last epoch, crop and flip."""
    for row in study.load(ROOT).experiments.values():
        assert row.training.optimizer.model_dump(exclude={"lr"}) == {
            "kind": "sgd",
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-4,
        }
        assert row.training.distillation.temperature == 3
        assert row.training.batch_size == 128
        assert row.training.selection == "last"
        assert row.data.augmentation == "crop_flip"
        assert row.data.training_subset is None
        assert row.data.dataset == "cifar100"


def test_full_study_has_the_published_networks() -> None:
    """ResNet-32 with basic blocks and 1, 1, 3, 5 and five times 3 → branches; only the baseline has no gate."""
    rows = study.load(ROOT).experiments
    assert {(row.model.family, row.model.depth, row.model.block, row.model.width) for row in rows.values()} == {
        ("cifar_resnet", 32, "basic", 16)
    }
    branches = {name: row.model.branches for name, row in rows.items()}
    assert branches == dict.fromkeys(FINE_TUNED, 5) | {
        "baseline": 1,
        "one1": 1,
        "one3": 3,
        "one5": 5,
        "one3_continued": 3,
    }
    assert [name for name, row in rows.items() if row.model.gate == "none"] == ["baseline"]


def test_grown_experiments_have_the_designed_starts() -> None:
    """Each starts from one3 in its own way; the prior of masked opens from 40 to 60 %, split copies branches 1, 2."""
    rows = study.load(ROOT).experiments
    starts = {name: rows[name].start.model_dump() for name in FINE_TUNED}
    assert starts == {
        "one3_continued": {"kind": "continue"},
        "one3_to_5_zero_pad": {"kind": "zero_pad"},
        "one3_to_5_zero_output": {"kind": "zero_output"},
        "one3_to_5_masked": {"kind": "masked", "closed_until": 0.4, "open_from": 0.6},
        "one3_to_5_split": {"kind": "split", "donors": [1, 2], "noise": 0.1},
    }
    assert all(rows[name].parents == ["one3"] for name in FINE_TUNED)


@pytest.mark.parametrize(("name", "precision"), [("full", "bf16"), ("demo", "fp32"), ("mini", "fp32")])
def test_precision_of_each_study(name: str, precision: str) -> None:
    """bf16 is for the GPU of the full study; without hardware for it, it is ten times slower than fp32."""
    assert {row.training.precision for row in study.load(ROOT, name).experiments.values()} == {precision}


def test_defaults_of_the_settings_are_not_needed() -> None:
    """`params.yaml` says everything that a plain row consists of, so that a reader sees the whole method there."""
    row = study.load(ROOT).experiments["one3"]
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
    """The prior of masked opens at shares of the steps, which are the same in a study of any length."""
    root = write(tmp_path, overlay={"time_scale": 0.1})
    short, full = (study.load(root, name).experiments["one3_to_5_masked"] for name in ("small", "full"))
    assert short.start == full.start


@pytest.mark.parametrize("name", ["demo", "mini"])
def test_short_studies_still_distil(name: str) -> None:
    """In every scaled study the ramp-up ends, and the first milestone comes, within the training of one3 and one5."""
    for experiment in ("one3", "one5"):
        training = study.load(ROOT, name).experiments[experiment].training
        assert 0 < training.distillation.rampup < training.epochs / 2
        assert training.schedule.milestones[0] < training.epochs


def test_overlay_of_one_experiment_wins(tmp_path: Path) -> None:
    """Rows are merged in this order: defaults, row, every_experiment, the overlay's row; kinds are replaced whole."""
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
    """`<<: *anchor`, YAML's own way not to repeat oneself, is understood."""
    file = tmp_path / "some.yaml"
    file.write_text("a: &a {lr: 1, epochs: 2}\nb:\n  <<: *a\n  epochs: 3\n", encoding="utf-8")
    assert study.read_yaml(file)["b"] == {"lr": 1, "epochs": 3}


# Refusals

ONE3, SPLIT, MASKED, BASELINE = (
    f"experiments.{n}" for n in ("one3", "one3_to_5_split", "one3_to_5_masked", "baseline")
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
    "number for a list": ({"seeds": 3}, ["seeds", "3", "list"]),
    "no seeds": ({"seeds": []}, ["seeds", "[]", "at least 1"]),
    "seed twice": ({"seeds": [0, 0]}, ["seeds [0, 0] repeat"]),
    "seed twice in a row": ({f"{ONE3}.seeds": [1, 1]}, [ONE3, "seeds [1, 1] repeat"]),
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
        ["training.schedule", "milestones [225, 151] do not ascend"],
    ),
    "prior that opens before it closes": (
        {f"{MASKED}.start.open_from": 0.3},
        [MASKED, "open_from 0.3 lies before closed_until 0.4"],
    ),
    "depth of no ResNet": ({"defaults.model.depth": 33}, ["depth 33 is not 6n+2 (basic blocks); 32 would be"]),
    "depth of no bottleneck ResNet": (
        {"defaults.model.block": "bottleneck"},
        ["depth 32 is not 9n+2 (bottleneck blocks); 29 would be"],
    ),
    "depth of no ResNet-18": ({"defaults.model.family": "resnet18"}, ["resnet18 has depth 18 and basic blocks"]),
    "width of no ResNet-18": (
        {"defaults.model.family": "resnet18", "defaults.model.depth": 18},
        ["resnet18 has width 64"],
    ),
    "no branches": ({f"{ONE3}.model.branches": 0}, [ONE3, "model.branches", "greater than or equal to 1"]),
    "branches without a gate": ({f"{ONE3}.model.gate": "none"}, [ONE3, "3 branches need gate: learned"]),
    "selection without validation": (
        {f"{BASELINE}.training.selection": "best_validation"},
        [BASELINE, "best_validation needs data.validation above 0"],
    ),
    "more images than there are": (
        {"defaults.data.validation": 49_000, "defaults.data.training_subset": 1_001},
        ["validation 49000 and training_subset 1001 do not fit into the 50000 training images of cifar100"],
    ),
    "random network left untrained": ({f"{ONE3}.training.epochs": 0}, [ONE3, "epochs 0 leaves a random network"]),
    "random start with a parent": ({"experiments.one5.parents": ["one3"]}, ["one5", "random takes no parents"]),
    "start without its parent": ({f"{SPLIT}.parents": []}, [SPLIT, "start split takes 1 parent, not []"]),
    "start with two parents": (
        {f"{SPLIT}.parents": ["one3", "one5"]},
        [SPLIT, "start split takes 1 parent, not ['one3', 'one5']"],
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
        ["one3 has data.dataset cifar10, its child cifar100; they have to agree"],
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
        [MASKED, "one3 has 3 branches; its child must have more, not 3"],
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
    """What cannot be is refused in one line that names the key, its value and what would be right."""
    message = refusal(write(tmp_path, changes))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"time_scal": 0.1}, ["studies/small.yaml", "time_scal is not", "did you mean 'time_scale'?"]),
        ({"time_scale": 0}, ["studies/small.yaml", "time_scale", "greater than 0"]),
        ({"time_scale": 1e308}, ["studies/small.yaml", "time_scale", "less than or equal to 1000"]),
        ({"only": ["one4"]}, ["'one4' is not an experiment of params.yaml", "did you mean"]),
        ({"only": []}, ["studies/small.yaml", "only", "at least 1"]),
        ({"only": ["one3_continued"]}, ["one3_continued.parents", "'one3'", "add it to `only`"]),
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
        ("a: 1\nb: 2\na: 3\n", "key 'a' is given twice"),
        ("a: {b: 1, b: 2}\n", "key 'b' is given twice"),
        ("- 1\n", "must be a mapping of keys to values, not list"),
        ("", "must be a mapping of keys to values, not NoneType"),
        ("a: [1\n", "is not valid YAML"),
        ("a:\tb: c\n", "is not valid YAML"),
        ("a: 2024-13-45\n", "is not valid YAML"),
        ("a: 0x_\n", "is not valid YAML"),
        ("a: !!bool maybe\n", "is not valid YAML"),
        ("a: !!timestamp never\n", "is not valid YAML"),
        ("a: &a {b: *a}\n", "is not valid YAML"),
        ("? [a]\n: 1\n", "is not valid YAML"),
        ("a: !!python/object:os.system {}\n", "is not valid YAML"),
        (f"a: {'[' * 1_000}\n", "is not valid YAML"),
    ],
)
def test_refused_yaml(text: str, words: str, tmp_path: Path) -> None:
    """What is not a mapping in YAML without repetitions is refused in one line that names the file."""
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    message = refusal(tmp_path)
    assert "params.yaml" in message
    assert words in message


def test_refused_encoding(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused by name."""
    (tmp_path / "params.yaml").write_bytes("title: Zürich\n".encode("latin-1"))
    assert "params.yaml" in refusal(tmp_path)


def test_missing_params_says_where_to_run(tmp_path: Path) -> None:
    """Run from another folder, the message says what to do."""
    assert "run this from the folder that holds it" in refusal(tmp_path)


def test_unknown_study_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt study is answered with the nearest and all known ones; a path is no name."""
    root = write(tmp_path, overlay={})
    assert "there is no study 'smal'; did you mean 'small'? (known: full, small)" in refusal(root, "smal")
    assert "there is no study" in refusal(root, "../studies/small")


def test_unknown_run_is_refused() -> None:
    """Asking for an experiment or a seed that is not planned names what is."""
    plan = study.load(ROOT)
    with pytest.raises(CoopNetError, match="study full has no experiment 'one33'; did you mean 'one3'"):
        plan.run("one33", 0)
    with pytest.raises(CoopNetError, match=r"one3 of study full has seeds \[0, 1, 2\], not 7"):
        plan.run("one3", 7)


# Replicates


def experiment_with_parents(*parents: str) -> Experiment:
    """A row with any number of parents, which no start of today takes yet."""
    return ROWS["one3_to_5_zero_pad"].model_copy(update={"parents": list(parents)})


def test_replicate_of_three_parents_takes_three_seeds() -> None:
    """Replicate k of a row with three parents uses seeds 3k, 3k+1, 3k+2 of its parent experiment."""
    rows = {"one3": study.load(ROOT).experiments["one3"], "merged": experiment_with_parents("one3", "one3", "one3")}
    runs = study.plan(rows, [0, 1, 2], 1, ROOT, "test")
    for k in range(3):
        parents = runs["merged", k].parents
        assert [(p.experiment, p.seed) for p in parents] == [("one3", 3 * k + j) for j in range(3)]
    assert sorted(seed for name, seed in runs if name == "one3") == list(range(9))


def test_seeds_of_a_parent_include_those_its_children_need() -> None:
    """A parent experiment runs with its own seeds and all that are demanded of it, through generations."""
    rows = study.load(ROOT).experiments
    grandchild = rows["one3_continued"].model_copy(update={"parents": ["merged"], "seeds": [4]})
    family = {"merged": experiment_with_parents("one3", "one3"), "grandchild": grandchild, "one3": rows["one3"]}
    runs = study.plan(family, [0], 1, ROOT, "test")
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
    """Whatever the parents and seeds of a row, its replicates share no ancestor."""
    rows = {name: ROWS[name] for name in ("one3", "one5", "baseline")}
    rows["merged"] = experiment_with_parents(*parents)
    runs = study.plan(rows, sorted(seeds), 1, ROOT, "test")
    used = [parent.key for seed in seeds for parent in runs["merged", seed].parents]
    assert len(set(used)) == len(parents) * len(seeds)


def test_parents_are_planned_before_children() -> None:
    """The list of runs can be worked off from its beginning."""
    seen = set()
    for place, run in study.load(ROOT).runs.items():
        assert {(p.experiment, p.seed) for p in run.parents} <= seen
        seen.add(place)


# Keys


def test_keys_are_distinct() -> None:
    """No two runs of the studies of this project share a key."""
    all_keys = [key for name in ("full", *OVERLAYS) for key in keys(ROOT, name).values()]
    assert len(set(all_keys)) == len(all_keys)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.dataset", "cifar10"),
        ("data.validation", 5_000),
        ("data.split_seed", 1),
        ("data.training_subset", 10_000),
        ("data.augmentation", "none"),
        ("data.normalization", "lan2018"),
        ("model.depth", 20),
        ("model.width", 8),
        ("model.gate", "learned"),
        ("training.epochs", 299),
        ("training.batch_size", 64),
        ("training.optimizer.lr", 0.05),
        ("training.optimizer.momentum", 0.8),
        ("training.optimizer.nesterov", True),
        ("training.optimizer.weight_decay", 0.0),
        ("training.optimizer", {"kind": "adam", "lr": 0.1}),
        ("training.schedule.milestones", [150, 225]),
        ("training.schedule.gamma", 0.2),
        ("training.distillation.temperature", 2.0),
        ("training.distillation.rampup", 0),
        ("training.precision", "fp32"),
    ],
)
def test_key_changes_with_every_field_of_the_row(path: str, value: Any, tmp_path: Path) -> None:
    """A field of a row decides the result, so it decides the key of that row's runs, and of no others."""
    before = keys(ROOT)
    after = keys(write(tmp_path, {f"{BASELINE}.{path}": value}))
    assert {name for name in before if before[name] != after[name]} == {f"baseline/seed{k}" for k in range(3)}


def test_key_changes_with_the_parents_row(tmp_path: Path) -> None:
    """A parent's row decides the keys of all its descendants, and of nobody else."""
    before = keys(ROOT)
    after = keys(write(tmp_path, {f"{ONE3}.training.batch_size": 64}))
    changed = {name.partition("/")[0] for name in before if before[name] != after[name]}
    assert changed == {"one3", *FINE_TUNED}


def test_key_changes_with_the_parents_seed() -> None:
    """Two replicates of a child differ in their own seed and in their parent's key."""
    plan = study.load(ROOT)
    first, second = (plan.run("one3_continued", seed) for seed in (0, 1))
    assert first.key != second.key
    assert study.run_key(first.row, 0, first.threads, second.parents, ROOT) != first.key


def test_key_changes_with_threads(tmp_path: Path) -> None:
    """The number of threads decides the order of additions, and so every bit."""
    after = keys(write(tmp_path, {"threads": 3}))
    assert not set(after.values()) & set(keys(ROOT).values())


def test_key_changes_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pinned digest of the dataset is part of the key."""
    before = keys(ROOT)
    monkeypatch.setitem(DATASETS, "cifar100", replace(DATASETS["cifar100"], digest={"train": "0", "test": "1"}))
    assert not set(before.values()) & set(keys(ROOT).values())


def test_key_changes_with_the_numerics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source that computes a run's numbers is part of the key."""
    before = keys(ROOT)
    monkeypatch.setattr(numerics, "source_hash", lambda: "other")
    assert not set(before.values()) & set(keys(ROOT).values())


@pytest.mark.parametrize(
    "changes",
    [
        {f"{ONE3}.about": "Another phrase"},
        {"title": "Another title", "description": "Another description"},
        {"device": "cpu"},
        {"seeds": [2, 0, 1]},
        {f"{ONE3}.seeds": [0, 1, 2]},
        {f"{ONE3}.training.epochs": 300},
        {f"{ONE3}.training.optimizer.lr": "1e-1"},
    ],
)
def test_key_ignores_words_and_repetitions(changes: dict[str, Any], tmp_path: Path) -> None:
    """Words, device, order of seeds, defaults said again and ways to write a number leave all keys as they are."""
    assert keys(write(tmp_path, changes)) == keys(ROOT)


def test_key_ignores_other_seeds(tmp_path: Path) -> None:
    """More replicates do not change those that exist."""
    before, after = keys(ROOT), keys(write(tmp_path, {"seeds": [0, 1, 2, 3]}))
    assert before.items() < after.items()


def test_key_ignores_the_name_of_the_study(tmp_path: Path) -> None:
    """Two studies with the same rows share their runs."""
    assert keys(write(tmp_path, overlay={"title": "Twin"}, name="twin"), "twin") == keys(ROOT)


def test_key_ignores_names_of_experiments(tmp_path: Path) -> None:
    """An experiment may be renamed, and its children's parents with it."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("one3", "teacher")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert keys(tmp_path) == {name.replace("one3", "teacher"): key for name, key in keys(ROOT).items()}


def test_key_ignores_the_order_of_keys(tmp_path: Path) -> None:
    """The order in which `params.yaml` says things does not matter."""

    def turned(content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {key: turned(value) for key, value in reversed(content.items())}

    (tmp_path / "params.yaml").write_text(yaml.safe_dump(turned(PARAMS), sort_keys=False), encoding="utf-8")
    assert keys(tmp_path) == keys(ROOT)


def test_keys_need_no_torch() -> None:
    """A workflow engine asks for the keys while it parses: neither torch nor another heavy library is loaded."""
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
    """A row may start from a checkpoint that was brought in."""
    plan = study.load(imported(tmp_path))
    assert [p.name for p in plan.run("one3_to_5_split", 0).parents] == ["one3/seed0"]


def test_key_of_an_imported_network_is_that_of_its_files(tmp_path: Path) -> None:
    """The imported weights decide the key; the folder they lie in does not."""
    root = imported(tmp_path / "a")
    before = keys(root)
    (root / "published").rename(root / "elsewhere")
    params = root / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("path: published", "path: elsewhere"))
    assert keys(root) == before
    other = keys(imported(tmp_path / "b", weights="b" * 64))
    assert {name.partition("/")[0] for name in before if before[name] != other[name]} == {"one3", *FINE_TUNED}


def test_imported_network_cannot_serve_two_replicates(tmp_path: Path) -> None:
    """It is one network, so its children have one replicate; asking for more says how to ask for one."""
    root = imported(tmp_path)
    params = root / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("seeds:\n- 0\ndefaults", "seeds:\n- 0\n- 1\ndefaults"))
    message = refusal(root)
    assert "experiments.one3_continued" in message
    assert "set experiments.one3_continued.seeds: [0]" in message


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"files": {}}'])
def test_damaged_record_of_an_imported_network_is_refused(record: str, tmp_path: Path) -> None:
    """A record that is not one is refused by name."""
    root = imported(tmp_path)
    (root / "published" / "model.json").write_text(record, encoding="utf-8")
    assert "published/model.json" in refusal(root)


# Anything at all

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


FAMILY = PARAMS | {"experiments": {name: PARAMS["experiments"][name] for name in ("one3", "one3_to_5_split")}}


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every container in a tree with each of its keys."""
    if isinstance(content, dict):
        return [(content, key) for key in content] + [p for value in content.values() for p in places(value)]
    if isinstance(content, list):
        return [(content, index) for index in range(len(content))]
    return []


def load_or_refuse(edit: Callable[[Path], None], overlay: Mapping[str, Any] | None = None) -> None:
    """Load an edited `params.yaml`: it loads, or is refused in one line; nothing else ever happens."""
    with tempfile.TemporaryDirectory() as name:
        root = write(Path(name), overlay=overlay)
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
    """Keys deleted, added or given values of any type, anywhere in params.yaml or an overlay, never raise a bug."""
    overlay = yaml.safe_load((ROOT / "studies" / "mini.yaml").read_text(encoding="utf-8"))
    which = data.draw(st.sampled_from(["params.yaml", "studies/small.yaml"]))
    content = copy.deepcopy(FAMILY if which == "params.yaml" else overlay)
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
    load_or_refuse(lambda root: (root / which).write_text(text, encoding="utf-8") and None, overlay)


@given(seed=st.integers(0, 2**32), edits=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_any_slip_of_the_pen_is_accepted_or_refused_in_one_line(seed: int, edits: int) -> None:
    """Characters lost, doubled or mistyped anywhere in params.yaml never raise a bug."""
    draw = random.Random(seed)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for _ in range(edits):
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice(["", *":{}[]&*!|>-#?%@`,'\"\n\t 0.é\x00\u2028"]) + text[place + 1 :]
    load_or_refuse(lambda root: (root / "params.yaml").write_text(text, encoding="utf-8") and None)

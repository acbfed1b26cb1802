"""The cost of a network equals a count by hand, layer by layer."""

import pytest
import torch

from conftest import ROOT
from coopnet import study
from coopnet.commands.report import describe
from coopnet.data.datasets import DATASETS
from coopnet.networks import flops
from coopnet.networks.network import build
from coopnet.networks.planned import architecture_of
from coopnet.study.settings import TAUGHT, Experiment

ROWS = study.load(ROOT).experiments
WIDTH, CLASSES = 4, 100


def small(name: str, **model: object) -> Experiment:
    """A row of the study as a ResNet-8 of four channels."""
    row = ROWS[name]
    return row.model_copy(update={"model": row.model.model_copy(update={"depth": 8, "width": WIDTH} | model)})


def convolution(kernel: int, inputs: int, outputs: int, side: int) -> int:
    """Two operations for each weight and output position."""
    return 2 * kernel**2 * inputs * outputs * side**2


def linear(inputs: int, outputs: int) -> int:
    """Two operations for each weight."""
    return 2 * inputs * outputs


STEM = convolution(3, 3, WIDTH, 32)
TRUNK = (
    STEM
    + 2 * convolution(3, WIDTH, WIDTH, 32)
    + convolution(3, WIDTH, 2 * WIDTH, 16)
    + convolution(3, 2 * WIDTH, 2 * WIDTH, 16)
    + convolution(1, WIDTH, 2 * WIDTH, 16)
)
BRANCH = (
    convolution(3, 2 * WIDTH, 4 * WIDTH, 8)
    + convolution(3, 4 * WIDTH, 4 * WIDTH, 8)
    + convolution(1, 2 * WIDTH, 4 * WIDTH, 8)
    + linear(4 * WIDTH, CLASSES)
)
GATE = linear(2 * WIDTH, 3)
"""Of a ResNet-8 with three branches."""


def test_a_plain_network_is_its_convolutions_and_its_classifier() -> None:
    """One image costs two operations per weight and output position: BatchNorm, ReLU and pooling cost nothing."""
    assert flops.count(small("baseline")).inference_flops == TRUNK + BRANCH


def test_a_cooperative_network_is_one_trunk_all_branches_and_the_gate() -> None:
    """The ensemble needs every branch, and the trunk once."""
    assert flops.count(small("one3")).inference_flops == TRUNK + 3 * BRANCH + GATE


def test_parameters_are_those_of_every_layer() -> None:
    """Weights of convolutions, two numbers per normalised channel, weights and biases of linear layers."""
    w = WIDTH
    trunk = 9 * (3 * w + 2 * w**2 + 2 * w**2 + 4 * w**2) + 2 * w**2 + 2 * (w + 2 * w + 3 * 2 * w)
    branch = 9 * (8 * w**2 + 16 * w**2) + 8 * w**2 + 2 * 3 * 4 * w + (4 * w + 1) * CLASSES
    gate = (2 * w + 1) * 3 + 2 * 3
    assert flops.count(small("one3")).parameters == trunk + 3 * branch + gate


@pytest.mark.parametrize("name", ["baseline", "one3", "one3_no_distillation", "one3_no_gate"])
def test_backward_is_twice_forward_but_for_the_image(name: str) -> None:
    """Each layer has a gradient of its weights and one of its input, except that images need no gradient."""
    counts = flops.count(small(name))
    assert counts.step_flops == 3 * counts.inference_flops - STEM


def test_any_module_is_counted_for_one_image() -> None:
    """The exported network of a card costs what the table says, however many images are in the batch."""
    row = small("one3")
    network = build(architecture_of(row.model, DATASETS["cifar100"]), seed=0).eval()
    assert flops.flops_of(network, torch.zeros(3, 3, 32, 32)) == flops.count(row).inference_flops


@pytest.mark.parametrize(("name", "networks"), [("one3_no_sharing", 3), ("mutual2", 2)])
def test_every_trunk_of_its_own_counts(name: str, networks: int) -> None:
    """Parallel networks have that many trunks, forward and backward."""
    counts = flops.count(small(name))
    gate = linear(networks * 2 * WIDTH, networks) if ROWS[name].model.gate == "learned" else 0
    assert counts.inference_flops == networks * (TRUNK + BRANCH) + gate
    assert counts.step_flops == 3 * counts.inference_flops - networks * STEM


def test_a_teacher_costs_its_forward() -> None:
    """A student of five networks pays five forward passes for each training image, and no more."""
    alone = flops.count(small("baseline"))
    taught = flops.count(small("baseline_distilled"), small("baseline_ensemble5"))
    assert taught.step_flops == alone.step_flops + 5 * (TRUNK + BRANCH)
    assert taught.inference_flops == alone.inference_flops


def test_what_is_not_trained_has_no_step() -> None:
    """A plain ensemble costs as much as its networks together, and has no training."""
    assert flops.count(small("baseline_ensemble3")) == (
        3 * flops.count(small("baseline")).parameters,
        3 * (TRUNK + BRANCH),
        0,
    )


def test_an_architecture_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that differ only in epochs, start or data share one count."""
    built = []

    def build(*arguments: object, **options: object) -> object:
        built.append(arguments)
        return original(*arguments, **options)

    original = flops.build
    monkeypatch.setattr(flops, "build", build)
    counts = [flops.count(small(name, width=3)) for name in ("one3", "one3_continued", "one3_no_rampup")]
    assert counts[0] == counts[1] == counts[2]
    assert len(built) == 1


def test_the_tables_count_teachers_and_no_other_parents() -> None:
    """Only students pay for a parent: parents that gave weights are not part of the training."""
    plan = study.load(ROOT, "demo_all")
    counted = {experiment["name"]: experiment["compute"] for experiment in describe(plan, []).experiments}
    for name, row in plan.experiments.items():
        own = flops.count(row)
        teacher = counted[row.parents[0]]["inference_flops"] if row.training.distillation.kind in TAUGHT else 0
        assert counted[name] == own._asdict() | {"step_flops": own.step_flops + teacher}
    assert counted["one3_continued"] == counted["one3"]


def test_matched_compute_is_that_of_both_stages() -> None:
    """one5_matched_compute trains for as many FLOPs as one3 and its fine-tuning with five branches."""
    rows = study.load(ROOT).experiments
    three, tuned, five = rows["one3"], rows["one3_to_5_split"], rows["one5_matched_compute"]
    spent = sum(row.training.epochs * flops.count(row).step_flops for row in (three, tuned))
    assert five.training.epochs == round(spent / flops.count(five).step_flops)
    longer = five.training.epochs / three.training.epochs
    expected = [longer * milestone for milestone in three.training.schedule.milestones]
    assert five.training.schedule.milestones == pytest.approx(expected, abs=0.5)

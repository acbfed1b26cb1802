"""The loss of each epoch: kind and weight of the distillation."""

import math

import pytest
import torch
from torch import Tensor

from coopnet.networks.loss import Teaching
from coopnet.study.settings import Distillation, Knowledge, Mutual, NoDistillation, OnTheFly, SoftLabels
from coopnet.training import graph
from coopnet.training.objective import Objective

CPU = torch.device("cpu")
OTHERS = [Mutual(kind="mutual"), SoftLabels(kind="soft_labels"), Knowledge(kind="knowledge")]


def test_on_the_fly_distillation_ramps_up() -> None:
    """exp(−5 (1 − t/R)²) in epoch t, and 1 from epoch R on."""
    objective = Objective(OnTheFly(rampup=4), gated=True, device=CPU)
    weights = [objective.weight(epoch) for epoch in range(6)]
    assert weights == pytest.approx([math.exp(-5 * (1 - epoch / 4) ** 2) for epoch in range(4)] + [1, 1])


@pytest.mark.parametrize("distillation", OTHERS, ids=lambda one: one.kind)
def test_other_distillation_has_its_whole_weight_from_the_start(distillation: Distillation) -> None:
    """Teachers and mutual learning are not ramped up."""
    assert [Objective(distillation, gated=False, device=CPU).weight(epoch) for epoch in (0, 7)] == [1, 1]


def test_without_distillation_there_is_no_weight() -> None:
    """The loss has the labels alone."""
    objective = Objective(NoDistillation(kind="none"), gated=True, device=CPU)
    assert objective.weight(0) == 0
    assert objective.at(0.0) == Teaching("none", True, weight=0.0)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("distillation", [OnTheFly(temperature=2.0), *OTHERS], ids=lambda one: one.kind)
def test_the_loss_has_kind_temperature_and_weight(distillation: Distillation, gated: bool) -> None:
    """Kind and temperature are the row's, the weight is the epoch's."""
    made = Objective(distillation, gated=gated, device=CPU).at(0.25)
    assert made == Teaching(distillation.kind, gated, distillation.temperature, 0.25)


def test_where_steps_are_replayed_the_weight_is_changed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded step reads one tensor; a new epoch fills it."""
    monkeypatch.setitem(graph.RECORDERS, "cpu", object)
    objective = Objective(OnTheFly(), gated=True, device=CPU)
    first, second = objective.at(0.25).weight, objective.at(0.5).weight
    assert isinstance(first, Tensor)
    assert first is second
    assert first.item() == 0.5

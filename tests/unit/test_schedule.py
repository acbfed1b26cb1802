"""Quantities that change during training: learning rate, loss, log-prior of new branches, and steps per epoch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coopnet.networks.loss import Teaching
from coopnet.study.settings import Distillation, Knowledge, Mutual, NoDistillation, OnTheFly, SoftLabels
from coopnet.training import graph
from coopnet.training.objective import Objective
from coopnet.training.schedule import Opening, learning_rate, steps_per_epoch


def test_milestones_past_the_end_are_allowed() -> None:
    """Each reached milestone multiplies by γ; later ones have no effect."""
    assert [learning_rate(0.1, [151, 225], 0.1, e) for e in (0, 150, 151, 225)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001]
    )


@pytest.mark.parametrize(
    ("step", "alpha"), [(0, 0), (39, 0), (40, 0), (41, 0.05), (50, 0.5), (59, 0.95), (60, 1), (61, 1), (100, 1)]
)
def test_opening_is_linear_between_its_ends(step: int, alpha: float) -> None:
    """α is 0 until 40 % of the steps, rises linearly until 60 %, then is 1."""
    assert Opening((1,), 0.4, 0.6).alpha(step, 100) == pytest.approx(alpha)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_opening_at_once_is_a_jump(share: float) -> None:
    """If both ends are equal, α is 0 before and 1 from then on."""
    assert [Opening((1,), share, share).alpha(step, 10) for step in range(11)] == [
        float(step >= 10 * share) for step in range(11)
    ]


def test_log_priors_are_logarithms_of_alpha_for_the_opening_branches_alone() -> None:
    """[steps + 1, B]: branches 1 and 3 open; the others keep their values at transfer, including −log 2 of a copy."""
    opening, before = Opening((1, 3), 0.25, 0.75), torch.tensor([0.0, -math.inf, -math.log(2), -math.inf])
    table = opening.log_priors(before, 8)
    assert table.shape == (9, 4)
    alphas = torch.tensor([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    torch.testing.assert_close(table[:, [1, 3]].exp(), alphas[:, None].expand(9, 2))
    assert torch.equal(table[:, [0, 2]], before[[0, 2]].expand(9, 2))
    assert before.tolist() == [0.0, -math.inf, pytest.approx(-math.log(2)), -math.inf]


@given(images=st.integers(2, 5000), batch_size=st.integers(2, 600))
def test_epoch_has_every_image_but_a_last_one_that_is_alone(images: int, batch_size: int) -> None:
    """BatchNorm needs two images: a last batch with one image is left out, every other batch is a step."""
    batches = [range(images)[first : first + batch_size] for first in range(0, images, batch_size)]
    assert steps_per_epoch(images, batch_size) == sum(len(batch) > 1 for batch in batches)


# Loss

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

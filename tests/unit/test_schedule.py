"""Quantities that change during training: learning rate, log-prior of new branches, and steps per epoch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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

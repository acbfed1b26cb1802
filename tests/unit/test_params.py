"""Computed numbers in `params.yaml` agree with their computation."""

import pytest

from conftest import ROOT
from coopnet import study
from coopnet.networks import flops


def test_matched_compute_is_that_of_both_stages() -> None:
    """one5_matched_compute trains for as many FLOPs as one3 and its fine-tuning with five branches."""
    rows = study.load(ROOT).experiments
    three, tuned, five = rows["one3"], rows["one3_to_5_split"], rows["one5_matched_compute"]
    spent = sum(row.training.epochs * flops.count(row).step_flops for row in (three, tuned))
    assert five.training.epochs == round(spent / flops.count(five).step_flops)
    longer = five.training.epochs / three.training.epochs
    expected = [longer * milestone for milestone in three.training.schedule.milestones]
    assert five.training.schedule.milestones == pytest.approx(expected, abs=0.5)

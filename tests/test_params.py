"""What `params.yaml` says because it was computed is what the computation gives."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import ROOT
from coopnet import study
from coopnet.data.datasets import DATASETS
from coopnet.networks.network import Architecture, build
from coopnet.settings import Experiment


def multiply_adds(row: Experiment) -> int:
    """Of one image through the network of a row, counted by PyTorch."""
    network = build(Architecture(**row.model.model_dump(), classes=DATASETS[row.data.dataset].classes), 0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    total: int = counter.get_total_flops() // 2
    return total


def test_matched_compute_is_that_of_both_stages() -> None:
    """one5_matched_compute trains for as many multiply-adds as one3 and its fine-tuning with five branches."""
    rows = study.load(ROOT).experiments
    three, tuned, five = rows["one3"], rows["one3_to_5_split"], rows["one5_matched_compute"]
    spent = three.training.epochs * multiply_adds(three) + tuned.training.epochs * multiply_adds(tuned)
    assert five.training.epochs == round(spent / multiply_adds(five))
    longer = five.training.epochs / three.training.epochs
    expected = [longer * milestone for milestone in three.training.schedule.milestones]
    assert five.training.schedule.milestones == pytest.approx(expected, abs=0.5)

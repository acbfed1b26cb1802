"""The loss is the paper's."""

import math

import pytest
import torch
from torch.nn import functional as F

from coopnet.networks.loss import Teaching, cooperative_loss, rampup
from coopnet.networks.network import Outputs


def some_outputs(branches: int = 3) -> tuple[Outputs, torch.Tensor]:
    """Random outputs for 5 images and 7 classes, and labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, branches, 7, generator=generator, requires_grad=True)
    gate = torch.softmax(torch.randn(5, branches, generator=generator), 1)
    return Outputs(logits, gate), torch.randint(0, 7, (5,), generator=generator)


def test_loss_is_the_sum_of_its_terms() -> None:
    """Σ CE(branch) + CE(ensemble) + r T² Σ KL(ensemble ‖ branch), written out with PyTorch's own losses."""
    outputs, labels = some_outputs()
    loss = cooperative_loss(outputs, labels, Teaching("on_the_fly", True, 3.0, 0.5))
    ce = sum(F.cross_entropy(outputs.branches[:, b], labels) for b in range(3))
    ce = ce + F.cross_entropy(outputs.ensemble, labels)
    teacher = F.softmax(outputs.ensemble / 3, dim=1)
    kl = sum(F.kl_div(F.log_softmax(outputs.branches[:, b] / 3, 1), teacher, reduction="batchmean") for b in range(3))
    torch.testing.assert_close(loss.cross_entropy, ce)
    torch.testing.assert_close(loss.kl, 9 * kl)
    torch.testing.assert_close(loss.total, ce + 0.5 * 9 * kl)


def test_teacher_is_detached() -> None:
    """Distillation sends no gradient through the ensemble: with the gate as only variable its gradient is CE's."""
    outputs, labels = some_outputs()
    gate = outputs.gate.clone().requires_grad_()
    fixed = outputs.branches.detach()
    gradients = []
    for weight in (0.0, 1.0):
        loss = cooperative_loss(Outputs(fixed, gate), labels, Teaching("on_the_fly", True, 3.0, weight))
        gradients.append(torch.autograd.grad(loss.total, gate)[0])
    assert torch.equal(*gradients)


def test_published_one_branch_model_has_twice_the_cross_entropy() -> None:
    """B = 1 through the gate: branch and ensemble are the same, and KL vanishes."""
    outputs, labels = some_outputs(branches=1)
    outputs = Outputs(outputs.branches, torch.ones(5, 1))
    plain = cooperative_loss(outputs, labels, Teaching("on_the_fly", False, 3.0))
    one1 = cooperative_loss(outputs, labels, Teaching("on_the_fly", True, 3.0))
    torch.testing.assert_close(plain.total, F.cross_entropy(outputs.branches[:, 0], labels))
    torch.testing.assert_close(one1.total, 2 * plain.total)


@pytest.mark.parametrize(
    ("epoch", "length", "value"),
    [(0, 80, math.exp(-5)), (40, 80, math.exp(-1.25)), (80, 80, 1), (200, 80, 1), (0, 0, 1)],
)
def test_rampup(epoch: int, length: float, value: float) -> None:
    """r(t) = exp(−5 (1 − t/R)²) until epoch R, then 1; R = 0 means 1 throughout."""
    assert rampup(epoch, length) == pytest.approx(value)

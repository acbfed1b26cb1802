"""The loss is that of the paper."""

import math

import pytest
import torch
from torch.nn import functional as F

from coopnet.networks.loss import Teaching, cooperative_loss, distillation_loss, loss, mutual_loss, rampup, soft_targets
from coopnet.networks.network import Outputs


def some_outputs(branches: int = 3) -> tuple[Outputs, torch.Tensor]:
    """Random outputs for 5 images and 7 classes, and labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, branches, 7, generator=generator, requires_grad=True)
    gate = torch.softmax(torch.randn(5, branches, generator=generator), 1)
    return Outputs(logits, gate), torch.randint(0, 7, (5,), generator=generator)


def test_loss_is_the_sum_of_its_terms() -> None:
    """Σ CE(branch) + CE(ensemble) + r T² Σ KL(ensemble ‖ branch), computed with PyTorch's own losses."""
    outputs, labels = some_outputs()
    loss = cooperative_loss(outputs, labels, Teaching("on_the_fly", True, 3.0, 0.5))
    ce = sum(F.cross_entropy(outputs.branches[:, b], labels) for b in range(3))
    ce = ce + F.cross_entropy(outputs.ensemble, labels)
    teacher = F.softmax(outputs.ensemble / 3, dim=1)
    kl = sum(F.kl_div(F.log_softmax(outputs.branches[:, b] / 3, 1), teacher, reduction="batchmean") for b in range(3))
    torch.testing.assert_close(loss.cross_entropy, ce)
    torch.testing.assert_close(loss.kl, 9 * kl)
    torch.testing.assert_close(loss.total, ce + 0.5 * 9 * kl)


def test_published_targets_add_a_constant_and_hardly_a_gradient() -> None:
    """The published loss adds 1e-7 to every target: 2.7e-4 more with 3 branches and 100 classes, for any logits.

    docs/differences.md says so. A fraction of 1e-5 of the gradient differs: a pull towards equal probabilities.
    """
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 3, 100, generator=generator, dtype=torch.float64, requires_grad=True)
    outputs = Outputs(logits, torch.full((5, 3), 1 / 3, dtype=torch.float64))
    ours = cooperative_loss(outputs, torch.zeros(5, dtype=torch.int64), Teaching("on_the_fly", True, 3.0, 1.0)).kl
    target = F.softmax(outputs.ensemble.detach() / 3, dim=1).unsqueeze(1) + 1e-7
    published = 9 * (target * (target.log() - F.log_softmax(logits / 3, dim=2))).sum() / 5
    assert (published - ours).item() == pytest.approx(2.7e-4, rel=0.05)
    first, second = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (ours, published))
    assert 0 < ((second - first).norm() / first.norm()).item() < 1e-4


def test_teacher_is_detached() -> None:
    """Distillation sends no gradient through the ensemble: if only the gate varies, its gradient is that of CE."""
    outputs, labels = some_outputs()
    gate = outputs.gate.clone().requires_grad_()
    fixed = outputs.branches.detach()
    gradients = []
    for weight in (0.0, 1.0):
        loss = cooperative_loss(Outputs(fixed, gate), labels, Teaching("on_the_fly", True, 3.0, weight))
        gradients.append(torch.autograd.grad(loss.total, gate)[0])
    assert torch.equal(*gradients)


def test_published_one_branch_model_has_twice_the_cross_entropy() -> None:
    """With B = 1 and a gate, branch and ensemble are equal, and KL is 0."""
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
    """r(t) = exp(−5 (1 − t/R)²) until epoch R, then 1; with R = 0 always 1."""
    assert rampup(epoch, length) == pytest.approx(value)


def single(logits: torch.Tensor) -> Outputs:
    """The outputs of a one-branch network with `logits` [N, C]."""
    return Outputs(logits.unsqueeze(1), torch.ones(len(logits), 1))


def test_without_distillation_only_labels_count() -> None:
    """Kind `none` is the cooperative loss without its last term, which is still measured."""
    outputs, labels = some_outputs()
    bare = loss(outputs, labels, Teaching("none", True, 3.0))
    one = loss(outputs, labels, Teaching("on_the_fly", True, 3.0))
    torch.testing.assert_close(bare.total, one.cross_entropy)
    torch.testing.assert_close(bare.kl, one.kl)
    assert one.kl > 0


def test_mutual_loss_of_two_networks_is_the_papers() -> None:
    """Each network minimises its CE + KL(the other ‖ itself), T = 1 (deep mutual learning, equations 5 and 6)."""
    outputs, labels = some_outputs(branches=2)
    made = mutual_loss(outputs, labels, Teaching("mutual", True))
    log_p = [F.log_softmax(outputs.branches[:, b], 1) for b in range(2)]
    divergence = [F.kl_div(log_p[b], log_p[1 - b].detach().exp(), reduction="batchmean") for b in range(2)]
    expected = sum(F.cross_entropy(outputs.branches[:, b], labels) + divergence[b] for b in range(2))
    torch.testing.assert_close(made.total, expected)
    gradients = [torch.autograd.grad(x, outputs.branches, retain_graph=True)[0] for x in (made.total, expected)]
    torch.testing.assert_close(*gradients)


def test_mutual_loss_averages_over_the_other_networks() -> None:
    """With three networks each learns from the mean of two divergences (equation 8); equal networks have none."""
    outputs, labels = some_outputs()
    log_p = [F.log_softmax(outputs.branches[:, b] / 2, 1) for b in range(3)]
    pairs = [F.kl_div(log_p[b], log_p[o].exp(), reduction="batchmean") for b in range(3) for o in range(3) if o != b]
    torch.testing.assert_close(mutual_loss(outputs, labels, Teaching("mutual", True, 2.0)).kl, 4 * sum(pairs) / 2)
    twins = Outputs(outputs.branches[:, :1].expand(-1, 3, -1), outputs.gate)
    assert mutual_loss(twins, labels, Teaching("mutual", True)).kl.abs() < 1e-6


def test_distilled_student_is_best_at_the_teachers_probabilities() -> None:
    """`soft_labels` has no gradient where the student equals the teacher, and is larger everywhere else."""
    generator = torch.Generator().manual_seed(0)
    said, labels = torch.randn(6, 7, generator=generator), torch.randint(0, 7, (6,), generator=generator)
    teaching = Teaching("soft_labels", False, 2.0)
    teacher = soft_targets(single(said), 2.0)
    student = said.clone().requires_grad_()
    best = distillation_loss(single(student), labels, teacher, teaching)
    assert torch.autograd.grad(best.total, student)[0].abs().max() < 1e-6
    assert best.kl.abs() < 1e-5
    for scale in (0.01, 0.1, 1.0):
        other = single(said + scale * torch.randn(6, 7, generator=generator))
        assert distillation_loss(other, labels, teacher, teaching).total > best.total


def test_soft_labels_do_not_look_at_labels_and_knowledge_does() -> None:
    """The first is CE against the teacher only; the second is CE + T²·KL, as with PyTorch's own losses."""
    outputs, labels = some_outputs(branches=1)
    logits, teacher = outputs.branches[:, 0], torch.softmax(torch.randn(5, 7), 1)
    soft = [distillation_loss(outputs, y, teacher, Teaching("soft_labels", False)).total for y in (labels, 6 - labels)]
    assert torch.equal(*soft)
    torch.testing.assert_close(soft[0], F.cross_entropy(logits, teacher))
    made = loss(outputs, labels, Teaching("knowledge", False, 3.0), teacher)
    divergence = F.kl_div(F.log_softmax(logits / 3, 1), teacher, reduction="batchmean")
    torch.testing.assert_close(made.total, F.cross_entropy(logits, labels) + 9 * divergence)


def test_teacher_says_the_mean_of_its_branches_probabilities() -> None:
    """An ensemble teaches the gate-weighted mean of softened probabilities, which is not the softmax of mean logits."""
    outputs, _ = some_outputs()
    expected = sum(outputs.gate[:, b, None] * F.softmax(outputs.branches[:, b] / 3, 1) for b in range(3))
    torch.testing.assert_close(soft_targets(outputs, 3.0), expected)
    assert not torch.allclose(expected, F.softmax(outputs.ensemble / 3, 1), atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "branches"), [("on_the_fly", 3), ("none", 3), ("mutual", 2), ("soft_labels", 1), ("knowledge", 1)]
)
def test_each_kind_of_teaching_has_its_loss(kind: str, branches: int) -> None:
    """`loss` calls the function of its kind with weight and temperature unchanged; `none` has weight 0."""
    outputs, labels = some_outputs(branches)
    teaching = Teaching(kind, branches == 3, 2.0, 0.25)
    teacher = torch.softmax(torch.randn(5, 7, generator=torch.Generator().manual_seed(1)), 1)
    expected = {
        "on_the_fly": lambda: cooperative_loss(outputs, labels, teaching),
        "none": lambda: cooperative_loss(outputs, labels, teaching._replace(weight=0.0)),
        "mutual": lambda: mutual_loss(outputs, labels, teaching),
    }.get(kind, lambda: distillation_loss(outputs, labels, teacher, teaching))()
    made = loss(outputs, labels, teaching, teacher)
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert (made.total != made.cross_entropy) == (kind != "none")

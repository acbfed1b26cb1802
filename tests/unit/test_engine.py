"""One step and one evaluation: the computation on a batch, and the sums over batches."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coopnet.data.augment import Draws, draw_epoch
from coopnet.networks.loss import Loss, Teaching, loss, soft_targets
from coopnet.networks.network import Architecture, CooperativeNetwork, Outputs, build
from coopnet.study.settings import SGD
from coopnet.training import engine
from coopnet.training.engine import (
    Evaluation,
    Meters,
    batches,
    logits,
    make_deterministic,
    ranks,
    teacher_targets,
    train_step,
)
from coopnet.training.optimizer import Optimizer
from coopnet.training.schedule import steps_per_epoch
from training_fixture import CPU, split

ON_THE_FLY = Teaching("on_the_fly", True, 3.0, 0.5)


def network(branches: int = 2, seed: int = 0, gate: str = "learned") -> CooperativeNetwork:
    """A small network for 4 classes."""
    return build(Architecture("cifar_resnet", 8, "basic", 8, branches, gate, 4), seed)


def test_ranks_do_not_reward_silence() -> None:
    """Equal logits are ranked by class index: only class 0 is correct at rank 1, as with argmax."""
    rank = ranks(torch.zeros(10, 1, 10), torch.arange(10))
    assert rank[:, 0].tolist() == list(range(10))


def test_ranks_are_places_in_a_stable_sort() -> None:
    """The rank of the true class is its position when classes are sorted by falling logit, equal ones by index."""
    generator = torch.Generator().manual_seed(0)
    said = torch.randint(0, 4, (200, 3, 7), generator=generator).float()  # few values, so that many are equal
    labels = torch.randint(0, 7, (200,), generator=generator)
    order = said.sort(dim=2, descending=True, stable=True).indices
    expected = (order == labels[:, None, None]).long().argmax(dim=2)
    assert torch.equal(ranks(said, labels), expected)


def some(images: int, seed: int = 0) -> tuple[Outputs, Tensor]:
    """Random outputs of two branches for 7 classes, and labels."""
    generator = torch.Generator().manual_seed(seed)
    said = torch.randn(images, 2, 7, generator=generator)
    gate = torch.softmax(torch.randn(images, 2, generator=generator), 1)
    return Outputs(said, gate), torch.randint(0, 7, (images,), generator=generator)


def test_meters_are_means_over_images() -> None:
    """With two batches of different sizes each image counts once; accuracies of branches and ensemble are percent."""
    meters = Meters(2, CPU)
    both = [some(10, 1), some(30, 2)]
    for outputs, labels in both:
        meters.add(outputs, labels, Loss(*torch.tensor([1.0, 2.0, 4.0]) * len(labels)))
        meters.images += len(labels)
    row = meters.row("x")
    share = (10 * 10 + 30 * 30) / 40  # the made-up losses are as large as their batches
    assert [row[f"x_{name}"] for name in ("loss", "cross_entropy", "kl")] == pytest.approx(
        [share, 2 * share, 4 * share]
    )
    outputs = Outputs(*(torch.cat([one[0][i] for one in both]) for i in range(2)))
    labels = torch.cat([one[1] for one in both])
    said = {"branch1": outputs.branches[:, 0], "branch2": outputs.branches[:, 1], "ensemble": outputs.ensemble}
    for name, scores in said.items():
        best = scores.topk(5, dim=1).indices == labels[:, None]
        assert row[f"x_top1_{name}"] == pytest.approx(100 * best[:, 0].float().mean().item())
        assert row[f"x_top5_{name}"] == pytest.approx(100 * best.any(dim=1).float().mean().item())
    assert len(row) == 9
    meters.clear()
    assert (meters.images, meters.sums.tolist()) == (0, [0.0] * 9)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_evaluation_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Means are over images, also if the last batch is smaller; a second evaluation starts from zero."""
    net, images = network(), split(50, 0)
    rows = []
    for size in (1000, 16, 16):
        monkeypatch.setattr(engine, "EVALUATION_BATCH", size)
        evaluation = Evaluation(net.train(), images, precision)
        assert evaluation(ON_THE_FLY).row("x") == evaluation(ON_THE_FLY).row("x")
        rows.append(evaluation.meters.row("x"))
        assert not net.training
    assert rows[0] == pytest.approx(rows[1], rel=1e-5 if precision == "fp32" else 0.02)
    with torch.no_grad(), engine.autocast(CPU, precision):
        outputs = net(images.plain(torch.arange(50)))
    expected = loss(outputs, images.labels, ON_THE_FLY)
    assert rows[0]["x_loss"] == pytest.approx(expected.total.item())
    assert rows[0]["x_kl"] == pytest.approx(expected.kl.item())
    right = (outputs.ensemble.argmax(1) == images.labels).float().mean().item()
    assert rows[0]["x_top1_ensemble"] == pytest.approx(100 * right)


def test_evaluation_of_a_student_compares_it_with_its_teacher() -> None:
    """The divergence is that from the teacher's softened probabilities for the same images."""
    student, teacher, images = network(1, gate="none"), network(2, 1).eval(), split(20, 0)
    teaching = Teaching("knowledge", False, 2.0)
    row = Evaluation(student, images, "fp32", teacher)(teaching).row("x")
    everyone = images.plain(torch.arange(20))
    with torch.no_grad():
        targets = soft_targets(teacher(everyone), 2.0)
        expected = loss(student.eval()(everyone), images.labels, teaching, targets)
    assert torch.equal(teacher_targets(teacher, everyone, teaching, "fp32"), targets)
    assert row["x_kl"] == pytest.approx(expected.kl.item(), rel=1e-5)
    assert row["x_loss"] == pytest.approx(expected.total.item(), rel=1e-5)


def test_saved_logits_are_those_of_every_image_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branch logits [N, B, C] and gate weights [N, B] in the split's order, for any batch size."""
    monkeypatch.setattr(engine, "EVALUATION_BATCH", 16)
    net, images = network().train(), split(40, 0)
    saved = logits(net, images)
    assert not net.training
    with torch.no_grad():
        outputs = net(images.plain(torch.arange(40)))
    torch.testing.assert_close(saved["branches"], outputs.branches)
    torch.testing.assert_close(saved["gate"], outputs.gate)
    assert saved["branches"].dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_step_is_gradient_descent_on_the_loss(precision: str) -> None:
    """Without momentum and decay a step moves each parameter by −lr · gradient, and returns the loss before it."""
    net, reference, images = network().train(), network().train(), split(12, 0)
    options = SGD(kind="sgd", lr=0.1, momentum=0, weight_decay=0)
    pixels, meters = images.plain(torch.arange(12)), Meters(2, CPU)
    next(net.parameters()).grad = torch.ones_like(next(net.parameters()))  # of an earlier step: has to be forgotten
    returned = train_step(net, Optimizer(net, options, {}), pixels, images.labels, ON_THE_FLY, precision, meters)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        outputs = reference(pixels)
    expected = loss(outputs, images.labels, ON_THE_FLY)
    expected.total.backward()
    assert returned.item() == pytest.approx(expected.total.item())
    assert not returned.requires_grad
    meters.images = 12
    assert meters.row("x")["x_loss"] == pytest.approx(expected.total.item())
    assert meters.row("x")["x_cross_entropy"] == pytest.approx(expected.cross_entropy.item())
    for after, before in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * before.grad)


def test_step_of_a_student_learns_from_what_its_teacher_says() -> None:
    """The soft labels of a step are the teacher's for the same augmented images."""
    net, reference, teacher = network(1, gate="none").train(), network(1, gate="none").train(), network(2, 1).eval()
    images, teaching = split(12, 0), Teaching("soft_labels", False, 2.0)
    pixels, options = images.plain(torch.arange(12)), SGD(kind="sgd", lr=0.1)
    optimizer = Optimizer(net, options, {})
    returned = train_step(net, optimizer, pixels, images.labels, teaching, "fp32", Meters(1, CPU), teacher)
    with torch.no_grad():
        targets = soft_targets(teacher(pixels), 2.0)
    said = reference(pixels).branches[:, 0]
    torch.testing.assert_close(returned, -(targets * F.log_softmax(said / 2, dim=1)).sum(dim=1).mean())


def test_batches_are_the_epoch_in_its_order() -> None:
    """Parts of the draws, in order, with offsets and flips of the same images, from any step to any other."""
    draws = draw_epoch(50, 0, 0, CPU)
    steps = steps_per_epoch(50, 16)
    whole = list(batches(draws, 16, 0, steps))
    assert [len(batch.order) for batch in whole] == [16, 16, 16, 2]
    for part in range(3):
        assert torch.equal(torch.cat([batch[part] for batch in whole]), draws[part])
    (second, third) = batches(draws, 16, 1, 3)
    assert torch.equal(Draws(*second).order, draws.order[16:32])
    assert torch.equal(Draws(*third).order, draws.order[32:48])


def test_everything_is_deterministic_and_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """All switches that affect bits are set: threads, deterministic kernels, no kernel search, no TF32."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    backends: Any = torch.backends
    backends.cudnn.benchmark = backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = True
    backends.cudnn.deterministic = False
    torch.set_deterministic_debug_mode("default")
    make_deterministic(1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_deterministic_debug_mode() == 2  # an operation that is not deterministic is an error
    assert not backends.cudnn.benchmark
    assert backends.cudnn.deterministic
    assert not backends.cudnn.allow_tf32
    assert not backends.cuda.matmul.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"

"""Training: deterministic, interruptible without a trace, and driven by schedules that do what they say."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coopnet.data.augment import draw_epoch
from coopnet.files.errors import CoopNetError
from coopnet.networks.loss import Teaching
from coopnet.networks.network import Architecture, build
from coopnet.networks.transfer import TrainedNetwork
from coopnet.study.settings import SGD, Adam
from coopnet.training import engine, trainer
from coopnet.training.engine import Evaluation, batches, logits, ranks
from coopnet.training.optimizer import Optimizer
from coopnet.training.schedule import Opening, learning_rate, steps_per_epoch
from coopnet.training.trainer import Interrupted, train
from training_fixture import CPU, Ram, Silence, never, result, settings, split, task


@pytest.mark.parametrize(
    ("start", "changes"),
    [
        ("random", {}),
        ("masked", {}),
        ("split", {"selection": "best_validation"}),
        ("random", {"optimizer": {"kind": "adam", "lr": 0.01}}),
        ("random", {"schedule": {"gradient_ratio": {"every": 2, "smoothing": 0.5}}, "test_every": 2}),
        ("taught", {"distillation": {"kind": "soft_labels"}, "selection": "best_validation"}),
    ],
)
def test_interrupted_after_every_step_gives_the_same_bits(start: str, changes: dict[str, Any]) -> None:
    """A run stopped and continued after each single step equals an undisturbed one, bit for bit."""
    training = settings(**changes)
    undisturbed = result(train(task(training, start=start), Ram(), Silence(), never))
    memory = Ram()
    for _ in range(100):
        try:
            continued = train(task(training, start=start), memory, Silence(), lambda: "now")
            break
        except Interrupted:
            pass
    assert result(continued) == undisturbed


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    """A result is a function of its seed."""
    first, again, other = (result(train(task(settings(), seed), Ram(), Silence(), never)) for seed in (0, 0, 1))
    assert first == again
    assert first["tensors"] != other["tensors"]


def test_history_has_every_column_and_the_schedules_of_its_epochs() -> None:
    """One row per epoch with losses, parts, accuracies of branches and ensemble, learning rate and ramp-up."""
    history = train(task(settings()), Ram(), Silence(), never).history
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert [row["lr"] for row in history] == pytest.approx([0.05, 0.025, 0.0125])
    assert [row["rampup"] for row in history] == pytest.approx([math.exp(-5), math.exp(-1.25), 1])
    for name in ("train", "validation", "test"):
        parts = ["loss", "cross_entropy", "kl"]
        parts += [f"{top}_{who}" for top in ("top1", "top5") for who in ("branch1", "branch2", "ensemble")]
        assert {f"{name}_{part}" for part in parts} <= history[0].keys()
    for row in history:
        expected = row["train_cross_entropy"] + row["rampup"] * row["train_kl"]
        assert row["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_prior_of_masked_stays_closed_then_opens() -> None:
    """α is 0 until 40 % of the steps, linear until 60 %, then 1; while closed, the new branch has no say."""
    opening = Opening((1,), 0.4, 0.6)
    assert [opening.alpha(s, 10) for s in (0, 3, 4, 5, 6, 10)] == pytest.approx([0, 0, 0, 0.5, 1, 1])
    table = opening.log_priors(torch.tensor([0.0, -math.inf]), 10)
    assert table[3, 1] == -math.inf
    assert table[5, 1].item() == pytest.approx(math.log(0.5))
    assert (table[:, 0] == 0).all()
    assert (table[-1] == 0).all()
    trained = train(task(settings(epochs=5), start="masked"), Ram(), Silence(), never)
    assert [row["prior_alpha"] for row in trained.history] == pytest.approx([0, 0, 1, 1, 1])
    assert trained.network.gate is not None
    assert (trained.network.gate.log_prior == 0).all()


def test_new_branch_learns_while_it_is_closed() -> None:
    """Behind a closed prior a new branch is taught by labels and teacher, and the ensemble ignores it."""
    job = task(settings(epochs=1, optimizer={"kind": "sgd", "lr": 0.05, "weight_decay": 0}), start="masked")
    job.opening = Opening((2,), 1.0, 1.0)
    before = job.initial.network.branches[2].classifier.weight.detach().clone()
    memory, said = Ram(), logits(job.initial.network, job.splits["test"])
    ensemble = (said["gate"].unsqueeze(2) * said["branches"]).sum(1)
    with torch.no_grad():
        job.initial.network.branches[2].classifier.bias += 100
    louder = logits(job.initial.network, job.splits["test"])
    assert torch.equal(ensemble, (louder["gate"].unsqueeze(2) * louder["branches"]).sum(1))
    train(job, memory, Silence(), never)
    assert memory.saved is not None
    assert not torch.equal(before, memory.saved[0]["network/branches.2.classifier.weight"])


def test_best_validation_keeps_the_network_of_its_epoch() -> None:
    """The result is the network of the epoch with the highest validation accuracy, the earliest of equals."""
    job = task(settings(epochs=6, selection="best_validation"))
    trained = train(job, Ram(), Silence(), never)
    accuracies = [row["validation_top1_ensemble"] for row in trained.history]
    assert trained.selected_epoch == int(np.argmax(accuracies))
    evaluation = Evaluation(trained.network, job.splits["validation"], "fp32")
    again = evaluation(Teaching("on_the_fly", True, 3.0, 1.0)).row("v")
    assert again["v_top1_ensemble"] == max(accuracies)


def test_bf16_follows_fp32() -> None:
    """Mixed precision trains the same network: after one epoch the losses agree to a few percent, not to the bit."""
    losses = [
        train(task(settings(epochs=1, precision=precision)), Ram(), Silence(), never).history[0]["train_loss"]
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_divergence_is_refused_and_named() -> None:
    """A loss that is no number ends the run with its epoch and a remedy; the epoch before is kept."""
    memory = Ram()
    # A rate that is harmless in epoch 0, and raised beyond all bounds at its end.
    schedule = {"milestones": [1], "gamma": 1e30}
    with pytest.raises(CoopNetError, match=r"in epoch 1.*lower training\.optimizer\.lr"):
        train(task(settings(schedule=schedule)), memory, Silence(), never)
    assert memory.saved is not None
    assert memory.saved[1]["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in memory.saved[0].values())


def test_first_bad_step_is_named_even_after_an_interruption() -> None:
    """The loss of each step is looked at when the epoch ends or is left; a poisoned state is never saved."""
    job, memory, step = task(settings()), Ram(), 0

    class Spoiler(Silence):
        """Poisons a weight after the third step of the second epoch, so that the loss of the fourth is not a number."""

        def advance(self, images: int) -> None:
            nonlocal step
            step += 1
            if step == 5 + 3:
                job.initial.network.branches[0].classifier.bias.data[0] = math.nan

    with pytest.raises(CoopNetError, match="the training loss is nan in epoch 1, step 4 of 5"):
        train(job, memory, Spoiler(), lambda: "now" if step == 9 else None)
    assert memory.saved is not None
    assert (memory.saved[1]["epoch"], memory.saved[1]["step"]) == (1, 0)


def test_losses_of_an_epoch_survive_an_interruption() -> None:
    """A step that went wrong before a run was stopped would still be known after it; here all were right."""
    memory = Ram()
    with pytest.raises(Interrupted):
        train(task(settings()), memory, Silence(), lambda: "now")
    assert memory.saved is not None
    assert [loss > 0 for loss in memory.saved[0]["losses"].tolist()] == [True, False, False, False, False]


def test_full_device_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without memory ends the run with epoch, step and what to change; the state before it is kept."""
    calls = 0

    def full(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return engine.train_step(*arguments)

    monkeypatch.setattr(trainer, "train_step", full)
    memory = Ram()
    with pytest.raises(
        CoopNetError, match=r"no memory left on cpu in epoch 1, step 3 of 5: lower training\.batch_size"
    ):
        train(task(settings()), memory, Silence(), never)
    assert memory.saved is not None
    assert (memory.saved[1]["epoch"], memory.saved[1]["step"]) == (1, 0)


def test_momentum_is_used_from_the_first_step() -> None:
    """The carried momentum moves the network: training on with it differs from training on without."""
    trained = train(task(settings()), Ram(), Silence(), never)
    ends = []
    for slots in (trained.slots, {}):
        job = task(settings(epochs=1))
        job.initial.network.load_state_dict(trained.network.state_dict())
        job.initial = TrainedNetwork(job.initial.network, slots)
        ends.append(result(train(job, Ram(), Silence(), never))["tensors"]["trunk.stem.0.weight"])
    assert ends[0] != ends[1]


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        (SGD(kind="sgd", lr=0.1), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-4)),
        (
            SGD(kind="sgd", lr=0.1, nesterov=True),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
        ),
        (Adam(kind="adam", lr=0.01), lambda p: torch.optim.Adam(p, 0.01)),
    ],
)
def test_optimizer_is_torch_optim(options: SGD | Adam, reference: Any) -> None:
    """Three steps from the same gradients give what the classes of `torch.optim` give."""
    networks = [build(Architecture("cifar_resnet", 8, "basic", 4, 1, "none", 4), 0) for _ in range(2)]
    ours, theirs = Optimizer(networks[0], options, {}), reference(networks[1].parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for pair in zip(*(network.parameters() for network in networks), strict=True):
            gradient = torch.randn(pair[0].shape, generator=generator)
            for parameter in pair:
                parameter.grad = gradient.clone()
        ours.step()
        theirs.step()
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_augmentation_crops_and_flips_the_padded_image() -> None:
    """Each augmented image is the normalised window of the zero-padded image, mirrored where the draw says so."""
    images = split(5, 0)
    order, offsets = torch.tensor([3, 1]), torch.tensor([[0, 8], [5, 2]])
    made = images.augmented(order, offsets, torch.tensor([True, False]))
    for i, (index, (top, left), flip) in enumerate(zip([3, 1], offsets.tolist(), [True, False], strict=True)):
        window = images.padded[index, top : top + 32, left : left + 32].float() / 255
        window = window.flip(1) if flip else window
        torch.testing.assert_close(made[i], ((window - 0.5) / 0.25).permute(2, 0, 1))
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images.plain(order), images.augmented(order, torch.full((2, 2), 4), torch.tensor([False] * 2)))


def test_epoch_draws_cover_all_images_and_all_offsets() -> None:
    """Every image once per epoch, offsets 0 to 8, about half flipped, other epochs draw otherwise."""
    draws = draw_epoch(5000, 0, 0, CPU)
    assert torch.equal(draws.order.sort().values, torch.arange(5000))
    assert draws.offsets.unique().tolist() == list(range(9))
    assert 0.45 < draws.flips.float().mean() < 0.55
    assert not torch.equal(draws.order, draw_epoch(5000, 0, 1, CPU).order)
    seen = torch.cat([batch.order for batch in batches(draws, 128, 0, steps_per_epoch(5000, 128))])
    assert torch.equal(seen, draws.order)


def test_last_batch_of_one_image_is_left_out() -> None:
    """BatchNorm needs two images."""
    assert [steps_per_epoch(n, 16) for n in (32, 33, 34)] == [2, 2, 3]


def test_milestones_past_the_end_are_allowed() -> None:
    """Each milestone reached multiplies by γ; others do nothing."""
    assert [learning_rate(0.1, [151, 225], 0.1, e) for e in (0, 150, 151, 225)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001]
    )


def test_ranks_do_not_reward_silence() -> None:
    """All-equal logits rank by class index: only class 0 is right at rank 1, as argmax would have it."""
    rank = ranks(torch.zeros(10, 1, 10), torch.arange(10))
    assert rank[:, 0].tolist() == list(range(10))


def test_meters_do_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means are over images, also when the last batch is smaller."""
    network, images = build(Architecture("cifar_resnet", 8, "basic", 4, 2, "learned", 4), 0), split(50, 0)
    teaching = Teaching("on_the_fly", True, 3.0)
    monkeypatch.setattr(engine, "EVALUATION_BATCH", 16)
    whole = Evaluation(network, images, "fp32")(teaching).row("x")
    saved = logits(network, images)
    ensemble = (saved["gate"].unsqueeze(2) * saved["branches"]).sum(1)
    assert whole["x_top1_ensemble"] == pytest.approx(100 * (ensemble.argmax(1) == images.labels).float().mean().item())


def test_test_images_are_looked_at_every_kth_epoch_and_at_the_end() -> None:
    """`test_every: 2` of 5 epochs: epochs 2, 4 and 5 have test columns; nothing else about the run changes."""
    often, seldom = (train(task(settings(epochs=5, test_every=every)), Ram(), Silence(), never) for every in (1, 2))
    assert ["test_loss" in row for row in seldom.history] == [False, True, False, True, True]
    assert all("validation_loss" in row and "train_loss" in row for row in seldom.history)
    assert seldom.history[-1] == often.history[-1]
    assert result(seldom)["tensors"] == result(often)["tensors"]


def test_student_learns_what_its_teacher_says_about_the_images_it_sees() -> None:
    """Soft labels of a teacher without any labels: the divergence from the teacher falls, and the teacher stays."""
    job = task(settings(epochs=8, distillation={"kind": "soft_labels"}, schedule={}), start="taught")
    assert job.teacher is not None
    before = {name: tensor.clone() for name, tensor in job.teacher.state_dict().items()}
    history = train(job, Ram(), Silence(), never).history
    assert history[-1]["train_kl"] < 0.5 * history[0]["train_kl"]
    assert all(torch.equal(before[name], tensor) for name, tensor in job.teacher.state_dict().items())


def test_factors_are_in_the_history() -> None:
    """One column per module and epoch, the first step's being 1; the last module's is always 1."""
    training = settings(schedule={"gradient_ratio": {}})
    history = train(task(training), Ram(), Silence(), never).history
    columns = [name for name in history[0] if name.startswith("factor_")]
    assert len(columns) == len(
        {name.rpartition(".")[0] for name, _ in task(training).initial.network.named_parameters()}
    )
    for row in history:
        assert row[columns[-1]] == 1
        assert all(0.1 <= row[name] <= 20 for name in columns)
    assert any(row[name] != 1 for row in history for name in columns)

"""Training: deterministic, interruptible without any effect, and controlled by correct schedules."""

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coopnet.data.augment import Images, draw_epoch
from coopnet.files.errors import CoopNetError
from coopnet.networks.transfer import TrainedNetwork
from coopnet.training import engine, trainer
from coopnet.training.device import choose
from coopnet.training.engine import logits
from coopnet.training.schedule import Opening
from coopnet.training.trainer import Interrupted, train
from training_fixture import CPU, Ram, Silence, never, result, settings, task


def interrupted(make: Callable[[], trainer.Task]) -> dict[str, Any]:
    """All bits of a run that is stopped and continued after each step."""
    memory = Ram()
    for _ in range(100):
        with suppress(Interrupted):
            return result(train(make(), memory, Silence(), lambda: "now"))
    raise AssertionError("the run never ends")


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
    """A run that is stopped and continued after each step equals an uninterrupted one bit for bit."""
    training = settings(**changes)
    undisturbed = result(train(task(training, start=start), Ram(), Silence(), never))
    assert interrupted(lambda: task(training, start=start)) == undisturbed


def test_dropout_has_the_same_draws_after_every_interruption() -> None:
    """They follow from seed and step: whatever else drew from PyTorch's generator changes no bit."""

    def dropping(seed: int = 0) -> trainer.Task:
        made = task(settings(), seed)
        made.initial.network.trunk = nn.Sequential(made.initial.network.trunk, nn.Dropout(0.5))
        torch.rand(int(torch.randint(1, 9, ())))
        return made

    undisturbed = result(train(dropping(), Ram(), Silence(), never))
    assert interrupted(dropping) == undisturbed
    assert undisturbed["tensors"] != result(train(task(settings()), Ram(), Silence(), never))["tensors"]


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    """A result depends on its seed."""
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
        assert row["train_kl"] > 0


def test_last_epoch_is_selected_unless_validation_decides() -> None:
    """The result names the last epoch, or none if the network was not trained."""
    for epochs, selected in ((0, None), (2, 1)):
        training = settings(epochs=epochs, schedule={})
        assert train(task(training), Ram(), Silence(), never).selected_epoch == selected


def test_prior_of_masked_stays_closed_then_opens() -> None:
    """α is 0 until 40 % of the steps, linear until 60 %, then 1; while closed, the new branch has no weight."""
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


def test_log_prior_of_each_step_and_of_each_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step s of the run has row s of the schedule; after an epoch the network has the row of the next step."""
    job = task(settings(epochs=5, schedule={}), start="masked")
    gate, in_steps, at_ends = job.initial.network.gate, list[Tensor](), list[Tensor]()
    assert gate is not None
    assert job.opening is not None
    expected = job.opening.log_priors(gate.log_prior, 25)

    class Watch(Silence):
        """Notes the log-prior at the end of each epoch."""

        def end(self, row: dict[str, float], timing: dict[str, float]) -> None:
            at_ends.append(gate.log_prior.clone())

    def step(*arguments: Any) -> Tensor:
        in_steps.append(gate.log_prior.clone())
        return engine.train_step(*arguments)

    monkeypatch.setattr(trainer, "train_step", step)
    train(job, Ram(), Watch(), never)
    assert torch.equal(torch.stack(in_steps), expected[:-1])
    assert torch.equal(torch.stack(at_ends), expected[5::5])


def test_new_branch_learns_while_it_is_closed() -> None:
    """Behind a closed prior a new branch learns from labels and teacher, and the ensemble ignores it."""
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


def test_best_validation_keeps_the_network_of_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is the network of the epoch with the highest validation accuracy, the earliest of equals.

    The accuracies are invented, so that the best epoch by validation is neither the first, nor the last, nor the best
    on test images.
    """
    made_up = {"validation": [10.0, 30.0, 30.0, 20.0], "test": [40.0, 10.0, 20.0, 50.0]}
    ends: list[dict[str, Tensor]] = []

    class Saving(Ram):
        """Keeps the network of every epoch."""

        def save(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
            super().save(tensors, facts)
            ends.append({name: tensor.clone() for name, tensor in tensors.items() if name.startswith("network/")})

    def evaluation(network: Any, split: Images, *others: Any) -> Any:
        (name,) = (name for name, images in job.splits.items() if images is split)
        left = iter(made_up[name])
        return lambda teaching: SimpleNamespace(row=lambda prefix: {f"{prefix}_top1_ensemble": next(left)})

    monkeypatch.setattr(trainer, "Evaluation", evaluation)
    job = task(settings(epochs=4, selection="best_validation"))
    trained = train(job, Saving(), Silence(), never)
    assert trained.selected_epoch == 1
    assert len(ends) == 4
    kept = {f"network/{name}": tensor for name, tensor in trained.network.state_dict().items()}
    assert [all(torch.equal(end[name], kept[name]) for name in kept) for end in ends] == [False, True, False, False]


def test_bf16_follows_fp32() -> None:
    """Mixed precision trains the same network: after one epoch the losses agree to a few percent, not bit for bit."""
    losses = [
        train(task(settings(epochs=1, precision=precision)), Ram(), Silence(), never).history[0]["train_loss"]
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_divergence_is_refused_and_named() -> None:
    """A loss that is not a number ends the run with its epoch and a remedy; the state before the epoch is kept."""
    memory = Ram()
    # A learning rate that is harmless in epoch 0, and extremely large afterwards.
    schedule = {"milestones": [1], "gamma": 1e30}
    with pytest.raises(CoopNetError, match=r"loss is \w+ in epoch 1, step 2 .*lower training\.optimizer\.lr"):
        train(task(settings(schedule=schedule)), memory, Silence(), never)
    assert memory.saved is not None
    assert memory.saved[1]["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in memory.saved[0].values())


def test_first_bad_step_is_named_even_after_an_interruption() -> None:
    """The losses of all steps are checked when an epoch ends or is interrupted; an invalid state is never saved."""
    job, memory, step = task(settings()), Ram(), 0

    class Spoiler(Silence):
        """Sets a weight to NaN after the third step of the second epoch, so that the fourth loss is not a number."""

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
    """A bad step before an interruption would still be known after it; here all steps are good."""
    memory = Ram()
    with pytest.raises(Interrupted):
        train(task(settings()), memory, Silence(), lambda: "now")
    assert memory.saved is not None
    assert [loss > 0 for loss in memory.saved[0]["losses"].tolist()] == [True, False, False, False, False]


def test_full_device_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without memory ends the run with epoch, step and remedy; the state before is kept."""
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


def test_full_device_during_an_evaluation_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names no step if the memory ran out after the last one."""

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer, "Evaluation", lambda *_: full)
    with pytest.raises(CoopNetError, match=r"in epoch 0, while it was evaluated"):
        train(task(settings()), Ram(), Silence(), never)


def test_state_reaches_the_disk_however_a_training_ends() -> None:
    """The state saved last is flushed after the last epoch, an interruption and an error."""
    flushed = 0

    class Disk(Ram):
        """Counts how often it is flushed."""

        def flush(self) -> None:
            nonlocal flushed
            flushed += 1

    train(task(settings()), Disk(), Silence(), never)
    assert flushed == 1
    with pytest.raises(Interrupted):
        train(task(settings()), Disk(), Silence(), lambda: "now")
    assert flushed == 2
    with pytest.raises(CoopNetError):
        train(task(settings(optimizer={"kind": "sgd", "lr": 1e30})), Disk(), Silence(), never)
    assert flushed == 3


def test_broken_kernels_are_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training looks for kernels that its device gets wrong for its network."""
    asked = list[tuple[Any, ...]]()
    monkeypatch.setattr(trainer, "avoid_broken_kernels", lambda *arguments: asked.append(arguments))
    job = task(settings(epochs=0, schedule={}))
    train(job, Ram(), Silence(), never)
    assert asked == [(job.initial.network, CPU)]


def test_progress_and_seconds_continue_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch takes 0.30004 seconds here, an evaluation a seventh; the time of an interruption does not count."""
    now, begun, timed, memory = 7.0, list[tuple[int, ...]](), list[dict[str, float]](), Ram()

    class Watch(Silence):
        """Lets the clock go on."""

        def begin(self, *arguments: int) -> None:
            begun.append(arguments)

        def advance(self, images: int) -> None:
            nonlocal now
            now += 0.30004

        def end(self, row: dict[str, float], timing: dict[str, float]) -> None:
            timed.append(timing)

    def evaluation(network: Any, split: Images, *others: Any) -> Any:
        def evaluate(teaching: Any) -> Any:
            nonlocal now
            now += 1 / 14
            return SimpleNamespace(row=lambda prefix: {f"{prefix}_loss": 1.0})

        return evaluate

    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(trainer, "Evaluation", evaluation)
    training = settings(epochs=2, schedule={})
    with pytest.raises(Interrupted):
        train(task(training), memory, Watch(), lambda: "now" if now > 7.9 else None)
    now += 1000
    trained = train(task(training), memory, Watch(), never)
    assert begun == [(0, 2, 70, 0), (0, 2, 70, 48), (1, 2, 70, 0)]
    expected = {"train_seconds": 1.5, "evaluation_seconds": 0.143, "images_per_second": 46.7}
    assert timed == trained.timing == [{"epoch": epoch, **expected} for epoch in (0, 1)]


def test_momentum_is_used_from_the_first_step() -> None:
    """Inherited momentum moves the network: training with it differs from training without it."""
    trained = train(task(settings()), Ram(), Silence(), never)
    ends = []
    for optimizer_state in (trained.optimizer_state, {}):
        job = task(settings(epochs=1))
        job.initial.network.load_state_dict(trained.network.state_dict())
        job.initial = TrainedNetwork(job.initial.network, optimizer_state)
        ends.append(result(train(job, Ram(), Silence(), never))["tensors"]["trunk.stem.0.weight"])
    assert ends[0] != ends[1]


@pytest.mark.parametrize("augment", [True, False])
def test_training_images_are_augmented_where_the_row_says_so_alone(
    monkeypatch: pytest.MonkeyPatch, augment: bool
) -> None:
    """Each step trains on images that are cropped and flipped by the epoch's draws, or on unchanged images."""
    job, seen = replace(task(settings(epochs=1)), augment=augment), list[Tensor]()

    def step(network: Any, optimizer: Any, images: Tensor, labels: Tensor, *others: Any) -> Tensor:
        seen.append(images)
        return engine.train_step(network, optimizer, images, labels, *others)

    monkeypatch.setattr(trainer, "train_step", step)
    train(job, Ram(), Silence(), never)
    draws, images = draw_epoch(70, job.seed, 0, CPU), job.splits["training"]
    plain, augmented = images.plain(draws.order), images.augmented(*draws)
    assert torch.equal(torch.cat(seen), augmented if augment else plain)
    assert not torch.equal(plain, augmented)


def test_test_images_are_looked_at_every_kth_epoch_and_at_the_end() -> None:
    """With `test_every: 2` and 5 epochs, epochs 2, 4 and 5 have test columns; nothing else changes."""
    often, seldom = (train(task(settings(epochs=5, test_every=every)), Ram(), Silence(), never) for every in (1, 2))
    assert ["test_loss" in row for row in seldom.history] == [False, True, False, True, True]
    assert all("validation_loss" in row and "train_loss" in row for row in seldom.history)
    assert seldom.history[-1] == often.history[-1]
    assert result(seldom)["tensors"] == result(often)["tensors"]


def test_student_learns_what_its_teacher_says_about_the_images_it_sees() -> None:
    """Training with soft labels only: the divergence from the teacher falls, and the teacher does not change."""
    job = task(settings(epochs=8, distillation={"kind": "soft_labels"}, schedule={}), start="taught")
    assert job.teacher is not None
    before = {name: tensor.clone() for name, tensor in job.teacher.state_dict().items()}
    history = train(job, Ram(), Silence(), never).history
    assert history[-1]["train_kl"] < 0.5 * history[0]["train_kl"]
    assert all(torch.equal(before[name], tensor) for name, tensor in job.teacher.state_dict().items())


def test_factors_are_in_the_history() -> None:
    """One column per module and epoch, 1 for the first step; that of the last module is always 1."""
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


@pytest.mark.parametrize(
    ("warning", "message"),
    [
        ("", "PyTorch sees no GPU here: run this on a machine with one"),
        (
            "The NVIDIA driver is too old\n(found version 12080)",
            r"driver is too old \(found version 12080\); update the",
        ),
    ],
)
def test_missing_gpu_and_old_driver_have_errors_of_their_own(
    warning: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch says in a warning only that it cannot use the GPU that is there."""

    def available() -> bool:
        if warning:
            warnings.warn(warning, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    with pytest.raises(CoopNetError, match=message):
        choose("cuda")

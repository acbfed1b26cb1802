"""One run: a network trained from its start to its last epoch, through any number of interruptions."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from coopnet.data.augment import Images, draw_epoch
from coopnet.files.errors import TrainingFailed
from coopnet.networks.loss import Teaching, rampup
from coopnet.networks.network import CooperativeNetwork
from coopnet.networks.transfer import OptimizerState, TrainedNetwork
from coopnet.study.settings import NoDistillation, OnTheFly, Training
from coopnet.training.device import avoid_broken_kernels, out_of_memory
from coopnet.training.engine import Evaluation, Meters, batches, train_step
from coopnet.training.gradient_ratio import ModuleRates
from coopnet.training.graph import GraphedStep, number
from coopnet.training.optimizer import Optimizer
from coopnet.training.schedule import Opening, learning_rate, steps_per_epoch

log = logging.getLogger(__name__)

Row = dict[str, float]


class Interrupted(Exception):
    """A run was asked to stop; everything it had done is saved."""


class ResumeState(Protocol):
    """Where a run keeps what it needs to continue."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last, or None."""

    def save(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace what was saved before, atomically."""


class Progress(Protocol):
    """Whoever watches."""

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """An epoch of `images` begins; `done` of them were trained on before an interruption."""

    def advance(self, images: int) -> None:
        """A batch is done."""

    def end(self, row: Row, timing: Row) -> None:
        """An epoch is done."""


@dataclass
class Task:
    """What is to be trained on what.

    Attributes:
        initial: the network at its start, on `device`, and its optimiser state.
        training: the settings.
        splits: `training`, `test` and, where there is one, `validation`, on `device`.
        augment: whether training images are cropped and flipped.
        seed: of the order and the augmentation of the images.
        opening: how the log-prior of new branches opens; None where it is constant.
        teacher: the network that the loss asks for, on `device`; None where it asks for none.
    """

    initial: TrainedNetwork
    training: Training
    splits: Mapping[str, Images]
    augment: bool
    seed: int
    opening: Opening | None = None
    teacher: CooperativeNetwork | None = None


@dataclass
class TrainingResult:
    """A trained network and how it got there.

    Attributes:
        slots: its optimiser state.
        history: one row per epoch.
        timing: one row per epoch, seconds; kept apart because it is never the same twice.
        selected_epoch: the epoch (from 0) whose network this is; None if it was not trained.
    """

    network: CooperativeNetwork
    slots: OptimizerState
    history: list[Row]
    timing: list[Row]
    selected_epoch: int | None


@dataclass
class State:
    """Where a run is: `step` steps into `epoch`, which has taken `seconds` so far."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    timing: list[Row] = field(default_factory=list)
    best_epoch: int | None = None
    best_score: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)


def train(task: Task, memory: ResumeState, progress: Progress, stop: Callable[[], str | None]) -> TrainingResult:
    """Train to the last epoch, from where `memory` left off.

    Args:
        task: what to do.
        memory: read once, written after every epoch and when stopped.
        progress: is told of every batch and epoch.
        stop: is asked after every step; a reason makes the run save itself and end.

    Raises:
        Interrupted: `stop` gave a reason.
        TrainingFailed: the loss is not a finite number any more, or the device has no memory left; what was saved
            before is still there.
    """
    return _Run(task, memory, progress, stop).run()


class _Run:
    """The moving parts of `train`."""

    def __init__(self, task: Task, memory: ResumeState, progress: Progress, stop: Callable[[], str | None]):
        self.task, self.memory, self.progress, self.stop = task, memory, progress, stop
        self.network = task.initial.network
        self.device = task.splits["training"].labels.device
        avoid_broken_kernels(self.network, self.device)
        ratio = task.training.schedule.gradient_ratio
        self.rates = ModuleRates(self.network, ratio, self.device) if ratio else None
        self.optimizer = Optimizer(self.network, task.training.optimizer, task.initial.slots, self.rates)
        if task.teacher is not None:
            task.teacher.eval()
        self.images = len(task.splits["training"])
        self.steps = steps_per_epoch(self.images, task.training.batch_size)
        self.meters = Meters(self.network.architecture.branches, self.device)
        self.losses = torch.zeros(self.steps, device=self.device)  # of this epoch, by step
        self.loss = torch.zeros((), device=self.device)  # of the last step
        self.weight = number(1.0, self.device)
        self.launch = GraphedStep(self._step, task.training.batch_size, self.device)
        self.evaluations = {
            name: Evaluation(self.network, split, task.training.precision, task.teacher)
            for name, split in task.splits.items()
            if name != "training"
        }
        self.state = State()
        self.log_priors = self._log_priors()
        self._recall()

    def _log_priors(self) -> Tensor | None:
        if self.task.opening is None:
            return None
        assert self.network.gate is not None
        total = self.steps * self.task.training.epochs
        return self.task.opening.log_priors(self.network.gate.log_prior, total).to(self.device)

    def run(self) -> TrainingResult:
        """All epochs that are left."""
        while self.state.epoch < self.task.training.epochs:
            try:
                self._epoch()
            except (RuntimeError, MemoryError) as error:
                said = out_of_memory(error)
                if said is None:
                    raise
                raise self._no_memory(said) from error
        if self.task.training.selection == "best_validation" and self.state.best:
            self._restore(self.state.best)
        selected = self.state.best_epoch if self.task.training.selection == "best_validation" else None
        if selected is None and self.state.history:
            selected = len(self.state.history) - 1
        return TrainingResult(self.network, self.optimizer.slots, self.state.history, self.state.timing, selected)

    def _epoch(self) -> None:
        training, epoch = self.task.training, self.state.epoch
        rate = learning_rate(training.optimizer.lr, training.schedule.milestones, training.schedule.gamma, epoch)
        self.optimizer.set_lr(rate)
        weight = self._weight()
        self.teaching = self._teaching(weight)
        self._train()
        row: Row = {"epoch": epoch, "lr": rate, "rampup": weight}
        if self.task.opening is not None:
            done = self.steps * (epoch + 1)
            self._open(done)
            row["prior_alpha"] = self.task.opening.alpha(done, self.steps * training.epochs)
        if self.rates is not None:
            row |= self.rates.row(self.steps)
        began = time.monotonic()
        self._refuse_divergence()
        row |= self.meters.row("train") | self._evaluate()
        self._refuse_nonsense(row)
        self._finish(row, time.monotonic() - began)

    def _weight(self) -> float:
        """r, the weight of the distillation in this epoch."""
        distillation = self.task.training.distillation
        if isinstance(distillation, OnTheFly):
            return rampup(self.state.epoch, distillation.rampup)
        return 0.0 if isinstance(distillation, NoDistillation) else 1.0

    def _teaching(self, weight: float) -> Teaching:
        """The loss of this epoch."""
        distillation = self.task.training.distillation
        if isinstance(distillation, NoDistillation):
            return Teaching("none", self._gated(), weight=weight)
        if isinstance(self.weight, Tensor):
            self.weight.fill_(weight)
        else:
            self.weight = weight
        return Teaching(distillation.kind, self._gated(), distillation.temperature, self.weight)

    def _gated(self) -> bool:
        return self.network.architecture.gate != "none"

    def _train(self) -> None:
        """The steps of this epoch that are left."""
        state, training = self.state, self.task.training
        self.network.train()
        began = time.monotonic() - state.seconds
        split = self.task.splits["training"]
        draws = draw_epoch(self.images, self.task.seed, state.epoch, self.device, split.padding)
        left = draws.order[state.step * training.batch_size :]
        pixels = split.fetched((left if split.padded is not None else left.cpu()).split(training.batch_size))
        self.progress.begin(state.epoch, training.epochs, self.images, self.meters.images)
        for batch in batches(draws, training.batch_size, state.step, self.steps):
            its_pixels = next(pixels)
            if self.log_priors is not None:
                self._open(state.epoch * self.steps + state.step)
            self.launch(*batch, *its_pixels)
            self.losses[state.step].copy_(self.loss)
            state.step += 1
            self.meters.images += len(batch.order)
            self.progress.advance(len(batch.order))
            reason = self.stop()
            if reason:
                state.seconds = time.monotonic() - began
                self._refuse_divergence()
                self._save()
                raise Interrupted(f"{reason} in epoch {state.epoch}, after step {state.step} of {self.steps}")
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # so that the seconds are those of the work, not of its launch
        state.seconds = time.monotonic() - began

    def _step(self, order: Tensor, offsets: Tensor, flips: Tensor, pixels: Tensor | None = None) -> None:
        """Train on a batch."""
        split = self.task.splits["training"]
        images = split.augmented(order, offsets, flips, pixels) if self.task.augment else split.plain(order, pixels)
        loss = train_step(
            self.network,
            self.optimizer,
            images,
            split.labels[order],
            self.teaching,
            self.task.training.precision,
            self.meters,
            self.task.teacher,
        )
        self.loss.copy_(loss)

    def _open(self, step: int) -> None:
        """Set the log-prior of step `step`; copied on the device, so nothing waits."""
        assert self.log_priors is not None
        assert self.network.gate is not None
        self.network.gate.log_prior.copy_(self.log_priors[step])

    def _evaluate(self) -> Row:
        """Meters of the validation images, and of the test images where it is their turn."""
        training, row = self.task.training, Row()
        done = self.state.epoch + 1
        due = done == training.epochs or done % training.test_every == 0
        for name in ("validation", "test") if due else ("validation",):
            if name in self.evaluations:
                row |= self.evaluations[name](self.teaching).row(name)
        return row

    def _refuse_divergence(self) -> None:
        """Look at the loss of every step of this epoch, all at once."""
        bad = (~torch.isfinite(self.losses)).nonzero()
        if len(bad):
            step = int(bad[0])
            self._diverged("the training loss", self.losses[step].item(), step + 1)

    def _refuse_nonsense(self, row: Row) -> None:
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if bad:
            self._diverged(bad[0], row[bad[0]], None)

    def _diverged(self, name: str, value: float, step: int | None) -> NoReturn:
        where = f", step {step} of {self.steps}" if step else ""
        raise TrainingFailed(
            f"{name} is {value} in epoch {self.state.epoch}{where}: training has diverged; lower "
            "training.optimizer.lr or choose precision: fp32. The state before this epoch is kept.",
            "diverged",
            self.state.epoch,
            step,
        )

    def _no_memory(self, said: str) -> TrainingFailed:
        step = self.state.step + 1 if self.state.step < self.steps else None
        where = f"step {step} of {self.steps}" if step else "while it was evaluated"
        return TrainingFailed(
            f"no memory left on {self.device} in epoch {self.state.epoch}, {where}: lower "
            "training.batch_size or model.width, or let fewer runs share the device "
            f"({said}). The state before this epoch is kept.",
            "out_of_memory",
            self.state.epoch,
            step,
        )

    def _finish(self, row: Row, evaluation_seconds: float) -> None:
        """Close the epoch and save."""
        state = self.state
        timing = {
            "epoch": state.epoch,
            "train_seconds": round(state.seconds, 3),
            "evaluation_seconds": round(evaluation_seconds, 3),
            "images_per_second": round(self.meters.images / max(state.seconds, 1e-9), 1),
        }
        state.history.append(row)
        state.timing.append(timing)
        if self.task.training.selection == "best_validation" and row["validation_top1_ensemble"] > state.best_score:
            state.best_epoch, state.best_score = state.epoch, row["validation_top1_ensemble"]
            state.best = dict(self._snapshot())
        state.epoch, state.step, state.seconds = state.epoch + 1, 0, 0.0
        self.meters.clear()
        self.losses.zero_()
        self._save()
        self.progress.end(row, timing)

    def _snapshot(self) -> Iterator[tuple[str, Tensor]]:
        """Copies of weights and optimiser state, on the CPU."""
        for name, tensor in self.network.state_dict().items():
            yield f"network/{name}", tensor.detach().cpu().clone().contiguous()
        for slot, tensors in self.optimizer.slots.items():
            for name, tensor in tensors.items():
                yield f"slot/{slot}/{name}", tensor.cpu().clone().contiguous()

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        prefix = "network/"
        weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        self.network.load_state_dict(weights)
        slots: OptimizerState = {}
        for name, tensor in tensors.items():
            if name.startswith("slot/"):
                _, slot, parameter = name.split("/")
                slots.setdefault(slot, {})[parameter] = tensor
        self.optimizer = Optimizer(self.network, self.task.training.optimizer, slots, self.rates)

    def _save(self) -> None:
        state = self.state
        tensors = dict(self._snapshot()) | {"meters": self.meters.sums.cpu(), "losses": self.losses.cpu()}
        tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
        if self.rates is not None:
            tensors |= {f"rates/{name}": tensor for name, tensor in self.rates.state().items()}
        self.memory.save(
            tensors,
            {
                "epoch": state.epoch,
                "step": state.step,
                "seconds": state.seconds,
                "history": state.history,
                "timing": state.timing,
                "metered": self.meters.images,
                "best_epoch": state.best_epoch,
            },
        )

    def _recall(self) -> None:
        saved = self.memory.load()
        if saved is None:
            return
        tensors, facts = saved
        self._restore({name: t for name, t in tensors.items() if not name.startswith("best/")})
        if self.rates is not None:
            self.rates.restore({name: tensors[f"rates/{name}"] for name in self.rates.state()})
        self.meters.sums.copy_(tensors["meters"])
        self.losses.copy_(tensors["losses"])
        self.meters.images = facts["metered"]
        best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}
        best_epoch = facts["best_epoch"]
        score = facts["history"][best_epoch]["validation_top1_ensemble"] if best_epoch is not None else -math.inf
        self.state = State(
            epoch=facts["epoch"],
            step=facts["step"],
            seconds=facts["seconds"],
            history=facts["history"],
            timing=facts["timing"],
            best_epoch=best_epoch,
            best_score=score,
            best=best,
        )
        log.info("continuing at epoch %d, step %d", self.state.epoch, self.state.step)

"""The training of one run from its first to its last epoch, through any number of interruptions."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from coopnet.data.augment import Images, draw_epoch
from coopnet.data.seeding import derive
from coopnet.files.errors import out_of_memory
from coopnet.networks.kernels import avoid_broken_kernels
from coopnet.networks.network import CooperativeNetwork
from coopnet.networks.transfer import OptimizerState, TrainedNetwork
from coopnet.study.settings import Training
from coopnet.training.engine import Evaluation, Meters, batches, train_step
from coopnet.training.failures import divergence, memory_exhausted
from coopnet.training.graph import GraphedStep
from coopnet.training.learner import Learner
from coopnet.training.objective import Objective
from coopnet.training.schedule import Opening, learning_rate, steps_per_epoch

log = logging.getLogger(__name__)

Row = dict[str, float]


class Interrupted(Exception):
    """A run was asked to stop; its state is saved."""


class ResumeState(Protocol):
    """The saved state with which a run continues."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state saved last, or None."""

    def save(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the saved state, atomically, now or a little later; the caller does not change the tensors again."""

    def flush(self) -> None:
        """Return when the state saved last is on disk."""


class Progress(Protocol):
    """Receives the progress of a training."""

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """An epoch of `images` images begins; `done` of them were trained on before an interruption."""

    def advance(self, images: int) -> None:
        """A batch of `images` images is done."""

    def end(self, row: Row, timing: Row) -> None:
        """An epoch is done."""


@dataclass
class Task:
    """A training: network, data and settings.

    Attributes:
        initial: the initial network, on `device`, and its optimiser state.
        training: the settings.
        splits: `training`, `test` and, if there is one, `validation`, on `device`.
        augment: whether training images are cropped and flipped.
        seed: of the order and the augmentation of the images, and of dropout.
        opening: how the log-prior of new branches opens; None if it is constant.
        teacher: the external teacher of the loss, on `device`; None if it needs none.
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
    """A trained network and the history of its training.

    Attributes:
        optimizer_state: its optimiser state.
        history: one row per epoch.
        timing: one row per epoch, in seconds; kept apart because it differs each time.
        selected_epoch: the epoch (from 0) of this network; None if it was not trained.
    """

    network: CooperativeNetwork
    optimizer_state: OptimizerState
    history: list[Row]
    timing: list[Row]
    selected_epoch: int | None


@dataclass
class Position:
    """The position in a training: `step` steps into `epoch`, which has taken `seconds` so far."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    timing: list[Row] = field(default_factory=list)
    best_epoch: int | None = None

    @property
    def best_score(self) -> float:
        """Validation accuracy of the best epoch so far."""
        return -math.inf if self.best_epoch is None else self.history[self.best_epoch][SCORE]


SCORE = "validation_top1_ensemble"
"""The score by which `selection: best_validation` chooses an epoch."""


def train(task: Task, resume_state: ResumeState, progress: Progress, stop: Callable[[], str | None]) -> TrainingResult:
    """Train to the last epoch, starting from the state in `resume_state`.

    Args:
        task: network, data and settings.
        resume_state: read once, given the state after every epoch, and flushed at the end, also after an error.
        progress: receives every batch and epoch.
        stop: called after every step; if it returns a reason, the run saves its state and ends.

    Raises:
        Interrupted: `stop` returned a reason.
        TrainingFailed: the loss is no longer finite, or the device has no memory left; the state saved before is still
            there.
    """
    return Trainer(task, resume_state, progress, stop).run()


class Trainer:
    """The epochs of one run."""

    def __init__(self, task: Task, resume_state: ResumeState, progress: Progress, stop: Callable[[], str | None]):
        self.task, self.resume_state, self.progress, self.stop = task, resume_state, progress, stop
        self.training, self.images = task.training, task.splits["training"]
        self.network = task.initial.network
        self.device = self.images.labels.device
        avoid_broken_kernels(self.network, self.device)
        self.learner = Learner(task.initial, task.training, self.device)
        gated = self.network.architecture.gate != "none"
        self.objective = Objective(task.training.distillation, gated, self.device)
        if task.teacher is not None:
            task.teacher.eval()
        self.steps = steps_per_epoch(len(self.images), task.training.batch_size)
        self.meters = Meters(self.network.architecture.branches, self.device)
        self.losses = torch.zeros(self.steps, device=self.device)  # of this epoch, per step
        self.loss = torch.zeros((), device=self.device)  # of the last step
        self.step = GraphedStep(self._step, self.device)
        self.evaluations = {
            name: Evaluation(self.network, split, task.training.precision, task.teacher)
            for name, split in task.splits.items()
            if name != "training"
        }
        self.log_priors = self._log_priors()
        self.position = Position()
        self._resume()

    def _log_priors(self) -> Tensor | None:
        """The log-prior of every step, if it changes."""
        if self.task.opening is None:
            return None
        assert self.network.gate is not None
        total = self.steps * self.training.epochs
        return self.task.opening.log_priors(self.network.gate.log_prior, total).to(self.device)

    def run(self) -> TrainingResult:
        """Train the remaining epochs."""
        try:
            while self.position.epoch < self.training.epochs:
                self._epoch_within_memory()
        finally:
            self.resume_state.flush()
        history, selected = self.position.history, self.position.best_epoch
        if self.training.selection == "best_validation":
            self.learner.return_to_best()
        if selected is None and history:
            selected = len(history) - 1
        state = self.learner.optimizer.state
        return TrainingResult(self.network, state, history, self.position.timing, selected)

    def _epoch_within_memory(self) -> None:
        try:
            self._epoch()
        except (RuntimeError, MemoryError) as error:
            reason = out_of_memory(error)
            if reason is None:
                raise
            step = self.position.step + 1 if self.position.step < self.steps else None
            raise memory_exhausted(self.device, reason, self.position.epoch, step, self.steps) from error

    def _epoch(self) -> None:
        training, epoch = self.training, self.position.epoch
        rate = learning_rate(training.optimizer.lr, training.schedule.milestones, training.schedule.gamma, epoch)
        self.learner.optimizer.set_lr(rate)
        weight = self.objective.weight(epoch)
        self.teaching = self.objective.at(weight)
        self._train()
        row: Row = {"epoch": epoch, "lr": rate, "rampup": weight}
        if self.task.opening is not None:
            done = self.steps * (epoch + 1)
            self._set_log_prior(done)
            row["prior_alpha"] = self.task.opening.alpha(done, self.steps * training.epochs)
        if self.learner.rates is not None:
            row |= self.learner.rates.row(self.steps)
        began = time.monotonic()
        self._refuse_divergence()
        row |= self.meters.row("train") | self._evaluate()
        for name, value in row.items():
            if not math.isfinite(value):
                raise divergence(name, value, epoch, None, self.steps)
        self._finish(row, time.monotonic() - began)

    def _train(self) -> None:
        """Do the remaining steps of this epoch."""
        position, images = self.position, self.images
        self.network.train()
        began = time.monotonic() - position.seconds
        draws = draw_epoch(len(images), self.task.seed, position.epoch, self.device, images.padding)
        pixels = images.fetched(self._batches_left(draws.order if images.padded is not None else draws.order.cpu()))
        self.progress.begin(position.epoch, self.training.epochs, len(images), self.meters.images)
        for batch in batches(draws, self.training.batch_size, position.step, self.steps):
            its_pixels = next(pixels)
            if self.log_priors is not None:
                self._set_log_prior(position.epoch * self.steps + position.step)
            # Dropout and stochastic depth draw from PyTorch's own generators, whose state is not saved.
            torch.manual_seed(derive(self.task.seed, "step", position.epoch, position.step))
            self.step(*batch, *its_pixels)
            self.losses[position.step].copy_(self.loss)
            position.step += 1
            self.meters.images += len(batch.order)
            self.progress.advance(len(batch.order))
            reason = self.stop()
            if reason:
                position.seconds = time.monotonic() - began
                self._refuse_divergence()
                self._save()
                raise Interrupted(f"{reason} in epoch {position.epoch}, after step {position.step} of {self.steps}")
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # the seconds are those of the work, not only of its launch
        position.seconds = time.monotonic() - began

    def _batches_left(self, order: Tensor) -> Iterator[Tensor]:
        """The remaining batches of this epoch."""
        size = self.training.batch_size
        for step in range(self.position.step, self.steps):
            yield order[step * size :][:size]

    def _step(self, order: Tensor, offsets: Tensor, flips: Tensor, pixels: Tensor | None = None) -> None:
        """Train on a batch."""
        images = self.images
        batch = images.augmented(order, offsets, flips, pixels) if self.task.augment else images.plain(order, pixels)
        loss = train_step(
            self.network,
            self.learner.optimizer,
            batch,
            images.labels[order],
            self.teaching,
            self.training.precision,
            self.meters,
            self.task.teacher,
        )
        self.loss.copy_(loss)

    def _set_log_prior(self, step: int) -> None:
        """Set the log-prior of step `step`; the copy is on the device, so nothing waits."""
        assert self.log_priors is not None
        assert self.network.gate is not None
        self.network.gate.log_prior.copy_(self.log_priors[step])

    def _evaluate(self) -> Row:
        """Metrics of the validation images, and of the test images if they are due in this epoch."""
        training, row = self.training, Row()
        done = self.position.epoch + 1
        due = done == training.epochs or done % training.test_every == 0
        for name in ("validation", "test") if due else ("validation",):
            if name in self.evaluations:
                row |= self.evaluations[name](self.teaching).row(name)
        return row

    def _refuse_divergence(self) -> None:
        """Check the losses of all steps of this epoch at once."""
        bad = (~torch.isfinite(self.losses)).nonzero()
        if len(bad):
            step = int(bad[0])
            value = self.losses[step].item()
            raise divergence("the training loss", value, self.position.epoch, step + 1, self.steps)

    def _finish(self, row: Row, evaluation_seconds: float) -> None:
        """End the epoch and save the state."""
        position = self.position
        timing = {
            "epoch": position.epoch,
            "train_seconds": round(position.seconds, 3),
            "evaluation_seconds": round(evaluation_seconds, 3),
            "images_per_second": round(self.meters.images / max(position.seconds, 1e-9), 1),
        }
        best = position.best_score
        position.history.append(row)
        position.timing.append(timing)
        if self.training.selection == "best_validation" and row[SCORE] > best:
            position.best_epoch = position.epoch
            self.learner.keep_as_best()
        position.epoch, position.step, position.seconds = position.epoch + 1, 0, 0.0
        self.meters.clear()
        self.losses.zero_()
        self._save()
        self.progress.end(row, timing)

    def _save(self) -> None:
        own = {"meters": self.meters.sums.cpu().clone(), "losses": self.losses.cpu().clone()}
        self.resume_state.save(self.learner.state() | own, vars(self.position) | {"metered": self.meters.images})

    def _resume(self) -> None:
        """Continue from the saved state, if there is one."""
        saved = self.resume_state.load()
        if saved is None:
            return
        tensors, facts = saved
        self.learner.restore(tensors)
        self.meters.sums.copy_(tensors["meters"])
        self.losses.copy_(tensors["losses"])
        self.meters.images = facts["metered"]
        self.position = Position(**{name: value for name, value in facts.items() if name != "metered"})
        log.info("continuing at epoch %d, step %d", self.position.epoch, self.position.step)

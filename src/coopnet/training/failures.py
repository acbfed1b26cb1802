"""Errors that end a run: divergence, and exhausted device memory."""

from torch import device

from coopnet.files.errors import TrainingFailed

KEPT = "The state before this epoch is kept."


def divergence(name: str, value: float, epoch: int, step: int | None, steps: int) -> TrainingFailed:
    """The error for a value that is not finite.

    Epochs count from 0, and steps from 1 in each epoch; `step` is None if the value belongs to the whole epoch.
    """
    where = f", step {step} of {steps}" if step else ""
    return TrainingFailed(
        f"{name} is {value} in epoch {epoch}{where}: training has diverged; lower training.optimizer.lr or choose "
        f"precision: fp32. {KEPT}",
        "diverged",
        epoch,
        step,
    )


def memory_exhausted(where: device, reason: str, epoch: int, step: int | None, steps: int) -> TrainingFailed:
    """The error for a device without free memory; `step` is None during the evaluation of the epoch."""
    place = f"step {step} of {steps}" if step else "while it was evaluated"
    return TrainingFailed(
        f"no memory left on {where} in epoch {epoch}, {place}: lower training.batch_size or model.width, or let fewer "
        f"runs share the device ({reason}). {KEPT}",
        "out_of_memory",
        epoch,
        step,
    )

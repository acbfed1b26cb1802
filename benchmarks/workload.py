"""The workload: rows of the study on synthetic images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from coopnet.data.datasets import DATASETS
from coopnet.files.errors import CoopNetError
from coopnet.networks.network import Architecture
from coopnet.report.wording import count
from coopnet.runs.estimate import cores
from coopnet.study.settings import Experiment
from coopnet.training.device import has_bf16

MODELS = ("baseline", "one3", "one5")
"""Rows of `params.yaml`: a plain network, and 3 and 5 branches; the first one is the baseline of the costs."""

PRICED = "one3"
"""The row that also runs without deterministic algorithms."""

EPOCH = {"train": 50_000, "test": 10_000}
"""Images of a whole epoch of CIFAR with its evaluation."""

Arrays = Mapping[str, tuple[np.ndarray, np.ndarray]]


DEFAULTS: dict[str, dict[str, int]] = {
    "cpu": {"train": 9 * 128, "test": 1000, "warmup": 1, "repetitions": 5},
    "cuda": {**EPOCH, "warmup": 20, "repetitions": 5},
}
"""Images, steps and repetitions by kind of device: about ten minutes on two cores, whole epochs on a GPU."""


@dataclass(frozen=True)
class Workload:
    """The size of a measurement.

    Attributes:
        rows: of the study, by name; costs are relative to the first one.
        images: `train` and `test` images per repetition.
        warmup: steps at the beginning of a repetition that are excluded from the speed.
        repetitions: of all measurements.
        threads: of PyTorch on the CPU, the same for both loops.
    """

    rows: Mapping[str, Experiment]
    images: Mapping[str, int]
    warmup: int
    repetitions: int
    threads: int = field(default_factory=cores)

    def check(self) -> None:
        """Refuse a number of images that leaves no step to measure.

        Raises:
            CoopNetError: there is no step after the warm-up, or the last batch has a single image.
        """
        for row in self.rows.values():
            batch, images = row.training.batch_size, self.images["train"]
            if images <= self.warmup * batch or images % batch == 1:
                raise CoopNetError(
                    f"--images {images}: {count(self.warmup, 'step')} of {batch} images warm up and are not measured; "
                    f"use more, without a last batch of one image, for example --images {(self.warmup + 8) * batch}"
                )


def one_epoch(row: Experiment, device: torch.device) -> Experiment:
    """A row that trains for one epoch, in the fastest precision that the device has in hardware."""
    precision = "bf16" if has_bf16(device) else "fp32"
    training = row.training.model_copy(update={"epochs": 1, "precision": precision, "test_every": 1})
    return row.model_copy(update={"training": training})


def architecture(row: Experiment) -> Architecture:
    """The network of a row."""
    return Architecture(**row.model.model_dump(), classes=DATASETS[row.data.dataset].classes)


def synthetic(row: Experiment, images: Mapping[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images in the shape of a row's dataset; the content of an image does not change the speed of a step."""
    generator, classes = np.random.default_rng(0), DATASETS[row.data.dataset].classes
    return {
        name: (generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), generator.integers(0, classes, n))
        for name, n in images.items()
    }

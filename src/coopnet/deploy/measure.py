"""The quality of a model on labelled images, with intervals for the choice of images."""

import math
import platform
from typing import NamedTuple

import numpy as np
import torch

from coopnet.files.errors import CoopNetError
from coopnet.training.device import describe

Z = 1.959964
"""Quantile of the normal distribution for 95 %."""


class Quality(NamedTuple):
    """The quality of a model on n labelled images; in percent, `nll` in nats.

    Attributes:
        images: n.
        top1: accuracy.
        low: lower end of its 95 % interval (Wilson), for the choice of images.
        high: upper end.
        top5: accuracy among the best five.
        ece: expected calibration error.
        nll: negative log-likelihood.
    """

    images: int
    top1: float
    low: float
    high: float
    top5: float
    ece: float
    nll: float


class Difference(NamedTuple):
    """The difference of model B from model A on the same images.

    Attributes:
        top1: B − A, in percentage points.
        low: lower end of its 95 % interval, for the choice of images; the images are paired.
        high: upper end.
        agreement: images that both classify alike, in percent.
    """

    top1: float
    low: float
    high: float
    agreement: float


def quality(logits: np.ndarray, labels: np.ndarray) -> Quality:
    """Score logits [N, C] against true classes [N].

    Raises:
        CoopNetError: logits are not numbers, or SciPy is not installed.
    """
    try:
        from coopnet.evaluation.metrics import scored
    except ModuleNotFoundError as error:
        raise CoopNetError(f"accuracy needs {error.name}; install it with pip install '.[study]' in a clone") from error
    result = scored(logits, labels)
    low, high = wilson(int(result.correct.sum()), len(labels))
    scores = result.scores
    return Quality(len(labels), scores["top1"], 100 * low, 100 * high, scores["top5"], scores["ece"], scores["nll"])


def wilson(right: int, images: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927)."""
    share, square = right / images, Z * Z / images
    centre, half = share + square / 2, Z * math.sqrt(share * (1 - share) / images + square / (4 * images))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def difference(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> Difference:
    """Compare logits [N, C] of two models, image by image."""
    gains = (b.argmax(1) == labels).astype(float) - (a.argmax(1) == labels).astype(float)
    mean, error = gains.mean(), gains.std(ddof=1) / math.sqrt(len(gains))
    agreement = float((a.argmax(1) == b.argmax(1)).mean())
    return Difference(100 * mean, 100 * (mean - Z * error), 100 * (mean + Z * error), 100 * agreement)


def machine() -> str:
    """The machine on which latency is measured."""
    one, threads = describe(torch.device("cpu")), torch.get_num_threads()
    return f"{one['name']}, {threads} thread{'s' * (threads > 1)}, {platform.system()} {platform.machine()}"

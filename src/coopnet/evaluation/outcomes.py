"""Which images a network classifies correctly, one bit each: enough to resample images, and small enough for git."""

from collections.abc import Mapping

import numpy as np

from coopnet.evaluation.metrics import Saved, ranks

SCORES = ("top1", "top5")
WITHIN = (1, 5)
"""Largest rank (from 1) of the true class that counts as correct, for each of `SCORES`."""


def outcomes(saved: Saved) -> dict[str, np.ndarray]:
    """Ranks of the true classes, [N], by model: `ensemble`, `branch1`, …, and with several `mean_probabilities`."""
    count = saved.branches.shape[1]
    models = {"ensemble": ranks(saved.ensemble, saved.labels)}
    models |= {f"branch{b + 1}": ranks(saved.branches[:, b], saved.labels) for b in range(count)}
    if count > 1:
        models["mean_probabilities"] = ranks(saved.log_mean_probabilities, saved.labels)
    return models


def pack(ranks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Ranks [N] of each model as bits, [2, ⌈N/8⌉]: whether each image is correct in top-1, and in top-5."""
    return {name: pack_each(dict.fromkeys(SCORES, rank)) for name, rank in ranks.items()}


def pack_each(ranks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bits of one model, [2, ⌈N/8⌉], from separate ranks [N] for top-1 and top-5, by score."""
    bits = [ranks[score] < within for score, within in zip(SCORES, WITHIN, strict=True)]
    return np.packbits(bits, axis=1)


def unpack(bits: np.ndarray, images: int) -> np.ndarray:
    """The inverse of `pack` for one model: whether each image is correct, [2, N].

    Raises:
        ValueError: the bits belong to another number of images.
    """
    if bits.dtype != np.uint8 or bits.shape != (len(WITHIN), (images + 7) // 8):
        raise ValueError(f"bits of shape {bits.shape} are not those of {images} images")
    return np.unpackbits(bits, axis=1, count=images).astype(bool)

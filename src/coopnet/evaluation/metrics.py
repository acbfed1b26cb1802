"""Accuracy and calibration of saved logits, with NumPy alone: a metrics step should not wait for torch to load."""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax

from coopnet.errors import CoopNetError

EXACT = 1e-6
"""A start is exact when no logit moves by more than this share of the largest one (float32, eval mode)."""


class Saved(NamedTuple):
    """What a network said about N images: branches [N, B, C], gate [N, B], labels [N]."""

    branches: np.ndarray
    gate: np.ndarray
    labels: np.ndarray

    @property
    def ensemble(self) -> np.ndarray:
        """Gate-weighted sum of the branch logits, [N, C]."""
        return np.einsum("nb,nbc->nc", self.gate, self.branches)


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes are ranked above the true one, [N]; equal logits rank by class index."""
    true = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > true) | ((logits == true) & earlier)).sum(axis=1)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """ECE in percent (Guo et al., ICML 2017, arXiv 1706.04599, equation 3), `bins` of equal width on [0, 1].

    Args:
        confidence: largest probability of each image, [N].
        correct: whether its class is the true one, [N].
        bins: number of bins.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, confidence, bins) - np.bincount(place, correct, bins)
    return float(100 * np.abs(gaps).sum() / len(confidence))


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1, top-5 and ECE in percent, NLL in nats, of logits [N, C].

    Raises:
        CoopNetError: a logit is not a finite number.
    """
    if not np.isfinite(logits).all():  # a comparison with NaN is false, so the true class would rank first
        raise CoopNetError("the logits are not finite numbers: the network has diverged; lower training.optimizer.lr")
    rank = ranks(logits, labels)
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    confidence = np.exp(log_probabilities.max(axis=1))
    # The class that `ranks` calls first, so that accuracy here and there is the same number.
    return {
        "top1": float(100 * (rank == 0).mean()),
        "top5": float(100 * (rank < 5).mean()),
        "nll": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "ece": expected_calibration_error(confidence, rank == 0),
    }


def measure(saved: Saved) -> dict[str, Any]:
    """Scores of the ensemble and of each branch, with the branch's mean gate weight."""
    branches = [
        scores(saved.branches[:, b], saved.labels) | {"gate": float(saved.gate[:, b].mean(dtype=np.float64))}
        for b in range(saved.branches.shape[1])
    ]
    return {
        "images": len(saved.labels),
        "ensemble": scores(saved.ensemble, saved.labels),
        "branches": branches,
    }


def versus(child: Saved, parent: Saved) -> dict[str, Any]:
    """How far a network is from its parent, on the same images: ensemble against ensemble."""
    own, other = child.ensemble, parent.ensemble
    difference, largest = float(np.abs(own - other).max()), float(np.abs(other).max())
    return {
        "changed_predictions": int((own.argmax(axis=1) != other.argmax(axis=1)).sum()),
        "largest_logit_difference": difference,
        "largest_logit": largest,
        "exact": difference <= EXACT * largest,
        "parent": scores(other, parent.labels),
    }

"""Accuracy and calibration from saved logits, without torch: importing it would slow down a metrics step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from coopnet.evaluation.chunks import in_chunks
from coopnet.evaluation.diversity import diversity
from coopnet.files.errors import CoopNetError

BINS = 15
"""Number of bins of equal width on [0, 1] for confidences."""

EXACT = 1e-6
"""A start is exact if no logit changes by more than this fraction of the largest one (float32, eval mode)."""


@dataclass(frozen=True, eq=False)
class Saved:
    """The outputs of a network for N images: branches [N, B, C], gate [N, B], labels [N]."""

    branches: np.ndarray
    gate: np.ndarray
    labels: np.ndarray

    @cached_property
    def ensemble(self) -> np.ndarray:
        """Gate-weighted sum of the branch logits, [N, C]."""
        ensemble: np.ndarray = np.einsum("nb,nbc->nc", self.gate, self.branches)
        return ensemble

    @cached_property
    def log_mean_probabilities(self) -> np.ndarray:
        """Logarithm of the mean of the branches' probabilities, [N, C]."""
        return log_mean(self.log_probabilities)

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """Logarithms of the branches' probabilities, [N, B, C]; cached, because many metrics need them."""
        return log_probabilities(self.branches)


def ranks(logits: np.ndarray, labels: np.ndarray, *ties: np.ndarray) -> np.ndarray:
    """Number of classes ranked above the true one, [N].

    Args:
        logits: scores of the classes, [N, C]; logits, or any other score for which larger is better.
        labels: true classes, [N].
        ties: scores that rank classes of equal logits, [N, C] each; classes equal in all of them rank by class index.
    """
    (rank,) = in_chunks(_ranks, labels, logits, *ties)
    return rank


def _ranks(labels: np.ndarray, *scores: np.ndarray) -> tuple[np.ndarray]:
    return (ranks_by_class(labels, *(np.ascontiguousarray(score.T) for score in scores)),)


def ranks_by_class(labels: np.ndarray, *scores: np.ndarray) -> np.ndarray:
    """`ranks` for scores [C, N], the first of which takes precedence: several times faster than for [N, C]."""
    higher: np.ndarray | None = None
    for score in reversed(scores):
        higher = above(labels, score, higher)
    assert higher is not None
    return count(higher)


def above(labels: np.ndarray, score: np.ndarray, ties: np.ndarray | None = None) -> np.ndarray:
    """Which classes rank above the true one, [C, N], by scores [C, N]; equal ones by `ties`, or else by class index."""
    true = score[labels, np.arange(len(labels))]
    higher, equal = score > true, score == true
    if np.count_nonzero(equal) != len(labels):  # True for more than the true classes, which equal themselves
        higher |= equal & (np.arange(len(score))[:, None] < labels if ties is None else ties)
    return higher


def count(above: np.ndarray) -> np.ndarray:
    """Number of classes that rank above the true one, [N], from a mask [C, N]."""
    # The smallest integer type that can hold the number of classes is several times faster than eight bytes.
    return above.view(np.uint8).sum(axis=0, dtype=np.min_scalar_type(len(above))).astype(int)


def accuracy(ranks: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 in percent, from the true classes' ranks [N]."""
    return {f"top{k}": float(100 * (ranks < k).mean()) for k in (1, 5)}


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """Accuracy by confidence: the bins of a reliability diagram, lowest first.

    Args:
        confidence: largest probability of each image, [N].
        correct: whether its class is the true one, [N].
        bins: number of bins of equal width on [0, 1]; each holds its upper edge.

    Returns:
        Per bin `images`, and the means `confidence` and `accuracy` in percent, which are None for an empty bin.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    means = {
        name: [
            float(100 * total / n) if n else None for total, n in zip(np.bincount(place, of, bins), images, strict=True)
        ]
        for name, of in (("confidence", confidence), ("accuracy", correct))
    }
    return [{"images": int(images[b])} | {name: mean[b] for name, mean in means.items()} for b in range(bins)]


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """ECE in percent (Guo et al., ICML 2017, arXiv 1706.04599, equation 3): Σ over bins of fraction · |gap|."""
    filled = [one for one in reliability(confidence, correct, bins) if one["images"]]
    gaps = [one["images"] * abs(one["confidence"] - one["accuracy"]) for one in filled]
    return float(sum(gaps) / len(confidence))


class Scored(NamedTuple):
    """The scores of some logits.

    Attributes:
        scores: `top1`, `top5` and `ece` in percent, `nll` in nats.
        confidence: largest probability of each image, [N].
        correct: whether the class ranked first by `ranks` is the true one, [N].
    """

    scores: dict[str, float]
    confidence: np.ndarray
    correct: np.ndarray


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1, top-5 and ECE in percent, NLL in nats, of logits [N, C]; errors as for `scored`."""
    return scored(logits, labels).scores


def scored(logits: np.ndarray, labels: np.ndarray, logs: np.ndarray | None = None) -> Scored:
    """Score logits [N, C] against true classes [N].

    Args:
        logits: outputs of the network.
        labels: true classes.
        logs: `log_probabilities` of the logits, if already computed.

    Raises:
        CoopNetError: a logit is not a finite number.
    """
    if not np.isfinite(logits).all():  # comparisons with NaN are false, so the true class would rank first
        raise CoopNetError("the logits are not finite numbers: the network has diverged; lower training.optimizer.lr")
    rank = ranks(logits, labels)
    logs = log_probabilities(logits) if logs is None else logs
    true, largest = logs[np.arange(len(labels)), labels], logs.max(axis=1)
    confidence, correct = np.exp(largest), rank == 0
    found = {
        **accuracy(rank),
        "nll": float(-true.mean()),
        "ece": expected_calibration_error(confidence, correct),
    }
    return Scored(found, confidence, correct)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logarithms, in float64, of the softmax probabilities of logits [N, …, C]."""
    (logs,) = in_chunks(_log_probabilities, logits)
    return logs


def _log_probabilities(logits: np.ndarray) -> tuple[np.ndarray]:
    # The computation of SciPy's log_softmax, in place: half of its time goes into memory for intermediate results.
    logs = logits.astype(np.float64)
    logs -= logs.max(axis=-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=-1, keepdims=True))
    return (logs,)


def log_mean(logs: np.ndarray) -> np.ndarray:
    """Logarithm of the mean of K networks' probabilities, from their logarithms, [N, K, C] to [N, C].

    The result is finite even if every probability of a class is too small for a float.
    """
    (mean,) = in_chunks(_log_mean, logs)
    return mean


def _log_mean(logs: np.ndarray) -> tuple[np.ndarray]:
    # The computation of SciPy's logsumexp, without its handling of infinite numbers, which takes five times as long.
    largest = logs.max(axis=1)
    shares = logs - largest[:, None]
    return (largest + np.log(np.exp(shares, out=shares).mean(axis=1)),)


def measure(saved: Saved) -> dict[str, Any]:
    """Scores of the ensemble with its reliability, and of each branch with its mean gate weight.

    With several branches also the scores of the unweighted mean of their probabilities, and their diversity.

    Raises:
        CoopNetError: a logit is not a finite number.
    """
    count = saved.branches.shape[1]
    branches = [
        scored(saved.branches[:, b], saved.labels, saved.log_probabilities[:, b]).scores
        | {"gate": float(saved.gate[:, b].mean(dtype=np.float64))}
        for b in range(count)
    ]
    ensemble = scored(saved.ensemble, saved.labels)
    measured = {
        "images": len(saved.labels),
        "ensemble": ensemble.scores,
        "reliability": reliability(ensemble.confidence, ensemble.correct),
        "branches": branches,
    }
    if count > 1:
        measured["mean_probabilities"] = scores(saved.log_mean_probabilities, saved.labels)
        measured["diversity"] = diversity(saved.log_probabilities)
    return measured


def versus(child: Saved, parent: Saved) -> dict[str, Any]:
    """How much a network differs from its parent on the same images, ensemble against ensemble."""
    own, other = child.ensemble, parent.ensemble
    difference, largest = float(np.abs(own - other).max()), float(np.abs(other).max())
    return {
        "changed_predictions": int((own.argmax(axis=1) != other.argmax(axis=1)).sum()),
        "largest_logit_difference": difference,
        "largest_logit": largest,
        "exact": difference <= EXACT * largest,
        "parent": scores(other, parent.labels),
    }


def versus_parents(parents: Sequence[Saved]) -> dict[str, Any]:
    """The scores of several parents without their child: each alone, and plain ensembles of their ensembles."""
    labels = parents[0].labels
    logits = np.stack([parent.ensemble for parent in parents], axis=1)
    return {
        "singles": [scores(logits[:, j], labels) for j in range(len(parents))],
        "logit_ensemble": scores(logits.mean(axis=1, dtype=np.float64), labels),
        "probability_ensemble": scores(log_mean(log_probabilities(logits)), labels),
    }


def versus_teacher(student: Saved, teacher: Saved) -> dict[str, Any]:
    """Percent of images for which a student predicts another class than its teacher, and the teacher's scores."""
    weights = np.log(teacher.gate, where=teacher.gate > 0, out=np.full_like(teacher.gate, -np.inf))
    weighted = teacher.log_probabilities + weights[:, :, None]
    own, other = student.ensemble, logsumexp(weighted, axis=1)  # the teacher's targets
    return {
        "disagreement": float(100 * (own.argmax(axis=1) != other.argmax(axis=1)).mean()),
        "teacher": scores(other, teacher.labels),
    }

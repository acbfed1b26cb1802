"""How much the branches of a network differ."""

from itertools import combinations
from typing import Any

import numpy as np

from coopnet.evaluation.chunks import in_chunks


def diversity(logs: np.ndarray) -> dict[str, Any]:
    """Disagreement and Kullback-Leibler divergence of every pair of branches, and their means over pairs.

    Args:
        logs: logarithms of the probabilities of two or more branches, [N, B, C].

    Returns:
        `disagreement`: percent of the images for which the two predict different classes; `kl`: KL(p‖q) in nats, mean
        over images and both directions; `pairs`: both for each pair, by name: `1-2`, …, branches counted from 1.
    """
    predictions = logs.argmax(axis=2)
    divergences = in_chunks(_divergences, logs)
    pairs = {}
    for (i, j), both in zip(combinations(range(logs.shape[1]), 2), divergences, strict=True):
        pairs[f"{i + 1}-{j + 1}"] = {
            "disagreement": float(100 * (predictions[:, i] != predictions[:, j]).mean()),
            "kl": float(both.mean() / 2),
        }
    means = {key: float(np.mean([pair[key] for pair in pairs.values()])) for key in ("disagreement", "kl")}
    return {**means, "pairs": pairs}


def _divergences(logs: np.ndarray) -> list[np.ndarray]:
    """KL(p‖q) + KL(q‖p) of every pair, [N] each."""
    logs = np.ascontiguousarray(np.moveaxis(logs, 1, 0))
    probabilities = np.exp(logs)
    # Σ (p − q)(log p − log q): no term is negative, so equal branches give exactly 0.
    return [
        np.einsum("nc,nc->n", probabilities[i] - probabilities[j], logs[i] - logs[j])
        for i, j in combinations(range(len(logs)), 2)
    ]

"""Accuracy of subsets of a network's branches, under three rules of voting."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, combinations
from typing import Any

import numpy as np

from coopnet.evaluation.chunks import in_chunks
from coopnet.evaluation.metrics import Saved, above, accuracy, count, ranks_by_class

VOTES = ("split", "subset", "size", "rule", "top1", "top5")
"""Columns of `votes.csv`."""

RULES = ("gate", "majority", "mean")
MOST = 8
"""Most branches for which subsets vote; above it only all branches together, since each branch doubles the subsets."""


def votes(saved: Saved) -> list[dict[str, Any]]:
    """Top-1 and top-5, in percent, of every subset of a network's branches under every rule.

    - `gate`: gate-weighted sum of the logits; for all branches it is the ensemble. For branches that the gate has
      switched off, all logits are 0, so they predict class 0.
    - `majority`: the class with most votes; ties, also among lower ranks of the top five, are broken by the larger
      summed probability.
    - `mean`: plain mean of the probabilities.

    Returns:
        Rows without `split`, sorted by rule, size and subset (`1+3+5`, branches counted from 1); none for one branch.
    """
    count = saved.branches.shape[1]
    if count == 1:
        return []
    rows = []
    for subset, found in _ranks(saved, sorted(subsets(count))):  # depth first
        name = "+".join(str(b + 1) for b in subset)
        rows += [{"subset": name, "size": len(subset), "rule": rule} | accuracy(found[rule]) for rule in RULES]
    return sorted(rows, key=lambda row: (RULES.index(row["rule"]), row["size"]))


def vote(saved: Saved, subset: str, rule: str) -> np.ndarray:
    """Ranks of the true classes, [N], in the vote of one subset (`1+3`) under one rule."""
    ((_, found),) = _ranks(saved, [[int(number) - 1 for number in subset.split("+")]])
    return found[rule]


def best_smaller(votes: Iterable[Mapping[str, Any]], branches: int, score: str) -> dict[str, str]:
    """Subset and rule of the best vote by `score` among those with fewer than all branches; ties go to the first."""
    best = max((row for row in votes if row["size"] < branches), key=lambda row: float(row[score]))
    return {"subset": best["subset"], "rule": best["rule"]}


def _ranks(saved: Saved, chosen: Iterable[list[int]]) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Ranks of the true classes, [N], in the vote of each subset under each rule."""
    voting = list(chosen)
    outputs = (saved.branches, saved.log_probabilities, saved.gate, saved.labels)
    found = iter(in_chunks(partial(_ranks_of, voting), *outputs))
    for subset in voting:
        yield subset, {rule: next(found) for rule in RULES}


def _ranks_of(
    voting: Iterable[Sequence[int]], branches: np.ndarray, logs: np.ndarray, gate: np.ndarray, labels: np.ndarray
) -> list[np.ndarray]:
    """Ranks of the true classes, [N], for each subset, and for each rule within it."""
    # Images are the last axis, [B, C, N], so that all that follows runs over contiguous memory.
    weighted = np.ascontiguousarray(branches.transpose(1, 2, 0)) * gate.T[:, None, :]
    # float32, like the logits, halves the memory traffic: only classes that are equal to seven digits may swap ranks.
    probabilities = np.ascontiguousarray(np.exp(logs.astype(np.float32)).transpose(1, 2, 0))
    predicted, classes = branches.argmax(axis=2).T, np.arange(branches.shape[2])
    ballots = (predicted[:, None, :] == classes[:, None]).view(np.int8)
    logits_of, probabilities_of, ballots_of = map(_sums, (weighted, probabilities, ballots))
    found = []
    for subset in map(tuple, voting):
        summed = probabilities_of(subset)  # has the same ranks as the mean
        by_mean = above(labels, summed)
        found += [
            ranks_by_class(labels, logits_of(subset)),
            count(above(labels, ballots_of(subset), by_mean)),
            count(by_mean),
        ]
    return found


def _sums(values: np.ndarray) -> Callable[[tuple[int, ...]], np.ndarray]:
    """A function of a subset of branches that returns the sum of their values [B, C, N].

    Each sum is that of the subset without its last branch, plus that branch. In depth-first order each subset therefore
    needs one addition, on data that is still in the cache.
    """

    @lru_cache(maxsize=len(values))
    def total(subset: tuple[int, ...]) -> np.ndarray:
        *others, last = subset
        return total(tuple(others)) + values[last] if others else values[last]

    return total


def subsets(count: int) -> Iterator[list[int]]:
    """All non-empty subsets of `count` branches, small ones first; above `MOST` branches only the full set."""
    sizes = range(1, count + 1) if count <= MOST else [count]
    return map(list, chain.from_iterable(combinations(range(count), size) for size in sizes))

"""What subsets of a network's branches reach together, under three rules."""

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
"""Branches; of a network with more, only all together vote, because the subsets double with each branch."""


def votes(saved: Saved) -> list[dict[str, Any]]:
    """Top-1 and top-5, in percent, of every subset of a network's branches under every rule.

    - `gate`: gate-weighted sum of the logits; of all branches it is the ensemble. Of branches that the gate has
      switched off all logits are 0, so they predict class 0.
    - `majority`: the class with most votes; a tie, also one further down in the top five, goes to the larger summed
      probability.
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
    """Subset and rule of the vote with the best `score` among those of fewer than all branches; of equals the first."""
    best = max((row for row in votes if row["size"] < branches), key=lambda row: float(row[score]))
    return {"subset": best["subset"], "rule": best["rule"]}


def _ranks(saved: Saved, chosen: Iterable[list[int]]) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Ranks of the true classes, [N], in the vote of each subset under each rule."""
    voting = list(chosen)
    said = (saved.branches, saved.log_probabilities, saved.gate, saved.labels)
    found = iter(in_chunks(partial(_ranks_of, voting), *said))
    for subset in voting:
        yield subset, {rule: next(found) for rule in RULES}


def _ranks_of(
    voting: Iterable[Sequence[int]], branches: np.ndarray, logs: np.ndarray, gate: np.ndarray, labels: np.ndarray
) -> list[np.ndarray]:
    """Ranks of the true classes, [N], subset by subset, and rule by rule in each."""
    # Images last, [B, C, N], so that all that follows runs over contiguous memory.
    weighted = np.ascontiguousarray(branches.transpose(1, 2, 0)) * gate.T[:, None, :]
    # In float32 like the logits, half the memory to go through: only classes that are equal to seven digits may swap.
    probabilities = np.ascontiguousarray(np.exp(logs.astype(np.float32)).transpose(1, 2, 0))
    predicted, classes = branches.argmax(axis=2).T, np.arange(branches.shape[2])
    ballots = (predicted[:, None, :] == classes[:, None]).view(np.int8)
    logits_of, probabilities_of, ballots_of = map(_sums, (weighted, probabilities, ballots))
    found = []
    for subset in map(tuple, voting):
        summed = probabilities_of(subset)  # ranks as the mean does
        by_mean = above(labels, summed)
        found += [
            ranks_by_class(labels, logits_of(subset)),
            count(above(labels, ballots_of(subset), by_mean)),
            count(by_mean),
        ]
    return found


def _sums(values: np.ndarray) -> Callable[[tuple[int, ...]], np.ndarray]:
    """The sum of some of the values [B, C, N], as a function of which.

    It is that of one less and the last, so depth first each takes one addition, in memory that is in the cache still.
    """

    @lru_cache(maxsize=len(values))
    def total(subset: tuple[int, ...]) -> np.ndarray:
        *others, last = subset
        return total(tuple(others)) + values[last] if others else values[last]

    return total


def subsets(count: int) -> Iterator[list[int]]:
    """All subsets of `count` branches but the empty one, small ones first; only the full one above `MOST` branches."""
    sizes = range(1, count + 1) if count <= MOST else [count]
    return map(list, chain.from_iterable(combinations(range(count), size) for size in sizes))

"""Stratified subsets of the training images. Test images are never part of a choice."""

from typing import NamedTuple

import numpy as np

from coopnet.data.seeding import derive


class Split(NamedTuple):
    """Indices into the canonical training arrays, ascending and disjoint."""

    training: np.ndarray
    validation: np.ndarray


def stratified(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices, ascending, of `size` images whose classes are as balanced as in `labels`.

    Each class contributes its exact share, rounded down. Classes with the largest remainders contribute one more; of
    equal remainders the lower class comes first.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares = size * counts / len(labels)
    take = np.floor(shares).astype(int)
    missing = size - take.sum()
    take[np.argsort(take - shares, kind="stable")[:missing]] += 1
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def split(labels: np.ndarray, *, validation: int, subset: int | None, seed: int) -> Split:
    """Set `validation` images aside, then keep `subset` (None: all) of the rest for training.

    Args:
        labels: [N] of the canonical training set.
        validation: number of images to set aside, 0 for none.
        subset: number of images to train on.
        seed: of both choices; the validation images do not depend on `subset`.
    """
    everything = np.arange(len(labels))
    aside = stratified(labels, validation, derive(seed, "validation")) if validation else everything[:0]
    rest = np.setdiff1d(everything, aside)
    if subset is not None and subset < len(rest):
        rest = rest[stratified(labels[rest], subset, derive(seed, "subset"))]
    return Split(rest, aside)

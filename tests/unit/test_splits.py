"""Subsets of the training images are stratified, seeded and independent of each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopnet.data.splits import split, stratified

LABELS = np.repeat(np.arange(10, dtype=np.uint8), 60)
"""Ten classes of 60 images, in canonical order."""

UNEVEN = np.repeat(np.arange(4, dtype=np.uint8), [1, 9, 40, 50])


def histogram(labels: np.ndarray) -> list[int]:
    """Images per class."""
    return np.bincount(labels, minlength=10).tolist()


def test_even_classes_give_even_subsets() -> None:
    """A size that is a multiple of the number of classes has equally many images of each."""
    assert histogram(LABELS[stratified(LABELS, 200, seed=0)]) == [20] * 10


def test_shares_are_rounded_to_the_lower_classes() -> None:
    """The rest goes to the largest remainders, here all equal: one more for each of the first classes."""
    assert histogram(LABELS[stratified(LABELS, 203, seed=0)]) == [21] * 3 + [20] * 7


def test_uneven_classes_keep_their_shares() -> None:
    """Exact shares 0.2, 1.8, 8 and 10 of 20 images: the largest remainder, 0.8, is rounded up."""
    assert histogram(UNEVEN[stratified(UNEVEN, 20, seed=0)])[:4] == [0, 2, 8, 10]


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=60, deadline=None)
def test_stratified(counts: list[int], share: float, seed: int) -> None:
    """For any classes: the exact size, distinct and ascending, each class within one of its exact share."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    size = round(share * len(labels))
    chosen = stratified(labels, size, seed)
    assert len(chosen) == size
    assert (np.diff(chosen) > 0).all()
    taken = np.bincount(labels[chosen], minlength=len(counts))
    assert (np.abs(taken - size * np.array(counts) / len(labels)) < 1).all()


def test_choice_is_seeded() -> None:
    """The same seed chooses the same images, another seed others."""
    first, again, other = (stratified(LABELS, 100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(np.intersect1d(first, other)) < 50


def test_choice_within_a_class_is_uniform() -> None:
    """Over many seeds every image is chosen about equally often, not just the first ones."""
    often = sum(np.bincount(stratified(LABELS[:60], 30, seed), minlength=60) for seed in range(200))
    assert often.min() > 60
    assert often.max() < 140


@given(
    validation=st.integers(0, 300),
    subset=st.none() | st.integers(2, 300),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_split(validation: int, subset: int | None, seed: int) -> None:
    """Both parts have the requested sizes, are balanced to 2 images (the rest to 1), and share no image."""
    parts = split(LABELS, validation=validation, subset=subset, seed=seed)
    assert len(parts.validation) == validation
    assert len(parts.training) == (600 - validation if subset is None else subset)
    assert not np.intersect1d(parts.training, parts.validation).size
    for part in parts:
        assert (np.diff(part) > 0).all()
        counts = histogram(LABELS[part])
        assert max(counts) - min(counts) <= 1 + (part is parts.training)


def test_everything_is_used_by_default() -> None:
    """Without validation and subset, training has every image, in canonical order."""
    parts = split(LABELS, validation=0, subset=None, seed=0)
    np.testing.assert_array_equal(parts.training, np.arange(600))
    assert parts.validation.size == 0


def test_all_the_rest_is_trained_on() -> None:
    """Without a subset, all images that are not for validation are for training."""
    parts = split(LABELS, validation=100, subset=None, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(600))


@pytest.mark.parametrize("subset", [2, 50, 500, None])
def test_validation_does_not_depend_on_the_subset(subset: int | None) -> None:
    """Studies with subsets of the training images use the same validation images."""
    whole = split(LABELS, validation=100, subset=None, seed=3).validation
    np.testing.assert_array_equal(split(LABELS, validation=100, subset=subset, seed=3).validation, whole)


def test_validation_and_subset_are_drawn_independently() -> None:
    """The two choices have separate random streams: equal sizes do not choose equal positions."""
    chosen = split(LABELS, validation=100, subset=None, seed=0).validation
    subset = split(LABELS, validation=0, subset=100, seed=0).training
    assert len(np.intersect1d(chosen, subset)) < 50


def test_split_is_the_same_for_every_type_of_label() -> None:
    """Labels are stored as bytes and used as integers; the split is the same."""
    for a, b in zip(
        split(LABELS, validation=50, subset=100, seed=0),
        split(LABELS.astype(np.int64), validation=50, subset=100, seed=0),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_split_is_pinned() -> None:
    """The images chosen for a seed never change: otherwise earlier results would be stale without a change of key."""
    parts = split(UNEVEN, validation=10, subset=10, seed=0)
    assert parts.validation.tolist() == [4, 18, 30, 34, 45, 51, 64, 82, 87, 99]
    assert parts.training.tolist() == [5, 14, 17, 37, 44, 79, 80, 81, 85, 90]

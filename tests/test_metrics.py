"""Metrics of saved logits agree with independent implementations, and with what they are meant to say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopnet.errors import CoopNetError
from coopnet.evaluation.metrics import EXACT, Saved, expected_calibration_error, measure, ranks, scores, versus


def some_logits(seed: int, images: int = 400, classes: int = 10, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Random float32 logits that know something about their random labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes)) + np.eye(classes)[labels]
    return (spread * logits).astype(np.float32), labels


def some_saved(seed: int, images: int = 100, branches: int = 3, classes: int = 10) -> Saved:
    """What a random network says."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, branches, classes)).astype(np.float32)
    gate = generator.dirichlet(np.ones(branches), images).astype(np.float32)
    return Saved(logits, gate, generator.integers(0, classes, images))


# Against independent implementations


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_agrees_with_scikit_learn(seed: int) -> None:
    """Top-1 and top-5 are scikit-learn's top-k accuracies."""
    from sklearn.metrics import top_k_accuracy_score

    logits, labels = some_logits(seed)
    for name, k in (("top1", 1), ("top5", 5)):
        expected = 100 * top_k_accuracy_score(labels, logits, k=k, labels=range(10))
        assert scores(logits, labels)[name] == pytest.approx(expected)


@pytest.mark.slow  # importing torchmetrics takes longer than all other tests of this file
@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_torchmetrics(seed: int) -> None:
    """Top-1, top-5 and ECE are those of torchmetrics."""
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    logits, labels = some_logits(seed)
    found = scores(logits, labels)
    said, true = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    for name, k in (("top1", 1), ("top5", 5)):
        assert found[name] == pytest.approx(
            100 * multiclass_accuracy(said, true, num_classes=10, top_k=k, average="micro").item(), abs=1e-4
        )
    ece = multiclass_calibration_error(said.softmax(1), true, num_classes=10, n_bins=15, norm="l1").item()
    assert found["ece"] == pytest.approx(100 * ece, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_nll_agrees_with_scikit_learn(seed: int) -> None:
    """NLL is scikit-learn's log loss."""
    from sklearn.metrics import log_loss

    logits, labels = some_logits(seed)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert scores(logits, labels)["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-9)


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 40), classes=st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_ranks_are_places_in_a_stable_sort(seed: int, images: int, classes: int) -> None:
    """The rank of the true class is its place among all classes, sorted by logit, equal ones by index."""
    generator = np.random.default_rng(seed)
    logits = generator.integers(-2, 3, (images, classes)).astype(np.float32)  # many ties
    labels = generator.integers(0, classes, images)
    order = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(ranks(logits, labels), np.argmax(order == labels[:, None], axis=1))


# Accuracy


def test_equal_logits_are_predicted_as_argmax_does() -> None:
    """Among equal logits the first class is the prediction, so a constant network is right about class 0 alone."""
    labels = np.arange(10)
    found = scores(np.zeros((10, 10), np.float32), labels)
    assert (found["top1"], found["top5"]) == (10, 50)
    assert found["nll"] == pytest.approx(np.log(10))


def test_top5_of_few_classes_is_always_right() -> None:
    """With five classes or fewer every image is among the top five."""
    assert scores(*some_logits(0, classes=5))["top5"] == 100


def test_labels_of_any_integer_type() -> None:
    """Labels are saved as bytes; the scores are the same."""
    logits, labels = some_logits(0)
    assert scores(logits, labels.astype(np.uint8)) == scores(logits, labels)


def test_large_logits_do_not_overflow() -> None:
    """Logits of a confident network have finite scores."""
    found = scores(np.array([[1e4, -1e4], [1e4, -1e4]], np.float32), np.array([0, 1]))
    assert found == {"top1": 50, "top5": 100, "nll": 1e4, "ece": 50}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_diverged_network_is_refused(value: float) -> None:
    """No comparison with NaN is true, so that a network that says nothing must not pass for one that is right."""
    logits, labels = some_logits(0)
    logits[3] = value
    with pytest.raises(CoopNetError, match="diverged"):
        scores(logits, labels)


# Calibration


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_the_paper(seed: int) -> None:
    """ECE = Σ over 15 bins of |bin| / N · |accuracy − mean confidence|, in percent, written out bin by bin."""
    logits, labels = some_logits(seed)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert scores(logits, labels)["ece"] == pytest.approx(100 * expected)


def test_calibration_error_by_hand() -> None:
    """Two bins of two images each: 0.35 against one right of two, 0.80 against two of two."""
    confidence = np.array([0.30, 0.40, 0.90, 0.70])
    correct = np.array([True, False, True, True])
    expected = 100 * (2 / 4 * abs(1 / 2 - 0.35) + 2 / 4 * abs(1 - 0.80))
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(expected)


def test_bins_hold_their_upper_edge() -> None:
    """Bins are (a, b], as in the paper: a confidence of exactly 0.5 lies in the lower of two; 0 in the first."""
    low, high = (np.array([c, 0.25]) for c in (0.5, np.nextafter(0.5, 1)))
    correct = np.array([True, False])
    together, apart = 100 * abs(1 - 0.75) / 2, 100 * (0.5 + 0.25) / 2
    assert expected_calibration_error(low, correct, bins=2) == pytest.approx(together)
    assert expected_calibration_error(high, correct, bins=2) == pytest.approx(apart)
    assert expected_calibration_error(np.array([0.0, 1.0]), correct, bins=2) == pytest.approx(100)


def test_certain_and_right_is_calibrated() -> None:
    """Confidence 1 lies in the last bin: always right is no error, always wrong is all of it."""
    ones = np.ones(7)
    assert expected_calibration_error(ones, ones.astype(bool)) == 0
    assert expected_calibration_error(ones, ~ones.astype(bool)) == 100


def test_calibrated_network_has_small_error() -> None:
    """Labels drawn from the network's own probabilities: the error is that of sampling; sharper logits are worse."""
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(20_000, 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1).clip(max=9)
    assert scores(logits, labels)["ece"] < 1.5
    assert scores(3 * logits, labels)["ece"] > 10


# Ensemble and branches


def test_ensemble_is_the_gate_weighted_sum() -> None:
    """For each image, Σ over branches of weight · logits."""
    saved = some_saved(0)
    expected = sum(saved.gate[:, b, None] * saved.branches[:, b] for b in range(3))
    np.testing.assert_allclose(saved.ensemble, expected, rtol=1e-5, atol=1e-6)


def test_measure_has_everyone() -> None:
    """Number of images, scores of the ensemble, and of each branch with its mean gate weight; weights sum to 1."""
    saved = some_saved(1)
    found = measure(saved)
    assert found["images"] == 100
    assert found["ensemble"] == scores(saved.ensemble, saved.labels)
    gates = [branch.pop("gate") for branch in found["branches"]]
    assert found["branches"] == [scores(saved.branches[:, b], saved.labels) for b in range(3)]
    assert gates == pytest.approx(saved.gate.mean(axis=0).tolist(), rel=1e-5)
    assert sum(gates) == pytest.approx(1, abs=1e-6)


def test_plain_network_is_its_own_ensemble() -> None:
    """With one branch of weight 1 the ensemble's scores are the branch's."""
    saved = some_saved(2, branches=1)
    found = measure(saved._replace(gate=np.ones((100, 1), np.float32)))
    assert found["branches"] == [found["ensemble"] | {"gate": 1.0}]


def test_metrics_are_plain_numbers() -> None:
    """All values can be written as JSON and compared: Python's own numbers, no NumPy types."""
    saved = some_saved(3)
    found = versus(saved, saved) | measure(saved)["ensemble"]
    flat = {name: value for name, value in found.items() if name != "parent"} | found["parent"]
    assert {type(value) for value in flat.values()} == {int, float, bool}


# Against the parent


def test_network_equals_itself() -> None:
    """No prediction changed, no difference, exact; the parent's scores are the ensemble's."""
    saved = some_saved(4)
    found = versus(saved, saved)
    assert found == {
        "changed_predictions": 0,
        "largest_logit_difference": 0.0,
        "largest_logit": float(np.abs(saved.ensemble).max()),
        "exact": True,
        "parent": measure(saved)["ensemble"],
    }


def test_shrunken_logits_keep_predictions_only() -> None:
    """All logits of an image times one factor (`zero_output`): same predictions, not exact."""
    parent = some_saved(5)
    factor = np.random.default_rng(0).uniform(0.3, 0.9, (100, 1)).astype(np.float32)
    found = versus(parent._replace(gate=parent.gate * factor), parent)
    assert found["changed_predictions"] == 0
    assert not found["exact"]
    assert found["largest_logit_difference"] > 0.01


def test_dead_branch_changes_nothing() -> None:
    """A fourth branch of weight 0 (`masked`) is exact, whatever it says."""
    parent = some_saved(6)
    loud = np.full((100, 1, 10), 1e3, np.float32)
    gate = np.concatenate([parent.gate, np.zeros((100, 1), np.float32)], axis=1)
    assert versus(Saved(np.concatenate([parent.branches, loud], axis=1), gate, parent.labels), parent)["exact"]


@pytest.mark.parametrize(("share", "exact"), [(0.5, True), (2.0, False)])
def test_exact_is_a_share_of_the_largest_logit(share: float, exact: bool) -> None:
    """The largest difference may be a millionth of the parent's largest logit, and no more."""
    gate, labels = np.ones((2, 1)), np.array([0, 1])
    logits = np.array([[[8.0, 1.0]], [[0.5, 0.25]]])
    moved = logits.copy()
    moved[1, 0, 1] += share * EXACT * 8
    assert versus(Saved(moved, gate, labels), Saved(logits, gate, labels))["exact"] is exact


def test_changed_predictions_are_counted() -> None:
    """Each image with another prediction counts once, whether it became right or wrong."""
    gate, labels = np.ones((4, 1)), np.array([0, 0, 1, 1])
    logits = np.array([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    moved = logits[:, :, ::-1].copy()
    moved[0] = logits[0]
    assert versus(Saved(moved, gate, labels), Saved(logits, gate, labels))["changed_predictions"] == 3

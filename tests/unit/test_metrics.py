"""Metrics of saved logits agree with independent implementations and with their definitions."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.stats import entropy

from coopnet import files, study
from coopnet.commands import evaluate as command
from coopnet.evaluation.diversity import diversity
from coopnet.evaluation.metrics import (
    EXACT,
    Saved,
    expected_calibration_error,
    log_mean,
    log_probabilities,
    measure,
    ranks,
    reliability,
    scores,
    versus,
    versus_parents,
    versus_teacher,
)
from coopnet.evaluation.outcomes import outcomes, pack, unpack
from coopnet.evaluation.voting import best_smaller, votes
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace


def some_logits(seed: int, images: int = 400, classes: int = 10, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Random float32 logits that are correlated with their random labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes)) + np.eye(classes)[labels]
    return (spread * logits).astype(np.float32), labels


def some_saved(seed: int, images: int = 100, branches: int = 3, classes: int = 10) -> Saved:
    """The outputs of a random network."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, branches, classes)).astype(np.float32)
    gate = generator.dirichlet(np.ones(branches), images).astype(np.float32)
    return Saved(logits, gate, generator.integers(0, classes, images))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, written out."""
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


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
    probabilities = softmax(logits)
    assert scores(logits, labels)["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-9)


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 40), classes=st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_ranks_are_places_in_a_stable_sort(seed: int, images: int, classes: int) -> None:
    """The rank of the true class is its position among all classes, sorted by logit, equal ones by index."""
    generator = np.random.default_rng(seed)
    logits = generator.integers(-2, 3, (images, classes)).astype(np.float32)  # many ties
    labels = generator.integers(0, classes, images)
    order = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(ranks(logits, labels), np.argmax(order == labels[:, None], axis=1))


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 40), classes=st.integers(2, 8))
@settings(max_examples=50, deadline=None)
def test_ties_are_ranked_by_the_next_score(seed: int, images: int, classes: int) -> None:
    """With further scores the rank is the position in a lexicographic sort by each score, then by class index."""
    generator = np.random.default_rng(seed)
    first, second, third = generator.integers(0, 3, (3, images, classes))  # many ties
    labels = generator.integers(0, classes, images)
    order = np.lexsort((-third, -second, -first), axis=1)  # stable; the last key is the first one
    np.testing.assert_array_equal(ranks(first, labels, second, third), np.argmax(order == labels[:, None], axis=1))


# Accuracy


def test_equal_logits_are_predicted_as_argmax_does() -> None:
    """Among equal logits the first class is the prediction, so a constant network is correct for class 0 only."""
    labels = np.arange(10)
    found = scores(np.zeros((10, 10), np.float32), labels)
    assert (found["top1"], found["top5"]) == (10, 50)
    assert found["nll"] == pytest.approx(np.log(10))


def test_top5_of_few_classes_is_always_right() -> None:
    """With five classes or fewer every image is among the top five."""
    assert scores(*some_logits(0, classes=5))["top5"] == 100


def test_labels_of_any_integer_type() -> None:
    """Labels are saved as bytes; the scores do not depend on that."""
    logits, labels = some_logits(0)
    assert scores(logits, labels.astype(np.uint8)) == scores(logits, labels)


def test_large_logits_do_not_overflow() -> None:
    """Logits of a confident network have finite scores."""
    found = scores(np.array([[1e4, -1e4], [1e4, -1e4]], np.float32), np.array([0, 1]))
    assert found == {"top1": 50, "top5": 100, "nll": 1e4, "ece": 50}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_diverged_network_is_refused(value: float) -> None:
    """Comparisons with NaN are false, so a diverged network could otherwise count as correct."""
    logits, labels = some_logits(0)
    logits[3] = value
    with pytest.raises(CoopNetError, match="diverged"):
        scores(logits, labels)


# Calibration


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_the_paper(seed: int) -> None:
    """ECE = Σ over 15 bins of |bin| / N · |accuracy − mean confidence|, in percent, written out bin by bin."""
    logits, labels = some_logits(seed)
    probabilities = softmax(logits)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert scores(logits, labels)["ece"] == pytest.approx(100 * expected)


def test_calibration_error_by_hand() -> None:
    """Two bins of two images each: confidence 0.35 with one of two correct, and 0.80 with two of two."""
    confidence = np.array([0.30, 0.40, 0.90, 0.70])
    correct = np.array([True, False, True, True])
    expected = 100 * (2 / 4 * abs(1 / 2 - 0.35) + 2 / 4 * abs(1 - 0.80))
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(expected)


def test_bins_hold_their_upper_edge() -> None:
    """Bins are (a, b], as in the paper: a confidence of exactly 0.5 is in the lower bin, and 0 in the first."""
    low, high = (np.array([c, 0.25]) for c in (0.5, np.nextafter(0.5, 1)))
    correct = np.array([True, False])
    together, apart = 100 * abs(1 - 0.75) / 2, 100 * (0.5 + 0.25) / 2
    assert expected_calibration_error(low, correct, bins=2) == pytest.approx(together)
    assert expected_calibration_error(high, correct, bins=2) == pytest.approx(apart)
    assert expected_calibration_error(np.array([0.0, 1.0]), correct, bins=2) == pytest.approx(100)


def test_certain_and_right_is_calibrated() -> None:
    """Confidence 1 is in the last bin: always correct has no error, always wrong has error 100 %."""
    ones = np.ones(7)
    assert expected_calibration_error(ones, ones.astype(bool)) == 0
    assert expected_calibration_error(ones, ~ones.astype(bool)) == 100


def test_calibrated_network_has_small_error() -> None:
    """For labels drawn from the network's own probabilities the error is that of sampling; sharper logits are worse."""
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
    """The result has the number of images, scores of the ensemble, and of each branch with its mean gate weight."""
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
    found = measure(replace(saved, gate=np.ones((100, 1), np.float32)))
    assert found["branches"] == [found["ensemble"] | {"gate": 1.0}]


@pytest.mark.parametrize("branches", [2, 3])
def test_mean_probabilities_are_those_of_the_branches(branches: int) -> None:
    """The scores of the unweighted mean of probabilities do not depend on the gate."""
    saved = some_saved(2, branches=branches)
    mean = softmax(saved.branches).mean(axis=1)
    expected = pytest.approx(scores(np.log(mean), saved.labels), rel=1e-9)
    assert measure(saved)["mean_probabilities"] == expected
    assert measure(replace(saved, gate=saved.gate[::-1]))["mean_probabilities"] == expected
    assert measure(saved)["mean_probabilities"] != measure(saved)["ensemble"]


def test_mean_of_certain_networks_that_disagree_is_a_half() -> None:
    """For probabilities 1 and e⁻²⁰⁰⁰, which no float can represent, the logarithm of the mean is −log 2."""
    certain = np.array([[[0.0, -2000.0, -3000.0], [-2000.0, 0.0, -3000.0]]])
    expected = [[-np.log(2), -np.log(2), -3000.0]]
    np.testing.assert_allclose(log_mean(certain), expected, rtol=1e-12)


def test_mean_of_vanishing_probabilities_is_finite() -> None:
    """A class with probability e^-1000 in every branch (0 as a float) still has the correct logarithm."""
    logits = np.array([[[1000.0, 0.0], [1000.0, 10.0]]], np.float32)
    expected = -990 + np.log1p(np.exp(-10)) - np.log(2)
    np.testing.assert_allclose(log_mean(log_probabilities(logits)), [[0, expected]], rtol=1e-12)


def test_plain_network_has_no_diversity() -> None:
    """A network with one branch has no diversity entry."""
    assert set(measure(some_saved(3, branches=1))) == {"images", "ensemble", "reliability", "branches"}
    several = {"images", "ensemble", "reliability", "branches", "mean_probabilities", "diversity"}
    assert set(measure(some_saved(3))) == several


def leaves(content: Any) -> list[Any]:
    """All values of nested dicts and lists."""
    if isinstance(content, dict | list):
        inner = content.values() if isinstance(content, dict) else content
        return [leaf for value in inner for leaf in leaves(value)]
    return [content]


def test_metrics_are_plain_numbers() -> None:
    """All values are Python numbers, not NumPy types, so they can be written as JSON."""
    saved = some_saved(3)
    found = [versus(saved, saved), measure(saved), versus_parents([saved, saved]), versus_teacher(saved, saved)]
    assert {type(value) for value in leaves(found)} == {int, float, bool, NoneType}


# Reliability


def test_reliability_by_hand() -> None:
    """The third of four bins contains its upper edge; an empty bin has no means, and all images are counted."""
    confidence, correct = np.array([0.3, 0.5, 0.6, 0.75, 0.9]), np.array([True, False, True, True, True])
    empty = {"images": 0, "confidence": None, "accuracy": None}
    found = reliability(confidence, correct, bins=4)
    assert found[0] == empty
    assert found[1] == {"images": 2, "confidence": pytest.approx(40), "accuracy": 50}
    assert found[2] == {"images": 2, "confidence": pytest.approx(67.5), "accuracy": 100}
    assert found[3] == {"images": 1, "confidence": pytest.approx(90), "accuracy": 100}


def test_reliability_is_that_of_the_ensemble() -> None:
    """15 bins contain all images, with accuracy equal to top-1 and gaps equal to the ECE."""
    found = measure(some_saved(1))
    bins = [one for one in found["reliability"] if one["images"]]
    assert len(found["reliability"]) == 15
    assert sum(one["images"] for one in bins) == found["images"]
    assert sum(one["images"] * one["accuracy"] for one in bins) / found["images"] == pytest.approx(
        found["ensemble"]["top1"]
    )
    gaps = sum(one["images"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / found["images"]
    assert gaps == pytest.approx(found["ensemble"]["ece"])


# Outcomes


@pytest.mark.parametrize("images", [1, 8, 100, 101])
def test_outcomes_are_the_accuracy_of_every_model(images: int) -> None:
    """Unpacked outcomes equal the packed ones, and their means are the accuracies in the metrics."""
    saved = some_saved(4)
    saved = Saved(*(np.resize(array, (images, *array.shape[1:])) for array in vars(saved).values()))
    found, packed = outcomes(saved), pack(outcomes(saved))
    metrics = measure(saved)
    models = {name: metrics[name] for name in ("ensemble", "mean_probabilities")}
    models |= {f"branch{b}": branch for b, branch in enumerate(metrics["branches"], start=1)}
    assert set(packed) == set(models)
    for name, expected in models.items():
        right = unpack(packed[name], images)
        np.testing.assert_array_equal(right, [found[name] < 1, found[name] < 5])
        assert 100 * right.mean(axis=1) == pytest.approx([expected["top1"], expected["top5"]])


def test_a_plain_network_has_no_mean_of_probabilities() -> None:
    """With one branch the mean would be the branch again."""
    assert list(outcomes(some_saved(4, branches=1))) == ["ensemble", "branch1"]
    assert list(outcomes(some_saved(4, branches=2))) == ["ensemble", "branch1", "branch2", "mean_probabilities"]


def test_outcomes_of_other_images_are_refused() -> None:
    """Bits with a size for another number of images are refused."""
    bits = pack(outcomes(some_saved(4)))["ensemble"]
    for images in (96, 105):
        with pytest.raises(ValueError, match="not those of"):
            unpack(bits, images)


# Diversity


def test_disagreement_by_hand() -> None:
    """Of four images branches 1 and 2 differ in one, 1 and 3 in two, 2 and 3 in three: 25, 50, 75; mean 50 %."""
    predictions = np.array([[0, 0, 0], [1, 1, 0], [2, 2, 1], [0, 1, 0]])
    found = diversity(log_probabilities(np.eye(3)[predictions]))
    assert {name: pair["disagreement"] for name, pair in found["pairs"].items()} == {"1-2": 25, "1-3": 50, "2-3": 75}
    assert found["disagreement"] == 50


def test_divergence_by_hand() -> None:
    """For (½, ½) and (¾, ¼), KL is ½ ln(4/3) in one direction and ¾ ln 3 − ln 2 in the other."""
    logits = np.log([[[1 / 2, 1 / 2], [3 / 4, 1 / 4]], [[1 / 2, 1 / 2], [1 / 2, 1 / 2]]])
    expected = (0.5 * np.log(4 / 3) + 0.75 * np.log(3) - np.log(2)) / 2 / 2
    shifted = logits + np.array([[[5.0], [-3.0]]])  # a constant on all logits changes no probability
    found = diversity(log_probabilities(shifted))
    assert found["kl"] == pytest.approx(expected)
    assert found["pairs"]["1-2"]["kl"] == found["kl"]


@pytest.mark.parametrize("seed", range(3))
def test_divergence_agrees_with_scipy(seed: int) -> None:
    """KL is SciPy's relative entropy for each pair in both directions, and on average over all ordered pairs."""
    saved = some_saved(seed, branches=4)
    p = softmax(saved.branches)
    found = diversity(saved.log_probabilities)
    ordered = {(i, j): entropy(p[:, i], p[:, j], axis=1).mean() for i, j in permutations(range(4), 2)}
    assert found["kl"] == pytest.approx(np.mean(list(ordered.values())))
    assert found["kl"] == pytest.approx(np.mean([rel_entr(p[:, i], p[:, j]).sum(axis=1).mean() for i, j in ordered]))
    for name, pair in found["pairs"].items():
        i, j = (int(number) - 1 for number in name.split("-"))
        assert pair["kl"] == pytest.approx((ordered[i, j] + ordered[j, i]) / 2)


def test_identical_branches_have_no_diversity() -> None:
    """Copies agree on every image, and their divergence is exactly 0."""
    saved = some_saved(0, branches=1)
    found = diversity(np.repeat(saved.log_probabilities, 3, axis=1))
    assert found == {"disagreement": 0, "kl": 0, "pairs": dict.fromkeys(("1-2", "1-3", "2-3"), found["pairs"]["1-2"])}
    assert found["pairs"]["1-2"] == {"disagreement": 0, "kl": 0}


def test_divergence_of_certain_branches_is_finite() -> None:
    """Branches that are certain of different classes diverge by their difference in logits, not infinitely."""
    logits = np.array([[[2000.0, 0.0], [0.0, 1000.0]]], np.float32)
    assert diversity(log_probabilities(logits))["kl"] == pytest.approx(1500)


# Against the parent


def test_network_equals_itself() -> None:
    """No changed prediction, no difference, exact; the parent's scores are the ensemble's."""
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
    """All logits of an image times one factor (`zero_output`): the same predictions, but not exact."""
    parent = some_saved(5)
    factor = np.random.default_rng(0).uniform(0.3, 0.9, (100, 1)).astype(np.float32)
    found = versus(replace(parent, gate=parent.gate * factor), parent)
    assert found["changed_predictions"] == 0
    assert not found["exact"]
    assert found["largest_logit_difference"] > 0.01


def test_dead_branch_changes_nothing() -> None:
    """A fourth branch of weight 0 (`masked`) is exact, whatever its outputs are."""
    parent = some_saved(6)
    loud = np.full((100, 1, 10), 1e3, np.float32)
    gate = np.concatenate([parent.gate, np.zeros((100, 1), np.float32)], axis=1)
    assert versus(Saved(np.concatenate([parent.branches, loud], axis=1), gate, parent.labels), parent)["exact"]


@pytest.mark.parametrize(("share", "exact"), [(0.5, True), (2.0, False)])
def test_exact_is_a_share_of_the_largest_logit(share: float, exact: bool) -> None:
    """The largest difference may be at most a millionth of the parent's largest logit."""
    gate, labels = np.ones((2, 1)), np.array([0, 1])
    logits = np.array([[[8.0, 1.0]], [[0.5, 0.25]]])
    moved = logits.copy()
    moved[1, 0, 1] += share * EXACT * 8
    assert versus(Saved(moved, gate, labels), Saved(logits, gate, labels))["exact"] is exact


def test_changed_predictions_are_counted() -> None:
    """Each image with another prediction counts once, whether it becomes correct or wrong."""
    gate, labels = np.ones((4, 1)), np.array([0, 0, 1, 1])
    logits = np.array([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    moved = logits[:, :, ::-1].copy()
    moved[0] = logits[0]
    assert versus(Saved(moved, gate, labels), Saved(logits, gate, labels))["changed_predictions"] == 3


# Against several parents, and against a teacher


def test_plain_ensembles_of_the_parents() -> None:
    """Each parent's ensemble alone, their mean logits and their mean probabilities, computed one image at a time."""
    parents = [
        replace(some_saved(seed, branches=b), labels=some_saved(0).labels) for seed, b in ((0, 1), (1, 3), (2, 2))
    ]
    labels = parents[0].labels
    logits, probabilities = np.zeros((100, 10)), np.zeros((100, 10))
    for parent in parents:
        for n in range(100):
            said = sum(w * branch for w, branch in zip(parent.gate[n], parent.branches[n].astype(float), strict=True))
            logits[n] += said / 3
            probabilities[n] += softmax(np.asarray(said)) / 3
    found = versus_parents(parents)
    assert found["singles"] == [measure(parent)["ensemble"] for parent in parents]
    assert found["logit_ensemble"] == pytest.approx(scores(logits, labels), rel=1e-5)
    assert found["probability_ensemble"] == pytest.approx(scores(np.log(probabilities), labels), rel=1e-5)
    assert found["logit_ensemble"] != found["probability_ensemble"]


def test_ensemble_of_one_network_is_that_network() -> None:
    """With the same parent twice, both ensembles have its scores."""
    parent = some_saved(7)
    found = versus_parents([parent, parent])
    own = pytest.approx(measure(parent)["ensemble"], rel=1e-6)
    assert [*found["singles"], found["logit_ensemble"], found["probability_ensemble"]] == [own] * 4


def test_disagreement_with_the_teacher_is_counted() -> None:
    """Three of four predictions differ from the teacher's: 75 %, whichever of the two is correct."""
    gate, labels = np.ones((4, 1)), np.array([0, 0, 1, 1])
    logits = np.array([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    other = logits[:, :, ::-1].copy()
    other[0] = logits[0]
    student, teacher = Saved(other, gate, labels), Saved(logits, gate, labels)
    assert versus_teacher(student, teacher) == {"disagreement": 75, "teacher": measure(teacher)["ensemble"]}


# The command


DATA = SimpleNamespace(dataset="digits")


def plan_of(monkeypatch: pytest.MonkeyPatch, start: str, parents: list[SimpleNamespace]) -> SimpleNamespace:
    """A study of one run, `child` with seed 0, with this start."""
    child = SimpleNamespace(
        experiment="child",
        seed=0,
        name="child/seed0",
        key="child's",
        phase="finetune",
        at_transfer=False,
        transfer=None,
        row=SimpleNamespace(start=SimpleNamespace(kind=start), data=DATA),
        parents=tuple(parents),
    )
    plan = SimpleNamespace(name="tiny", run=lambda experiment, seed: child)
    monkeypatch.setattr(study, "load", lambda root, name: plan)
    return child


def parent_of(seed: int) -> SimpleNamespace:
    """The parent of a run."""
    row = SimpleNamespace(data=DATA)
    return SimpleNamespace(
        experiment="one",
        seed=seed,
        name="one",
        key=f"key {seed}",
        phase="train_one",
        at_transfer=False,
        row=row,
        parents=(),
    )


def save(root: Path, run: SimpleNamespace, saved: dict[str, Saved]) -> None:
    """The logits of a run and their record, as training leaves them."""
    folder = root / "checkpoints/tiny" / run.phase / run.experiment / f"seed{run.seed}"
    tensors = {
        f"{split}/{field}": getattr(said, field) for split, said in saved.items() for field in said.__dataclass_fields__
    }
    files.write_tensors(folder / "logits.safetensors", tensors)
    digest = files.sha256(folder / "logits.safetensors")
    files.write_json(folder / "run.json", {"key": run.key, "files": {"logits.safetensors": digest}})


@pytest.mark.parametrize(
    ("start", "count", "name"),
    [
        ("random", 0, None),
        ("random", 1, "versus_teacher"),
        ("split", 1, "versus_parent"),
        ("merge", 3, "versus_parents"),
    ],
)
def test_parents_are_called_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, count: int, name: str | None
) -> None:
    """A parent without weights is a teacher; one parent and several parents have different entries."""
    parents = [parent_of(seed) for seed in range(count)]
    run = plan_of(monkeypatch, start, parents)
    final = {split: some_saved(seed) for seed, split in enumerate(("test", "validation"))}
    save(tmp_path, run, final)
    for parent in parents:
        said = {split: replace(some_saved(10 + parent.seed), labels=own.labels) for split, own in final.items()}
        save(tmp_path, parent, said)
    command.evaluate(Workspace(tmp_path), "tiny", "child", 0)
    metrics = files.read_json(tmp_path / "checkpoints/tiny/finetune/child/seed0/metrics.json")
    assert metrics.pop("key") == run.key
    folder = tmp_path / "checkpoints/tiny/finetune/child/seed0"
    written = {name: files.sha256(folder / name) for name in ("outcomes.safetensors", "votes.csv")}
    assert metrics.pop("files") == written
    picked, voted = metrics.pop("picked"), votes(final["test"])
    right = unpack(files.read_tensors(folder / "outcomes.safetensors")["final/picked"], 100)
    for k, score in enumerate(("top1", "top5")):
        assert picked[score] == best_smaller(votes(final["validation"]), 3, score)
        (row,) = [row for row in voted if picked[score].items() <= row.items()]
        assert 100 * right[k].mean() == pytest.approx(row[score])
    assert set(metrics) == {"final"}
    for stage in metrics.values():
        for split in ("test", "validation"):
            known = {key for key in stage[split] if key.startswith("versus")}
            assert known == ({name} if name else set())
            own = [replace(some_saved(10 + seed), labels=final[split].labels) for seed in range(count)]
            if name == "versus_parents":
                assert stage[split][name] == versus_parents(own)
            elif name:
                compare = versus_teacher if name == "versus_teacher" else versus
                assert stage[split][name] == compare(final[split], own[0])


def test_diverged_run_is_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are not finite leave neither votes nor metrics."""
    run = plan_of(monkeypatch, "random", [])
    said = some_saved(0)
    said.branches[3, 1, 4] = np.nan
    save(tmp_path, run, {"test": said})
    with pytest.raises(CoopNetError, match="diverged"):
        command.evaluate(Workspace(tmp_path), "tiny", "child", 0)
    names = {path.name for path in (tmp_path / "checkpoints/tiny/finetune/child/seed0").iterdir()}
    assert names == {"run.json", "logits.safetensors"}

"""Votes of branch subsets follow their rules, and agree with the metrics for the same network."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopnet.evaluation.evaluate import write_votes
from coopnet.evaluation.metrics import Saved, measure
from coopnet.evaluation.voting import MOST, RULES, best_smaller, subsets, vote, votes

Accuracy = tuple[float, float]


def some_saved(seed: int, images: int = 60, branches: int = 3, classes: int = 10) -> Saved:
    """The outputs of a random network, whose branches are correlated with the labels and sometimes agree."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, branches, classes)) + 2 * np.eye(classes)[labels][:, None]
    gate = generator.dirichlet(np.ones(branches), images)
    return Saved(logits.astype(np.float32), gate.astype(np.float32), labels)


def said(probabilities: list[list[float]], label: int) -> Saved:
    """One image with the given probabilities of each branch, with a uniform gate."""
    logits = np.log(np.array([probabilities]))
    return Saved(logits, np.full((1, len(probabilities)), 1 / len(probabilities)), np.array([label]))


def found(saved: Saved) -> dict[tuple[str, str], Accuracy]:
    """Top-1 and top-5 by rule and subset."""
    return {(row["rule"], row["subset"]): (row["top1"], row["top5"]) for row in votes(saved)}


def winner(saved: Saved, rule: str, subset: str) -> int:
    """The class that a subset predicts on the only image."""
    right = [found(replace(saved, labels=np.array([c])))[rule, subset][0] for c in range(saved.branches.shape[2])]
    assert sorted(right)[-2:] == [0, 100]  # exactly one class
    return right.index(100)


# By hand


def test_majority_by_hand() -> None:
    """Two of three vote for class 0, although mean and gate prefer class 1, of which the third is very certain."""
    saved = said([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.01, 0.98, 0.01]], label=0)
    assert winner(saved, "majority", "1+2+3") == 0
    assert winner(saved, "mean", "1+2+3") == 1
    assert winner(saved, "gate", "1+2+3") == 1


def test_tie_goes_to_the_larger_summed_probability() -> None:
    """One vote each for classes 1 and 2: 2 wins by 0.8 to 0.7, then by 0.6 to 0.49, where class 0 has 0.91, no vote."""
    saved = said([[0.4, 0.5, 0.1], [0.1, 0.2, 0.7]], label=2)
    assert winner(saved, "majority", "1+2") == 2
    saved = said([[0.45, 0.46, 0.09], [0.46, 0.03, 0.51]], label=2)
    assert winner(saved, "majority", "1+2") == 2
    assert winner(saved, "mean", "1+2") == 0


def test_full_tie_goes_to_the_first_class() -> None:
    """With equal votes and equal probabilities the class with the lower index wins, as everywhere."""
    saved = Saved(np.array([[[0, 0, 1e3], [0, 1e3, 0]]]), np.full((1, 2), 0.5), np.array([1]))
    assert [winner(saved, rule, "1+2") for rule in RULES] == [1, 1, 1]


def test_top5_is_ranked_by_votes_then_probability() -> None:
    """Two classes have votes; of the other five the three most probable are in the top five.

    Summed probabilities are (0.3, 0.32, 0.2, 0.2, 0.41, 0.39, 0.18). Classes 0 and 1 have a vote each and come first,
    although they are less probable than 4 and 5; then 4, 5, 2. Class 3 is as probable as 2, and loses by its index.
    """
    first = [0.26, 0.06, 0.1, 0.1, 0.2, 0.19, 0.09]
    second = [0.04, 0.26, 0.1, 0.1, 0.21, 0.2, 0.09]
    inside = [found(said([first, second], label=c))["majority", "1+2"][1] for c in range(7)]
    assert inside == [100, 100, 100, 0, 100, 100, 0]


def test_gate_weighs_the_subset() -> None:
    """The gate's rule uses each image's own weights: the branch with the larger weight decides."""
    logits = np.array([[[2.0, 0.0], [0.0, 1.0], [9.0, 0.0]]] * 2, np.float32)
    gate = np.array([[0.3, 0.5, 0.2], [0.2, 0.6, 0.2]], np.float32)
    saved = Saved(logits, gate, np.array([0, 1]))  # 0.6 : 0.5 for class 0, then 0.4 : 0.6 for class 1
    assert found(saved)["gate", "1+2"] == (100, 100)
    assert found(saved)["mean", "1+2"] == (50, 100)


def test_switched_off_branch_has_no_say() -> None:
    """A branch of weight 0 changes no subset under the gate's rule, and alone it predicts class 0."""
    saved = some_saved(0)
    gate = saved.gate.copy()
    gate[:, 2] = 0
    by = found(replace(saved, gate=gate))
    assert by["gate", "1+2+3"] == by["gate", "1+2"]
    assert by["gate", "1+3"] == by["gate", "1"]
    assert by["gate", "3"] == (100 * (saved.labels == 0).mean(), 100 * (saved.labels < 5).mean())


# Against the metrics


@pytest.mark.parametrize("branches", [2, 3, 5, MOST + 1])
def test_all_branches_are_the_network_of_the_metrics(branches: int) -> None:
    """For all branches the gate's rule is the ensemble, and `mean` the mean of probabilities, of `metrics.json`."""
    saved = some_saved(1, branches=branches)
    everyone = "+".join(str(b + 1) for b in range(branches))
    for rule, model in (("gate", "ensemble"), ("mean", "mean_probabilities")):
        expected = measure(saved)[model]
        assert found(saved)[rule, everyone] == (expected["top1"], expected["top5"])


@pytest.mark.parametrize("rule", RULES)
def test_one_branch_is_that_branch(rule: str) -> None:
    """A subset of one branch has that branch's scores under any rule."""
    saved = some_saved(2)
    for b, expected in enumerate(measure(saved)["branches"]):
        assert found(saved)[rule, str(b + 1)] == (expected["top1"], expected["top5"])


def test_votes_agree_with_a_count_per_image() -> None:
    """Every subset and rule agrees with a second computation: image by image, by sorting."""
    saved = some_saved(3, branches=4, images=40)
    probabilities = np.exp(saved.branches.astype(float))
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    assert len(votes(saved)) == 3 * 15
    for row in votes(saved):
        subset = [int(number) - 1 for number in row["subset"].split("+")]
        places = []
        for n, label in enumerate(saved.labels):
            summed = probabilities[n, subset].sum(axis=0)
            weighted = saved.gate[n, subset].astype(float) @ saved.branches[n, subset].astype(float)
            counted = [sum(int(saved.branches[n, b].argmax()) == c for b in subset) for c in range(10)]
            keys = {"gate": [weighted], "mean": [summed], "majority": [counted, summed]}[row["rule"]]
            places.append(sorted(range(10), key=lambda c, k=keys: [-key[c] for key in k]).index(label))  # type: ignore[misc]
        expected = [100 * np.mean([place < k for place in places]) for k in (1, 5)]
        assert [row["top1"], row["top5"]] == pytest.approx(expected)


# Subsets


@given(seed=st.integers(0, 2**32 - 1), branches=st.integers(2, 5), data=st.data())
@settings(max_examples=25, deadline=None)
def test_order_of_branches_does_not_matter(seed: int, branches: int, data: st.DataObject) -> None:
    """Permuting the branches permutes the subsets' results and nothing else."""
    order = data.draw(st.permutations(range(branches)))
    said = some_saved(seed, images=20, branches=branches)
    # Multiples of 1/32, whose weighted sums are exact: float32 sums of other numbers depend on their order.
    saved = Saved(np.round(32 * said.branches) / 32, np.round(32 * said.gate) / 32, said.labels)
    moved = Saved(saved.branches[:, order], saved.gate[:, order], saved.labels)
    before, after = found(saved), found(moved)  # branch b of `after` was branch order[b]
    for rule, subset in after:
        was = sorted(order[int(number) - 1] + 1 for number in subset.split("+"))
        assert after[rule, subset] == before[rule, "+".join(map(str, was))]


@pytest.mark.parametrize("branches", range(2, MOST + 1))
def test_every_subset_is_there_once(branches: int) -> None:
    """2^B − 1 subsets under each rule, in order of rule, size and subset."""
    rows = votes(some_saved(0, images=4, branches=branches))
    assert len(rows) == 3 * (2**branches - 1)
    keys = [(row["rule"], row["size"], [int(number) for number in row["subset"].split("+")]) for row in rows]
    assert keys == sorted(keys)
    assert len({(row["rule"], row["subset"]) for row in rows}) == len(rows)
    assert all(row["size"] == len(subset) for row, (_, _, subset) in zip(rows, keys, strict=True))


def test_many_branches_vote_together_only() -> None:
    """Above the limit there would be too many subsets; only all branches together vote."""
    assert list(subsets(MOST + 1)) == [list(range(MOST + 1))]
    assert len(list(subsets(MOST))) == 2**MOST - 1


# Picking


@given(st.integers(0, 10), st.integers(2, 5), st.sampled_from(["top1", "top5"]))
@settings(deadline=None, max_examples=20)
def test_pick_is_the_best_of_the_smaller_votes(seed: int, branches: int, score: str) -> None:
    """No smaller vote is better on the images of the selection, and it can be repeated alone."""
    saved = some_saved(seed, branches=branches)
    smaller = [row for row in votes(saved) if row["size"] < branches]
    picked = best_smaller(votes(saved), branches, score)
    best = next(row for row in smaller if row[score] == max(other[score] for other in smaller))
    assert picked == {key: best[key] for key in ("subset", "rule")}
    rank = vote(saved, **picked)
    assert (100 * (rank < 1).mean(), 100 * (rank < 5).mean()) == pytest.approx((best["top1"], best["top5"]))


# The file


def test_file_is_sorted_by_split_first(tmp_path: Path) -> None:
    """The promised columns, test before validation, each as from `votes`, with all digits."""
    saved = {"validation": some_saved(5), "test": some_saved(4)}
    write_votes(tmp_path / "votes.csv", {split: votes(said) for split, said in saved.items()})
    with (tmp_path / "votes.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["split", "subset", "size", "rule", "top1", "top5"]
    expected = [{"split": split} | row for split in ("test", "validation") for row in votes(saved[split])]
    assert rows == [{key: str(value) for key, value in row.items()} for row in expected]


def test_file_of_a_plain_network_has_a_header_only(tmp_path: Path) -> None:
    """A single branch has no votes; the file exists anyway."""
    write_votes(tmp_path / "votes.csv", {"test": votes(some_saved(0, branches=1))})
    assert (tmp_path / "votes.csv").read_text() == "split,subset,size,rule,top1,top5\n"

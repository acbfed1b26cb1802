"""The claims ledger decides what it says it decides, and its intervals cover what they say they cover."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from coopnet import files, study
from coopnet.claims import bootstrap, costs, entries
from coopnet.claims.bootstrap import Resampled
from coopnet.claims.costs import Curves
from coopnet.claims.decisions import FEW, Decision, after_holm, conjunction, decide, holm
from coopnet.claims.pairing import pair, roots
from coopnet.commands import claims as command
from coopnet.evaluation.outcomes import pack
from coopnet.files.errors import CoopNetError
from coopnet.report.content import SECTIONS
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study

ROOT = Path(__file__).parents[2]
IMAGES = 200


# The bootstrap


def answers(generator: np.random.Generator, mean: float, difficulty: np.ndarray, of_seed: np.ndarray) -> np.ndarray:
    """Whether networks are right, [S, N]: ability, minus the image's difficulty, plus luck of the seed and of both."""
    luck = generator.normal(size=(len(of_seed), len(difficulty)))
    right: np.ndarray = mean - difficulty + of_seed[:, None] + luck > 0
    return right


def truth(mean: float, spread: float) -> float:
    """Expected accuracy over all images and seeds, in percent."""
    return float(100 * norm.cdf(mean / math.sqrt(2 + spread**2)))


def intervals(
    seeds: int, simulation: int, *, together: bool, spread: float = 0.2
) -> tuple[Resampled, Resampled, float]:
    """One simulated comparison: crossed, over images alone, and the true difference."""
    generator = np.random.default_rng([seeds, simulation, together])
    difficulty = generator.normal(size=400)
    first = generator.normal(0, spread, seeds)
    second = generator.normal(0, spread, seeds)
    of = answers(generator, 0.6, difficulty, first + second if together else first)
    than = answers(generator, 0.5, difficulty, second)
    draws = bootstrap.accuracies(np.concatenate([of, than]), resamples=300, seed=simulation)
    own, other = 100 * of.mean(axis=1), 100 * than.mean(axis=1)
    if together:
        found = bootstrap.paired(own - other, draws[:, :seeds] - draws[:, seeds:], (simulation,))
        expected = truth(0.6, math.hypot(spread, spread)) - truth(0.5, spread)
    else:
        found = bootstrap.unpaired(own, other, (draws[:, :seeds], draws[:, seeds:]), (simulation,))
        expected = truth(0.6, spread) - truth(0.5, spread)
    images = draws[:, :seeds].mean(axis=1) - draws[:, seeds:].mean(axis=1)
    return found, Resampled(found.estimate, images, seeds), expected


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("seeds", [3, 5])
def test_interval_covers_the_truth(seeds: int, together: bool) -> None:
    """Of 200 simulated comparisons, 95 % intervals hold the truth in 90 % and more, over images alone in far fewer."""
    held, images_alone = list[bool](), list[bool]()
    for simulation in range(200):
        crossed, over_images, expected = intervals(seeds, simulation, together=together)
        for found, counts in ((crossed, held), (over_images, images_alone)):
            low, high = found.interval
            counts.append(low <= expected <= high)
    assert np.mean(held) >= 0.9
    assert np.mean(images_alone) < 0.75


def test_resampled_accuracies_are_those_of_drawn_images() -> None:
    """Each resample counts the images of one draw, the same for all networks, as indexing with the draw does."""
    right = np.random.default_rng(1).random((4, 50)) < 0.6
    found = bootstrap.accuracies(right, resamples=700, seed=5)
    generator = np.random.default_rng([5, 50])
    expected = np.array([100 * right[:, generator.integers(0, 50, 50)].mean(axis=1) for _ in range(700)])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("together", [True, False])
def test_draws_are_the_same_every_time(together: bool) -> None:
    """The same data give the same bits; the number of networks beside them changes nothing."""
    first, second = (intervals(3, 1, together=together)[0].draws for _ in range(2))
    np.testing.assert_array_equal(first, second)
    right = np.random.default_rng(2).random((6, 80)) < 0.5
    np.testing.assert_array_equal(bootstrap.accuracies(right, 50)[:, :2], bootstrap.accuracies(right[:2], 50))


def test_widening_by_hand() -> None:
    """Two replicates of 1 and 3 without noise of images: means 1, 2, 3, moved apart by √2; one stays as it is."""
    found = bootstrap.paired(np.array([1.0, 3.0]), np.tile([1.0, 3.0], (4000, 1)))
    assert found.estimate == 2
    assert sorted(set(found.draws.round(9))) == pytest.approx([2 - math.sqrt(2), 2, 2 + math.sqrt(2)])
    assert found.interval == pytest.approx((2 - math.sqrt(2), 2 + math.sqrt(2)))
    alone = bootstrap.paired(np.array([1.0]), np.linspace(0, 2, 101)[:, None])
    np.testing.assert_array_equal(alone.draws, np.linspace(0, 2, 101))


def test_unpaired_groups_are_drawn_independently() -> None:
    """Without noise of images, the spread of a difference is that of both groups together, and n the smaller one's."""
    of, than = np.array([1.0, 2.0, 6.0]), np.array([0.0, 4.0])
    draws = np.tile(of, (20000, 1)), np.tile(than, (20000, 1))
    found = bootstrap.unpaired(of, than, draws, (3,))
    assert (found.estimate, found.n) == (1, 2)
    assert found.draws.var() == pytest.approx(2 * (of.var() / 3 + than.var() / 2), rel=0.05)  # √2 for two replicates


def test_p_value_by_hand() -> None:
    """Two standard errors above 0 is p = 0.0455 of many replicates, and 0.184 of two degrees of freedom."""
    draws = np.array([1.0, 3.0] * 50)  # mean 2, standard deviation 1
    assert Resampled(2, draws, 9).chance(0, above=True) == pytest.approx(0.0455, abs=1e-4)
    assert Resampled(2, draws, 3, 2).chance(0, above=True) == pytest.approx(0.1835, abs=1e-4)
    assert Resampled(2, draws, 9).chance(0, above=False) == 1
    assert Resampled(2, draws, 9).chance(4, above=False) == pytest.approx(0.0455, abs=1e-4)
    assert Resampled(math.inf, np.full(9, math.inf), 3).chance(0, above=True) == 1
    same = Resampled(0, np.zeros(9), 3)
    assert [same.chance(-0.5, above=True), same.chance(0, above=True)] == [0, 1]


def test_degrees_of_freedom_follow_from_what_varies() -> None:
    """Of seeds alone there are S − 1; of images alone as good as infinitely many; of both something in between."""
    values = np.array([1.0, 2.0, 6.0])
    noise = np.random.default_rng(1).normal(0, 3, (4000, 1))
    seeds_alone = bootstrap.paired(values, np.tile(values, (4000, 1)))
    assert seeds_alone.freedom == pytest.approx(2)
    images_alone = bootstrap.paired(np.full(3, 2.0), 2 + np.tile(noise, 3))
    assert images_alone.freedom > 10  # widened all the same, by which the share of seeds seems larger than it is
    assert 2 < bootstrap.paired(values, values + noise).freedom < images_alone.freedom


@pytest.mark.parametrize("together", [True, False])
def test_p_values_hold_where_seeds_decide(together: bool) -> None:
    """Without a difference and hardly any noise of images, three seeds give p ≤ 0.05 in about 5 % of 400 studies."""
    low = []
    for simulation in range(400):
        generator = np.random.default_rng([9, simulation])
        own, other = generator.normal(size=3), generator.normal(size=3)
        draws = own + generator.normal(0, 0.1, (500, 1)), other + generator.normal(0, 0.1, (500, 1))
        if together:
            found = bootstrap.paired(own - other, draws[0] - draws[1], (simulation,))
        else:
            found = bootstrap.unpaired(own, other, draws, (simulation,))
        low.append(min(found.chance(0, above=True), found.chance(0, above=False)) <= 0.05)
    assert np.mean(low) <= 0.08


# Verdicts


def flat(low: float, high: float, n: int = 3) -> Resampled:
    """A distribution whose 95 % interval is `low` to `high`."""
    quantiles = norm.ppf((np.arange(2000) + 0.5) / 2000)
    return Resampled((low + high) / 2, (low + high) / 2 + quantiles * (high - low) / (2 * norm.ppf(0.975)), n)


@pytest.mark.parametrize(
    ("kind", "low", "high", "verdict"),
    [
        ("better", 0.1, 2, "supported"),
        ("better", -0.1, 2, "inconclusive"),
        ("better", -2, -0.1, "contradicted"),
        ("not_worse", -0.4, 2, "supported"),
        ("not_worse", -0.6, 2, "inconclusive"),
        ("not_worse", -0.9, -0.1, "inconclusive"),
        ("not_worse", -2, -0.6, "contradicted"),
        ("nothing", -0.4, 0.4, "supported"),
        ("nothing", -0.6, 0.4, "inconclusive"),
        ("nothing", -0.4, 0.6, "inconclusive"),
        ("nothing", 0.6, 2, "contradicted"),
        ("nothing", -2, -0.6, "contradicted"),
        ("about", 0.1, 1.1, "supported"),
        ("about", 1.9, 3, "supported"),
        ("about", 0.1, 0.9, "inconclusive"),
        ("about", 2.1, 3, "inconclusive"),
        ("about", -0.1, 1.5, "inconclusive"),
        ("about", -2, -0.1, "contradicted"),
        ("less", -2, -0.1, "supported"),
        ("less", -2, 0.1, "inconclusive"),
        ("less", 0.1, 2, "contradicted"),
    ],
)
def test_verdict_of_an_interval(kind: str, low: float, high: float, verdict: str) -> None:
    """As the rules say; with two seeds nothing is concluded, whatever the interval."""
    target = [1.0, 2.0] if kind == "about" else None
    found, p, slack, _ = decide(flat(low, high), kind, 0.5, target)
    assert found == verdict
    assert p is not None
    if kind != "about" or verdict != "inconclusive":
        assert (p <= 0.05) == (verdict != "inconclusive")
    assert (slack > 0) == (verdict == "supported" or (kind == "about" and low > 0))
    assert decide(flat(low, high, n=2), kind, 0.5, target)[:2] == ("inconclusive", None)
    assert decide(flat(low, high, n=2), kind, 0.5, target)[3] == FEW


def test_gain_of_another_size_is_said_to_be_one() -> None:
    """A gain whose interval misses the claimed size is inconclusive, with the reason."""
    assert decide(flat(0.1, 0.9), "about", target=[1.0, 2.0])[3] == "a gain, and a smaller one than claimed"
    assert decide(flat(2.1, 3), "about", target=[1.0, 2.0])[3] == "a gain, and a larger one than claimed"
    assert decide(flat(0.1, 1.5), "about", target=[1.0, 2.0])[3] == ""


def part(verdict: Any, p: float | None = None, slack: float = 0.0, text: str = "") -> Decision:
    """A part that was decided elsewhere."""
    return Decision(text, "better", verdict, 1.0, (0.0, 2.0), n=3, p=p, slack=slack)


def test_conjunction_needs_every_part() -> None:
    """Supported by all; contradicted by one, at the price of having looked at all; not run where one is missing."""
    yes, other = part("supported", 0.01, 2), part("supported", 0.03, 1)
    maybe, no = part("inconclusive", 0.4, -1), part("contradicted", 0.004, -2)
    assert conjunction([yes, other]) == ("supported", 0.03, other)
    assert conjunction([yes, maybe, other]) == ("inconclusive", 0.4, maybe)
    assert conjunction([yes, no, maybe]) == ("contradicted", 0.012, no)
    assert conjunction([part("contradicted", 0.01), no]) == ("contradicted", 0.008, no)
    missing = part("not run")
    assert conjunction([yes, missing, no]) == ("not run", None, missing)


def test_conjunction_with_what_was_counted() -> None:
    """A count, or too few seeds, has no p value: it never decides beside a tested part, and tests nothing itself."""
    yes, counted = part("supported", 0.01, 2), part("supported", None, 0.5)
    assert conjunction([counted, yes]) == ("supported", 0.01, yes)
    assert conjunction([counted]) == ("supported", None, counted)
    few = part("inconclusive", None, -1)
    assert conjunction([yes, few]) == ("inconclusive", None, few)
    refuted = part("contradicted", None, -1)
    assert conjunction([yes, refuted]) == ("contradicted", None, refuted)


def test_holm_by_hand() -> None:
    """The smallest of four counts four times, the next three times; none falls below the one before, none tops 1."""
    assert holm([0.04, None, 0.01, 0.03, 0.6]) == pytest.approx([0.09, None, 0.04, 0.09, 0.6])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([None, None]) == [None, None]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_holm_is_its_step_down(p_values: list[float]) -> None:
    """Rejected at 5 % are exactly those that the step-down procedure rejects."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    rejected = set()
    for k, place in enumerate(order):
        if (len(p_values) - k) * p_values[place] > 0.05:
            break
        rejected.add(place)
    corrected = holm(p_values)
    assert {place for place, p in enumerate(corrected) if p is not None and p <= 0.05} == rejected


def test_correction_takes_verdicts_back() -> None:
    """A verdict whose corrected p value is above 5 % is left inconclusive; a count, which is no test, stays."""
    assert after_holm("supported", 0.06) == "inconclusive"
    assert after_holm("contradicted", 0.04) == "contradicted"
    assert after_holm("supported", None) == "supported"
    assert after_holm("not run", None) == "not run"


# What belongs together


@pytest.fixture(scope="module")
def full() -> Study:
    """The full study of this project."""
    return study.load(ROOT)


def of(plan: Study, experiment: str) -> list[Run]:
    """All runs of an experiment, by seed."""
    return [plan.run(experiment, seed) for seed in plan.seeds(experiment)]


def names(runs: Sequence[Run]) -> list[str]:
    """Such as `one3/seed0`."""
    return [run.name for run in runs]


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        ("one3_to_5_split", "one3", ["one3/seed2"]),
        ("one3_to_5_split", "one3_continued", ["one3_continued/seed2"]),
        ("merge3_refit", "one1", ["one1/seed6", "one1/seed7", "one1/seed8"]),
        ("merge3_refit", "one1_continued_merge", [f"one1_continued_merge/seed{k}" for k in (6, 7, 8)]),
        ("merge3_refit", "merge3_first", ["merge3_first/seed2"]),
        ("combine3_with_baseline", "baseline", ["baseline/seed6"]),
        ("combine3_with_baseline", "one1", ["one1/seed7", "one1/seed8"]),
        ("combine3_with_baseline", "mixed_continued_ensemble3", ["mixed_continued_ensemble3/seed2"]),
        ("resnet18_ensemble5", "resnet18_single", [f"resnet18_single/seed{k}" for k in range(10, 15)]),
        ("resnet18_distilled", "resnet18_single", [f"resnet18_single/seed{k}" for k in range(10, 15)]),
        ("resnet18_self_ensemble5", "resnet18_ensemble5", ["resnet18_ensemble5/seed2"]),
        ("one5_holdout", "one5_holdout", ["one5_holdout/seed2"]),
    ],
)
def test_pairs_are_of_one_lineage(full: Study, first: str, second: str, third: list[str]) -> None:
    """The third replicate goes with its own parents, its own control, its own members, and with no other's."""
    found = pair(of(full, first), of(full, second))
    assert found.paired
    assert names(found.of) == [f"{first}/seed{k}" for k in range(3)]
    assert names(found.than[2]) == third


def test_half_related_networks_are_refused(full: Study) -> None:
    """Networks that share some of their ancestors are neither paired nor independent, and the message says so."""
    for first, second in (("one1", "merge3_refit"), ("combine3", "combine3_with_baseline")):
        with pytest.raises(CoopNetError, match="neither paired nor independent"):
            pair(of(full, first), of(full, second))


@pytest.mark.parametrize(
    ("first", "second"),
    [("one3", "baseline"), ("one3_to_5_split", "one5"), ("one3", "baseline_ensemble3"), ("one5", "one5_holdout")],
)
def test_equal_seeds_alone_pair_nothing(full: Study, first: str, second: str) -> None:
    """Networks with no common ancestor stand side by side, all of them."""
    found = pair(of(full, first), of(full, second))
    assert not found.paired
    assert names([run for group in found.than for run in group]) == names(of(full, second))
    assert not roots(found.of[0]) & roots(found.than[0][0])


# Until a target is reached


def test_cost_until_target_by_hand() -> None:
    """Ten epochs at 1 and two at 5: reached in the 3rd, in the 11th, never."""
    price = np.array([1.0] * 10 + [5.0] * 2)
    rising = np.arange(12.0)
    curves = np.stack([rising, rising, rising])
    assert costs.until(curves, np.array([2.0, 10.0, 11.5]), price).tolist() == [3, 15, math.inf]


def test_two_stages_against_one() -> None:
    """Two stages that reach 20 in their 3rd epoch, where one stage needs 5: two fewer, and 6 / 15 of the price."""
    two = Curves(np.tile([5.0, 10, 20, 30], (3, 1)), np.array([2.0, 2, 2, 3]))
    one = Curves(np.tile([4.0, 8, 12, 16, 20], (3, 1)), np.full(5, 3.0))
    fewer = costs.to_target(two, Curves(one.accuracy, np.ones(5)), 50, (1,), ratio=False)
    assert (fewer.estimate, fewer.n) == (6 - 5, 3)
    epochs = costs.to_target(Curves(two.accuracy, np.ones(4)), Curves(one.accuracy, np.ones(5)), 50, (1,), ratio=False)
    assert (epochs.estimate, epochs.interval) == (-2, (-2, -2))
    cheaper = costs.to_target(two, one, 50, (1,), ratio=True)
    assert cheaper.estimate == pytest.approx(6 / 15 - 1)
    assert decide(epochs, "less")[0] == decide(cheaper, "less")[0] == "supported"


def test_target_that_is_never_reached() -> None:
    """What never gets there costs infinitely much: the claim is contradicted, and no interval has an end."""
    low = Curves(np.tile([1.0, 2], (3, 1)), np.ones(2))
    high = Curves(np.tile([4.0, 8], (3, 1)), np.ones(2))
    found = costs.to_target(low, high, 50, (1,), ratio=False)
    assert (found.estimate, found.interval) == (math.inf, (math.inf, math.inf))
    assert decide(found, "less")[0] == "contradicted"


# What claims.yaml may say


ROWS = study.rows(ROOT)
GOOD = {
    "number": "1",
    "text": "A holds.",
    "source": "nobody",
    "section": "accuracy",
    "parts": [{"kind": "better", "of": "one3.branch1", "than": "baseline"}],
}


def read(folder: Path, content: Any) -> list[entries.Stated]:
    """Read claims written to a file."""
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return entries.read(path, ROWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"txt": "A holds."}, "claims.yaml: a_claim: txt is not a known key; did you mean 'text'?"),
        ({"number": 1}, "number: 1 is not valid"),
        ({"number": "0x"}, 'number: "0x" is not valid'),
        ({"text": "  "}, "it must not be empty"),
        ({"margin": 0.0}, "margin: 0.0 is not valid"),
        ({"parts": []}, "parts: [] is not valid"),
        ({"section": "../up"}, "section"),
        ({"parts": [{"kind": "beter", "of": "one3", "than": "one5"}]}, "did you mean 'better'?"),
        ({"parts": [{"kind": "better", "of": "one3", "then": "one5"}]}, "did you mean 'than'?"),
        ({"parts": [{"kind": "better", "of": "one33", "than": "one5"}]}, "'one33' is not an experiment"),
        ({"parts": [{"kind": "better", "of": "one3", "than": ["one5", "basline"]}]}, "did you mean 'baseline'?"),
        ({"parts": [{"kind": "better", "of": "one3.branch4", "than": "one5"}]}, "one3 has 3 branches, so no branch4"),
        ({"parts": [{"kind": "better", "of": "one3.branches", "than": "one5"}]}, "'branches' is no model"),
        ({"parts": [{"kind": "better", "of": "one3 branch1", "than": "one5"}]}, "it must be `experiment`"),
        ({"parts": [{"kind": "better", "of": 3, "than": "one5"}]}, "it must be `experiment`"),
        ({"parts": [{"kind": "better", "of": "one3@step0", "than": "one5"}]}, "it has no step 0"),
        ({"parts": [{"kind": "better", "of": "one3_to_5_split.branch1@step0", "than": "one5"}]}, "only the ensemble"),
        ({"parts": [{"kind": "better", "of": "one5.picked", "than": "one5"}]}, "has no validation images"),
        ({"parts": [{"kind": "better", "of": "baseline.mean_probabilities", "than": "one5"}]}, "has one branch"),
        ({"parts": [{"kind": "better", "of": "cifar10_one3", "than": "one3"}]}, "compare networks on the same images"),
        ({"parts": [{"kind": "about", "of": "one3", "than": "one5"}]}, "belongs to kind `about`"),
        ({"parts": [{"kind": "better", "of": "one3", "than": "one5", "target": [1.0, 2.0]}]}, "belongs to kind"),
        ({"parts": [{"kind": "about", "of": "one3", "than": "one5", "target": [2.0, 1.0]}]}, "must not fall"),
        ({"parts": [{"kind": "predictions_kept", "of": "merge3_first"}]}, "compares with the one parent"),
        ({"parts": [{"kind": "less_compute", "of": "one3", "than": ["one5", "one3"]}]}, "than"),
        ({"margin": math.inf}, "margin: Infinity is not valid"),
        ({"parts": [{"kind": "about", "of": "one3", "than": "one5", "target": [math.nan, 1.0]}]}, "target"),
        ({"parts": [{"kind": "not_worse", "of": "one3", "than": "one3"}]}, "compares a network with itself"),
        ({"parts": [{"kind": "not_worse", "of": "one3", "than": ["one5", "one5"]}]}, "or names one twice"),
        ({"parts": [{"kind": "less_compute", "of": "one3.branch1", "than": "one5"}]}, "about one3 as a whole"),
        ({"parts": [{"kind": "less_compute", "of": "one3", "than": "cifar10_one5"}]}, "on the same images"),
        ({"parts": [{"kind": "fewer_epochs", "of": "one3", "than": "one5"}]}, "one3 has no validation images"),
        (
            {"parts": [{"kind": "fewer_epochs", "of": "resnet18_distilled", "than": "resnet18_single"}]},
            "resnet18_distilled is not one network trained in stages",
        ),
        ({"parts": [{"kind": "predictions_kept", "of": "baseline_distilled"}]}, "has not one"),
        (
            {"parts": [{"kind": "fewer_epochs", "of": "resnet18_ensemble5", "than": "resnet18_single"}]},
            "resnet18_ensemble5 is not trained",
        ),
    ],
)
def test_bad_claims_are_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """One line that names the file, the claim and what is wrong with it."""
    with pytest.raises(CoopNetError) as error:
        read(tmp_path, {"a_claim": GOOD | change})
    assert message in str(error.value)
    assert str(error.value).startswith("claims.yaml: a_claim")
    assert "\n" not in str(error.value)


def test_claims_of_this_project_are_whole() -> None:
    """Numbers 1 to 22 are all there, in order, none twice, and each rests on a section that reports can have."""
    stated = entries.read(ROOT / "claims.yaml", ROWS)
    numbers = [claim.claim.number for claim in stated]
    assert len(set(numbers)) == len(numbers)
    plain = [int(re.match(r"\d+", number)[0]) for number in numbers]  # type: ignore[index]
    assert plain == sorted(plain)
    assert set(plain) == set(range(1, 23))
    known = {module.__name__.rpartition(".")[2] for module in SECTIONS} | {"curves"}
    assert {claim.claim.section for claim in stated} <= known


def test_every_child_is_compared_with_its_control() -> None:
    """Of the experiments that claims 4, 8 and 9 are about, each is compared with its parent and with its control."""
    stated = entries.read(ROOT / "claims.yaml", ROWS)
    compared: dict[str, set[str]] = {}
    for claim in stated:
        if re.fullmatch(r"(4|8|9)[a-h]", claim.claim.number):
            for one in claim.parts:
                compared.setdefault(one.of.experiment, set()).update(than.experiment for than in one.than)
    assert len(compared) == 10  # four starts of growth, four ways to join, two expansions
    for experiment, others in compared.items():
        assert set(ROWS[experiment].parents) <= others, experiment
        assert any("continued" in other for other in others), experiment


# The ledger of a study

OVERLAY = {
    "title": "tiny",
    "description": "",
    "device": "cpu",
    "threads": 1,
    "parts": ["foundation"],
    "only": ["one3_to_5_split_exact", "one5_holdout", "one3_holdout"],
    "time_scale": 0.02,
}


def made(folder: Path, share: Callable[[Run, str], float], seeds: int = 3) -> tuple[Workspace, Study]:
    """A workspace whose runs are right on the first `share` of 200 images in top-1, and on all in top-5.

    Step 0 is what the parent is, with one prediction changed, and an NLL that is 0.01 nats higher.
    """
    for name in ("params.yaml", "claims.yaml"):
        (folder / name).write_text((ROOT / name).read_text())
    (folder / "studies").mkdir()
    (folder / "studies/tiny.yaml").write_text(yaml.safe_dump(OVERLAY | {"seeds": list(range(seeds))}))
    workspace, plan = Workspace(folder), study.load(folder, "tiny")
    for run in plan.runs.values():
        write_run(workspace.run(plan, run), run, share)
    lines = [f"{name},{row.model.branches},{100 + row.model.branches}\n" for name, row in plan.experiments.items()]
    files.write_text(
        workspace.tables(plan.name) / "compute.csv", "experiment,training_flops,lineage_flops\n" + "".join(lines)
    )
    return workspace, plan


def write_run(folder: Path, run: Run, share: Callable[[Run, str], float]) -> None:
    """What `coopnet evaluate` leaves of a run, and its history."""

    def ranks(model: str, of: Run = run) -> np.ndarray:
        return np.where(np.arange(IMAGES) < round(share(of, model) * IMAGES), 0, 1)

    models = ["ensemble", *(f"branch{b + 1}" for b in range(run.row.model.branches))]
    bits = pack({f"final/{model}": ranks(model) for model in [*models, "picked", "mean_probabilities"]})
    metrics: dict[str, Any] = {"key": run.key, "final": {"test": {"images": IMAGES}}}
    if run.parents:
        parent = ranks("ensemble", run.parents[0])
        bits |= pack({"step0/ensemble": parent})
        scores = {"top1": 100 * (parent < 1).mean(), "top5": 100.0, "nll": 1.0, "ece": 5.0}
        versus = {"changed_predictions": 1, "parent": scores}
        metrics["step0"] = {"test": {"ensemble": scores | {"nll": 1.01}, "versus_parent": versus}}
    files.write_tensors(folder / "outcomes.safetensors", bits)
    metrics["files"] = {"outcomes.safetensors": files.sha256(folder / "outcomes.safetensors")}
    files.write_json(folder / "metrics.json", metrics)
    scores = ("validation_top1_ensemble", "validation_top5_ensemble")
    epochs = [{"epoch": e} | dict.fromkeys(scores, 10.0 * e) for e in range(run.row.training.epochs)]
    files.write_rows(folder / "history.csv", epochs)


def ledger_of(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The entries of `claims.json` by id, made anew."""
    command.claims(workspace, "tiny")
    return {entry["id"]: entry for entry in files.read_json(workspace.root / "results/tiny/claims.json")}


def by_branches(run: Run, model: str) -> float:
    """More branches are better, a child is better than its parent by 5 points, branch 1 is worse than the others."""
    return 0.4 + 0.05 * run.row.model.branches + 0.05 * bool(run.parents) - 0.05 * (model == "branch1")


def test_ledger_of_known_networks(tmp_path: Path) -> None:
    """Five points more for 100 points of images: estimates, verdicts and what stands beside them, by hand."""
    workspace, _ = made(tmp_path, by_branches)
    found = ledger_of(workspace)
    branch = found["one_branch_over_baseline/top1"]
    assert (branch["verdict"], branch["n"], branch["unit"]) == ("supported", 3, "points")
    assert branch["estimate"] == pytest.approx(5)  # 0.40 + 0.15 − 0.05 against 0.45
    assert branch["interval"][0] > 0
    beside = branch["parts"][0]["beside"]["mean of branches"]
    assert beside["estimate"] == pytest.approx(5 + 5 * 2 / 3)
    assert branch["parts"][0]["text"] == "one3, branch 1 \N{MINUS SIGN} baseline"
    assert not branch["parts"][0]["paired"]
    growth = found["split_over_parent/top1"]
    assert growth["estimate"] == pytest.approx(15)
    assert growth["parts"][0]["paired"]
    assert found["split_over_control/top1"]["estimate"] == pytest.approx(10)
    assert found["ensemble_over_branches/top1"]["verdict"] == "supported"
    same = found["smaller_vote_rivals_all/top1"]
    assert (same["estimate"], same["interval"], same["verdict"]) == (0, [0, 0], "supported")
    assert found["one_branch_over_baseline/top5"]["verdict"] == "inconclusive"  # all are right in top-5


def test_ledger_of_the_opposite(tmp_path: Path) -> None:
    """Where fewer branches are better, what says otherwise is contradicted."""
    workspace, _ = made(tmp_path, lambda run, model: 1 - by_branches(run, model))
    found = ledger_of(workspace)
    assert found["one_branch_over_baseline/top1"]["verdict"] == "contradicted"
    assert found["split_over_control/top1"]["verdict"] == "contradicted"
    assert found["two_stages_as_accurate/top1"]["verdict"] == "not run"  # the foundation has no matched compute


def test_missing_experiments_are_not_run(tmp_path: Path) -> None:
    """A claim about experiments that the study lacks has no number at all, and says which they are."""
    workspace, plan = made(tmp_path, by_branches)
    for entry in ledger_of(workspace).values():
        assert (entry["verdict"] == "not run") == bool(entry["missing"])
        assert not set(entry["missing"]) & set(plan.experiments)
        if entry["missing"]:
            numbers = ("estimate", "interval", "p", "p_holm")
            assert [entry[key] for key in numbers] == [None] * 4
            assert (entry["n"], entry["holm"]) == (0, "not run")


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_conclude_nothing(tmp_path: Path, seeds: int) -> None:
    """Nothing sampled is more than inconclusive, and says of which networks alone it speaks."""
    workspace, _ = made(tmp_path, by_branches, seeds)
    found = [entry for entry in ledger_of(workspace).values() if entry["verdict"] != "not run"]
    assert found
    for entry in found:
        assert (entry["verdict"], entry["p"]) == ("inconclusive", None)
        assert FEW in entry["note"]
        assert entry["n"] == seeds


def test_what_a_start_keeps_is_counted(tmp_path: Path) -> None:
    """One changed prediction refutes in one of three networks, none supports; and so do 0.01 nats more."""
    workspace, plan = made(tmp_path, by_branches)
    found = ledger_of(workspace)
    changed = found["masked_keeps_predictions/top1"]
    assert (changed["verdict"], changed["estimate"], changed["unit"]) == ("contradicted", 1, "images")
    assert (changed["p"], changed["interval"], changed["n"]) == (None, None, 3)
    assert found["masked_keeps_predictions/top5"]["verdict"] == "supported"
    nll = found["masked_keeps_calibration"]
    assert (nll["verdict"], nll["estimate"], nll["unit"]) == ("contradicted", pytest.approx(0.01), "nats")
    for seed in range(3):
        path = workspace.run(plan, plan.run("one3_to_5_masked", seed)) / "metrics.json"
        metrics = files.read_json(path)
        metrics["step0"]["test"]["versus_parent"]["changed_predictions"] = int(seed == 2)
        metrics["step0"]["test"]["ensemble"]["nll"] = 1.0
        files.write_json(path, metrics)
    found = ledger_of(workspace)
    changed = found["masked_keeps_predictions/top1"]
    assert (changed["verdict"], changed["estimate"]) == ("contradicted", pytest.approx(1 / 3))
    assert found["masked_keeps_calibration"]["verdict"] == "supported"
    metrics["step0"]["test"]["versus_parent"]["changed_predictions"] = 0
    files.write_json(path, metrics)
    assert ledger_of(workspace)["masked_keeps_predictions/top1"]["verdict"] == "supported"


def test_ledger_is_the_same_every_time(tmp_path: Path) -> None:
    """The same results give the same bytes, and a claim's numbers do not depend on the claims beside it."""
    workspace, _ = made(tmp_path, by_branches)
    whole = ledger_of(workspace)
    first = (tmp_path / "results/tiny/claims.json").read_bytes()
    ledger_of(workspace)
    assert (tmp_path / "results/tiny/claims.json").read_bytes() == first
    only = {"split_over_parent": yaml.safe_load((ROOT / "claims.yaml").read_text())["split_over_parent"]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(only))
    (alone, _) = ledger_of(workspace).values()
    ignored = ("p_holm", "holm")
    assert {k: v for k, v in alone.items() if k not in ignored} == {
        k: v for k, v in whole["split_over_parent/top1"].items() if k not in ignored
    }


def damage(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_results_are_refused_by_name(tmp_path: Path) -> None:
    """A flipped bit, another run's metrics, no table of FLOPs: one line that names the file and the remedy."""
    workspace, plan = made(tmp_path, by_branches)
    folder = workspace.run(plan, plan.run("one3", 2))
    outcomes = (folder / "outcomes.safetensors").read_bytes()
    damage(folder / "outcomes.safetensors")
    with pytest.raises(CoopNetError, match=r"one3/seed2/outcomes.safetensors is not the file that was evaluated"):
        command.claims(workspace, "tiny")
    (folder / "outcomes.safetensors").write_bytes(outcomes)
    other = files.read_json(folder / "metrics.json")
    files.write_json(folder / "metrics.json", other | {"key": "another"})
    with pytest.raises(CoopNetError, match=r"run `coopnet evaluate` for one3/seed2 again"):
        command.claims(workspace, "tiny")
    files.write_json(folder / "metrics.json", other | {"final": {"test": {"images": IMAGES + 8}}})
    with pytest.raises(CoopNetError, match="no usable outcomes"):
        command.claims(workspace, "tiny")
    files.write_json(folder / "metrics.json", other)
    table = workspace.tables(plan.name) / "compute.csv"
    table.write_text("experiment,training_flops\none3,many\n")
    with pytest.raises(CoopNetError, match="damaged"):
        command.claims(workspace, "tiny")
    table.unlink()
    with pytest.raises(CoopNetError, match="run `coopnet tables` first"):
        command.claims(workspace, "tiny")


@pytest.mark.parametrize("seeds", [1, 3])
def test_epochs_until_the_target_are_read_from_histories(tmp_path: Path, seeds: int) -> None:
    """Both reach 10 · epoch in the same epoch, so neither costs less; one seed alone has no interval of seeds."""
    workspace, _ = made(tmp_path, by_branches, seeds)
    parts = [{"kind": "fewer_epochs", "of": "one3_holdout", "than": "one5_holdout"}]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"fast": GOOD | {"parts": parts}}))
    for entry in ledger_of(workspace).values():
        assert (entry["estimate"], entry["unit"], entry["verdict"]) == (0, "epochs", "inconclusive")
        assert entry["interval"] == ([0, 0] if seeds == 3 else None)


def test_less_compute_is_counted(tmp_path: Path) -> None:
    """A ratio of counted FLOPs with all ancestors decides without sampling, however few seeds there are."""
    workspace, plan = made(tmp_path, by_branches, seeds=1)
    parts = [{"kind": "less_compute", "of": "one3", "than": "one5"}]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"cheap": GOOD | {"parts": parts}}))
    (cheap,) = ledger_of(workspace).values()
    assert cheap["id"] == "cheap"
    assert (cheap["verdict"], cheap["unit"], cheap["p"]) == ("supported", "change", None)
    assert cheap["estimate"] == pytest.approx(103 / 105 - 1)
    table = workspace.tables(plan.name) / "compute.csv"
    table.write_text(table.read_text().replace("one3,3,103", "one3,3,"))
    (unknown,) = ledger_of(workspace).values()
    assert (unknown["verdict"], unknown["estimate"]) == ("inconclusive", None)
    assert "imported checkpoint" in unknown["note"]

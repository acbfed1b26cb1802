"""The claims ledger decides by its stated rules."""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from coopnet import files, study
from coopnet.claims import costs, entries
from coopnet.claims import ledger as verdicts
from coopnet.claims.costs import Curves
from coopnet.claims.decisions import Judged, Judgement, Outcome, Part, conjunction, holm
from coopnet.claims.inference import Estimate, Source, difference
from coopnet.claims.ledger import Evidence, Pairing
from coopnet.claims.outcomes import Outcomes
from coopnet.claims.pairing import pair, roots
from coopnet.commands import claims as command
from coopnet.evaluation import gather, voting
from coopnet.evaluation.gather import RunFolder
from coopnet.evaluation.outcomes import pack
from coopnet.files.errors import CoopNetError
from coopnet.report import ledger
from coopnet.report.content import TOPICS
from coopnet.report.topics import claims as topic
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study
from coopnet.study.settings import Experiment

ROOT = Path(__file__).parents[2]
IMAGES = 200


# Verdicts


def flat(low: float, high: float, n: int = 3) -> Estimate:
    """An estimate whose 95 % interval is `low` to `high`."""
    error = (high - low) / (2 * norm.ppf(0.975))
    return Estimate((low + high) / 2, n, (Source(error**2, math.inf),))


@pytest.mark.parametrize(
    ("kind", "low", "high", "verdict"),
    [
        ("better", 0.1, 2, "supported"),
        ("better", -0.1, 2, "inconclusive"),
        ("better", -2, 0.1, "inconclusive"),
        ("better", -2, -0.1, "contradicted"),
        ("not_worse", -0.4, 2, "supported"),
        ("not_worse", -0.6, 2, "inconclusive"),
        ("not_worse", -0.9, -0.1, "inconclusive"),
        ("not_worse", -2, -0.6, "contradicted"),
        ("nothing", -0.4, 0.4, "supported"),
        ("nothing", -0.6, 0.4, "inconclusive"),
        ("nothing", -0.4, 0.6, "inconclusive"),
        ("nothing", -0.6, 0.6, "inconclusive"),
        ("nothing", 0.6, 2, "contradicted"),
        ("nothing", -2, -0.6, "contradicted"),
        ("about", 1.6, 2.4, "supported"),
        ("about", 0.6, 2.4, "supported"),
        ("about", 0.4, 1.6, "inconclusive"),
        ("about", 1.4, 2.6, "inconclusive"),
        ("about", 0.1, 4, "inconclusive"),
        ("about", 0.1, 0.4, "contradicted"),
        ("about", 2.6, 4, "contradicted"),
        ("about", -2, -0.1, "contradicted"),
        ("less_compute_to_target", -2, -0.1, "supported"),
        ("less_compute_to_target", -2, 0.1, "inconclusive"),
        ("less_compute_to_target", 0.1, 2, "contradicted"),
        ("calibration_kept", -2, 0.4, "supported"),
        ("calibration_kept", -2, 0.6, "inconclusive"),
        ("calibration_kept", 0.6, 2, "contradicted"),
    ],
)
def test_verdict_of_an_interval(kind: Any, low: float, high: float, verdict: str) -> None:
    """The verdict follows from the regions, and p agrees; two seeds decide nothing, whatever the interval."""
    target = [1.0, 2.0] if kind == "about" else None
    tested = Judgement(flat(low, high), kind, 0.5, target)
    part = tested.part("a comparison", target)
    assert (tested.verdict, part.verdict, part.basis) == (verdict, verdict, "tested")
    assert part.p is not None
    assert (part.p <= 0.05) == (verdict != "inconclusive")
    assert part.interval == pytest.approx((low, high))
    few = Judgement(flat(low, high, n=2), kind, 0.5, target).part("a comparison", target)
    assert (few.verdict, few.basis, few.p) == ("inconclusive", "too few seeds", None)


def test_a_vague_gain_supports_no_size() -> None:
    """An interval of 0.1 to 4 contains "2.5 to 3" and much else; only an interval close to it supports that size."""
    assert Judgement(flat(0.1, 4), "about", 0.5, [2.5, 3.0]).verdict == "inconclusive"
    assert Judgement(flat(2.1, 3.4), "about", 0.5, [2.5, 3.0]).verdict == "supported"


@pytest.mark.parametrize(
    ("low", "high", "note"),
    [
        (0.1, 0.4, "a gain, and a smaller one than claimed"),
        (2.6, 4, "a gain, and a larger one than claimed"),
        (-0.2, 0.4, "no such gain"),
        (-2, -1, "a loss"),
        (0.1, 1.5, ""),
    ],
)
def test_gain_of_another_size_is_said_to_be_one(low: float, high: float, note: str) -> None:
    """A verdict against the claimed size of a gain says in what way."""
    assert Judgement(flat(low, high), "about", 0.5, [1.0, 2.0]).part("", [1.0, 2.0]).note == note


def better(low: float, high: float, n: int = 3) -> Judged:
    """A tested part with a 95 % interval."""
    tested = Judgement(flat(low, high, n), "better")
    return tested.part(f"{low} to {high}"), tested


def counted(verdict: Any) -> Judged:
    """A counted part."""
    return Part(text="", kind="less_compute", verdict=verdict, basis="counted", estimate=1.0, n=1), None


def concluded(parts: Sequence[Judged]) -> Outcome:
    """The numbers of a conjunction."""
    return Outcome.model_validate({key: value for key, value in conjunction(parts).items() if key != "level"})


def test_conjunction_is_supported_by_its_weakest_part() -> None:
    """All parts must be supported; p, estimate and interval are those of the least certain part."""
    sure, less = better(3, 5), better(0.1, 2)
    assert concluded([sure, less]) == Outcome(**{name: getattr(less[0], name) for name in Outcome.model_fields})
    maybe = better(-0.5, 2)
    assert concluded([sure, maybe, less]).verdict == "inconclusive"
    assert concluded([sure, maybe, less]).estimate == maybe[0].estimate
    certain = Judgement(Estimate(1.0, 3, (Source(0.0, 2),)), "better")
    assert certain.p == 0
    assert concluded([(certain.part(""), certain), less]).estimate == less[0].estimate


def test_conjunction_is_refuted_at_the_price_of_all_parts() -> None:
    """One of four parts is below 0: its p counts four times, and the interval has level 98.75 %, which agrees."""
    parts = [better(1, 3), better(1, 2), better(-0.5, 1), better(-2, -0.7)]
    found, p = conjunction(parts), parts[3][0].p
    assert p is not None
    assert (found["verdict"], found["p"], found["level"]) == ("contradicted", pytest.approx(4 * p), 0.9875)
    assert found["interval"] == pytest.approx(parts[3][1].found.interval(0.9875))  # type: ignore[union-attr]
    images = Estimate(-5.0, 3, (Source(1.0, 2),), Source(7.0, 9999))  # at 95 %: 4.3 by seeds, 5.2 by images
    wide = Judgement(images, "better")
    both = conjunction([(wide.part(""), wide), *parts[:2]])  # at 98.3 % seeds have 7.6, and images 6.3
    assert (wide.part("").over_images, both["over_images"], both["level"]) == (True, False, pytest.approx(1 - 0.05 / 3))
    parts[3] = better(-2, -0.1)  # which alone would be contradicted
    found = conjunction(parts)
    assert parts[3][0].verdict == "contradicted"
    assert (found["verdict"], found["estimate"]) == ("inconclusive", parts[3][0].estimate)
    assert found["interval"][1] > 0  # type: ignore[index]


def test_the_surest_refutation_decides_a_conjunction() -> None:
    """Of two parts below 0 the one with the smaller p is shown, wherever it stands."""
    surest, other = better(-3, -2), better(-2, -0.5)
    for parts in ([surest, other], [other, surest]):
        assert concluded(parts).estimate == surest[0].estimate


def test_a_count_changes_nothing_about_what_was_tested_beside_it() -> None:
    """A part that is not surely below 0 has the p value and the interval of all tested parts together."""
    tested = [better(-2, -0.1), better(1, 2)]
    assert conjunction([counted("supported"), *tested]) == conjunction(tested)
    assert conjunction(tested)["level"] == 0.975


def test_conjunction_with_what_was_counted() -> None:
    """A count alone can refute; it supports only beside a tested part, and it has no p value."""
    tested = better(0.1, 2)
    assert (concluded([counted("supported"), tested]).basis, concluded([counted("supported"), tested]).p) == (
        "tested",
        tested[0].p,
    )
    for parts in ([counted("supported")], [counted("contradicted"), tested], [tested, counted("contradicted")]):
        found = concluded(parts)
        assert (found.basis, found.p) == ("counted", None)
        assert found.verdict == next(part.verdict for part, _ in parts if part.basis == "counted")


def test_conjunction_with_too_few_seeds() -> None:
    """A part with two seeds leaves the whole undecided, unless another part refutes it."""
    few = better(3, 4, n=2)
    assert (concluded([better(1, 2), few]).verdict, concluded([better(1, 2), few]).basis) == (
        "inconclusive",
        "too few seeds",
    )
    outside = better(-3, -2)
    refuted = concluded([outside, few])  # the other part may refute it too, once it has its seeds
    assert (refuted.verdict, refuted.p) == ("contradicted", pytest.approx(2 * (outside[0].p or 0.0)))
    for outside in (better(-4, -3, n=1), better(-1, 0.5, n=2)):  # the weakest part is shown, wherever it stands
        assert concluded([few, better(0.5, 1, n=2), outside]).estimate == outside[0].estimate
    assert concluded([few, better(-0.5, 1, n=1), better(3, 9, n=1)]).estimate == 0.25
    unknown = counted("inconclusive")  # a cost that cannot be known: seeds do not settle it
    assert concluded([better(-4, -3, n=1), few, unknown]).basis == "counted"


def test_conjunction_of_what_has_not_run() -> None:
    """One missing or undecided part decides the whole."""
    missing = Part(text="", kind="better", verdict="not run", missing=["one3"]), None
    undecided = Part(text="", kind="better", verdict="not decided", lost=["one3/seed0 diverged"]), None
    assert concluded([better(1, 2), missing, undecided]).verdict == "not run"
    found = concluded([better(1, 2), undecided])
    assert (found.verdict, found.note, found.basis) == ("not decided", "one3/seed0 diverged", None)


interval = st.tuples(st.floats(-3, 3), st.floats(0.01, 3), st.integers(2, 5))


@given(st.lists(interval, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_verdict_p_value_and_interval_of_a_claim_agree(parts: list[tuple[float, float, int]]) -> None:
    """For any parts: the claim is decided exactly if p ≤ 0.05, and on the side of the interval."""
    found = conjunction([better(low, low + width, n) for low, width, n in parts])
    outcome = Outcome.model_validate({key: value for key, value in found.items() if key != "level"})
    if outcome.p is None:
        assert not outcome.decided
        return
    assert outcome.interval is not None
    low, high = outcome.interval
    assert low is not None
    assert high is not None
    assert outcome.decided == (outcome.p <= 0.05)
    if min(abs(low), abs(high)) > 1e-6:
        assert outcome.verdict == ("supported" if low > 0 else "contradicted" if high < 0 else "inconclusive")


def test_holm_by_hand() -> None:
    """The smallest of four p values counts four times, the next three times; they never decrease or exceed 1."""
    assert holm([0.04, None, 0.01, 0.03, 0.6]) == pytest.approx([0.09, None, 0.04, 0.09, 0.6])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([None, None]) == [None, None]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_holm_is_its_step_down(p_values: list[float]) -> None:
    """The claims rejected at 5 % are exactly those that the step-down procedure rejects."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    rejected = set()
    for k, place in enumerate(order):
        if (len(p_values) - k) * p_values[place] > 0.05:
            break
        rejected.add(place)
    corrected = holm(p_values)
    assert {place for place, p in enumerate(corrected) if p is not None and p <= 0.05} == rejected


def unbounded(ends: tuple[float | None, float | None]) -> tuple[float, float]:
    """Both ends, infinite if there is none."""
    low, high = ends
    return -math.inf if low is None else low, math.inf if high is None else high


COMMITTED = sorted(ROOT.glob("results/*/claims.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_verdicts_agree_with_their_p_values_and_intervals(path: Path) -> None:
    """In every committed ledger a tested verdict is decided exactly if p ≤ 0.05 and no edge is in the interval."""
    decisions = [one for claim in ledger.load(path, path.parent.name) for one in claim.decisions]
    tested = [one for whole in decisions for one in (whole, *whole.parts) if one.basis == "tested"]
    assert tested
    for one in tested:
        assert one.p is not None
        assert one.interval is not None
        assert one.region is not None
        assert (one.verdict in ("supported", "contradicted")) == (one.p <= 0.05)
        (low, high), (first, last) = unbounded(one.interval), unbounded(one.region)
        where = "contradicted" if high < first or low > last else "inconclusive"
        assert one.verdict == ("supported" if first < low and high < last else where)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_verdicts_say_how_they_were_reached(path: Path) -> None:
    """A verdict without a p value is not a test: it is counted, has too few seeds, or was not run; Holm agrees."""
    decisions = [one for claim in ledger.load(path, path.parent.name) for one in claim.decisions]
    waiting = [one.verdict == "not decided" or (one.basis == "too few seeds" and bool(one.region)) for one in decisions]
    corrected = holm([1.0 if waits else one.p for one, waits in zip(decisions, waiting, strict=True)])
    for one, p in zip(decisions, corrected, strict=True):
        assert (one.p is None) == (one.basis != "tested")
        if one.p is None:
            assert one.p_holm is None
        else:
            assert one.p_holm == pytest.approx(p)
        assert one.survives_holm == ((one.p_holm or 0) <= 0.05 if one.decided and one.basis == "tested" else None)


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
    """The third replicate is paired with its own parents, control and members, and with no others."""
    found = pair(of(full, first), of(full, second))
    assert found.paired
    assert names(found.of) == [f"{first}/seed{k}" for k in range(3)]
    assert names(found.than[2]) == third


def test_half_related_networks_are_refused(full: Study) -> None:
    """Networks that share some of their ancestors are neither paired nor independent, and the message says so."""
    for first, second in (("one1", "merge3_refit"), ("combine3", "combine3_with_baseline")):
        with pytest.raises(CoopNetError, match="neither paired nor independent"):
            pair(of(full, first), of(full, second))
    with pytest.raises(CoopNetError, match="neither paired nor independent"):  # one replicate lacks its parent
        pair(of(full, "one3_to_5_split"), of(full, "one3")[:2])


@pytest.mark.parametrize(
    ("first", "second"),
    [("one3", "baseline"), ("one3_to_5_split", "one5"), ("one3", "baseline_ensemble3"), ("one5", "one5_holdout")],
)
def test_equal_seeds_alone_pair_nothing(full: Study, first: str, second: str) -> None:
    """Networks without a common ancestor are independent groups."""
    found = pair(of(full, first), of(full, second))
    assert not found.paired
    assert names([run for group in found.than for run in group]) == names(of(full, second))
    assert not roots(found.of[0]) & roots(found.than[0][0])


# Until a target is reached


def test_cost_until_target_by_hand() -> None:
    """Ten epochs at cost 1 and two at cost 5: the target is reached in the 3rd, in the 11th, or never (full cost)."""
    price = np.array([1.0] * 10 + [5.0] * 2)
    rising = np.arange(12.0)
    assert [costs.until(rising, target, price) for target in (2, 10, 11.5)] == [(3, True), (15, True), (20, False)]


def curves(ends: Sequence[float], epochs: int, price: float = 1.0) -> Curves:
    """One curve per seed, which rises linearly from 0 to its end."""
    return Curves(np.outer(ends, np.arange(1, epochs + 1) / epochs), np.full(epochs, price))


def test_two_stages_against_one() -> None:
    """Two stages that reach 20 in their 3rd epoch; one stage needs 5: two epochs fewer, and 6 / 15 of the cost."""
    two = Curves(np.tile([5.0, 10, 20, 30], (3, 1)), np.array([2.0, 2, 2, 3]))
    one = Curves(np.tile([4.0, 8, 12, 16, 20], (3, 1)), np.array([2.0, 3, 3, 3, 4]))
    epochs = costs.to_target(two._replace(price=np.ones(4)), one._replace(price=np.ones(5)), ratio=False)
    assert (epochs.value, epochs.n) == (-2, 3)
    assert epochs.half_width() == pytest.approx(norm.ppf(0.975) * math.sqrt(2 / 12))  # seeds agree; epochs are rounded
    cheaper = costs.to_target(two, one, ratio=True)
    assert cheaper.value == pytest.approx(6 / 15 - 1)
    rounding = ((1 / 15 * 3) ** 2 + (6 / 15**2 * 4) ** 2) / 12  # each slope times the price of the dearest epoch
    assert cheaper.sources == (Source(0.0, 2), Source(pytest.approx(rounding), math.inf))  # type: ignore[arg-type]
    assert (
        Judgement(epochs, "fewer_epochs").verdict == Judgement(cheaper, "less_compute_to_target").verdict == "supported"
    )


def test_cost_varies_with_every_seed() -> None:
    """The jackknife's variance by hand: leaving out the fast, the middle or the slow seed moves the crossing."""
    of, than = curves([60.0, 40.0, 20.0], 60), curves([20.0, 20.0, 20.0], 10)
    # The mean ends at 40, so it reaches 20 in epoch 30; without one seed it ends at 30, 40 or 50: epoch 40, 30 or 24.
    found = costs.to_target(of, than, ratio=False)
    assert found.value == 30 - 10
    assert found.sources[0] == (pytest.approx(2 * np.var([40, 30, 24])), 2)


def test_stages_are_the_chain_of_single_parents() -> None:
    """A child's stages begin with its first ancestor; those of a child of a merged network begin with the merge."""

    def child(*parents: Any) -> Any:
        return SimpleNamespace(parents=parents)

    first = child()
    second = child(first)
    merged = child(first, second)
    third, after = child(second), child(merged)
    assert costs.stages(third) == [first, second, third]
    assert costs.stages(after) == [merged, after]


def test_target_that_is_never_reached() -> None:
    """A target that is never reached costs at least all epochs: more refute lower cost, fewer do not support it."""
    slow, target = curves([8.0, 8.0, 8.0], 20), curves([10.0, 10.0, 10.0], 15)
    for ratio in (False, True):  # 5 epochs more, or a third
        assert Judgement(costs.to_target(slow, target, ratio=ratio), "fewer_epochs").verdict == "contradicted"
    short = costs.to_target(curves([8.0, 8.0, 8.0], 5), target, ratio=False)
    assert (short.value, Judgement(short, "fewer_epochs").verdict) == (-10, "inconclusive")
    one_seed_decides = costs.to_target(curves([20.0, 8.0, 8.0], 5), target, ratio=False)
    assert one_seed_decides.value < 0
    assert Judgement(one_seed_decides, "fewer_epochs").verdict == "inconclusive"


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
        ({"margin": "0.5"}, 'margin: "0.5" is not valid'),
        ({"parts": []}, "parts: [] is not valid"),
        ({"section": "grwoth"}, "did you mean 'growth'?"),
        ({"parts": [{"kind": "better", "of": "one3", "than": "one5", "margin": 1.0}]}, "write it beside `parts`"),
        ({"parts": [{"kind": "beter", "of": "one3", "than": "one5"}]}, "did you mean 'better'?"),
        ({"parts": [{"kind": "better", "of": "one3", "then": "one5"}]}, "did you mean 'than'?"),
        ({"parts": [{"kind": "better", "of": "one33", "than": "one5"}]}, "'one33' is not an experiment"),
        ({"parts": [{"kind": "better", "of": "one3", "than": ["one5", "basline"]}]}, "did you mean 'baseline'?"),
        ({"parts": [{"kind": "better", "of": "one3.branch4", "than": "one5"}]}, "one3 has 3 branches, so no branch4"),
        ({"parts": [{"kind": "better", "of": "one3.branches", "than": "one5"}]}, "'branches' is no model"),
        ({"parts": [{"kind": "better", "of": "one3 branch1", "than": "one5"}]}, "it must be `experiment`"),
        ({"parts": [{"kind": "better", "of": 3, "than": "one5"}]}, "it must be `experiment`"),
        ({"parts": [{"kind": "better", "of": "one3@transfer", "than": "one5"}]}, "it has no network at transfer"),
        (
            {"parts": [{"kind": "better", "of": "one3_to_5_split.branch1@transfer", "than": "one5"}]},
            "only the ensemble",
        ),
        ({"parts": [{"kind": "better", "of": "one5.picked", "than": "one5"}]}, "has no validation images"),
        ({"parts": [{"kind": "better", "of": "one3_continued@transfer", "than": "one3"}]}, "no network at transfer"),
        ({"parts": [{"kind": "predictions_kept", "of": "one3_continued"}]}, "grows from exactly one parent"),
        ({"parts": [{"kind": "better", "of": "baseline.mean_probabilities", "than": "one5"}]}, "has one branch"),
        ({"parts": [{"kind": "better", "of": "cifar10_one3", "than": "one3"}]}, "compare networks on the same images"),
        ({"parts": [{"kind": "about", "of": "one3", "than": "one5"}]}, "required for kind `about`"),
        ({"parts": [{"kind": "better", "of": "one3", "than": "one5", "target": [1.0, 2.0]}]}, "required for kind"),
        ({"parts": [{"kind": "about", "of": "one3", "than": "one5", "target": [2.0, 1.0]}]}, "least gain comes first"),
        (
            {"parts": [{"kind": "about", "of": "one3", "than": "one5", "target": [0.5, 1.0]}]},
            "not larger than the margin",
        ),
        ({"parts": [{"kind": "predictions_kept", "of": "merge3_first"}]}, "exactly one parent"),
        ({"parts": [{"kind": "calibration_kept", "of": "one3_to_5_masked"}]}, "tolerance: {nll"),
        (
            {"parts": [{"kind": "predictions_kept", "of": "one3_to_5_masked", "tolerance": {"nll": 0.1, "ece": 1.0}}]},
            "required for kind `calibration_kept`",
        ),
        ({"lengths": ["one1", "basline"]}, "lengths: 'basline' is not an experiment of params.yaml; did you mean"),
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
            "resnet18_distilled has several parents or a teacher",
        ),
        ({"parts": [{"kind": "predictions_kept", "of": "baseline_distilled"}]}, "exactly one parent"),
        (
            {"parts": [{"kind": "fewer_epochs", "of": "resnet18_ensemble5", "than": "resnet18_single"}]},
            "resnet18_ensemble5 is not trained",
        ),
    ],
)
def test_bad_claims_are_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """One line names the file, the claim and the mistake."""
    with pytest.raises(CoopNetError) as error:
        read(tmp_path, {"a_claim": GOOD | change})
    assert message in str(error.value)
    assert str(error.value).startswith("claims.yaml: a_claim")
    assert "\n" not in str(error.value)


def with_branches(name: str, branches: int) -> Experiment:
    """A row of params.yaml with another number of branches."""
    row = ROWS[name]
    return row.model_copy(update={"model": row.model.model_copy(update={"branches": branches})})


def test_claims_know_how_many_branches_are_voted_on(tmp_path: Path) -> None:
    """A claim about a picked vote is accepted if and only if there will be one: for 2 to 8 branches."""
    assert entries.MOST == voting.MOST
    picked = GOOD | {"parts": [{"kind": "better", "of": "one5_holdout.picked", "than": "one5_holdout.branch1"}]}
    read(tmp_path, {"a_claim": picked})
    for branches, accepted in ((1, False), (2, True), (8, True), (9, False)):
        own = ROWS | {"one5_holdout": with_branches("one5_holdout", branches)}
        with nullcontext() if accepted else pytest.raises(CoopNetError, match="to pick from"):
            entries.read(tmp_path / "claims.yaml", own)


def test_claims_are_checked_against_the_rows_of_the_study(tmp_path: Path) -> None:
    """A study may give a row fewer branches; a claim about the third is then refused, if the study has both rows."""
    third = GOOD | {"parts": [{"kind": "better", "of": "one3.branch3", "than": "baseline"}]}
    read(tmp_path, {"a_claim": third})
    own = {"one3": with_branches("one3", 2)}
    entries.read(tmp_path / "claims.yaml", ROWS, own)
    with pytest.raises(CoopNetError, match="one3 has 2 branches, so no branch3"):
        entries.read(tmp_path / "claims.yaml", ROWS, own | {"baseline": ROWS["baseline"]})


def test_epochs_of_two_parents_are_not_added_up(tmp_path: Path) -> None:
    """A network of two parents has no single line of epochs."""
    fewer = {"kind": "fewer_epochs", "of": "one3_holdout", "than": "one5_holdout"}
    read(tmp_path, {"a_claim": GOOD | {"parts": [fewer]}})
    changes = {"parents": ["one1", "one1"], "start": ROWS["merge3_refit"].start}
    merged = ROWS | {"one3_holdout": ROWS["one3_holdout"].model_copy(update=changes)}
    assert not merged["one3_holdout"].taught
    with pytest.raises(CoopNetError, match="one3_holdout has several parents"):
        entries.read(tmp_path / "claims.yaml", merged)


def test_a_number_is_given_once(tmp_path: Path) -> None:
    """Two claims with one number would look like one claim in the ledger."""
    with pytest.raises(CoopNetError, match=r"^claims\.yaml: second\.number: '1' is the number of first; give another"):
        read(tmp_path, {"first": GOOD, "second": GOOD})


def test_claims_of_this_project_are_whole() -> None:
    """Numbers 1 to 22 are all present, in order and once; claims may name every section of a report."""
    stated = entries.read(ROOT / "claims.yaml", ROWS)
    numbers = [claim.claim.number for claim in stated]
    plain = [int(re.match(r"\d+", number)[0]) for number in numbers]  # type: ignore[index]
    assert plain == sorted(plain)
    assert set(plain) == set(range(1, 23))
    known = {module.__name__.rpartition(".")[2] for module in TOPICS}
    assert known | set(topic.SECTIONS) == set(entries.SECTIONS)


def test_every_child_is_compared_with_its_control() -> None:
    """Each experiment of claims 4, 8 and 9 is compared with its parent and with its control."""
    stated = entries.read(ROOT / "claims.yaml", ROWS)
    compared: dict[str, set[str]] = {}
    for claim in stated:
        if re.fullmatch(r"4[a-hjk]|8[a-l]|9[a-d]", claim.claim.number):
            for one in claim.parts:
                compared.setdefault(one.of.experiment, set()).update(than.experiment for than in one.than)
    assert len(compared) == 13  # five starts of growth, six ways to join, two expansions
    for experiment, others in compared.items():
        assert set(ROWS[experiment].parents) <= others, experiment
        assert any("continued" in other for other in others), experiment


def test_shorter_parents_are_named_beside_every_network_made_of_them() -> None:
    """A gain is partly due to more training: of each merge of one1, and of each expansion over one1 itself."""
    for claim in entries.read(ROOT / "claims.yaml", ROWS):
        parents = [ROWS[part.of.experiment].parents for part in claim.parts]
        merged = any("one1" in names and len(names) > 1 for names in parents)
        over = any("one1" in map(str, part.than) for part in claim.parts) and any("one1" in names for names in parents)
        if merged or over:
            assert claim.claim.lengths == ["one1", "baseline"], claim.id


# The ledger of a study

OVERLAY = {
    "title": "tiny",
    "description": "",
    "device": "cpu",
    "threads": 1,
    "only": [
        *(name for name, row in ROWS.items() if row.part == "foundation"),
        *("one3_to_5_split_exact", "one5_holdout", "one3_holdout"),
    ],
    "time_scale": 0.02,
}


def made(
    folder: Path, share: Callable[[Run, str], float], seeds: int = 3, **overlay: object
) -> tuple[Workspace, Study]:
    """A workspace whose runs classify the first `share` of 200 images correctly in top-1, and all in top-5.

    Further arguments replace settings of `OVERLAY`.

    At transfer a network equals its parent, except for one changed prediction and an NLL that is 0.01 nats higher.
    """
    for name in ("params.yaml", "claims.yaml"):
        (folder / name).write_text((ROOT / name).read_text())
    (folder / "studies").mkdir()
    (folder / "studies/tiny.yaml").write_text(yaml.safe_dump(OVERLAY | overlay | {"seeds": list(range(seeds))}))
    workspace, plan = Workspace(folder), study.load(folder, "tiny")
    for run in plan.runs.values():
        write_run(workspace.run(plan, run), run, share)
    gather.write(
        [RunFolder(run.experiment, run.seed, workspace.run(plan, run)) for run in plan.runs.values()],
        workspace.results(plan.name),
    )
    lines = [f"{name},{row.model.branches},{100 + row.model.branches}\n" for name, row in plan.experiments.items()]
    files.write_text(
        workspace.tables(plan.name) / "compute.csv", "experiment,training_flops,lineage_flops\n" + "".join(lines)
    )
    return workspace, plan


def write_run(folder: Path, run: Run, share: Callable[[Run, str], float]) -> None:
    """Write the output of `coopnet evaluate` for a run, and its history."""

    def ranks(model: str, of: Run = run) -> np.ndarray:
        return np.where(np.arange(IMAGES) < round(share(of, model) * IMAGES), 0, 1)

    models = ["ensemble", *(f"branch{b + 1}" for b in range(run.row.model.branches))]
    bits = pack({f"final/{model}": ranks(model) for model in [*models, "picked", "mean_probabilities"]})
    accuracy = {"top1": 100 * float((ranks("ensemble") < 1).mean()), "top5": 100.0}
    metrics: dict[str, Any] = {"key": run.key, "final": {"test": {"images": IMAGES, "ensemble": accuracy}}}
    if run.parents:
        parent = ranks("ensemble", run.parents[0])
        bits |= pack({"at_transfer/ensemble": parent})
        scores = {"top1": 100 * (parent < 1).mean(), "top5": 100.0, "nll": 1.0, "ece": 5.0}
        versus = {"changed_predictions": 1, "parent": scores}
        metrics["at_transfer"] = {"test": {"ensemble": scores | {"nll": 1.01}, "versus_parent": versus}}
    files.write_tensors(folder / "outcomes.safetensors", bits)
    metrics["files"] = {"outcomes.safetensors": files.sha256(folder / "outcomes.safetensors")}
    files.write_json(folder / "metrics.json", metrics)
    scores = ("validation_top1_ensemble", "validation_top5_ensemble")
    epochs = [{"epoch": e} | dict.fromkeys(scores, 10.0 * e) for e in range(run.row.training.epochs)]
    files.write_rows(folder / "history.csv", epochs)
    listed = {"history.csv": files.sha256(folder / "history.csv")}
    files.write_json(folder / "run.json", {"row": run.row.decisive(), "files": listed})


def ledger_of(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The entries of a new `claims.json` by id."""
    command.claims(workspace, "tiny")
    return {entry["id"]: entry for entry in files.read_json(workspace.root / "results/tiny/claims.json")}


def by_branches(run: Run, model: str) -> float:
    """More branches are better, a child is 5 points better than its parent, and branch 1 is worse than the others."""
    return 0.4 + 0.05 * run.row.model.branches + 0.05 * bool(run.parents) - 0.05 * (model == "branch1")


def test_ledger_of_known_networks(tmp_path: Path) -> None:
    """Five points per 100 points of images: estimates, verdicts and further values, calculated by hand."""
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


def test_one_lineage_is_compared_seed_by_seed_and_others_as_two_groups(tmp_path: Path) -> None:
    """Seeds differ by 5 points. A parent and its child share that, and a baseline and a network of ONE do not."""
    workspace, plan = made(tmp_path, lambda run, model: by_branches(run, model) + 0.05 * run.seed)
    found, outcomes = ledger_of(workspace), Outcomes(workspace.results(plan.name))
    bits = {
        name: np.stack([outcomes.accuracy(plan.run(name, seed), entries.Reference(name))[0] for seed in range(3)])
        for name in ("baseline", "one3", "one3_to_5_split")
    }
    paired, unpaired = found["split_over_parent/top1"], found["one_ensemble_over_baseline/top1"]
    assert paired["interval"] == pytest.approx(difference(bits["one3_to_5_split"] - bits["one3"]).interval())
    assert unpaired["interval"] == pytest.approx(difference(bits["one3"], bits["baseline"]).interval())
    widths = [entry["interval"][1] - entry["interval"][0] for entry in (paired, unpaired)]
    assert widths[1] > 1.5 * widths[0]


def test_ledger_of_the_opposite(tmp_path: Path) -> None:
    """If fewer branches are better, claims to the contrary are contradicted."""
    workspace, _ = made(tmp_path, lambda run, model: 1 - by_branches(run, model))
    found = ledger_of(workspace)
    assert found["one_branch_over_baseline/top1"]["verdict"] == "contradicted"
    assert found["split_over_control/top1"]["verdict"] == "contradicted"
    assert found["two_stages_as_accurate/top1"]["verdict"] == "not run"  # the foundation has no matched compute


@pytest.mark.parametrize(("seeds", "basis"), [(3, "tested"), (1, "too few seeds")])
def test_better_than_each_is_better_than_the_best(tmp_path: Path, seeds: int, basis: str) -> None:
    """A merge of networks with 40, 50 and 60 % has 58 %: better than their mean, but not than each of them.

    The best one is another parent in each replicate, so no fixed one of the three has 60 % everywhere.
    """

    def share(run: Run, model: str) -> float:
        replicate, place = divmod(run.seed, 3)
        return 0.58 if run.parents else 0.4 + 0.1 * ((replicate + place) % 3)

    workspace, _ = made(tmp_path, share, seeds, only=["one1", "merge3_first"])
    part = {"kind": "better", "of": "merge3_first", "than": "one1"}
    both = {"each": {"number": "1", "parts": [part | {"each": True}]}, "mean": {"number": "2", "parts": [part]}}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({name: GOOD | change for name, change in both.items()}))
    found = ledger_of(workspace)
    each, mean = found["each/top1"], found["mean/top1"]
    assert each["parts"][0]["text"] == "merge3_first \N{MINUS SIGN} one1 (the best of 3 on the test images)"
    assert (each["estimate"], each["n"], each["basis"]) == (pytest.approx(-2), seeds, basis)
    assert (mean["estimate"], mean["parts"][0]["paired"]) == (pytest.approx(8), True)
    if seeds == 3:
        assert (each["verdict"], mean["verdict"]) == ("contradicted", "supported")


def test_a_comparison_needs_the_runs_that_it_compares(tmp_path: Path) -> None:
    """A failed parent that has no child in the comparison is not missed; any run of a cost is."""
    few = {"one3_to_5_split": {"seeds": [0, 2]}}
    _, plan = made(tmp_path, by_branches, experiments=few)
    lost = {("one3", seed): f"one3/seed{seed} diverged" for seed in (0, 1)}
    lost |= {("one5", 2): "one5/seed2 diverged"}
    evidence = Evidence(plan, cast(Any, None), {}, lost)
    parts = {
        "better": {"kind": "better", "of": "one3_to_5_split", "than": "one3"},
        "unpaired": {"kind": "better", "of": "one3_to_5_split", "than": "baseline"},
        "cost": {"kind": "less_compute", "of": "one3_to_5_split", "than": "one3"},
        "of": {"kind": "better", "of": "one5", "than": "baseline"},
    }
    content = {
        name: GOOD | {"number": str(place), "parts": [part]} for place, (name, part) in enumerate(parts.items(), 1)
    }
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content))
    stated = {claim.id: claim.parts[0] for claim in entries.read(tmp_path / "claims.yaml", plan.experiments)}
    found = {name: evidence.without(part) for name, part in stated.items()}
    assert found == {
        "better": ("one3/seed0 diverged",),
        "unpaired": (),
        "cost": ("one3/seed0 diverged", "one3/seed1 diverged"),
        "of": ("one5/seed2 diverged",),
    }
    assert Evidence(plan, cast(Any, None), {}).without(stated["better"]) == ()


@pytest.mark.parametrize(
    ("basis", "region", "verdict", "waits"),
    [
        ("too few seeds", (0.0, None), "inconclusive", True),
        ("too few seeds", None, "inconclusive", False),
        ("tested", (0.0, None), "supported", False),
        ("counted", None, "supported", False),
        (None, None, "not decided", True),
        (None, None, "not run", False),
    ],
)
def test_what_waits_for_a_test(basis: str | None, region: Any, verdict: str, waits: bool) -> None:
    """A sample on too few seeds, and what lacks a failed run; but no count, and nothing that the study lacks."""
    assert verdicts._untested({"basis": basis, "region": region, "verdict": verdict}) == waits


def test_a_claim_that_lacks_a_failed_run_is_not_decided(tmp_path: Path) -> None:
    """It names the run, and what was to be compared; a claim about an experiment that is not there is not run."""
    workspace, plan = made(tmp_path, by_branches)
    stated = entries.read(ROOT / "claims.yaml", study.rows(ROOT), plan.experiments)
    lost = {("one3", 1): "one3/seed1 diverged", ("one3_to_5_masked", 0): "one3_to_5_masked/seed0 diverged"}
    outcomes = Outcomes(workspace.results(plan.name))
    compute = costs.read_compute(workspace.tables(plan.name) / "compute.csv", plan.name)
    found = {one.id: one for one in verdicts.decide_all(stated, Evidence(plan, outcomes, compute, lost))}
    ensemble, growth = found["one_ensemble_over_baseline/top1"], found["masked_over_parent/top5"]
    assert (ensemble.verdict, ensemble.note) == ("not decided", "one3/seed1 diverged")
    assert ensemble.parts[0].text == "one3 \N{MINUS SIGN} baseline"
    assert growth.parts[0].lost == ["one3/seed1 diverged", "one3_to_5_masked/seed0 diverged"]
    kept = found["masked_keeps_predictions/top1"].parts[0]
    assert (kept.text, kept.lost) == ("one3_to_5_masked", ["one3_to_5_masked/seed0 diverged"])
    assert found["split_keeps_predictions/top1"].verdict == "contradicted"
    absent = found["two_stages_as_accurate/top1"]
    assert (absent.verdict, absent.parts[0].lost) == ("not run", [])


def test_what_is_exactly_at_the_level_survives(tmp_path: Path) -> None:
    """A verdict survives Holm's correction up to p = 0.05."""
    workspace, _ = made(tmp_path, by_branches)
    entry = ledger_of(workspace)["split_over_parent/top1"]
    assert entry["verdict"] == "supported"
    assert verdicts._corrected(entry, 0.05).survives_holm is True
    assert verdicts._corrected(entry, 0.0500001).survives_holm is False


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [
        (["a", "b"], "a has 11 epochs, b has 1,020 epochs"),
        (["a", "b", "c"], "a has 11 epochs, b has 1,020 epochs, c has 20 epochs"),
        (["a", "d"], ""),
        (["a", "missing"], ""),
        ([], ""),
    ],
)
def test_epochs_are_named_where_they_differ(lengths: list[str], shown: str) -> None:
    """Equal lengths need no words, and without one of the experiments there is nothing to compare."""
    epochs = {"a": 11, "b": 1020, "c": 20, "d": 11}
    rows = {name: SimpleNamespace(training=SimpleNamespace(epochs=number)) for name, number in epochs.items()}
    assert verdicts._lengths(lengths, cast(Any, SimpleNamespace(experiments=rows))) == shown


@pytest.mark.parametrize(
    ("kinds", "scores"),
    [
        (["calibration_kept"], 1),
        (["less_compute", "calibration_kept"], 1),
        (["better", "less_compute"], 2),
        (["fewer_epochs"], 2),
    ],
)
def test_a_claim_about_accuracy_is_decided_for_top_1_and_top_5(kinds: list[str], scores: int) -> None:
    """One part about accuracy is enough."""
    of, plan = SimpleNamespace(experiment="a"), SimpleNamespace(experiments={})
    claim = SimpleNamespace(parts=[SimpleNamespace(kind=kind, of=of) for kind in kinds])
    assert len(verdicts._scores(cast(Any, claim), cast(Any, SimpleNamespace(plan=plan)))) == scores


def test_epochs_to_a_target_are_those_of_the_score(tmp_path: Path) -> None:
    """A claim for top-5 reads the curves of top-5."""
    _, plan = made(tmp_path, by_branches)
    stated = entries.read(ROOT / "claims.yaml", study.rows(ROOT), plan.experiments)
    (claim,) = [one for one in stated if one.id == "two_stages_fewer_epochs"]
    part = claim.parts[0].model_copy(update={"of": entries.Reference("one3"), "than": [entries.Reference("one5")]})
    read = set[str]()

    def curve(run: Run, score: str) -> np.ndarray:
        read.add(score)
        return np.linspace(1, 50, run.row.training.epochs)

    compute = {name: costs.Compute(100, 100) for name in plan.experiments}
    evidence = Evidence(plan, cast(Any, SimpleNamespace(validation_curve=curve)), compute)
    for score in ("top1", "top5"):
        read.clear()
        list(verdicts._judged(claim, part, score, evidence))
        assert read == {score}


def costly(kind: str, of: Sequence[float], than: Sequence[float], seeds: tuple[int, int] = (3, 3)) -> Part:
    """Decide a claim about costs from the accuracies by epoch of both; an epoch costs 6 FLOPs, and one of `than` 2."""
    data = SimpleNamespace(training_subset=0, validation=500)
    curves, price = {"a": list(of), "b": list(than)}, {"a": 6, "b": 2}

    def run(name: str, seed: int) -> Any:
        training, start = SimpleNamespace(epochs=len(curves[name])), SimpleNamespace(kind="random")
        row = SimpleNamespace(training=training, start=start, data=data)
        return SimpleNamespace(experiment=name, seed=seed, parents=(), row=row, key=f"{name}{seed}")

    runs = [run(name, seed) for name, number in zip("ab", seeds, strict=True) for seed in range(number)]
    plan = SimpleNamespace(runs={one.key: one for one in runs}, experiments={})
    outcomes = SimpleNamespace(validation_curve=lambda one, score: np.array(curves[one.experiment], float))
    compute = {
        name: costs.Compute(price[name] * len(curve), price[name] * len(curve)) for name, curve in curves.items()
    }
    part = entries.Cost.model_validate({"kind": kind, "of": "a", "than": "b"})
    evidence = Evidence(cast(Any, plan), cast(Any, outcomes), compute)
    (found,) = verdicts._judged(cast(Any, None), part, "top1", evidence)
    return found[0]


def test_costs_until_a_target_are_those_of_the_network_that_is_claimed_to_cost_less() -> None:
    """It reaches 50 after 2 of 4 epochs, the other one after 8: 6 epochs less, and 12 FLOPs against 16."""
    fast, slow = [20, 50, 55, 60], [10, 20, 25, 30, 35, 40, 45, 50]
    fewer, cheaper = costly("fewer_epochs", fast, slow), costly("less_compute_to_target", fast, slow)
    assert (fewer.verdict, fewer.estimate, fewer.unit, fewer.note) == ("supported", -6, "epochs", "")
    assert (cheaper.estimate, cheaper.unit, cheaper.n) == (pytest.approx(12 / 16 - 1), "change", 3)
    assert cheaper.text == "training FLOPs until the target, a / b \N{MINUS SIGN} 1"
    assert fewer.paired is False
    split = "one division into training and validation images for all seeds"
    assert fewer.given == ["these validation images", split]
    assert costly("fewer_epochs", fast, slow, (2, 3)).given == ["these validation images", split]
    assert costly("fewer_epochs", fast, slow, (1, 3)).given == ["these validation images", "these networks"]
    never = costly("fewer_epochs", slow, fast)
    assert (never.verdict, never.estimate) == ("contradicted", 8 - 4)
    assert never.note == "a never reaches the final accuracy of b, so it costs at least this"


@pytest.mark.parametrize(
    ("epochs", "verdict"), [(2, "supported"), (3, "contradicted"), (4, "contradicted"), (7, "contradicted")]
)
def test_all_training_is_counted(epochs: int, verdict: str) -> None:
    """Nine epochs of 2 FLOPs cost as much as three of 6, which is not less."""
    found = costly("less_compute", [50] * epochs, [50] * 9, (2, 5))
    assert (found.verdict, found.estimate, found.basis, found.n) == (
        verdict,
        pytest.approx(epochs / 3 - 1),
        "counted",
        2,
    )


def test_an_interval_names_what_all_seeds_share() -> None:
    """One choice of training images, and one division into training and validation images, where there are any."""

    def run(subset: int, validation: int) -> Any:
        return SimpleNamespace(row=SimpleNamespace(data=SimpleNamespace(training_subset=subset, validation=validation)))

    assert verdicts._given([run(0, 0), run(0, 0)]) == []
    assert verdicts._given([run(0, 0), run(0, 500)]) == [
        "one division into training and validation images for all seeds"
    ]
    assert verdicts._given([run(8000, 0), run(0, 0), run(400, 0)]) == [
        "one choice of 400 training images for all seeds",
        "one choice of 8,000 training images for all seeds",
    ]


@pytest.mark.parametrize(
    ("each", "sizes", "best"), [(True, (1, 1), 0), (True, (1, 2), 2), (True, (3,), 3), (False, (3,), 0)]
)
def test_a_comparison_with_the_best_of_several_says_so(each: bool, sizes: tuple[int, ...], best: int) -> None:
    """Only if a replicate has several other networks, of which the best one counts."""
    replicates = SimpleNamespace(than=[[None] * size for size in sizes])
    one = Pairing(cast(Any, SimpleNamespace(each=each)), cast(Any, "a"), cast(Any, "b"), cast(Any, replicates))
    assert one.text == "a \N{MINUS SIGN} b" + f" (the best of {best} on the test images)" * bool(best)


def test_missing_experiments_are_not_run(tmp_path: Path) -> None:
    """A claim about experiments that the study lacks has no number, and names them."""
    workspace, plan = made(tmp_path, by_branches)
    for entry in ledger_of(workspace).values():
        assert (entry["verdict"] == "not run") == bool(entry["missing"])
        assert not set(entry["missing"]) & set(plan.experiments)
        if entry["missing"]:
            numbers = ("estimate", "interval", "p", "p_holm")
            assert [entry[key] for key in numbers] == [None] * 4
            assert (entry["n"], entry["basis"], entry["survives_holm"]) == (0, None, None)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_conclude_nothing(tmp_path: Path, seeds: int) -> None:
    """Nothing sampled is more than inconclusive, and the entry names the networks that it is limited to."""
    workspace, _ = made(tmp_path, by_branches, seeds)
    found = [entry for entry in ledger_of(workspace).values() if entry["verdict"] != "not run"]
    assert found
    for entry in found:
        assert (entry["verdict"], entry["p"]) == ("inconclusive", None)
        assert entry["basis"] == "too few seeds"
        assert entry["n"] == seeds
        for part in entry["parts"]:  # only an interval of one network each is over images alone
            alone = any("interval is over test images alone" in words for words in part["given"])
            assert alone == (seeds == 1 and part["interval"] is not None)
            if part["kind"] == "calibration_kept":
                assert ("these networks" in part["given"]) == (seeds == 1)


def test_claims_on_too_few_seeds_count_in_the_correction(tmp_path: Path) -> None:
    """Seven verdicts on one seed count as p = 1, and a count does not; with three seeds, no other p is larger."""

    def share(run: Run, model: str) -> float:
        return by_branches(run, model) + 0.02 * run.seed

    (tmp_path / "few").mkdir()
    workspace, _ = made(tmp_path / "few", share, experiments={"one3_to_5_split": {"seeds": [0]}})
    found = ledger_of(workspace)
    assert found["noisy_split_keeps_predictions/top1"]["basis"] == "too few seeds"
    tested = {name: entry["p"] for name, entry in found.items() if entry["p"] is not None}
    waiting = [entry for entry in found.values() if entry["basis"] == "too few seeds" and entry["region"]]
    assert len(waiting) == 7
    expected = holm([*tested.values(), *(1.0 for _ in waiting)])[: len(tested)]
    assert [found[name]["p_holm"] for name in tested] == pytest.approx(expected)
    (tmp_path / "all").mkdir()
    complete = ledger_of(made(tmp_path / "all", share)[0])
    assert all(complete[name]["p_holm"] <= found[name]["p_holm"] for name, p in tested.items())
    assert all(complete[name]["p"] == p for name, p in tested.items())


def test_what_a_start_keeps_is_counted_or_tested(tmp_path: Path) -> None:
    """One changed prediction in one of three networks refutes; 0.01 nats more refute only if several seeds agree."""
    workspace, plan = made(tmp_path, by_branches)
    found = ledger_of(workspace)
    changed = found["masked_keeps_predictions/top1"]
    assert (changed["verdict"], changed["estimate"], changed["unit"]) == ("contradicted", 1, "images")
    assert (changed["p"], changed["interval"], changed["n"]) == (None, None, 3)
    assert found["masked_keeps_predictions/top5"]["verdict"] == "supported"
    nll = found["masked_keeps_calibration"]
    assert (nll["verdict"], nll["estimate"], nll["unit"]) == ("contradicted", pytest.approx(0.01), "nats")
    assert [part["verdict"] for part in nll["parts"]] == ["contradicted", "supported"]  # ECE is what it was
    assert nll["region"] == [None, 0.001]
    assert [(part["paired"], part["given"]) for part in nll["parts"]] == [(True, ["these test images"])] * 2
    (counts,) = changed["parts"]
    assert counts["text"] == "one3_to_5_masked at transfer, changed predictions"
    (counts,) = found["masked_keeps_predictions/top5"]["parts"]
    assert counts["text"] == "one3_to_5_masked at transfer, changed images right or wrong in top-5"
    assert counts["beside"]["change of nll"]["estimate"] == pytest.approx(0.01)
    path = workspace.results(plan.name) / "metrics.json"
    metrics = files.read_json(path)
    for seed in range(3):
        at_transfer = metrics[f"one3_to_5_masked/seed{seed}"]["at_transfer"]["test"]
        at_transfer["versus_parent"]["changed_predictions"] = int(seed == 2)
        at_transfer["ensemble"]["nll"] = 1.0
    files.write_json(path, metrics)
    found = ledger_of(workspace)
    changed = found["masked_keeps_predictions/top1"]
    assert (changed["verdict"], changed["estimate"]) == ("contradicted", pytest.approx(1 / 3))
    assert found["masked_keeps_calibration"]["verdict"] == "supported"
    at_transfer["ensemble"]["nll"] = 1.005  # one of three, so seeds differ by more than they differ from 0
    files.write_json(path, metrics)
    spread = ledger_of(workspace)["masked_keeps_calibration"]
    assert (spread["verdict"], spread["estimate"]) == ("inconclusive", pytest.approx(0.005 / 3))
    at_transfer["versus_parent"]["changed_predictions"] = 0
    files.write_json(path, metrics)
    assert ledger_of(workspace)["masked_keeps_predictions/top1"]["verdict"] == "supported"


def test_ledger_is_the_same_every_time(tmp_path: Path) -> None:
    """The same results give the same bytes, and a claim's numbers do not depend on other claims."""
    workspace, _ = made(tmp_path, by_branches)
    whole = ledger_of(workspace)
    first = (tmp_path / "results/tiny/claims.json").read_bytes()
    ledger_of(workspace)
    assert (tmp_path / "results/tiny/claims.json").read_bytes() == first
    only = {"split_over_parent": yaml.safe_load((ROOT / "claims.yaml").read_text())["split_over_parent"]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(only))
    (alone, _) = ledger_of(workspace).values()
    ignored = ("p_holm", "survives_holm")
    assert {k: v for k, v in alone.items() if k not in ignored} == {
        k: v for k, v in whole["split_over_parent/top1"].items() if k not in ignored
    }


def test_damaged_results_are_refused_by_name(tmp_path: Path) -> None:
    """Metrics of another run, truncated outcomes, a missing table of FLOPs: one line names the file and the remedy."""
    workspace, plan = made(tmp_path, by_branches)
    results = workspace.results(plan.name)
    gathered = files.read_json(results / "metrics.json")
    other = gathered | {"one3/seed2": gathered["one3/seed2"] | {"key": "another"}}
    files.write_json(results / "metrics.json", other)
    with pytest.raises(CoopNetError, match=r"no metrics of one3/seed2 with its present.*run `coopnet tables`"):
        command.claims(workspace, "tiny")
    images = gathered["one3/seed2"] | {"final": {"test": {"images": IMAGES + 8}}}
    files.write_json(results / "metrics.json", gathered | {"one3/seed2": images})
    with pytest.raises(CoopNetError, match="no usable outcomes"):
        command.claims(workspace, "tiny")
    files.write_json(results / "metrics.json", gathered)
    outcomes = (results / "outcomes.safetensors").read_bytes()
    (results / "outcomes.safetensors").write_bytes(outcomes[: len(outcomes) // 2])
    with pytest.raises(CoopNetError, match=r"outcomes.safetensors is damaged"):
        command.claims(workspace, "tiny")
    (results / "outcomes.safetensors").write_bytes(outcomes)
    table = workspace.tables(plan.name) / "compute.csv"
    table.write_text("experiment,training_flops\none3,many\n")
    with pytest.raises(CoopNetError, match="damaged"):
        command.claims(workspace, "tiny")
    table.unlink()
    with pytest.raises(CoopNetError, match="run `coopnet tables tiny` first"):
        command.claims(workspace, "tiny")


@pytest.mark.parametrize("seeds", [1, 3])
def test_epochs_until_the_target_are_read_from_histories(tmp_path: Path, seeds: int) -> None:
    """Both reach 10 · epoch in the same epoch, so neither costs less; a single seed has no interval over seeds."""
    workspace, _ = made(tmp_path, by_branches, seeds)
    parts = [{"kind": "fewer_epochs", "of": "one3_holdout", "than": "one5_holdout"}]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"fast": GOOD | {"parts": parts}}))
    for entry in ledger_of(workspace).values():
        assert (entry["estimate"], entry["unit"], entry["verdict"]) == (0, "epochs", "inconclusive")
        rounding = norm.ppf(0.975) * math.sqrt(2 / 12)  # of both epochs, all that is left where seeds agree
        assert entry["interval"] == (pytest.approx([-rounding, rounding]) if seeds == 3 else None)


def test_epochs_of_an_imported_ancestor_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim is inconclusive, and the others are decided; an ancestor that is not trained has no epochs."""
    workspace, plan = made(tmp_path, by_branches, 1)
    parts = [{"kind": "fewer_epochs", "of": "one3_holdout", "than": "one5_holdout"}]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"fast": GOOD | {"parts": parts}}))
    known = costs.stages

    def imported(run: Run) -> list[Run]:
        start = SimpleNamespace(kind="imported")
        return [SimpleNamespace(row=SimpleNamespace(start=start)), *known(run)]  # type: ignore[list-item]

    monkeypatch.setattr(costs, "stages", imported)
    for entry in ledger_of(workspace).values():
        assert (entry["verdict"], entry["estimate"]) == ("inconclusive", None)
        assert entry["note"] == "the training of an imported checkpoint is unknown"
    untrained = SimpleNamespace(row=SimpleNamespace(training=SimpleNamespace(epochs=0)))
    results = Outcomes(workspace.results(plan.name))
    assert results.validation_curve(untrained, "top1").shape == (0,)  # type: ignore[arg-type]


@pytest.mark.parametrize(("classes", "scores"), [(5, ("top1",)), (6, ("top1", "top5"))])
def test_five_classes_have_no_top5(classes: int, scores: tuple[str, ...], tmp_path: Path) -> None:
    """Every image is right in top-5 there, so a verdict on it would say nothing."""
    _, plan = made(tmp_path, by_branches, 1)
    parts = [{"kind": "better", "of": "one5", "than": "one3"}]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"more": GOOD | {"parts": parts}}))
    (stated,) = entries.read(tmp_path / "claims.yaml", plan.experiments)
    name = plan.experiments["one5"].data.dataset
    data = SimpleNamespace(experiments=plan.experiments, data={name: SimpleNamespace(classes=classes)})
    assert tuple(verdicts._scores(stated, cast(Any, SimpleNamespace(plan=data)))) == scores


def test_less_compute_is_counted(tmp_path: Path) -> None:
    """A ratio of counted FLOPs, including all ancestors, decides without sampling, for any number of seeds."""
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

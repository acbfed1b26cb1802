"""The first screen of the report: which sentence follows from which verdicts, and what its figure shows."""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

import report_fixture as synthetic
from conftest import ROOT
from coopnet import files
from coopnet.claims.decisions import Part
from coopnet.report import content, differences, drawing, ledger, tables
from coopnet.report.differences import Difference
from coopnet.report.frames import Tables, load
from coopnet.report.tables import growth as growth_tables
from coopnet.report.topics import answer, calibration, cells, claims, failed, growth, method
from coopnet.report.topics.one import section as one_section
from coopnet.report.wording import MINUS
from coopnet.study import read_yaml


def one(name: str, estimate: float, n: int = 3, reach: float = 0.5, group: str = "growth") -> Difference:
    """A difference whose interval extends that far to each side."""
    interval = (estimate - reach, estimate + reach) if n >= 3 else None
    return Difference(group, name, name, "control", estimate, interval, n, ["4a"])


def said(*found: Difference) -> str:
    """The sentence about some differences."""
    return answer.against_control(found, "way to grow", "the control")


# Sentences -----------------------------------------------------------------------------------------


def test_a_gain_is_said_with_number_and_interval() -> None:
    """The sentence names the network first, then what it is compared with."""
    assert said(one("split", 1.25)) == "split (+1.25\u00a0[+0.75,\u00a0+1.75]) is more accurate than the control."


def test_no_gain_is_said_before_losses_and_what_is_undecided() -> None:
    """The order is: losses from large to small, no loss, what is undecided, and what has too few seeds."""
    sentence = said(
        one("open", 0.1, reach=0.7),
        one("few", 9.0, n=1),
        one("equal", -0.02, reach=0.4),
        one("small", -0.3, reach=0.1),
        one("loss", -0.6),
        one("large", -2.0),
    )
    assert sentence == (
        "No way to grow was shown to be more accurate than the control; "
        f"large ({MINUS}2.00\u00a0[{MINUS}2.50,\u00a0{MINUS}1.50]) is less accurate, by more than 0.5 points; "
        f"loss ({MINUS}0.60\u00a0[{MINUS}1.10,\u00a0{MINUS}0.10]) is less accurate, maybe by more than 0.5 points; "
        f"small ({MINUS}0.30\u00a0[{MINUS}0.40,\u00a0{MINUS}0.20]) is less accurate, by less than 0.5 points; "
        f"equal ({MINUS}0.02\u00a0[{MINUS}0.42,\u00a0+0.38]) is not worse by more than 0.5 points; "
        f"undecided is open (+0.10\u00a0[{MINUS}0.60,\u00a0+0.80]); "
        "on fewer than 3 seeds, and so undecided: few."
    )


def test_a_sentence_says_what_survives_holm_and_what_no_claim_tests() -> None:
    """Both stand beside the number that they concern."""
    kept = replace(one("kept", 2.0), after_holm=frozenset({"gain"}))
    assert said(kept, replace(one("own", 1.0), claims=())) == (
        "kept† (+2.00\u00a0[+1.50,\u00a0+2.50]) and own (+1.00\u00a0[+0.50,\u00a0+1.50] over seeds alone) are more "
        "accurate than the control."
    )


def test_many_undecided_are_named_without_numbers() -> None:
    """Numbers of undecided differences are shown only if nothing is decided."""
    several = [one(f"open{place}", 0.1, reach=0.7) for place in range(3)]
    assert said(*several).count("[") == 3
    assert said(*several, one("gain", 2.0)).endswith("undecided are open0, open1 and open2.")


def test_too_few_seeds_give_no_number() -> None:
    """A difference of one seed never appears on the first screen."""
    sentence = said(one("few", 9.0, n=1), one("two", 8.0, n=2))
    assert sentence == (
        "Undecided: each way to grow that has a control was compared with the control on fewer than 3 seeds."
    )
    assert said() == ""


@pytest.mark.parametrize(
    ("low", "high", "finding"),
    [
        (0.01, 2.0, "gain"),
        (0.0, 2.0, "equal"),
        (-0.49, 0.0, "equal"),
        (-0.49, -0.01, "small"),
        (-0.5, -0.01, "loss"),
        (-3.0, -0.5, "loss"),
        (-3.0, -0.51, "large"),
        (-0.5, 0.0, "open"),
        (-1.0, 1.0, "open"),
    ],
)
def test_the_interval_alone_decides_a_finding(low: float, high: float, finding: str) -> None:
    """The finding is read off the ends: above 0, below 0, and above the margin of half a point or not."""
    found = Difference("growth", "x", "x", "control", (low + high) / 2, (low, high), 3)
    assert found.finding == finding


def test_no_finding_contradicts_the_ledger() -> None:
    """In every committed study, the finding of a comparison agrees with the verdict of each claim about it."""
    agreeing = {
        ("better", "supported"): {"gain"},
        ("better", "contradicted"): {"small", "loss", "large"},
        ("better", "inconclusive"): {"equal", "open"},
        ("not_worse", "inconclusive"): {"loss", "open"},
        ("not_worse", "supported"): {"gain", "equal", "small"},
        ("not_worse", "contradicted"): {"large"},
        ("nothing", "supported"): {"gain", "equal", "small"},
        ("nothing", "contradicted"): {"gain", "large"},
        ("about", "supported"): {"gain"},
    }
    compared = 0
    for path in sorted((ROOT / "results").glob("*/claims.json")):
        loaded = load(path.parent / "tables")
        findings = {(found.label, found.control): found for found in differences.differences(loaded)}
        for decision in (own for claim in loaded.claims for own in claim.decisions if own.score == "top1"):
            for part in decision.parts:
                pair = ledger.pair(part)
                label = pair and (f"{pair.of}, {pair.model}" if pair.model else pair.of)
                found = findings.get((str(label), pair.than)) if pair else None
                if found and found.interval and (part.kind, part.verdict) in agreeing:
                    assert found.finding in agreeing[part.kind, part.verdict], (decision.id, part.text)
                    compared += 1
    assert compared >= 10


@pytest.mark.parametrize(
    ("kind", "verdict", "low", "survives", "estimate", "shown"),
    [
        ("better", "contradicted", 0.0, True, -2.0, True),
        ("better", "contradicted", 0.0, False, -2.0, False),
        ("not_worse", "supported", -0.5, True, -0.3, False),
        ("not_worse", "supported", -0.5, True, 0.0, True),
        ("not_worse", "supported", -2.0, True, 0.0, False),
        ("about", "contradicted", 2.0, True, 8.0, True),
        ("about", "supported", 2.0, True, 3.0, True),
        ("about", "contradicted", 2.0, True, 0.5, False),
        ("about", "contradicted", -0.5, True, 8.0, False),
    ],
)
def test_the_sign_of_holm_belongs_to_the_finding(
    kind: str, verdict: str, low: float, survives: bool, estimate: float, shown: bool
) -> None:
    """A claim that survives the correction marks a finding only if its verdict says what the finding says."""
    high = 3.5 if kind == "about" else None
    part = SimpleNamespace(kind=kind, verdict=verdict, region=(low, high), p=0.001, estimate=estimate)
    decision = SimpleNamespace(survives_holm=survives, verdict=verdict, parts=[part])
    after = differences._after_holm(cast(Any, decision), cast(Any, part))
    ends = (estimate - 0.1, estimate + 0.1)
    assert Difference("growth", "x", "x", "control", estimate, ends, 3, ["4"], after).survives_holm is shown


def test_the_sign_of_holm_belongs_to_the_part_that_refutes_a_claim() -> None:
    """The correction was made for the smallest p value of the parts. The p value of another part is larger."""
    parts = [
        SimpleNamespace(kind="better", verdict="contradicted", region=(0.0, None), p=p) for p in (0.0002, 0.004)
    ] + [SimpleNamespace(kind="better", verdict="inconclusive", region=(0.0, None), p=0.07)]
    decision = SimpleNamespace(survives_holm=True, verdict="contradicted", parts=parts)
    shown = [bool(differences._after_holm(cast(Any, decision), cast(Any, part))) for part in parts]
    assert shown == [True, False, False]


@pytest.mark.parametrize(
    ("n", "claimed", "remark"), [(3, True, ""), (3, False, "over seeds alone"), (1, False, "fewer than 3 seeds")]
)
def test_a_cell_says_what_its_interval_covers(n: int, claimed: bool, remark: str) -> None:
    """Only the ledger's intervals cover the choice of test images too."""
    found = one("split", 1.25, n=n)
    assert cells.to_control(found if claimed else replace(found, claims=())).detail == remark


def test_the_comparisons_are_counted() -> None:
    """Each finding is counted once, and only what a claim supports after the correction is left after it."""
    kept = Difference("growth", "x", "x", "control", 2.0, (1.5, 2.5), 3, ["4"], frozenset({"gain"}))
    lost = Difference(
        "growth", "y", "y", "control", -2.0, (-2.5, -1.5), 3, ["5"], frozenset({"small", "loss", "large"})
    )
    assert answer.in_short([one("small", -0.3, reach=0.1), lost, one("equal", 0.0, reach=0.4), kept]) == (
        "Of 4 comparisons with a control, 1 shows a gain, 2 a loss (1 smaller than 0.5 points and 1 larger) "
        "and 1 excludes a loss of more than 0.5 points. The intervals are uncorrected. 2 of the findings "
        "survive Holm’s correction and are marked †. For a loss this confirms the direction, not the size."
    )
    assert answer.in_short([kept]).endswith("1 of the findings survives Holm’s correction and is marked †.")
    assert answer.in_short([kept, one("few", 9.0, n=1)]).startswith(
        "Of 1 comparison with a control on 3 seeds or more, 1 shows a gain. 1 more rests on fewer seeds. The"
    )
    assert answer.in_short([one("open", 0.0, reach=0.7)]).startswith(
        "Of 1 comparison with a control, none shows a gain and 1 is undecided. The intervals are uncorrected. None of "
        "the findings survives"
    )
    assert answer.in_short([]) == ""


def test_how_sure_counts_the_ledger() -> None:
    """Verdicts are counted by their basis, then those that the tests decide, then those left."""
    loaded = load(ROOT / "results" / "mini" / "tables")
    entries = files.read_json(ROOT / "results" / "mini" / "claims.json")
    tested, counted, few = (
        [one for one in entries if one["basis"] == basis] for basis in ("tested", "counted", "too few seeds")
    )
    absent = [one for one in entries if one["verdict"] == "not run"]
    assert len(entries) == len(tested) + len(counted) + len(few) + len(absent)
    decided = [one for one in tested if one["verdict"] != "inconclusive"]
    left = [one for one in decided if one["p_holm"] <= 0.05]
    words = (
        f"The ledger has {len(entries)} verdicts: {len(tested)} tested, {len(counted)} counted, {len(few)} on too few "
        f"seeds and {len(absent)} not run. The tests decide {len(decided)}, and {len(left)} of these survive Holm’s "
        "correction"
    )
    assert words in " ".join(answer.sure(loaded))


def test_every_kind_of_network_is_compared_with_its_published_epochs() -> None:
    """Part 3 was published with other epochs than ONE."""
    (first, *_) = answer.limits(load(ROOT / "results" / "mini" / "tables"))
    assert first.startswith(
        "From scratch, networks were trained for at most 21 epochs, against 300 in the ONE paper; ResNet-18 was "
        "trained for at most 7 epochs, against 100 in the published Part 3."
    )


def test_predictions_are_counted() -> None:
    """Starts that change no prediction come first; the others have their share of the images."""
    rows = [
        _row("one3", None, 3),
        *(_row(f"grown_{kind}", kind, 5) for kind in ("zero_pad", "masked", "split")),
    ]
    counts = {"grown_zero_pad": 1500.0, "grown_masked": 0.0, "grown_split": 25.0}
    loaded = SimpleNamespace(
        experiments=rows,
        transfer_mean=pd.DataFrame([{"experiment": name, "images": 10_000} for name in counts]),
        claims=[ledger.Claim([cast(Any, _counted(name, value))]) for name, value in counts.items()],
    )
    assert answer.at_transfer(cast(Tables, loaded)) == (
        "Growing 3 branches into 5 by masked changes no prediction; zero_pad changes 15.0 % and split with σ = 0.1 "
        "changes 0.2 % of them (counted on 10,000 test images, 3 seeds)."
    )


def _row(name: str, start: str | None, branches: int) -> dict[str, Any]:
    started = {"kind": start or "random"} | ({"noise": 0.1} if start == "split" else {})
    return {"name": name, "branches": branches, "parents": ["one3"] if start else [], "row": {"start": started}}


def _counted(name: str, value: float) -> Any:
    part = SimpleNamespace(kind="predictions_kept", text=f"{name} at transfer, changed predictions")
    return SimpleNamespace(parts=[part], has_results=True, estimate=value, n=3, score="top1")


def test_every_claim_has_a_question_and_a_section() -> None:
    """Every number of `claims.yaml` has a question in words, and the sections that it names are those of a report."""
    stated = read_yaml(ROOT / "claims.yaml").values()
    topics = {module.__name__.rpartition(".")[2] for module in content.TOPICS}
    for claim in stated:
        assert int("".join(filter(str.isdigit, claim["number"]))) in claims.QUESTIONS
        assert claims.SECTIONS.get(claim["section"], claim["section"]) in topics


# Differences ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("one3, branch 1 − baseline", ("one3", "branch 1", "baseline", "")),
        ("a_b − c", ("a_b", "", "c", "")),
        ("x, mean of probabilities − y, branch 2", ("x", "mean of probabilities", "y", "branch 2")),
        ("x at transfer − y at transfer", None),
        ("x − y (1 of 3)", None),
        ("x, changed predictions", None),
    ],
)
def test_what_a_part_compares(text: str, pair: tuple[str, ...] | None) -> None:
    """The two networks at the end of their training, or None."""
    assert ledger.pair(cast(Part, SimpleNamespace(text=text))) == pair


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of the four kinds of growth with three seeds, and a ledger that compares one of them with its control."""
    root = tmp_path_factory.mktemp("answer")
    runs, info = synthetic.write_study(root / "runs", seeds=(0, 1, 2))
    tables.build(runs, info, root / "tables")
    (entry,) = [e for e in synthetic.claims() if e["claim"] == "one_over_baseline" and e["score"] == "top1"]
    part = entry["parts"][0] | {"text": "one3_to_5_split − one3_continued"}
    files.write_json(root / "claims.json", [entry | {"parts": [part]}])
    return root / "tables"


def test_untrained_branches_that_stay_behind_are_said_to(study: Path) -> None:
    """Only networks whose new branches are a point or more behind count, and copies never do."""
    tables = load(study)
    assert growth.behind(tables) == []  # by half a point

    def lowered(name: str, points: float) -> None:
        tables.accuracy.loc[
            (tables.accuracy["experiment"] == name) & tables.accuracy["model"].isin(["branch4", "branch5"]), "top1_mean"
        ] -= points

    lowered("one3_to_5_split", 20)
    assert growth.behind(tables) == []
    lowered("one3_to_5_masked", 9.5)
    (sentence,) = growth.behind(tables)
    epochs = next(row["epochs"] for row in tables.experiments if row["name"] == "one3_to_5_masked")
    assert sentence.startswith(
        f"The new branches of masked begin untrained. After {epochs} epochs of fine-tuning they are 10.0 points of"
    )
    assert sentence in answer.limits(tables)
    lowered("one3_to_5_zero_pad", 4.5)
    (sentence,) = growth.behind(tables)
    assert "of zero_pad and masked begin" in sentence
    assert "they are 5.0 to 10.0 points of" in sentence


def test_the_ledger_s_numbers_win_and_others_are_student_s_t(study: Path) -> None:
    """If a claim makes the same comparison, its estimate and interval are used; otherwise Student's t over seeds."""
    found = differences.of_ensembles(load(study))
    split, masked = found["one3_to_5_split"], found["one3_to_5_masked"]
    assert (split.estimate, split.interval, split.finding) == (1.23, (0.4, 2.1), "gain")
    assert split.claims
    rows = load(study).growth
    own = rows[(rows["experiment"] == "one3_to_5_masked") & (rows["model"] == "ensemble") & (rows["metric"] == "top1")]
    values = list(own["over_control"])
    reach = 4.302652729911275 * statistics.stdev(values) / math.sqrt(3)  # Student's t, two degrees of freedom
    assert masked.estimate == pytest.approx(statistics.mean(values))
    assert masked.interval == pytest.approx((masked.estimate - reach, masked.estimate + reach))
    assert not masked.claims
    assert "one3_continued" not in found


def test_fewer_than_three_seeds_have_no_interval(tmp_path: Path) -> None:
    """They are not in the first figure either."""
    runs, info = synthetic.write_study(tmp_path / "runs", seeds=(0, 1))
    tables.build(runs, info, tmp_path / "tables")
    files.write_json(tmp_path / "claims.json", [])
    loaded = load(tmp_path / "tables")
    assert {one.interval for one in differences.differences(loaded)} == {None}
    assert answer.overview(loaded) is None


def test_the_figure_names_its_finding(study: Path) -> None:
    """Its alternative text names each network and its difference; its caption says which are shown, and their names."""
    picture, draw = answer.overview(load(study)) or pytest.fail("no figure")
    assert "more accurate: one3_to_5_masked +0.60 and one3_to_5_split +1.23" in picture.alt
    assert "Shown are the 4 of 9 experiments that have a control and 3 seeds or more" in picture.caption
    unclaimed = "one3_to_5_zero_pad, one3_to_5_zero_output and one3_to_5_masked"
    assert f"No claim tests the difference of {unclaimed}:" in picture.caption
    assert "Names: one3_to_5…: one3 grown into 5 branches; one3: ONE with 3 branches." in picture.caption
    words = {text.get_text() for text in draw().findobj(lambda item: hasattr(item, "get_text"))}
    assert {"one3_to_5_split", differences.GROUPS["growth"], "seeds", "3"} <= words
    assert f"margin: {MINUS}0.5 points" in words


def test_each_group_has_a_scale_of_its_own() -> None:
    """A gain of eight points in one group leaves the intervals of another readable: each fills most of its panel."""
    found = [one("split", -0.2, reach=0.1), one("masked", -0.6, reach=0.2), one("ensemble5", 8.0, group="distillation")]
    growth, part3 = answer.draw(found).axes
    assert {text.get_text() for text in growth.texts} >= {differences.GROUPS["growth"], "split", "masked"}
    assert {text.get_text() for text in part3.texts} >= {differences.GROUPS["distillation"], "ensemble5"}
    assert growth.get_xlim()[1] < 0.1 < 8.5 <= part3.get_xlim()[1]
    assert (growth.get_xlabel(), part3.get_xlabel()) == ("", "difference of test top-1 (points)")


def test_noisy_copies_come_closer_to_their_donors() -> None:
    """What docs/growth.md says of them; exact copies, which differ by rounding alone, are not counted."""
    (sentence,) = calibration._apart(load(ROOT / "results/mini/tables"))
    assert sentence.startswith("Of 3 networks with noisy copies, copy and donor disagree on more test images")
    assert "after training than at transfer in 0, on fewer in 3" in sentence
    assert "brought noisy copies closer" in " ".join((ROOT / "docs/growth.md").read_text(encoding="utf-8").split())


def test_an_ablation_says_how_often_branches_disagree() -> None:
    """The section on ONE has the mean over pairs and seeds, with all parts and without one; docs/one.md agrees."""
    measured = files.read_json(ROOT / "results/mini/metrics.json")
    section = one_section(load(ROOT / "results/mini/tables"))
    assert section is not None
    shares = {}
    parts = ("one3_no_distillation", "one3_no_gate", "one3_no_rampup", "one3_no_sharing")
    for name, seeds in (("one3", 5), *((part, 3) for part in parts)):
        pairs = [
            pair["disagreement"]
            for seed in range(seeds)
            for pair in measured[f"{name}/seed{seed}"]["final"]["test"]["diversity"]["pairs"].values()
        ]
        shares[name] = statistics.fmean(pairs)
        assert f"{shares[name]:.1f} % in {name}" in section.sentences[1]
    assert "more accurate *without* distillation" in (ROOT / "docs/one.md").read_text(encoding="utf-8")
    (compared,) = (
        found
        for found in differences.differences(load(ROOT / "results/mini/tables"))
        if found.label == "one3" and found.control == "one3_no_distillation"
    )
    assert compared.finding in ("loss", "large")
    assert shares["one3_no_distillation"] > shares["one3"]


def test_a_control_that_lacks_seeds_is_still_the_control() -> None:
    """The seeds that have a control are compared with it; no mean is split, and the number of its seeds is right."""
    loaded = load(ROOT / "results/mini/tables")
    loaded.growth.loc[loaded.growth["seed"] == 0, ["control", "control_value", "over_control"]] = None
    merged = loaded.merges["seed"] == 0
    loaded.merges.loc[merged, "control"] = "one1_continued_merge; baseline_continued_merge"
    loaded.merges.loc[merged, "ensemble_over_control_ensemble_top1"] = None
    found = {one.experiment: (one.control, one.n) for one in differences._from_tables(loaded)}
    assert found["one3_to_5_masked"] == ("one3_continued", 4)
    assert found["combine3"] == ("one1_continued_ensemble3", 2)

    class Line:
        def parents(self, run: SimpleNamespace) -> list[SimpleNamespace]:
            return [SimpleNamespace(experiment="one3", seed=run.seed, final=scores(40.0))]

        def control(self, run: SimpleNamespace) -> SimpleNamespace | None:
            control = SimpleNamespace(final=scores(41.0))
            return SimpleNamespace(name="longer", ensemble=control) if run.seed else None

    def scores(value: float) -> Callable[[str], dict[str, dict[str, float]]]:
        of = dict.fromkeys(("top1", "top5", "nll", "ece"), value)
        return lambda split: dict.fromkeys(("ensemble", "branch_mean", "branch1"), of)

    runs = [SimpleNamespace(experiment="x", start="split", seed=s, final=scores(42.0 + s)) for s in range(3)]
    means = growth_tables.tables(runs, None, Line())["growth_mean"][1]  # type: ignore[arg-type]
    rows = [row for row in means if (row["model"], row["metric"]) == ("ensemble", "top1")]
    assert [(row["n"], row["control"], row["child_mean"], row["over_control_mean"]) for row in rows] == [
        (3, "longer", 43.0, 2.5)
    ]


def test_findings_that_no_claim_tests_are_not_said_to_fail_the_correction() -> None:
    """There is no p value that could be corrected."""
    words = answer.in_short([Difference("growth", "x", "x", "control", 2.0, (1.5, 2.5), 3)])
    assert words.endswith("No claim tests these findings, so none is corrected.")


def test_the_method_says_how_many_ways_this_study_has() -> None:
    """And from how many branches to how many; residual networks, and test images of CIFAR, only where they are."""
    loaded = load(ROOT / "results/mini/tables")
    rows = [row for row in loaded.study["experiments"] if row["start"] not in ("masked", "zero_pad", "zero_output")]
    fewer = replace(loaded, study=loaded.study | {"experiments": rows})
    words = " ".join(method.section(fewer).sentences)
    assert "with 3 branches is grown into one with 5 in 1 way, and" in words
    assert "in 4 ways, and" in " ".join(method.section(loaded).sentences)
    assert "residual networks" in words
    other = rows[0] | {"row": rows[0]["row"] | {"model": rows[0]["row"]["model"] | {"split": "layer4"}}}
    mixed = replace(loaded, study=loaded.study | {"experiments": [*rows, other]})
    assert "residual networks" not in " ".join(method.section(mixed).sentences)
    assert "have a near-copy among the training images" in words
    digits = [row | {"row": row["row"] | {"data": row["row"]["data"] | {"dataset": "digits"}}} for row in rows]
    elsewhere = replace(loaded, study=loaded.study | {"experiments": digits})
    assert "near-copy" not in " ".join(method.section(elsewhere).sentences)


def test_each_ablation_has_a_row_of_its_own() -> None:
    """One network and several controls: rows and sentences name what the control lacks, and no two marks coincide."""
    found = [
        Difference("ablation", "one3", label, control, 0.2, (-0.1, 0.5), 3, ["15"])
        for control in ("one3_no_gate", "one3_no_sharing")
        for label in ("one3", "one3, branch 1")
    ]
    (axes,) = answer.draw(found).axes
    heights = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert len(set(heights)) == 4
    words = {text.get_text() for text in axes.texts}
    assert {"one3 with gate", "one3, branch 1 with sharing"} <= words
    assert "one3 with gate (+0.20" in said(*found)
    assert one("one3", 1.0).name == "one3"


def test_plain_ensembles_of_part_3_are_compared_with_one_of_their_networks(tmp_path: Path) -> None:
    """Their mean of probabilities is compared once, also if no claim does; the table of all has the mean of logits."""
    runs, info = synthetic.write_study(tmp_path / "runs", seeds=(0, 1, 2), rows=synthetic.ALL_PARTS)
    tables.build(runs, info, tmp_path / "tables")
    (entry,) = [e for e in synthetic.claims() if e["claim"] == "one_over_baseline" and e["score"] == "top1"]
    ledgers = {
        "ensemble3, mean of probabilities − baseline": (1.23, ["1"]),
        "ensemble3 − baseline": (synthetic.PLAIN + synthetic.PROBABILITIES, []),  # the mean of logits
    }
    for text, (estimate, numbers) in ledgers.items():
        files.write_json(tmp_path / "claims.json", [entry | {"parts": [entry["parts"][0] | {"text": text}]}])
        loaded = load(tmp_path / "tables")
        (found,) = [own for own in differences.differences(loaded) if own.experiment == "ensemble3"]
        assert (found.group, found.label, found.control) == ("distillation", "ensemble3", "baseline")
        assert (found.estimate, found.finding, found.n) == (pytest.approx(estimate), "gain", 3)
        assert list(found.claims) == numbers
        report = content.compose(loaded)
        (part3,) = [own.text for own in report.answers if own.about.startswith("Part 3")]
        assert part3.removeprefix("ensemble3").removeprefix("†").startswith(" (+")
        sections = {section.id: section for section in report.sections}
        (row,) = [row for row in sections["results"].items[0].rows if row.cells[0].text == "ensemble3"]
        assert row.cells[-1].text in ("", "–")


def test_another_combination_than_the_ensemble_is_named(study: Path, tmp_path: Path) -> None:
    """The mean of probabilities of a network with a gate is not its ensemble."""
    (tmp_path / "tables").symlink_to(study)
    (entry,) = [e for e in synthetic.claims() if e["claim"] == "one_over_baseline" and e["score"] == "top1"]
    part = entry["parts"][0] | {"text": "one3, mean of probabilities − one1, mean of probabilities"}
    files.write_json(tmp_path / "claims.json", [entry | {"parts": [part]}])
    (found,) = [own for own in differences.differences(load(tmp_path / "tables")) if own.group == "one"]
    assert found.label == "one3, mean of probabilities"


def test_the_longest_name_leaves_room_for_the_figure(tmp_path: Path) -> None:
    """The names of rows may have 64 characters, and the name in the figure has more."""
    name = "m" * 64
    found = Difference("ablation", name, f"{name}, branch 1", f"{name}_no_gate", 0.2, (-0.1, 0.5), 3, ["15"])
    figure = answer.draw([found])
    assert figure.axes[0].get_position().width * drawing.WIDTH == pytest.approx(drawing.NARROWEST)
    drawing.save(lambda: answer.draw([found]), tmp_path / "overview.svg")
    assert found.name in (tmp_path / "overview.svg").read_text(encoding="utf-8")


# A study that decides nothing -----------------------------------------------------------------------


def test_a_study_without_enough_seeds_is_short(study: Path, tmp_path: Path) -> None:
    """The report says that everything ran, what was made, that nothing is decided, and what to do next; no ledger."""
    (tmp_path / "tables").symlink_to(study)
    (entry,) = [e for e in synthetic.claims() if e["claim"] == "embedding"]
    files.write_json(tmp_path / "claims.json", [entry])
    report = content.compose(load(tmp_path / "tables"))
    assert [own.about for own in report.answers] == ["What ran", "What was made", "What it decides", "What to do next"]
    assert "The pipeline works: 27 runs of 9 experiments" in report.answers[0].text
    assert report.overview is None
    assert not {"claims", "cost", "published"} & {section.id for section in report.sections}
    assert failed.section(load(study)) is None


def test_findings_that_the_ledger_leaves_undecided_are_named() -> None:
    """A claim of several parts corrects for them, so one of its parts can be decided where the claim is not."""
    found = differences.differences(load(ROOT / "results/mini/tables"))
    claims_of = {one["id"]: one for one in files.read_json(ROOT / "results/mini/claims.json")}
    assert [one.name for one in found if one.undecided] == ["one3 with sharing", "combine3"]
    for name in ("sharing_matters/top1", "combine_over_control/top1"):
        assert claims_of[name]["verdict"] == "inconclusive"
        assert "contradicted" in [part["verdict"] for part in claims_of[name]["parts"]]
    words = answer.in_short([replace(one("sharing", -1.0), undecided=True), one("gain", 2.0)])
    assert "The intervals are uncorrected; the ledger leaves sharing undecided. None" in words


def test_surviving_claims_over_a_parent_alone_are_named() -> None:
    """Such a parent had fewer epochs. A student and a plain ensemble do not start from their parents' training."""
    study = load(ROOT / "results/mini/tables")
    assert answer._shorter(study) == " (in 4a, 4c, 4e, 4g, 4j, 8a and 9a against a parent that was trained less)"
    without = replace(study, claims=[one for one in study.claims if one.main.number in ("1d", "3h", "11a", "13a")])
    assert answer._shorter(without) == ""


@pytest.mark.parametrize(
    ("survive", "named"), [((True, True), ["2"]), ((True, False), ["2 for top-1"]), ((None, True), ["2 for top-5"])]
)
def test_a_claim_that_survives_holm_is_named_once(survive: tuple[bool | None, ...], named: list[str]) -> None:
    """It is named with a score only if the other score does not survive."""
    claim = next(one for one in ledger.load(ROOT / "results/mini/claims.json", "mini") if one.main.number == "2")
    decisions = [
        one.model_copy(update={"survives_holm": survives})
        for one, survives in zip(claim.decisions, survive, strict=True)
    ]
    assert answer._surviving(decisions) == named

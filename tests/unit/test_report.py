"""The report shows the content of the runs' files, and has the same bytes every time."""

import csv
import json
import re
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from scipy import stats

import report_fixture as synthetic
from conftest import ROOT
from coopnet import files
from coopnet.evaluation.gather import Gathered, GatheredRun
from coopnet.files.errors import CoopNetError
from coopnet.report import drawing, report, tables, timing
from coopnet.report.differences import to_single
from coopnet.report.frames import load
from coopnet.report.lineage import Lineage
from coopnet.report.page import Glossary
from coopnet.report.runs import read
from coopnet.report.tables import histories
from coopnet.report.tables.rows import difference
from coopnet.report.topics import calibration, cost, curves, merging, results
from coopnet.report.wording import MINUS, number, scientific, spread

HOSTILE = "<script>alert('1')</script> & #let $x$ \\evil"


def rows(path: Path) -> list[dict[str, str]]:
    """A table, as strings."""
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def pick(path: Path, **where: object) -> dict[str, str]:
    """The only row that matches `where`."""
    (found,) = [row for row in rows(path) if all(row[key] == str(value) for key, value in where.items())]
    return found


def make(root: Path, **options: object) -> tuple[Path, Path]:
    """A synthetic study's tables and report."""
    runs, study = synthetic.write_study(root / "results" / "mini", **options)
    tables.build(runs, study, root / "results" / "mini" / "tables")
    files.write_json(root / "results" / "mini" / "claims.json", synthetic.claims())
    report.render(root / "results" / "mini" / "tables", root / "reports" / "mini")
    return root / "results" / "mini" / "tables", root / "reports" / "mini"


def copied(folder: Path, to: Path) -> Path:
    """A copy of a study's tables, with the ledger beside them."""
    shutil.copytree(folder, to / "tables")
    shutil.copy(folder.parent / "claims.json", to)
    return to / "tables"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tables and report of nine experiments with two seeds and a hostile title."""
    return make(tmp_path_factory.mktemp("study"), title=HOSTILE)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tables and report of the same experiments with one seed."""
    return make(tmp_path_factory.mktemp("single"), seeds=(0,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tables and report of a study with every part and every kind of row, two seeds and more."""
    return make(tmp_path_factory.mktemp("whole"), rows=synthetic.ALL_PARTS)


@pytest.fixture(scope="module")
def page(made: tuple[Path, Path]) -> str:
    """The source of index.html."""
    return (made[1] / "index.html").read_text(encoding="utf-8")


class Text(HTMLParser):
    """The page as a reader sees it: its text, and the cells of its tables by id."""

    def __init__(self, page: str):
        super().__init__()
        self.text, self.tables, self._table = "", {}, []
        self.unfolded, self._folded = {}, False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = self.tables.setdefault(dict(attributes)["id"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
        elif tag == "small" and self._table and self._table[-1]:
            self._table[-1][-1] += " | "
        elif tag == "details" and dict(attributes).get("class") == "more":
            self._folded = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "details" and self._folded:
            self._folded = False
        elif tag == "table":
            self._table = []

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._table and self._table[-1]:
            if self._folded:
                self.unfolded.setdefault(self._table[-1][0].strip(), []).append(data.strip())
            else:
                self._table[-1][-1] += data.strip("\n")

    def row(self, table: str, first: str) -> list[str]:
        """Cells of the row whose first cell begins with `first`."""
        (found,) = [row for row in self.tables[table] if row and row[0].split(" | ")[0].strip() == first]
        return found


# Tables --------------------------------------------------------------------------------------------


def test_accuracy_is_mean_and_sample_deviation_over_seeds(made: tuple[Path, Path]) -> None:
    """accuracy.csv holds the mean, the standard deviation with n − 1, and n."""
    for row in synthetic.ROWS:
        values = [synthetic.top1(row.name, seed) for seed in (0, 1)]
        found = pick(made[0] / "accuracy.csv", experiment=row.name, split="test", model="ensemble")
        assert found["n"] == "2"
        assert float(found["top1_mean"]) == pytest.approx(statistics.mean(values))
        assert float(found["top1_std"]) == pytest.approx(statistics.stdev(values))


def test_branch_mean_is_the_mean_of_the_branches(made: tuple[Path, Path]) -> None:
    """`branch_mean` of a run is the plain mean of its branches' scores."""
    chosen = [r for r in rows(made[0] / "runs.csv") if (r["experiment"], r["seed"]) == ("one5", "1")]
    top1 = {row["model"]: float(row["top1"]) for row in chosen}
    branches = [top1[f"branch{b}"] for b in range(1, 6)]
    assert top1["branch_mean"] == pytest.approx(statistics.mean(branches))


def test_one_seed_has_no_deviation(single: tuple[Path, Path]) -> None:
    """With n = 1 the deviation is empty in the table, and no ± stands in the report's tables."""
    assert {row["top1_std"] for row in rows(single[0] / "accuracy.csv")} == {""}
    text = Text((single[1] / "index.html").read_text(encoding="utf-8"))
    assert not [cell for table in text.tables.values() for row in table for cell in row if "±" in cell]
    assert "no uncertainty can be given" in text.text


def test_transfer_counts_and_exactness(made: tuple[Path, Path]) -> None:
    """A start is exact if max|Δ| ≤ 1e-6 · max|logit|; its relative difference is their ratio."""
    for start, exact in (("zero_pad", "no"), ("zero_output", "no"), ("masked", "yes"), ("split", "yes")):
        found = pick(made[0] / "transfer.csv", start=start, seed=1)
        assert found["exact"] == exact
        assert int(found["changed_predictions"]) == (synthetic.CHANGED[start] + 10 if start in synthetic.CHANGED else 0)
        relative = synthetic.DIFFERENCE.get(start, 0.0) / synthetic.LARGEST_LOGIT
        assert float(found["relative_difference"]) == pytest.approx(relative)


def test_transfer_is_about_transfers_only(made: tuple[Path, Path]) -> None:
    """The control, which inherits a whole network, is not listed as a start."""
    starts = {row["start"] for row in rows(made[0] / "transfer_mean.csv")}
    assert starts == {"zero_pad", "zero_output", "masked", "split"}


def test_transfer_mean_is_over_seeds(made: tuple[Path, Path]) -> None:
    """Changed predictions are averaged over seeds."""
    assert float(pick(made[0] / "transfer_mean.csv", start="zero_pad")["changed_predictions"]) == 817


def test_a_start_is_exact_only_if_every_seed_is(tmp_path: Path) -> None:
    """One seed beyond the tolerance makes the start inexact in the mean."""
    runs, study = synthetic.write_study(tmp_path)
    (split,) = [run for run in runs if (run.experiment, run.seed) == ("one3_to_5_split", 1)]
    metrics = files.read_json(split.folder / "metrics.json")
    metrics["at_transfer"]["test"]["versus_parent"]["largest_logit_difference"] = 2.1e-6 * synthetic.LARGEST_LOGIT
    files.write_json(split.folder / "metrics.json", metrics)
    tables.build(runs, study, tmp_path / "tables")
    assert pick(tmp_path / "tables" / "transfer.csv", start="split", seed=0)["exact"] == "yes"
    assert pick(tmp_path / "tables" / "transfer_mean.csv", start="split")["exact"] == "no"


def test_growth_is_paired_with_parent_and_control(made: tuple[Path, Path]) -> None:
    """A child's gain is relative to its own parent and to the control of the same seed."""
    for seed in (0, 1):
        found = pick(made[0] / "growth.csv", experiment="one3_to_5_masked", seed=seed, model="ensemble", metric="top1")
        child = synthetic.top1("one3_to_5_masked", seed)
        assert float(found["over_parent"]) == pytest.approx(child - synthetic.top1("one3", seed))
        assert float(found["over_control"]) == pytest.approx(child - synthetic.top1("one3_continued", seed))
        assert found["control"] == "one3_continued"


def test_the_control_has_no_control(made: tuple[Path, Path]) -> None:
    """The control is compared with its parent and with no control, also not with itself."""
    found = pick(made[0] / "growth_mean.csv", experiment="one3_continued", model="ensemble", metric="top1")
    assert float(found["over_parent_mean"]) == pytest.approx(0.3)
    assert found["over_control_mean"] == ""


def test_a_control_of_another_length_is_none(tmp_path: Path) -> None:
    """Longer training is not a control for shorter growth."""
    runs, study = synthetic.write_study(tmp_path, seeds=(0,))
    (control,) = [run for run in runs if run.experiment == "one3_continued"]
    (row,) = [row["row"] for row in study.experiments if row["name"] == "one3_continued"]
    row["training"]["epochs"] -= 1
    for name in ("history.csv", "timing.csv"):
        lines = (control.folder / name).read_text().splitlines(keepends=True)
        (control.folder / name).write_text("".join(lines[:-1]))
    digest = files.sha256(control.folder / "history.csv")
    record = files.read_json(control.folder / "run.json") | {"row": row, "files": {"history.csv": digest}}
    files.write_json(control.folder / "run.json", record)
    tables.build(runs, study, tmp_path / "tables")
    assert {row["control"] for row in rows(tmp_path / "tables" / "growth.csv")} == {""}


def test_histories_keep_every_epoch_and_digit(made: tuple[Path, Path]) -> None:
    """history.csv has each run's epochs, with the digits of the run."""
    source = rows(made[0].parent / "one3" / "seed1" / "history.csv")
    found = [
        r for r in rows(made[0] / "history.csv") if (r["experiment"], r["seed"], r["split"]) == ("one3", "1", "test")
    ]
    assert [r["top1_ensemble"] for r in found] == [r["test_top1_ensemble"] for r in source]
    assert [int(r["epoch"]) for r in found] == list(range(synthetic.EPOCHS))


def test_tables_do_not_depend_on_the_order_of_the_runs(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The same runs in reverse give the same bytes."""
    runs, study = synthetic.write_study(tmp_path / "runs", title=HOSTILE)
    tables.build(runs[::-1], study, tmp_path / "tables")
    for path in sorted(made[0].iterdir()):
        assert (tmp_path / "tables" / path.name).read_bytes() == path.read_bytes(), path.name


def test_wall_clock_is_in_timing_alone(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Other timings change timing.csv and nothing else."""
    runs, study = synthetic.write_study(tmp_path / "runs", title=HOSTILE)
    timing = runs[0].folder / "timing.csv"
    timing.write_text(timing.read_text().replace("10.5", "99.25"))
    tables.build(runs, study, tmp_path / "tables")
    differing = {p.name for p in made[0].iterdir() if p.read_bytes() != (tmp_path / "tables" / p.name).read_bytes()}
    assert differing == {"timing.csv"}


# All parts of the study --------------------------------------------------------------------------------


def test_parts_are_carried_and_the_first_is_the_foundation(whole: tuple[Path, Path]) -> None:
    """Every experiment keeps its part; without a part it belongs to the foundation."""
    study = json.loads((whole[0] / "study.json").read_text())
    assert {row["name"]: row["part"] for row in study["experiments"]} == {r.name: r.part for r in synthetic.ALL_PARTS}
    assert list(load(whole[0]).parts) == ["foundation", "variants", "step2", "distillation"]


def test_children_of_one_parent_alone_are_growth(whole: tuple[Path, Path]) -> None:
    """Students and networks of several parents are not compared with a parent as if grown from it."""
    children = {row.name for row in synthetic.ALL_PARTS if len(row.parents) == 1 and row.start != "random"}
    assert {row["experiment"] for row in rows(whole[0] / "growth.csv")} == children
    assert pick(whole[0] / "growth_mean.csv", experiment="expand1to3", model="ensemble", metric="top1")["control"] == (
        "one1_continued"
    )


def test_transfer_is_about_one_parent(whole: tuple[Path, Path]) -> None:
    """Networks of several parents have no parent for a test of exactness."""
    found = {row["start"] for row in rows(whole[0] / "transfer.csv")}
    assert found == {"zero_pad", "zero_output", "masked", "split"}


def test_a_merge_is_compared_with_its_parents_and_their_controls(whole: tuple[Path, Path]) -> None:
    """Ensembles are compared with logit ensembles, branches with single networks, for each seed with its parents."""
    for seed in (0, 1):
        parents = statistics.mean(synthetic.top1("one1", 3 * seed + j) for j in range(3))
        controls = statistics.mean(synthetic.top1("one1_continued", 3 * seed + j) for j in range(3))
        ensemble = synthetic.top1("combine3", seed)
        found = pick(whole[0] / "merges.csv", experiment="combine3", seed=seed)
        expected = {
            "at_transfer_ensemble_top1": parents + synthetic.PLAIN,
            "parents_mean_top1": parents,
            "parents_ensemble_top1": parents + synthetic.PLAIN,
            "control_mean_top1": controls,
            "control_ensemble_top1": controls + synthetic.PLAIN,
            "final_ensemble_top1": ensemble,
            "final_branch_mean_top1": ensemble - 1.2,
            "ensemble_over_parents_ensemble_top1": ensemble - parents - synthetic.PLAIN,
            "ensemble_over_control_ensemble_top1": ensemble - controls - synthetic.PLAIN,
            "branch_mean_over_parents_mean_top1": ensemble - 1.2 - parents,
            "branch_mean_over_control_mean_top1": ensemble - 1.2 - controls,
        }
        assert {column: float(found[column]) for column in expected} == pytest.approx(expected)
        assert found["control"] == "control3"


def test_equal_scores_are_not_ahead() -> None:
    """A mean with ten digits differs from an equal score only by rounding."""
    assert difference(10.140845070422536, 10.14084507) == 0
    assert str(difference(10.14084507, 10.140845070422536)) == "0.0"
    assert difference(1.0, None) is None


def test_an_untrained_merge_has_scores_at_transfer_only(whole: tuple[Path, Path]) -> None:
    """Its final scores are those at transfer; and a plain ensemble is not a merge."""
    found = pick(whole[0] / "merges.csv", experiment="merge3_mean", seed=0)
    assert found["at_transfer_branch3_top1"]
    assert {value for column, value in found.items() if column.startswith(("final", "control", "ensemble_over"))} == {
        ""
    }
    names = {row["experiment"] for row in rows(whole[0] / "merges.csv")}
    assert names == {"combine3", "merge3_refit", "merge3_mean"}


def _changed_training(tmp_path: Path, **change: object) -> Path:
    """Tables of the whole study after a change in the training of the control."""
    altered = [
        replace(row, settings=row.settings | {"training": change}) if row.name == "one1_continued" else row
        for row in synthetic.ALL_PARTS
    ]
    runs, study = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=altered)
    tables.build(runs, study, tmp_path / "tables")
    return tmp_path / "tables"


@pytest.mark.parametrize(
    ("change", "control"),
    [({"batch_size": 64}, ""), ({"distillation": {"kind": "none"}}, "control3")],
)
def test_a_control_has_the_same_training_but_for_distillation(
    tmp_path: Path, change: dict[str, object], control: str
) -> None:
    """A row with other training is not a control, for one parent or several; other distillation is allowed."""
    made_tables = _changed_training(tmp_path, **change)
    assert pick(made_tables / "merges.csv", experiment="merge3_refit")["control"] == control
    grown = pick(made_tables / "growth.csv", experiment="expand1to3", model="ensemble", metric="top1")
    assert grown["control"] == ("one1_continued" if control else "")


def test_single_controls_stand_in_where_their_ensemble_is_missing(tmp_path: Path) -> None:
    """Without a row for the controls' ensemble the mean of the controls is used, and named."""
    without = [row for row in synthetic.ALL_PARTS if row.name != "control3"]
    # The control has the seeds that the ensemble asked for.
    wanted = synthetic.replicates(synthetic.ALL_PARTS, "one1_continued", (0,))
    runs, study = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=without)
    (experiment,) = [row for row in study.experiments if row["name"] == "one1_continued"]
    experiment["seeds"] = wanted
    runs = synthetic.write_runs(tmp_path / "runs", study, {row.name: row.top1 for row in without})
    tables.build(runs, study, tmp_path / "tables")
    found = pick(tmp_path / "tables" / "merges.csv", experiment="combine3")
    assert found["control"] == "one1_continued"
    assert float(found["control_mean_top1"]) == pytest.approx(45.5)
    assert found["control_ensemble_top1"] == ""


def test_copies_are_compared_with_their_donors(whole: tuple[Path, Path]) -> None:
    """Without listed donors the parent's branches are copied in turn; all pairs and these pairs have their means."""
    for stage in ("at_transfer", "final"):
        found = pick(whole[0] / "diversity.csv", experiment="one3_to_5_split", seed=0, stage=stage, split="test")
        assert float(found["copy_disagreement"]) == pytest.approx(synthetic.COPIES[stage])
        assert float(found["copy_kl"]) == pytest.approx(synthetic.COPIES[stage] / 50)
        assert float(found["disagreement"]) > float(found["copy_disagreement"])
    assert pick(whole[0] / "diversity.csv", experiment="one3", seed=0, stage="final")["copy_disagreement"] == ""


def test_votes_are_those_of_the_largest_networks_from_scratch(whole: tuple[Path, Path]) -> None:
    """Grown and smaller networks are excluded; 31 subsets of five branches, three rules."""
    found = rows(whole[0] / "votes.csv")
    assert {row["experiment"] for row in found} == {"one5", "one5_holdout", "one5_ratio"}
    assert len([r for r in found if (r["experiment"], r["seed"], r["split"]) == ("one5", "0", "test")]) == 3 * 31


def test_a_vote_is_chosen_on_validation_images_never_on_test(whole: tuple[Path, Path]) -> None:
    """Subsets with branch 1 win on validation and are reported, although others are better on test images."""
    best = rows(whole[0] / "votes_best.csv")
    assert {row["experiment"] for row in best} == {"one5_holdout"}
    assert len(best) == 2 * 3 * 2 * 5
    found = pick(whole[0] / "votes_best.csv", experiment="one5_holdout", seed=0, rule="mean", score="top1", size=2)
    assert found["subset"] == "1+2"
    test = {"experiment": "one5_holdout", "seed": 0, "split": "test", "rule": "mean"}
    own, other, full = (
        float(pick(whole[0] / "votes.csv", **test, subset=subset)["top1"]) for subset in ("1+2", "2+3", "1+2+3+4+5")
    )
    assert float(found["test"]) == own < other
    assert float(found["over_all"]) == pytest.approx(own - full)


def test_students_are_compared_with_teacher_and_single(whole: tuple[Path, Path]) -> None:
    """A plain ensemble teaches its mean of probabilities; the single network is the mean of its members."""
    members = statistics.mean(synthetic.top1("baseline", seed) for seed in range(3))
    found = pick(whole[0] / "distillation.csv", experiment="distilled", seed=0, score="top1")
    teacher = members + synthetic.PLAIN + synthetic.PROBABILITIES
    assert (found["teacher"], found["single"]) == ("ensemble3", "baseline")
    assert float(found["over_teacher"]) == pytest.approx(synthetic.top1("distilled", 0) - teacher)
    assert float(found["over_single"]) == pytest.approx(synthetic.top1("distilled", 0) - members)
    two = pick(whole[0] / "distillation.csv", experiment="mutual2", seed=0, score="top1")  # descends from nothing
    every = statistics.mean(synthetic.top1("baseline", seed) for seed in range(6))
    assert float(two["over_single"]) == pytest.approx(float(two["value"]) - every)
    ensemble = pick(whole[0] / "distillation.csv", experiment="ensemble3", seed=0, score="top1")
    assert float(ensemble["value"]) == pytest.approx(teacher)
    assert float(ensemble["logits"]) == pytest.approx(members + synthetic.PLAIN)
    assert float(ensemble["over_single"]) == pytest.approx(synthetic.PLAIN + synthetic.PROBABILITIES)


def test_networks_without_a_common_ancestor_are_compared_as_two_groups(tmp_path: Path) -> None:
    """Mutual learning descends from no baseline, so its interval allows for the spread of the baselines too."""
    runs, study = synthetic.write_study(tmp_path / "runs", seeds=(0, 1, 2), rows=synthetic.ALL_PARTS)
    tables.build(runs, study, tmp_path / "tables")
    files.write_json(tmp_path / "claims.json", synthetic.claims())
    loaded = load(tmp_path / "tables")
    top1 = loaded.distillation.query("split == 'test' and score == 'top1'").set_index("experiment")
    own, alone = top1.loc["mutual2", "value"], loaded.seeds("baseline", "ensemble", "top1")
    assert len(alone) == 9
    found, expected = to_single(loaded, "mutual2"), stats.ttest_ind(own, alone, equal_var=False)
    assert found is not None
    assert (found.estimate, found.n) == (pytest.approx(own.mean() - statistics.mean(alone)), 3)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    paired = to_single(loaded, "distilled")
    assert paired is not None
    gains = stats.ttest_1samp(top1.loc["distilled", "over_single"], 0)
    assert paired.interval == pytest.approx(tuple(gains.confidence_interval(0.95)))


def test_part_3_has_its_ancestors_and_every_plain_ensemble(whole: tuple[Path, Path]) -> None:
    """Rows of that part, their ancestors, ensembles of other parts, and ONE with the same protocol."""
    names = {row["experiment"] for row in rows(whole[0] / "distillation.csv")}
    own = {"ensemble3", "distilled", "self_distilled", "mutual2"}
    beside = {"one3", "one5", "one3_sparse"}  # the frequency of tests is not part of the protocol
    assert names == own | beside | {"baseline", "one1_ensemble3", "control3"}


def test_factors_have_a_table_of_their_own(whole: tuple[Path, Path], made: tuple[Path, Path]) -> None:
    """One row per epoch and module, in order; they are not in the history, and most studies have none."""
    found = [row for row in rows(whole[0] / "factors.csv") if (row["seed"], row["epoch"]) == ("1", "3")]
    assert [(row["module"], float(row["factor"])) for row in found] == [
        (module, place / 2) for place, module in enumerate(synthetic.MODULES, start=1)
    ]
    assert not [column for column in rows(whole[0] / "history.csv")[0] if "factor" in column]
    assert rows(made[0] / "factors.csv") == []


def test_epochs_without_a_look_at_the_test_images_have_no_test_row(whole: tuple[Path, Path]) -> None:
    """Training has every epoch, test every sixth and the last."""
    own = [r for r in rows(whole[0] / "history.csv") if (r["experiment"], r["seed"]) == ("one3_sparse", "0")]
    epochs = {split: [int(row["epoch"]) for row in own if row["split"] == split] for split in ("train", "test")}
    assert epochs == {"train": list(range(20)), "test": [5, 11, 17, 19]}


# Compute and calibration --------------------------------------------------------------------------------


def lineage_flops(folder: Path, experiment: str) -> int:
    """The cost of all training that led to an experiment's first seed."""
    return int(pick(folder / "compute.csv", experiment=experiment)["lineage_flops"])


STEP = 3000 * 12_000
"""FLOPs of an epoch of one branch in the synthetic study."""


def test_training_is_images_times_epochs(whole: tuple[Path, Path]) -> None:
    """A run's training is the cost of its step per image and epoch; a plain ensemble has none."""
    for name, expected in (
        ("one3", 3 * STEP * synthetic.EPOCHS),
        ("one3_to_5_masked", 5 * STEP * synthetic.TUNING),
        ("distilled", (STEP + 3 * STEP // 3) * synthetic.EPOCHS),  # three networks teach, with forward passes only
        ("ensemble3", 0),
    ):
        assert int(pick(whole[0] / "compute.csv", experiment=name)["training_flops"]) == expected


def test_images_kept_for_validation_train_nothing(tmp_path: Path) -> None:
    """Without a subset the training images are all images of the data without the validation images."""
    data = {"data": {"training_subset": None, "validation": 5000}}
    holdout = replace(synthetic.ROWS[0], settings=data)
    runs, study = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=[holdout])
    tables.build(runs, study, tmp_path / "tables")
    found = pick(tmp_path / "tables" / "compute.csv", experiment="baseline")
    assert int(found["training_flops"]) == 3000 * 45_000 * synthetic.EPOCHS


def test_lineage_is_all_that_led_to_a_run(whole: tuple[Path, Path]) -> None:
    """Parent, three members, three merged networks, and a teacher with its ancestors."""
    one, tuned = STEP * synthetic.EPOCHS, STEP * synthetic.TUNING
    for name, expected in (
        ("baseline", one),
        ("one3_to_5_split", 3 * one + 5 * tuned),
        ("ensemble3", 3 * one),
        ("merge3_refit", 3 * one + 3 * tuned),
        ("control3", 3 * (one + tuned)),
        ("distilled", 3 * one + 2 * one),
        ("self_distilled", one + one + one // 3),
    ):
        assert lineage_flops(whole[0], name) == expected, name


def test_a_common_ancestor_is_counted_once(tmp_path: Path) -> None:
    """one1 seed 1 is a member of the first parent and the parent of the second, and is counted once."""
    chosen = [row for row in synthetic.ALL_PARTS if row.name in ("one1", "one1_continued", "one1_ensemble3")]
    chosen.append(synthetic.Row("odd", "", 2, 46.0, "combine", "one1_ensemble3,one1_continued"))
    runs, study = synthetic.write_study(tmp_path / "runs", rows=chosen)
    tables.build(runs, study, tmp_path / "tables")
    expected = 3 * STEP * synthetic.EPOCHS + STEP * synthetic.TUNING + 2 * STEP * synthetic.TUNING
    assert lineage_flops(tmp_path / "tables", "odd") == expected


def test_nothing_is_said_of_the_past_of_an_imported_checkpoint(tmp_path: Path) -> None:
    """The cost of the checkpoint and its descendants is unknown; the report is made anyway."""
    chosen = [row for row in synthetic.ROWS if row.name in ("one3", "one3_to_5_masked")]
    runs, study = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=chosen)
    study.experiments[0]["row"]["start"] = {"kind": "imported", "path": "imported/one3"}
    record = files.read_json(runs[0].folder / "run.json")
    files.write_json(runs[0].folder / "run.json", record | {"row": study.experiments[0]["row"]})
    made_tables, out = tmp_path / "tables", tmp_path / "out"
    tables.build(runs, study, made_tables)
    files.write_json(tmp_path / "claims.json", [])
    report.render(made_tables, out)
    assert {row["lineage_flops"] for row in rows(made_tables / "compute.csv")} == {""}
    grown = pick(made_tables / "compute.csv", experiment="one3_to_5_masked")
    assert int(grown["training_flops"]) == 5 * STEP * synthetic.TUNING
    assert not (out / "figures" / "cost.svg").exists()


def test_the_frontier_is_what_no_cheaper_network_equals() -> None:
    """A network with equal accuracy at higher cost, or less accuracy at equal cost, is not on it."""
    points = pd.DataFrame(
        {
            "experiment": ["cheap", "same_cost", "same_accuracy", "better", "worse"],
            "lineage_flops": [1.0, 1.0, 2.0, 3.0, 4.0],
            "top1": [50.0, 49.0, 50.0, 51.0, 50.5],
        }
    )
    assert list(cost.frontier(points)["experiment"]) == ["cheap", "better"]


def test_starts_without_training_are_not_in_the_figure_of_costs(whole: tuple[Path, Path]) -> None:
    """A merge at transfer is not a result; a plain ensemble, which needs no training, is one."""
    kinds = cost.points(load(whole[0])).set_index("experiment")["kind"]
    assert "merge3_mean" not in kinds
    assert (kinds["ensemble3"], kinds["distilled"], kinds["merge3_refit"]) == ("together", "scratch", "descended")


def test_bins_are_pooled_over_seeds(made: tuple[Path, Path]) -> None:
    """4711 images of seed 0 with 88.5 % accuracy, and 4785 of seed 1 with 88.4 %; other bins are empty."""
    where = {"experiment": "one3_to_5_zero_pad", "stage": "at_transfer"}
    found = pick(made[0] / "reliability.csv", **where, bin=15)
    assert found["images"] == str(4711 + 4785)
    assert float(found["confidence"]) == pytest.approx(97)
    assert float(found["accuracy"]) == pytest.approx((4711 * 88.5 + 4785 * 88.4) / (4711 + 4785), abs=1e-7)
    empty = pick(made[0] / "reliability.csv", **where, bin=7)
    assert (empty["images"], empty["confidence"], empty["accuracy"]) == ("0", "", "")


def test_bins_hold_every_image_of_every_stage(whole: tuple[Path, Path]) -> None:
    """Bins at the end of each experiment, and at transfer for those with a transfer."""
    frame = load(whole[0]).reliability
    images = frame.groupby(["experiment", "stage"])["images"].sum()
    for row in load(whole[0]).experiments:
        expected = synthetic.IMAGES * len(row["seeds"])
        assert images[row["name"], "final"] == expected
        assert ((row["name"], "at_transfer") in images.index) == (row["start"] != "random")
    assert set(frame.groupby(["experiment", "stage"]).size()) == {15}


# Errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "study", [path.parent for path in (ROOT / "results").glob("*/records.json")], ids=lambda p: p.name
)
def test_gathered_runs_have_the_history_of_their_table(study: Path, tmp_path: Path) -> None:
    """Runs of all lengths, some without validation images, some measured on test images after a few epochs only."""
    gathered = Gathered(study)
    settings = {row["name"]: row["row"] for row in files.read_json(study / "tables/study.json")["experiments"]}
    runs = [GatheredRun(line["experiment"], int(line["seed"]), gathered) for line in gathered.tables["timing"]]
    info = tables.StudyInfo("", "", "", 1, "cpu", [])
    found = histories.tables([read(run, settings[run.experiment]) for run in runs], info, Lineage([], info))
    for name, (columns, lines) in found.items():
        files.write_rows(tmp_path / f"{name}.csv", lines, columns)
        assert (tmp_path / f"{name}.csv").read_bytes() == (study / f"tables/{name}.csv").read_bytes()


@pytest.mark.parametrize("name", ["metrics.json", "run.json", "history.csv", "timing.csv", "votes.csv"])
def test_a_run_without_a_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """A missing file stops the report and names the run and the file; it is never a gap or a zero."""
    runs, study = synthetic.write_study(tmp_path)
    (tmp_path / "one5" / "seed1" / name).unlink()
    with pytest.raises(CoopNetError, match=rf"one5 seed 1.*{name}"):
        tables.build(runs, study, tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_a_run_that_was_not_given_is_refused_by_name(tmp_path: Path) -> None:
    """Every experiment and seed of the study is required."""
    runs, study = synthetic.write_study(tmp_path)
    with pytest.raises(CoopNetError, match="one3_to_5_split seed 1 is missing"):
        tables.build(runs[:-1], study, tmp_path / "tables")


def _in_metrics(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Damage to the test block of `metrics.json`."""

    def damage(folder: Path) -> None:
        metrics = files.read_json(folder / "metrics.json")
        change(metrics["final"]["test"])
        files.write_json(folder / "metrics.json", metrics)

    return damage


def _in_text(name: str, pattern: str, new: str) -> Callable[[Path], None]:
    """Damage to the first place in a file that matches a pattern."""

    def damage(folder: Path) -> None:
        text, times = re.subn(pattern, new, (folder / name).read_text(), count=1, flags=re.DOTALL)
        assert times == 1
        (folder / name).write_text(text)

    return damage


def _record_of(other: str) -> Callable[[Path], object]:
    """The record of another run."""
    return lambda folder: shutil.copy(folder / other / "run.json", folder / "run.json")


DAMAGES = {
    "cut history": _in_text("history.csv", r"[^\n]*\n[^\n]*\n\Z", ""),
    "edited history": _in_text("history.csv", r"48\.1", "58.1"),
    "no score": _in_metrics(lambda block: block["ensemble"].pop("top1")),
    "impossible score": _in_metrics(lambda block: block["ensemble"].update(top1=481.0)),
    "not a time": _in_text("timing.csv", r"10\.5", "nan"),
    "not a number": _in_text("metrics.json", r'"nll": [\d.]+', '"nll": NaN'),
    "no diversity": _in_metrics(lambda block: block.pop("diversity")),
    "no votes": _in_text("votes.csv", r"\n.*", "\n"),
    "edited vote": _in_text("votes.csv", r"gate,[\d.]+,", "gate,49.5,"),
    "impossible vote": _in_text("votes.csv", r"gate,[\d.]+,", "gate,nan,"),
    "no reliability": _in_metrics(lambda block: block.pop("reliability")),
    "lost images": _in_metrics(lambda block: block["reliability"][2].update(images=0, confidence=None, accuracy=None)),
    "edited reliability": _in_metrics(
        lambda block: block["reliability"][14].update(accuracy=block["reliability"][14]["accuracy"] + 1)
    ),
    "cut metrics": _in_text("metrics.json", r"\A(.{40}).*", r"\1"),
    "other seed": _record_of("../seed1"),
    "other experiment": _record_of("../../one3/seed0"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Truncated, edited, impossible or foreign files are refused in one line that names the run."""
    runs, study = synthetic.write_study(tmp_path)
    damage(tmp_path / "one5" / "seed0")
    with pytest.raises(CoopNetError, match="one5 seed 0") as refusal:
        tables.build(runs, study, tmp_path / "tables")
    assert "\n" not in str(refusal.value)


def test_a_missing_table_is_refused_by_name(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The error names the missing table."""
    (copied(made[0], tmp_path) / "growth.csv").unlink()
    with pytest.raises(CoopNetError, match=r"growth\.csv"):
        report.render(tmp_path / "tables", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "column"), [("accuracy", "top1_mean"), ("provenance", "key"), ("history", "loss"), ("merges", "method")]
)
def test_a_table_without_a_column_is_refused_by_name(
    name: str, column: str, made: tuple[Path, Path], tmp_path: Path
) -> None:
    """The error names the table, the column and the remedy."""
    path = copied(made[0], tmp_path) / f"{name}.csv"
    head, _, rest = path.read_text(encoding="utf-8").partition("\n")
    changed = [f"{cell}x" if cell == column else cell for cell in head.split(",")]
    path.write_text(",".join(changed) + "\n" + rest, encoding="utf-8")
    remedy = "take it from git, or run `coopnet tables mini`"
    with pytest.raises(CoopNetError, match=f"{name}.csv lacks the column {column}; {remedy}"):
        report.render(tmp_path / "tables", tmp_path / "out")


# Page ------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_study_is(made: tuple[Path, Path], page: str) -> None:
    """The description in `params.yaml` or the overlay opens the section on the method."""
    description = files.read_json(made[0] / "study.json")["description"]
    assert description in Text(page).text


def test_the_page_says_what_its_scale_cannot_show(page: str) -> None:
    """A study of 20 epochs says that it is short."""
    assert "at most 20 epochs, against 300" in Text(page).text


def test_the_page_says_how_epochs_were_selected(page: str) -> None:
    """Last epochs are described as such."""
    assert "the network of the last epoch; no epoch was picked" in Text(page).text


def test_a_picked_epoch_is_named_in_its_cell(tmp_path: Path) -> None:
    """If an epoch was selected on validation images, the cell says so."""
    runs, study = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=synthetic.ROWS[:2])
    study.experiments[1]["row"]["training"]["selection"] = "best_validation"
    record = files.read_json(runs[1].folder / "run.json")
    record |= {"row": study.experiments[1]["row"], "selected_epoch": 11}
    files.write_json(runs[1].folder / "run.json", record)
    tables.build(runs, study, tmp_path / "tables")
    files.write_json(tmp_path / "claims.json", synthetic.claims())
    report.render(tmp_path / "tables", tmp_path / "out")
    text = Text((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert text.row("results-table", "one1")[5] == "44.40 | epoch 12 of 20, best validation"
    assert text.row("results-table", "baseline")[5] == "44.00"


def test_picked_epochs_are_named_from_the_earliest_to_the_latest(tmp_path: Path) -> None:
    """Many seeds do not fill the cell."""
    runs, study = synthetic.write_study(tmp_path / "runs", seeds=(0, 1, 2), rows=synthetic.ROWS[:1])
    study.experiments[0]["row"]["training"]["selection"] = "best_validation"
    for run, epoch in zip(runs, (11, 19, 15), strict=True):
        record = files.read_json(run.folder / "run.json")
        record |= {"row": study.experiments[0]["row"], "selected_epoch": epoch}
        files.write_json(run.folder / "run.json", record)
    tables.build(runs, study, tmp_path / "tables")
    files.write_json(tmp_path / "claims.json", synthetic.claims())
    row = results.section(load(tmp_path / "tables")).items[0].rows[0]
    assert row.cells[5].detail == "epochs 12 to 20 of 20, best validation"


def test_a_dot_plot_that_lacks_rows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The captions of calibration and diversity name how many of the networks are drawn, unless that is all of them."""
    tables = load(ROOT / "results/mini/tables")
    all_of = {"calibration": set(tables.reliability["experiment"]), "diversity": set(tables.diversity["experiment"])}
    for most in (calibration.ROWS, 5, 100):
        monkeypatch.setattr(calibration, "ROWS", most)
        for item in calibration.section(tables).items:
            if item.kind == "figure":
                texts = [
                    text.get_text() for axes in calibration.figures(tables)[item.name]().axes for text in axes.texts
                ]
                drawn, whole = len(all_of[item.name] & set(texts)), len(all_of[item.name])
                assert drawn == min(most, whole)
                assert (f" The first {drawn} of {whole};" in item.caption) == (drawn < whole), item.name


def test_learning_curves_that_lack_networks_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caption counts all networks that the figure would show if it had room."""
    tables = load(ROOT / "results/mini/tables")
    (whole,) = curves.pictures(tables, "curves_merging")
    assert "The first" not in whole.caption
    monkeypatch.setattr(curves, "LINES", curves.LINES[:2])
    (cut,) = curves.pictures(tables, "curves_growth")
    assert "The first 2 of 9; the file has all." in cut.caption


def test_the_most_overconfident_is_also_named_among_trained_networks() -> None:
    """A merge that nobody trained does not stand for the study's networks."""
    tables = load(ROOT / "results/mini/tables")
    gaps, epochs = calibration.excess(tables), {row["name"]: row["epochs"] for row in tables.experiments}
    trained = max(gap for name, gap in gaps.items() if epochs[name] or "ensemble" in name)
    assert (
        f"to +{max(gaps.values()):.2f} points (at most +{trained:.2f} without"
        in calibration.section(tables).sentences[0]
    )


def test_curves_of_many_networks_fit_on_a_phone(whole: tuple[Path, Path]) -> None:
    """Eight networks with long names are all drawn, each with a mark or dashes of its own."""
    history = load(whole[0]).history
    names = [f"one5_holdout_matched_compute_{letter}" for letter in "abcdefgh"]
    own = pd.concat([history[history["experiment"] == "one3"].assign(experiment=name) for name in names])
    with mpl.rc_context(drawing.STYLE):
        figure = curves.draw(own, [curves.Family("many", names, None)])
    assert figure.get_tightbbox().width * 72 <= 356
    (legend,) = [axes.get_legend() for axes in figure.axes]
    assert [text.get_text() for text in legend.get_texts()] == names
    assert len({(line.get_color(), line.get_marker()) for line in legend.get_lines()}) == len(names)
    drawn = [line for line in figure.axes[0].lines if line.get_marker() in ("None", "")]
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn if len(line.get_xdata())}) == len(names)
    figure = curves.draw(own.assign(experiment="m" * 64), [curves.Family("longest", ["m" * 64], None)])
    assert figure.axes[0].get_position().width * drawing.WIDTH == pytest.approx(drawing.NARROWEST)


def test_the_page_links_to_tables_that_exist(made: tuple[Path, Path], page: str) -> None:
    """Each relative link leads to an existing file of the repository."""
    timing.render(*made)
    targets = set(re.findall(r'<a [^>]*href="([^"#]+)"', page))
    assert targets
    for target in targets:
        assert (made[1] / target).is_file(), target


def test_ids_of_the_page_are_unique(page: str) -> None:
    """Figures drawn by the same library have different element ids on the page."""
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_timing_is_a_page_of_its_own(made: tuple[Path, Path], tmp_path: Path) -> None:
    """timing.html has the seconds, index.html has none."""
    timing.render(made[0], tmp_path)
    text = Text((tmp_path / "timing.html").read_text(encoding="utf-8"))
    assert text.tables["timing-table"][1] == ["baseline", "0", "20", "210.0", "30.0", "950"]
    assert "210.0" not in Text((made[1] / "index.html").read_text(encoding="utf-8")).text


def test_latency_is_shown_where_it_was_measured(made: tuple[Path, Path], tmp_path: Path) -> None:
    """On the page of timings, with the machine; without a measurement the page says nothing of it."""
    tables = copied(made[0], tmp_path)
    timing.render(tables, tmp_path)
    assert "latency" not in (tmp_path / "timing.html").read_text(encoding="utf-8")
    size = {row["experiment"]: row["parameters"] for row in csv.DictReader((tables / "compute.csv").open())}
    measured = f"baseline,{size['baseline']},2.5,64,A box\nremoved,1,2.5,64,A box\none3,{size['one3']}1,2.5,64,A box\n"
    (tables / "latency.csv").write_text(f"experiment,parameters,batch_1_ms,batch_64_ms,machine\n{measured}")
    timing.render(tables, tmp_path)
    text = Text((tmp_path / "timing.html").read_text(encoding="utf-8"))
    assert text.tables["latency-table"][-1] == ["baseline", "2.50", "64.00", "1,000"]
    assert not {"removed", "one3"} & {row[0] for row in text.tables["latency-table"]}  # one3 has another size now
    assert "Latency of each network on A box" in text.text


# PDF and figures ---------------------------------------------------------------------------------------


def test_the_report_is_made_from_tables_and_ledger_alone(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Without any run's files the report is the same."""
    report.render(copied(made[0], tmp_path), tmp_path / "out")
    assert (tmp_path / "out" / "index.html").read_bytes() == (made[1] / "index.html").read_bytes()


def test_a_figure_that_is_no_longer_drawn_is_removed(tmp_path: Path) -> None:
    """A report has no picture of experiments that its study lacks."""
    old = tmp_path / "reports" / "mini" / "figures" / "curves_scratch_2.svg"
    files.write_text(old, "<svg/>")
    make(tmp_path, seeds=(0,), rows=synthetic.ROWS[:1])
    assert not old.exists()


# Small parts ---------------------------------------------------------------------------------------------


def test_a_study_from_scratch_needs_no_growth(tmp_path: Path) -> None:
    """One experiment without parents gives a report without the sections about growth."""
    made_tables, out = make(tmp_path, seeds=(0,), rows=synthetic.ROWS[:1])
    assert load(made_tables).growth.empty
    page = (out / "index.html").read_text(encoding="utf-8")
    assert 'id="growth"' not in page
    assert 'id="transfer"' not in page
    assert json.loads((made_tables / "study.json").read_text())["runs"] == 1


def test_numbers_are_written_as_people_write_them() -> None:
    """A real minus sign, a dash for missing values, no minus before zero, no ± without a standard deviation."""
    assert number(-1.256) == f"{MINUS}1.26"
    assert number(float("nan")) == "–"
    assert number(-0.001, sign=True) == "0.00"
    assert number(12345, 0) == "12,345"
    assert spread(1.0, float("nan")) == "1.00"
    assert scientific(3.14e-7) == "3.1 × 10⁻⁷"


def test_lengths_of_merged_networks_are_named_where_they_differ() -> None:
    """160 epochs against the plain network's 300 are named beside the merges; equal lengths are not mentioned."""

    def row(name: str, epochs: int, gate: str, parents: tuple[str, ...] = ()) -> dict[str, object]:
        own = {"model": {"gate": gate}, "data": {"dataset": "cifar100"}}
        return {"name": name, "network": "ResNet-8", "epochs": epochs, "parents": parents, "row": own}

    baseline, merge = row("baseline", 300, "none"), row("merge", 75, "weights", ("one1", "one1"))
    (sentence,) = merging.lengths([baseline, row("one1", 160, "weights"), merge], ["merge"])
    assert "one1 has 160 epochs and baseline has 300 epochs. A gain over a parent alone is" in sentence
    assert "most of all over one1." in sentence
    assert merging.lengths([baseline, row("one1", 300, "weights"), merge], ["merge"]) == []
    assert merging.lengths([baseline | {"network": "ResNet-32"}, row("one1", 160, "weights"), merge], ["merge"]) == []


def test_the_first_use_of_a_term_in_a_section_leads_to_its_definition() -> None:
    """The longest term wins, a plural and a capital count; names that contain a term and other words do not."""
    glossary = Glossary(["control", "continued-training control", "branch", "ECE, NLL", "ONE"])
    cut = glossary.first_uses()
    text = "Continued-training controls of a_branch, one control: branches, a branch; NLL of ONE."
    pieces = cut(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert [(piece, to) for piece, to in pieces if to] == [
        ("Continued-training controls", "term-continued-training-control"),
        ("control", "term-control"),
        ("branches", "term-branch"),
        ("NLL", "term-ece-nll"),
        ("ONE", "term-one"),
    ]
    assert cut("The control again.") == [("The control again.", "")]
    assert len(glossary.first_uses()("The control again.")) == 3
    assert Glossary([]).first_uses()("no terms") == [("no terms", "")]

"""Published figures: the content of the file, its errors, and the comparison with our own figures."""

import re
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import report_fixture as synthetic
from conftest import ROOT
from coopnet import files, study
from coopnet.commands import report as command
from coopnet.files.errors import CoopNetError
from coopnet.report import frames, report, tables
from coopnet.report.published import CERTAINTIES, PROTOCOL, Figure, read
from coopnet.report.wording import MINUS
from coopnet.runs.workspace import Workspace
from test_report import HOSTILE, Text, pick

ROWS = study.read_yaml(ROOT / "params.yaml")["experiments"]
FIGURES = {entry.id: entry for entry in read(ROOT / "figures.yaml", ROWS)}

ONE, STUDENT, PART3 = "one_paper", "student_study", "part3"
EXPECTED = {
    # As published: errors (%) of the paper, then accuracies (%).
    (ONE, "baseline", "ensemble"): {31.18},
    (ONE, "one3", "branch1"): {26.61, 26.68},
    (ONE, "one3", "ensemble"): {24.63},
    (ONE, "cifar10_baseline", "ensemble"): {6.93},
    (ONE, "cifar10_one3", "branch1"): {5.99},
    (ONE, "resnet110_bottleneck_baseline", "ensemble"): {25.33},
    (ONE, "resnet110_bottleneck_one3", "branch1"): {21.62},
    (ONE, None, "ensemble"): {5.56},
    (ONE, None, "branch1"): {5.17},
    (ONE, "distilled_from_resnet110", "ensemble"): {28.83},
    (ONE, "mutual2", "branch_mean"): {29.03},
    (ONE, "baseline_ensemble2", "mean_probabilities"): {26.75},
    (ONE, "baseline_ensemble3", "mean_probabilities"): {25.14},
    (ONE, "one2", "branch1"): {27.38},
    (ONE, "one4", "branch1"): {26.58},
    (ONE, "one5", "branch1"): {26.52},
    # Measured again by others: errors (%), then accuracies (%).
    ("mcl_okd", "baseline", "ensemble"): {28.91},
    ("mcl_okd", "one4", "branch1"): {25.74},
    ("mcl_okd", "one4", "ensemble"): {24.03},
    ("mcl_okd", "mutual2", "branch_mean"): {24.92},
    ("mcl_okd", None, None): {25.40, 25.76, 23.73, 24.52, 22.00},
    ("mcl", "baseline", "ensemble"): {70.91},
    ("l_mcl", None, None): {75.82},
    ("pcl", "one3", "branch1"): {73.79},
    ("repdistiller", "baseline", "ensemble"): {71.14},
    ("repdistiller", "distilled_from_resnet110", "ensemble"): {73.08},
    (STUDENT, "one1", "ensemble"): {70.12, 69.84},
    (STUDENT, "merge3_published", "branch1"): {73.03},
    (STUDENT, "merge3_published", "branch2"): {72.22},
    (STUDENT, "merge3_published", "branch3"): {71.89},
    (STUDENT, "merge3_published", "ensemble"): {74.90, 75.08},
    (STUDENT, None, None): {94.15, 93.63, 93.64, 94.61},
    (STUDENT, "embed1in3", "ensemble"): {90.22, 90.09},
    (PART3, "resnet18_single", "ensemble"): {86.01, 85.46, 85.71, 86.17, 86.39, 86.66, 86.06, 86.08, 86.38, 87.00},
    (PART3, "resnet18_ensemble5", "mean_probabilities"): {89.07},
    (PART3, "resnet18_distilled", "ensemble"): {87.00, 87.39},
    (PART3, "resnet18_self_distilled", "ensemble"): {
        *(86.88, 86.48, 86.13, 85.32, 87.08),
        *(87.70, 87.54, 87.14, 86.46, 87.38),
    },
    (PART3, "resnet18_self_ensemble5", "mean_probabilities"): {89.38},
}


# The file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", EXPECTED, ids=str)
def test_every_published_figure_is_there(place: tuple[str, str | None, str | None]) -> None:
    """Each figure is under its source with the row and model of its comparison, and nothing else."""
    found = [
        entry.figure.value
        for name, entry in FIGURES.items()
        if (name.split(".")[0], entry.figure.experiment, entry.figure.model) == place
    ]
    assert {value for values in found for value in values} == EXPECTED[place]


def test_no_other_figure_is_there() -> None:
    """The file has no other figures."""
    places = {(name.split(".")[0], entry.figure.experiment, entry.figure.model) for name, entry in FIGURES.items()}
    assert places == set(EXPECTED)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("one_paper.one", {"spread": 0.06, "runs": 3, "unit": "error %", "epochs": 300}),
        ("one_paper.baseline", {"certainty": "secondary source", "epoch": None}),
        ("one_paper.resnet110_one", {"spread": 0.26, "runs": 3, "epoch": None, "chosen_on": None}),
        ("one_paper.knowledge_distillation", {"network": None, "dataset": "cifar100"}),
        ("pcl.one3", {"spread": 0.41, "runs": None, "epochs": None, "certainty": "secondary source"}),
        ("mcl.baseline", {"spread": 0.14, "runs": 3, "epoch": "best", "chosen_on": "test"}),
        ("mcl_okd.one4", {"runs": None, "epochs": 300, "epoch": "best", "chosen_on": "test", "certainty": "table"}),
        ("repdistiller.baseline", {"epochs": 240, "epoch": None, "chosen_on": None}),
        ("student_study.one1_best", {"epochs": 160, "epoch": "best", "chosen_on": "test", "value": [70.12]}),
        ("student_study.one1_last", {"epochs": 160, "epoch": "last", "chosen_on": "nothing", "value": [69.84]}),
        ("student_study.merge3_ensemble_best", {"epochs": 75, "chosen_on": "test", "value": [75.08]}),
        ("student_study.merge3_ensemble_last", {"epochs": 75, "chosen_on": "nothing", "value": [74.90]}),
        ("student_study.embedding_best", {"dataset": "cifar10", "chosen_on": "test", "value": [90.22]}),
        ("student_study.combine4_first", {"dataset": "cifar10", "epochs": 0, "experiment": None}),
        ("part3.single", {"split": "test", "value": [86.01, 85.46, 85.71, 86.17, 86.39], "runs": 5}),
        ("part3.single_validation", {"split": "validation", "value": [86.66, 86.06, 86.08, 86.38, 87.00]}),
        ("part3.self_distilled", {"split": "test", "value": [86.88, 86.48, 86.13, 85.32, 87.08]}),
        ("part3.self_distilled_validation", {"split": "validation", "value": [87.70, 87.54, 87.14, 86.46, 87.38]}),
        ("part3.distilled_validation", {"split": "validation", "value": [87.39], "chosen_on": "validation"}),
        ("part3.self_ensemble", {"epochs": 100, "epoch": "best", "training_images": 45_000, "dataset": "cifar10"}),
    ],
)
def test_what_was_measured_is_said_with_the_figure(where: str, expected: Mapping[str, Any]) -> None:
    """Spread, runs, length, epoch and selection are those of the source; None if the source does not state them."""
    figure = FIGURES[where].figure
    assert {key: getattr(figure, key) for key in expected} == expected


def test_figures_are_on_the_data_and_the_network_of_their_rows() -> None:
    """A figure whose row has other data or another network has a note that says why, or an unknown network."""
    rows = study.load(ROOT).experiments
    other = set()
    for name, entry in FIGURES.items():
        figure = entry.figure
        if figure.experiment is None:
            continue
        row = rows[figure.experiment]
        network = figure.network and figure.network.model_dump()
        if figure.dataset != row.data.dataset or (network and network.items() - row.model.model_dump().items()):
            other.add(name)
        assert figure.model in {"ensemble", "mean_probabilities", "branch_mean"} | {
            f"branch{number + 1}" for number in range(row.model.branches)
        }
    assert other == {"student_study.embedding_best", "student_study.embedding_last"}


def test_an_error_is_turned_into_an_accuracy() -> None:
    """31.18 % error is 68.82 % accuracy; an accuracy is unchanged."""
    assert FIGURES["one_paper.baseline"].figure.accuracy == [68.82]
    assert FIGURES["mcl_okd.one4"].figure.accuracy == [74.26]


def test_the_page_of_differences_names_rows_that_there_are() -> None:
    """Every row that the page names is a row of params.yaml, or a pattern for several rows."""
    page = (ROOT / "docs/differences.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:one|baseline|merge|combine|expand|embed|resnet|cifar10_)\w*)(?:_?\*)?`", page))
    assert len(named) > 15
    assert {name for name in named if not any(row.startswith(name) for row in ROWS)} == set()


# Errors --------------------------------------------------------------------------------------------------


def _edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = yaml.safe_load((ROOT / "figures.yaml").read_text(encoding="utf-8"))
    change(content)
    (folder / "figures.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "figures.yaml"


def _entry(source: str, name: str, **change: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[source]["figures"][name].update(change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_entry("one_paper", "one", experiment="on3"), ["one.experiment: 'on3'", "did you mean 'one3'?"]),
        (_entry("one_paper", "one", experiment="unlike_all_rows"), ["one.experiment", "null with a note"]),
        (_entry("one_paper", "one", experiment=None), ["one: experiment null needs a note"]),
        (_entry("one_paper", "one", valu=1), ["one: valu is not a known key; did you mean 'value'?"]),
        (_entry("one_paper", "one", value=266.1), ["one: value", "266.1 is not valid", "less than or equal to 100"]),
        (_entry("one_paper", "one", value=[]), ["one: value", "at least 1 item"]),
        (_entry("one_paper", "one", spread=-0.06), ["one: spread", "-0.06 is not valid"]),
        (_entry("one_paper", "one", unit="error"), ["one: unit", "'error %' or 'accuracy %'"]),
        (_entry("one_paper", "one", model="brunch1"), ["one: model", "brunch1"]),
        (_entry("one_paper", "one", dataset=None), ["one: dataset", "it is empty", "not said"]),
        (
            _entry("one_paper", "one", network={"deep": 32}),
            ["one: network.deep is not a known key", "did you mean 'dep"],
        ),
        (_entry("one_paper", "one", chosen_on="test"), ["one: epoch not said with chosen_on test"]),
        (_entry("one_paper", "one", epoch="last"), ["one: epoch last with chosen_on not said"]),
        (_entry("student_study", "one1_best", epoch="last"), ["one1_best: epoch last with chosen_on test"]),
        (_entry("part3", "single", runs=4), ["single: value lists 5 runs, runs says 4"]),
        (_entry("part3", "single", spread=0.3), ["single: spread is computed"]),
        (_entry("part3", "self_distilled", gain={"over": "singel", "claimed": 1}), ["did you mean 'single'?"]),
        (
            _entry("part3", "self_distilled", gain={"over": "single_validation", "claimed": 1}),
            ["self_distilled.gain.over: single_validation is validation top1", "have to agree"],
        ),
        (lambda content: content["one_paper"].pop("work"), ["one_paper: work is missing"]),
        (lambda content: content["one_paper"].update(knd="log"), ["one_paper: knd is not a known key", "'kind'"]),
        (lambda content: content["one_paper"]["defaults"].pop("epochs"), ["baseline: epochs is missing"]),
        (lambda content: content.update(one_paper=[1]), ["one_paper", "mapping of keys to values"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: Sequence[str]
) -> None:
    """The line names the file, the entry, the key and the remedy."""
    with pytest.raises(CoopNetError) as refusal:
        read(_edited(tmp_path, change), ROWS)
    message = str(refusal.value)
    assert message.startswith("figures.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_an_entry_given_twice_is_refused(tmp_path: Path) -> None:
    """YAML would silently keep the last of two entries with one name."""
    text = (ROOT / "figures.yaml").read_text(encoding="utf-8")
    (tmp_path / "figures.yaml").write_text(text.replace("    one_ensemble: {", "    one: {"), encoding="utf-8")
    with pytest.raises(CoopNetError, match="'one' is given twice"):
        read(tmp_path / "figures.yaml", ROWS)


def test_tables_without_the_file_say_so_in_one_line(tmp_path: Path) -> None:
    """`coopnet tables` in a folder without figures.yaml names it."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with pytest.raises(CoopNetError, match=r"cannot read .*figures\.yaml") as refusal:
        command.tables(Workspace(tmp_path), "full")
    assert "\n" not in str(refusal.value)


# Beside our figures ----------------------------------------------------------------------------------------

SMALL = {
    "paper": {
        "work": f"The paper {HOSTILE}",
        "kind": "paper table",
        "remark": f"Remark {HOSTILE}",
        "defaults": {
            **{"split": "test", "metric": "top1", "unit": "error %", "dataset": "cifar100", "network": {"depth": 32}},
            **{"epochs": 300, "training_images": "not said", "epoch": "not said", "chosen_on": "not said", "runs": 3},
            "certainty": "secondary source",
        },
        "figures": {
            "baseline": {"about": f"Plain {HOSTILE}", "experiment": "baseline", "model": "ensemble", "value": 31.18},
            "one": {"about": "ONE", "experiment": "one3", "model": "branch2", "value": 26.61, "spread": 0.06},
            "top5": {"about": "top-5", "experiment": "one3", "model": "ensemble", "value": 8.0, "metric": "top5"},
            "absent": {"about": "Not in the study", "experiment": "one4", "model": "branch1", "value": 26.58},
            "none": {
                **{"about": "No such row", "experiment": None, "note": f"why not {HOSTILE}"},
                **{"model": "not said", "value": 5.0},
            },
        },
    },
    "log": {
        "work": "The log",
        "kind": "log",
        "defaults": {
            **{"split": "test", "metric": "top1", "unit": "accuracy %", "dataset": "cifar100", "network": {"depth": 8}},
            **{"epochs": 20, "training_images": 12_000, "epoch": "last", "chosen_on": "nothing", "runs": 2},
            "certainty": "log",
        },
        "figures": {
            "alike": {"about": "As ours", "experiment": "one5", "model": "branch_mean", "value": [46.0, 48.0]},
            "best": {
                **{"about": "Picked", "experiment": "one5", "model": "ensemble", "value": 50.0, "runs": 1},
                **{"epoch": "best", "chosen_on": "test", "gain": {"over": "least", "claimed": 3}},
            },
            "least": {"about": "Lower", "experiment": "one5", "model": "ensemble", "value": 48.5, "runs": 1},
            "elsewhere": {"about": "Other data", "experiment": "one5", "model": "ensemble", "value": 90.0}
            | {"dataset": "cifar10", "runs": 1},
            "unheld": {"about": "Held out", "experiment": "one5", "model": "ensemble", "value": 49.0}
            | {"split": "validation", "runs": 1},
            "together": {"about": "Three", "experiment": "ensemble3", "model": "mean_probabilities", "value": 47.0}
            | {"runs": 1},
        },
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tables and report of a study with two seeds, 20 epochs of ResNet-8 on 12,000 images, beside `SMALL`."""
    root = tmp_path_factory.mktemp("published")
    (root / "figures.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False), encoding="utf-8")
    rows = [row for row in synthetic.ALL_PARTS if row.part == "foundation" or row.name == "ensemble3"]
    runs, info = synthetic.write_study(root / "results" / "mini", rows=rows)
    entries = read(root / "figures.yaml", ROWS | {"ensemble3": {}})
    tables.build(runs, replace(info, published=entries), root / "results" / "mini" / "tables")
    files.write_json(root / "results" / "mini" / "claims.json", [])
    report.render(root / "results" / "mini" / "tables", root / "reports" / "mini")
    return root / "results" / "mini" / "tables", root / "reports" / "mini"


@pytest.fixture(scope="module")
def page(made: tuple[Path, Path]) -> Text:
    """The report as a reader sees it."""
    return Text((made[1] / "index.html").read_text(encoding="utf-8"))


def row(made: tuple[Path, Path], name: str) -> dict[str, str]:
    """A figure's row of the table."""
    return pick(made[0] / "published.csv", id=name)


def test_ours_is_the_mean_over_seeds_and_the_difference_is_in_accuracy(made: tuple[Path, Path]) -> None:
    """Branch 2 of the fixture is 1.2 points below its ensemble; the published accuracy is 100 − error."""
    found = row(made, "paper.one")
    ours = [synthetic.top1("one3", seed) - 1.2 for seed in (0, 1)]
    assert float(found["theirs"]) == pytest.approx(100 - 26.61)
    assert (found["published"], found["unit"], found["theirs_spread"]) == ("26.61", "error %", "0.06")
    assert float(found["ours"]) == pytest.approx(statistics.mean(ours))
    assert float(found["ours_std"]) == pytest.approx(statistics.stdev(ours))
    assert found["n"] == "2"
    assert float(found["ours_minus_theirs"]) == pytest.approx(statistics.mean(ours) - 73.39)


def test_top5_is_compared_with_top5(made: tuple[Path, Path]) -> None:
    """The fixture's top-5 is 28 points above its top-1."""
    assert float(row(made, "paper.top5")["ours"]) == pytest.approx(47.25 + 28)


def test_listed_runs_give_mean_and_sample_deviation(made: tuple[Path, Path]) -> None:
    """For 46 and 48: 47 ± √2; an equal protocol has no differences."""
    found = row(made, "log.alike")
    assert float(found["theirs"]) == 47
    assert float(found["theirs_spread"]) == pytest.approx(2**0.5)
    assert (found["differs"], found["unsaid"]) == ("", "")
    assert float(found["ours_minus_theirs"]) == pytest.approx(48.35 - 1.4 - 47)


@pytest.mark.parametrize(
    ("name", "differs", "unsaid"),
    [
        ("paper.baseline", "network; epochs; runs", "training_images; epoch"),
        ("log.best", "epoch; runs", ""),
        ("log.elsewhere", "dataset; runs", ""),
        ("paper.absent", "", "training_images; epoch"),
    ],
)
def test_protocols_are_compared_part_by_part(made: tuple[Path, Path], name: str, differs: str, unsaid: str) -> None:
    """Differing and unstated parts are distinguished; a row that was not run has no known differences."""
    found = row(made, name)
    assert (found["differs"], found["unsaid"]) == (differs, unsaid)


def test_both_protocols_stand_in_the_table(made: tuple[Path, Path]) -> None:
    """Our protocol is read from the row that was run."""
    found = row(made, "paper.one")
    ours, theirs = ([found[f"{name}_{side}"] for name in PROTOCOL] for side in ("ours", "theirs"))
    assert ours == ["cifar100", "ResNet-8", "20", "12000", "last", "2"]
    assert theirs == ["cifar100", "ResNet-32", "300", "", "", "3"]


def test_a_plain_ensemble_has_the_protocol_of_its_members(made: tuple[Path, Path]) -> None:
    """It is not trained itself; its members were, for 20 epochs; and it is the mean of probabilities."""
    found = row(made, "log.together")
    assert (found["epochs_ours"], found["network_ours"], found["differs"]) == ("20", "ResNet-8", "runs")
    assert found["runs_ours"] == "2"  # ensembles, of three networks each
    members = [synthetic.top1("baseline", seed) for seed in range(6)]
    expected = statistics.mean(members) + synthetic.PLAIN + synthetic.PROBABILITIES
    assert float(found["ours"]) == pytest.approx(expected)


def test_what_is_not_measured_is_never_filled(made: tuple[Path, Path]) -> None:
    """Without a row, or without the images, there is no figure of ours and no difference."""
    for name, state in (("paper.none", "no row"), ("paper.absent", "not run"), ("log.unheld", "not measured")):
        found = row(made, name)
        assert (found["state"], found["ours"], found["ours_minus_theirs"], found["n"]) == (state, "", "", "0")


def test_other_data_give_no_difference(made: tuple[Path, Path]) -> None:
    """Accuracies on CIFAR-100 and CIFAR-10 are shown together and not subtracted."""
    found = row(made, "log.elsewhere")
    assert float(found["ours"]) == pytest.approx(48.35)
    assert found["ours_minus_theirs"] == ""


def test_a_model_that_the_row_does_not_have_is_refused(tmp_path: Path) -> None:
    """A sixth branch of five is a mistake in the file and not a gap."""
    content = {"log": SMALL["log"] | {"figures": {"slip": SMALL["log"]["figures"]["least"] | {"model": "branch6"}}}}
    (tmp_path / "figures.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    runs, info = synthetic.write_study(tmp_path / "runs", seeds=(0,))
    with pytest.raises(CoopNetError, match=r"log\.slip\.model: one5 has no branch6 \(known: branch1, "):
        tables.build(runs, replace(info, published=read(tmp_path / "figures.yaml", ROWS)), tmp_path / "tables")


def test_the_best_validation_epoch_is_named_as_such(tmp_path: Path) -> None:
    """If our own row selects its epoch on validation images, its protocol says so."""
    picked = {"data": {"validation": 2000}, "training": {"selection": "best_validation"}}
    rows = [replace(synthetic.ROWS[3], settings=picked)]
    runs, info = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=rows)
    (tmp_path / "figures.yaml").write_text(yaml.safe_dump({"log": SMALL["log"]}), encoding="utf-8")
    entries = read(tmp_path / "figures.yaml", ROWS | {"ensemble3": {}})
    tables.build(runs, replace(info, published=entries), tmp_path / "tables")
    found = pick(tmp_path / "tables" / "published.csv", id="log.unheld")
    assert (found["epoch_ours"], found["state"]) == ("best on validation", "measured")
    assert float(found["ours"]) == pytest.approx(48.1 + 0.4)


# The page --------------------------------------------------------------------------------------------------


def test_the_page_shows_theirs_ours_and_what_differs(page: Text) -> None:
    """One line per figure; below ours the seeds, below the differences the unstated parts."""
    assert page.row("published-table", "ONE") == [
        "ONE | CIFAR-100, ResNet-32, test top-1; ours: one3, branch 2",
        "73.39 ± 0.06 | n = 3, epoch not said",
        "46.05 ± 0.35 | n = 2",
        f"{MINUS}27.34",
        "ResNet-8, not ResNet-32; 20 epochs, not 300; 2 runs, not 3 | 12,000 training images: not said there",
        "secondary source",
    ]
    assert page.row("published-table", "Not in the study")[2:5] == ["not run", "–", "–"]
    assert page.row("published-table", "As ours")[4] == "no difference"


def test_a_figure_picked_on_test_images_says_so_in_its_cell(page: Text) -> None:
    """A figure of the last epoch has no such note."""
    assert page.row("published-table", "Picked")[1] == "50.00 | n = 1, best epoch, selected on test"
    assert page.row("published-table", "Lower")[1] == "48.50 | n = 1"


def test_figures_are_grouped_by_source(page: Text) -> None:
    """Each source has a heading with its kind."""
    headings = [cells[0] for cells in page.tables["published-table"] if len(cells) == 1]
    assert headings == [f"The paper {HOSTILE}: paper table", "The log: log"]


def test_the_sentences_are_counted_from_the_table(page: Text) -> None:
    """The number of comparisons and reasons for missing ones; differences in scale; the size of a claimed gain."""
    for expected in (
        "Of 11 published figures, 7 can be set against this study’s; the others: 1 whose experiment was not run, "
        "1 on a split that this study does not have, 1 that no experiment measures and 1 on other data",
        "In 3 of these the scale is different (network in 3, epochs in 3)",
        "“Picked” is 50.00 % against 48.50 % of “Lower”, in the mean of the published runs: +1.50 points, where +3 is",
    ):
        assert expected in page.text


def test_the_caption_explains_only_the_certainties_that_occur(page: Text) -> None:
    """Only two of the three occur."""
    found = {name for name, words in CERTAINTIES.items() if f"{name}: {words}" in page.text}
    assert found == {"secondary source", "log"}
    assert set(CERTAINTIES) == set(Figure.model_json_schema()["properties"]["certainty"]["enum"])


def test_words_of_the_file_are_text(made: tuple[Path, Path], page: Text) -> None:
    """Markup in any text is shown literally, on the page and in the PDF."""
    assert (made[1] / "index.html").read_text(encoding="utf-8").count("<script") == 1  # the page's own
    for expected in (f"The paper {HOSTILE}", f"Plain {HOSTILE}", f"why not {HOSTILE}", f"Remark {HOSTILE}"):
        assert expected in page.text
    assert (made[1] / "report.pdf").read_bytes().startswith(b"%PDF")


def test_without_figures_there_is_no_section(tmp_path: Path) -> None:
    """A study without comparisons has an empty table and no section."""
    runs, info = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=synthetic.ROWS[:1])
    tables.build(runs, info, tmp_path / "tables")
    files.write_json(tmp_path / "claims.json", [])
    report.render(tmp_path / "tables", tmp_path / "out")
    assert frames.load(tmp_path / "tables").published.empty
    assert 'id="published"' not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_self_distillation_gains_less_than_claimed_in_its_own_table(tmp_path: Path) -> None:
    """0.43 points on test in the mean of the published figures, in any study; computed here by hand."""
    runs, info = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=synthetic.ROWS[:1])
    tables.build(runs, replace(info, published=list(FIGURES.values())), tmp_path / "tables")
    found = pick(tmp_path / "tables" / "published.csv", id="part3.self_distilled")
    by_hand = (86.88 + 86.48 + 86.13 + 85.32 + 87.08) / 5 - (86.01 + 85.46 + 85.71 + 86.17 + 86.39) / 5
    assert float(found["gain"]) == pytest.approx(by_hand)
    assert round(by_hand, 2) == 0.43
    files.write_json(tmp_path / "claims.json", [])
    report.render(tmp_path / "tables", tmp_path / "out")
    text = Text((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).text
    assert "in the mean of the published runs: +0.43 points, where +1 is claimed" in text

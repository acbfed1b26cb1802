"""The report: what it says is what the runs' files hold, and it is the same bytes every time."""

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import report_fixture as synthetic
from coopnet import files
from coopnet.errors import CoopNetError
from coopnet.reporting import report, tables
from coopnet.reporting.frames import load
from coopnet.reporting.wording import MINUS, number, scientific, spread

HOSTILE = "<script>alert('1')</script> & #let $x$ \\evil"


def rows(path: Path) -> list[dict[str, str]]:
    """A table, as strings."""
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def pick(path: Path, **where: object) -> dict[str, str]:
    """The only row that agrees with `where`."""
    (found,) = [row for row in rows(path) if all(row[key] == str(value) for key, value in where.items())]
    return found


def make(root: Path, **options: object) -> tuple[Path, Path]:
    """A synthetic study's tables and report."""
    runs, study = synthetic.write_study(root / "results" / "mini", **options)
    tables.build(runs, study, root / "results" / "mini" / "tables")
    report.render(root / "results" / "mini" / "tables", root / "reports" / "mini")
    return root / "results" / "mini" / "tables", root / "reports" / "mini"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tables and report of nine experiments with two seeds and a hostile title."""
    return make(tmp_path_factory.mktemp("study"), title=HOSTILE)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tables and report of the same experiments with one seed."""
    return make(tmp_path_factory.mktemp("single"), seeds=(0,))


@pytest.fixture(scope="module")
def page(made: tuple[Path, Path]) -> str:
    """The source of index.html."""
    return (made[1] / "index.html").read_text(encoding="utf-8")


class Text(HTMLParser):
    """What a reader sees: the text of a page, and the cells of its tables by id."""

    def __init__(self, page: str):
        super().__init__()
        self.text, self.tables, self._table = "", {}, []
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

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._table and self._table[-1]:
            self._table[-1][-1] += data.strip("\n")

    def row(self, table: str, first: str) -> list[str]:
        """Cells of the row whose first cell begins with `first`."""
        (found,) = [row for row in self.tables[table] if row and row[0].split(" | ")[0] == first]
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


def test_step0_counts_and_exactness(made: tuple[Path, Path]) -> None:
    """A start is exact when max|Δ| ≤ 1e-6 · max|logit|; its relative difference is their ratio."""
    for start, exact in (("zero_pad", "no"), ("zero_output", "no"), ("masked", "yes"), ("split", "yes")):
        found = pick(made[0] / "step0.csv", start=start, seed=1)
        changed = synthetic.CHANGED[start] + (10 if synthetic.CHANGED[start] else 0)
        assert found["exact"] == exact
        assert int(found["changed_predictions"]) == changed
        relative = synthetic.DIFFERENCE[start] / synthetic.LARGEST_LOGIT
        assert float(found["relative_difference"]) == pytest.approx(relative)


def test_step0_is_about_surgery_only(made: tuple[Path, Path]) -> None:
    """The control, which inherits a whole network, is not listed as a start."""
    starts = {row["start"] for row in rows(made[0] / "step0_mean.csv")}
    assert starts == {"zero_pad", "zero_output", "masked", "split"}


def test_step0_mean_is_over_seeds(made: tuple[Path, Path]) -> None:
    """Changed predictions are averaged over seeds."""
    assert float(pick(made[0] / "step0_mean.csv", start="zero_pad")["changed_predictions"]) == 817


def test_a_start_is_exact_only_if_every_seed_is(tmp_path: Path) -> None:
    """One seed out of tolerance makes the start inexact in the mean."""
    runs, study = synthetic.write_study(tmp_path)
    (split,) = [run for run in runs if (run.experiment, run.seed) == ("one3_to_5_split", 1)]
    metrics = files.read_json(split.folder / "metrics.json")
    metrics["step0"]["test"]["versus_parent"]["largest_logit_difference"] = 2.1e-6 * synthetic.LARGEST_LOGIT
    files.write_json(split.folder / "metrics.json", metrics)
    tables.build(runs, study, tmp_path / "tables")
    assert pick(tmp_path / "tables" / "step0.csv", start="split", seed=0)["exact"] == "yes"
    assert pick(tmp_path / "tables" / "step0_mean.csv", start="split")["exact"] == "no"


def test_growth_is_paired_with_parent_and_control(made: tuple[Path, Path]) -> None:
    """A child's gain is against its own parent and the control of the same seed."""
    for seed in (0, 1):
        found = pick(made[0] / "growth.csv", experiment="one3_to_5_masked", seed=seed, model="ensemble", metric="top1")
        child = synthetic.top1("one3_to_5_masked", seed)
        assert float(found["over_parent"]) == pytest.approx(child - synthetic.top1("one3", seed))
        assert float(found["over_control"]) == pytest.approx(child - synthetic.top1("one3_continued", seed))
        assert found["control"] == "one3_continued"


def test_the_control_has_no_control(made: tuple[Path, Path]) -> None:
    """The control is compared with its parent, and with no control: not even with itself."""
    found = pick(made[0] / "growth_mean.csv", experiment="one3_continued", model="ensemble", metric="top1")
    assert float(found["over_parent_mean"]) == pytest.approx(0.3)
    assert found["over_control_mean"] == ""


def test_a_control_of_another_length_is_none(tmp_path: Path) -> None:
    """Longer training is not a control for shorter growth."""
    runs, study = synthetic.write_study(tmp_path, seeds=(0,))
    (control,) = [run for run in runs if run.experiment == "one3_continued"]
    (row,) = [row["row"] for row in study.experiments if row["name"] == "one3_continued"]
    row["training"]["epochs"] -= 1
    lines = (control.folder / "history.csv").read_text().splitlines(keepends=True)
    (control.folder / "history.csv").write_text("".join(lines[:-1]))
    digest = files.sha256(control.folder / "history.csv")
    record = files.read_json(control.folder / "run.json") | {"row": row, "files": {"history.csv": digest}}
    files.write_json(control.folder / "run.json", record)
    tables.build(runs, study, tmp_path / "tables")
    assert {row["control"] for row in rows(tmp_path / "tables" / "growth.csv")} == {""}


def test_histories_keep_every_epoch_and_digit(made: tuple[Path, Path]) -> None:
    """history.csv has each run's epochs, with the digits that the run wrote."""
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
    """Other times change timing.csv and nothing else."""
    runs, study = synthetic.write_study(tmp_path / "runs", title=HOSTILE)
    timing = runs[0].folder / "timing.csv"
    timing.write_text(timing.read_text().replace("10.5", "99.25"))
    tables.build(runs, study, tmp_path / "tables")
    differing = {p.name for p in made[0].iterdir() if p.read_bytes() != (tmp_path / "tables" / p.name).read_bytes()}
    assert differing == {"timing.csv"}


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metrics.json", "run.json", "history.csv", "timing.csv"])
def test_a_run_without_a_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """A missing file stops the report and names the run and the file; it never becomes a gap or a zero."""
    runs, study = synthetic.write_study(tmp_path)
    (tmp_path / "one5" / "seed1" / name).unlink()
    with pytest.raises(CoopNetError, match=rf"one5 seed 1.*{name}"):
        tables.build(runs, study, tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_a_run_that_was_not_given_is_refused_by_name(tmp_path: Path) -> None:
    """Every experiment and seed of the study has to be there."""
    runs, study = synthetic.write_study(tmp_path)
    with pytest.raises(CoopNetError, match="one3_to_5_split seed 1 is missing"):
        tables.build(runs[:-1], study, tmp_path / "tables")


def _cut_history(folder: Path) -> None:
    lines = (folder / "history.csv").read_text().splitlines(keepends=True)
    (folder / "history.csv").write_text("".join(lines[:-2]))


def _edit_history(folder: Path) -> None:
    text = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text(text.replace("48.1", "58.1"))


def _drop_score(folder: Path) -> None:
    metrics = files.read_json(folder / "metrics.json")
    del metrics["final"]["test"]["ensemble"]["top1"]
    files.write_json(folder / "metrics.json", metrics)


def _impossible_score(folder: Path) -> None:
    metrics = files.read_json(folder / "metrics.json")
    metrics["final"]["test"]["ensemble"]["top1"] = 481.0
    files.write_json(folder / "metrics.json", metrics)


def _not_a_number(folder: Path) -> None:
    path = folder / "metrics.json"
    path.write_text(re.sub(r'"nll": [\d.]+', '"nll": NaN', path.read_text(), count=1))


def _truncated_json(folder: Path) -> None:
    path = folder / "metrics.json"
    path.write_text(path.read_text()[:40])


def _other_seed(folder: Path) -> None:
    shutil.copy(folder.parent / "seed1" / "run.json", folder / "run.json")


def _other_experiment(folder: Path) -> None:
    shutil.copy(folder.parent.parent / "one3" / "seed0" / "run.json", folder / "run.json")


@pytest.mark.parametrize(
    "damage",
    [
        _cut_history,
        _edit_history,
        _drop_score,
        _impossible_score,
        _not_a_number,
        _truncated_json,
        _other_seed,
        _other_experiment,
    ],
)
def test_a_damaged_run_is_refused_by_name(tmp_path: Path, damage: object) -> None:
    """Files that are cut, edited, impossible or of another run are refused in one line that names the run."""
    runs, study = synthetic.write_study(tmp_path)
    damage(tmp_path / "one5" / "seed0")
    with pytest.raises(CoopNetError, match="one5 seed 0") as refusal:
        tables.build(runs, study, tmp_path / "tables")
    assert "\n" not in str(refusal.value)


def test_a_missing_table_is_refused_by_name(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The report names the table that it lacks."""
    shutil.copytree(made[0], tmp_path / "tables")
    (tmp_path / "tables" / "growth.csv").unlink()
    with pytest.raises(CoopNetError, match=r"growth\.csv"):
        report.render(tmp_path / "tables", tmp_path / "out")


# Page ------------------------------------------------------------------------------------------------


def test_the_page_shows_each_accuracy(page: str) -> None:
    """Each experiment's row has mean ± std, n and every seed."""
    text = Text(page)
    for row in synthetic.ROWS:
        values = [synthetic.top1(row.name, seed) for seed in (0, 1)]
        cells = text.row("accuracy-table", row.name)
        assert cells[1] == "2"
        expected = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        assert cells[2] == f"{expected} | {values[0]:.2f} · {values[1]:.2f}"


def test_the_page_shows_every_branch(page: str) -> None:
    """The table of branches has a row for the ensemble and for each branch."""
    models = [row[1] for row in Text(page).tables["branches-table"][1:]]
    assert len(models) == sum(1 + row.branches for row in synthetic.ROWS)
    assert models.count("branch 5") == 5


def test_the_page_shows_step0(page: str) -> None:
    """The four starts stand with their exactness, counts and differences."""
    cells = Text(page).row("step0-table", "one3_to_5_zero_pad")
    assert cells[1:5] == ["mean", "✗ no", "817 | 8.17 %", "4.200 | 0.210"]
    cells = Text(page).row("step0-table", "one3_to_5_split")
    assert cells[1:5] == ["mean", "✓ yes", "0 | 0.00 %", "3.8 × 10⁻⁶ | 1.9 × 10⁻⁷"]


def test_the_page_shows_growth_over_parent_and_control(page: str) -> None:
    """A loss against the control stands with its sign."""
    cells = Text(page).row("growth-table", "one3_to_5_zero_output")
    assert cells[4] == "+0.10 ± 0.00 | +0.10 · +0.10"
    assert cells[5] == f"{MINUS}0.20 ± 0.00 | {MINUS}0.20 · {MINUS}0.20"


def test_the_page_says_what_its_scale_cannot_show(page: str) -> None:
    """A study of 20 epochs says that it is short."""
    assert "at most 20 epochs, against 300" in Text(page).text


def test_the_page_says_how_epochs_were_selected(page: str) -> None:
    """Last epochs are named as such."""
    assert "the network of the last epoch; no epoch was picked" in Text(page).text


def test_a_picked_epoch_is_named_in_its_cell(tmp_path: Path) -> None:
    """Where an epoch was picked on the validation images, the cell itself says so."""
    runs, study = synthetic.write_study(tmp_path / "runs", seeds=(0,), rows=synthetic.ROWS[:2])
    study.experiments[1]["row"]["training"]["selection"] = "best_validation"
    record = files.read_json(runs[1].folder / "run.json")
    record |= {"row": study.experiments[1]["row"], "selected_epoch": 11}
    files.write_json(runs[1].folder / "run.json", record)
    tables.build(runs, study, tmp_path / "tables")
    report.render(tmp_path / "tables", tmp_path / "out")
    text = Text((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert text.row("accuracy-table", "one1")[2] == "44.40 | epoch 12 of 20, best validation"
    assert text.row("accuracy-table", "baseline")[2] == "44.00"


def test_the_page_shows_provenance(page: str) -> None:
    """Parameters, digests, versions and device are there."""
    text = Text(page).text
    for expected in ("185,000", "ab" * 32, "torch 2.11.0+cpu", "AMD EPYC", synthetic.key("one3", 0)[:12]):
        assert expected in text


def test_a_hostile_title_is_text(made: tuple[Path, Path], page: str) -> None:
    """Markup in a title is shown, in the page and in the PDF, and never interpreted."""
    assert "<script" not in page
    assert HOSTILE in Text(page).text
    assert (made[1] / "report.pdf").read_bytes().startswith(b"%PDF")


def test_the_page_fetches_nothing(page: str) -> None:
    """No element loads or links to another host, and the policy forbids it."""
    targets = re.findall(r"""(?:src|href|action|data|srcset|poster)\s*=\s*["']([^"']*)""", page)
    targets += re.findall(r"url\(([^)]*)\)", page) + re.findall(r"@import[^;]*", page)
    assert targets
    assert not [target for target in targets if re.match(r"\s*['\"]?(\w+:)?//", target)]
    assert """default-src 'none'; style-src 'unsafe-inline'; img-src data:""" in page


def test_the_page_links_to_tables_that_exist(made: tuple[Path, Path], page: str) -> None:
    """Each relative link leads to a file of the repository's layout."""
    report.render_timing(*made)
    for target in set(re.findall(r'<a [^>]*href="([^"#]+)"', page)):
        assert (made[1] / target).is_file(), target


def test_ids_of_the_page_are_unique(page: str) -> None:
    """Figures drawn by the same library share no element ids on the page."""
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_timing_is_a_page_of_its_own(made: tuple[Path, Path], tmp_path: Path) -> None:
    """timing.html holds the seconds, index.html does not."""
    report.render_timing(made[0], tmp_path)
    text = Text((tmp_path / "timing.html").read_text(encoding="utf-8"))
    assert text.tables["timing-table"][1] == ["baseline", "0", "20", "210.0", "30.0", "950"]
    assert "210.0" not in Text((made[1] / "index.html").read_text(encoding="utf-8")).text


# PDF and figures ---------------------------------------------------------------------------------------


def test_the_pdf_has_pages_and_no_date(made: tuple[Path, Path]) -> None:
    """It is a PDF of several pages that does not say when it was made."""
    pdf = (made[1] / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3
    assert b"CreationDate" not in pdf


def test_figures_have_their_text_as_paths(made: tuple[Path, Path]) -> None:
    """No figure needs a font, so page and PDF agree."""
    names = {path.stem for path in (made[1] / "figures").glob("*.svg")}
    assert names == {"overview", "curves_scratch", "curves_finetuning", "step0", "dag"}
    for path in (made[1] / "figures").glob("*.svg"):
        assert "<text" not in path.read_text(encoding="utf-8")
    assert (made[1] / "figures" / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_two_reports_of_the_same_tables_are_the_same_bytes(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Another folder, another process and another hash seed change no byte."""
    started = []
    for seed in ("1", "2"):
        copied, out = tmp_path / seed / "tables", tmp_path / seed / "deep" / "er" / "out"
        shutil.copytree(made[0], copied)
        code = (
            "import sys, pathlib; from coopnet.reporting.report import render; render(*map(pathlib.Path, sys.argv[1:]))"
        )
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TZ": f"UTC+{seed}",
        }
        started.append((subprocess.Popen([sys.executable, "-c", code, copied, out], env=environment), out))
    expected = {p.relative_to(made[1]): p.read_bytes() for p in made[1].rglob("*") if p.is_file()}
    expected.pop(Path("timing.html"), None)
    for process, out in started:
        assert process.wait() == 0
        assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == expected


def test_the_report_is_made_from_the_tables_alone(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Without any run's files the report is the same."""
    shutil.copytree(made[0], tmp_path / "tables")
    report.render(tmp_path / "tables", tmp_path / "out")
    assert (tmp_path / "out" / "index.html").read_bytes() == (made[1] / "index.html").read_bytes()


def test_a_figure_that_is_no_longer_drawn_is_removed(tmp_path: Path) -> None:
    """A report holds no picture of experiments that its study does not have."""
    old = tmp_path / "reports" / "mini" / "figures" / "curves_scratch_2.svg"
    files.write_text(old, "<svg/>")
    make(tmp_path, seeds=(0,), rows=synthetic.ROWS[:1])
    assert not old.exists()


# Small parts ---------------------------------------------------------------------------------------------


def test_a_study_from_scratch_needs_no_growth(tmp_path: Path) -> None:
    """One experiment without parents makes a report without the sections of growth."""
    made_tables, out = make(tmp_path, seeds=(0,), rows=synthetic.ROWS[:1])
    assert load(made_tables).growth.empty
    page = (out / "index.html").read_text(encoding="utf-8")
    assert 'id="growth"' not in page
    assert 'id="step0"' not in page
    assert json.loads((made_tables / "study.json").read_text())["runs"] == 1


def test_numbers_are_written_as_people_write_them() -> None:
    """A real minus, a dash for nothing, no minus before zero, no ± without a spread."""
    assert number(-1.256) == f"{MINUS}1.26"
    assert number(float("nan")) == "–"
    assert number(-0.001, sign=True) == "0.00"
    assert number(12345, 0) == "12,345"
    assert spread(1.0, float("nan")) == "1.00"
    assert scientific(3.14e-7) == "3.1 × 10⁻⁷"

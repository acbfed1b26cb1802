"""The demo as `make demo` makes it: Step 1 and Step 2, from nothing to the report, and what a person then reads."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coopnet import study

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

PLAN = study.load(ROOT, "demo")


class Words(HTMLParser):
    """The text of a page, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetched += [
            value or "" for name, value in attributes if name == "src" or (tag == "link" and name == "href")
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def committed() -> list[str]:
    """Studies whose report is in the repository."""
    listed = subprocess.run(["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True).stdout
    return sorted({line.split("/")[1] for line in listed.splitlines()})


def begin(folder: Path) -> Path:
    """A workspace in which nothing was made yet."""
    folder.mkdir(exist_ok=True)
    for part in ("params.yaml", "claims.yaml", "figures.yaml", "Snakefile", "studies", "workflow", "profiles"):
        source = ROOT / part
        shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
    return folder


def make(name: str, folder: Path) -> Path:
    """A workspace in which a study of this project was made, from an empty store."""
    begin(folder)
    environment = os.environ | {"COOPNET_STORE": str(folder / "store")}
    command = [BIN / "snakemake", "--cores", "2", "--config", f"study={name}"]
    made = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, made once."""
    return make("demo", tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def page(demo: Path) -> Words:
    """The report, read."""
    words = Words()
    words.feed((demo / "reports/demo/index.html").read_text())
    return words


def metrics(demo: Path, experiment: str, seed: int = 0) -> dict[str, Any]:
    """`metrics.json` of a run."""
    content: dict[str, Any] = json.loads((demo / f"results/demo/{experiment}/seed{seed}/metrics.json").read_text())
    return content


def test_report_has_every_experiment_with_its_mean_over_seeds(demo: Path, page: Words) -> None:
    """Mean and standard deviation that the page shows are those of the runs' metrics."""
    text = " ".join(page.text)
    table = pd.read_csv(demo / "results/demo/tables/accuracy.csv").query("split == 'test' and model == 'ensemble'")
    table = table.set_index("experiment")
    for name in PLAN.experiments:
        assert name in text
        values = [metrics(demo, name, seed)["final"]["test"]["ensemble"]["top1"] for seed in PLAN.seeds(name)]
        assert table.loc[name, "n"] == len(values)
        assert table.loc[name, "top1_mean"] == pytest.approx(pd.Series(values).mean())
        assert table.loc[name, "top1_std"] == pytest.approx(pd.Series(values).std(), nan_ok=True)
        assert f"{pd.Series(values).mean():.2f}" in text


def test_networks_learn(demo: Path) -> None:
    """Even at this scale every trained network is far better than chance (10 %) on images it has not seen."""
    for run in PLAN.runs.values():
        if run.row.training.epochs:
            assert metrics(demo, run.experiment, run.seed)["final"]["test"]["ensemble"]["top1"] > 25, run.name


def test_step0_table_tells_the_four_starts_apart(demo: Path) -> None:
    """`masked` is exactly the parent; `zero_output` keeps predictions but not logits; `zero_pad` keeps neither."""
    step0 = {
        kind: metrics(demo, f"one3_to_5_{kind}")["step0"]["test"]["versus_parent"]
        for kind in ("zero_pad", "zero_output", "masked", "split")
    }
    assert step0["masked"]["exact"]
    assert step0["masked"]["changed_predictions"] == 0
    assert step0["zero_output"]["changed_predictions"] == 0
    assert not step0["zero_output"]["exact"]
    assert not step0["zero_pad"]["exact"]
    assert not step0["split"]["exact"]  # its noise is 0.1


@pytest.mark.parametrize(
    "name", ["expand1to3_split_exact", "expand1to5_split_exact", "expand1to3_masked", "expand1to5_masked", "embed1in3"]
)
def test_expansions_and_the_embedding_start_as_their_parent(demo: Path, name: str) -> None:
    """Exact copies, masked branches and the embedding compute at step 0 what the single network computes."""
    versus = metrics(demo, name)["step0"]["test"]["versus_parent"]
    assert versus["exact"]
    assert versus["changed_predictions"] == 0


def test_exact_copies_stay_alike_and_noisy_ones_do_not(demo: Path) -> None:
    """Without noise three copies predict the same before and after training; with it they differ."""
    alike, apart = (
        metrics(demo, name)["final"]["test"]["diversity"] for name in ("expand1to3_split_exact", "expand1to3_split")
    )
    assert alike["disagreement"] == 0
    assert alike["kl"] < 1e-9
    assert apart["kl"] > 1e-6


def test_plain_ensemble_is_the_mean_of_its_parents_logits(demo: Path) -> None:
    """Combining without gate or training is the ensemble computed from the parents' saved logits."""
    block = metrics(demo, "one1_ensemble3")["final"]["test"]
    assert block["ensemble"] == pytest.approx(block["versus_parents"]["logit_ensemble"])
    assert block["mean_probabilities"] == pytest.approx(block["versus_parents"]["probability_ensemble"])
    singles = [metrics(demo, "one1", seed)["final"]["test"]["ensemble"]["top1"] for seed in range(3)]
    assert [branch["top1"] for branch in block["branches"]] == singles


def test_refit_starts_above_the_first_trunk(demo: Path) -> None:
    """At step 0 the solved branches of a merge are far better than branches on a trunk that they never saw.

    Both with BatchNorm measured anew, so that the regression alone makes the difference.
    """
    refit, first = (metrics(demo, name)["step0"]["test"]["branches"] for name in ("merge3_refit", "merge3_first_bn"))
    assert all(a["top1"] > b["top1"] + 20 for a, b in zip(refit[1:], first[1:], strict=True))


def test_page_needs_nothing_from_elsewhere(page: Words) -> None:
    """The page fetches nothing, from the network or from disk."""
    assert page.fetched == []


def test_pdf_and_tables_and_timing_are_there(demo: Path) -> None:
    """PDF, CSV tables and the page of timings, which stands apart."""
    assert (demo / "reports/demo/report.pdf").read_bytes().startswith(b"%PDF")
    assert (demo / "reports/demo/timing.html").is_file()
    for name in ("runs", "accuracy", "step0", "growth", "history", "provenance"):
        assert not pd.read_csv(demo / f"results/demo/tables/{name}.csv").empty


def test_report_is_made_from_the_tables_alone(demo: Path, tmp_path: Path) -> None:
    """With nothing but the tables, `coopnet report` gives the same bytes."""
    shutil.copytree(demo / "results/demo/tables", tmp_path / "results/demo/tables")
    shutil.copy(demo / "results/demo/claims.json", tmp_path / "results/demo")
    subprocess.run([BIN / "coopnet", "report", "demo"], cwd=tmp_path, check=True)
    for name in ("index.html", "report.pdf", "figures/overview.png"):
        assert (tmp_path / "reports/demo" / name).read_bytes() == (demo / "reports/demo" / name).read_bytes()


@pytest.mark.parametrize("name", committed())
def test_committed_reports_follow_from_committed_tables(name: str, tmp_path: Path) -> None:
    """Every report in the repository is, byte for byte, what its tables give; on any machine with these libraries."""
    shutil.copytree(ROOT / "results" / name / "tables", tmp_path / "results" / name / "tables")
    shutil.copy(ROOT / "results" / name / "claims.json", tmp_path / "results" / name)
    subprocess.run([BIN / "coopnet", "report", name], cwd=tmp_path, check=True)
    for path in (ROOT / "reports" / name).rglob("*"):
        if path.is_file() and path.name != "timing.html":
            made = tmp_path / path.relative_to(ROOT)
            assert made.read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_every_experiment_of_the_full_study_runs(tmp_path: Path) -> None:
    """`make demo-all`: every row of `params.yaml` is trained, measured and reported."""
    folder, plan = make("demo_all", tmp_path), study.load(ROOT, "demo_all")
    assert plan.experiments.keys() == study.load(ROOT).experiments.keys()
    text = (folder / "reports/demo_all/index.html").read_text()
    for run in plan.runs.values():
        found = json.loads((folder / f"results/demo_all/{run.experiment}/seed{run.seed}/metrics.json").read_text())
        assert found["key"] == run.key
        assert run.experiment in text
    assert "enlarged them to 224×224" in text  # what differs from the published protocol is said beside the numbers


def test_readme_shows_the_committed_ledger() -> None:
    """The README's ledger is that of the report it names, word for word."""
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("<!-- reports/mini/claims.md -->\n")[2].partition("<!-- end -->")[0]
    assert shown == (ROOT / "reports/mini/claims.md").read_text()


def test_readme_shows_the_numbers_of_the_committed_tables() -> None:
    """Every row of the two tables of results is what the tables of that study say, and so is the text beside them."""
    tables = ROOT / "results/mini/tables"
    accuracy = pd.read_csv(tables / "accuracy.csv").query("split == 'test'").set_index(["experiment", "model"])
    changed = pd.read_csv(tables / "step0_mean.csv").set_index("experiment")["changed_predictions"]
    merges = pd.read_csv(tables / "merges.csv").groupby("experiment")
    mean, deviation = merges.mean(numeric_only=True), merges.std(numeric_only=True)
    readme = (ROOT / "README.md").read_text()
    shown = [line for line in readme.splitlines() if re.match(r"\| `\w+` \| [\d.]+ (± [\d.]+ )?\|", line)]
    assert len(shown) == 9 + 10
    for line in shown:
        name, first, second, *more = (cell.strip(" `") for cell in line.strip("|").split("|"))
        if more:  # Step 1: seeds, final ensemble and branch 1, predictions changed at step 0
            assert int(first) == accuracy["n"][name, "ensemble"]
            for cell, model in ((second, "ensemble"), (more[0], "branch1")):
                assert cell == "{top1_mean:.2f} ± {top1_std:.2f}".format(**accuracy.loc[(name, model)])
            assert more[1] == (f"{changed[name]:,.0f} of 10,000" if name in changed else "–")
        else:  # Step 2: ensemble at step 0 and at the end
            for cell, column in ((first, "step0_ensemble_top1"), (second, "final_ensemble_top1")):
                value = mean[column][name]
                assert cell == ("–" if pd.isna(value) else f"{value:.2f} ± {deviation[column][name]:.2f}")
    said, refit = " ".join(readme.split()), mean.loc["merge3_refit"]
    single, ensemble = refit["parents_mean_top1"], refit["parents_ensemble_top1"]
    assert f"Alone they reach {single:.2f} in the mean, and {ensemble:.2f} as the plain ensemble" in said
    assert "which is the control, {control_mean_top1:.2f} and {control_ensemble_top1:.2f}.".format(**refit) in said
    starts = mean["step0_ensemble_top1"]
    assert "`refit` starts near the plain ensemble" in said
    assert 0 < ensemble - starts["merge3_refit"] < 1
    assert "matched and measured anew, has about half of what one network had learnt" in said
    means = starts[["merge3_mean", "merge3_mean_bn", "merge3_matched", "merge3_matched_bn"]]
    assert means.idxmax() == "merge3_matched_bn"
    assert 0.4 < means.max() / single < 0.6
    assert "at this size ONE is behind the baseline" in said
    assert accuracy["top1_mean"]["one3", "ensemble"] < accuracy["top1_mean"]["baseline", "ensemble"]
    for text in (said, (ROOT / "reports/mini/index.html").read_text()):
        assert "standard error of 0.36 points" in text


def test_readme_says_what_the_committed_ledger_says() -> None:
    """Its sentences on the mini study are verdicts of the ledger, and its counts those of the ledger."""
    said = " ".join((ROOT / "README.md").read_text().split())
    entries = json.loads((ROOT / "results/mini/claims.json").read_text())
    verdicts = {(entry["number"], entry["score"]): entry["verdict"] for entry in entries}

    def verdict(*numbers: str) -> set[str]:
        return {verdicts[number, score] for number in numbers for score in ("top1", "top5")}

    for entry in entries:  # what the study was given three seeds for
        if re.fullmatch(r"1|2|[35][a-z]|4[a-i]|8[a-h]|9[a-d]|10|22[ab]", entry["number"]):
            assert entry["n"] == 3, entry["number"]
    assert "Right after growth, `masked`, and `split` without noise, compute exactly what their parent computes" in said
    assert "`zero_output` keeps every prediction" in said
    assert verdict("3b", "3c", "3d") == {"supported"}
    assert "`zero_pad`, and `split` with its noise of 0.1, change some of the predictions" in said
    assert verdict("3a", "3e") == {"contradicted"}
    assert "no way to grow is ahead of the parent trained on as long, and only `split` is shown to be no worse" in said
    assert verdict("4h") == {"supported"}
    assert verdict("4b", "4d", "4f") == {"inconclusive"}
    assert verdict("4i") == {"contradicted"}
    assert "combined, or merged by `refit`, beat each of the three, and lose to their control" in said
    assert verdict("8a", "8g") == {"supported"}
    assert verdict("8b", "8h") == {"contradicted"}
    count = Counter(entry["verdict"] for entry in entries)
    assert f"Of the {len(entries)} verdicts below {count['supported']} are *supported*" in said
    assert f"and {count['contradicted']} *contradicted*" in said
    left = [entry for entry in entries if entry["survives_holm"]]
    assert f"leaves {len(left)}, most of which count changed predictions" in said
    assert sum(entry["unit"] == "images" for entry in left) > len(left) / 2

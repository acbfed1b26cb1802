"""The demo of `make demo`: Step 1 and Step 2, from nothing to the report, and the content of the report."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coopnet import study
from coopnet.report import frames, starts
from coopnet.report.differences import of_ensembles
from coopnet.report.wording import flops
from coopnet.study.phases import TRAINING
from finished_fixture import Home
from finished_fixture import make as make_runs
from tiny_fixture import bits

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

PLAN = study.load(ROOT, "demo")


class Words(HTMLParser):
    """The text of a page, and everything that it would fetch."""

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
    """Studies with a report in the repository."""
    listed = subprocess.run(["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True).stdout
    return sorted({line.split("/")[1] for line in listed.splitlines()})


def begin(folder: Path) -> Path:
    """A workspace without results."""
    folder.mkdir(exist_ok=True)
    for part in ("params.yaml", "claims.yaml", "figures.yaml", "Snakefile", "studies", "workflow", "profiles"):
        source = ROOT / part
        shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
    return folder


def make(name: str, folder: Path) -> Path:
    """A workspace in which a study of this project was made, with an empty store."""
    begin(folder)
    environment = os.environ | {"COOPNET_STORE": str(folder / "store")}
    command = [BIN / "snakemake", "--cores", "2", "--config", f"study={name}"]
    made = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, made once by the workflow's commands in this process: 37 processes would import torch for longer."""
    home = Home(tmp_path_factory.mktemp("demo"))
    home.root.mkdir(exist_ok=True)
    begin(home.workspace.root)
    home.prepare("digits16")
    make_runs(home, "demo", [(run.experiment, run.seed) for run in PLAN.runs.values()])
    home.report("demo")
    home.timing("demo")
    return home.workspace.root


@pytest.fixture(scope="module")
def page(demo: Path) -> Words:
    """The parsed report."""
    words = Words()
    words.feed((demo / "reports/demo/index.html").read_text())
    return words


def metrics(demo: Path, experiment: str, seed: int = 0) -> dict[str, Any]:
    """The gathered metrics of a run."""
    content: dict[str, Any] = json.loads((demo / "results/demo/metrics.json").read_text())
    found: dict[str, Any] = content[f"{experiment}/seed{seed}"]
    return found


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
    """Even at this scale every trained network is far better than chance (10 %) on test images."""
    for run in PLAN.runs.values():
        if run.row.training.epochs:
            assert metrics(demo, run.experiment, run.seed)["final"]["test"]["ensemble"]["top1"] > 25, run.name


def test_transfer_table_tells_the_four_starts_apart(demo: Path) -> None:
    """`masked` is exactly the parent; `zero_output` keeps predictions but not logits; `zero_pad` keeps neither."""
    start = {
        kind: metrics(demo, f"one3_to_5_{kind}")["at_transfer"]["test"]["versus_parent"]
        for kind in ("zero_pad", "zero_output", "masked", "split")
    }
    assert start["masked"]["exact"]
    assert start["masked"]["changed_predictions"] == 0
    assert start["zero_output"]["changed_predictions"] == 0
    assert not start["zero_output"]["exact"]
    assert not start["zero_pad"]["exact"]
    assert not start["split"]["exact"]  # its noise is 0.1


@pytest.mark.parametrize("name", ["expand1to3_split_exact", "expand1to3_masked", "embed1in3"])
def test_expansions_and_the_embedding_start_as_their_parent(demo: Path, name: str) -> None:
    """Exact copies, masked branches and the embedding compute at transfer the same as the single network."""
    versus = metrics(demo, name)["at_transfer"]["test"]["versus_parent"]
    assert versus["exact"]
    assert versus["changed_predictions"] == 0


def test_exact_copies_stay_alike_and_noisy_ones_do_not(demo: Path) -> None:
    """Without noise three copies predict the same before and after training; with noise they differ."""
    alike, apart = (
        metrics(demo, name)["final"]["test"]["diversity"] for name in ("expand1to3_split_exact", "expand1to3_split")
    )
    assert alike["disagreement"] == 0
    assert alike["kl"] < 1e-9
    assert apart["kl"] > 1e-6


def test_plain_ensemble_is_the_mean_of_its_parents_logits(demo: Path) -> None:
    """Combining without gate or training equals the ensemble computed from the parents' saved logits."""
    block = metrics(demo, "one1_ensemble3")["final"]["test"]
    assert block["ensemble"] == pytest.approx(block["versus_parents"]["logit_ensemble"])
    assert block["mean_probabilities"] == pytest.approx(block["versus_parents"]["probability_ensemble"])
    singles = [metrics(demo, "one1", seed)["final"]["test"]["ensemble"]["top1"] for seed in range(3)]
    assert [branch["top1"] for branch in block["branches"]] == singles


def test_refit_starts_above_the_first_trunk(demo: Path) -> None:
    """At transfer the solved branches of a merge are far better than branches on an unfamiliar trunk.

    Both have new BatchNorm statistics, so only the regression makes the difference.
    """
    refit, first = (
        metrics(demo, name)["at_transfer"]["test"]["branches"] for name in ("merge3_refit", "merge3_first_bn")
    )
    assert all(a["top1"] > b["top1"] + 20 for a, b in zip(refit[1:], first[1:], strict=True))


def test_page_needs_nothing_from_elsewhere(page: Words) -> None:
    """The page fetches nothing, from the network or from disk."""
    assert page.fetched == []


def test_pdf_and_tables_and_timing_are_there(demo: Path) -> None:
    """PDF, CSV tables, and the separate page of timings."""
    assert (demo / "reports/demo/report.pdf").read_bytes().startswith(b"%PDF")
    assert (demo / "reports/demo/timing.html").is_file()
    for name in ("runs", "accuracy", "transfer", "growth", "history", "provenance"):
        assert not pd.read_csv(demo / f"results/demo/tables/{name}.csv").empty


def test_a_branch_of_the_demo_is_exported_as_its_page_says(demo: Path, tmp_path: Path) -> None:
    """The export takes images of the demo's size, and its card has the accuracy on the demo's test images."""
    out = tmp_path / "digits"
    command = [BIN / "coopnet", "export", "demo/one3/seed0", "--branch", "1", "--format", "pt2", "--out", out]
    done = subprocess.run(command, cwd=demo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "preprocessing.json").read_text())["size"] == 16
    assert "| top-1 |" in (out / "README.md").read_text()


@pytest.mark.parametrize("name", committed())
def test_committed_reports_follow_from_committed_tables(name: str, tmp_path: Path) -> None:
    """Every report in the repository equals, byte for byte, the report from its tables.

    Another machine, folder, process, hash seed and time zone change nothing.
    """
    shutil.copytree(ROOT / "results" / name / "tables", tmp_path / "results" / name / "tables")
    shutil.copy(ROOT / "results" / name / "claims.json", tmp_path / "results" / name)
    other = {"PYTHONHASHSEED": "1", "TZ": "UTC+1"}
    subprocess.run([BIN / "coopnet", "report", name], cwd=tmp_path, env=os.environ | other, check=True)
    for path in (ROOT / "reports" / name).rglob("*"):
        if path.is_file() and not path.name.startswith("timing."):
            made = tmp_path / path.relative_to(ROOT)
            assert made.read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("name", committed())
def test_committed_ledgers_follow_from_committed_outcomes(name: str, tmp_path: Path) -> None:
    """Every ledger in the repository equals, byte for byte, the one that is decided anew from its outcomes."""
    shutil.copytree(ROOT / "results" / name, begin(tmp_path) / "results" / name)
    (tmp_path / "results" / name / "claims.json").unlink()
    subprocess.run([BIN / "coopnet", "claims", name], cwd=tmp_path, check=True)
    for file in ("claims.json", "claims.record.json"):
        made, ours = (folder / "results" / name / file for folder in (tmp_path, ROOT))
        assert made.read_bytes() == ours.read_bytes()


@pytest.mark.slow
def test_the_workflow_makes_the_same_demo(demo: Path, tmp_path: Path) -> None:
    """`make demo`: Snakemake makes every file of the demo with the bytes that its commands give one after the other."""
    assert bits(make("demo", tmp_path)) == bits(demo)
    for name in ("index.html", "report.pdf", "appendix.pdf", "report.md"):
        assert (tmp_path / "reports/demo" / name).read_bytes() == (demo / "reports/demo" / name).read_bytes()


@pytest.mark.slow
def test_every_experiment_of_the_full_study_runs(tmp_path: Path) -> None:
    """`make demo-all`: every row of `params.yaml` is trained, measured and reported."""
    folder, plan = make("demo_all", tmp_path), study.load(ROOT, "demo_all")
    assert plan.experiments.keys() == study.load(ROOT).experiments.keys()
    text = (folder / "reports/demo_all/index.html").read_text()
    found = json.loads((folder / "results/demo_all/metrics.json").read_text())
    for run in plan.runs.values():
        assert found[run.name]["key"] == run.key
        assert run.experiment in text
    assert "enlarged them to 224×224" in text  # differences from the published protocol are stated beside the numbers


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_shows_the_findings_of_the_committed_report() -> None:
    """Its findings are those of the report that it names, word by word."""
    shown = README.partition("<!-- reports/mini/report.md -->\n")[2].partition("\n<!-- end -->")[0]
    report = (ROOT / "reports/mini/report.md").read_text(encoding="utf-8")
    assert shown == report.partition("## What was found\n\n")[2].partition("\n\n")[0]
    assert len(shown.splitlines()) >= 4


def test_readme_shows_the_numbers_of_the_committed_tables() -> None:
    """Networks from scratch and ensembles of Part 3 that have three seeds and a control, and the controls."""
    tables = frames.load(ROOT / "results/mini/tables")
    accuracy = pd.read_csv(ROOT / "results/mini/tables/accuracy.csv").query("split == 'test' and model == 'ensemble'")
    accuracy = accuracy.set_index("experiment")
    cost = pd.read_csv(ROOT / "results/mini/tables/compute.csv").set_index("experiment")["lineage_flops"]
    epochs = {row["name"]: row["row"]["training"]["epochs"] for row in tables.ordered}
    deltas, part3 = of_ensembles(tables), tables.distillation.query("split == 'test' and score == 'top1'")
    shown = [line for line in README.splitlines() if re.match(r"\| `\w+` \| \d+ \|", line)]
    scratch = [
        row["name"]
        for row in tables.ordered
        if row["start"] == "random" or (starts.is_plain_ensemble(row["row"]) and row["part"] == "distillation")
    ]
    compared = [name for name in scratch if accuracy.n[name] >= 3 and name in deltas]
    controls = {deltas[name].control for name in compared}
    assert [line.split("`")[1] for line in shown] == [name for name in scratch if name in {*compared, *controls}]
    for line in shown:
        name, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        mean, deviation = accuracy.loc[name, ["top1_mean", "top1_std"]]
        if epochs[name] == 0:  # a plain ensemble
            mean, deviation = part3[part3["experiment"] == name]["probabilities"].agg(["mean", "std"])
        expected = [str(epochs[name]), flops(cost[name]), str(accuracy.n[name]), f"{mean:.2f} ± {deviation:.2f}"]
        assert cells[:4] == expected, name
        delta = deltas.get(name)
        if delta is None:
            assert cells[4] == "–", name
        else:
            assert delta.interval is not None
            low, high = delta.interval
            text = f"{delta.estimate:+.2f} [{low:+.2f}, {high:+.2f}] to `{delta.control}"
            assert cells[4] == text.replace("-", "−"), name


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    """It has at most 9 kB; every file that it links to is in the repository."""
    assert len(README.encode()) <= 9_000
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_readme_shows_the_chain_of_phases() -> None:
    """Every arrow of its picture is in Snakemake's rule graph of the full study."""
    drawn = subprocess.run(
        [BIN / "snakemake", "--rulegraph", "mermaid-js"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = {
        key: name.removesuffix("_run").removesuffix("_dataset") for key, name in re.findall(r"(id\d+)\[(\w+)\]", drawn)
    }
    arrows = {(names[one], names[two]) for one, two in re.findall(r"(id\d+) --> (id\d+)", drawn)}
    (picture,) = (block for block in re.findall(r"```mermaid\n(.*?)```", README, re.DOTALL) if "prepare" in block)
    shown = set()
    for line in picture.splitlines()[1:]:
        steps = [[name.strip() for name in part.split("&")] for part in line.split("-->")]
        for before, after in itertools.pairwise(steps):
            shown |= set(itertools.product(before, after))
    assert shown
    assert shown <= arrows
    assert {name for arrow in shown for name in arrow} == {"prepare", *TRAINING, "tables", "claims", "report"}

"""The demo as `make demo` makes it: every experiment, from nothing to the report, and what a person then reads."""

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

EXPERIMENTS = (
    "baseline",
    "one1",
    "one3",
    "one5",
    "one3_continued",
    "one3_to_5_zero_pad",
    "one3_to_5_zero_output",
    "one3_to_5_masked",
    "one3_to_5_split",
)


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


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the demo was made, from an empty store."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("params.yaml", "Snakefile", "studies", "workflow", "profiles"):
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    environment = os.environ | {"COOPNET_STORE": str(folder / "store")}
    command = [BIN / "snakemake", "--cores", "2", "--config", "study=demo"]
    made = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.fixture(scope="module")
def page(demo: Path) -> Words:
    """The report, read."""
    words = Words()
    words.feed((demo / "reports/demo/index.html").read_text())
    return words


def metrics(demo: Path, experiment: str, seed: int) -> dict:  # type: ignore[type-arg]
    """`metrics.json` of a run."""
    content: dict = json.loads((demo / f"results/demo/{experiment}/seed{seed}/metrics.json").read_text())  # type: ignore[type-arg]
    return content


def test_report_has_every_experiment_with_its_mean_over_seeds(demo: Path, page: Words) -> None:
    """Mean and standard deviation that the page shows are those of the runs' metrics."""
    text = " ".join(page.text)
    table = pd.read_csv(demo / "results/demo/tables/accuracy.csv").query("split == 'test' and model == 'ensemble'")
    table = table.set_index("experiment")
    for name in EXPERIMENTS:
        assert name in text
        values = pd.Series([metrics(demo, name, seed)["final"]["test"]["ensemble"]["top1"] for seed in (0, 1)])
        assert table.loc[name, "n"] == 2
        assert table.loc[name, "top1_mean"] == pytest.approx(values.mean())
        assert table.loc[name, "top1_std"] == pytest.approx(values.std())
        assert f"{values.mean():.2f}" in text


def test_networks_learn(demo: Path) -> None:
    """Even at this scale every trained network is far better than chance (10 %) on images it has not seen."""
    for name in EXPERIMENTS:
        for seed in (0, 1):
            assert metrics(demo, name, seed)["final"]["test"]["ensemble"]["top1"] > 25, (name, seed)


def test_step0_table_tells_the_four_starts_apart(demo: Path) -> None:
    """`masked` is exactly the parent; `zero_output` keeps predictions but not logits; `zero_pad` keeps neither."""
    for seed in (0, 1):
        step0 = {
            kind: metrics(demo, f"one3_to_5_{kind}", seed)["step0"]["test"]["versus_parent"]
            for kind in ("zero_pad", "zero_output", "masked", "split")
        }
        assert step0["masked"]["exact"]
        assert step0["masked"]["changed_predictions"] == 0
        assert step0["zero_output"]["changed_predictions"] == 0
        assert not step0["zero_output"]["exact"]
        assert not step0["zero_pad"]["exact"]
        assert not step0["split"]["exact"]  # its noise is 0.1; without noise it is exact, see test_surgery.py


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
    subprocess.run([BIN / "coopnet", "report", "demo"], cwd=tmp_path, check=True)
    for name in ("index.html", "report.pdf", "figures/overview.png"):
        assert (tmp_path / "reports/demo" / name).read_bytes() == (demo / "reports/demo" / name).read_bytes()


@pytest.mark.parametrize("study", committed())
def test_committed_reports_follow_from_committed_tables(study: str, tmp_path: Path) -> None:
    """Every report in the repository is, byte for byte, what its tables give; on any machine with these libraries."""
    shutil.copytree(ROOT / "results" / study / "tables", tmp_path / "results" / study / "tables")
    subprocess.run([BIN / "coopnet", "report", study], cwd=tmp_path, check=True)
    for path in (ROOT / "reports" / study).rglob("*"):
        if path.is_file() and path.name != "timing.html":
            made = tmp_path / path.relative_to(ROOT)
            assert made.read_bytes() == path.read_bytes(), path.name


def test_demo_is_the_whole_of_step_1() -> None:
    """The demo leaves no experiment of the full study out, and has two seeds."""
    overlay = yaml.safe_load((ROOT / "studies/demo.yaml").read_text())
    assert "only" not in overlay
    assert overlay["seeds"] == [0, 1]


def test_readme_shows_the_numbers_of_the_committed_tables() -> None:
    """Every row of the README's table of results is what the tables of that study say."""
    tables = ROOT / "results/mini/tables"
    accuracy = (
        pd.read_csv(tables / "accuracy.csv").query("split == 'test'").set_index(["experiment", "model"])["top1_mean"]
    )
    changed = pd.read_csv(tables / "step0.csv").set_index("experiment")["changed_predictions"]
    readme = (ROOT / "README.md").read_text()
    growth = pd.read_csv(tables / "growth.csv").query("model == 'ensemble' and metric == 'top1'")
    assert "the grown networks lie within 0.2 points of the control" in readme
    assert growth["over_control"].dropna().abs().max() <= 0.2 + 1e-9
    assert "standard error of 0.46 points" in readme
    assert "standard error of 0.46 points" in (ROOT / "reports/mini/index.html").read_text()
    shown = [line for line in readme.splitlines() if line.startswith(("| `one", "| `base"))]
    assert len(shown) == len(EXPERIMENTS)
    for line in shown:
        name, ensemble, branch, flips = (cell.strip(" `") for cell in line.strip("|").split("|"))
        assert ensemble == f"{accuracy[name, 'ensemble']:.2f}"
        assert branch == f"{accuracy[name, 'branch1']:.2f}"
        assert flips == (f"{changed[name]} of 10,000" if name in changed else "–")

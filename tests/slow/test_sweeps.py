"""Sweeps with DVC's experiments: an override trains its row and the row's descendants, in every kind of workspace."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from tiny_fixture import BIN, TINY, call, make_workspace

ROWS = ("baseline", "one3", "one3_continued")
STUDY, SCORES = "studies/dvc.yaml:report@tiny", "studies/dvc.yaml:tables@tiny"
PARAMETER = "experiments.one3_continued.training.optimizer.lr"
CHILD = f"params.yaml:{PARAMETER}"
METRIC = "one3_continued.top1"


@pytest.fixture
def workspace(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with three rows, one the parent of another; the run store is in DVC's cache folder."""
    monkeypatch.delenv("COOPNET_STORE")
    monkeypatch.setenv("PATH", os.pathsep.join([str(BIN), os.environ["PATH"]]))  # DVC's stages call `coopnet`
    folder = make_workspace(tmp_path / "workspace", prepared)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/.gitignore", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "studies").glob("*.yaml"):
        path.unlink()
    (folder / "studies/tiny.yaml").write_text(yaml.safe_dump(TINY | {"only": list(ROWS)}))
    _cut(folder / "params.yaml", "experiments", ROWS)
    _cut(folder / "claims.yaml", None, ("one_branch_over_baseline",))
    _cut(folder / "figures.yaml", None, ("one_paper",))
    published = yaml.safe_load((folder / "figures.yaml").read_text())
    published["one_paper"]["figures"] = {"baseline": published["one_paper"]["figures"]["baseline"]}
    (folder / "figures.yaml").write_text(yaml.safe_dump(published, sort_keys=False))
    git(folder, "init", "-q", ".")
    git(folder, "config", "user.name", "Nobody")
    git(folder, "config", "user.email", "nobody@example.org")
    stages = (ROOT / "studies/dvc.yaml").read_text()
    (folder / "studies/dvc.yaml").write_text(re.sub(r"studies: \[.*\]", "studies: [tiny]", stages))
    commit(folder)
    return folder


def _cut(path: Path, section: str | None, kept: tuple[str, ...]) -> None:
    """Keep only some keys of a mapping, or of one of its sections."""
    content = yaml.safe_load(path.read_text())
    whole = content if section is None else content[section]
    few = {key: whole[key] for key in kept}
    path.write_text(yaml.safe_dump(few if section is None else content | {section: few}, sort_keys=False))


def git(folder: Path, *arguments: str) -> None:
    """Run git."""
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    """Commit all files that git does not ignore."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all of it")


def done(result: subprocess.CompletedProcess[str]) -> str:
    """The output of a command, which must succeed."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def trained(folder: Path) -> list[str]:
    """All trainings so far, from the trainer's journal."""
    lines = (folder / ".dvc/cache/coopnet-runs/journal.jsonl").read_text().splitlines()
    return [event["run"].split("/")[1] for event in map(json.loads, lines) if event["event"] == "trained"]


def shown(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of `dvc exp show --csv`, by the name of the experiment; the baseline is `master` or `main`."""
    table = csv.DictReader(io.StringIO(done(call(folder, "dvc", "exp", "show", "--csv"))))
    return {row["Experiment"] or row["rev"]: row for row in table}


def scores(row: dict[str, str]) -> list[str]:
    """The accuracies of `one3_continued` in a row of that table."""
    return [row[METRIC], row[METRIC.replace("top1", "top5")]]


@pytest.mark.slow
def test_override_trains_its_row_and_descendants(workspace: Path) -> None:
    """`dvc exp run -S` in the workspace, with `--temp` and from the queue; `dvc exp show` has the accuracy of each."""

    def run(*arguments: str) -> list[str]:
        before = len(trained(workspace))
        done(call(workspace, "dvc", "exp", "run", *arguments))
        return sorted(trained(workspace)[before:])

    done(call(workspace, "dvc", "repro", STUDY))
    assert sorted(trained(workspace)) == list(ROWS)
    commit(workspace)

    assert run(STUDY, "--name", "child", "--set-param", f"{CHILD}=0.02") == ["one3_continued"]
    git(workspace, "reset", "--hard", "--quiet")
    lr = "params.yaml:+experiments.one3.training.optimizer.lr=0.05"
    assert run(STUDY, "--temp", "--name", "parent", "--set-param", lr) == ["one3", "one3_continued"]
    assert run(SCORES, "--queue", "--name", "sweep", "--set-param", f"{CHILD}=0.02,0.03,0.04") == []
    assert run("--run-all") == ["one3_continued", "one3_continued"]  # the first of the three was made above

    table = shown(workspace)
    for name in ("child", "parent", "sweep-1", "sweep-2", "sweep-3"):
        assert 0 <= float(table[name][METRIC]) <= 100
    assert scores(table["sweep-1"]) == scores(table["child"]) != scores(table["workspace"])
    assert [float(table[f"sweep-{place}"][PARAMETER]) for place in (1, 2, 3)] == [0.02, 0.03, 0.04]

"""DVC's stages are those of `params.yaml`, whole and up to date."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coopnet import files, study
from coopnet.commands import stages as command
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import CHECKPOINT, Workspace
from coopnet.study import Run, Study
from test_pipeline import ROOT, edit, make_workspace, prepared

__all__ = ["prepared"]  # the fixture


def test_stages_are_up_to_date() -> None:
    """What is committed is what `coopnet stages` writes now."""
    command.write(Workspace(ROOT), check=True)


def test_outdated_stages_are_named(workspace: Path) -> None:
    """After an experiment was added the check names the file and the command; after that command it is content."""
    command.write(Workspace(workspace), check=False)
    edit(workspace, lambda study: study["only"].append("one5"))
    with pytest.raises(CoopNetError, match=r"dvc/tiny/one5/dvc.yaml is not that of .* run `coopnet stages`"):
        command.write(Workspace(workspace), check=True)
    command.write(Workspace(workspace), check=False)
    command.write(Workspace(workspace), check=True)
    assert (workspace / "dvc/tiny/one5/dvc.yaml").is_file()
    somebodys = workspace / "dvc/tiny/mine/dvc.yaml"
    somebodys.parent.mkdir()
    somebodys.write_text("stages: {}")
    edit(workspace, lambda study: study["only"].remove("one5"))
    with pytest.raises(CoopNetError, match="run `coopnet stages`"):
        command.write(Workspace(workspace), check=True)
    command.write(Workspace(workspace), check=False)
    assert not (workspace / "dvc/tiny/one5/dvc.yaml").exists()
    assert somebodys.is_file()


@pytest.fixture
def workspace(tmp_path: Path, prepared: Path) -> Path:
    """A fresh workspace with an empty store."""
    return make_workspace(tmp_path / "workspace", prepared)


def test_key_that_an_overlay_loses_changes_the_command(workspace: Path) -> None:
    """DVC passes over a parameter that a stage no longer reads; but it runs a stage again whose command is another."""
    edit(workspace, lambda study: study.setdefault("experiments", {}).update(one3={"training": {"batch_size": 32}}))
    commands = []
    for _ in range(2):
        command.write(Workspace(workspace), check=False)
        stages = yaml.safe_load((workspace / "dvc/tiny/one3/dvc.yaml").read_text())["stages"]
        commands.append(stages["train"]["do"]["cmd"].partition("  # "))
        edit(workspace, lambda study: study["experiments"].pop("one3", None))
    (trained, _, reads), (again, _, after) = commands
    assert trained == again == "coopnet train tiny one3 ${item.seed}"
    assert set(reads.split(", ")) - set(after.split(", ")) == {"experiments.one3"}


def filled(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every stage of a file with its values filled in, as DVC does."""
    runs = {key: value for variables in content.get("vars", []) for key, value in variables["runs"].items()}
    for stage, body in content["stages"].items():
        each = body.get("foreach", [None])
        items = runs.items() if each == "${runs}" else ((str(item), item) for item in each)
        for key, item in items:
            values = {"item": item}
            values |= {f"item.{field}": value for field, value in (item.items() if isinstance(item, dict) else ())}
            text = re.sub(
                r"\$\{([\w.]+)\}",
                lambda match, known=values: str(known[match[1]]),
                yaml.safe_dump(body.get("do", body)),
            )
            yield f"{stage}@{key}", yaml.safe_load(text)


def paths(entries: list[Any]) -> list[str]:
    """Paths of dependencies or outputs, with or without settings."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_every_dependency_is_made_or_there() -> None:
    """Of all studies, no two stages write one file, and what a stage reads is written by one or lies in the source."""
    made: dict[str, str] = {}
    read: dict[str, list[str]] = {}
    for path, content in command.stages(Workspace(ROOT)).items():
        for stage, body in filled(yaml.load(content, yaml.CSafeLoader)):
            place = f"{path.relative_to(ROOT)}:{stage}"
            assert (path.parent / body.get("wdir", ".")).resolve() == ROOT
            for out in paths([*body.get("outs", []), *body.get("metrics", []), *body.get("plots", [])]):
                assert out not in made, (out, place, made[out])
                made[out] = place
            read[place] = paths(body.get("deps", []))
    for place, names in read.items():
        for dependency in names:
            assert dependency in made or (ROOT / dependency).exists(), (place, dependency)


@pytest.mark.parametrize("name", study.names(ROOT))
def test_runs_have_their_parents_before_them(name: str) -> None:
    """Every run of the plan is in the table, and depends on the record of each of its parents."""
    plan: Study = study.load(ROOT, name)
    found = 0
    for experiment in plan.experiments:
        content = yaml.load((ROOT / "dvc" / name / experiment / "dvc.yaml").read_text(), yaml.CSafeLoader)
        stages = dict(filled(content))
        found += len(stages)
        for seed in plan.seeds(experiment):
            run = plan.run(experiment, seed)
            for stage in ("train", "evaluate"):
                dependencies = paths(stages[f"{stage}@seed{seed}"]["deps"])
                assert {f"results/{name}/{parent.name}/run.json" for parent in run.parents} <= set(dependencies)
    assert found == 2 * len(plan.runs)


@pytest.mark.parametrize("name", study.names(ROOT))
def test_plots_draw_what_the_tables_hold(name: str) -> None:
    """Every plot is of a table that the same file makes, with a template that is there and columns that it has."""
    path = ROOT / ("dvc.yaml" if name == study.FULL else f"dvc/{name}/dvc.yaml")
    content = yaml.safe_load(path.read_text())
    made = {ROOT / out for out in paths(content["stages"]["tables"]["outs"])}
    assert len(content["plots"]) == 3
    for plot in content["plots"]:
        ((table, axes),) = plot.items()
        assert (path.parent / table).resolve() in made
        assert (ROOT / ".dvc/plots" / axes["template"]).with_suffix(".json").is_file()
        header = (ROOT / "results/mini/tables" / Path(table).name).read_text().splitlines()[0].split(",")
        assert {axes["x"], axes["y"], "experiment"} <= set(header)


def test_override_concerns_its_row_and_descendants(tmp_path: Path) -> None:
    """`dvc exp run -S` writes params.yaml anew as a whole, and yet only these rows' runs become others."""
    from dvc.utils.hydra import apply_overrides

    def line(run: Run) -> set[str]:
        return {run.experiment}.union(*map(line, run.parents))

    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", ["+experiments.one3.training.optimizer.lr=0.05"])
    before, after = study.load(ROOT).runs, study.load(tmp_path).runs
    assert after["one3", 0].row.training.optimizer.lr == 0.05
    for place, run in after.items():
        assert (run.key != before[place].key) == ("one3" in line(run)), place


def test_committed_files_are_those_that_dvc_recorded() -> None:
    """Every result and page of the mini study in git is the one its lock names, made with the parameters it has now."""
    plan, kept = study.load(ROOT, "mini"), 0
    records = set()
    for lock in sorted((ROOT / "dvc/mini").rglob("dvc.lock")):
        for stage in yaml.load(lock.read_text(), yaml.CSafeLoader)["stages"].values():
            for out in stage["outs"]:
                path = ROOT / out["path"]
                if path.name in (*CHECKPOINT, "logits.safetensors"):
                    continue
                assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == out["md5"], path
                kept += 1
                if path.name == "run.json":
                    records.add(path.parent)
    assert records == {ROOT / "results/mini" / run.name for run in plan.runs.values()}
    assert kept > 7 * len(records)
    for run in plan.runs.values():
        assert files.look(ROOT / "results/mini" / run.name / "run.json", "key") == run.key

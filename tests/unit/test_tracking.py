"""The data of a study in a tracker, read back with the tracker's own reader."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from coopnet import files
from coopnet.cli import main
from coopnet.files.errors import CoopNetError
from coopnet.report import tracking

MINI = ROOT / "results" / "mini"
FEW = ("baseline/seed0", "one3/seed0", "one3_to_5_split/seed0")
ONE = "one3_to_5_split/seed0"


def client(name: str) -> pytest.MarkDecorator:
    """Skip if a client that is not in the lock is not installed."""
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed: pip install '.[{name}]' in a clone")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three runs of the committed study."""
    folder = tmp_path / "results"
    (folder / "tables").mkdir(parents=True)
    lines = (MINI / "tables" / "history.csv").read_text(encoding="utf-8").splitlines()
    few = [line for line in lines[1:] if "/seed".join(line.split(",")[:2]) in FEW]
    files.write_text(folder / "tables" / "history.csv", "\n".join([lines[0], *few]) + "\n")
    for name in ("metrics.json", "records.json"):
        content = files.read_json(MINI / name)
        files.write_json(folder / name, {run: content[run] for run in FEW})
    return folder


def expected() -> tuple[list[float], float, float]:
    """Training loss by epoch, top-1 of the ensemble at its end, and at transfer, of one run."""
    metrics = json.loads((MINI / "metrics.json").read_text(encoding="utf-8"))[ONE]
    lines = [line.split(",") for line in (MINI / "tables" / "history.csv").read_text(encoding="utf-8").splitlines()]
    columns = {name: place for place, name in enumerate(lines[0])}
    losses = [
        float(line[columns["loss"]])
        for line in lines
        if line[:2] == ["one3_to_5_split", "0"] and line[columns["split"]] == "train"
    ]
    assert len(losses) == files.read_json(MINI / "records.json")[ONE]["row"]["training"]["epochs"]
    return losses, *(metrics[when]["test"]["ensemble"]["top1"] for when in ("final", "at_transfer"))


def test_tensorboard_reads_what_was_sent(results: Path, tmp_path: Path) -> None:
    """Every run has its history, scores and key; existing data are not overwritten."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    losses, final, at_transfer = expected()
    place = tmp_path / "events"
    assert tracking.send(results, "mini", "tensorboard", str(place)) == f"tensorboard --logdir {place}"
    assert sorted(path.parent.relative_to(place).as_posix() for path in place.rglob("events*")) == sorted([*FEW, *FEW])
    read = reader.EventAccumulator(str(place / ONE)).Reload()
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == [
        (epoch, pytest.approx(loss)) for epoch, loss in enumerate(losses)
    ]
    (last,) = read.Scalars("final/test/ensemble/top1")
    assert (last.step, last.value) == (len(losses) - 1, pytest.approx(final))
    assert read.Scalars("at_transfer/test/ensemble/top1")[0].value == pytest.approx(at_transfer)
    key = files.read_json(MINI / "records.json")[ONE]["key"]
    assert read.Tensors("run key/text_summary")[0].tensor_proto.string_val == [key.encode()]
    with pytest.raises(CoopNetError, match="not empty"):
        tracking.send(results, "mini", "tensorboard", str(place))


@client("mlflow")
def test_mlflow_has_each_run_once(results: Path, tmp_path: Path) -> None:
    """Sending a study again, also after an interruption, creates no duplicates."""
    from mlflow.tracking import MlflowClient

    losses, final, _ = expected()
    place = f"sqlite:///{tmp_path}/store.db"
    tracking.send(results, "mini", "mlflow", place)
    store = MlflowClient(tracking_uri=place)
    (experiment,) = [one for one in store.search_experiments() if one.name == "coopnet/mini"]
    (half,) = store.search_runs([experiment.experiment_id], f"attributes.run_name = '{ONE}'")
    store.update_run(half.info.run_id, status="RUNNING")
    tracking.send(results, "mini", "mlflow", place)
    runs = {one.info.run_name: one for one in store.search_runs([experiment.experiment_id])}
    assert sorted(runs) == sorted(FEW)
    assert len(store.search_runs([experiment.experiment_id])) == len(FEW)
    one = runs[ONE]
    assert one.info.run_id != half.info.run_id
    assert [step.value for step in store.get_metric_history(one.info.run_id, "train/loss")] == losses
    assert one.data.metrics["final/test/ensemble/top1"] == final
    assert one.data.params["start.kind"] == "split"


@client("trackio")
def test_trackio_has_each_run_once(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending a study again creates no duplicates."""
    import trackio
    from trackio import sqlite_storage

    losses, final, _ = expected()
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path)
    for _ in range(2):
        tracking.send(results, "mini", "trackio", None)
    runs = {one.name: one for one in trackio.Api().runs("coopnet-mini")}
    assert sorted(runs) == sorted(FEW)
    logs = sqlite_storage.SQLiteStorage.get_logs("coopnet-mini", ONE, run_id=runs[ONE].id)
    assert [one["train/loss"] for one in logs if "train/loss" in one] == losses
    assert logs[-1]["final/test/ensemble/top1"] == final


def test_what_cannot_be_sent_is_refused(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line with the remedy, and nothing is written."""
    place = tmp_path / "events"
    with pytest.raises(CoopNetError, match="choose tensorboard, trackio, mlflow"):
        tracking.send(results, "mini", "wandb", str(place))
    for to, library in (("tensorboard", "tensorboard"), ("mlflow", "mlflow"), ("trackio", "trackio")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            for name in [name for name in sys.modules if name.startswith((f"{library}.", "torch.utils.tensorboard"))]:
                patch.delitem(sys.modules, name)
            with pytest.raises(CoopNetError, match=rf"needs {library}.*pip install '\.\[{to}\]'"):
                tracking.send(results, "mini", to, str(place))
    files.write_text(results / "records.json", "{}")
    with pytest.raises(CoopNetError, match=r"damaged tables.*coopnet tables mini"):
        tracking.send(results, "mini", "tensorboard", str(place))
    shutil.rmtree(results / "tables")
    with pytest.raises(CoopNetError, match=r"history\.csv is missing.*coopnet tables mini"):
        tracking.send(results, "mini", "tensorboard", str(place))
    assert not place.exists()


def test_commands_of_the_page_run(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets whose client is installed run in a folder with a study's results."""
    lines = re.findall(r"^coopnet (log .*)$", (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [line.split()[3] for line in lines] == ["tensorboard", "mlflow", "trackio"]
    (tmp_path / "results" / "mini").mkdir()
    for path in list(results.iterdir()):
        if path.name != "mini":
            path.rename(results / "mini" / path.name)
    monkeypatch.chdir(tmp_path)
    for line in lines:
        if (
            importlib.util.find_spec(line.split()[3]) is not None and "trackio" not in line
        ):  # trackio writes to the home folder
            monkeypatch.setattr(sys, "argv", ["coopnet", *line.split()])
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0
    assert list((tmp_path / "logs" / "tensorboard" / "mini").rglob("events*"))

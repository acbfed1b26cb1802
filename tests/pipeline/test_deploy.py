"""Networks outside a study, on the command line: grown, joined, exported, applied to images, compared."""

import contextlib
import csv
import io
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import coopnet
from coopnet.cli import main
from coopnet.data import canonical
from coopnet.data.datasets import DATASETS
from coopnet.deploy import card, measure, models, preprocessing
from coopnet.deploy import export as exporting
from coopnet.deploy.export import Labelled
from coopnet.deploy.models import open_model
from coopnet.deploy.predict import found, predict
from coopnet.files.errors import CoopNetError
from coopnet.library import saved

DIGITS = DATASETS["digits"]
CONSTANTS = {"mean": list(DIGITS.mean), "std": list(DIGITS.std)}
FORMS = ("onnx", "pt2", "safetensors")
EACH = """
import sys
from coopnet.cli import main
def each(code):
    print("\\f", end="")
    try:
        exec(code, {"__name__": "__main__", "sys": sys, "main": main})
    except SystemExit as end:
        assert not end.code
"""
"""Runs a snippet: separated from the others by a form feed, and without their names."""


class Done(NamedTuple):
    """The output of a command, and its exit code."""

    stdout: str
    stderr: str


def run(folder: Path, *arguments: str, code: int = 0) -> Done:
    """Run the command line in a folder, in this process: importing PyTorch takes longer than most commands."""
    said, complained = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(complained)
    logger, ended = logging.getLogger("coopnet"), 0
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    streams = contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained)
    try:
        with contextlib.chdir(folder), streams[0], streams[1], pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["coopnet", *arguments])
            main()
    except SystemExit as end:
        ended = int(end.code or 0)
    finally:
        logger.removeHandler(handler)
    assert ended == code, complained.getvalue()
    return Done(said.getvalue(), complained.getvalue())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared digits, a small network that has learnt a little, and three one-branch networks."""
    root = tmp_path_factory.mktemp("deploy")
    canonical.prepare(DIGITS, "digits", None, root / "data/prepared/digits")
    arrays = canonical.load(root / "data/prepared/digits", DIGITS)["train"]
    torch.manual_seed(0)
    for name, branches, gate in (("three", 3, "learned"), ("a", 1, "learned"), ("b", 1, "none"), ("c", 1, "learned")):
        network = coopnet.cooperative("cifar_resnet8", branches=branches, classes=10, width=8, gate=gate)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        coopnet.save(network, root / name, preprocessing=CONSTANTS, facts={"data": {"dataset": "digits"}})
        known = models.open_model(root / name).preprocessing
        images, labels = known.normalised(arrays.images), torch.from_numpy(arrays.labels.astype(np.int64))
        criterion = coopnet.CooperativeLoss(rampup=0)
        for batch in torch.randperm(len(images)).split(64)[:12]:
            optimizer.zero_grad()
            criterion(network(images[batch]), labels[batch]).backward()
            optimizer.step()
        coopnet.save(
            network, root / name, optimizer=optimizer, preprocessing=CONSTANTS, facts={"data": {"dataset": "digits"}}
        )
    return root


@pytest.fixture(scope="module")
def pictures(workspace: Path) -> tuple[Path, list[int]]:
    """Ten test images as files, and their labels."""
    folder, arrays = workspace / "pictures", canonical.load(workspace / "data/prepared/digits", DIGITS)["test"]
    folder.mkdir()
    chosen = range(0, 200, 20)
    for i in chosen:
        Image.fromarray(np.array(arrays.images[i])).save(folder / f"{i:03}.png")
    return folder, [int(arrays.labels[i]) for i in chosen]


@pytest.mark.parametrize(
    ("form", "branches"), [("onnx", None), ("onnx", [2]), ("pt2", [3, 1]), ("safetensors", [3, 1])]
)
def test_export_computes_what_the_network_computes(
    workspace: Path, tmp_path: Path, form: str, branches: list[int] | None
) -> None:
    """The export, read back, agrees on test images to 1e-4; for ONNX in ONNX Runtime."""
    source, arrays = saved.read(workspace / "three"), canonical.load(workspace / "data/prepared/digits", DIGITS)["test"]
    test = Labelled(arrays.images, arrays.labels, "digits")
    exporting.write(source, tmp_path / "out", name="three", branches=branches, form=form, test=test)
    opened = open_model(tmp_path / "out")
    with torch.inference_mode():
        outputs = source.network(opened.preprocessing.normalised(arrays.images))
    indices = [0, 1, 2] if branches is None else [branch - 1 for branch in branches]
    weights = outputs.gate[:, indices]
    expected = ((weights / weights.sum(1, keepdim=True))[..., None] * outputs.branches[:, indices]).sum(1).numpy()
    assert np.abs(opened.logits(arrays.images) - expected).max() <= 1e-4
    assert opened.form == {"onnx": "ONNX Runtime", "pt2": "torch.export", "safetensors": "PyTorch"}[form]
    card = (tmp_path / "out/README.md").read_text()
    right = int((expected.argmax(1) == arrays.labels).sum())
    low, high = measure.wilson(right, 355)
    assert f"| top-1 | {100 * right / 355:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}, n = 355" in card
    assert re.search(r"latency, batch 64 \| \d+\.\d\d ms", card)


def test_a_path_that_is_not_there_is_no_damaged_image(workspace: Path, tmp_path: Path) -> None:
    """The error does not ask for another format."""
    (one,) = predict(open_model(workspace / "three"), tmp_path / "nowhere.png")
    assert one.error == f"{tmp_path / 'nowhere.png'} does not exist; give an image or a folder of images"


def test_test_images_of_other_classes_are_refused(workspace: Path, tmp_path: Path) -> None:
    """No card has the accuracy on data whose classes the network does not know."""
    source, images = saved.read(workspace / "three"), np.zeros((4, 8, 8, 3), dtype=np.uint8)
    names = preprocessing.of_record(source.network, source.record).class_names
    for others, said in (
        (names[:5], "has 10 classes, birds has 5"),
        (names[::-1], "classes of birds in another order"),
    ):
        test = Labelled(images, np.zeros(4, dtype=np.int64), "birds", tuple(others))
        with pytest.raises(CoopNetError, match=said):
            exporting.write(source, tmp_path / "out", name="three", branches=None, form="pt2", test=test)
    assert not (tmp_path / "out").exists()


def test_network_around_ones_own_model_is_exported_in_python(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """No command could build it; its card has accuracy, data and names; the exporter prints nothing."""
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.AvgPool2d(28), nn.Flatten())
    model.append(nn.Linear(4, 10))
    network = coopnet.wrap(model, split="2", branches=3, classes=10, example=torch.zeros(2, 3, 32, 32)).train()
    arrays = canonical.load(workspace / "data/prepared/digits", DIGITS)["test"]
    names = [f"digit {number}" for number in range(10)]
    options = {"preprocessing": CONSTANTS, "class_names": names, "dataset": "my digits"}
    made = coopnet.export(
        network, tmp_path / "out", branches=[2], test=(arrays.images, arrays.labels), name="mine", **options
    )
    assert network.training
    with torch.inference_mode():
        expected = network.eval()(made.preprocessing.normalised(arrays.images)).branches[:, 1].numpy()
    assert np.abs(open_model(tmp_path / "out").logits(arrays.images) - expected).max() <= 1e-4
    assert made.preprocessing.class_names == tuple(names)
    card = (tmp_path / "out/README.md").read_text()
    right = 100 * float((expected.argmax(1) == arrays.labels).mean())
    assert "# mine: branch 2 of 3" in card
    assert "Trained on: my digits" in card
    assert "On the 355 test images of my digits, by this export itself:" in card
    assert f"| top-1 | {right:.2f} %" in card
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    for wrong, said in (
        ({"test": (arrays.images / 255, arrays.labels)}, "images uint8"),
        ({"test": (arrays.images[:, 8:24, 8:24], arrays.labels)}, "takes images of 32×32 pixels, not"),
        ({"test": (arrays.images, arrays.labels + 1)}, "labels 1 to 10 are not those of 10 classes"),
        ({"format": "safetensors"}, r"saved with coopnet\.save"),
        ({"class_names": names[:9]}, "9 class names"),
    ):
        with pytest.raises(CoopNetError, match=said):
            coopnet.export(network, tmp_path / "other", **(options | wrong))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("classes", "last"), [(10, "truck"), (12, "11"), (5, "4")])
def test_names_are_those_of_the_networks_classes(classes: int, last: str) -> None:
    """A network of other classes than the dataset of its record has numbers as names."""
    network = coopnet.cooperative("cifar_resnet8", branches=1, classes=classes, width=1)
    known = preprocessing.of_record(network, {"data": {"dataset": "cifar10"}, "preprocessing": CONSTANTS})
    assert (len(known.class_names), known.class_names[-1]) == (classes, last)


def test_images_have_the_size_of_the_networks_data() -> None:
    """A known dataset has its own size, another size may be stated, and a wrapped model has that of its example."""
    network = coopnet.cooperative("cifar_resnet8", branches=1, classes=10, width=1)
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10))
    wrapped = coopnet.wrap(model, "1", branches=1, classes=10, gate="none", example=torch.zeros(2, 3, 24, 24))
    sizes = [
        preprocessing.of_record(one, {"data": data, "preprocessing": CONSTANTS}).size
        for one, data in ((network, {"dataset": "digits16"}), (network, {}), (wrapped, {}), (wrapped, {"size": 16}))
    ]
    assert sizes == [16, 32, 24, 16]
    grey = coopnet.wrap(nn.Sequential(nn.Conv2d(1, 4, 28), nn.Flatten(), nn.Linear(4, 10)), "1", **GREY)
    for size in (None, 28):
        with pytest.raises(CoopNetError, match=r"\[1, 28, 28\].*coopnet\.branch gives a plain module"):
            coopnet.export(grey, "x", preprocessing={"mean": [0.5], "std": [0.2]}, image_size=size)


GREY = {"branches": 2, "classes": 10, "example": torch.zeros(2, 1, 28, 28)}


def test_graph_can_normalise_by_itself(workspace: Path, tmp_path: Path) -> None:
    """`--with-preprocessing`: uint8 images give the same logits."""
    arrays = canonical.load(workspace / "data/prepared/digits", DIGITS)["test"]
    plain = open_model(workspace / "three").logits(arrays.images)
    run(workspace, "export", "three", "--ensemble", "--with-preprocessing", "--out", str(tmp_path / "out"))
    opened = open_model(tmp_path / "out")
    assert opened.taken(arrays.images[:2]).dtype == np.uint8
    assert np.abs(opened.logits(arrays.images) - plain).max() <= 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_snippets_of_the_card_run(workspace: Path, pictures: tuple[Path, list[int]], tmp_path: Path, form: str) -> None:
    """All three snippets, run in the folder of the export, agree about an image."""
    run(workspace, "export", "three", "--branch", "2", "--format", form, "--out", str(tmp_path / "out"))
    shutil.copy(pictures[0] / "040.png", tmp_path / "out/image.png")
    (expected,) = predict(open_model(tmp_path / "out"), str(tmp_path / "out/image.png"))
    snippets = re.findall(r"```(sh|python)\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    assert [kind for kind, _ in snippets] == ["sh", "python", "python"]
    codes = [f"sys.argv = {code.split()!r}\nmain()" if kind == "sh" else code for kind, code in snippets]
    # Those of ONNX run in a process each, because one of them needs no PyTorch; the others import it once for all.
    said = []
    for together in [[code] for code in codes] if form == "onnx" else [codes]:
        command = [sys.executable, "-c", f"{EACH}\nfor code in {together!r}: each(code)"]
        done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said += done.stdout.split("\f")[1:]
    assert said[0].startswith(f"image.png\t{expected.best} ")
    assert said[1].split() == ["image.png", expected.best]
    assert said[2].strip() == (expected.best if form != "safetensors" else "torch.Size([1, 10])")


def test_export_that_differs_is_refused(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written if the graph does not compute the same as the network."""
    write = exporting._write_pt2

    def wrong(module: nn.Module, *rest: object) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.01)
        write(module, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(exporting, "_write_pt2", wrong)
    with pytest.raises(CoopNetError, match="does not compute the same as the network"):
        exporting.write(saved.read(workspace / "three"), tmp_path / "out", name="three", branches=[1], form="pt2")
    assert not list(tmp_path.iterdir())


def test_unreadable_images_are_named(workspace: Path, pictures: tuple[Path, list[int]], tmp_path: Path) -> None:
    """The others are classified; the exit code is not 0; the CSV table has a row for each file."""
    folder = tmp_path / "mixed"
    shutil.copytree(pictures[0], folder)
    (folder / "000.png").write_bytes(b"no image")
    Image.new("L", (70, 50), 200).save(folder / "grey.jpg")
    done = run(workspace, "predict", "three", str(folder), "--csv", "--top", "2", code=1)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len(rows) == 11
    assert "cannot be decoded" in rows[0]["error"]
    assert not rows[0]["class1"]
    assert all(0 < float(row["probability2"]) <= float(row["probability1"]) <= 1 for row in rows[1:])
    assert "000.png" in done.stderr
    assert "1 of 11 images could not be read" in done.stderr
    model = open_model(workspace / "three")
    (folder / "._001.png").write_bytes(b"a hidden file")
    assert len(list(predict(model, folder))) == 11
    one = next(iter(predict(model, found([folder / "020.png"]), top=10)))
    assert sum(one.probabilities) == pytest.approx(1, abs=1e-6)
    assert one.best == rows[1]["class1"]


def test_growth_and_its_receipt_by_command(workspace: Path, tmp_path: Path) -> None:
    """The grown network is exact on the test images, has the optimiser's state, and can be grown again."""
    done = run(workspace, "grow", "three", "--branches", "5", "--out", str(tmp_path / "five"))
    assert "0 of 355" in done.stdout
    receipt = json.loads((tmp_path / "five/receipt.json").read_text())
    assert receipt["measured"]["exact"]
    assert receipt["tensors"]["branches.4.classifier.weight"] == "copied from branches.1.classifier.weight"
    five, three = saved.read(tmp_path / "five"), saved.read(workspace / "three")
    name = "classifier.weight"
    carried = five.state["momentum_buffer"][f"branches.4.{name}"]
    assert torch.equal(carried, three.state["momentum_buffer"][f"branches.1.{name}"])
    assert carried.any()
    run(workspace, "grow", str(tmp_path / "five"), "--branches", "6", "--how", "masked", "--out", str(tmp_path / "six"))
    assert len(coopnet.load(tmp_path / "six").branches) == 6


def test_networks_are_joined_by_command(workspace: Path, tmp_path: Path) -> None:
    """`combine` is exact; `merge` uses training images; both results are ordinary networks."""
    done = run(workspace, "combine", "a", "b", "c", "--gate", "mean", "--out", str(tmp_path / "combined"))
    assert "0 of 355" in done.stdout
    run(workspace, "merge", "a", "b", "c", "--images", "200", "--out", str(tmp_path / "merged"))
    receipt = json.loads((tmp_path / "merged/receipt.json").read_text())
    assert receipt["measured"]["images"] == 200
    assert [one["digest"] for one in json.loads((tmp_path / "merged/model.json").read_text())["parents"]] == [
        json.loads((workspace / name / "model.json").read_text())["files"]["model.safetensors"] for name in "abc"
    ]
    shipped = ("--branch", "3", "--format", "safetensors", "--out", str(tmp_path / "shipped"))
    run(workspace, "export", str(tmp_path / "combined"), *shipped)
    said = run(workspace, "compare", str(tmp_path / "shipped"), "c", "--data", "digits").stdout
    assert "B − A: +0.00 points of top-1, 95 % interval +0.00 to +0.00" in said
    assert "agree on 100.00 %" in said


def test_difference_is_paired() -> None:
    """Two models with errors on different images differ by the difference of their accuracies."""
    labels = np.zeros(200, dtype=int)
    a, b = (np.tile([1.0, 0.0], (200, 1)) for _ in range(2))
    a[:20, 1] = 2
    b[10:15, 1] = 2
    apart = measure.difference(a, b, labels)
    assert apart.top1 == pytest.approx(7.5)
    assert apart.agreement == pytest.approx(92.5)
    assert apart.low == pytest.approx(7.5 - 100 * 1.959964 * np.std([1] * 15 + [0] * 185, ddof=1) / 200**0.5)
    assert measure.wilson(200, 200)[0] == pytest.approx(0.98115, abs=1e-5)  # from the formula by hand, z² / n


@pytest.mark.parametrize("classes", [5, 6])
def test_a_card_leaves_out_what_says_nothing(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five classes, the right one is always among the best five; one thread is not one threads."""
    labels = np.arange(classes)
    said = card._accuracy(("shapes", np.eye(classes, dtype=np.float32)[labels], labels))
    assert ("| top-5 | 100.00 % |\n" in said) == (classes > 5)
    assert "| top-1 | 100.00 %" in said
    monkeypatch.setattr(torch, "get_num_threads", lambda: classes - 4)
    assert f", {classes - 4} thread{'s' * (classes - 5)}, " in measure.machine()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("export nothing --ensemble --out x", "nothing is not a CoopNet network"),
        ("export three --out x", "give one of"),
        ("export three --branch 4 --out x", "from 1 to 3"),
        ("export three --branches one --out x", "not a list of numbers"),
        ("export three --branch 1 --format tflite --out x", "choose onnx, pt2, safetensors"),
        ("export three --branch 1 --format safetensors --with-preprocessing --out x", "no graph"),
        ("export three --branch 1 --out three", "not empty"),
        ("export three --branch 1 --data digit --out x", "did you mean 'digits'"),
        ("export data --branch 1 --out x", "no model.json"),
        ("predict three nowhere.png", "nowhere.png does not exist"),
        ("predict three data", "holds no image"),
        ("grow three --branches 2 --out x", "cannot grow 3 branches into 2; give 4 or more"),
        ("grow three --branches 5 --how spilt --out x", "how 'spilt' is not known; did you mean 'split'"),
        ("grow three --branches 5 --donors 4,1 --out x", "donors among branches 1 to 3"),
        ("merge a --out x", "two networks"),
        ("merge a nothing --out three", "not empty"),  # before anything is computed
        ("merge a three --out x", "has 3 branches"),
        ("compare three a --data cifar10", "prepare cifar10"),
    ],
)
def test_what_does_not_fit_is_refused(workspace: Path, command: str, said: str) -> None:
    """One line, exit code 1, and nothing is written."""
    before = sorted(path.name for path in workspace.iterdir())
    done = run(workspace, *command.split(), code=1)
    assert done.stderr.startswith("coopnet: error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert sorted(path.name for path in workspace.iterdir()) == before


def test_models_of_other_classes_are_not_compared(workspace: Path) -> None:
    """A number of classes, or an order of their names, that is not the dataset's would give a meaningless accuracy."""
    for name, classes, names in (("hundred", 100, None), ("turned", 10, DIGITS.class_names[::-1])):
        network = coopnet.cooperative("cifar_resnet8", branches=1, classes=classes, width=1)
        coopnet.save(network, workspace / name, preprocessing=CONSTANTS, class_names=names)
    for name, said in (("hundred", "hundred has 100 classes, digits has 10"), ("turned", "in another order")):
        assert said in run(workspace, "compare", "three", name, "--data", "digits", code=1).stderr
        shutil.rmtree(workspace / name)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_extra_that_is_not_installed_is_named(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """The message has the command that installs it."""
    monkeypatch.setitem(sys.modules, missing, None)
    done = run(workspace, "export", "three", "--branch", "1", "--out", str(tmp_path / "x"), code=1)
    assert f"needs {missing}; install it with pip install '.[export]' in a clone" in done.stderr
    assert not list(tmp_path.iterdir())


def test_damaged_export_is_refused(workspace: Path, tmp_path: Path) -> None:
    """The error names the damaged file, for each of its files."""
    run(workspace, "export", "three", "--branch", "1", "--out", str(tmp_path / "out"))
    for name in ("model.onnx", "preprocessing.json"):
        whole = (tmp_path / "out" / name).read_bytes()
        (tmp_path / "out" / name).write_bytes(whole[:40])
        with pytest.raises(CoopNetError, match=re.escape(name)):
            open_model(tmp_path / "out")
        (tmp_path / "out" / name).write_bytes(whole)
    assert open_model(tmp_path / "out").form == "ONNX Runtime"


def test_runs_are_found_in_the_workspace_and_in_its_store(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`STUDY/EXPERIMENT/seedN` gives the same network from both; its card has the run's key, seed and data."""
    row = {
        "about": "Two branches",
        "data": {"dataset": "digits", "training_subset": 100},
        "model": {"depth": 8, "width": 8, "branches": 2},
        "training": {"epochs": 1, "batch_size": 50, "optimizer": {"kind": "sgd", "lr": 0.05}},
    }
    parameters = {"title": "T", "device": "cpu", "threads": 1, "seeds": [0], "experiments": {"two": row}}
    (tmp_path / "params.yaml").write_text(json.dumps(parameters))
    shutil.copytree(workspace / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CoopNetError, match=r"two/seed0 of study full is missing.*coopnet train full two 0"):
        coopnet.load("full/two/seed0")
    run(tmp_path, "train", "full", "two", "0")
    network = coopnet.load("full/two/seed0")
    shutil.rmtree(tmp_path / "checkpoints")
    again = coopnet.load("full/two/seed0")
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    run(tmp_path, "export", "full/two/seed0", "--branch", "1", "--format", "safetensors", "--out", "out")
    card = (tmp_path / "out/README.md").read_text()
    record = saved.read("full/two/seed0").record
    assert f"- run key: {record['key']}\n- seed: 0\n" in card
    assert "Trained on: digits" in card
    assert coopnet.open_model("out").preprocessing.class_names == tuple("0123456789")
    with pytest.raises(CoopNetError, match="no experiment 'three'"):
        coopnet.load("full/three/seed0")

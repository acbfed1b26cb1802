"""A user's own images: folders and shards, scaling to one size, pins, and all refusals."""

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import scipy.io
import torch
import yaml
from PIL import Image
from torchvision import datasets as published
from torchvision import transforms

from coopnet import files, study
from coopnet.commands import prepare as command
from coopnet.data import canonical, order, own, svhn
from coopnet.data.arrays import Arrays
from coopnet.data.augment import Images, draw_epoch, padding
from coopnet.data.datasets import DATASETS, class_names
from coopnet.data.fit import decoded, fitted
from coopnet.files import confined
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace
from coopnet.study import numerics
from coopnet.training.trainer import Interrupted, Task, train
from training_fixture import CPU, Ram, Silence, never, result, settings, task

CLASSES = ("ant", "bee", "cat")


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A unique image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_folders(root: Path, train: int = 5, test: int = 2) -> Path:
    """Images of several sizes and formats, in `train/` and `test/`."""
    seed = 0
    for split, count in (("train", train), ("test", test)):
        for name in CLASSES:
            for number in range(count):
                seed += 1
                path = root / split / name / f"{number}.{('png', 'jpg', 'bmp')[seed % 3]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(seed, 20 + seed % 7, 24).save(path)
    return root


BASE: dict[str, Any] = {
    "title": "Own images",
    "device": "cpu",
    "threads": 1,
    "seeds": [0],
    "datasets": {"insects": {"source": "folder", "path": "images", "size": 16}},
    "experiments": {
        "one": {
            "about": "A row",
            "data": {"dataset": "insects"},
            "model": {"depth": 8, "width": 4},
            "training": {"epochs": 1, "batch_size": 4, "optimizer": {"kind": "sgd", "lr": 0.1}},
        }
    },
}


def workspace(folder: Path, changes: dict[str, Any] | None = None, **described: Any) -> Workspace:
    """A folder with a `params.yaml`: `described` describes the dataset, `changes` the row."""
    content = json.loads(json.dumps(BASE))
    content["datasets"]["insects"] |= described
    for section, values in (changes or {}).items():
        content["experiments"]["one"][section] |= values
    files.write_text(folder / "params.yaml", yaml.safe_dump(content))
    return Workspace(folder)


def pinned(home: Workspace, capsys: pytest.CaptureFixture[str], name: str = "insects") -> dict[str, Any]:
    """Prepare a dataset and add the printed line to `params.yaml`; return its content."""
    capsys.readouterr()
    command.prepare(home, name, None, None, None)
    line: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    path = home.root / "params.yaml"
    content = yaml.safe_load(path.read_text())
    content["datasets"].setdefault(name, {}).update(line)
    path.write_text(yaml.safe_dump(content))
    return line["pinned"]


# Pins ----------------------------------------------------------------------------------------------------------------

KEYS = {
    ("full", "baseline", 0): "5ad97c1fafe0aefdef69b6d92d1cedc9",
    ("full", "one3", 2): "14dee3a34e9d2f3794359b3a5d96b132",
    ("full", "one3_to_5_split", 0): "3cc7d63f44efa98706831d86c46006ad",
    ("mini", "one3", 0): "a1b98616a3ce4e6fd6a9c0274f45e7bb",
}
"""Keys of runs before users could add datasets, with a fixed version of the numerics."""


@pytest.mark.parametrize("place", KEYS)
def test_keys_of_the_study_are_what_they_were(
    place: tuple[str, str, int], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New settings for a user's own data and networks change no key of rows that do not use them."""
    monkeypatch.setattr(numerics, "source_hash", lambda: "the source")
    name, experiment, seed = place
    assert study.load(root, name).run(experiment, seed).key == KEYS[place]


def test_what_is_not_pinned_is_not_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row on unpinned data is refused with the command that prints a pin; the pin is part of the key."""
    write_folders(tmp_path / "images")
    home = workspace(tmp_path)
    with pytest.raises(CoopNetError, match=r"insects is not pinned; run `coopnet prepare insects`, and add the line"):
        study.load(tmp_path)
    pin = pinned(home, capsys)
    run = study.load(tmp_path).run("one", 0)
    assert (run.dataset.classes, run.dataset.counts) == (3, {"train": 15, "test": 6})
    other = dataclasses.replace(run.dataset, digest=pin["digest"] | {"test": "0" * 64})
    assert study.run_key(run.row, 0, 1, (), tmp_path, other) != run.key
    larger = dataclasses.replace(run.dataset, size=32)
    assert study.run_key(run.row, 0, 1, (), tmp_path, larger) != run.key


def test_the_pin_is_what_the_images_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Digests agree with a second implementation of docs/files.md, and constants with NumPy."""
    root = write_folders(tmp_path / "images")
    pin = pinned(workspace(tmp_path), capsys)
    for split in ("train", "test"):
        rows = []
        for label, name in enumerate(CLASSES):
            for path in (root / split / name).iterdir():
                rows.append((label, fitted(Image.open(path), 16).flatten().tolist()))
        rows.sort()
        content = bytes([label for label, _ in rows]) + b"".join(bytes(pixels) for _, pixels in rows)
        assert pin["digest"][split] == hashlib.sha256(content).hexdigest()
        if split == "train":
            pixels = np.array([pixels for _, pixels in rows]).reshape(-1, 3) / 255
            np.testing.assert_allclose(pin["mean"], pixels.mean(axis=0), atol=5.1e-8)
            np.testing.assert_allclose(pin["std"], pixels.std(axis=0), atol=5.1e-8)


def test_other_images_than_the_pinned_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed image is refused with the line that would accept it; the prepared data stay."""
    root = write_folders(tmp_path / "images")
    home = workspace(tmp_path)
    pinned(home, capsys)
    before = {path: path.read_bytes() for path in home.prepared("insects").iterdir()}
    command.prepare(home, "insects", None, None, None)  # nothing to do
    picture(99, 20, 20).save(root / "train" / "bee" / "0.png")
    with pytest.raises(
        CoopNetError, match=r"not the pinned .*; if the images were changed on purpose, add this line to .*: pinned"
    ):
        command.prepare(home, "insects", None, None, None)
    assert {path: path.read_bytes() for path in home.prepared("insects").iterdir()} == before


@pytest.mark.parametrize("classes", [2, 9])
def test_a_wrong_number_of_classes_is_refused(classes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pin with fewer or more classes than the images have is refused with the line that is right."""
    write_folders(tmp_path / "images")
    pin = pinned(workspace(tmp_path), capsys)
    home = workspace(tmp_path, pinned=pin | {"classes": classes})
    with pytest.raises(
        CoopNetError, match=rf"^insects: classes is 3, not the pinned {classes}; .* add this line .*classes: 3"
    ):
        command.prepare(home, "insects", None, None, None)


def test_names_of_classes_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The prepared folder has the class names, and so have the project's own datasets."""
    write_folders(tmp_path / "images")
    home = workspace(tmp_path)
    pinned(home, capsys)
    dataset = study.load(tmp_path).data["insects"]
    assert canonical.class_names(home.prepared("insects"), dataset) == list(CLASSES)
    assert class_names({"dataset": "insects", "class_names": ["ant"]}) == ["ant"]
    for known in DATASETS.values():
        assert len(class_names({"dataset": known.name})) == known.classes
    many = [f"{number:05} of the most classes" for number in range(own.MOST_CLASSES)]
    files.write_json(tmp_path / "manifest.json", {"files": {}, "class_names": many})
    assert canonical.class_names(tmp_path, dataset) == many


# Size and form -------------------------------------------------------------------------------------------------------


def test_an_image_of_the_size_keeps_its_pixels() -> None:
    """A 16×16 RGB image is not changed."""
    image = picture(0, 16, 16)
    np.testing.assert_array_equal(fitted(image, 16), np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(40, 40), (41, 30), (23, 64), (8, 9)])
def test_images_are_scaled_as_torchvision_scales_them(width: int, height: int) -> None:
    """The centred square, scaled bicubic with antialiasing, to the bit; of a square image torchvision's `Resize`."""
    image, side = picture(3, width, height), min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    expected = image.resize((16, 16), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    np.testing.assert_array_equal(fitted(image, 16), np.asarray(expected))
    if width == height:
        theirs = transforms.Resize(16, transforms.InterpolationMode.BICUBIC)(image)
        np.testing.assert_array_equal(fitted(image, 16), np.asarray(theirs))


def test_other_forms_become_rgb(tmp_path: Path) -> None:
    """Grey and palette images become RGB, EXIF orientation is applied, and more than 8 bits are refused."""
    grey = Image.fromarray(np.full((16, 16), 7, dtype=np.uint8))
    assert (fitted(grey, 16) == 7).all()
    palette = picture(1, 16, 16).quantize(4)
    np.testing.assert_array_equal(fitted(palette, 16), np.asarray(palette.convert("RGB")))
    turned, exif = picture(2, 16, 16), Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(decoded(tmp_path / "turned.png", 16, "it"), np.asarray(turned)[::-1, ::-1])
    deep = Image.fromarray(np.full((16, 16), 1000, dtype=np.uint16))
    with pytest.raises(CoopNetError, match="more than 8 bits per channel"):
        fitted(deep, 16)


@pytest.mark.parametrize("size", [8, 48])
def test_augmentation_is_that_of_the_size(size: int) -> None:
    """Crops are windows of the image with a black border of an eighth of its size: 4 pixels at 32, as published."""
    assert (padding(32), padding(size)) == (4, size // 8)
    pixels = np.random.default_rng(0).integers(0, 256, (6, size, size, 3), dtype=np.uint8)
    images = Images(pixels, np.arange(6), [0.0] * 3, [1.0] * 3, CPU)
    draws = draw_epoch(6, 0, 0, CPU, images.padding)
    assert draws.offsets.max() <= 2 * (size // 8)
    made = images.augmented(*draws)
    around = np.pad(pixels, ((0, 0), *[(size // 8,) * 2] * 2, (0, 0)))
    for index, (top, left), flip, one in zip(*(tensor.tolist() for tensor in draws), made, strict=True):
        window = around[index, top : top + size, left : left + size]
        window = window[:, ::-1] if flip else window
        torch.testing.assert_close(one.permute(1, 2, 0), torch.from_numpy(window / np.float32(255)))


# One tree, and shards ------------------------------------------------------------------------------------------------


def test_test_images_are_held_back_by_what_they_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stratified fraction of one tree is held back; file names do not matter, the seed does."""
    tree = write_folders(tmp_path / "images", train=10, test=0) / "train"
    pins = []
    for seed in (0, 0, 1):
        home = workspace(tmp_path, path="images/train", test={"fraction": 0.2, "seed": seed})
        pins.append(pinned(home, capsys))
        for number, path in enumerate(sorted((tree / "bee").iterdir())):
            path.rename(path.with_name(f"{9 - number}_{len(pins)}{path.suffix}"))
    assert pins[0]["counts"] == {"train": 24, "test": 6}
    assert pins[0] == pins[1]
    assert pins[0]["digest"] != pins[2]["digest"]
    home = workspace(tmp_path, path="images/train", test={"fraction": 0.2, "seed": 0})
    arrays = canonical.load(home.prepared("insects"), dataclasses.replace(study.datasets(tmp_path)["insects"]))
    assert [np.bincount(arrays[split].labels).tolist() for split in ("train", "test")] == [[8, 8, 8], [2, 2, 2]]


def write_shards(root: Path, folders: Path, names: bool = True) -> None:
    """The images of folders as shards, two per split, in the layout of the `datasets` library."""
    root.mkdir()
    features = {"image": {"_type": "Image"}, "kind": {"names": list(CLASSES), "_type": "ClassLabel"}}
    for split in ("train", "test"):
        rows = [
            {"image": {"bytes": path.read_bytes(), "path": path.name}, "kind": label}
            for label, name in enumerate(CLASSES)
            for path in sorted((folders / split / name).iterdir())
        ]
        for number, part in enumerate((rows[1::2], rows[::2])):
            table = pa.Table.from_pylist(part)
            if names:
                table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
            pq.write_table(table, root / f"{split}-{number:05}.parquet")


def test_folders_and_shards_are_the_same_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same files as shards of the Hugging Face layout give the same pin and the same names."""
    write_shards(tmp_path / "shards", write_folders(tmp_path / "images"))
    first = pinned(workspace(tmp_path), capsys)
    home = workspace(tmp_path, source="parquet", path="shards", label="kind")
    assert pinned(home, capsys) == first
    assert files.read_json(home.prepared("insects") / "manifest.json")["class_names"] == list(CLASSES)


@pytest.mark.parametrize(
    ("described", "place"),
    [
        ({}, r"The first: \S+/images/test/bee/9\.jpg is \S+/images/train/ant/0\.jpg"),
        ({"source": "parquet", "path": "shards", "label": "kind"}, r"image \d of the test shards is image \d of the"),
        ({"path": "images/train", "test": {"fraction": 0.4}}, r"The first: \S+/images/train/ant/\S+ is \S+/train/ant/"),
    ],
)
def test_test_images_that_are_trained_on_are_counted(
    described: dict[str, Any],
    place: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Copies are found across classes and file names, also those that were held back; the first is named."""
    tree = write_folders(tmp_path / "images")
    for first in sorted((tree / "train" / "ant").iterdir()):
        shutil.copy(first, tree / "train" / "ant" / f"copy_{first.name}")
    if described.get("source") == "parquet":
        write_shards(tmp_path / "shards", tree)
    home = workspace(tmp_path, **described)
    pinned(home, capsys)
    assert bool(caplog.records) == ("test" in described)  # copies within the training images are no matter
    if "test" not in described:
        first = min((tree / "train" / "ant").iterdir())
        shutil.copy(first, tree / "test" / "bee" / f"9{first.suffix}")
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        write_shards(tmp_path / "shards", tree)
        pinned(workspace(tmp_path, **described), capsys)
    (warning,) = [record.getMessage() for record in caplog.records]
    count, of = map(int, re.match(r"warning: insects: (\d+) of (\d+) test images are", warning).groups())  # type: ignore
    assert (count, of) == (1, 7) if "test" not in described else (0 < count <= 4 and of == 8)
    assert re.search(place, warning)


@pytest.mark.parametrize("held_back", [False, True])
def test_classes_without_test_images_are_counted(
    held_back: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A class folder of test images may be missing, and a small share may hold back no image of a class."""
    tree = write_folders(tmp_path / "images")
    shutil.rmtree(tree / "test" / "ant")
    described: dict[str, Any] = {"path": "images/train", "test": {"fraction": 0.13}} if held_back else {}
    pinned(workspace(tmp_path, **described), capsys)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert re.match(r"warning: insects: 1 of 3 classes have no test images", warning)
    assert warning.endswith("The first: cat" if held_back else "The first: ant")


def test_shards_that_order_their_classes_differently_are_refused(tmp_path: Path) -> None:
    """Otherwise every test image would have the label of another class."""
    write_shards(tmp_path / "shards", write_folders(tmp_path / "images"))
    features = {"kind": {"names": list(CLASSES)[::-1], "_type": "ClassLabel"}}
    for path in (tmp_path / "shards").glob("test-*.parquet"):
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    home = workspace(tmp_path, source="parquet", path="shards", label="kind")
    with pytest.raises(CoopNetError, match="shards of test name their classes differently from those of train"):
        command.prepare(home, "insects", None, None, tmp_path / "out", 1)


@pytest.mark.parametrize("described", [{}, {"source": "parquet", "path": "shards", "label": "kind"}])
def test_processes_change_nothing(tmp_path: Path, described: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of processes gives the same arrays, or names the first of several images that cannot be read."""
    monkeypatch.setattr(own, "BATCH", 4)
    root = write_folders(tmp_path / "images")
    write_shards(tmp_path / "shards", root)
    home, prepared, in_turn = workspace(tmp_path, **described), [], confined.in_turn
    used = []
    monkeypatch.setattr(
        confined, "in_turn", lambda readers, at_once: (used.append(at_once), in_turn(readers, at_once))[1]
    )
    for processes in (1, 3):
        command.prepare(home, "insects", None, None, tmp_path / f"{processes}", processes)
        prepared.append({path.name: path.read_bytes() for path in (tmp_path / f"{processes}").iterdir()})
    assert prepared[0] == prepared[1]
    assert len(prepared[0]) == 3
    assert used == [1, 1, 3, 3]
    if not described:
        damaged = [sorted((root / "train" / name).iterdir())[1] for name in CLASSES[:2]]
        for path in damaged:
            path.write_text("x")
        for processes in (1, 3):
            with pytest.raises(CoopNetError, match=f"{damaged[0]}: the image cannot"):
                command.prepare(home, "insects", None, None, tmp_path / "other", processes)


# Errors --------------------------------------------------------------------------------------------------------------


def emptied(folder: Path) -> None:
    """Delete the content of a folder."""
    for path in folder.iterdir():
        path.unlink()


def cut(path: Path) -> None:
    """Delete the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def extra_class(root: Path) -> None:
    """Add a class that only the test images have."""
    (root / "test" / "dog").mkdir()
    picture(0, 9, 9).save(root / "test" / "dog" / "0.png")


def flat(root: Path) -> None:
    """Put training images beside the class folders."""
    for path in sorted((root / "train").glob("*/*")):
        path.rename(root / "train" / f"{path.parent.name}{path.name}")
    for name in CLASSES:
        (root / "train" / name).rmdir()


def bomb(root: Path) -> None:
    """A PNG of a few bytes whose header declares 12,000 × 12,000 pixels."""
    buffer = io.BytesIO()
    picture(0, 1, 1).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (12_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (root / "train" / "ant" / "bomb.png").write_bytes(content)


WRONG: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no folder": (lambda root: root.rename(root.with_name("elsewhere")), ("images/train is missing",)),
    "no classes": (flat, ("is a file beside the class folders",)),
    "no training images": (
        lambda root: (root / "train").rename(root / "training"),
        ("has no folder train/", "test: {"),
    ),
    "class of the test alone": (extra_class, ("test/dog is a class without training images", "ant, bee, cat")),
    "class without images": (lambda root: emptied(root / "train" / "bee"), ("bee has no images to train on",)),
    "corrupt image": (lambda root: cut(next((root / "train" / "cat").glob("*.png"))), ("cat/", "cannot be decoded")),
    "image that swells": (bomb, ("bomb.png",)),
    "no image": (
        lambda root: (root / "train" / "ant" / "x.txt").write_text("x"),
        ("x.txt does not have the suffix of an image",),
    ),
    "pipe": (lambda root: os.mkfifo(root / "train" / "ant" / "x.png"), ("x.png is no regular file",)),
    "link to nothing": (
        lambda root: (root / "test" / "ant" / "x.png").symlink_to("gone"),
        ("x.png is no regular file",),
    ),
    "link in a circle": (
        lambda root: (root / "train" / "ant" / "again").symlink_to("../.."),
        ("ant/again is a link to a folder around it",),
    ),
    "text as image": (lambda root: (root / "train" / "ant" / "x.png").write_text("x"), ("x.png: the image cannot",)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_folders_are_refused(kind: str, tmp_path: Path) -> None:
    """A folder that is not a dataset is refused in one line with file and remedy, and nothing is left."""
    spoil, words = WRONG[kind]
    spoil(write_folders(tmp_path / "images"))
    home = workspace(tmp_path)
    with pytest.raises(CoopNetError) as refused:
        command.prepare(home, "insects", None, None, None)
    said = str(refused.value)
    assert all(word in said for word in words), said
    assert "\n" not in said
    assert list((tmp_path / "data").rglob("*")) in ([], [tmp_path / "data" / "prepared"])


NO_ROW: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "unknown source": ({"source": "zip"}, {}, ("datasets.insects.source", "'folder'")),
    "no path": ({"path": None}, {}, ("datasets.insects.path is missing",)),
    "unknown key": ({"sizes": 3}, {}, ("datasets.insects.sizes is not a known key", "did you mean 'size'")),
    "size": ({"size": 2}, {}, ("datasets.insects.size",)),
    "fraction": ({"test": {"fraction": 1.5}}, {}, ("datasets.insects.test.fraction",)),
    "unknown dataset": ({}, {"data": {"dataset": "insect"}}, ("data.dataset", "did you mean 'insects'")),
    "no split": ({}, {"model": {"family": "timm", "name": "resnet18"}}, ("family timm needs name",)),
    "split of ours": ({}, {"model": {"split": "layer3"}}, ("name and split are for family timm or torchvision",)),
    "images": ({}, {"data": {"images": 9}}, ("images is filled in from datasets.insects.pinned",)),
}


@pytest.mark.parametrize("kind", NO_ROW)
def test_wrong_descriptions_are_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong key or value of `datasets`, or of a row, is refused in one line that names it."""
    described, changes, words = NO_ROW[kind]
    pin = {
        "classes": 3,
        "counts": {"train": 15, "test": 6},
        "digest": {"train": "0" * 64, "test": "1" * 64},
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    workspace(tmp_path, changes, pinned=pin, **described)
    with pytest.raises(CoopNetError) as refused:
        study.load(tmp_path)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_too_small_for_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ResNet-18 divides the image size by 8; smaller images are refused when the study is read."""
    write_folders(tmp_path / "images")
    network = {"model": {"family": "resnet18", "depth": 18}}
    pin = pinned(workspace(tmp_path, size=4), capsys)
    workspace(tmp_path, network, size=4, pinned=pin)
    with pytest.raises(CoopNetError, match=r"resnet18 needs images of at least 8 pixels a side, not 4; set datasets"):
        study.load(tmp_path)
    workspace(tmp_path, network, size=8, pinned=pin)
    study.load(tmp_path)


# SVHN ----------------------------------------------------------------------------------------------------------------


def official(folder: Path, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A file like the official ones with few images; returns images and labels."""
    random = np.random.default_rng(count)
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 10
    content = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]}
    scipy.io.savemat(folder / f"{split}_32x32.mat", content, do_compression=True)
    return images, labels


@pytest.fixture
def few_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Arrays]:
    """SVHN with 30 and 20 images, whose files in `tmp_path` count as the official ones."""
    arrays, known, sizes = {}, {}, {}
    for split, count in (("train", 30), ("test", 20)):
        arrays[split] = Arrays(*official(tmp_path, split, count))
        content = (tmp_path / f"{split}_32x32.mat").read_bytes()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        known[split] = ["http://127.0.0.1:9/", f"{split}_32x32.mat", md5]
        sizes[split] = len(content)
    monkeypatch.setattr(published.SVHN, "split_list", known)
    monkeypatch.setattr(svhn, "SIZES", sizes)
    small = dataclasses.replace(DATASETS["svhn"], counts={"train": 30, "test": 20})
    monkeypatch.setitem(DATASETS, "svhn", small)
    return arrays


def test_svhn_is_read_from_its_matlab_files(tmp_path: Path, few_numbers: dict[str, Arrays]) -> None:
    """Images and labels are those of the files, label 10 is the digit 0, and the content can be pinned."""
    dataset = DATASETS["svhn"]
    manifest = canonical.prepare(dataset, "matlab", tmp_path, tmp_path / "out")
    for split, arrays in canonical.load(tmp_path / "out", dataset).items():
        images, labels = few_numbers[split]
        places = order.canonical_order(images, labels)
        np.testing.assert_array_equal(arrays.images, images[places])
        np.testing.assert_array_equal(arrays.labels, labels[places])
    files.write_text(
        tmp_path / "params.yaml", yaml.safe_dump(BASE | {"datasets": {"svhn": yaml.safe_load(canonical.pin(manifest))}})
    )
    assert study.datasets(tmp_path)["svhn"].digest == manifest["digest"]


def test_another_file_than_the_official_is_not_opened(
    tmp_path: Path, few_numbers: dict[str, Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the same size with another MD5 sum is refused before it is read."""
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr(svhn, "unpacked", None)
    with pytest.raises(CoopNetError, match=r"train_32x32.mat has the MD5 sum"):
        canonical.prepare(DATASETS["svhn"], "matlab", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not MATLAB", "is not a MATLAB file"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))}, "X is float64"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.zeros((2, 1))}, "a label from 1 to 10"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((3, 1))}, "a label from 1 to 10"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "is not a MATLAB file with X and y"),
    ],
)
def test_other_contents_are_refused(content: Any, words: str, tmp_path: Path) -> None:
    """A file with the official digest but other content is refused in one line."""
    path = tmp_path / "x.mat"
    path.write_bytes(content) if isinstance(content, bytes) else scipy.io.savemat(path, content)
    with pytest.raises(CoopNetError, match=words):
        svhn.unpacked(path)


# Arrays larger than memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [10, 256, 257])
def test_what_is_written_in_pieces_are_the_bytes_of_the_library(classes: int, tmp_path: Path) -> None:
    """Files written piece by piece equal those of safetensors; labels have two bytes above 256 classes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (9, 12, 12, 3), dtype=np.uint8)
    labels = order.packed(random.integers(0, classes, 9), classes)
    kind = "U8" if classes <= 256 else "U16"
    parts = {
        "images": files.Pieces("U8", [9, 12, 12, 3], [images[:4], images[4:]]),
        "labels": files.Pieces(kind, [9], [labels]),
    }
    files.write_pieces(tmp_path / "ours", parts)
    assert (tmp_path / "ours").read_bytes() == safetensors.numpy.save({"images": images, "labels": labels})
    for name, array in files.map_tensors(tmp_path / "ours").items():
        np.testing.assert_array_equal(array, {"images": images, "labels": labels}[name])


def test_two_bytes_for_many_classes() -> None:
    """Above 256 classes the digest uses labels of two bytes, little-endian."""
    images, labels = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1), np.array([299, 2, 256])
    content = (2).to_bytes(2, "little") + (256).to_bytes(2, "little") + (299).to_bytes(2, "little") + bytes([1, 2, 0])
    assert order.content_digest(images, labels, 300) == hashlib.sha256(content).hexdigest()


def test_order_does_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are read for every comparison are sorted like those in memory."""
    random = np.random.default_rng(0)
    images = random.integers(0, 2, (200, 1, 2, 3), dtype=np.uint8)
    labels = random.integers(0, 3, 200)
    expected = order.canonical_order(images, labels)
    monkeypatch.setattr(order, "IN_MEMORY", 0)
    np.testing.assert_array_equal(order.canonical_order(images, labels), expected)


@pytest.mark.parametrize("augment", [True, False])
def test_images_that_stay_behind_give_the_same_bits(augment: bool, tmp_path: Path) -> None:
    """A run that fetches its images from a file, batch by batch, has the bits of one with images on the device.

    The one is interrupted, so it also has to continue with the right batch.
    """
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (120, 32, 32, 3), dtype=np.uint8), random.integers(0, 4, 120)
    parts = {"images": files.Pieces("U8", list(images.shape), [images])}
    files.write_pieces(tmp_path / "images", parts)
    mapped = files.map_tensors(tmp_path / "images")["images"]
    chosen = {"training": np.sort(random.permutation(120)[:70]), "validation": np.arange(3, 20), "test": None}

    def job(resident: bool) -> Task:
        todo = task(settings(selection="best_validation", batch_size=8))
        todo.augment = augment
        todo.splits = {
            name: Images(mapped, labels, [0.5] * 3, [0.3] * 3, CPU, chosen=which, resident=resident)
            for name, which in chosen.items()
        }
        return todo

    memory, reasons = Ram(), iter([None, None, "now"])
    with pytest.raises(Interrupted):
        train(job(resident=False), memory, Silence(), lambda: next(reasons))
    fetched = result(train(job(resident=False), memory, Silence(), never))
    assert fetched == result(train(job(resident=True), Ram(), Silence(), never))


LIMITED = """
    import resource, sys
    from pathlib import Path
    import numpy as np, torch
    from coopnet import files
    from coopnet.data.augment import Images
    from coopnet.training.device import free_memory

    path, cpu = Path(sys.argv[1]), torch.device("cpu")
    images = files.map_tensors(path)["images"]
    labels = np.zeros(len(images), dtype=np.int64)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    limit = used + images.nbytes // 2
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    assert free_memory(cpu) <= images.nbytes // 2
    split = Images(images, labels, [0.0] * 3, [1.0] * 3, cpu, resident=False)
    total = 0
    for pixels in split.fetched(torch.arange(len(images)).split(500)):
        total += int(pixels[0].numpy().sum(dtype=np.int64))  # torch would hold all of them as int64
    print(total)
    try:
        Images(images, labels, [0.0] * 3, [1.0] * 3, cpu)
    except (RuntimeError, MemoryError):
        print("no room")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what a process has written on Linux alone")
def test_more_images_than_memory(tmp_path: Path) -> None:
    """A process can read twice as many images as fit into its memory, and detects that they do not fit at once."""
    piece = np.random.default_rng(0).integers(0, 256, (1000, 64, 64, 3), dtype=np.uint8)
    files.write_pieces(tmp_path / "images", {"images": files.Pieces("U8", [20_000, 64, 64, 3], [piece] * 20)})
    code = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path / "images")]
    done = subprocess.run(code, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    (tmp_path / "images").unlink()
    assert done.stdout.split("\n")[:2] == [str(20 * int(piece.sum(dtype=np.int64))), "no room"], done.stderr

"""Preparation: the canonical arrays, their digests, and all refusals.

Tests with the real CIFAR need `COOPNET_TEST_DATA`: a folder with the shards of `cifar10/` and `cifar100/`.
"""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from archive_fixture import NAME, UNREACHABLE, archive, published
from conftest import flip
from coopnet import files
from coopnet.data.canonical import MANIFEST, load, prepare
from coopnet.data.datasets import DATASETS, SPLITS, Dataset
from coopnet.data.order import canonical_order, content_digest
from coopnet.data.sources import Arrays, in_memory, read_digits
from coopnet.files.errors import CoopNetError

# --- a small dataset, and shards of it ------------------------------------------------------------------


def naive_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """The digest as docs/files.md defines it, with plain Python numbers."""
    rows = sorted((int(label), image.flatten().tolist()) for image, label in zip(images, labels, strict=True))
    content = [label for label, _ in rows] + [byte for _, pixels in rows for byte in pixels]
    return hashlib.sha256(bytes(content)).hexdigest()


@pytest.fixture(scope="module")
def splits() -> dict[str, Arrays]:
    """15 train and 6 test images of 3 classes; two are equal, and two differ only in their last byte."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (21, 32, 32, 3), dtype=np.uint8)
    images[3] = images[0]
    images[6] = images[9] = 0
    images[9, -1, -1, -1] = 128
    labels = np.arange(21) % 3
    return {"train": Arrays(images[:15], labels[:15]), "test": Arrays(images[15:], labels[15:])}


@pytest.fixture(scope="module")
def toy(splits: dict[str, Arrays]) -> Dataset:
    """The small dataset, its digests pinned by the naive implementation."""
    return Dataset(
        name="toy",
        classes=3,
        counts={split: len(arrays.labels) for split, arrays in splits.items()},
        digest={split: naive_digest(*arrays) for split, arrays in splits.items()},
        mean=(0.5, 0.5, 0.5),
        std=(0.3, 0.3, 0.3),
        sources=("torchvision", "parquet"),
        archive_size=len(archive(splits)),
    )


def encode(image: np.ndarray, form: str = "PNG") -> bytes:
    """A lossless image file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
    return buffer.getvalue()


def rows_of(arrays: Arrays, form: str = "PNG") -> list[dict[str, Any]]:
    """The rows of a shard in the Hugging Face layout."""
    pairs = zip(arrays.images, arrays.labels.tolist(), strict=True)
    return [{"img": {"bytes": encode(image, form), "path": "x.png"}, "label": label} for image, label in pairs]


def write_shard(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def shards(tmp_path: Path, splits: dict[str, Arrays]) -> Path:
    """A folder with one shard of PNG images per split."""
    for split, arrays in splits.items():
        write_shard(tmp_path / "shards" / f"{split}-00000-of-00001.parquet", rows_of(arrays))
    return tmp_path / "shards"


def assert_equal(first: dict[str, Arrays], second: dict[str, Arrays]) -> None:
    """Both splits hold the same arrays."""
    for split in SPLITS:
        np.testing.assert_array_equal(first[split].images, second[split].images)
        np.testing.assert_array_equal(first[split].labels, second[split].labels)


# --- order and digest -----------------------------------------------------------------------------------


@st.composite
def small_arrays(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Images of six bytes: many ties, trailing zeros, and bytes that a signed comparison would sort wrongly."""
    count = draw(st.integers(1, 12))
    pixels = draw(st.lists(st.sampled_from([0, 1, 127, 128, 255]), min_size=6 * count, max_size=6 * count))
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return np.array(pixels, dtype=np.uint8).reshape(count, 1, 2, 3), np.array(labels)


@given(small_arrays())
def test_digest_is_the_one_of_the_definition(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    """The content digest equals a naive implementation of docs/files.md."""
    assert content_digest(*arrays) == naive_digest(*arrays)


@given(small_arrays(), st.randoms(use_true_random=False))
def test_order_of_the_source_does_not_matter(arrays: tuple[np.ndarray, np.ndarray], random: Any) -> None:
    """Any permutation of the source gives the same canonical arrays and the same digest."""
    images, labels = arrays
    shuffled = random.sample(range(len(labels)), len(labels))
    one, other = canonical_order(images, labels), canonical_order(images[shuffled], labels[shuffled])
    np.testing.assert_array_equal(images[one], images[shuffled][other])
    np.testing.assert_array_equal(labels[one], labels[shuffled][other])
    assert content_digest(images, labels) == content_digest(images[shuffled], labels[shuffled])


def test_memory_layout_does_not_matter(splits: dict[str, Arrays]) -> None:
    """Arrays in channels-first memory order, like torchvision's, have the same digest."""
    images, labels = splits["train"]
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert content_digest(channels_first, labels) == naive_digest(images, labels)


# --- sources agree --------------------------------------------------------------------------------------


def write_backwards(folder: Path, splits: dict[str, Arrays], form: str) -> None:
    """Shards of at most five images in reversed order, in a column `image`."""
    for split, arrays in splits.items():
        rows = [{"image": row["img"], "label": row["label"]} for row in reversed(rows_of(arrays, form))]
        for shard, first in enumerate(range(0, len(rows), 5)):
            write_shard(folder / f"{split}-{shard:05}.parquet", rows[first : first + 5])


@pytest.mark.parametrize("form", ["BMP", "WEBP"])
def test_shards_of_another_form_give_the_same_files(
    form: str, toy: Dataset, splits: dict[str, Arrays], shards: Path, tmp_path: Path
) -> None:
    """Image format, column name, number and order of shards do not affect the written files."""
    write_backwards(tmp_path / "other", splits, form)
    one = prepare(toy, "parquet", shards, tmp_path / "one")
    other = prepare(toy, "parquet", tmp_path / "other", tmp_path / "two")
    assert one == other
    for name, digest in one["files"].items():
        assert digest == files.sha256(tmp_path / "one" / name) == files.sha256(tmp_path / "two" / name)


@pytest.fixture
def torchvision_toy(monkeypatch: pytest.MonkeyPatch, splits: dict[str, Arrays], tmp_path: Path) -> None:
    """A torchvision that knows the small dataset, with its archive in `tmp_path`."""
    content = archive(splits)
    (tmp_path / NAME).write_bytes(content)
    monkeypatch.setattr(torchvision.datasets, "TOY", published(content), raising=False)


@pytest.mark.usefixtures("torchvision_toy")
def test_torchvision_and_parquet_give_the_same_files(toy: Dataset, shards: Path, tmp_path: Path) -> None:
    """The results of two sources differ only in the manifest's `source`."""
    one = prepare(toy, "parquet", shards, tmp_path / "one")
    other = prepare(toy, "torchvision", tmp_path, tmp_path / "two")
    assert (one.pop("source"), other.pop("source")) == ("parquet", "torchvision")
    assert one == other
    assert_equal(load(tmp_path / "one", toy), load(tmp_path / "two", toy))


def test_loaded_arrays_are_the_sorted_source(
    toy: Dataset, splits: dict[str, Arrays], shards: Path, tmp_path: Path
) -> None:
    """`load` gives the source's images and labels, sorted by label and bytes, as uint8 and int64."""
    prepare(toy, "parquet", shards, tmp_path / "out")
    for split, (images, labels) in load(tmp_path / "out", toy).items():
        pairs = zip(splits[split].labels.tolist(), splits[split].images, strict=True)
        expected = sorted((label, image.flatten().tolist()) for label, image in pairs)
        assert [(int(k), i.flatten().tolist()) for k, i in zip(labels, images, strict=True)] == expected
        assert (images.dtype, images.shape[1:], labels.dtype) == (np.uint8, (32, 32, 3), np.int64)


def test_manifest_says_what_was_prepared(toy: Dataset, shards: Path, tmp_path: Path) -> None:
    """The manifest holds the dataset's identity and the files' hashes, and no path of this machine."""
    manifest = prepare(toy, "parquet", shards, tmp_path / "out")
    assert json.loads((tmp_path / "out" / MANIFEST).read_text()) == manifest
    assert manifest == {
        "dataset": "toy",
        "source": "parquet",
        "classes": 3,
        "counts": {"train": 15, "test": 6},
        "digest": toy.digest,
        "files": {f"{split}.safetensors": manifest["files"][f"{split}.safetensors"] for split in SPLITS},
    }


# --- errors ---------------------------------------------------------------------------------------------

Rows = list[dict[str, Any]]


def replaced(row: int, **fields: Any) -> Callable[[Rows], Rows]:
    """An edit that replaces fields of one row."""
    return lambda rows: [{**each, **fields} if index == row else each for index, each in enumerate(rows)]


def holding(image: bytes | None) -> dict[str, Any]:
    """The image column's value for an image file."""
    return {"bytes": image, "path": "x.png"}


BLACK, CLEAR = np.zeros((32, 32, 3), dtype=np.uint8), np.zeros((32, 32, 4), dtype=np.uint8)
EDITS: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "too_few": (lambda rows: rows[1:], "14 images instead of 15"),
    "too_many": (lambda rows: [*rows, rows[0]], "16 images instead of 15"),
    "no_rows": (lambda rows: pa.Table.from_pylist(rows).slice(0, 0), "has no images in train-*.parquet"),
    "label_too_large": (replaced(4, label=3), "label 3 is not in 0..2"),
    "label_negative": (replaced(4, label=-1), "label -1 is not in 0..2"),
    "label_missing": (replaced(4, label=None), "rows without a label"),
    "label_of_text": (lambda rows: [{**row, "label": "cat"} for row in rows], "column label is string"),
    "no_label_column": (lambda rows: [{"img": row["img"]} for row in rows], "no column label"),
    "no_image_column": (lambda rows: [{"label": row["label"]} for row in rows], "no column img or image"),
    "bare_image_column": (lambda rows: [{**row, "img": row["img"]["bytes"]} for row in rows], "not a struct"),
    "image_missing": (replaced(4, img=holding(None)), "row 4: the row has no image data"),
    "image_null": (replaced(4, img=None), "row 4: the row has no image data"),
    "image_grey": (replaced(4, img=holding(encode(BLACK[..., 0]))), "row 4: the image is 32×32 L"),
    "image_rgba": (replaced(4, img=holding(encode(CLEAR))), "row 4: the image is 32×32 RGBA"),
    "image_narrow": (replaced(4, img=holding(encode(BLACK[:, :31]))), "row 4: the image is 31×32 RGB"),
    "image_garbage": (replaced(4, img=holding(b"not an image")), "row 4: the image cannot be decoded"),
    "image_cut": (replaced(4, img=holding(encode(BLACK + 77)[:-30])), "row 4: the image cannot be decoded"),
    "other_pixels": (replaced(4, img=holding(encode(BLACK))), "differs from the pinned"),
    "other_label": (replaced(4, label=0), "differs from the pinned"),
}  # fmt: skip


def refusal(dataset: Dataset, source: str, root: Path | None, out: Path) -> str:
    """The error message of `prepare`, which is one line; nothing is left that looks finished."""
    with pytest.raises(CoopNetError) as refused:
        prepare(dataset, source, root, out)
    assert not (out / MANIFEST).exists()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("edit", EDITS)
def test_wrong_shards_are_refused(
    edit: str, toy: Dataset, splits: dict[str, Arrays], shards: Path, tmp_path: Path
) -> None:
    """Shards with anything but the dataset are refused with one line that names the mistake."""
    change, expected = EDITS[edit]
    shard = shards / "train-00000-of-00001.parquet"
    rows = change(rows_of(splits["train"]))
    pq.write_table(rows, shard) if isinstance(rows, pa.Table) else write_shard(shard, rows)
    message = refusal(toy, "parquet", shards, tmp_path / "out")
    assert expected in message
    assert str(shards) in message or "toy train" in message


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_truncated_shard_is_refused(keep: float, toy: Dataset, shards: Path, tmp_path: Path) -> None:
    """A truncated shard is refused by name, whatever its remaining length."""
    shard = shards / "test-00000-of-00001.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    assert f"{shard} is damaged" in refusal(toy, "parquet", shards, tmp_path / "out")


def test_missing_split_is_refused(toy: Dataset, shards: Path, tmp_path: Path) -> None:
    """A folder without shards of one split is refused; the error has the split's pattern."""
    (shards / "test-00000-of-00001.parquet").unlink()
    assert f"{shards} has no images in test-*.parquet" in refusal(toy, "parquet", shards, tmp_path / "out")


def test_shards_of_another_dataset_are_refused(toy: Dataset, shards: Path, tmp_path: Path) -> None:
    """CIFAR-10 shards given for CIFAR-100 lack its label column, and the message says so."""
    fine = dataclasses.replace(toy, label_column="fine_label")
    assert "no column fine_label" in refusal(fine, "parquet", shards, tmp_path / "out")


def test_unknown_source_is_refused_with_the_known_ones(toy: Dataset, tmp_path: Path) -> None:
    """The error has the unknown source and those that the dataset has."""
    message = refusal(toy, "kaggle", tmp_path, tmp_path / "out")
    assert "toy has no source 'kaggle'; --source can be: torchvision, parquet" in message


def test_missing_root_is_refused(toy: Dataset, tmp_path: Path) -> None:
    """The error for a missing folder names its option."""
    assert "--root" in refusal(toy, "parquet", None, tmp_path / "out")
    assert "--root" in refusal(toy, "torchvision", None, tmp_path / "out")
    assert f"{tmp_path / 'nowhere'} is not a folder" in refusal(toy, "parquet", tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.usefixtures("torchvision_toy")
def test_failed_download_points_to_the_shards(toy: Dataset, tmp_path: Path) -> None:
    """Without a network the failed download gives one line that suggests the other source."""
    message = refusal(toy, "torchvision", tmp_path / "empty", tmp_path / "out")
    assert f"cannot download toy from {UNREACHABLE}" in message
    assert "--source parquet --root" in message


# --- interruption and damage ----------------------------------------------------------------------------


@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_interruption_leaves_nothing_that_looks_finished(
    survivors: int, toy: Dataset, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after any number of files, a preparation is unfinished for `load`, and can be repeated."""
    out = tmp_path / "out"
    written: list[Path] = []

    def interrupted(write: Callable[..., None]) -> Callable[..., None]:
        def until(path: Path, content: Any) -> None:
            if len(written) == survivors:
                raise KeyboardInterrupt
            written.append(path)
            write(path, content)

        return until

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_pieces", interrupted(files.write_pieces))
        patch.setattr(files, "write_json", interrupted(files.write_json))
        with pytest.raises(KeyboardInterrupt):
            prepare(toy, "parquet", shards, out)
    with pytest.raises(CoopNetError, match="toy is not prepared"):
        load(out, toy)
    prepare(toy, "parquet", shards, out)
    prepare(toy, "parquet", shards, tmp_path / "uninterrupted")
    assert_equal(load(out, toy), load(tmp_path / "uninterrupted", toy))


@pytest.mark.usefixtures("torchvision_toy")
def test_interrupted_replacement_is_unfinished(
    toy: Dataset, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the arrays of a finished folder are replaced, its old manifest does not exist."""
    prepare(toy, "parquet", shards, tmp_path / "out")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_pieces", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(toy, "torchvision", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_unreadable_source_leaves_a_finished_folder_alone(toy: Dataset, shards: Path, tmp_path: Path) -> None:
    """A failing source leaves the prepared arrays unchanged."""
    prepare(toy, "parquet", shards, tmp_path / "out")
    with pytest.raises(CoopNetError):
        prepare(toy, "torchvision", None, tmp_path / "out")
    load(tmp_path / "out", toy)


def test_finished_folder_is_not_prepared_again(toy: Dataset, shards: Path, tmp_path: Path) -> None:
    """A second preparation needs no source and changes no file."""
    first = prepare(toy, "parquet", shards, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert prepare(toy, "parquet", tmp_path / "nowhere", tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def cut(path: Path) -> None:
    """Remove the end of a file."""
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    """Replace the content by an empty JSON mapping."""
    path.write_text("{}")


@pytest.mark.parametrize(
    ("name", "damage"),
    [(MANIFEST, damage) for damage in (Path.unlink, cut, empty)]
    + [(f"{split}.safetensors", damage) for split in SPLITS for damage in (Path.unlink, cut, flip)],
)
def test_damage_is_refused_and_mended(
    name: str, damage: Callable[[Path], None], toy: Dataset, shards: Path, tmp_path: Path
) -> None:
    """A missing or changed file is refused by `load`, with its name and the remedy, and the remedy works."""
    out = tmp_path / "out"
    prepare(toy, "parquet", shards, out)
    damage(out / name)
    with pytest.raises(CoopNetError, match="run `coopnet prepare toy`") as refused:
        load(out, toy)
    assert str(out / name) in str(refused.value)
    prepare(toy, "parquet", shards, out)
    load(out, toy)


@pytest.mark.parametrize("field", ["name", "classes", "counts", "digest"])
def test_folder_of_another_dataset_is_refused(field: str, toy: Dataset, shards: Path, tmp_path: Path) -> None:
    """Arrays that were prepared as another dataset, or with other pins, are not loaded."""
    prepare(toy, "parquet", shards, tmp_path / "out")
    other: dict[str, Any] = {"name": "other", "classes": 4, "counts": {"train": 1, "test": 1}, "digest": {}}
    with pytest.raises(CoopNetError, match=MANIFEST):
        load(tmp_path / "out", dataclasses.replace(toy, **{field: other[field]}))


# --- the datasets of the study --------------------------------------------------------------------------


def test_descriptions_need_only_the_standard_library() -> None:
    """The workflow imports the descriptions when it is parsed, so they import no numerical library."""
    heavy = "{'numpy', 'torch', 'pandas', 'PIL', 'pyarrow', 'sklearn'}"
    code = f"import sys, coopnet.data.datasets; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="session", params=sorted(DATASETS))
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Dataset, dict[str, Arrays]]]:
    """Each dataset of the study, prepared and loaded; the real CIFAR if `COOPNET_TEST_DATA` has it."""
    dataset, out = DATASETS[request.param], tmp_path_factory.mktemp(request.param)
    if dataset.sources[0] == "digits":
        prepare(dataset, "digits", None, out)
    else:
        root = Path(os.environ.get("COOPNET_TEST_DATA", "")) / dataset.name
        if "COOPNET_TEST_DATA" not in os.environ or not root.is_dir():
            pytest.skip(f"the shards of {dataset.name} are not there: COOPNET_TEST_DATA names no such folder")
        prepare(dataset, "parquet", root, out)
    yield dataset, load(out, dataset)
    for path in out.iterdir():
        path.unlink()  # pytest keeps temporary folders, and CIFAR takes 180 MB


def test_classes_are_stratified(prepared: tuple[Dataset, dict[str, Arrays]]) -> None:
    """Both splits have every class, in proportions that differ by less than one image."""
    dataset, arrays = prepared
    counts = {split: np.bincount(arrays[split].labels, minlength=dataset.classes) for split in SPLITS}
    share = dataset.counts["test"] / (dataset.counts["train"] + dataset.counts["test"])
    np.testing.assert_allclose(counts["test"], share * (counts["train"] + counts["test"]), rtol=0, atol=1)


def test_pinned_digest_is_the_one_of_the_definition(prepared: tuple[Dataset, dict[str, Arrays]]) -> None:
    """The pinned digests agree with a second implementation of docs/files.md."""
    dataset, arrays = prepared
    for split, (images, labels) in arrays.items():
        rows = sorted(bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True))
        digest = hashlib.sha256(b"".join(row[:1] for row in rows))
        for row in rows:
            digest.update(row[1:])
        assert digest.hexdigest() == dataset.digest[split]


def test_normalisation_is_that_of_the_training_images(prepared: tuple[Dataset, dict[str, Arrays]]) -> None:
    """Mean and standard deviation are the training set's, to the given digits."""
    dataset, arrays = prepared
    levels = np.arange(256) / 255
    for channel in range(3):
        weights = np.bincount(arrays["train"].images[..., channel].ravel(), minlength=256)
        mean = np.average(levels, weights=weights)
        std = np.sqrt(np.average((levels - mean) ** 2, weights=weights))
        assert dataset.mean[channel] == pytest.approx(mean, abs=5.1e-8)
        assert dataset.std[channel] == pytest.approx(std, abs=5.1e-8)


@pytest.mark.parametrize(("name", "times"), [("digits", 4), ("digits16", 2)])
def test_digits_are_those_of_scikit_learn(name: str, times: int) -> None:
    """Every digit of scikit-learn is in one split; its 0..16 grey levels can be recovered from each enlarged pixel."""
    from sklearn.datasets import load_digits

    splits = [read_digits(DATASETS[name], split, Path(), in_memory) for split in SPLITS]
    images = np.concatenate([arrays.images for arrays in splits])
    blocks = images.reshape(-1, 8, times, 8, times, 3)
    assert (blocks == blocks[:, :, :1, :, :1, :1]).all()
    recovered = np.rint(blocks[:, :, 0, :, 0, 0] / 255 * 16).astype(int)
    labels = np.concatenate([arrays.labels for arrays in splits])
    original = load_digits()
    expected = sorted(zip(original.target.tolist(), original.data.astype(int).tolist(), strict=True))
    assert sorted(zip(labels.tolist(), recovered.reshape(-1, 64).tolist(), strict=True)) == expected

"""The start of a run: the images of its row, and transfers that use images drawn by the run's own seed."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import ROOT
from coopnet import study
from coopnet.data.augment import Images
from coopnet.data.datasets import DATASETS
from coopnet.data.splits import split
from coopnet.networks.network import Architecture, build
from coopnet.networks.transfer import TrainedNetwork
from coopnet.runs import job, setup
from coopnet.runs.setup import load_splits, some_images
from coopnet.study import Run
from training_fixture import CPU, WIDTH, Silence, never

FULL = study.load(ROOT)


def run(experiment: str, seed: int = 0, **data: Any) -> Run:
    """A planned run of this project with a small network, 40 of 100 training images, and changed data settings."""
    planned = FULL.runs[experiment, 0]
    model = planned.row.model.model_copy(update={"depth": 8, "width": WIDTH})
    changed = planned.row.data.model_copy(update={"training_subset": 40, "validation": 20} | data)
    row = planned.row.model_copy(update={"model": model, "data": changed})
    return dataclasses.replace(planned, seed=seed, row=row)


def arrays(train: int = 100, test: int = 10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images and labels of 10 classes."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10)
        for name, count in (("train", train), ("test", test))
    }


def held(count: int) -> Images:
    """Images on the CPU, each with its own shade of grey."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 32, 32, 3))
    return Images(pixels, np.arange(count), [0.0] * 3, [1.0] * 3, CPU)


def greys(batches: Iterator[Tensor]) -> list[int]:
    """The indices of these images in `held`, in order."""
    return [round(255 * image[0, 0, 0].item()) for batch in batches for image in batch]


def test_images_of_a_transfer_are_drawn_by_seed() -> None:
    """The requested number of different images, the same for the same seed; all images without a number."""
    images = held(200)
    first, again, other = (greys(some_images(images, 50, seed)) for seed in (1, 1, 2))
    assert first == again
    assert len(set(first)) == 50
    assert len(set(first) & set(other)) < 40  # 12.5 on average
    assert first != sorted(first)
    everything = greys(some_images(images, None, 1))
    assert sorted(everything) == list(range(200))
    assert everything[:50] == first


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (4, [4]), (5, [3, 2]), (9, [3, 3, 3])])
def test_images_of_a_transfer_come_in_batches_of_about_equal_size(
    monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[int]
) -> None:
    """No batch is larger than the limit or much smaller than the others; a small last one would count too much."""
    monkeypatch.setattr(setup, "TRANSFER_BATCH", 4)
    assert [len(batch) for batch in some_images(held(count), None, 0)] == sizes


def test_a_merge_looks_at_images_of_its_own_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of a row use different training images, and the same seed uses the same ones at each pass."""
    chosen: list[Callable[[], Iterator[Tensor]]] = []

    def merge(parents: Any, *, images: Callable[[], Iterator[Tensor]], **options: Any) -> Any:
        chosen.append(images)
        return parents[0]

    monkeypatch.setattr(setup, "merge", merge)
    images = held(200)
    parents = [TrainedNetwork(build(Architecture("cifar_resnet", 8, "basic", WIDTH, 1, "none", 100), 0), {})] * 3
    for seed in (0, 1):
        planned = run("merge3_refit", seed)
        limited = planned.row.model_copy(update={"start": planned.row.start.model_copy(update={"images": 50})})
        setup.start(dataclasses.replace(planned, row=limited, transfer=None), parents, images)
    first, again, other = greys(chosen[0]()), greys(chosen[0]()), greys(chosen[1]())
    assert first == again
    assert len(first) == 50
    assert len(set(first) & set(other)) < 40


def test_splits_are_those_of_the_row() -> None:
    """Training and validation are disjoint parts of the training images, determined by the row's split seed."""
    found, source = load_splits(run("one3"), arrays(), CPU), arrays()
    data = run("one3").row.data
    chosen = split(source["train"][1], validation=20, subset=40, seed=data.split_seed)
    parts = {"training": chosen.training, "validation": chosen.validation}
    for name, indices in parts.items():
        assert torch.equal(found[name].padded[:, 4:36, 4:36], torch.from_numpy(source["train"][0][indices])), name
        assert found[name].labels.tolist() == source["train"][1][indices].tolist()
    assert torch.equal(found["test"].padded[:, 4:36, 4:36], torch.from_numpy(source["test"][0]))
    assert load_splits(run("one3", validation=0), arrays(), CPU).keys() == {"training", "test"}


@pytest.mark.parametrize("kind", ["dataset", "lan2018"])
def test_images_are_normalised_as_the_row_says(kind: str) -> None:
    """White is (1 − mean) / std with the row's constants, in every split."""
    white = {name: (np.full_like(images, 255), labels) for name, (images, labels) in arrays().items()}
    planned = run("one3", normalization=kind)
    constants = {
        "dataset": DATASETS[planned.row.data.dataset],
        "lan2018": type("Lan", (), {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}),
    }[kind]
    expected = (1 - torch.tensor(constants.mean)) / torch.tensor(constants.std)
    for images in load_splits(planned, white, CPU).values():
        torch.testing.assert_close(images.plain(torch.tensor([0]))[0, :, 5, 5], expected)


@pytest.mark.parametrize(("augmentation", "augment"), [("crop_flip", True), ("none", False)])
def test_a_row_without_augmentation_is_trained_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, augmentation: str, augment: bool
) -> None:
    """The row's augmentation is passed to the training."""
    asked: list[bool] = []

    class Enough(Exception):
        """Ends the test before any training."""

    def train(task: Any, *others: Any) -> None:
        asked.append(task.augment)
        raise Enough

    monkeypatch.setattr(job, "train", train)
    with pytest.raises(Enough):
        job.produce(
            run("one3", augmentation=augmentation),
            arrays=arrays(),
            ancestors=[],
            device_kind="cpu",
            folder=tmp_path,
            progress=Silence(),
            stop=never,
        )
    assert asked == [augment]

"""The input of a network: images are normalised with the right constants, padded with black, cropped and mirrored."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from coopnet.data.augment import Images, draw_epoch
from coopnet.data.datasets import DATASETS
from coopnet.data.normalization import normalization

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """300 images whose channels have different means and standard deviations, like those of photographs."""
    generator = np.random.default_rng(0)
    noise = generator.normal([60, 120, 180], [10, 20, 30], (300, 32, 32, 3))
    return noise.clip(0, 255).astype(np.uint8)


def held(pixels: np.ndarray, constants: dict[str, list[float]]) -> Images:
    """These images on the CPU; the label of an image is its index."""
    return Images(pixels, np.arange(len(pixels)), constants["mean"], constants["std"], CPU)


def test_constants_of_a_dataset_give_every_channel_mean_0_and_deviation_1(pixels: np.ndarray) -> None:
    """The constants are in the order of the channels, red first: no channel uses those of another one."""
    share = pixels.reshape(-1, 3) / 255
    mean, std = share.mean(axis=0), share.std(axis=0)
    dataset = dataclasses.replace(DATASETS["cifar100"], mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    seen = held(pixels, normalization(dataset, "dataset")).plain(torch.arange(300))
    torch.testing.assert_close(seen.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.var(dim=(0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits"])
def test_constants_are_those_of_the_dataset_or_of_the_published_code(name: str) -> None:
    """`dataset` uses each dataset's own constants; `lan2018` uses the published ones for every dataset."""
    dataset = DATASETS[name]
    assert normalization(dataset, "dataset") == {"mean": list(dataset.mean), "std": list(dataset.std)}
    published = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
    assert normalization(dataset, "lan2018") == published


def windows(pixels: np.ndarray, index: int, top: int, left: int, flip: bool) -> np.ndarray:
    """Image `index`, cropped with NumPy from its black frame of 4 pixels, [32, 32, 3]."""
    frame = np.zeros((40, 40, 3), np.uint8)
    frame[4:36, 4:36] = pixels[index]
    window = frame[top : top + 32, left : left + 32]
    return window[:, ::-1] if flip else window


@pytest.mark.parametrize(("top", "left", "flip"), [(0, 8, True), (5, 2, False), (4, 4, True), (8, 0, False)])
def test_augmented_image_is_a_window_of_the_padded_one(pixels: np.ndarray, top: int, left: int, flip: bool) -> None:
    """Rows from `top`, columns from `left`, mirrored left to right if drawn, and normalised afterwards."""
    constants = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 0.125]}
    images = held(pixels, constants)
    draws = torch.tensor([7, 3]), torch.tensor([[top, left], [4, 4]]), torch.tensor([flip, False])
    expected = np.stack([windows(pixels, 7, top, left, flip), pixels[3]]) / 255
    expected = (expected - constants["mean"]) / constants["std"]
    made = images.augmented(*draws)
    np.testing.assert_allclose(made.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert torch.equal(images.plain(draws[0])[1], made[1])
    assert made.is_contiguous(memory_format=torch.channels_last)


def differing(draws: list[Tensor]) -> bool:
    """Whether all of these are different."""
    return all(not torch.equal(one, other) for i, one in enumerate(draws) for other in draws[:i])


@pytest.mark.parametrize("part", ["order", "offsets", "flips"])
def test_draws_depend_on_seed_and_epoch_and_on_nothing_else(part: str) -> None:
    """The same seed and epoch give the same draws; other seeds and other epochs give different ones."""
    torch.manual_seed(1)
    first = getattr(draw_epoch(200, 3, 5, CPU), part)
    torch.manual_seed(2)
    assert torch.equal(first, getattr(draw_epoch(200, 3, 5, CPU), part))
    assert differing([first, *(getattr(draw_epoch(200, *other, CPU), part) for other in ((3, 6), (4, 5), (5, 3)))])


def test_draws_are_pinned() -> None:
    """The draws of a seed never change: otherwise earlier results would be stale without a change of key."""
    draws = draw_epoch(5, 3, 7, CPU)
    assert draws.order.tolist() == [1, 4, 0, 2, 3]
    assert draws.offsets.tolist() == [[5, 3], [5, 3], [6, 2], [1, 3], [8, 1]]
    assert draws.flips.tolist() == [False, True, True, True, False]


def test_draws_are_uniform() -> None:
    """Rows and columns are independent, each of the 9 × 9 crops is about equally frequent, and half are mirrored."""
    draws = draw_epoch(81_000, 0, 0, CPU)
    assert torch.equal(draws.order.sort().values, torch.arange(81_000))
    crops = torch.bincount(9 * draws.offsets[:, 0] + draws.offsets[:, 1], minlength=81)
    assert len(crops) == 81
    assert ((crops > 800) & (crops < 1200)).all()
    assert draws.flips.dtype == torch.bool
    assert abs(draws.flips.float().mean() - 0.5) < 0.01


def test_split_has_a_label_for_every_image(pixels: np.ndarray) -> None:
    """Labels stay with their images, as integers for the loss; the length is the number of images."""
    images = Images(pixels, np.arange(300).astype(np.uint16)[::-1], [0.5] * 3, [0.25] * 3, CPU)
    assert len(images) == 300
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == list(range(299, -1, -1))

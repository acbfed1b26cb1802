"""Images on a device: stored once as bytes, and cropped, flipped and normalised there in whole batches.

Images that do not fit on the device stay in memory, or in their memory-mapped file, and are moved batch by batch. The
bits are the same in both cases.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coopnet import files
from coopnet.data.seeding import derive

PADDING = 4
"""Black pixels around an image of 32×32, as published; in proportion for other sizes."""


def padding(size: int) -> int:
    """Black pixels on each side of an image of that size: an eighth of the size. A crop may contain all of them."""
    return PADDING * size // 32


class Draws(NamedTuple):
    """All random numbers of one epoch over N images, drawn before it begins.

    They depend on seed and epoch only, so an interrupted epoch continues with the same draws, and no state of a random
    generator has to be saved.
    """

    order: Tensor  # [N] indices of images
    offsets: Tensor  # [N, 2] upper left corner of each crop, 0 to twice the padding
    flips: Tensor  # [N] whether an image is mirrored


def draw_epoch(images: int, seed: int, epoch: int, device: torch.device, padded: int = PADDING) -> Draws:
    """Draw an epoch on the CPU, so that every device uses the same numbers, and move it to the device at once.

    `padded` are the pixels around each image (`padding`).
    """
    generator = torch.Generator().manual_seed(derive(seed, "epoch", epoch))
    order = torch.randperm(images, generator=generator)
    offsets = torch.randint(0, 2 * padded + 1, (images, 2), generator=generator)
    flips = torch.randint(0, 2, (images,), generator=generator).bool()
    return Draws(order.to(device), offsets.to(device), flips.to(device))


class Images:
    """A split with its labels on a device; its images are on the device too, or are moved there batch by batch.

    Attributes:
        padded: uint8 [N, S + 2p, S + 2p, 3], the images with `padding` p; None if they are not on the device.
        labels: int64 [N].
    """

    padded: Tensor | None

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        *,
        chosen: np.ndarray | None = None,
        resident: bool = True,
    ):
        """Move a split to a device.

        Args:
            images: uint8 [M, S, S, 3], in memory or memory-mapped.
            labels: [M] class indices.
            mean: of each channel, in units of the full range.
            std: of each channel, in units of the full range.
            device: the device of the split.
            chosen: [N] indices of the images in the split; all of them by default.
            resident: whether all images are stored on the device.
        """
        self.source, self.chosen = images, chosen
        labels = labels if chosen is None else labels[chosen]
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self.scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32, device=device))
        self.shift = -torch.tensor(mean, device=device) / torch.tensor(std, device=device)
        self.span = torch.arange(images.shape[1], device=device)
        self.padded = None
        if resident:
            self.padded = self._pad(
                torch.from_numpy(np.array(images, order="C") if chosen is None else images[chosen]).to(device)
            )
            self.source = images[:0]  # images on the device are not kept in memory as well

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def padding(self) -> int:
        """Black pixels on each side of an image."""
        return padding(len(self.span))

    def augmented(self, indices: Tensor, offsets: Tensor, flips: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Randomly cropped and flipped, normalised images [n, 3, S, S] in channels-last order.

        As published: padding with zeros (black), a random crop of the original size, a horizontal flip with
        probability 1/2.

        Args:
            indices: [n] of the images, on the device.
            offsets: [n, 2], from `Draws`.
            flips: [n], from `Draws`.
            pixels: the result of `fetched` for these indices, if available.
        """
        columns = torch.where(flips[:, None], self.span.flip(0), self.span)
        padded, places = self.padded, indices
        if padded is None:
            padded, places = self._pad(self._pixels(indices, pixels)), self._all(indices)
        return self._crop(padded, places, offsets[:, :1] + self.span, offsets[:, 1:] + columns)

    def plain(self, indices: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Normalised images [n, 3, S, S] in channels-last order, without augmentation; `pixels` as in `augmented`."""
        padded, places, first = self.padded, indices, self.padding
        if padded is None:
            padded, places, first = self._pixels(indices, pixels), self._all(indices), 0
        centre = (first + self.span).expand(len(indices), -1)
        return self._crop(padded, places, centre, centre)

    def fetched(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """For each batch of indices the extra arguments of `augmented` or `plain`: none for images on the device.

        Otherwise the pixels of the batch, uint8 [n, S, S, 3] on the device, while those of the next batch are read.
        The indices should then be on the CPU, since reading them from a GPU waits for it.
        """
        if self.padded is not None:
            for _ in batches:
                yield ()
            return
        with ThreadPoolExecutor(1) as pool:
            waiting: Future[Tensor] | None = None
            for indices in batches:
                coming = pool.submit(self._collected, indices)
                if waiting is not None:
                    yield (self._moved(waiting.result()),)
                waiting = coming
            if waiting is not None:
                yield (self._moved(waiting.result()),)

    def _pixels(self, indices: Tensor, fetched: Tensor | None) -> Tensor:
        return self._moved(self._collected(indices)) if fetched is None else fetched

    def _collected(self, indices: Tensor) -> Tensor:
        """Read the pixels of some images into memory."""
        places = indices.cpu().numpy()
        rows = places if self.chosen is None else self.chosen[places]
        files.read_ahead(self.source, rows)
        return torch.from_numpy(self.source[rows])

    def _moved(self, pixels: Tensor) -> Tensor:
        """Move pixels to the device."""
        if self.labels.device.type == "cuda":
            return pixels.pin_memory().to(self.labels.device, non_blocking=True)
        return pixels.to(self.labels.device)

    def _all(self, indices: Tensor) -> Tensor:
        return torch.arange(len(indices), device=self.labels.device)

    def _pad(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.pad(pixels, (0, 0, *[self.padding] * 4))

    def _crop(self, padded: Tensor, places: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        pixels = padded[places[:, None, None], rows[:, :, None], columns[:, None, :]]
        # PyTorch calls [n, S, S, 3] in memory channels-last once the axes are permuted.
        return (pixels.float() * self.scale + self.shift).permute(0, 3, 1, 2)

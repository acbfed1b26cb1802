"""Images on a device: stored once as bytes, cropped, flipped and normalised there in whole batches."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coopnet.data.seeding import derive

PADDING = 4


class Draws(NamedTuple):
    """All randomness of one epoch over N images, drawn before it begins.

    Because it is a function of seed and epoch alone, an interrupted epoch continues with the same draws, and no state
    of a random generator has to be kept.
    """

    order: Tensor  # [N] indices of images
    offsets: Tensor  # [N, 2] upper left corner of each crop, 0 to 8
    flips: Tensor  # [N] whether an image is mirrored


def draw_epoch(images: int, seed: int, epoch: int, device: torch.device) -> Draws:
    """Draw an epoch on the CPU, so that every device sees the same, and move it over in one go."""
    generator = torch.Generator().manual_seed(derive(seed, "epoch", epoch))
    order = torch.randperm(images, generator=generator)
    offsets = torch.randint(0, 2 * PADDING + 1, (images, 2), generator=generator)
    flips = torch.randint(0, 2, (images,), generator=generator).bool()
    return Draws(order.to(device), offsets.to(device), flips.to(device))


class Images:
    """A split on a device, zero-padded by 4 pixels once: uint8 [N, 40, 40, 3] and labels [N]."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ):
        """Move a split to a device.

        Args:
            images: uint8 [N, 32, 32, 3].
            labels: [N] class indices.
            mean: of each channel, in units of the full range.
            std: of each channel, likewise.
            device: where the split lives from now on.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        self.padded = torch.nn.functional.pad(pixels, (0, 0, PADDING, PADDING, PADDING, PADDING))
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self.scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32, device=device))
        self.shift = -torch.tensor(mean, device=device) / torch.tensor(std, device=device)
        self.span = torch.arange(images.shape[1], device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def augmented(self, indices: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
        """Randomly cropped and flipped, normalised images [n, 3, 32, 32] in channels-last order.

        As published: padding with zeros (black), a random 32×32 crop, a horizontal flip with probability 1/2.
        """
        columns = torch.where(flips[:, None], self.span.flip(0), self.span)
        return self._crop(indices, offsets[:, :1] + self.span, offsets[:, 1:] + columns)

    def plain(self, indices: Tensor) -> Tensor:
        """Normalised images [n, 3, 32, 32] in channels-last order, as they are."""
        centre = (PADDING + self.span).expand(len(indices), -1)
        return self._crop(indices, centre, centre)

    def _crop(self, indices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        pixels = self.padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        # [n, 32, 32, 3] in memory is what PyTorch calls channels-last once the axes are renamed.
        return (pixels.float() * self.scale + self.shift).permute(0, 3, 1, 2)

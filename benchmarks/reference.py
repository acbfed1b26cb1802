"""The loop with which ours is compared: PyTorch as it is commonly written, and as the published ONE code writes it.

In common with github.com/Lan1991Xu/ONE_NeurIPS2018 (`cifar_one.py`): images are decoded, cropped, flipped and
normalised one by one by torchvision in a `DataLoader` with 4 workers; float32 in the default memory layout; one call of
the criterion per branch; meters are read on the host in every step; test images in batches of 100 by the same loop;
cuDNN chooses its algorithms freely. It has the published loss, which is also ours, and starts from the same network, so
that the curves can be compared. It has no progress bar and no checkpoint.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from coopnet.networks.loss import rampup
from coopnet.networks.network import CooperativeNetwork, Outputs
from coopnet.study.settings import SGD, OnTheFly, Training
from coopnet.training.trainer import Progress, Row

WORKERS = 4
TEST_BATCH = 100


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images in memory, converted to tensors one by one as in torchvision's CIFAR classes."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Image.Image], Tensor]):
        """Store uint8 images [N, 32, 32, 3], labels [N], and the transform of an image to a tensor."""
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def transform(mean: Sequence[float], std: Sequence[float], augment: bool) -> Callable[[Image.Image], Tensor]:
    """The published transforms of training images (`augment`) and of test images."""
    drawn = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if augment else []
    composed: Callable[[Image.Image], Tensor] = transforms.Compose(
        [*drawn, transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    return composed


class AverageMeter:
    """A mean over images, kept on the host."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, value: float, n: int) -> None:
        """Add the mean of `n` images."""
        self.sum += value * n
        self.count += n

    @property
    def average(self) -> float:
        """The mean so far."""
        return self.sum / self.count


def accuracy(logits: Tensor, labels: Tensor, top: Sequence[int] = (1, 5)) -> list[float]:
    """Percentage of images whose true class is among the first k, for each k; logits [N, C], labels [N]."""
    best = logits.topk(max(top), dim=1).indices
    correct = best == labels.unsqueeze(1)
    return [100 * correct[:, :k].any(dim=1).float().mean().item() for k in top]


def objective(
    outputs: Outputs, ensemble: Tensor, labels: Tensor, gated: bool, temperature: float, weight: float
) -> Tensor:
    """Σ CE(branch) + CE(ensemble) + r·T²·Σ KL(ensemble ‖ branch), with one call of the criterion per term."""
    cross_entropy, divergence = nn.CrossEntropyLoss(), nn.KLDivLoss(reduction="batchmean")
    branches = outputs.branches.unbind(dim=1)
    total = torch.stack([cross_entropy(branch, labels) for branch in branches]).sum()
    if not gated:
        return total
    total = total + cross_entropy(ensemble, labels)
    for branch in branches if weight else ():
        students = F.log_softmax(branch / temperature, dim=1)
        teacher = F.softmax(ensemble.detach() / temperature, dim=1)
        total = total + weight * temperature**2 * divergence(students, teacher)
    return total


class Meters:
    """Loss, and top-1 and top-5 of each branch and of the ensemble, read in every step."""

    def __init__(self, branches: int):
        names = [f"branch{b + 1}" for b in range(branches)] + ["ensemble"]
        self.loss = AverageMeter()
        self.hits = {(k, name): AverageMeter() for k in (1, 5) for name in names}

    def update(self, outputs: Outputs, ensemble: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Add a batch."""
        self.loss.update(loss.item(), len(labels))
        named = {f"branch{b + 1}": branch for b, branch in enumerate(outputs.branches.unbind(dim=1))}
        for name, logits in (named | {"ensemble": ensemble}).items():
            for k, value in zip((1, 5), accuracy(logits.detach(), labels), strict=True):
                self.hits[k, name].update(value, len(labels))

    def row(self, prefix: str) -> Row:
        """Means under the names of the history's columns."""
        hits = {f"{prefix}_top{k}_{name}": meter.average for (k, name), meter in self.hits.items()}
        return {f"{prefix}_loss": self.loss.average} | hits


def _no_lap(part: str) -> None:
    """No timing."""


class Loop:
    """A network, its optimiser and its loss.

    Args:
        network: on its device, built by `coopnet.networks.network.build`.
        training: its settings, except `precision`.
        lap: called when a part of a step is done: `data`, `forward`, `metrics`, `backward`, `optimiser`.
    """

    def __init__(self, network: CooperativeNetwork, training: Training, lap: Callable[[str], None] = _no_lap):
        options, distillation = training.optimizer, training.distillation
        assert isinstance(options, SGD), "the published code trains with SGD only"
        self.network, self.training, self.lap = network, training, lap
        self.device = next(network.parameters()).device
        self.gated = network.architecture.gate != "none"
        self.distillation = distillation if isinstance(distillation, OnTheFly) else None
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            lr=options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.nesterov,
        )

    def loss(self, outputs: Outputs, ensemble: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """The loss in an epoch."""
        if self.distillation is None:
            return objective(outputs, ensemble, labels, self.gated, 1.0, 0.0)
        weight = rampup(epoch, self.distillation.rampup)
        return objective(outputs, ensemble, labels, self.gated, self.distillation.temperature, weight)

    def train(self, loader: DataLoader[tuple[Tensor, int]], epoch: int, progress: Progress) -> Row:
        """Train one epoch."""
        self.network.train()
        meters = Meters(self.network.architecture.branches)
        for batch in loader:
            images, labels = (tensor.to(self.device) for tensor in batch)
            self.lap("data")
            outputs = self.network(images)
            ensemble = outputs.ensemble
            loss = self.loss(outputs, ensemble, labels, epoch)
            self.lap("forward")
            meters.update(outputs, ensemble, labels, loss)
            self.lap("metrics")
            self.optimizer.zero_grad()
            loss.backward()
            self.lap("backward")
            self.optimizer.step()
            self.lap("optimiser")
            progress.advance(len(labels))
        return meters.row("train")

    @torch.no_grad()
    def evaluate(self, loader: DataLoader[tuple[Tensor, int]], epoch: int) -> Row:
        """Loss and accuracies on test images."""
        self.network.eval()
        meters = Meters(self.network.architecture.branches)
        for batch in loader:
            images, labels = (tensor.to(self.device) for tensor in batch)
            outputs = self.network(images)
            ensemble = outputs.ensemble
            meters.update(outputs, ensemble, labels, self.loss(outputs, ensemble, labels, epoch))
        return meters.row("test")


def train(
    network: CooperativeNetwork,
    training: Training,
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]],
    constants: Mapping[str, Sequence[float]],
    *,
    augment: bool,
    seed: int,
    progress: Progress,
    lap: Callable[[str], None] = _no_lap,
) -> list[Row]:
    """Train a network to its last epoch.

    Args:
        network: the initial network, on the device to train on.
        training: the settings, with SGD.
        arrays: uint8 images [N, 32, 32, 3] and labels [N] of `train` and, for evaluation, `test`.
        constants: `mean` and `std` of the normalisation.
        augment: whether training images are cropped and flipped.
        seed: of PyTorch's global generator, which determines order and augmentation.
        progress: receives every batch and epoch.
        lap: as in `Loop`.

    Returns:
        One row per epoch, with columns as in our history; test columns only in the epochs of `test_every`.
    """
    torch.manual_seed(seed)
    loop = Loop(network, training, lap)
    mean, std = constants["mean"], constants["std"]
    pictures = {
        name: Pictures(*arrays[name], transform(mean, std, augment and name == "train")) for name in sorted(arrays)
    }
    # With fewer than 4 cores PyTorch advises fewer workers; the published number is kept here.
    warnings.filterwarnings("ignore", "This DataLoader will create")
    loader = DataLoader(pictures["train"], batch_size=training.batch_size, shuffle=True, num_workers=WORKERS)
    schedule = training.schedule
    decay = torch.optim.lr_scheduler.MultiStepLR(loop.optimizer, schedule.milestones, schedule.gamma)
    history = []
    for epoch in range(training.epochs):
        row: Row = {"epoch": epoch}
        progress.begin(epoch, training.epochs, len(pictures["train"]), 0)
        row |= loop.train(loader, epoch, progress)
        if "test" in pictures and ((epoch + 1) % training.test_every == 0 or epoch + 1 == training.epochs):
            row |= loop.evaluate(DataLoader(pictures["test"], batch_size=TEST_BATCH, num_workers=WORKERS), epoch)
        decay.step()
        history.append(row)
        progress.end(row, {})
    return history

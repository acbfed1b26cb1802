"""The architecture of a row of the study."""

from typing import TYPE_CHECKING

from coopnet.data.datasets import Dataset
from coopnet.networks.network import Architecture
from coopnet.study.settings import Model

if TYPE_CHECKING:
    from coopnet.networks.backbone import Backbone


def architecture_of(model: Model, dataset: Dataset) -> "Architecture | Backbone":
    """The network of a row for the images of a dataset.

    Raises:
        CoopNetError: a library is not installed, has no such model, or its model cannot be split there or does not
            accept images of that size.
    """
    if not model.wrapped:
        return Architecture(**model.model_dump(), classes=dataset.classes)
    from coopnet.networks.backbone import library_backbone  # torch.fx, timm and torchvision take seconds

    return library_backbone(**model.model_dump(), classes=dataset.classes, size=dataset.size)

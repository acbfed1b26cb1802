"""The datasets of the study and all that is fixed about them.

Imported while the workflow is parsed, so this module needs nothing but the standard library.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Dataset:
    """A labelled set of 32×32 RGB images, split into `train` and `test`.

    Attributes:
        name: what it is called in `params.yaml` and on the command line.
        classes: number of classes C; labels are 0 to C-1.
        counts: images per split.
        digest: pinned content digest per split (`canonical.content_digest`), the same whatever the source.
        mean: mean per RGB channel over the training images, pixels in 0..1.
        std: standard deviation per RGB channel over the training images (divided by N), pixels in 0..1.
        sources: names of the sources it can be read from (`sources.SOURCES`).
        default_source: the one taken unless another is asked for.
        label_column: column of the labels in Parquet shards.
        archive_size: bytes of the official archive (`official.py`), of which torchvision knows all but this.
    """

    name: str
    classes: int
    counts: Mapping[str, int]
    digest: Mapping[str, str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sources: tuple[str, ...]
    default_source: str
    label_column: str = "label"
    archive_size: int = 0


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="digits",
            classes=10,
            counts={"train": 1_442, "test": 355},
            digest={
                "train": "566e7018dcf697bbe7df2d27844c4234e48209afdcb738ae4595ee70158c5db6",
                "test": "fe503ab22e41354324e5d619390c30d70c35d6465bf0dc00c38e77d9aa19c27e",
            },
            mean=(0.3051831, 0.3051831, 0.3051831),
            std=(0.3759941, 0.3759941, 0.3759941),
            sources=("digits",),
            default_source="digits",
        ),
        Dataset(
            name="cifar10",
            classes=10,
            counts={"train": 50_000, "test": 10_000},
            digest={
                "train": "02068215661ffcd386a99933df0a6b4ba40fb4bcd248d14a64e8528543d82d6c",
                "test": "97e8d5a22923b0f7270d87e426b6ccbf4991e55de199fb18316f20c8cf3d58b6",
            },
            mean=(0.4913997, 0.4821584, 0.4465309),
            std=(0.2470322, 0.2434851, 0.2615878),
            sources=("torchvision", "parquet"),
            default_source="torchvision",
            archive_size=170_498_071,
        ),
        Dataset(
            name="cifar100",
            classes=100,
            counts={"train": 50_000, "test": 10_000},
            digest={
                "train": "85822fe51982feb685a4499fe084e0d97e11432ff36597052603cf6801296166",
                "test": "6276aaaf756417c88296889e79c895197bd0a664f0ffb6c3269d0a42e371f9c9",
            },
            mean=(0.5070752, 0.4865489, 0.4409178),
            std=(0.2673343, 0.2564385, 0.2761505),
            sources=("torchvision", "parquet"),
            default_source="torchvision",
            label_column="fine_label",
            archive_size=169_001_437,
        ),
    )
}

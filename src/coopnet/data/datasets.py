"""The project's own datasets and their fixed facts; datasets of `params.yaml` have the same form.

This module is imported while the workflow is parsed, so it needs only the standard library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

SPLITS = ("train", "test")
USUAL_SIZE = 32
"""Default side of an image, in pixels."""


@dataclass(frozen=True)
class Dataset:
    """A labelled set of square RGB images, split into `train` and `test`.

    Attributes:
        name: its name in `params.yaml` and on the command line.
        classes: number of classes C; labels are 0 to C-1.
        counts: images per split.
        digest: pinned content digest per split (`canonical.content_digest`), the same for every source. Empty: not
            pinned yet, so nothing can be trained on it.
        mean: mean per RGB channel over the training images, pixels in 0..1.
        std: standard deviation per RGB channel over the training images (divided by N), pixels in 0..1.
        sources: names of the sources it can be read from (`sources.SOURCES`); the first is used if none is given.
        label_column: column of the labels in Parquet shards.
        archive_size: bytes of the official archive (`official.py`); torchvision has all its other facts.
        size: pixels of each side.
        class_names: in the order of the labels; for a user's own data they are in the prepared folder.
        measured: whether `coopnet prepare` measures digests and constants, which are then pinned in `params.yaml`.
        path: folder of the images; only for a user's own data.
        held_back: for a user's own data in one tree: the fraction of the images that become the test images; 0: the
            data has test images.
        split_seed: of that choice.
    """

    name: str
    classes: int
    counts: Mapping[str, int]
    digest: Mapping[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sources: tuple[str, ...]
    label_column: str = "label"
    archive_size: int = 0
    size: int = USUAL_SIZE
    class_names: tuple[str, ...] = ()
    measured: bool = False
    path: str = ""
    held_back: float = 0.0
    split_seed: int = 0

    def facts(self) -> dict[str, Any]:
        """The entries of a run's record about its data."""
        return {"dataset": self.name, "digest": self.digest} | ({"size": self.size} if self.measured else {})

    @property
    def own(self) -> bool:
        """Whether it is a user's own dataset, described only by `params.yaml`."""
        return bool(self.path)


def side(data: Mapping[str, Any]) -> int:
    """Pixels of each side of the images.

    Args:
        data: of a run's record; without a size or a known dataset the usual size is meant.
    """
    known = DATASETS.get(str(data.get("dataset")))
    return int(data.get("size") or (known.size if known else USUAL_SIZE))


def class_names(data: Mapping[str, Any]) -> list[str]:
    """The class names, in the order of their labels.

    Args:
        data: the entry `data` of a run's record.
    """
    known = DATASETS.get(str(data.get("dataset")))
    names: Sequence[str] = data.get("class_names") or (known.class_names if known else ())
    return list(names)


_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house "
    "kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark "
    "shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table "
    "tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)

_DIGITS = Dataset(
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
    class_names=tuple("0123456789"),
)

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        _DIGITS,
        replace(  # the same images, smaller: the demo takes half the time
            _DIGITS,
            name="digits16",
            size=16,
            digest={
                "train": "0f0f98b483f9672c7cd61c72b50db56c09cfe6ed63aef9164f0f2aa0870ee14a",
                "test": "82917dd65889e000f3d6b42e241cd76a9ef06e93a62740d1d4a770872ddb704d",
            },
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
            archive_size=170_498_071,
            class_names=tuple(_CIFAR10.split()),
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
            label_column="fine_label",
            archive_size=169_001_437,
            class_names=tuple(_CIFAR100.split()),
        ),
        # Its digests were never pinned, because it could not be downloaded where this was written. `coopnet prepare
        # svhn` reads the official files, whose MD5 sums are known, and prints the line to pin in params.yaml.
        Dataset(
            name="svhn",
            classes=10,
            counts={"train": 73_257, "test": 26_032},
            digest={},
            mean=(),
            std=(),
            sources=("matlab", "parquet"),
            class_names=_DIGITS.class_names,
            measured=True,
        ),
    )
}

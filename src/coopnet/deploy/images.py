"""Prepared images of a workspace, for commands about networks outside of a study."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from coopnet import study
from coopnet.data import canonical
from coopnet.deploy import preprocessing
from coopnet.deploy.export import Labelled
from coopnet.library.receipt import BATCH
from coopnet.library.saved import Saved
from coopnet.runs.workspace import Workspace


def labelled(workspace: Workspace, name: str, split: str = "test") -> Labelled:
    """The images of a dataset by its name.

    Raises:
        CoopNetError: there is no such dataset, or it is not prepared.
    """
    dataset = study.dataset(workspace.root, name)
    folder = workspace.prepared(dataset.name)
    arrays = canonical.load(folder, dataset)[split]
    return Labelled(arrays.images, arrays.labels, dataset.name, tuple(canonical.class_names(folder, dataset)))


def of_record(
    workspace: Workspace, record: Mapping[str, Any], asked: str | None, split: str = "test"
) -> Labelled | None:
    """The images of the requested dataset, or else of the dataset in a record; None if that one is not prepared here.

    Raises:
        CoopNetError: the requested dataset is not prepared here.
    """
    if asked is not None:
        return labelled(workspace, asked, split)
    name = (record.get("data") or {}).get("dataset")
    if name is None or name not in study.datasets(workspace.root):
        return None
    if not (workspace.prepared(name) / canonical.MANIFEST).is_file():
        return None
    return labelled(workspace, name, split)


def normalised(one: Saved, images: np.ndarray) -> Iterable[Tensor]:
    """Images, normalised as the network was trained, batch by batch."""
    known = preprocessing.of_record(one.network, one.record)
    for some in np.array_split(images, max(1, math.ceil(len(images) / BATCH))):  # none of a single image
        yield known.normalised(some)


@contextmanager
def progress(what: str, total: int) -> Iterator[Any]:
    """A progress bar on a terminal; yields a function that is called with the size of each finished part."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)

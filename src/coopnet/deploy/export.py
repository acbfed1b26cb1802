"""Exporting one branch, some branches or the ensemble of a network for use without this project."""

import contextlib
import copy
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from coopnet import files
from coopnet.deploy import card, models, preprocessing
from coopnet.deploy.models import Model
from coopnet.deploy.preprocessing import Preprocessing, Whole
from coopnet.files.errors import CoopNetError
from coopnet.library import parts, saved
from coopnet.library.checks import check_network
from coopnet.networks.backbone import OWN
from coopnet.networks.flops import flops_of
from coopnet.networks.network import CooperativeNetwork

FORMATS = ("onnx", "pt2", "safetensors")
TOLERANCE = 1e-4
"""Largest allowed difference between the logits of a network and its export, relative to its largest logit (≥ 1)."""

RANDOM_IMAGES = 16
CARD = "README.md"


class Labelled(NamedTuple):
    """Images uint8 [N, H, W, 3], labels [N], the name of their dataset, and those of its classes if known."""

    images: np.ndarray
    labels: np.ndarray
    dataset: str
    class_names: tuple[str, ...] = ()


def export(
    network: CooperativeNetwork,
    folder: str | os.PathLike[str],
    *,
    preprocessing: Mapping[str, Sequence[float]],
    branches: Sequence[int] | None = None,
    format: str = "onnx",
    with_preprocessing: bool = False,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    name: str = "network",
    dataset: str | None = None,
    test: tuple[np.ndarray, np.ndarray] | None = None,
) -> Model:
    """Export one branch, some, or the ensemble of a network for use without this project: `coopnet export` in Python.

    The folder gets the model, `preprocessing.json` and a model card, or nothing after an error. Before that the export
    is read back, and its logits are compared with those of the network.

    Args:
        network: on any device; not changed. A network around your own model can be exported only with this function,
            since the command could not build the model.
        folder: must not exist yet, or be empty.
        preprocessing: `mean` and `std` per channel of its training images, pixels in 0..1.
        branches: numbered from 1: one branch, or several with their gate; by default the whole ensemble.
        format: `onnx`, `pt2` (torch.export) or `safetensors` (a network for `load`; for a network around your own model
            use `save`).
        with_preprocessing: whether normalisation is part of the graph; the model then takes uint8 [N, H, W, 3].
        class_names: one name per class, in order; numbers by default.
        image_size: pixels of each side, for networks that accept any size; by default that of `example` of a wrapped
            network, or of a known `dataset`, and 32 otherwise.
        name: name of the network in the model card.
        dataset: name of the data in the model card.
        test: test images uint8 [N, H, W, 3] of that size and their labels [N], for the accuracy in the model card.

    Returns:
        The exported model, read back, for `predict`.

    Raises:
        CoopNetError: an unknown format, no such branch, names or constants or images that do not fit the network, a
            folder that is not empty, a library that is not installed, or an export whose logits differ from those of
            the network.
    """
    check_network(network)
    if format == "safetensors" and getattr(network.architecture, "family", None) == OWN:
        raise CoopNetError(
            "a network around a model of your own can be saved with coopnet.save; export it as onnx or pt2"
        )
    facts = {} if dataset is None else {"data": {"dataset": dataset}}
    record = saved.described(network, preprocessing, class_names, saved.sized(facts, image_size))
    source = saved.Saved(copy.deepcopy(network).cpu().eval(), {}, record)
    return write(
        source,
        Path(folder),
        name=name,
        branches=branches,
        form=format,
        with_preprocessing=with_preprocessing,
        test=None if test is None else _labelled(*test, network.architecture.classes, dataset or "its data"),
    )


def _labelled(images: np.ndarray, labels: np.ndarray, classes: int, dataset: str) -> Labelled:
    images, labels = np.asarray(images), np.asarray(labels)
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3 and len(images)
    if not fits or labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise CoopNetError(
            f"test must be images uint8 [N, H, W, 3] and integer labels [N], not {images.dtype} {list(images.shape)} "
            f"and {labels.dtype} {list(labels.shape)}"
        )
    if not 0 <= labels.min() <= labels.max() < classes:
        raise CoopNetError(f"labels {labels.min()} to {labels.max()} are not those of {classes} classes")
    return Labelled(images, labels, dataset)


def write(
    source: saved.Saved,
    out: Path,
    *,
    name: str,
    branches: Sequence[int] | None,
    form: str,
    with_preprocessing: bool = False,
    test: Labelled | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Model:
    """Like `export`, for a network with its record; returns the exported model, read back.

    After every batch of test images `advance` is called with its size.

    Raises:
        CoopNetError: as for `export`; or the test images are of other classes.
    """
    if form not in FORMATS:
        raise CoopNetError(f"format {form} is not known; choose {', '.join(FORMATS)}")
    if with_preprocessing and form == "safetensors":
        raise CoopNetError("safetensors has no graph that could include preprocessing; choose onnx or pt2")
    known = preprocessing.of_record(source.network, source.record)
    if test is not None and test.class_names:
        known.check_classes(name, test.dataset, test.class_names)
    module = parts.plain(source.network, branches)
    with files.new_folder(out) as folder:
        if form == "safetensors":
            _write_network(source, branches, folder, known, name)
            made = models.of_network(saved.read(folder), None, str(out))
        else:
            known = dataclasses.replace(known, in_graph=with_preprocessing)
            graph = Whole(known, module).eval() if with_preprocessing else module
            if form == "onnx":
                _write_onnx(graph, known, folder / models.ONNX)
            else:
                _write_pt2(graph, known, folder / models.PT2)
            made = models.of_export(folder, known, str(out))
        files.write_json(folder / preprocessing.NAME, known.to_dict())
        largest, logits = _compared(source, branches, made, test, advance)
        files.write_text(
            folder / CARD,
            card.write(
                card.Facts(
                    name=name,
                    branches=list(branches) if branches is not None else None,
                    of=len(source.network.branches),
                    form=form,
                    parameters=sum(parameter.numel() for parameter in module.parameters()),
                    flops=flops_of(module, torch.zeros(1, 3, known.size, known.size)),
                    size=sum(path.stat().st_size for path in folder.iterdir() if path.name.startswith("model.")),
                    largest_difference=largest,
                    compared=RANDOM_IMAGES + (0 if test is None else len(test.images)),
                ),
                made,
                source.record,
                None if test is None or logits is None else (test.dataset, logits, test.labels),
            ),
        )
    return made


def _write_network(
    source: saved.Saved, branches: Sequence[int] | None, folder: Path, known: Preprocessing, name: str
) -> None:
    network = source.network if branches is None else parts.subset(source.network, branches)
    constants = {"mean": list(known.mean), "std": list(known.std)}
    data = source.record.get("data") or {}
    facts = {"data": data, "origin": {"name": name, "key": source.record.get("key"), "branches": branches}}
    saved.save(network, folder, preprocessing=constants, class_names=known.class_names, facts=facts)


def _write_onnx(module: nn.Module, known: Preprocessing, path: Path) -> None:
    """Write one file with the weights inside, for any batch size.

    Raises:
        CoopNetError: the exporter is not installed, or does not support an operation of the network.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise CoopNetError(
            f"the format onnx needs {error.name}; install it with pip install '.[export]' in a clone"
        ) from error
    with _quiet():
        try:
            torch.onnx.export(
                module,
                (_example(known),),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many types
            raise _impossible("onnx", error) from error


def _write_pt2(module: nn.Module, known: Preprocessing, path: Path) -> None:
    with _quiet():
        try:
            program = torch.export.export(
                module, (_example(known),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
            )
            torch.export.save(program, path)
        except Exception as error:  # the exporter raises many types
            raise _impossible("pt2", error) from error


def _impossible(form: str, error: Exception) -> CoopNetError:
    reason = " ".join(str(error).split())[:300]
    return CoopNetError(
        f"the network cannot be exported as {form} ({type(error).__name__}: {reason}); try another format"
    )


def _example(known: Preprocessing) -> torch.Tensor:
    """A batch of two images as input of the graph; with a single one the exporter would make its size a constant."""
    shape = (2, known.size, known.size, 3)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return images if known.in_graph else known.normalised(images.numpy())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of exporters on stdout, in logs and in warnings."""
    import warnings

    loggers = {name: logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")}
    levels = {name: logger.level for name, logger in loggers.items()}
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        for logger in loggers.values():
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, logger in loggers.items():
                logger.setLevel(levels[name])


def _compared(
    source: saved.Saved,
    branches: Sequence[int] | None,
    made: Model,
    test: Labelled | None,
    advance: Callable[[int], None],
) -> tuple[float, np.ndarray | None]:
    """Compare the export with the network as it was trained, on random images and on test images.

    Returns:
        The largest difference between logits, and the export's logits for the test images.

    Raises:
        CoopNetError: they differ.
    """
    network = _unfolded(source, branches).eval()
    size, worst, kept = made.preprocessing.size, 0.0, []
    random = np.random.default_rng(0).integers(0, 256, (RANDOM_IMAGES, size, size, 3), dtype=np.uint8)
    for images in (random, *([] if test is None else [test.images])):
        for first in range(0, len(images), models.BATCH):
            batch = np.ascontiguousarray(images[first : first + models.BATCH])
            given = made.logits(batch)  # it refuses images of another size
            with torch.inference_mode():
                expected = network(made.preprocessing.normalised(batch)).numpy()
            apart, limit = float(np.abs(given - expected).max()), TOLERANCE * max(1.0, float(np.abs(expected).max()))
            if not apart <= limit:  # this also catches NaN
                raise CoopNetError(
                    f"the export does not compute the same as the network: logits differ by {apart:.2e}, more than "
                    f"{limit:.0e}; nothing was written"
                )
            worst = max(worst, apart)
            if images is not random:
                kept.append(given)
                advance(len(batch))
    return worst, np.concatenate(kept) if kept else None


def _unfolded(source: saved.Saved, branches: Sequence[int] | None) -> nn.Module:
    """The network, or some of its branches, without folded layers."""
    if branches is None:
        return parts.Ensemble(source.network)
    if len(branches) == 1:
        return parts.branch(source.network, branches[0])
    return parts.Ensemble(parts.subset(source.network, branches))

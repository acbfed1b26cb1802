"""Models that classify images, in any form on disk: a run, a saved network, an export."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from coopnet import files
from coopnet.deploy import preprocessing
from coopnet.deploy.preprocessing import Preprocessing
from coopnet.files.errors import CoopNetError
from coopnet.library import saved
from coopnet.library.parts import plain

ONNX, PT2 = "model.onnx", "model.pt2"
BATCH = 250
"""Images per batch."""

BATCHES = (1, 64)
"""Batch sizes of the latencies that a card and a comparison show."""

WARM_UP, REPEATS, SECONDS = 3, 50, 2.0
"""For a measurement of latency: calls before it, most calls in it, and its approximate duration."""


@dataclass(frozen=True)
class Model:
    """A model that classifies images.

    Attributes:
        name: its path or its run.
        form: `ONNX Runtime`, `torch.export` or `PyTorch`.
        preprocessing: format of its input, and names of its classes.
        run: the model itself: its input as a NumPy array → logits [n, C].
    """

    name: str
    form: str
    preprocessing: Preprocessing
    run: Callable[[np.ndarray], np.ndarray]

    def logits(self, images: np.ndarray, advance: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """Images uint8 [N, H, W, 3] → logits [N, C], in batches; `advance` is called with the size of each.

        Raises:
            CoopNetError: the images have another size.
        """
        size = self.preprocessing.size
        if images.shape[1:] != (size, size, 3):
            raise CoopNetError(f"{self.name} takes images of {size}×{size} pixels, not {list(images.shape[1:3])}")
        parts = []
        for first in range(0, len(images), BATCH):
            batch = images[first : first + BATCH]
            parts.append(self.run(self.taken(batch)))
            advance(len(batch))
        return np.concatenate(parts)

    def taken(self, images: np.ndarray) -> np.ndarray:
        """Images in the input format of `run`."""
        if self.preprocessing.in_graph:
            return np.ascontiguousarray(images)
        return self.preprocessing.normalised(images).numpy()

    def latency(self, batch: int) -> float:
        """Milliseconds for a batch of random images, the median of up to `REPEATS` calls."""
        size = self.preprocessing.size
        images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        taken = self.taken(images)
        return milliseconds(lambda: self.run(taken))


def milliseconds(call: Callable[[], object]) -> float:
    """Milliseconds of a call, the median of up to `REPEATS` calls."""
    times: list[float] = []
    for _ in range(WARM_UP):
        call()
    began = time.perf_counter()
    while len(times) < REPEATS and (len(times) < WARM_UP or time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def open_model(
    where: str | os.PathLike[str], branches: Sequence[int] | None = None, *, model: torch.nn.Module | None = None
) -> Model:
    """Open a run (`STUDY/EXPERIMENT/seedN`), a folder that `coopnet.save` wrote, or one that `coopnet export` wrote.

    Args:
        where: the run or folder.
        branches: for a network: the branches to use, numbered from 1; by default the whole ensemble. The branches of
            an export are fixed.
        model: as for `load`.

    Raises:
        CoopNetError: there is no such model, it is damaged, or a library that it needs is not installed.
    """
    folder = Path(where)
    if not any((folder / name).is_file() for name in (ONNX, PT2)):
        one = saved.read(where, model=model)
        return of_network(one, branches, str(where))
    if branches is not None:
        raise CoopNetError(f"{where} is an export, whose branches are fixed; leave out --branch")
    facts = files.read_json(folder / preprocessing.NAME)
    try:
        known = Preprocessing.from_dict(facts)
    except (KeyError, TypeError, ValueError) as error:
        raise CoopNetError(f"{folder / preprocessing.NAME} is damaged ({error!r}); export the network again") from error
    return of_export(folder, known, str(where))


def of_export(folder: Path, known: Preprocessing, name: str) -> Model:
    """The model of an export."""
    if (folder / ONNX).is_file():
        return Model(name, "ONNX Runtime", known, onnx_session(folder / ONNX))
    return Model(name, "torch.export", known, exported_program(folder / PT2))


def of_network(one: saved.Saved, branches: Sequence[int] | None, name: str) -> Model:
    """The model of a network, or of some of its branches."""
    module = plain(one.network, branches)
    return Model(name, "PyTorch", preprocessing.of_record(one.network, one.record), _on_arrays(module))


def _on_arrays(module: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    """A module as a function of NumPy arrays."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    return run


def onnx_session(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A model in ONNX Runtime, on the CPU.

    Raises:
        CoopNetError: it is damaged, or ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise CoopNetError(f"{path} needs ONNX Runtime; install it with pip install '.[export]' in a clone") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common type
        raise CoopNetError(
            f"{path} is damaged ({str(error).splitlines()[0][:200]}); export the network again"
        ) from error
    (entry,) = session.get_inputs()
    return lambda images: np.asarray(session.run(None, {entry.name: images})[0])


def exported_program(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A model that `torch.export` wrote.

    Raises:
        CoopNetError: it is damaged.
    """
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # a damaged archive can fail anywhere, with any type
        reason = " ".join(str(error).split())[:200]
        raise CoopNetError(f"{path} is damaged ({reason}); export the network again") from error
    return _on_arrays(module)

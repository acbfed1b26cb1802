"""From a planned run to its files: build the network, train it, compute its logits and write the files."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coopnet import files
from coopnet.data.augment import Images
from coopnet.data.normalization import normalization
from coopnet.networks.network import trainable_parameters
from coopnet.networks.streams import launch_mode
from coopnet.networks.transfer import TrainedNetwork
from coopnet.runs import checkpoint, provenance
from coopnet.runs.resume import ResumeFolder
from coopnet.runs.setup import Arrays, load_splits, start
from coopnet.study import Run
from coopnet.training import device
from coopnet.training.engine import logits, make_deterministic
from coopnet.training.trainer import Progress, Task, train


def produce(
    run: Run,
    *,
    arrays: Arrays,
    class_names: Sequence[str] = (),
    ancestors: Sequence[tuple[Path, dict[str, Any]]],
    device_kind: str,
    folder: Path,
    progress: Progress,
    stop: Callable[[], str | None],
) -> Path:
    """Train a run and write its files.

    Args:
        run: the planned run.
        arrays: canonical `train` and `test` images and labels.
        class_names: in the order of the labels, for the record.
        ancestors: folder and record of each checkpoint that the run reads: its transfer, its parents, or the imported
            one.
        device_kind: `cpu` or `cuda`.
        folder: for the run's saved state and its new files.
        progress: receives the progress of the training.
        stop: called after every step; returns a reason to stop, or None.

    Returns:
        The folder with all files of the run, inside `folder`.

    Raises:
        Interrupted: `stop` returned a reason; the state is saved.
        CoopNetError: as for `train`, or an input of the run does not fit.
    """
    make_deterministic(run.threads)
    where = device.choose(device_kind)
    device.warn_of_emulation(where, run.row.training.precision)
    splits = load_splits(run, arrays, where)
    parents = [checkpoint.read(place, record) for place, record in ancestors]
    initial, opening, teacher = start(run, parents, splits["training"])
    for network in (initial.network, teacher):
        if network is not None:
            network.to(where).to(memory_format=torch.channels_last)
    known = {"key": run.key, "device": device.describe(where), "libraries": provenance.libraries()}
    read = [record["files"][checkpoint.WEIGHTS] for _, record in ancestors]
    code, identity = provenance.code(), known | {"source": provenance.source(), "ancestors": read}

    made = folder / "files"
    shutil.rmtree(made, ignore_errors=True)
    task = Task(
        initial,
        run.row.training,
        splits,
        augment=run.row.data.augmentation == "crop_flip",
        seed=run.seed,
        opening=opening,
        teacher=teacher,
    )
    trained = train(task, ResumeFolder(folder, identity), progress, stop)
    done = TrainedNetwork(trained.network, trained.optimizer_state)
    checkpoint.write_tensors(made / "logits.safetensors", all_logits(done, splits))
    files.write_rows(made / "history.csv", trained.history)
    files.write_rows(made / "timing.csv", trained.timing)
    checkpoint.write_network(made, done.network, done.optimizer_state)
    record = (
        {
            "architecture": done.network.architecture.to_dict(),
            "parameters": trainable_parameters(done.network),
            "row": run.row.decisive(),
            "seed": run.seed,
            "threads": run.threads,
            "selected_epoch": trained.selected_epoch,
            **descent(run, [record for _, record in ancestors]),
            "data": run.dataset.facts() | ({"class_names": list(class_names)} if run.dataset.measured else {}),
            "preprocessing": normalization(run.dataset, run.row.data.normalization),
            "files": {
                path.relative_to(made).as_posix(): files.sha256(path)
                for path in sorted(made.rglob("*"))
                if path.is_file() and path.name not in ("timing.csv", checkpoint.RECORD)
            },
        }
        | known
        | {"code": code}
        | ({"launch": launch_mode()} if where.type == "cuda" else {})
    )
    files.write_json(made / checkpoint.RECORD, files.sealed(record))
    return made


def descent(run: Run, sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of a run's record about its ancestors: keys, and digests of weights.

    Args:
        run: the run.
        sources: the records of the checkpoints that the run reads.
    """
    read = [{"key": one.get("key"), "digest": one["files"][checkpoint.WEIGHTS]} for one in sources]
    if run.transfer is None:
        return {"parents": read}
    (transfer,) = sources
    return {"parents": transfer["parents"], "transfer": read[0]}


def all_logits(trained: TrainedNetwork, splits: Mapping[str, Images]) -> dict[str, Tensor]:
    """Logits, gate weights and labels of the test and validation images.

    Tensors are named `<split>/branches` [N, B, C], `/gate` [N, B] and `/labels` [N].
    """
    tensors: dict[str, Tensor] = {}
    kind = torch.uint8 if trained.network.architecture.classes <= 256 else torch.int32
    for name in ("test", "validation"):
        if name in splits:
            outputs = logits(trained.network, splits[name]) | {"labels": splits[name].labels.to(kind)}
            tensors |= {f"{name}/{part}": tensor for part, tensor in outputs.items()}
    return tensors

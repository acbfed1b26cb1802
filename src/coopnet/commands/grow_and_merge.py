"""`coopnet grow`, `merge` and `combine`: parameter transfer between networks on disk, without a study."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.deploy import images
from coopnet.deploy.export import Labelled
from coopnet.files.errors import CoopNetError
from coopnet.library import saved, transfers
from coopnet.library.receipt import Receipt
from coopnet.library.saved import Saved
from coopnet.networks.transfer import TrainedNetwork
from coopnet.runs.workspace import Workspace

log = logging.getLogger(__name__)

RECEIPT = "receipt.json"


def grow(
    workspace: Workspace,
    source: str,
    out: Path,
    *,
    branches: int,
    how: str,
    donors: list[int] | None,
    noise: float,
    seed: int,
    data: str | None,
) -> None:
    """Give a network more branches, and carry its optimiser state over.

    Raises:
        CoopNetError: as `library.transfers.grow`, or there is no such network or dataset.
    """
    files.check_new(out)
    one = saved.read(source)
    test = images.of_record(workspace, one.record, data)
    result, _, receipt = transfers.grown(
        TrainedNetwork(one.network, one.state),
        branches,
        how=how,
        donors=donors,
        noise=noise,
        seed=seed,
        optimizer=transfers.CARRIED if one.state else "no state was there",
        images=None if test is None else images.normalised(one, test.images),
    )
    _write(out, result, receipt, [one])


def combine(workspace: Workspace, sources: list[str], out: Path, *, gate: str, seed: int, data: str | None) -> None:
    """Join one-branch networks, each on its own trunk.

    Raises:
        CoopNetError: as `library.transfers.combine`, or there is no such network or dataset.
    """
    files.check_new(out)
    many = _read(sources)
    test = images.of_record(workspace, many[0].record, data)
    inputs = None if test is None else list(images.normalised(many[0], test.images))
    result, receipt = transfers.combined(_trained(many), gate=gate, seed=seed, images=inputs)
    _write(out, result, receipt, many)


def merge(
    workspace: Workspace,
    sources: list[str],
    out: Path,
    *,
    how: str,
    reestimate: bool,
    count: int,
    seed: int,
    data: str | None,
) -> None:
    """Put the branches of one-branch networks on one trunk.

    Raises:
        CoopNetError: as `library.transfers.merge`, or there is no such network or dataset.
    """
    files.check_new(out)
    many = _read(sources)
    training = images.of_record(workspace, many[0].record, data, "train")
    if training is None and (reestimate or how == "refit"):
        raise CoopNetError(
            f"--how {how}{' with --reestimate' if reestimate else ''} needs training images, and those of the "
            "networks are not prepared here; name a dataset by --data, or choose --how first without --reestimate"
        )
    inputs = None if training is None else list(images.normalised(many[0], _some(training, count, seed)))
    result, receipt = transfers.merged(_trained(many), how=how, reestimate=reestimate, seed=seed, images=inputs)
    _write(out, result, receipt, many)


def _some(training: Labelled, count: int, seed: int) -> np.ndarray:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(training.images))[:count])
    return training.images[chosen]


def _read(sources: Sequence[str]) -> list[Saved]:
    """Read several networks that were trained with the same image normalisation.

    Raises:
        CoopNetError: they were trained with different normalisations.
    """
    many = [saved.read(source) for source in sources]
    for source, one in zip(sources, many, strict=True):
        if one.record.get("preprocessing") != many[0].record.get("preprocessing"):
            raise CoopNetError(
                f"{source} was trained on images that were normalised differently from those of {sources[0]}"
            )
    return many


def _trained(many: Sequence[Saved]) -> list[TrainedNetwork]:
    return [TrainedNetwork(one.network, one.state) for one in many]


def _write(out: Path, result: TrainedNetwork, receipt: Receipt, parents: Sequence[Saved]) -> None:
    """Write network and receipt into a new folder, completely or not at all, and print the receipt as a table."""
    from rich.console import Console
    from rich.table import Table

    record = parents[0].record
    facts: dict[str, Any] = {
        "data": record.get("data") or {},
        "parents": [
            {"key": one.record.get("key"), "digest": one.record["files"]["model.safetensors"]} for one in parents
        ],
        "receipt": receipt.to_dict(),
    }
    with files.new_folder(out) as folder:
        saved.write(result, folder, record.get("preprocessing"), None, facts)
        files.write_json(folder / RECEIPT, receipt.to_dict())
    table = Table(show_header=False)
    for label, value in receipt.rows():
        table.add_row(label, value)
    Console().print(table)
    log.info("%s: a network of %d branches; %s/%s lists every tensor", out, receipt.after, out, RECEIPT)

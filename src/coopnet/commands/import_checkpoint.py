"""`coopnet import`: convert a published checkpoint to a folder from which a row of `params.yaml` can start."""

import logging
from pathlib import Path

from coopnet import files
from coopnet.files.errors import CoopNetError
from coopnet.networks import lan2018
from coopnet.networks.network import CooperativeNetwork, trainable_parameters
from coopnet.runs import checkpoint

log = logging.getLogger(__name__)


def import_checkpoint(source: Path, layout: str, out: Path) -> None:
    """Read a foreign checkpoint and write weights, optimiser state and record.

    Raises:
        CoopNetError: the layout is unknown, or the file does not fit it.
    """
    if layout != lan2018.LAYOUT:
        raise CoopNetError(f"--layout {layout} is not known; {lan2018.LAYOUT} is")
    imported = lan2018.read(source)
    network = CooperativeNetwork(imported.architecture)
    network.load_state_dict(imported.state)
    optimizer_state = {"momentum_buffer": imported.momentum} if imported.momentum else {}
    record = {
        "architecture": imported.architecture.to_dict(),
        "parameters": trainable_parameters(network),
        "preprocessing": imported.preprocessing,
        "source": imported.source,
        "files": checkpoint.write_network(out, network, optimizer_state),
    }
    files.write_json(out / checkpoint.SAVED, files.sealed(record))
    log.info("%s: %d branches, %d parameters, in %s", source, len(network.branches), record["parameters"], out)

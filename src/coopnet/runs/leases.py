"""Leases of GPUs: each process gets a GPU of this machine to itself.

Snakemake counts GPUs but does not assign them: with `--resources gpu=2` two runs start at once, and each would use the
first device. So each process leases one by binding a socket whose name stands for the device. Names in the abstract
namespace are visible to all users and clones on a machine and need no folder, and the kernel frees them when the
process dies.
"""

import errno
import logging
import os
import re
import socket
import subprocess
import time

from coopnet.files.errors import CoopNetError

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
RUNS_PER_GPU = "COOPNET_RUNS_PER_GPU"
PAUSE = 0.5
"""Seconds between two attempts to find a free device."""


def acquire(name: str, seconds: float = -1) -> bool:
    """Lease a GPU until this process ends, and hide all others from CUDA; call this before torch is imported.

    Nothing is leased if no GPU is found.

    Args:
        name: name of the run, for messages.
        seconds: longest time to wait for a free GPU; -1 for no limit.

    Returns:
        False if no GPU became free in that time.

    Raises:
        CoopNetError: this machine does not support leases, or `COOPNET_RUNS_PER_GPU` is not a number.
    """
    slots, known = _slots(), _known()
    devices = visible(known)
    if not devices:
        return True
    end = time.monotonic() + seconds if seconds >= 0 else None
    logged = False
    while (device := _free(devices, known, slots)) is None:
        if not logged:
            log.info("%s: every GPU here (%s) is leased to another run; waiting", name, ", ".join(devices))
            logged = True
        if end is not None and time.monotonic() >= end:
            return False
        time.sleep(PAUSE)
    os.environ[VISIBLE] = device
    log.info("%s: on GPU %s", name, device)
    return True


def visible(known: list[str]) -> list[str]:
    """The devices that CUDA sees: the valid entries of `CUDA_VISIBLE_DEVICES` before the first invalid one, or all."""
    if VISIBLE not in os.environ:
        return known
    named = [entry.strip() for entry in os.environ[VISIBLE].split(",")]
    return named[: next((i for i, entry in enumerate(named) if entry in ("", "-1", "NoDevFiles")), None)]


def _free(devices: list[str], known: list[str], slots: int) -> str | None:
    """Lease a free slot, preferring devices with fewer leases, and return its device; None if there is none."""
    for slot in range(slots):
        for device in devices:
            if _bound(f"coopnet-gpu/{_identity(device, known)}/{slot}"):
                return device
    return None


def _identity(device: str, known: list[str]) -> str:
    """The name of a device that all processes agree on: its UUID, if that is known.

    Slurm assigns devices to a job and may count them from 0 in each job, so leases inside a job have its id.
    """
    if device.isdecimal() and int(device) < len(known):
        device = known[int(device)]
    else:
        device = next((uuid for uuid in known if uuid.startswith(device)), device)
    job = os.environ.get("SLURM_JOB_ID")
    return f"slurm-{job}/{device}" if job else device


def _known() -> list[str]:
    """UUIDs of all GPUs, or of their MIG partitions; an empty list without `nvidia-smi`."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if listed.returncode:
        return []
    uuids: list[str] = []
    for uuid in re.findall(r"\(UUID: ([^)]+)\)", listed.stdout):
        if uuid.startswith("MIG-") and uuids and not uuids[-1].startswith("MIG-"):
            uuids.pop()  # a partitioned GPU is listed before its partitions, and cannot be used as a whole
        uuids.append(uuid)
    return uuids


def _slots() -> int:
    """The number of runs that may share a device."""
    text = os.environ.get(RUNS_PER_GPU, "1")
    if not text.isdecimal() or int(text) < 1:
        raise CoopNetError(f"{RUNS_PER_GPU} is {text!r}, which is not a number of runs; set it to 1 or more")
    return int(text)


def _bound(name: str) -> bool:
    """Bind a name until this process ends; False if another process has it."""
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lease.bind(f"\0{name}")
    except OSError as error:
        lease.close()
        if error.errno == errno.EADDRINUSE:
            return False
        raise CoopNetError(f"cannot lease {name}: {error.strerror or error}; is {VISIBLE} right?") from error
    lease.detach()  # left open on purpose
    return True

"""Which GPU of this machine a process may have to itself.

Snakemake counts GPUs and hands none out: with `--resources gpu=2` two runs start at once, and each would take the first
device. So each process leases one, by binding a socket of a name that stands for it. Names of the abstract kind are
seen by all users and clones of a machine, lie in no folder, and are given back by the kernel when the process dies.
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
"""Seconds between two looks for a free device."""


def take(name: str, seconds: float = -1) -> bool:
    """Lease a GPU for as long as this process lives, and let CUDA see no other; to be called before torch is imported.

    Where no GPU is known of, nothing is leased.

    Args:
        name: of the run, for messages.
        seconds: how long to wait for a free one, -1 for ever.

    Returns:
        False if all were taken until then.

    Raises:
        CoopNetError: leases cannot be had here at all, or `COOPNET_RUNS_PER_GPU` is not a number.
    """
    slots, known = _slots(), _known()
    devices = visible(known)
    if not devices:
        return True
    end = time.monotonic() + seconds if seconds >= 0 else None
    told = False
    while (device := _free(devices, known, slots)) is None:
        if not told:
            log.info("%s: every GPU here (%s) is leased to another run; waiting", name, ", ".join(devices))
            told = True
        if end is not None and time.monotonic() >= end:
            return False
        time.sleep(PAUSE)
    os.environ[VISIBLE] = device
    log.info("%s: on GPU %s", name, device)
    return True


def visible(known: list[str]) -> list[str]:
    """The devices that CUDA would see: what `CUDA_VISIBLE_DEVICES` names, up to what it cannot name; else all known."""
    if VISIBLE not in os.environ:
        return known
    named = [entry.strip() for entry in os.environ[VISIBLE].split(",")]
    return named[: next((i for i, entry in enumerate(named) if entry in ("", "-1", "NoDevFiles")), None)]


def _free(devices: list[str], known: list[str], slots: int) -> str | None:
    """A device with a free slot, which is now leased; the emptiest first."""
    for slot in range(slots):
        for device in devices:
            if _bound(f"coopnet-gpu/{_identity(device, known)}/{slot}"):
                return device
    return None


def _identity(device: str, known: list[str]) -> str:
    """One name of a device for all who use it: its UUID, if that can be found out.

    Slurm has already given a job its devices, and may count them from 0 in each job; they are shared out within it.
    """
    if device.isdecimal() and int(device) < len(known):
        device = known[int(device)]
    else:
        device = next((uuid for uuid in known if uuid.startswith(device)), device)
    job = os.environ.get("SLURM_JOB_ID")
    return f"slurm-{job}/{device}" if job else device


def _known() -> list[str]:
    """UUIDs of all GPUs, or of the parts of GPUs that are cut up; none without `nvidia-smi`."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if listed.returncode:
        return []
    uuids: list[str] = []
    for uuid in re.findall(r"\(UUID: ([^)]+)\)", listed.stdout):
        if uuid.startswith("MIG-") and uuids and not uuids[-1].startswith("MIG-"):
            uuids.pop()  # a GPU that is cut up is listed before its parts, and cannot be used as a whole
        uuids.append(uuid)
    return uuids


def _slots() -> int:
    """How many runs may share a device."""
    text = os.environ.get(RUNS_PER_GPU, "1")
    if not text.isdecimal() or int(text) < 1:
        raise CoopNetError(f"{RUNS_PER_GPU} is {text!r}, which is no number of runs; set it to 1 or more")
    return int(text)


def _bound(name: str) -> bool:
    """Whether this process could bind a name; it then has it until it ends."""
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

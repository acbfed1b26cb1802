"""The device of a run: choice, description and free memory."""

import logging
import os
import platform
import resource
import warnings
from pathlib import Path
from typing import Any

import torch

from coopnet.files.errors import CoopNetError

log = logging.getLogger(__name__)

INSTRUCTION_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Environment variables that keep PyTorch, oneDNN and MKL from instructions that the CPU has. They change the bits."""


def choose(kind: str) -> torch.device:
    """The device of a kind, `cpu` or `cuda`.

    Raises:
        CoopNetError: there is no such device.
    """
    if kind == "cuda":
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = torch.cuda.is_available()
        if not found and told:  # such as a driver that is too old for this PyTorch
            raise CoopNetError(
                f"device is cuda, but PyTorch cannot use the GPU: {' '.join(str(told[-1].message).split())[:300]}; "
                "update the driver, or install a PyTorch for it, such as by `make setup TORCH=cu126`"
            )
        if not found:
            raise CoopNetError(
                "device is cuda, but PyTorch sees no GPU here: run this on a machine with one, set device: cpu in the "
                "study's own file (studies/NAME.yaml, or params.yaml for the full study), or choose a study made for "
                "the CPU (--config study=mini)"
            )
    return torch.device(kind)


def _lines(path: Path) -> list[str]:
    """The lines of a file of Linux; none on other systems."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _cpu_flags() -> set[str]:
    """Instruction sets of this CPU, as Linux names them; empty on other systems."""
    lines = _lines(Path("/proc/cpuinfo"))
    return next((set(line.split()) for line in lines if line.startswith(("flags", "Features"))), set())


def has_bf16(device: torch.device) -> bool:
    """Whether the device has hardware support for bf16 products."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"} & _cpu_flags())


def warn_of_emulation(device: torch.device, precision: str) -> None:
    """Log a warning if bf16 is requested on a device that emulates it."""
    if precision == "bf16" and not has_bf16(device):
        log.warning(
            "precision bf16 is emulated on this %s and about 10 times slower than fp32: "
            "set training.precision: fp32 unless this is intended",
            device.type.upper(),
        )


def describe(device: torch.device) -> dict[str, Any]:
    """The device of a run, for its record."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    flags = _cpu_flags()
    shown = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    limits = [f"{name}={os.environ[name]}" for name in INSTRUCTION_LIMITS if os.environ.get(name)]
    return {
        "type": "cpu",
        "name": _cpu_name(),
        "instructions": shown,
        "capability": torch.backends.cpu.get_cpu_capability(),
        **({"limits": limits} if limits else {}),
    }


def _cpu_name() -> str:
    lines = _lines(Path("/proc/cpuinfo"))
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int | None:
    """Bytes of memory that this process can still use on a device; None if unknown.

    On the CPU: the smallest of Linux's available memory, the limit of this process's control group, and its own limit.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [*_available(), *_control_groups(), *_own_limit()]
    return min(known) if known else None


def _available() -> list[int]:
    lines = _lines(Path("/proc/meminfo"))
    return [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]


def _control_groups() -> list[int]:
    """Free memory of this process's control groups and of those around them (version 1 or 2).

    That is a limit less the unreclaimable use.
    """
    left = []
    for line in _lines(Path("/proc/self/cgroup")):
        _, kind, place = line.split(":", 2)
        root = Path("/sys/fs/cgroup") if not kind else Path("/sys/fs/cgroup/memory")
        if kind not in ("", "memory"):
            continue
        own = root / place.strip("/")  # in a container the root is the group's own folder
        for folder in [own, *own.parents]:  # the limit of a group holds for the groups in it
            limit, used = (_number(folder / name[bool(kind)]) for name in LIMITS)
            if limit is not None:
                left.append(max(0, limit - (used or 0) + _reclaimable(folder)))
            if folder == root:
                break
    return left


LIMITS = (("memory.max", "memory.limit_in_bytes"), ("memory.current", "memory.usage_in_bytes"))
"""Files of a control group of version 2 and 1: its limit, and its use."""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _reclaimable(folder: Path) -> int:
    """Bytes of a control group's page cache, which the system can reclaim."""
    found = dict(line.split(maxsplit=1) for line in _lines(folder / "memory.stat"))
    return sum(int(found.get(name, 0)) for name in ("active_file", "inactive_file"))


def _own_limit() -> list[int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except OSError:
        return []
    return [] if limit == resource.RLIM_INFINITY else [max(0, limit - used)]

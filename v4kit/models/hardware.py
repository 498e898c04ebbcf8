"""Devices that a plan is made for: those that are here, or those that are named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from v4kit.core.plan import Device
from v4kit.errors import InputError

GB = 10**9
MEMORY_SPEED = 500 * GB
"""Bytes per second of a CPU's memory: a server's twelve channels of DDR5, and more than most."""
DISK_SPEED = 14 * GB
"""Bytes per second of a solid-state disk: the fastest, over PCIe 5.0."""
QUANTIZED_FROM = (8, 9)
"""Compute capability from which transformers keeps FP8 weights; below, they become bfloat16."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU, after its data sheet."""

    memory: int
    """GB (10⁹ bytes) that are free once CUDA has begun."""
    bandwidth: int
    """GB/s."""
    link: int
    """GB/s from the CPU's memory, over PCIe."""
    capability: tuple[int, int]
    """Compute capability."""


GPUS = {
    "V100": Gpu(34, 900, 16, (7, 0)),
    "A100": Gpu(85, 2039, 32, (8, 0)),
    "A100 40GB": Gpu(42, 1555, 32, (8, 0)),
    "RTX 3090": Gpu(25, 936, 32, (8, 6)),
    "A6000": Gpu(50, 768, 32, (8, 6)),
    "RTX 4090": Gpu(25, 1008, 32, (8, 9)),
    "L40S": Gpu(47, 864, 32, (8, 9)),
    "H100": Gpu(84, 3350, 64, (9, 0)),
    "H100 NVL": Gpu(99, 3938, 64, (9, 0)),
    "H200": Gpu(149, 4800, 64, (9, 0)),
    "B200": Gpu(190, 8000, 64, (10, 0)),
    "B300": Gpu(287, 8000, 128, (10, 3)),
    "RTX 5090": Gpu(33, 1792, 64, (12, 0)),
    "RTX PRO 6000": Gpu(101, 1792, 64, (12, 0)),
}
"""GPUs that a plan knows by name."""

FASTEST = Gpu(
    0,
    max(gpu.bandwidth for gpu in GPUS.values()),
    max(gpu.link for gpu in GPUS.values()),
    QUANTIZED_FROM,
)
"""What stands for a GPU whose data sheet is not known, so that a limit of speed remains one."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan is made for."""

    devices: tuple[Device, ...]
    """GPUs first, then "cpu", then "disk"."""
    capability: tuple[int, int] | None
    """The least compute capability of its GPUs; None without one."""
    real: bool
    """Whether its GPUs are those of this machine."""
    limits: dict[int | str, int] | None = None
    """Bytes by device that were given, as transformers names devices; None if nothing was."""

    @property
    def gpus(self) -> tuple[Device, ...]:
        """The GPUs."""
        return tuple(device for device in self.devices if device.key.isdigit())

    @property
    def keeps_quantized(self) -> bool:
        """Whether transformers keeps FP8 and FP4 weights on it."""
        return self.capability is not None and self.capability >= QUANTIZED_FROM


def machine(
    gpus: str | None,
    max_memory: Mapping[Any, Any] | None,
    *,
    here: bool = False,
    disk: str | Path | None = None,
) -> Machine:
    """Return the devices to plan for.

    Args:
        gpus: GPUs by name, such as "4 x H100"; None: those of this machine.
        max_memory: Bytes, or a text such as "80GB", by device; devices that it lacks are not used,
            apart from GPUs that are named and the disk.
        here: Whether the model is to be loaded now, so that there is no more memory than is free;
            else who gives more than there is plans for another machine.
        disk: Folder on the disk that layers may wait on; None: the current one.

    Raises:
        InputError: An unknown GPU, a device that is not there, or a size that is none.
    """
    limits = limits_of(max_memory)
    cards, capability, real = _cards(gpus)
    room = free_disk(Path.cwd() if disk is None else Path(disk))
    ends = (_cpu(), Device("disk", "disk", room, room, DISK_SPEED))
    everywhere = (*cards, *(_others() if real else ()), *ends)
    if limits is None:
        return Machine(everywhere, capability, real)
    given = {str(key): size for key, size in limits.items()}
    missing = [key for key in given if key not in {device.key for device in everywhere}]
    if missing:
        there = ", ".join(device.key for device in everywhere)
        raise InputError(
            f"max_memory names the device {missing[0]!r}, which is not there; there are {there}. "
            'Plan for other GPUs with v4kit.plan(…, gpus="4 x H100").'
        )
    used = tuple(
        _limited(one, given[one.key], here=here) if one.key in given else one
        for one in everywhere
        if one.key in given or one.key == "disk" or (gpus and one.key.isdigit())
    )
    on_gpu = any(device.key.isdigit() for device in used)
    return Machine(used, capability if on_gpu else None, real, limits)


def limits_of(max_memory: Any) -> dict[int | str, int] | None:
    """Return bytes by device, as transformers names devices; None if nothing is given.

    Raises:
        InputError: It names no device, or a size that is none.
    """
    if max_memory is None:
        return None
    if not isinstance(max_memory, Mapping) or not max_memory:
        raise InputError(
            'max_memory gives memory by device, such as {0: "80GB", "cpu": "200GB"}; given was '
            f"{max_memory!r}."
        )
    named = {str(key).removeprefix("cuda:"): size_of(size) for key, size in max_memory.items()}
    return {int(key) if key.isdigit() else key: size for key, size in named.items()}


def size_of(size: Any) -> int:
    """Return bytes from a number or a text such as "80GB" or "16GiB".

    Raises:
        InputError: It is neither.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(size), re.IGNORECASE)
    if match is None or isinstance(size, bool | float):
        raise InputError(
            f'A size is bytes or a text such as "80GB" or "16GiB"; given was {size!r}.'
        )
    number, unit, binary = match.groups()
    power = "kmgt".find(unit.lower()) + 1 if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def _limited(device: Device, limit: int, *, here: bool) -> Device:
    return replace(device, memory=device.memory if here else max(device.memory, limit), limit=limit)


def _cards(gpus: str | None) -> tuple[tuple[Device, ...], tuple[int, int] | None, bool]:
    if gpus is None:
        count = torch.cuda.device_count()
        found = tuple(_found(index) for index in range(count))
        least = min((torch.cuda.get_device_capability(i) for i in range(count)), default=None)
        return found, least, True
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]?\s+)?(.+?)\s*", str(gpus))
    kinds = {name.lower(): name for name in GPUS}
    name = kinds.get(match[2].lower()) if match else None
    if match is None or name is None or int(match[1] or 1) < 1:
        raise InputError(
            f'gpus names a number and a kind, such as "4 x H100"; given was {gpus!r}. Kinds that '
            f"are known: {', '.join(GPUS)}. For others give max_memory."
        )
    kind = GPUS[name]
    number, memory = int(match[1] or 1), kind.memory * GB
    limit = _share(memory) if number == 1 else memory
    cards = tuple(
        Device(str(index), name, memory, limit, kind.bandwidth * GB, kind.link * GB)
        for index in range(number)
    )
    return cards, kind.capability, False


def _share(memory: int) -> int:
    """Return what transformers fills of a lone GPU's memory, and of the CPU's."""
    return memory * 9 // 10


def _found(index: int) -> Device:
    """Return a GPU of this machine; what others hold of its memory is not free."""
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    short = properties.name.removeprefix("NVIDIA ")
    alike = sorted((name for name in GPUS if name.lower() in short.lower()), key=len)
    kind = GPUS[alike[-1]] if alike else FASTEST
    taken = total - free
    name = f"{short} ({taken / GB:.0f} GB taken)" if taken > GB else short
    return Device(str(index), name, free, free, kind.bandwidth * GB, kind.link * GB)


def _others() -> tuple[Device, ...]:
    """Return an accelerator that is none of NVIDIA's and shares the CPU's memory."""
    if not torch.backends.mps.is_available():
        return ()
    free = _free_memory()
    return (Device("mps", "Apple GPU", free, _share(free), MEMORY_SPEED),)


def _cpu() -> Device:
    free = _free_memory()
    return Device("cpu", "CPU", free, _share(free), MEMORY_SPEED)


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def free_disk(folder: Path) -> int:
    """Return the bytes that are free on the disk of a folder, which may not exist yet."""
    import shutil

    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that exists."""
    return next(one for one in (folder, *folder.absolute().parents) if one.is_dir())

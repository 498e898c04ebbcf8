"""Where transformers will put each module: its own functions, asked beforehand."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from v4kit.errors import InputError
from v4kit.models.hardware import Machine
from v4kit.models.skeleton import Skeleton

DeviceMap = dict[str, int | str]

_WAITS = ("cpu", "disk")
_AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that leave the placing to transformers."""


def device_map(skeleton: Skeleton, machine: Machine, *, asked: Any) -> DeviceMap:
    """Return module → device as loading with this `device_map` makes it.

    Raises:
        InputError: accelerate is needed and not installed; or a device or a module that is not
            there, or has no place.
    """
    if not machine.gpus and machine.limits is None and asked == "auto":
        return {"": "cpu"}
    if not automatic(asked):
        found = named(asked, machine)
        _check_modules(skeleton, found)
        return found
    if find_spec("accelerate") is None:
        raise InputError(
            "To plan for several devices, accelerate is needed, which is not installed. "
            "Run: pip install v4kit[gpu]"
        )
    from transformers.integrations.accelerate import _get_device_map

    memory = None if machine.real and machine.limits is None else _memory(machine)
    with _quietly():
        placed: DeviceMap = _get_device_map(skeleton.model, asked, memory, skeleton.quantizer)
    return placed


def automatic(asked: Any) -> bool:
    """Tell whether a `device_map` leaves the placing to transformers."""
    return isinstance(asked, str) and asked in _AUTOMATIC


def main_device(placed: DeviceMap) -> str:
    """Return where layers are computed that wait elsewhere: the first GPU, else the CPU."""
    return next((str(device) for device in placed.values() if str(device) not in _WAITS), "cpu")


def bytes_by_device(skeleton: Skeleton, placed: DeviceMap) -> dict[str, int]:
    """Return the bytes of parameters and buffers by device.

    Buffers of layers that wait elsewhere stay where these are computed.
    """
    main = main_device(placed)
    found: dict[str, int] = defaultdict(int)
    for name, tensor in skeleton.model.named_parameters():
        found[str(home(name, placed))] += skeleton.bytes_of(name, tensor)
    for name, tensor in skeleton.model.named_buffers():
        device = str(home(name, placed))
        found[main if device in _WAITS else device] += skeleton.bytes_of(name, tensor)
    return dict(found)


def layers_by_device(count: int, path: str, placed: DeviceMap) -> dict[str, tuple[int, ...]]:
    """Return the decoder layers by device; a layer that is split counts where it begins.

    Args:
        count: How many layers there are.
        path: Path of the list of layers.
        placed: Module → device.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for layer in range(count):
        name = f"{path}.{layer}"
        inside = next((key for key in placed if key.startswith(f"{name}.")), name)
        found[str(home(inside, placed))].append(layer)
    return {device: tuple(layers) for device, layers in found.items()}


def home(name: str, placed: DeviceMap) -> int | str:
    """Return the device of a module or tensor: that of its nearest parent in the map."""
    while name not in placed:
        if not name:
            return "cpu"
        name = name.rpartition(".")[0]
    return placed[name]


def _memory(machine: Machine) -> dict[int | str, int]:
    """Return the memory by device as transformers wants it; the disk is taken when all is full."""
    named = [device for device in machine.devices if device.key != "disk"]
    return {int(one.key) if one.key.isdigit() else one.key: one.limit for one in named}


def named(asked: Any, machine: Machine) -> DeviceMap:
    """Return a map whose devices were named: by module, one for all, or none, which is the CPU.

    Raises:
        InputError: A device is not there, or none is named.
    """
    wanted = asked if isinstance(asked, Mapping) else {"": "cpu" if asked is None else asked}
    if not wanted:
        raise InputError('device_map names no module. Give "auto", a device, or {"": device}.')
    there = {device.key for device in machine.devices}
    found: DeviceMap = {}
    for module, device in wanted.items():
        key = "0" if str(device) == "cuda" else str(device).removeprefix("cuda:")
        if key not in there:
            raise InputError(
                f"device_map puts {module or 'everything'!r} on {device!r}, which is not there; "
                f"there are {', '.join(sorted(there))}."
            )
        found[module] = int(key) if key.isdigit() else key
    return found


def _check_modules(skeleton: Skeleton, placed: DeviceMap) -> None:
    """Refuse a map that names what the model lacks, or lacks what the model has."""
    tensors = [name for name, _ in skeleton.model.named_parameters()]
    known = {"", *tensors, *(name for name, _ in skeleton.model.named_modules())}
    odd = [name for name in placed if name not in known]
    if odd:
        raise InputError(
            f"device_map names {odd[0]!r}, which this model has not. Its modules have names such "
            f"as {tensors[0].rpartition('.')[0]!r}; '' is everything that is not named."
        )
    left = [name for name in tensors if not any(_within(name, key) for key in placed)]
    if left:
        raise InputError(
            f"device_map has no place for {left[0]!r}"
            + (f" and {len(left) - 1:,} more" if len(left) > 1 else "")
            + ". Name their modules as well, or give '' a device for all that is not named."
        )


def _within(name: str, module: str) -> bool:
    return not module or name == module or name.startswith(f"{module}.")


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out warnings that planned GPUs are not those of this machine."""
    loggers = [logging.getLogger(name) for name in ("accelerate.utils.modeling", "transformers")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

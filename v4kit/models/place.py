"""Where a model is to be loaded: what was asked for, checked against this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from v4kit.errors import InputError
from v4kit.models.hardware import Machine, machine
from v4kit.models.placing import automatic, named


@dataclass(frozen=True, slots=True)
class Place:
    """What `load` was asked for."""

    device_map: Any
    """"auto" and its like, module → device, or None, which is the CPU."""
    folder: Path | None
    """Where layers go for which there is no memory."""
    looked: Machine | None
    """The devices of this machine; None where only the CPU was asked for, and no GPU is woken."""

    @classmethod
    def of(cls, device_map: Any, max_memory: Any, offload_folder: Any) -> Place:
        """Return what was asked for, if all devices of it are there.

        Raises:
            InputError: A device is not there, a size is none, or the folder can't be one.
        """
        folder = _folder(offload_folder)
        if str(device_map) in ("None", "cpu") and max_memory is None:
            return cls(device_map and {"": "cpu"}, folder, None)
        here = machine(None, max_memory, here=True, disk=folder)
        if device_map is not None and not automatic(device_map):
            device_map = named(device_map, here)
        return cls(device_map, folder, here)

    @property
    def machine(self) -> Machine:
        """The devices of this machine, with the memory that is free."""
        return self.looked or machine(None, None, here=True, disk=self.folder)

    @property
    def by_module(self) -> bool:
        """Whether modules were named, which a model must have."""
        return isinstance(self.device_map, Mapping) and set(self.device_map) != {""}

    def options(self) -> dict[str, Any]:
        """Return transformers' options, with the folder made; without a GPU "auto" is the CPU.

        Raises:
            InputError: accelerate is not installed, or the folder can't be made.
        """
        limits = self.looked.limits if self.looked else None
        if self.device_map == "auto" and limits is None and not torch.cuda.is_available():
            return {}
        if self.device_map is None:
            return {}
        if find_spec("accelerate") is None:
            raise InputError(
                f"device_map={self.device_map!r} needs accelerate, which is not installed. "
                "Run: pip install v4kit[gpu]"
            )
        found: dict[str, Any] = {"device_map": self.device_map}
        if limits is not None:
            # A copy: accelerate writes into it.
            found["max_memory"] = dict(limits)
        if self.folder is not None:
            _make(self.folder)
            found["offload_folder"] = str(self.folder)
        return found


def _folder(given: Any) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, str | Path) or not str(given):
        raise InputError(f"offload_folder is a folder's path; given was {given!r}.")
    folder = Path(given).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"offload_folder={str(given)!r} is a file. Give a folder.")
    return folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"offload_folder={str(folder)!r} can't be made: {error.strerror}. Give a folder that "
            "can be written."
        ) from error

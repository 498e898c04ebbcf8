"""What stops a load before anything is downloaded or allocated: the plan says it can't work."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from v4kit.core.plan import MemoryPlan
from v4kit.errors import InputError, ModelError
from v4kit.models.hardware import Machine, existing
from v4kit.models.plan import plan_here
from v4kit.models.skeleton import countable, quantization_of
from v4kit.models.verdict import gb

SMALL = 10**9
"""Bytes of weights below which loading takes no more than seconds, and nothing is foreseen."""

_KNOWINGLY = "Or load knowingly with anyway=True."


def foresee(
    config: Any,
    here: Machine,
    *,
    download: bool,
    dtype: str | torch.dtype,
    device_map: Any,
    offload_folder: Path | None,
    anyway: bool = False,
) -> MemoryPlan:
    """Return the plan of a load that can work.

    Args:
        config: The transformers config of the model.
        here: The devices of this machine, with the memory that is free.
        download: Whether its files come from the hub.
        dtype: As in `load`.
        device_map: As in `load`.
        offload_folder: As in `load`.
        anyway: Let weights be made larger than they are stored, and take more memory than is free.

    Raises:
        InputError: A device or a module is not there; weights would be made larger than they are
            stored; or would have to stay on disk with no folder for them.
        ModelError: They do not fit into memory, or what is written does not fit onto the disk.
    """
    found = plan_here(config, here, download=download, dtype=dtype, device_map=device_map)
    _check_disks(found, download=download, folder=offload_folder)
    if found.bytes < SMALL:
        return found
    if _on_disk(found) and offload_folder is None:
        raise InputError(
            f"{found.verdict} Give an offload_folder for them, or more memory: "
            f"{' '.join(found.advice)}"
        )
    if not anyway:
        _check_precision(found, config)
        _check_memory(found)
    return found


def _check_precision(found: MemoryPlan, config: Any) -> None:
    if found.precision != found.stored and quantization_of(config) and countable(config):
        raise InputError(f"{' '.join(found.advice)} {_KNOWINGLY}")


def _check_memory(found: MemoryPlan) -> None:
    short = [one for one in found.placements if one.left < 0 and one.device.key != "disk"]
    if not short:
        return
    one = min(short, key=lambda place: place.left)
    there = f"{one.device.name} has {gb(one.device.memory)}"
    wanted = f"{gb(one.weights + one.cache + one.working)} would go there"
    verdict = found.verdict if there in found.verdict else f"{found.verdict} {there}, and {wanted}."
    raise ModelError(f"{verdict} {' '.join(found.advice)} {_KNOWINGLY}")


def _on_disk(found: MemoryPlan) -> int:
    """Return the bytes of weights that stay on disk."""
    return sum(one.weights for one in found.placements if one.device.key == "disk")


def _check_disks(found: MemoryPlan, *, download: bool, folder: Path | None) -> None:
    """Refuse to write more than the disks hold: files of the hub, and layers that stay on disk.

    transformers writes these once more, because it stores experts in another form than it reads.
    """
    needs = []
    if download:
        needs.append((*_hub(found), "Set HF_HOME to a folder on a larger disk."))
    if folder is not None and _on_disk(found):
        size = _on_disk(found) - _bytes_in(folder, "*.safetensors")
        needs.append((folder, size, "Give an offload_folder on a larger disk, or more memory."))
    for place, size, advice in needs:
        beside = sum(other for there, other, _ in needs if there != place and _same(there, place))
        free, wanted = shutil.disk_usage(existing(place)).free, size + beside
        if wanted > free:
            raise ModelError(
                f"{found.model} needs {gb(wanted)} more on disk, and {place} has {gb(free)} free. "
                f"{advice}"
            )


def _hub(found: MemoryPlan) -> tuple[Path, int]:
    """Return the hub's cache, and the bytes of a model's files that it lacks."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    mine = cache / f"models--{found.model.replace('/', '--')}" / "blobs"
    return cache, (found.download or 0) - _bytes_in(mine, "*")


def _bytes_in(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern)) if folder.is_dir() else 0


def _same(one: Path, other: Path) -> bool:
    """Whether two folders lie on one disk."""
    return existing(one).stat().st_dev == existing(other).stat().st_dev

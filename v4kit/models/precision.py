"""The precision that a model was loaded in: what must stay in float32, what is quantized.

Sinks, hyper-connections and position biases are listed by transformers as to be kept in float32.
What it leaves on disk, it reads back in the model's dtype all the same; here that is mended. A
quantized weight means nothing without its scales, and transformers loads it without all the same.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import nn

from v4kit.errors import ModelError

_QUANTIZED = ("float8_e4m3fn", "float8_e5m2", "int8")
"""Dtypes of quantized weights; FP4 stands as two values in an int8."""


def keep_float32(model: Any, *, quantized: bool) -> int:
    """Let parameters on disk that belong in float32 be read so; return how many there were.

    Args:
        model: A transformers model that was just loaded.
        quantized: Whether its checkpoint is quantized: transformers then keeps norms as stored.

    Raises:
        ModelError: One that lies in memory is not in float32.
    """
    mended = 0
    for module, name, full in _listed(model):
        parameter = module.get_parameter(name)
        if parameter.dtype == torch.float32 or (quantized and "norm." in full):
            continue
        if not parameter.is_meta:
            raise ModelError(
                f"{full} was loaded as {_short(parameter.dtype)}, and must stay in float32: "
                'the model would not be the one that was trained. Load with dtype="float32".'
            )
        _read_as_float32(module, name, full)
        mended += 1
    return mended


def check_scales(model: Any) -> int:
    """Return how many modules hold quantized weights, each with its scales.

    Raises:
        ModelError: A weight is quantized and has none.
    """
    found, lacking = set(), []
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        for name, parameter in own.items():
            if _dtype(module, name, path, parameter) not in _QUANTIZED:
                continue
            found.add(path)
            if f"{name}_scale_inv" not in own:
                lacking.append(_full(path, name))
    if lacking:
        raise ModelError(
            f"{len(lacking)} quantized weights have no scales in the checkpoint, and would be "
            f"taken for numbers that they are not: {', '.join(lacking[:3])}. "
            "Check that the files are whole and belong to the config."
        )
    return len(found)


def _dtype(module: nn.Module, name: str, path: str, parameter: torch.Tensor) -> str:
    """Return what a parameter is kept as: in memory, or on disk."""
    entry = _on_disk(module).get(_full(path, name)) if parameter.is_meta else None
    return str(entry["dtype"]) if entry else _short(parameter.dtype)


def precisions(model: Any) -> dict[str, int]:
    """Return how many parameters there are of each dtype, most first; scales count as their own."""
    found: Counter[str] = Counter()
    for parameter in model.parameters():
        found[_short(parameter.dtype)] += parameter.numel()
    return dict(found.most_common())


def placements(model: Any) -> dict[str, int]:
    """Return the bytes of parameters by place in words, most first."""
    found: Counter[str] = Counter()
    for parameter in model.parameters():
        place = "elsewhere, fetched when used" if parameter.is_meta else f"on {parameter.device}"
        found[place] += parameter.numel() * parameter.element_size()
    return dict(found.most_common())


def peak_memory() -> str:
    """Return in words the most memory that this process has used so far."""
    gpus = [
        f"{torch.cuda.max_memory_allocated(index) / 1e9:.2f} GB on GPU {index}"
        for index in range(torch.cuda.device_count())
    ]
    return "Memory at most: " + ", ".join([*gpus, f"{_peak() / 1e9:.2f} GB of the process"])


def _peak() -> int:
    """Return the most bytes that this process has held at once."""
    try:
        import resource
    except ImportError:
        # Windows, where psutil is told.
        return int(psutil.Process().memory_info().peak_wset)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _listed(model: Any) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield module, name and full name of the parameters that must be in float32."""
    plan = model._get_dtype_plan(model.dtype)  # noqa: SLF001 - what loading goes by
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            full = _full(path, name)
            if any(part in plan for part in full.split(".")):
                yield module, name, full


def _read_as_float32(module: nn.Module, name: str, full: str) -> None:
    """Change the dtype that accelerate reads a parameter in, and that of its empty place."""
    index = _on_disk(module)
    if full not in index:
        raise ModelError(
            f"{full} must stay in float32, and it is not known how accelerate reads it from disk. "
            "Keep all layers in memory: give more by max_memory, or no offload_folder."
        )
    index[full]["dtype"] = "float32"
    empty = torch.empty_like(module.get_parameter(name), dtype=torch.float32)
    module.register_parameter(name, nn.Parameter(empty, requires_grad=False))


def _on_disk(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what accelerate knows of parameters that it reads from disk, by full name."""
    weights: Any = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    return getattr(getattr(weights, "dataset", weights), "index", None) or {}


def _full(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""How large a recording becomes, said before it starts."""

from __future__ import annotations

import numpy as np
import psutil

from v4kit.arch import Architecture
from v4kit.attention.spans import visible_columns
from v4kit.core import Record
from v4kit.errors import InputError
from v4kit.trace.attention_schema import ATTENTION_BY_NAME
from v4kit.trace.schema import BY_NAME


def recorded_bytes(architecture: Architecture, record: Record, tokens: int) -> int:
    """Return the bytes that recording a document of so many tokens takes before compression."""
    return tokens * _routing(architecture, record) + _attention(architecture, record, tokens)


def check_size(architecture: Architecture, record: Record, tokens: int) -> None:
    """Refuse what would not fit into memory.

    Raises:
        InputError: The recording would take more than the memory that is free.
    """
    needed = recorded_bytes(architecture, record, tokens)
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"Recording {tokens:,} tokens with {record!r} takes {needed:,} bytes "
            f"({needed / 1e9:,.1f} GB); {free / 1e9:,.1f} GB are free. "
            'Record the strongest sources (attention=16), heads="mean", or fewer tokens.'
        )


def _routing(architecture: Architecture, record: Record) -> int:
    """Return the bytes of one token's routing."""
    per_slot = {"ids": ["experts", "weights"]}.get(record.routing, ["experts", "weights", "scores"])
    slot = sum(np.dtype(BY_NAME[name].dtype).itemsize for name in per_slot)
    rest = 0 if record.routing == "ids" else 8
    rest += 4 * architecture.n_experts if record.routing == "full" else 0
    rest += 8 * (architecture.top_k + 1) if record.outputs else 0
    rest += 8 if record.streams else 0
    return architecture.n_layers * (architecture.top_k * slot + rest)


def _attention(architecture: Architecture, record: Record, tokens: int) -> int:
    """Return the bytes of a document's attention."""
    if record.attention is None:
        return 0
    heads = architecture.heads if record.heads == "each" else 1
    sizes = {"token": 1, "layer": architecture.n_layers, "head": heads, "source": record.sources}
    total = 0
    for variable in ATTENTION_BY_NAME.values():
        if variable.name.startswith("pool_") and not record.pooling:
            continue
        if "source" in variable.dims and record.sources is None:
            continue
        shape = [sizes[dim] or 0 for dim in variable.dims]
        total += tokens * int(np.prod(shape)) * np.dtype(variable.dtype).itemsize
    if record.attention == "full":
        positions = np.arange(tokens)
        for layer in architecture.layers:
            total += 4 * heads * int(visible_columns(layer.view, positions).sum())
    return total

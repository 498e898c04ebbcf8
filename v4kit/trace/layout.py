"""What lies where in a trace on disk; the writer and the reader both go by it.

A trace is a Zarr v3 group: one array per token column under `tokens/`, one per variable under
`routing/` and `attention/`. Texts are one array of UTF-8 bytes and one of the offset at which each
text ends; labels and the like are codes, whose strings stand in `committed.json` beside rows,
variables and meta.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from v4kit.core import EXPERT, LAYER, SLOT, TOKEN
from v4kit.trace.attention_schema import ATTENTION_BY_NAME, attention_dims, attention_sizes
from v4kit.trace.schema import BY_NAME, COLUMNS

FORMAT = "v4trace"
VERSION = 2
COMMITTED = "committed.json"
OVERVIEW = "overview.json"

ROWS = 4_096
"""Most rows of a chunk."""
BYTE = "byte"
"""Axis of text bytes."""
ELEMENT = "element"
"""Axis of the masses of one layer, row after row."""
_LONG = {BYTE: 65_536, ELEMENT: 262_144}
"""Elements of a chunk along axes that do not count tokens."""
_CHUNK_BYTES = 16 * 2**20
MOST_CHUNK_BYTES = 64 * 2**20
"""Most memory that one chunk of a file may ask for."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One array on disk."""

    path: str
    """Path within the group."""
    dtype: str
    """numpy type."""
    dims: tuple[str, ...]
    """Named axes."""
    sizes: tuple[int, ...]
    """Sizes of all axes but one that grows."""
    fill: Any
    """Value of elements that were never written; none of them is ever read."""

    @property
    def grows(self) -> bool:
        """Whether the first axis grows while the trace is written."""
        return self.dims[0] == TOKEN or self.dims[0] in _LONG

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of an array that grows, or of all of one that does not."""
        return np.dtype(self.dtype).itemsize * math.prod(self.sizes)

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of a chunk: 16 MB at most where rows are small enough."""
        if not self.grows:
            return self.sizes
        if self.dims[0] in _LONG:
            return (_LONG[self.dims[0]],)
        # A power of two, so that the chunks of all arrays end together.
        fitting = max(1, _CHUNK_BYTES // self.row_bytes)
        return (min(ROWS, 1 << (fitting.bit_length() - 1)), *self.sizes)


def token_arrays() -> list[Stored]:
    """Return the arrays of the token table."""
    arrays = []
    for column in COLUMNS:
        path = f"tokens/{column.name}"
        if column.dtype == "text":
            arrays.append(Stored(f"{path}_end", "int64", (TOKEN,), (), 0))
            arrays.append(Stored(f"{path}_bytes", "uint8", (BYTE,), (), 0))
        elif column.dtype == "code":
            arrays.append(Stored(path, "int32", (TOKEN,), (), 0))
        else:
            arrays.append(Stored(path, column.dtype, (TOKEN,), (), column.missing))
    return arrays


def routing_arrays(names: Iterable[str], architecture: dict[str, Any]) -> list[Stored]:
    """Return the arrays of these routing variables, in a model of this architecture."""
    sizes = {
        LAYER: len(architecture["layers"]),
        SLOT: architecture["top_k"],
        EXPERT: architecture["n_experts"],
    }
    return [
        Stored(
            f"routing/{name}",
            BY_NAME[name].dtype,
            BY_NAME[name].dims,
            tuple(sizes[dim] for dim in BY_NAME[name].dims if dim != TOKEN),
            BY_NAME[name].missing,
        )
        for name in names
    ]


def attention_arrays(names: Iterable[str], meta: dict[str, Any]) -> list[Stored]:
    """Return the arrays of these stored variables of attention, and of all masses if kept."""
    sizes = attention_sizes(meta)
    arrays = []
    for name in names:
        variable, dims = ATTENTION_BY_NAME[name], attention_dims(name, sizes)
        shape = tuple(sizes[dim] for dim in dims if dim != TOKEN)
        arrays.append(Stored(f"attention/{name}", variable.dtype, dims, shape, variable.missing))
    if meta["attention"]["sources"] == "full":
        arrays += [
            Stored(masses_path(layer), "float32", (ELEMENT,), (), float("nan"))
            for layer in range(sizes[LAYER])
        ]
    return arrays


def masses_path(layer: int) -> str:
    """Return where all masses of a layer lie."""
    return f"attention/masses_{layer}"

"""Reading a trace from disk: nothing in a file is believed before it is checked.

Opening reads the token table and looks at the first and the last chunk of the expert ids; all other
routing stays on disk, and each chunk is checked when it is read. Descriptions of arrays are checked
before Zarr sees them, so that no file can ask for another codec or for more memory.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import zarr

from v4kit.attention import Attention
from v4kit.core import TOKEN
from v4kit.errors import TraceError, TraceFormatError, TraceVersionError
from v4kit.trace import schema
from v4kit.trace.attention_schema import (
    ATTENTION_BY_NAME,
    check_attention_meta,
    check_recorded,
    check_sources,
    make_attention,
    masses_sizes,
    positions_of,
    views_of,
)
from v4kit.trace.files import Files
from v4kit.trace.layout import (
    BYTE,
    COMMITTED,
    ELEMENT,
    FORMAT,
    MOST_CHUNK_BYTES,
    VERSION,
    Stored,
    attention_arrays,
    masses_path,
    routing_arrays,
    token_arrays,
)
from v4kit.trace.trace import Trace

_DAMAGE = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What the libraries below raise on files that are not what they should be."""


def read(path: Path) -> Trace:
    """Return the trace in a file or folder; routing stays on disk until it is used."""
    if not (path.is_file() or path.is_dir()):
        raise TraceFormatError(f"There is no trace at {path}. Check the path.")
    try:
        return _read(Files(path.resolve()))
    except TraceError:
        raise
    except _DAMAGE as error:
        raise TraceFormatError(
            f"{path} is no v4kit trace, or a damaged one ({type(error).__name__}: {error}). "
            "Give a .v4trace file or the folder that a recording writes."
        ) from error


def _read(files: Files) -> Trace:
    state = _state(files.json([COMMITTED])[0], files)
    meta, rows = state["meta"], state["rows"]
    n_experts = meta["architecture"]["n_experts"]
    expected = [*token_arrays(), *routing_arrays(state["variables"], meta["architecture"])]
    attended = state["attention"]
    if attended:
        check_attention_meta(meta)
        expected += attention_arrays(attended, meta)
    described = files.json([f"{stored.path}/zarr.json" for stored in expected])
    store = files.store()
    arrays = {
        stored.path: _OnDisk(files, store, stored, described=description, rows=rows)
        for stored, description in zip(expected, described, strict=True)
    }
    for name in schema.EXPERT_IDS:
        if name in state["variables"]:
            arrays[f"routing/{name}"].check = partial(_check_ids, n_experts=n_experts)
            arrays[f"routing/{name}"].probe()
    routing = {name: arrays[f"routing/{name}"].lazy() for name in state["variables"]}
    tokens = _tokens(arrays, rows, state["codes"])
    attention = _attention(arrays, attended, tokens, meta) if attended else None
    return Trace(tokens, schema.routing_dataset(routing, meta), meta, attention)


def _attention(
    arrays: dict[str, _OnDisk], names: list[str], tokens: pd.DataFrame, meta: dict[str, Any]
) -> Attention:
    """Return attention that stays on disk until it is used."""
    if "code" in names:
        rates = np.array([view.rate for view in views_of(meta)])
        check = partial(check_sources, positions=positions_of(tokens), rates=rates)
        arrays["attention/code"].check = check
    lazy = {name: arrays[f"attention/{name}"].lazy() for name in names}
    masses = []
    for layer, size in enumerate(masses_sizes(tokens, meta)):
        if (path := masses_path(layer)) in arrays:
            arrays[path].cut(size)
            masses.append(arrays[path].lazy())
    return make_attention(lazy, tokens, meta, masses=masses)


def _check_ids(name: str, ids: np.ndarray, _key: tuple[Any, ...], n_experts: int) -> None:
    schema.check_ids(name, ids, n_experts)


def _state(state: Any, files: Files) -> dict[str, Any]:
    """Return the content of `committed.json`, checked."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TraceFormatError(f"{files} is no v4kit trace: it does not say so in {COMMITTED}.")
    version = state.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{COMMITTED} names version {version!r}")
    if version > VERSION:
        raise TraceVersionError(
            f"{files} has trace version {version}; this v4kit reads up to version {VERSION}. "
            "Update v4kit."
        )
    schema.check_meta(state["meta"])
    check_recorded(state["meta"])
    if type(state["rows"]) is not int or state["rows"] < 0:
        raise ValueError(f"{COMMITTED} says {state['rows']!r} rows")
    state.setdefault("attention", [])  # version 1 had none
    _check_names(state["variables"], schema.BY_NAME)
    _check_names(state["attention"], ATTENTION_BY_NAME)
    for strings in state["codes"].values():
        if not isinstance(strings, list) or not all(isinstance(s, str) for s in strings):
            raise ValueError("the codes are no lists of strings")
    return state


def _check_names(names: Any, known: dict[str, schema.Variable]) -> None:
    if not isinstance(names, list) or not {*names} <= known.keys():
        raise ValueError(f"unknown variables: {names}")


def _checked(described: Any, stored: Stored) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return sizes and chunk of an array whose description is one that a writer writes."""
    sizes = tuple(described["shape"])
    chunk = tuple(described["chunk_grid"]["configuration"]["chunk_shape"])
    fixed = {
        "zarr_format": 3,
        "node_type": "array",
        "data_type": stored.dtype,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "dimension_names": list(stored.dims),
    }
    sound = (
        all(described.get(key) == value for key, value in fixed.items())
        and described["chunk_grid"]["name"] == "regular"
        and [codec["name"] for codec in described["codecs"]] == ["bytes", "zstd"]
        and not described.get("storage_transformers")
        and all(type(size) is int and size >= 0 for size in (*sizes, *chunk))
        and sizes[stored.grows :] == stored.sizes
        and chunk[stored.grows :] == stored.sizes
        and len(sizes) == len(chunk) == len(stored.dims)
        and 0 < math.prod(chunk) * np.dtype(stored.dtype).itemsize <= MOST_CHUNK_BYTES
    )
    if not sound:
        raise ValueError(
            f"{stored.path} is not an array of {stored.dtype} {list(stored.dims)} of the sizes "
            "and codecs that traces have"
        )
    return sizes, chunk


class _OnDisk:
    """An array on disk, cut to the rows that count, that is checked as it is read."""

    def __init__(
        self,
        files: Files,
        store: Any,
        stored: Stored,
        *,
        described: Any,
        rows: int,
    ) -> None:
        sizes, self._chunk = _checked(described, stored)
        self._files, self._path = files, stored.path
        self.check: Callable[[str, np.ndarray, tuple[slice | int, ...]], None] | None = None
        self.shape, self.ndim, self.dtype = sizes, len(sizes), np.dtype(stored.dtype)
        if stored.dims[0] not in (BYTE, ELEMENT):
            self.cut(rows if stored.dims[0] == TOKEN else sizes[0])
        self._array = zarr.open_array(store, path=stored.path, mode="r", zarr_format=3)

    def __getitem__(self, key: tuple[slice | int, ...]) -> np.ndarray:
        rows = key[0]
        if not isinstance(rows, slice):  # Dask asks for a single row by its number
            rows = slice(int(rows), int(rows) + 1)
        start, stop, _ = rows.indices(self.shape[0])
        try:
            self._require(start, stop)
            values = np.asarray(self._array[key])
        except _DAMAGE as error:
            raise TraceFormatError(
                f"{self._path} of the trace at {self._files} can't be read "
                f"({type(error).__name__}: {error}). The trace was damaged, moved or deleted."
            ) from error
        if self.check is not None:
            self.check(self._path, values, key)
        return values

    def cut(self, size: int) -> None:
        """Forget what lies beyond a size, which a later flush wrote; all before must be there."""
        if self.shape[0] < size:
            raise ValueError(f"{self._path} has {self.shape[0]} of {size} rows")
        self.shape = (size, *self.shape[1:])
        self._require(0, size)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return some rows."""
        return self[(slice(start, stop),)]

    def probe(self) -> None:
        """Read, and so check, the first and the last chunk."""
        rows, chunk = self.shape[0], self._chunk[0]
        self.read(0, min(rows, chunk))
        self.read(max(rows - 1, 0) // chunk * chunk, rows)

    def lazy(self) -> Any:
        """Return a Dask array, one block per chunk."""
        nothing = np.empty((0,) * self.ndim, self.dtype)
        return dask.array.from_array(  # type: ignore[no-untyped-call]
            self, chunks=self._chunk, name=False, meta=nothing, fancy=False
        )

    def _require(self, start: int, stop: int) -> None:
        """Refuse rows whose chunks are lost; Zarr itself would make up values for them."""
        for number in range(start // self._chunk[0], -(-stop // self._chunk[0])):
            name = f"{self._path}/c/{number}" + "/0" * (self.ndim - 1)
            if not self._files.has(name):
                raise ValueError(f"{name} is missing")


def _tokens(arrays: dict[str, _OnDisk], rows: int, codes: dict[str, list[str]]) -> pd.DataFrame:
    """Return the token table, texts and codes turned back into strings."""
    frame: dict[str, pd.Series[Any]] = {}
    for column in schema.COLUMNS:
        path = f"tokens/{column.name}"
        if column.dtype == "text":
            texts = _texts(arrays[f"{path}_end"].read(0, rows), arrays[f"{path}_bytes"])
            frame[column.name] = pd.Series(texts, dtype="str")
        elif column.dtype == "code":
            known = codes[column.name]
            values = arrays[path].read(0, rows)
            if rows and (values.min() < 0 or values.max() >= len(known)):
                raise ValueError(f"codes of {column.name} are out of range")
            frame[column.name] = pd.Series([known[value] for value in values], dtype="str")
        else:
            frame[column.name] = pd.Series(arrays[path].read(0, rows))
    return pd.DataFrame(frame)


def _texts(ends: np.ndarray, data: _OnDisk) -> list[str]:
    """Return texts by where each ends in their bytes."""
    bounds = np.concatenate([[0], ends])
    if (np.diff(bounds) < 0).any() or bounds[-1] > data.shape[0]:
        raise ValueError("the ends of the texts are out of order")
    whole = data.read(0, int(bounds[-1])).tobytes()
    pairs = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    return [whole[start:stop].decode() for start, stop in pairs]

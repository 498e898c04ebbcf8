"""Writing a trace to a folder, piece by piece, so that a killed process loses little."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from v4kit.core import TOKEN
from v4kit.errors import TraceError, TraceWriteError
from v4kit.trace import schema
from v4kit.trace.attention_schema import check_attention, check_recorded, check_rows
from v4kit.trace.layout import (
    COMMITTED,
    FORMAT,
    MOST_CHUNK_BYTES,
    VERSION,
    Stored,
    attention_arrays,
    routing_arrays,
    token_arrays,
)
from v4kit.trace.overview import Overview
from v4kit.trace.trace import Trace
from v4kit.trace.values import Values

_HELD = 64 * 2**20
"""Bytes of attention masses that wait for a chunk of rows to be whole."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while writing into ours."""
    try:
        yield
    except TraceWriteError:
        raise
    except OSError as error:
        raise TraceWriteError(
            f"The trace could not be written to {path}: {error.strerror or error}. "
            "Free space or choose another place; what was there before is unchanged."
        ) from error


def to_json(data: Any) -> bytes:
    """Return JSON in ASCII, which no editor or viewer misreads; numpy's scalars become numbers.

    Raises:
        TraceWriteError: Something in the data is no JSON; only `trace.meta` can hold such.
    """
    try:
        return json.dumps(data, default=_plain, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise TraceWriteError(
            f"trace.meta can't be written as JSON ({error}). "
            "Keep finite numbers, strings, lists and dicts with string keys in it."
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


class TraceWriter:
    """Appends traces to a folder; everything up to the last `flush` survives a killed process.

    Rows are written at known places, one chunk at a time, and count once `committed.json` says so;
    it is replaced at once. What failed half-way is written again by the next `flush`.

    Raises:
        TraceWriteError: The folder exists and is not empty, the disk is full, or the place can't
            be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TraceWriteError(
                f"{folder} exists already. Choose another name, or delete it first."
            )
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._overview: Overview | None = None
        self._meta: dict[str, Any] = {}
        self._variables: list[str] = []
        self._stored: dict[str, Stored] = {}
        self._arrays: dict[str, Any] = {}
        self._attention: list[str] = []
        self._values = Values()
        self._pending: list[Trace] = []
        self._rows = 0
        self._held = 0
        self._ends: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._arrays:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
        elif kind is None or not issubclass(kind, TraceWriteError):
            self.flush()

    @property
    def rows(self) -> int:
        """Rows appended so far."""
        return self._rows

    @property
    def overview(self) -> Overview:
        """What was counted while rows were appended.

        Raises:
            TraceWriteError: Nothing was appended.
        """
        if self._overview is None:
            raise TraceWriteError(f"Nothing was written to {self.folder}. Append a trace first.")
        return self._overview

    def append(self, trace: Trace) -> None:
        """Append all rows of a trace; they count after the next `flush`.

        Raises:
            TraceError: The trace does not fit to those before it, or its own parts to each other.
            TraceWriteError: The disk is full, or the meta is no JSON.
        """
        schema.check_shapes(trace.tokens, trace.routing, trace.meta)
        check_recorded(trace.meta)
        if trace.stored_attention is not None:
            check_attention(trace.stored_attention, len(trace), trace.meta)
        if not self._arrays:
            self._create(trace)
        self._check_fits(trace)
        step, start = min(s.chunk[0] for s in self._stored.values() if s.dims[0] == TOKEN), 0
        masses = _mass_bytes(trace)
        while start < len(trace):
            stop = min(len(trace), start + step - self._rows % step)
            # Rows of long documents may have so many masses that a whole chunk of them is too much.
            fitting = np.searchsorted(np.cumsum(masses[start:stop]), _HELD - self._held)
            stop = min(stop, start + 1 + int(fitting))
            self._hold(trace[start:stop])
            self._held += int(masses[start:stop].sum())
            start = stop
            if self._rows % step == 0 or self._held >= _HELD:
                with writing(self.folder):
                    self._write()

    def flush(self) -> None:
        """Make what was appended count."""
        with writing(self.folder):
            self._write()
            self._commit()

    def _create(self, trace: Trace) -> None:
        """Lay out the empty arrays of a trace like this one."""
        self._meta = json.loads(to_json(trace.meta))
        self._variables = [str(name) for name in trace.routing.data_vars]
        architecture = self._meta["architecture"]
        stored = [*token_arrays(), *routing_arrays(self._variables, architecture)]
        if trace.stored_attention is not None:
            self._attention = _attention_names(trace)
            stored += attention_arrays(self._attention, self._meta)
        for array in stored:
            if (size := math.prod(array.chunk) * np.dtype(array.dtype).itemsize) > MOST_CHUNK_BYTES:
                raise TraceError(
                    f"One row of {array.path} takes {size:,} bytes; a trace on disk holds rows of "
                    f"up to {MOST_CHUNK_BYTES:,}. Record fewer sources or heads, or "
                    'attention="full", which has no such limit.'
                )
        self._stored = {array.path: array for array in stored}
        with writing(self.folder):
            root = zarr.create_group(LocalStore(self.folder), zarr_format=3)
            arrays = {path: _create_array(root, array) for path, array in self._stored.items()}
            for name in self._variables:
                if not self._stored[f"routing/{name}"].grows:
                    arrays[f"routing/{name}"][...] = trace.routing[name].to_numpy()
            self._arrays = arrays
            self._commit()
        self._overview = Overview(self._meta)

    def _check_fits(self, trace: Trace) -> None:
        asked = ["architecture", "attention"] if trace.stored_attention else ["architecture"]
        same = all(json.loads(to_json(trace.meta[n])) == self._meta.get(n) for n in asked)
        variables = {str(name) for name in trace.routing.data_vars}
        attention = _attention_names(trace)
        if not same or variables != set(self._variables) or attention != self._attention:
            held = [*self._variables, *(f"attention {name}" for name in self._attention)]
            raise TraceError(
                f"{trace!r} can't be appended to {self.folder}, which holds "
                f"{', '.join(held)} of {self._meta.get('model')}. "
                "Record with the same model and the same Record."
            )

    def _hold(self, part: Trace) -> None:
        n_experts = self._meta["architecture"]["n_experts"]
        attention = None if part.stored_attention is None else part.stored_attention.load()
        loaded = Trace(part.tokens, part.routing.load(), part.meta, attention)
        for name in schema.EXPERT_IDS:
            if name in loaded.routing:
                schema.check_ids(name, loaded.routing[name].to_numpy(), n_experts)
        if attention is not None:
            check_rows(attention, part.tokens)
        self._pending.append(loaded)
        self._rows += len(part)
        self.overview.add(loaded)

    def _write(self) -> None:
        """Write what is pending; after a failure the same rows are written to the same places."""
        if not self._pending:
            return
        values = self._values.of(self._pending, self._stored, self._ends)
        ends = {}
        for path, rows in values.items():
            start = self._ends.get(path, 0)
            ends[path] = start + len(rows)
            array = self._arrays[path]
            if array.shape[0] < ends[path]:
                array.resize((ends[path], *array.shape[1:]))
            array[start : ends[path]] = rows
        self._ends, self._pending, self._held = ends, [], 0

    def _commit(self) -> None:
        state = {
            "format": FORMAT,
            "version": VERSION,
            "rows": self._ends.get("tokens/id", 0),
            "variables": self._variables,
            "attention": self._attention,
            "codes": self._values.codes,
            "meta": self._meta,
        }
        partial = self.folder / f"{COMMITTED}.partial"
        with partial.open("wb") as file:
            file.write(to_json(state))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / COMMITTED)


def _attention_names(trace: Trace) -> list[str]:
    """Return the names of a trace's stored variables of attention, sorted."""
    kept = trace.stored_attention
    return [] if kept is None else sorted(str(name) for name in kept.values.data_vars)


def _mass_bytes(trace: Trace) -> np.ndarray:
    """Return how many bytes of masses each row has, where all are kept."""
    sizes = np.zeros(len(trace), np.int64)
    for layer in trace.stored_attention.masses if trace.stored_attention else ():
        sizes += layer.columns * layer.heads * np.dtype(np.float32).itemsize
    return sizes


def _create_array(root: Any, stored: Stored) -> Any:
    return root.create_array(
        stored.path,
        shape=(0, *stored.sizes) if stored.grows else stored.sizes,
        chunks=stored.chunk,
        dtype=stored.dtype,
        compressors=ZstdCodec(level=1, checksum=True),
        dimension_names=stored.dims,
        fill_value=stored.fill,
        # Chunks of nothing but the fill value are written too: a chunk that is not there is lost.
        config={"write_empty_chunks": True},
    )

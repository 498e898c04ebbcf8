"""Writing a trace to a folder, piece by piece, so that a killed process loses little."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from v4kit.errors import TraceError, TraceWriteError
from v4kit.trace import schema
from v4kit.trace.layout import COMMITTED, FORMAT, VERSION, Stored, routing_arrays, token_arrays
from v4kit.trace.overview import Overview
from v4kit.trace.trace import Trace


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
        self._codes: dict[str, dict[str, int]] = {
            column.name: {} for column in schema.COLUMNS if column.dtype == "code"
        }
        self._pending: list[Trace] = []
        self._rows = 0
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
        if not self._arrays:
            self._create(trace)
        self._check_fits(trace)
        step, start = min(s.chunk[0] for s in self._stored.values() if s.grows), 0
        while start < len(trace):
            stop = min(len(trace), start + step - self._rows % step)
            self._hold(trace[start:stop])
            start = stop
            if self._rows % step == 0:
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
        same = json.loads(to_json(trace.meta["architecture"])) == self._meta["architecture"]
        if not same or {str(name) for name in trace.routing.data_vars} != set(self._variables):
            raise TraceError(
                f"{trace!r} can't be appended to {self.folder}, which holds "
                f"{', '.join(self._variables)} of {self._meta.get('model')}. "
                "Record with the same model and the same Record."
            )

    def _hold(self, part: Trace) -> None:
        n_experts = self._meta["architecture"]["n_experts"]
        loaded = Trace(part.tokens, part.routing.load(), part.meta)
        for name in schema.EXPERT_IDS:
            if name in loaded.routing:
                schema.check_ids(name, loaded.routing[name].to_numpy(), n_experts)
        self._pending.append(loaded)
        self._rows += len(part)
        self.overview.add(loaded)

    def _write(self) -> None:
        """Write what is pending; after a failure the same rows are written to the same places."""
        if not self._pending:
            return
        tokens = pd.concat([part.tokens for part in self._pending], ignore_index=True)
        values = self._token_values(tokens)
        for name in self._variables:
            if self._stored[f"routing/{name}"].grows:
                parts = [part.routing[name].to_numpy() for part in self._pending]
                values[f"routing/{name}"] = np.concatenate(parts)
        ends = {}
        for path, rows in values.items():
            start = self._ends.get(path, 0)
            ends[path] = start + len(rows)
            array = self._arrays[path]
            if array.shape[0] < ends[path]:
                array.resize((ends[path], *array.shape[1:]))
            array[start : ends[path]] = rows
        self._ends, self._pending = ends, []

    def _token_values(self, tokens: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the new elements of every array of the token table."""
        values: dict[str, np.ndarray] = {}
        for column in schema.COLUMNS:
            path, series = f"tokens/{column.name}", tokens[column.name]
            if column.dtype == "text":
                encoded = [text.encode() for text in schema.plain_text(series.fillna("").tolist())]
                sizes = np.cumsum([len(text) for text in encoded], dtype=np.int64)
                values[f"{path}_end"] = sizes + self._ends.get(f"{path}_bytes", 0)
                values[f"{path}_bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
            elif column.dtype == "code":
                codes = self._codes[column.name]
                numbers, texts = pd.factorize(series.fillna(column.missing))
                known = [codes.setdefault(t, len(codes)) for t in schema.plain_text(texts)]
                values[path] = np.array(known, np.int32)[numbers]
            else:
                values[path] = schema.exactly(column.name, series.to_numpy(), column.dtype)
        return values

    def _commit(self) -> None:
        state = {
            "format": FORMAT,
            "version": VERSION,
            "rows": self._ends.get("tokens/id", 0),
            "variables": self._variables,
            "codes": {name: list(codes) for name, codes in self._codes.items()},
            "meta": self._meta,
        }
        partial = self.folder / f"{COMMITTED}.partial"
        with partial.open("wb") as file:
            file.write(to_json(state))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / COMMITTED)


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

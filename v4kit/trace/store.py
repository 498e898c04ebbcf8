"""A trace on disk: a Zarr v3 group in a folder while it grows, zipped when it is sent.

`TraceWriter` appends to a folder and ends each flush by atomically replacing `committed.json`, which
says how many rows are whole; opening truncates to it. A `.v4trace` file is such a folder as an
uncompressed zip with a small `overview.json` first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from zarr.codecs import BytesCodec, ZstdCodec
from zarr.storage import LocalStore, ZipStore

from v4kit.core import TOKEN
from v4kit.errors import TraceFormatError, TraceVersionError, TraceWriteError
from v4kit.trace import schema
from v4kit.trace.overview import Overview
from v4kit.trace.trace import Trace

FORMAT = "v4trace"
VERSION = 1
COMMITTED = "committed.json"
OVERVIEW = "overview.json"
ROWS = 4_096
"""Rows of a chunk."""
_BYTES = 65_536
_CODECS = (BytesCodec, ZstdCodec)


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


class TraceWriter:
    """Appends traces to a folder; everything up to the last `flush` survives a killed process.

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
            self._root = zarr.create_group(LocalStore(folder), zarr_format=3)
        self._arrays: dict[str, Any] = {}
        self._state: dict[str, Any] = {"format": FORMAT, "version": VERSION, "rows": 0}
        self._codes: dict[str, dict[str, int]] = {}
        self.overview: Overview | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    @property
    def rows(self) -> int:
        """Rows appended so far."""
        return int(self._state["rows"])

    def append(self, trace: Trace) -> None:
        """Append all rows of a trace; they count after the next `flush`."""
        with writing(self.folder):
            if not self._arrays:
                self._create(trace)
            for start in range(0, len(trace), ROWS):
                self._extend(trace[start : start + ROWS])

    def flush(self) -> None:
        """Make what was appended count, by replacing `committed.json` at once."""
        with writing(self.folder):
            state = {**self._state, "codes": {k: list(v) for k, v in self._codes.items()}}
            partial = self.folder / (COMMITTED + ".partial")
            with partial.open("w", encoding="utf-8") as file:
                json.dump(state, file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / COMMITTED)

    def _array(self, name: str, dtype: str, dims: tuple[str, ...], shape: tuple[int, ...]) -> None:
        grows = dims[0] in (TOKEN, "byte")
        first = (_BYTES if dims[0] == "byte" else ROWS) if grows else shape[0]
        self._arrays[name] = self._root.create_array(
            name,
            shape=(0, *shape[1:]) if grows else shape,
            chunks=(first, *shape[1:]),
            dtype=dtype,
            compressors=ZstdCodec(level=1),
            dimension_names=dims,
        )

    def _create(self, trace: Trace) -> None:
        self._root.create_group("tokens")
        self._root.create_group("routing")
        for column in schema.COLUMNS:
            if column.dtype == "text":
                self._array(f"tokens/{column.name}_end", "int64", (TOKEN,), (0,))
                self._array(f"tokens/{column.name}_bytes", "uint8", ("byte",), (0,))
            else:
                self._codes.update({column.name: {}} if column.dtype == "code" else {})
                dtype = "int32" if column.dtype == "code" else column.dtype
                self._array(f"tokens/{column.name}", dtype, (TOKEN,), (0,))
        for name, variable in trace.routing.data_vars.items():
            known = schema.BY_NAME[str(name)]
            self._array(f"routing/{name}", known.dtype, known.dims, variable.shape)
            if TOKEN not in known.dims:
                self._arrays[f"routing/{name}"][:] = variable.to_numpy()
        self._state["meta"] = trace.meta
        self.overview = Overview(trace.meta)

    def _extend(self, part: Trace) -> None:
        for column in schema.COLUMNS:
            values = part.tokens[column.name]
            if column.dtype == "text":
                encoded = [text.encode("utf-8", "surrogatepass") for text in values]
                bytes_array = self._arrays[f"tokens/{column.name}_bytes"]
                ends = np.cumsum([len(e) for e in encoded], dtype=np.int64) + bytes_array.shape[0]
                _append(bytes_array, np.frombuffer(b"".join(encoded), np.uint8))
                _append(self._arrays[f"tokens/{column.name}_end"], ends)
            elif column.dtype == "code":
                codes = self._codes[column.name]
                for text in values.unique():
                    codes.setdefault(text, len(codes))
                _append(self._arrays[f"tokens/{column.name}"], values.map(codes).to_numpy())
            else:
                _append(self._arrays[f"tokens/{column.name}"], values.to_numpy())
        for name, variable in part.routing.data_vars.items():
            if TOKEN in variable.dims:
                _append(self._arrays[f"routing/{name}"], variable.to_numpy())
        self._state["rows"] += len(part)
        if self.overview is not None:
            self.overview.add(part)


def _append(array: Any, values: np.ndarray) -> None:
    """Append rows along the first axis, writing only the chunks they touch."""
    start = array.shape[0]
    array.resize((start + len(values), *array.shape[1:]))
    array[start:] = values.astype(array.dtype)


def save(trace: Trace, path: Path) -> Path:
    """Write the trace as one `.v4trace` file; return its path."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            folder, packed = Path(scratch, "trace"), Path(scratch, "packed")
            with TraceWriter(folder) as writer:
                writer.append(trace)
            assert writer.overview is not None
            pack(folder, packed, writer.overview)
            if path.is_dir():
                shutil.rmtree(path)
            packed.replace(path)
    return path


def pack(folder: Path, path: Path, overview: Overview) -> None:
    """Zip a finished folder, uncompressed (its chunks are compressed), the overview first."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(OVERVIEW, json.dumps(overview.data(), ensure_ascii=False))
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())


def read(path: Path) -> Trace:
    """Return the trace in a file or folder; routing stays on disk until it is used."""
    if not path.exists():
        raise TraceFormatError(f"There is no trace at {path}. Check the path.")
    store, state = _open(path)
    rows, meta = _state(state, path)
    try:
        root = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
        _check_arrays(root, rows, path)
        tokens = _read_tokens(root["tokens"], rows, state["codes"])
    except (
        KeyError,
        ValueError,
        IndexError,
        OSError,
        RuntimeError,
        zarr.errors.BaseZarrError,
    ) as e:
        raise TraceFormatError(
            f"{path} is a damaged trace ({type(e).__name__}: {e}). Write it again."
        ) from e
    variables = xr.open_zarr(
        store, group="routing", zarr_format=3, consolidated=False, mask_and_scale=False
    )
    arrays = {str(name): array.data for name, array in variables.data_vars.items()}
    unknown = [name for name in arrays if name not in schema.BY_NAME]
    if unknown:
        raise TraceFormatError(f"{path} has unknown routing variables: {', '.join(unknown)}.")
    arrays = {n: a[:rows] if TOKEN in schema.BY_NAME[n].dims else a for n, a in arrays.items()}
    routing = schema.routing_dataset(arrays, meta)
    trace = Trace(tokens, routing, meta)
    schema.check_ranges(routing, int(meta["architecture"]["n_experts"]))
    return trace


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the Zarr store and the content of `committed.json`."""
    try:
        if path.is_dir():
            return LocalStore(path, read_only=True), json.loads(
                (path / COMMITTED).read_text("utf-8")
            )
        with zipfile.ZipFile(path) as archive:
            state = json.loads(archive.read(COMMITTED))
        return ZipStore(path, mode="r"), state
    except (OSError, KeyError, zipfile.BadZipFile, ValueError) as error:
        raise TraceFormatError(
            f"{path} is no v4kit trace, or its end is missing ({error}). "
            "Give a .v4trace file or the folder that a recording writes."
        ) from error


def _state(state: Any, path: Path) -> tuple[int, dict[str, Any]]:
    """Return rows and meta of `committed.json`, its version checked."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TraceFormatError(f"{path} is no v4kit trace: it does not say so in {COMMITTED}.")
    version = state.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise TraceVersionError(
            f"{path} has trace version {version}; this v4kit reads up to version {VERSION}. "
            "Update v4kit."
        )
    meta = state.get("meta")
    schema.check_meta(meta)
    rows = state.get("rows")
    if not isinstance(rows, int) or rows < 0 or not isinstance(state.get("codes"), dict):
        raise TraceFormatError(f"{path} is a damaged trace: {COMMITTED} says {rows!r} rows.")
    return rows, dict(meta)  # type: ignore[arg-type]


def _check_arrays(root: Any, rows: int, path: Path) -> None:
    """Refuse arrays that are too short or that need a codec this format does not use."""
    for group in ("tokens", "routing"):
        for name, array in root[group].arrays():
            if not all(isinstance(codec, _CODECS) for codec in array.metadata.codecs):
                raise TraceFormatError(f"{path}: {name} uses a codec that traces do not use.")
            grows = array.metadata.dimension_names[0] == TOKEN
            if array.dtype.kind not in "iufb" or (grows and array.shape[0] < rows):
                raise TraceFormatError(
                    f"{path} is truncated: {name} has {array.shape[0]} of {rows} rows."
                )


def _read_tokens(group: Any, rows: int, codes: dict[str, list[str]]) -> pd.DataFrame:
    """Return the token table, texts and codes turned back into strings."""
    frame: dict[str, Any] = {}
    for column in schema.COLUMNS:
        if column.dtype == "text":
            ends = group[f"{column.name}_end"][:rows]
            last = int(ends[-1]) if rows else 0
            data = group[f"{column.name}_bytes"][:last].tobytes()
            starts = np.concatenate([[0], ends[:-1]]) if rows else ends
            pairs = zip(starts.tolist(), ends.tolist(), strict=True)
            texts = [data[a:b].decode("utf-8", "surrogatepass") for a, b in pairs]
            frame[column.name] = pd.Series(texts, dtype="str")
        elif column.dtype == "code":
            known = np.array([str(c) for c in codes[column.name]], dtype=object)
            values = group[column.name][:rows]
            if rows and (values.min() < 0 or values.max() >= len(known)):
                raise TraceFormatError(f"The trace's {column.name} codes are out of range.")
            frame[column.name] = pd.Series(known[values] if rows else [], dtype="str")
        else:
            frame[column.name] = pd.Series(group[column.name][:rows])
    return pd.DataFrame(frame)

"""A trace on disk: a Zarr v3 group in a folder while it grows, zipped when it is sent.

`TraceWriter` appends to a folder and ends each flush by replacing `committed.json` at once; it says
how many rows are whole, and opening truncates to it. A `.v4trace` file is such a folder as an
uncompressed zip with a small `overview.json` first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from v4kit.errors import TraceWriteError
from v4kit.trace import schema
from v4kit.trace.layout import OVERVIEW
from v4kit.trace.overview import Overview
from v4kit.trace.reader import read
from v4kit.trace.trace import Trace
from v4kit.trace.writer import TraceWriter, to_json, writing

__all__ = ["TraceWriter", "pack", "read", "save", "writing"]

_TRIES = 100


def save(trace: Trace, path: Path) -> Path:
    """Write the trace as one `.v4trace` file; return its path."""
    if path.is_dir():
        raise TraceWriteError(
            f"{path} is a folder; save writes one file and deletes no folder. "
            "Choose another name, or delete the folder first."
        )
    extra = [str(name) for name in trace.tokens if name not in schema.COLUMN_NAMES]
    if extra:
        warnings.warn(
            f"The columns {', '.join(extra)} of trace.tokens are not kept in a .v4trace file; "
            "to_parquet keeps them.",
            stacklevel=3,
        )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path.parent) as scratch:
            folder, packed = scratch / "trace", scratch / "packed"
            with TraceWriter(folder) as writer:
                writer.append(trace)
            pack(folder, packed, writer.overview)
            packed.replace(path)
    return path


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """Give a folder beside the target, and take it away again.

    After an error Zarr's threads may still write for a moment, so removing is tried again.
    """
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=".v4trace-"))
    try:
        yield folder
    finally:
        for _ in range(_TRIES):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.05)


def pack(folder: Path, path: Path, overview: Overview) -> None:
    """Zip a finished folder, uncompressed (its chunks are compressed), the overview first.

    Equal folders make equal files: members are sorted and carry no time of their own.
    """
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, OVERVIEW, to_json(overview.data()))
            for member in sorted(p for p in folder.rglob("*") if p.is_file()):
                _add(archive, member.relative_to(folder).as_posix(), member.read_bytes())
        file.flush()
        os.fsync(file.fileno())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)

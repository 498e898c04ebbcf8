"""The members of a trace's file or folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import IO, Any

from zarr.storage import LocalStore, ZipStore

_JSON_BYTES = 64 * 2**20
"""Longest JSON member that is read."""


class Files:
    """The members of a trace's file or folder, read without unpacking anything."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: frozenset[str] | None = None
        if not path.is_dir():
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
                raise ValueError("a member of the zip is compressed or encrypted")
            self._members = frozenset(member.filename for member in members)
            if len(self._members) < len(members):
                raise ValueError("two members of the zip have one name")

    def __str__(self) -> str:
        return str(self._path)

    def store(self) -> Any:
        """Return the Zarr store of these files."""
        if self._members is None:
            return LocalStore(self._path, read_only=True)
        return ZipStore(self._path, mode="r")

    def has(self, name: str) -> bool:
        """Tell whether there is a member of this name."""
        if self._members is None:
            return (self._path / name).is_file()
        return name in self._members

    def json(self, names: list[str]) -> list[Any]:
        """Return the contents of JSON members."""
        if self._members is None:
            paths = [self._path / name for name in names]
            return [_json(path.open("rb"), path.stat().st_size) for path in paths]
        with zipfile.ZipFile(self._path) as archive:
            return [_json(archive.open(n), archive.getinfo(n).file_size) for n in names]


def _json(file: IO[bytes], size: int) -> Any:
    with file:
        if size > _JSON_BYTES:
            raise ValueError(f"{file.name} has {size:,} bytes")
        return json.loads(file.read(size))

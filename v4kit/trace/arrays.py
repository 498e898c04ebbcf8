"""Arrays of expert ids as other tools write them: files that are not believed, and gaps."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from v4kit.core import NONE
from v4kit.errors import InputError

_IDS = ("token_ids", "input_ids", "ids", "tokens")
"""What files call the array of token ids. Others of one axis are masks, rewards or the like."""


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """Return the array of a `.npy` file of so many bytes, from its beginning.

    Its header is believed only where the bytes bear it out, and no object is made of them.

    Raises:
        ValueError: It is no such file, or a damaged one.
    """
    try:
        shape, by_columns, dtype = _header(file)
        rest = size - file.tell()
        sound = all(type(n) is int and n >= 0 for n in shape) and not dtype.hasobject
        if sound and rest == dtype.itemsize * math.prod(shape):
            flat = np.frombuffer(file.read(rest), dtype)
            return flat.reshape(shape, order="F" if by_columns else "C").copy()
    except Exception as error:
        # A header is Python text, and numpy fails on others in a dozen ways; archives in more.
        raise ValueError(f"It is no whole .npy file ({type(error).__name__}).") from error
    raise ValueError(
        f"It says that it is {dtype} {_short(shape)}, in {rest:,} bytes; integers were expected, "
        "and as many as come."
    )


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return expert ids `[token, layer, slot]` and token ids `[token]` of a file, if it has them.

    Token ids are an array that is called so; one of another name is not taken for them. Nothing in
    the file is executed.

    Raises:
        InputError: It can't be read, or it is not clear which array is which.
    """
    try:
        arrays = _archive(path) if zipfile.is_zipfile(path) else {"": _single(path)}
    # A damaged archive fails in as many ways as there are bytes in it.
    except Exception as error:
        why = str(error).rstrip(".") or type(error).__name__
        raise InputError(
            f"{path} can't be read as .npy or .npz: {why}. Give an array of integers "
            "[token, layer, slot]."
        ) from error
    experts = [array for array in arrays.values() if array.ndim == 3]
    ids = [arrays[name] for name in _IDS if name in arrays and arrays[name].ndim == 1]
    if len(experts) != 1 or len(ids) > 1:
        shapes = ", ".join(f"{name or 'array'} {array.shape}" for name, array in arrays.items())
        raise InputError(
            f"{path} holds {shapes or 'no array'}; needed are one array [token, layer, slot] and "
            "at most one [token] that is called token_ids. Load it yourself and give the arrays."
        )
    return experts[0], ids[0] if ids else None


def captured(ids: np.ndarray) -> np.ndarray:
    """Return expert ids `[token, layer, slot]`, −1 where zeros in all slots tell of nothing."""
    if ids.shape[2] == 1:
        return ids
    blank = (ids == 0).all(axis=2, keepdims=True)
    return np.where(blank, NONE, ids.astype(np.int64)) if blank.any() else ids


def check_distinct(ids: np.ndarray) -> None:
    """Raise `InputError` if a token has an expert twice in a layer."""
    ordered = np.sort(ids, axis=2)
    twice = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] != NONE)).any(axis=2)
    if twice.any():
        token, layer = (int(n) for n in np.argwhere(twice)[0])
        raise InputError(
            f"Token {token} has an expert twice in layer {layer}: {ids[token, layer].tolist()}. A "
            "router chooses each once; are the axes [token, layer, slot], and is −1 what stands "
            "for none?"
        )


def with_row(values: Any, rows: int, last: Any) -> Any:
    """Return values `[token, …]` of so many rows with one more; others, and None, as they are."""
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != rows:
        return values
    if np.ndim(values) == 1:
        return [*_plain(values), last]
    array = np.asarray(values)
    # Signed, for −1 is to be one of them.
    signed = array.astype(np.int64) if array.dtype.kind in "iu" else array
    return np.concatenate([signed, np.full((1, *array.shape[1:]), last)])


def last_of(values: Any, default: Any) -> Any:
    """Return the last of some values, or the default if there are none."""
    return _plain(values)[-1] if hasattr(values, "__len__") and len(values) else default


def _plain(values: Any) -> list[Any]:
    """Return values of Python's own types, where they can be such."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _header(file: IO[bytes]) -> Any:
    """Return shape, whether columns come first, and dtype."""
    reader: Any = np.lib.format
    version, _ = reader.read_magic(file)
    if version not in (1, 2, 3):
        raise ValueError(f"Version {version} is not known.")
    older = version == 1
    return (reader.read_array_header_1_0 if older else reader.read_array_header_2_0)(file)


def _single(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return read_npy(file, path.stat().st_size)


def _archive(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        found = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name != member.filename:
                with archive.open(member) as file:
                    found[name] = read_npy(file, member.file_size)
        return found


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 60 else f"{text[:60]}…"

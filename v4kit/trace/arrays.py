"""Arrays of expert ids as other tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from v4kit.core import NONE
from v4kit.errors import InputError


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return expert ids `[token, layer, slot]` and token ids `[token]` of a file, if it has them.

    Nothing in the file is executed: arrays of objects are refused.

    Raises:
        InputError: It can't be read, or it is not clear which array is which.
    """
    try:
        found = np.load(path, allow_pickle=False)
        arrays = {"": found} if isinstance(found, np.ndarray) else dict(found)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} can't be read as .npy or .npz: {error} Give an array of integers "
            "[token, layer, slot]."
        ) from error
    by_axes = {axes: [a for a in arrays.values() if a.ndim == axes] for axes in (1, 3)}
    if len(by_axes[3]) != 1 or len(by_axes[1]) > 1:
        shapes = ", ".join(f"{name or 'array'} {array.shape}" for name, array in arrays.items())
        raise InputError(
            f"{path} holds {shapes or 'nothing'}; needed are one array [token, layer, slot] and at "
            "most one [token] of ids. Load it yourself and give the arrays."
        )
    return by_axes[3][0], by_axes[1][0] if by_axes[1] else None


def captured(ids: np.ndarray) -> np.ndarray:
    """Return expert ids `[token, layer, slot]`, −1 where zeros in all slots tell of nothing."""
    if ids.shape[2] == 1:
        return ids
    blank = (ids == 0).all(axis=2, keepdims=True)
    return np.where(blank, NONE, ids.astype(np.int64)) if blank.any() else ids


def with_last_row(ids: np.ndarray, token_ids: Any) -> np.ndarray:
    """Return expert ids with an empty row for a last token that was sampled and never read."""
    if token_ids is None or np.ndim(token_ids) != 1 or len(token_ids) != len(ids) + 1:
        return ids
    return np.concatenate([ids.astype(np.int64), np.full((1, *ids.shape[1:]), NONE)])

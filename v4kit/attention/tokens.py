"""`trace.attention_to_tokens`: recorded attention on a token axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from v4kit.attention.fold import CONVENTIONS, fold
from v4kit.attention.recorded import Attention
from v4kit.core import HEAD, LAYER, POSITION, TOKEN
from v4kit.errors import InputError

_MOST = 2 * 2**30
"""Bytes that a folded Dataset may take."""


def attention_to_tokens(
    attention: Attention, tokens: pd.DataFrame, rows: np.ndarray, layers: Sequence[int],
    convention: str,
) -> xr.Dataset:  # fmt: skip
    """Return the attention of some rows and layers on a token axis; see `Trace`.

    Raises:
        InputError: The convention is unknown, its weights were not recorded, or the result would
            be too large.
    """
    _check(attention, convention)
    documents, positions = (tokens[n].to_numpy() for n in ("document", "position"))
    length = int(positions[np.isin(documents, documents[rows])].max(initial=-1)) + 1
    apart = HEAD in attention.values["sink"].dims
    heads = attention.values.sizes[HEAD] if apart else 1
    size = 8 * len(rows) * len(layers) * heads * length
    if size > _MOST:
        raise InputError(
            f"{len(rows):,} tokens × {len(layers)} layers × {heads} heads on {length:,} positions "
            f"take {size / 1e9:,.1f} GB. Give fewer tokens or layers."
        )
    shape = (len(rows), len(layers), heads, length)
    window, blocks = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    some = attention.take(rows)
    for place, layer in enumerate(layers):
        codes, masses = some.sources(layer)
        for document in np.unique(documents[rows]):
            own = np.flatnonzero(documents[rows] == document)
            pool = None
            if convention == "pooled":
                pool = _pool(attention, layer, positions, documents == document, length)
            for head in range(heads):
                at = (own, slice(None)) if not apart else (own, head)
                window[own, place, head], blocks[own, place, head] = fold(
                    codes[at], masses[at], attention.views[layer], length=length, pool=pool
                )
    if np.isnan(blocks).any():
        raise InputError(
            "The weights of some pooled tokens are not in this trace: they were cut off by a "
            'slice, or were not recorded. Fold the whole trace, or use convention="uniform".'
        )
    return _dataset(some, window, blocks, rows, layers, convention=convention)


def _check(attention: Attention, convention: str) -> None:
    if convention not in CONVENTIONS:
        raise InputError(
            f"convention is one of {', '.join(map(repr, CONVENTIONS))}; given was {convention!r}."
        )
    if convention == "pooled" and "pool_own" not in attention.values:
        raise InputError(
            'convention="pooled" needs the compressors\' gate weights, which were not recorded. '
            'Record with v4kit.Record(pooling=True), or use convention="uniform".'
        )


def _pool(
    attention: Attention, layer: int, positions: np.ndarray, own: np.ndarray, length: int
) -> np.ndarray:
    """Return the weights `[position, 2]` of one document's tokens; NaN where there are none."""
    pool = np.full((length, 2), np.nan, np.float32)
    part = attention.values[["pool_own", "pool_next"]].isel({LAYER: layer, TOKEN: own})
    pool[positions[own], 0] = part["pool_own"].to_numpy()
    pool[positions[own], 1] = part["pool_next"].to_numpy()
    return pool


def _dataset(
    some: Attention, window: np.ndarray, blocks: np.ndarray, rows: np.ndarray,
    layers: Sequence[int], *, convention: str,
) -> xr.Dataset:  # fmt: skip
    apart = HEAD in some.values["sink"].dims
    dims = (TOKEN, LAYER, HEAD, POSITION) if apart else (TOKEN, LAYER, POSITION)
    arrays = {"window": window, "compressed": blocks}
    rest = some.values[["sink", "rest"]].isel({LAYER: list(layers)})
    missing = np.isnan(rest["sink"].to_numpy())
    for array in arrays.values():
        array[missing if apart else missing[..., None]] = np.nan
    return rest.assign(
        {name: (dims, array if apart else array[:, :, 0]) for name, array in arrays.items()}
    ).assign_coords({TOKEN: rows}).assign_attrs(
        convention=convention, meaning=CONVENTIONS[convention]
    )  # fmt: skip

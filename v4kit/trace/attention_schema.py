"""What a trace holds of attention: stored variables, their types, and the checks on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from v4kit.attention import Attention, Ragged, View, view_of
from v4kit.attention.spans import visible_columns
from v4kit.core import HEAD, LAYER, NONE, SOURCE, TOKEN
from v4kit.errors import TraceFormatError
from v4kit.trace.schema import Variable

_MOST = 2**20
"""Sources, heads, or tokens of a window or block that a trace may speak of."""

ATTENTION: tuple[Variable, ...] = (
    Variable("code", (TOKEN, LAYER, HEAD, SOURCE), "int32", NONE, "where the mass goes: a "
             "token's position; −2 − a block's number; −1 none"),
    Variable("mass", (TOKEN, LAYER, HEAD, SOURCE), "float32", np.nan, "share of the attention"),
    Variable("sink", (TOKEN, LAYER, HEAD), "float32", np.nan, "share that goes to no token"),
    Variable("window", (TOKEN, LAYER, HEAD), "float32", np.nan, "share of single tokens"),
    Variable("compressed", (TOKEN, LAYER, HEAD), "float32", np.nan, "share of blocks"),
    Variable("rest", (TOKEN, LAYER, HEAD), "float32", np.nan, "share of sources not kept"),
    Variable("entropy_bits", (TOKEN, LAYER, HEAD), "float32", np.nan, "entropy over all sources "
             "and the sink, bits"),
    Variable("visible_blocks", (TOKEN, LAYER), "int32", NONE, "blocks that end at or before the "
             "token; −1 in layers without"),
    Variable("chosen_blocks", (TOKEN, LAYER), "int32", NONE, "visible blocks that the indexer "
             "chose; all of them in layers without one"),
    Variable("pool_own", (TOKEN, LAYER), "float32", np.nan, "weight of the token in its own block"),
    Variable("pool_next", (TOKEN, LAYER), "float32", np.nan, "weight of the token in the block "
             "after its own"),
)  # fmt: skip
"""Without a head axis where the heads' mean was recorded; code and mass only where the strongest
sources were kept."""

_POOL = {"pool_own", "pool_next"}
"""Variables that are there together or not at all."""
ATTENTION_BY_NAME = {variable.name: variable for variable in ATTENTION}


def attention_sizes(meta: dict[str, Any]) -> dict[str, int]:
    """Return the sizes of the axes that only attention has, by what the meta says of it."""
    recorded = meta["attention"]
    sizes = {LAYER: len(meta["architecture"]["layers"])}
    if recorded["heads"] == "each":
        sizes[HEAD] = int(meta["architecture"]["heads"])
    if recorded["sources"] != "full":
        sizes[SOURCE] = int(recorded["sources"])
    return sizes


def attention_dims(name: str, sizes: dict[str, int]) -> tuple[str, ...]:
    """Return the axes of a stored variable of attention in a trace of these sizes."""
    dims = ATTENTION_BY_NAME[name].dims
    return tuple(dim for dim in dims if dim == TOKEN or dim in sizes)


def attention_dataset(arrays: dict[str, Any], meta: dict[str, Any]) -> xr.Dataset:
    """Return stored attention as a Dataset of arrays by variable name."""
    sizes = attention_sizes(meta)
    layers = meta["architecture"]["layers"]
    coords: dict[str, Any] = {
        LAYER: np.arange(len(layers)),
        "attention_kind": (LAYER, np.array([layer["attention"] for layer in layers])),
    }
    if HEAD in sizes:
        coords[HEAD] = np.arange(sizes[HEAD])
    data = {
        name: (attention_dims(name, sizes), array, {"meaning": ATTENTION_BY_NAME[name].meaning})
        for name, array in arrays.items()
    }
    try:
        return xr.Dataset(data, coords=coords)
    except ValueError as error:
        raise TraceFormatError(
            f"The attention arrays have shapes that do not agree ({error}). Make the trace again."
        ) from error


def make_attention(
    arrays: dict[str, Any], tokens: pd.DataFrame, meta: dict[str, Any], *, masses: Sequence[Any]
) -> Attention:
    """Return stored attention of arrays by variable name and, if all were kept, every mass."""
    check_attention_meta(meta)
    if (tokens["valid"] & (tokens["position"] < 0)).any():
        raise TraceFormatError(
            "Some of the trace's tokens have attention but no position. Make the trace again."
        )
    views, positions = views_of(meta), positions_of(tokens)
    found, expected = [len(values) for values in masses], masses_sizes(tokens, meta)
    if masses and found != expected:
        raise TraceFormatError(
            f"The trace has {sum(found):,} attention masses in {len(found)} layers; with its "
            f"tokens it would have {sum(expected):,} in {len(expected)}, in each layer as many as "
            "its tokens see. Make the trace again."
        )
    heads = attention_sizes(meta).get(HEAD, 1)
    ragged = tuple(
        Ragged.of(values, view, positions, heads)
        for values, view in zip(masses, views, strict=bool(masses))
    )
    return Attention(attention_dataset(arrays, meta), views, ragged)


def views_of(meta: dict[str, Any]) -> tuple[View, ...]:
    """Return what each layer can see."""
    return tuple(view_of(layer) for layer in meta["architecture"]["layers"])


def positions_of(tokens: pd.DataFrame) -> np.ndarray:
    """Return the position of each row; −1 for a row that was not fed to the model."""
    return np.where(tokens["valid"], tokens["position"], NONE).astype(np.int64)


def masses_sizes(tokens: pd.DataFrame, meta: dict[str, Any]) -> list[int]:
    """Return how many masses each layer has where all are kept."""
    heads, positions = attention_sizes(meta).get(HEAD, 1), positions_of(tokens)
    return [int(visible_columns(view, positions).sum()) * heads for view in views_of(meta)]


def check_recorded(meta: dict[str, Any]) -> None:
    """Raise `TraceFormatError` if what the meta says of attention, or of its lack, is no dict."""
    if not isinstance(meta.get("attention"), dict | None):
        raise TraceFormatError(
            f'meta["attention"] says how attention was recorded; given was {meta["attention"]!r}. '
            "Put back what was there, or keep your own notes under another name."
        )


def check_attention_meta(meta: dict[str, Any]) -> None:
    """Raise `TraceFormatError` unless the meta says how attention was recorded."""
    try:
        sound = _sound(meta["attention"], meta["architecture"])
    except (KeyError, TypeError) as error:
        raise TraceFormatError(
            f"The trace's meta does not say how attention was recorded ({error!r}). "
            "Write the trace again with this version of v4kit."
        ) from error
    if not sound:
        raise TraceFormatError(
            "The trace's meta describes an impossible attention. "
            "The file is damaged or was not written by v4kit; write the trace again."
        )


def _sound(recorded: dict[str, Any], architecture: dict[str, Any]) -> bool:
    sources = recorded["sources"]
    layers = architecture["layers"]
    sizes = [layer[name] for layer in layers for name in ("rate", "span")]
    windows = [layer["window"] for layer in layers if layer["window"] is not None]
    return (
        all(type(size) is int for size in [*sizes, *windows])
        and all(0 < window <= _MOST for window in windows)
        and all(0 <= x["rate"] <= x["span"] <= 2 * x["rate"] <= _MOST for x in layers)
        and (sources == "full" or (type(sources) is int and 0 < sources <= _MOST))
        and recorded["heads"] in ("mean", "each")
        and type(architecture["heads"]) is int
        and 0 < architecture["heads"] <= _MOST
    )


def check_attention(attention: Attention, rows: int, meta: dict[str, Any]) -> None:
    """Raise `TraceFormatError` unless stored attention fits the tokens and the meta."""
    sizes = {TOKEN: rows, **attention_sizes(meta)}
    found = {str(name) for name in attention.values.data_vars}
    needed = {"sink", "window", "compressed", "rest", "entropy_bits"}
    needed |= {"code", "mass"} if SOURCE in sizes else set()
    needed |= _POOL if _POOL & found else set()
    lacking = needed - found
    if lacking or (SOURCE not in sizes) != bool(attention.masses):
        raise TraceFormatError(
            f"The trace's attention lacks {', '.join(sorted(lacking)) or 'its masses'}. "
            "It is damaged or was not written by v4kit; write it again."
        )
    for name, variable in attention.values.data_vars.items():
        if name not in ATTENTION_BY_NAME or (SOURCE not in sizes and name in ("code", "mass")):
            raise TraceFormatError(
                f"The trace's attention has a variable {name!r}, which does not belong there. "
                "The trace is damaged; write it again."
            )
        dims = attention_dims(str(name), sizes)
        shape, dtype = tuple(sizes[dim] for dim in dims), ATTENTION_BY_NAME[str(name)].dtype
        if variable.dims != dims or variable.shape != shape or variable.dtype != dtype:
            raise TraceFormatError(
                f"The trace's attention {name} has axes {variable.dims}, shape {variable.shape} "
                f"and type {variable.dtype}; expected were {dims}, {shape} and {dtype}. "
                "The trace is damaged; write it again."
            )


def check_rows(attention: Attention, tokens: pd.DataFrame) -> None:
    """Raise `TraceFormatError` unless attention in memory fits the positions of its tokens."""
    positions = positions_of(tokens)
    if any(not np.array_equal(layer.positions, positions) for layer in attention.masses):
        raise TraceFormatError(
            "The columns position and valid of trace.tokens say which masses are whose, and were "
            "changed. Put back what was there, or keep your own values in a column of their own."
        )
    if "code" in attention.values:
        codes, rates = (
            attention.values["code"].to_numpy(),
            np.array([v.rate for v in attention.views]),
        )
        check_sources("code", codes, (slice(None),), positions=positions, rates=rates)


def check_sources(
    name: str, codes: np.ndarray, key: tuple[Any, ...], *, positions: np.ndarray, rates: np.ndarray
) -> None:
    """Raise `TraceFormatError` if a recorded source lies after the token that attends to it.

    Args:
        name: What to call the codes.
        codes: Some of the codes `[token, layer, (head,) source]`.
        key: Which of them these are.
        positions: Position of each row of the trace; −1 for a row without sources.
        rates: Rate of each layer; 0 in layers without blocks.
    """
    position, rate = positions[key[0]], rates[key[1] if len(key) > 1 else slice(None)]
    blocks = np.floor_divide.outer(position + 1, np.maximum(rate, 1)) * (rate > 0)
    token = np.add.outer(position, rate * 0)
    axes = tuple(range(blocks.ndim, codes.ndim))
    if (
        (codes < np.expand_dims(NONE - blocks, axes)) | (codes > np.expand_dims(token, axes))
    ).any():
        raise TraceFormatError(
            f"The trace's {name} reach from {codes.min()} to {codes.max()}: some lie after the "
            "token that attends to them. The trace is damaged; write it again."
        )

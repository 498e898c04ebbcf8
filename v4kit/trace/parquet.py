"""A trace as Parquet tables, for SQL users."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from v4kit.attention import Attention, decode
from v4kit.core import EXPERT, HEAD, LAYER, NONE, SLOT, SOURCE, TOKEN
from v4kit.errors import V4KitError
from v4kit.trace.writer import writing

if TYPE_CHECKING:
    from v4kit.trace.trace import Trace

_ROWS = 2_048
"""Tokens that are turned into table rows at once."""
_SOURCES = 2**20
"""Attention sources that are turned into table rows at once."""
_KINDS = ("window", "block")
"""Names of the kinds of sources, by number."""
_SHARES = (
    *("sink", "window", "compressed", "rest", "entropy_bits"),
    *("visible_blocks", "chosen_blocks"),
)


def to_parquet(trace: Trace, folder: Path) -> Path:
    """Write the trace's tables into the folder, as `Trace.to_parquet` says; return the folder.

    All are written beside their place and moved there when they are whole.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise V4KitError(
            "Parquet needs pyarrow, which is not installed. Run: pip install v4kit[parquet]"
        ) from error
    tables = {"routing": _routing(trace, pa)}
    if trace.stored_attention is not None:
        tables["attention"] = _sources(trace.stored_attention, pa)
        tables["attention_layers"] = _layers(trace.stored_attention, pa)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".v4trace-") as scratch:
            trace.tokens.assign(token=range(len(trace))).to_parquet(Path(scratch, "tokens.parquet"))
            for name, parts in tables.items():
                first = next(parts)
                with pq.ParquetWriter(Path(scratch, f"{name}.parquet"), first.schema) as target:
                    for table in parts:
                        target.write_table(table)
            for name in ("tokens", "routing", "attention", "attention_layers"):
                path = Path(scratch, f"{name}.parquet")
                if path.exists():
                    path.replace(folder / path.name)
                else:  # of another trace that was here before
                    (folder / f"{name}.parquet").unlink(missing_ok=True)
    return folder


def _routing(trace: Trace, pa: Any) -> Iterator[Any]:
    """Yield an empty table, then one row per token, layer and slot that holds an expert."""
    names = [str(n) for n, v in trace.routing.data_vars.items() if v.dims[:3:2] == (TOKEN, SLOT)]
    routing = trace.routing[names].drop_vars(["kind", "attention_kind", EXPERT], errors="ignore")
    for start, stop in _pieces(np.ones(len(trace)), _ROWS):
        frame = _frame(routing, start, stop)
        frame = frame[frame["experts"] != NONE].reset_index()
        typed = frame.astype({"token": "int64", "layer": "int16", "slot": "int16"})
        yield pa.Table.from_pandas(typed, preserve_index=False)


def _layers(attention: Attention, pa: Any) -> Iterator[Any]:
    """Yield an empty table, then one row per token, layer and head that has attention."""
    names = [name for name in _SHARES if name in attention.values]
    values = attention.values[names].drop_vars("attention_kind")
    for start, stop in _pieces(np.ones(values.sizes[TOKEN]), _ROWS):
        frame = _frame(values, start, stop)
        frame = frame[frame["sink"].notna()].reset_index()
        whole = {name: "int16" for name in (LAYER, HEAD) if name in frame}
        typed = frame.astype({"token": "int64", **whole})
        yield pa.Table.from_pandas(typed, preserve_index=False)


def _frame(values: xr.Dataset, start: int, stop: int) -> pd.DataFrame:
    """Return some tokens' values, indexed by all axes in their order."""
    part = values.isel({TOKEN: slice(start, stop)}).assign_coords({TOKEN: range(start, stop)})
    order = [axis for axis in (TOKEN, LAYER, HEAD, SLOT) if axis in part.dims]
    return part.to_dataframe(dim_order=order)


def _sources(attention: Attention, pa: Any) -> Iterator[Any]:
    """Yield an empty table, then one row per token, layer, head and source that is there."""
    apart = HEAD in attention.values["sink"].dims
    if attention.masses:
        counts = np.sum([layer.columns * layer.heads for layer in attention.masses], axis=0)
    else:
        sizes = attention.values["code"].shape
        counts = np.full(sizes[0], np.prod(sizes[1:]))
    for start, stop in _pieces(counts, _SOURCES):
        part = attention.take(slice(start, stop))
        found = [_of_layer(part, layer, start) for layer in range(len(part.views))]
        columns = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        if not apart:
            del columns["head"]
        order = np.lexsort((columns["layer"], columns["token"]))
        kinds = pa.DictionaryArray.from_arrays(columns.pop("kind")[order], list(_KINDS))
        table = {name: values[order] for name, values in columns.items()}
        mass = table.pop("mass")
        yield pa.table({**table, "kind": kinds.cast(pa.string()), "mass": mass})


def _of_layer(part: Attention, layer: int, first: int) -> dict[str, np.ndarray]:
    """Return the columns of a layer's sources, token by token."""
    codes, masses = part.sources(layer)
    if codes.ndim == len((TOKEN, SOURCE)):
        codes, masses = codes[:, None], masses[:, None]
    token, head, source = np.nonzero(codes != NONE)
    view = part.views[layer]
    start, stop, kind = decode(codes[token, head, source], view.rate, view.span)
    return {
        "token": (token + first).astype(np.int64),
        "layer": np.full(len(token), layer, np.int16),
        "head": head.astype(np.int16),
        "start": start.astype(np.int32),
        "stop": stop.astype(np.int32),
        "kind": kind.astype(np.int8),
        "mass": masses[token, head, source].astype(np.float32),
    }


def _pieces(counts: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Yield the empty range, then ranges of rows that hold no more than that, or are one row."""
    yield 0, 0
    start, ends = 0, np.cumsum(counts)
    while start < len(ends):
        reach = ends[start] - counts[start] + most
        stop = max(start + 1, int(np.searchsorted(ends, reach, side="right")))
        yield start, stop
        start = stop

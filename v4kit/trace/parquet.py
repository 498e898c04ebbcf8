"""A trace as two Parquet tables, for SQL users."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v4kit.core import NONE, SLOT, TOKEN
from v4kit.errors import V4KitError
from v4kit.trace.writer import writing

if TYPE_CHECKING:
    from v4kit.trace.trace import Trace

_ROWS = 2_048
"""Tokens that are turned into table rows at once."""


def to_parquet(trace: Trace, folder: Path) -> Path:
    """Write `tokens.parquet` and `routing.parquet` into the folder; return the folder.

    Both are written beside their place and moved there when they are whole.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise V4KitError(
            "Parquet needs pyarrow, which is not installed. Run: pip install v4kit[parquet]"
        ) from error
    names = [str(n) for n, v in trace.routing.data_vars.items() if v.dims[:3:2] == (TOKEN, SLOT)]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".v4trace-") as scratch:
            tokens, routing = Path(scratch, "tokens.parquet"), Path(scratch, "routing.parquet")
            trace.tokens.assign(token=range(len(trace))).to_parquet(tokens)
            schema = _table(trace[:0], 0, names, pa).schema
            with pq.ParquetWriter(routing, schema) as target:
                for start in range(0, len(trace), _ROWS):
                    target.write_table(_table(trace[start : start + _ROWS], start, names, pa))
            for path in (tokens, routing):
                path.replace(folder / path.name)
    return folder


def _table(part: Trace, start: int, names: list[str], pa: Any) -> Any:
    """Return one row per token, layer and slot that holds an expert."""
    routing = part.routing[names].drop_vars(["kind", "attention_kind", "expert"], errors="ignore")
    frame = routing.assign_coords({TOKEN: range(start, start + len(part))}).to_dataframe()
    frame = frame[frame["experts"] != NONE].reset_index()
    typed = frame.astype({"token": "int64", "layer": "int16", "slot": "int16"})
    return pa.Table.from_pandas(typed, preserve_index=False)

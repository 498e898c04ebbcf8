"""A trace as two Parquet tables, for SQL users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from v4kit.core import NONE, SLOT, TOKEN
from v4kit.errors import V4KitError
from v4kit.trace.store import writing

if TYPE_CHECKING:
    from v4kit.trace.trace import Trace

_ROWS = 2_048


def to_parquet(trace: Trace, folder: Path) -> Path:
    """Write `tokens.parquet` and `routing.parquet` into the folder; return the folder."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise V4KitError(
            "Parquet needs pyarrow, which is not installed. Run: pip install v4kit[parquet]"
        ) from error
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        trace.tokens.assign(token=range(len(trace))).to_parquet(folder / "tokens.parquet")
        names = [n for n, v in trace.routing.data_vars.items() if v.dims[:3:2] == (TOKEN, SLOT)]
        target = pq.ParquetWriter(
            folder / "routing.parquet", _table(trace[:0], 0, names, pa).schema
        )
        with target:
            for start in range(0, len(trace), _ROWS):
                target.write_table(_table(trace[start : start + _ROWS], start, names, pa))
    return folder


def _table(part: Trace, start: int, names: list[str], pa: object) -> object:
    """Return one row per token, layer and slot that holds an expert."""
    routing = part.routing[names].drop_vars(["kind", "attention_kind", "expert"], errors="ignore")
    frame = routing.assign_coords({TOKEN: range(start, start + len(part))}).to_dataframe()
    frame = frame[frame["experts"] != NONE].reset_index()
    typed = frame.astype({"token": "int64", "layer": "int16", "slot": "int8"})
    return pa.Table.from_pandas(pd.DataFrame(typed), preserve_index=False)  # type: ignore[attr-defined]

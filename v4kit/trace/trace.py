"""The Trace: what a model did with every token. Figures, analyses and views see nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr

from v4kit.core import TOKEN
from v4kit.errors import InputError, TraceError
from v4kit.trace import schema

_REPR = 120
"""Most characters of a repr."""


class Trace:
    """Tokens and the experts each was routed to.

    `tokens` is a DataFrame with one row per token; `routing` a Dataset over `(token, layer, slot)`,
    lazy when the trace was opened from disk; `meta` a dict of everything needed to say what this
    is a trace of. A row whose token was never fed to the model (the last sampled one) has
    `valid` False, experts −1 and NaN elsewhere.

    Raises:
        TraceFormatError: Columns, variables or sizes do not agree.
    """

    def __init__(self, tokens: pd.DataFrame, routing: xr.Dataset, meta: dict[str, Any]) -> None:
        schema.check_meta(meta)
        schema.check_shapes(tokens, routing, meta)
        self.tokens = tokens
        self.routing = routing
        self.meta = meta

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        architecture = self.meta["architecture"]
        documents = self.tokens["document"].nunique()
        several = f" · {documents:,} documents" if documents > 1 else ""
        size = (
            f"Trace({len(self):,} tokens{several} · {len(architecture['layers'])} layers · "
            f"{architecture['n_experts']} experts · top-{architecture['top_k']} · "
        )
        model = str(self.meta.get("model", "unknown model"))
        room = _REPR - len(size) - 1
        return f"{size}{model if len(model) <= room else '…' + model[1 - room :]})"

    def __getitem__(self, key: int | slice | Sequence[int] | np.ndarray | pd.Series) -> Self:
        """Return the rows as a Trace of their own; positions and documents stay what they were.

        Rows may be a slice, one number, several numbers, or a boolean per row.

        Raises:
            IndexError: There is no such row, or not one boolean per row.
        """
        rows = _rows(key, len(self))
        tokens = self.tokens.iloc[rows].reset_index(drop=True)
        return type(self)(tokens, self.routing.isel({TOKEN: rows}), self.meta)

    @property
    def text(self) -> str:
        """The text of all tokens, special tokens included."""
        return "".join(self.tokens["text"])

    @property
    def completion(self) -> str:
        """The generated text, special tokens left out."""
        rows = (self.tokens["phase"] == "generated") & ~self.tokens["special"]
        return "".join(self.tokens["text"][rows])

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the layers that have a router."""
        return tuple(np.flatnonzero(self.routing["kind"].to_numpy() != "dense").tolist())

    def save(self, path: str | Path) -> Path:
        """Write one `.v4trace` file and return its path.

        The file is written beside its place and moved there when it is whole, so that an existing
        file is replaced at once or not at all.

        Raises:
            TraceWriteError: The disk is full or the place can't be written.
        """
        from v4kit.trace.store import save

        return save(self, Path(path))

    def to_parquet(self, folder: str | Path) -> Path:
        """Write `tokens.parquet` and `routing.parquet` for SQL users; return the folder.

        `routing.parquet` has one row per token, layer and slot. Needs `pip install v4kit[parquet]`.

        Raises:
            TraceWriteError: The disk is full or the place can't be written.
        """
        from v4kit.trace.parquet import to_parquet

        return to_parquet(self, Path(folder))

    def to_html(self, path: str | Path, *, title: str | None = None) -> Path:
        """Write one self-contained HTML report that works offline; return its path."""
        from v4kit.figures.report import write

        return write(self, Path(path), title=title)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from v4kit.figures.bundle import mimebundle

        return mimebundle(self)


def _rows(key: Any, length: int) -> slice | np.ndarray:
    """Return the rows that a key of `trace[…]` names."""
    if isinstance(key, slice):
        return key
    rows = np.asarray(key)
    if rows.dtype == bool:
        if rows.shape != (length,):
            raise IndexError(
                f"A mask needs one boolean for each of the trace's {length} tokens; "
                f"given was {rows.shape}."
            )
        return np.flatnonzero(rows)
    rows = np.atleast_1d(rows)
    if not rows.size:
        return np.empty(0, int)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise IndexError(
            f"trace[…] takes a slice, row numbers or a mask; given was {rows.dtype} {rows.shape}."
        )
    wrong = rows[(rows < -length) | (rows >= length)]
    if wrong.size:
        raise IndexError(f"The trace has {length} tokens; there is no token {wrong[0]}.")
    return rows.astype(int)


def concat(traces: Iterable[Trace]) -> Trace:
    """Return one Trace of several; documents are numbered anew, positions kept.

    What the metas agree on is kept; where they differ, the joined meta lists their values.

    Raises:
        InputError: There is no trace to join.
        TraceError: The traces are of models with different layers, experts or selection biases, or
            were recorded with different settings.
    """
    parts = list(traces)
    if not parts:
        raise InputError("concat needs at least one trace; given was an empty list.")
    first = parts[0]
    for part in parts[1:]:
        _check_alike(first, part)
    frames, next_document = [], 0
    for part in parts:
        numbers, known = pd.factorize(part.tokens["document"])
        document = (numbers + next_document).astype(np.int32)
        frames.append(part.tokens.assign(document=document))
        next_document += len(known)
    tokens = pd.concat(frames, ignore_index=True)
    routing = xr.concat(
        [part.routing for part in parts],
        dim=TOKEN,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
    )
    return Trace(tokens, routing, _joined_meta([part.meta for part in parts]))


def _check_alike(first: Trace, other: Trace) -> None:
    """Raise `TraceError` unless two traces can be joined."""
    if other.meta["architecture"] != first.meta["architecture"]:
        raise TraceError(
            f"Traces of different architectures can't be joined: {first!r} and {other!r}. "
            "Keep them apart, and compare them."
        )
    if set(other.routing.data_vars) != set(first.routing.data_vars):
        raise TraceError(
            "Traces recorded with different settings can't be joined: one has "
            f"{sorted(map(str, first.routing.data_vars))}, another "
            f"{sorted(map(str, other.routing.data_vars))}. Record them with the same Record."
        )
    if "bias" in first.routing and not first.routing["bias"].equals(other.routing["bias"]):
        raise TraceError(
            "Traces with different selection biases can't be joined: their models differ. "
            "Keep them apart, and compare them."
        )


def _joined_meta(metas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all metas agree on; where they differ, the list of their values."""
    joined = copy.deepcopy(metas[0])
    for key in sorted({key for meta in metas for key in meta}):
        values = [meta.get(key) for meta in metas]
        if any(value != values[0] for value in values):
            distinct: list[Any] = []
            for value in values:
                if value not in distinct:
                    distinct.append(value)
            joined[key] = distinct
    return joined


def open_trace(path: str | Path) -> Trace:
    """Return the trace in a `.v4trace` file or folder; routing is read when it is used.

    Opening executes nothing, and needs neither torch nor the model. A folder whose writer was
    killed opens with everything up to its last flush.

    Raises:
        TraceFormatError: There is no trace, or it is damaged.
        TraceVersionError: It was written by a newer version.
    """
    from v4kit.trace.store import read

    return read(Path(path))

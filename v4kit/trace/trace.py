"""The Trace: what a model did with every token. Figures, analyses and views see nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr

from v4kit.attention import Attention, attention_to_tokens
from v4kit.core import LAYER, TOKEN
from v4kit.errors import InputError, TraceError
from v4kit.trace import schema
from v4kit.trace.attention_schema import check_attention, check_attention_meta

_REPR = 120
"""Most characters of a repr."""


class Trace:
    """Tokens and the experts each was routed to.

    `tokens` is a DataFrame with one row per token; `routing` a Dataset over `(token, layer, slot)`,
    lazy when the trace was opened from disk; `meta` a dict of everything needed to say what this
    is a trace of. A row whose token was never fed to the model (the last sampled one) has
    `valid` False, experts −1 and NaN elsewhere. `stored_attention` is attention as it is kept;
    `attention` and `attention_to_tokens` are how to read it.

    Raises:
        TraceFormatError: Columns, variables or sizes do not agree.
    """

    def __init__(
        self,
        tokens: pd.DataFrame,
        routing: xr.Dataset,
        meta: dict[str, Any],
        attention: Attention | None = None,
    ) -> None:
        schema.check_meta(meta)
        schema.check_shapes(tokens, routing, meta)
        if attention is not None:
            check_attention_meta(meta)
            check_attention(attention, len(tokens), meta)
        self.tokens = tokens
        self.routing = routing
        self.meta = meta
        self.stored_attention = attention

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
        attention = None if self.stored_attention is None else self.stored_attention.take(rows)
        return type(self)(tokens, self.routing.isel({TOKEN: rows}), self.meta, attention)

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
    def attention(self) -> xr.Dataset:
        """What every token attends to: intervals of tokens, not single tokens.

        Over `(token, layer, [head,] source)`: `start`, `stop` (half-open interval of positions
        within the document, −1 for none), `mass` (share of the attention, strongest first where a
        number of sources was kept) and `kind` (0: a single token of the window, 1: a compressed
        block, −1: none). Over `(token, layer[, head])`: `sink` (share that goes to no token),
        `window`, `compressed`, `rest` (share of sources that were not kept; kept + rest + sink =
        1, in bfloat16 to 3e-3) and `entropy_bits` (over all sources and the sink). Over
        `(token, layer)`: `visible_blocks` and `chosen_blocks`. Without a head axis all values are
        those of the heads' mean. Rows that were not fed to the model are −1 and NaN.

        Raises:
            TraceError: Attention was not recorded; the message says why.
        """
        return self.require_attention().dataset()

    def attention_to_tokens(
        self,
        tokens: int | slice | Sequence[int] | np.ndarray | None = None,
        *,
        layers: int | Sequence[int] | None = None,
        convention: str = "uniform",
    ) -> xr.Dataset:
        """Return attention folded onto a token axis, by a convention that has a name.

        A block's mass belongs to all its tokens together; any split over them is a convention, so
        keep its name beside what you show. The window and the blocks overlap, and stay apart.

        Args:
            tokens: Rows of the trace; all if not given.
            layers: Layer index or indices; all if not given.
            convention: "uniform" splits a block's mass evenly over the tokens it covers. "pooled"
                splits it as the compressor's gate weighs them, averaged over channels (needs
                `Record(pooling=True)`).

        Returns:
            `window` and `compressed` over `(token, layer, [head,] position)`, `sink` and `rest`
            over `(token, layer[, head])`; their sum over positions is 1. `position` counts within
            each token's own document; `token` names the rows. `attrs` hold the convention.

        Raises:
            TraceError: Attention was not recorded.
            IndexError: There is no such row.
            InputError: Unknown layers or convention; weights that were not recorded; or a
                result of more than 2 GB.
        """
        attention = self.require_attention()
        everything = np.arange(len(self))
        rows = everything if tokens is None else everything[_rows(tokens, len(self))]
        several = range(attention.values.sizes[LAYER]) if layers is None else layers
        chosen = [several] if isinstance(several, (int, np.integer)) else list(several)
        known = range(attention.values.sizes[LAYER])
        unknown = [layer for layer in chosen if layer not in known or isinstance(layer, bool)]
        if unknown:
            raise InputError(
                f"There is no layer {unknown[0]!r}; the trace has layers 0 to "
                f"{attention.values.sizes[LAYER] - 1}."
            )
        return attention_to_tokens(attention, self.tokens, rows, chosen, convention)

    def require_attention(self) -> Attention:
        """Return attention as it is stored.

        Raises:
            TraceError: It was not recorded; the message says why.
        """
        if self.stored_attention is None:
            why = (self.meta.get("attention") or {}).get("why") or "it was not recorded."
            raise TraceError(
                f"This trace holds no attention: {why} "
                "Record with v4kit.Record(attention=16) on a model that returns its weights."
            )
        return self.stored_attention

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
        """Write tables for SQL users into the folder; return the folder.

        `tokens.parquet` has one row per token, `routing.parquet` one per token, layer and slot.
        With attention, `attention.parquet` has one row per token, layer(, head) and source: the
        half-open interval of positions from `start` to `stop`, its `kind` ("window": one token, or
        "block") and `mass`; `attention_layers.parquet` one per token and layer(, head): the shares,
        the entropy and the numbers of blocks. Tokens that were never fed to the model have no rows
        in them. Tables of another trace in the folder are replaced. Needs
        `pip install v4kit[parquet]`.

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

"""What figures read of attention: plain arrays of a few rows at once, and checked arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from v4kit.attention import Attention, decode
from v4kit.core import BLOCK_SOURCE, HEAD, LAYER, NONE, SOURCE, WINDOW_SOURCE
from v4kit.errors import InputError
from v4kit.figures.labels import escape
from v4kit.figures.reading import BLOCK, any_layer, whole
from v4kit.trace import Trace

ELEMENTS = 2**22
"""Masses that are read at once at most."""
SHARES = ("sink", "window", "compressed", "rest")
"""Where attention goes, as far as is known: the four add up to 1."""
_KINDS = {"sliding": "sliding", "csa": "CSA", "hca": "HCA", "dsa": "DSA", "full": "full"}


@dataclass(frozen=True, slots=True)
class Looks:
    """What some tokens attend to in one layer: those that were fed to the model."""

    layer: int
    """The layer."""
    rows: np.ndarray
    """Row of the trace `[token]`."""
    positions: np.ndarray
    """Position within the document `[token]`."""
    start: np.ndarray
    """First position of each source `[token, source]`, −1 for none."""
    stop: np.ndarray
    """End of each source, excluded `[token, source]`, −1 for none."""
    kind: np.ndarray
    """Kind of each source `[token, source]`, −1 for none."""
    mass: np.ndarray
    """Share of each source `[token, source]`, 0 for none."""
    sink: np.ndarray
    """Share that goes to no token `[token]`."""
    window: np.ndarray
    """Share of all single tokens, kept or not `[token]`."""
    compressed: np.ndarray
    """Share of all blocks, kept or not `[token]`."""
    rest: np.ndarray
    """Share of the sources that were not kept `[token]`."""

    def of_kind(self, kind: int) -> np.ndarray:
        """Return the masses of the sources of one kind, 0 elsewhere `[token, source]`."""
        return np.where(self.kind == kind, self.mass, 0)

    def lost(self) -> np.ndarray:
        """Return the shares of single tokens and of blocks that were not kept `[token, 2]`."""
        if not self.rest.any():
            return np.zeros((len(self.rows), 2), np.float32)
        kept = [self.of_kind(kind).sum(1) for kind in (WINDOW_SOURCE, BLOCK_SOURCE)]
        return np.stack([self.window - kept[0], self.compressed - kept[1]], 1).clip(min=0)

    def shares(self) -> dict[str, np.ndarray]:
        """Return where attention goes, by the words of `SHARES` `[token]`; they add up to 1.

        Window and compressed are what was kept of them: the rest is a part of both.
        """
        window, compressed = (self.of_kind(k).sum(1) for k in (WINDOW_SOURCE, BLOCK_SOURCE))
        values = (self.sink, window, compressed, self.rest)
        return dict(zip(SHARES, values, strict=True))


def kinds_of(trace: Trace) -> tuple[str, ...]:
    """Return the attention kind of every layer, as it is written in labels; not escaped."""
    layers = trace.meta["architecture"]["layers"]
    return tuple(_KINDS.get(layer["attention"], layer["attention"]) for layer in layers)


def describe(trace: Trace, layer: int) -> str:
    """Return the layer's name with its kind of attention; not escaped."""
    return f"layer {layer} ({kinds_of(trace)[layer]})"


def kind_axis(trace: Trace, pixels: int) -> dict[str, Any]:
    """Return plotly's description of an axis of all layers, each with its kind of attention."""
    names = [f"{layer} · {escape(kind)}" for layer, kind in enumerate(kinds_of(trace))]
    return {
        "range": [len(names) - 0.5, -0.5],
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "tickfont": {"size": min(11, pixels - 3)},
        "title": {"text": "layer"},
        "ticks": "",
    }


def attended_layer(trace: Trace, layer: int | None) -> int:
    """Return a layer, checked; None is the last one with blocks, else the last.

    Raises:
        InputError: There is no such layer.
    """
    if layer is not None:
        return any_layer(trace, layer)
    views = trace.require_attention().views
    compressed = [index for index, view in enumerate(views) if view.rate]
    return compressed[-1] if compressed else len(views) - 1


def heads_of(trace: Trace) -> int | None:
    """Return how many heads are kept apart; None where only their mean is."""
    values = trace.require_attention().values
    return int(values.sizes[HEAD]) if HEAD in values.sizes else None


def head_of(trace: Trace, head: int | None) -> int | None:
    """Return a head, checked; None is the mean of all.

    Raises:
        InputError: There is no such head, or only the heads' mean was recorded.
    """
    heads = heads_of(trace)
    if head is None:
        return None
    if heads is None:
        raise InputError(
            f"head={head!r} was given, but this trace holds only the mean of the heads. "
            'Leave head out, or record with v4kit.Record(heads="each").'
        )
    if whole(head) and 0 <= head < heads:
        return int(head)
    raise InputError(
        f"The trace has {heads} heads; there is no head {head!r}. "
        f"Give one from 0 to {heads - 1}, or leave it out for their mean."
    )


def name_heads(trace: Trace, head: int | None) -> str:
    """Return whose attention is shown: one head's, or the mean."""
    heads = heads_of(trace) or trace.meta["architecture"].get("heads")
    if head is not None:
        return f"head {head} of {heads}"
    return f"mean of {heads} heads" if heads else "mean of the heads"


def kept_sources(trace: Trace) -> int | None:
    """Return how many sources of a token were kept at most; None if all were."""
    stored = trace.require_attention()
    return None if stored.masses else int(stored.values.sizes[SOURCE])


def name_sources(trace: Trace) -> str:
    """Return how much was kept, in a few words."""
    kept = kept_sources(trace)
    return "all sources kept" if kept is None else f"the {kept} strongest sources kept"


def looks(
    trace: Trace,
    rows: tuple[int, int],
    layers: Sequence[int],
    *,
    head: int | None = None,
) -> Iterator[Looks]:
    """Yield what tokens attend to, block by block and, within one, layer by layer.

    Args:
        trace: A trace with attention.
        rows: First row and end.
        layers: The layers.
        head: One head where they are apart; their mean if not given.
    """
    stored, (start, stop) = trace.require_attention(), rows
    positions = trace.tokens["position"].to_numpy()
    step = _rows_at_once(stored, int(positions[start:stop].max(initial=0)), layers)
    for first in range(start, stop, step):
        numbers = np.arange(first, min(first + step, stop))
        part = stored.take(slice(first, first + len(numbers)))
        if len(layers) > 1:
            part = part.load()
        for layer in layers:
            yield _look(part, layer, numbers, positions[numbers], head=head)


def _look(
    part: Attention, layer: int, rows: np.ndarray, positions: np.ndarray, *, head: int | None
) -> Looks:
    """Return what the rows of a part attend to in a layer, heads averaged or one of them."""
    names = ("sink", "window", "compressed", "rest")
    shares = [_one_head(part.values[n].isel({LAYER: layer}).to_numpy(), head) for n in names]
    codes, masses = _sources(part, layer, head)
    fed = np.isfinite(shares[0])
    view = part.views[layer]
    start, stop, kind = decode(codes[fed], view.rate, view.span)
    mass = np.where(kind == NONE, np.float32(0), masses[fed])
    sink, window, compressed, rest = (share[fed] for share in shares)
    return Looks(
        layer, rows[fed], positions[fed], start, stop, kind, mass, sink, window, compressed, rest
    )


def _one_head(values: np.ndarray, head: int | None) -> np.ndarray:
    """Return values `[token]` of values `[token, (head)]`."""
    if values.ndim == 1:
        return values
    return values.mean(1) if head is None else values[:, head]


def _sources(part: Attention, layer: int, head: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and masses `[token, source]`; the mean lists the sources of every head."""
    codes, masses = part.sources(layer)
    if codes.ndim == 2:
        return codes, masses
    if head is not None:
        return codes[:, head], masses[:, head]
    if part.masses:
        return codes[:, 0], masses.mean(1)
    rows, heads, sources = codes.shape
    return codes.reshape(rows, heads * sources), masses.reshape(rows, heads * sources) / heads


def _rows_at_once(stored: Attention, last: int, layers: Sequence[int]) -> int:
    """Return how many rows are read at once: a power of two, as chunks on disk are."""
    heads = stored.values.sizes.get(HEAD, 1)
    if stored.masses:
        views = [stored.views[layer] for layer in layers]
        columns = sum(view.visible_tokens(last) + view.visible_blocks(last) for view in views)
    else:
        columns = len(layers) * stored.values.sizes[SOURCE]
    fitting = max(1, ELEMENTS // max(heads * columns, 1))
    return min(BLOCK, 1 << (fitting.bit_length() - 1))

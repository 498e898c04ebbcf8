"""Attention of one layer on a grid: rows of tokens that look, columns of what they look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v4kit.attention import View
from v4kit.core import BLOCK_SOURCE, WINDOW_SOURCE
from v4kit.figures.attended import Looks, looks
from v4kit.figures.queries import Bins, Queries, bins
from v4kit.trace import Trace


@dataclass(frozen=True, slots=True)
class Grid:
    """Attention of the tokens of a document, by row and column of the picture."""

    queries: Bins
    """The tokens that look."""
    window: Bins
    """Positions on the axis of single tokens."""
    blocks: Bins
    """Positions on the axis of blocks."""
    by_window: np.ndarray
    """Mean mass `[row, column]`; NaN where nothing can be seen."""
    by_blocks: np.ndarray
    """Mean mass `[row, column]`, each block spread over its tokens; NaN likewise."""
    others: np.ndarray
    """Mean mass of the sink and of what was not kept `[row, 2]`."""
    tokens: np.ndarray
    """Tokens of each row `[row]`."""


def grid_of(trace: Trace, layer: int, some: Queries, *, head: int | None) -> Grid:
    """Return what some tokens attend to in a layer, by row and column.

    Where tokens share a row, its cells are the mean over them; where positions share a column, the
    sum over them. A block's mass is split evenly over the positions that it covers.

    Args:
        trace: A trace with attention.
        layer: The layer.
        some: The tokens, one or more.
        head: One head; the mean of all if not given.
    """
    view = trace.require_attention().views[layer]
    last = int(some.positions.max())
    first = 0 if view.window is None else max(int(some.positions.min()) - view.window + 1, 0)
    rows = bins(0, len(some.chosen))
    window, blocks = bins(first, last + 1 - first), bins(0, last + 1)
    singles = np.zeros(rows.count * window.count)
    pooled = np.zeros(rows.count * blocks.count)
    others, tokens = np.zeros((rows.count, 2)), np.zeros(rows.count, np.int64)
    for part in looks(trace, some.rows, [layer], head=head):
        own = np.isin(part.rows, some.chosen)
        row = rows.of(np.searchsorted(some.chosen, part.rows))
        tokens += np.bincount(row[own], minlength=rows.count)
        for column, values in enumerate((part.sink, part.rest)):
            others[:, column] += np.bincount(row[own], values[own], minlength=rows.count)
        _spread(singles, part, row, window, which=own[:, None] & (part.kind == WINDOW_SOURCE))
        _spread(pooled, part, row, blocks, which=own[:, None] & (part.kind == BLOCK_SOURCE))
    n = np.where(tokens, tokens, np.nan)[:, None]
    low, high = (at.reduceat(some.positions, rows.starts) for at in (np.minimum, np.maximum))
    by_window, by_blocks = (cells.reshape(rows.count, -1) / n for cells in (singles, pooled))
    by_window[~_sees(view, low, high, window)] = np.nan
    closed = view.visible_blocks(high) * view.rate
    by_blocks[blocks.starts >= closed[:, None]] = np.nan
    return Grid(rows, window, blocks, by_window, by_blocks, others / n, tokens)


def _spread(
    cells: np.ndarray, part: Looks, row: np.ndarray, axis: Bins, *, which: np.ndarray
) -> None:
    """Add the masses of some sources to the cells, each split evenly over its positions."""
    token, source = np.nonzero(which & (part.mass > 0))
    start, stop = part.start[token, source], part.stop[token, source]
    density = part.mass[token, source] / (stop - start)
    first = axis.of(start)
    for shift in range(int((axis.of(stop - 1) - first).max(initial=-1)) + 1):
        column = first + shift
        begin = np.maximum(axis.first + column * axis.width, start)
        length = np.minimum(axis.first + (column + 1) * axis.width, stop) - begin
        inside = (length > 0) & (column < axis.count)
        place = row[token[inside]] * axis.count + column[inside]
        cells += np.bincount(place, (density * length)[inside], minlength=len(cells))


def _sees(view: View, low: np.ndarray, high: np.ndarray, axis: Bins) -> np.ndarray:
    """Return which columns any token of a row sees as single tokens `[row, column]`."""
    seen = axis.starts <= high[:, None]
    if view.window is not None:
        seen &= axis.stops > (low - view.window + 1)[:, None]
    return np.asarray(seen)

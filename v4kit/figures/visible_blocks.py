"""Compressed blocks token by token: which are visible, how many were chosen, what they hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v4kit.attention import View
from v4kit.core import BLOCK_SOURCE, LAYER, NONE, TOKEN
from v4kit.figures.attended import Looks, looks
from v4kit.figures.queries import Bins, Queries, bins
from v4kit.trace import Trace


@dataclass(frozen=True, slots=True)
class Blocks:
    """What the tokens of a document see, choose and look at."""

    queries: Bins
    """The tokens."""
    blocks: Bins
    """The blocks."""
    mass: np.ndarray
    """Mean mass `[block, token]` of the blocks of a row; NaN where none is visible."""
    known: np.ndarray
    """Pairs of token and block that have a known mass `[block, token]`."""
    pairs: np.ndarray
    """Pairs of token and block of which the token sees the block `[block, token]`."""
    visible: np.ndarray
    """Mean number of blocks that a token sees `[token]`."""
    chosen: np.ndarray
    """Mean number of blocks that were chosen for it `[token]`."""
    compressed: np.ndarray
    """Mean share of its attention that goes to blocks, kept or not `[token]`."""
    seeing: int
    """Tokens that see any block."""


def blocks_of(trace: Trace, layer: int, some: Queries) -> Blocks:
    """Return what some tokens see, choose and look at in a layer with blocks.

    Args:
        trace: A trace with attention.
        layer: The layer.
        some: The tokens, one or more.
    """
    view = trace.require_attention().views[layer]
    columns = bins(0, len(some.chosen))
    rows = bins(0, max(int(view.visible_blocks(int(some.positions.max()))), 1))
    shape = (columns.count, rows.count)
    mass, known, pairs = np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    sums, seeing = np.zeros((4, columns.count)), 0
    for part in looks(trace, some.rows, [layer]):
        own = np.isin(part.rows, some.chosen)
        column = columns.of(np.searchsorted(some.chosen, part.rows))
        visible = np.asarray(view.visible_blocks(part.positions))
        chosen = _chosen(trace, layer, part.rows)
        for place, values in enumerate((own, visible, chosen, part.compressed)):
            sums[place] += np.bincount(column[own], values[own], minlength=columns.count)
        token, block, share = _blocks(part, own, view)
        np.add.at(mass, (column[token], rows.of(block)), share)
        np.add.at(known, (column[token], rows.of(block)), 1)
        several = np.clip(visible[own, None] - rows.starts, 0, rows.stops - rows.starts)
        np.add.at(pairs, column[own], several)
        seeing += int((visible[own] > 0).sum())
    n = np.where(sums[0], sums[0], np.nan)
    cells = np.where(pairs > 0, mass / n[:, None], np.nan)
    means = sums[1:] / n
    return Blocks(columns, rows, cells.T, known.T, pairs.T, means[0], means[1], means[2], seeing)


def _chosen(trace: Trace, layer: int, rows: np.ndarray) -> np.ndarray:
    """Return how many blocks were chosen for each token `[token]`, NaN where that is unknown."""
    values = trace.require_attention().values
    if not len(rows) or "chosen_blocks" not in values:
        return np.full(len(rows), np.nan)
    counts = values["chosen_blocks"].isel({LAYER: layer, TOKEN: slice(rows[0], rows[-1] + 1)})
    chosen = counts.to_numpy()[rows - rows[0]]
    return np.where(chosen == NONE, np.nan, chosen)


def _blocks(part: Looks, own: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of token and block that have a known mass: token, block, mass."""
    token, source = np.nonzero(own[:, None] & (part.kind == BLOCK_SOURCE) & (part.mass > 0))
    block = part.stop[token, source] // view.rate - 1
    most = int(block.max(initial=0)) + 1
    # Heads may keep the same block, each for itself: it is one pair.
    pair, place = np.unique(token * most + block, return_inverse=True)
    share = np.bincount(place, part.mass[token, source], minlength=len(pair))
    return pair // most, pair % most, share

"""Which tokens an attention column stands for.

A layer's attention sees a window of single tokens and, in compressed layers, blocks of tokens that
were pooled into one entry each. The columns of its weights are the window first, then the blocks.
How many there are depends on the tokens before, on those of the pass, and on what the cache keeps;
what each stands for follows from that by arithmetic, here and nowhere else. Intervals are half
open, in positions within the document.

Sources: DeepSeek-V4 §2.3 (CSA: eqs. 9–17, HCA: eqs. 20–23); transformers' `modeling_deepseek_v4`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from v4kit.core import BLOCK_SOURCE, NONE, WINDOW_SOURCE

Ints = TypeVar("Ints", int, np.ndarray)


@dataclass(frozen=True, slots=True)
class View:
    """What one layer's attention can see."""

    window: int | None
    """Single tokens that a query sees, itself included; None: all tokens up to itself."""
    rate: int = 0
    """Tokens from one block to the next; 0: no blocks."""
    span: int = 0
    """Tokens that are pooled into a block, those before its own included."""

    def visible_tokens(self, position: Ints) -> Ints:
        """Return how many single tokens the query at a position sees."""
        if self.window is None:
            return position + 1
        if isinstance(position, int):
            return min(position + 1, self.window)
        return (position + 1).clip(max=self.window)

    def visible_blocks(self, position: Ints) -> Ints:
        """Return how many blocks the query at a position sees: those that end at or before it."""
        return (position + 1) // self.rate if self.rate else position * 0


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of one forward pass's attention weights stand for."""

    view: View
    """What the layer can see."""
    before: int
    """Tokens of the document before this pass."""
    length: int
    """Tokens of this pass."""
    n_window: int
    """Columns that are single tokens; they come first."""
    n_blocks: int
    """Columns that are blocks; they come last."""

    def __len__(self) -> int:
        return self.n_window + self.n_blocks

    @property
    def first(self) -> int:
        """Position of the first column's token."""
        return self.before + self.length - self.n_window

    @property
    def queries(self) -> np.ndarray:
        """Positions of the queries `[token]`."""
        return np.arange(self.before, self.before + self.length)

    @property
    def codes(self) -> np.ndarray:
        """What stands for each column in a trace `[column]`; see `decode`."""
        return np.concatenate(
            [
                np.arange(self.first, self.first + self.n_window),
                block_code(np.arange(self.n_blocks)),
            ]
        )

    @property
    def start(self) -> np.ndarray:
        """First position of each column's interval `[column]`."""
        return self._decoded()[0]

    @property
    def stop(self) -> np.ndarray:
        """End of each column's interval, excluded `[column]`."""
        return self._decoded()[1]

    @property
    def kind(self) -> np.ndarray:
        """Kind of each column `[column]`: `WINDOW_SOURCE` or `BLOCK_SOURCE`."""
        return self._decoded()[2]

    def _decoded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return decode(self.codes, self.view.rate, self.view.span)

    def visible(self) -> np.ndarray:
        """Return which columns each query can see, booleans `[token, column]`.

        In CSA layers the indexer then chooses among the visible blocks.
        """
        query = self.queries[:, None]
        token = np.arange(self.first, self.first + self.n_window)
        seen = token <= query
        if self.view.window is not None:
            seen &= token > query - self.view.window
        blocks = np.arange(self.n_blocks) < self.view.visible_blocks(query)
        return np.concatenate([seen, blocks], axis=1)


def columns(view: View, *, before: int, length: int, width: int | None = None) -> Columns:
    """Return what the columns of a pass stand for.

    Args:
        view: What the layer can see.
        before: Tokens of the document before the pass, 0 or more.
        length: Tokens of the pass, 1 or more.
        width: Columns that the weights have. Without it, what transformers' caches keep: the
            last `window − 1` tokens before the pass.

    Raises:
        ValueError: So many columns can't be.
    """
    n_blocks = int(view.visible_blocks(before + length - 1))
    kept = before if view.window is None else min(before, view.window - 1)
    n_window = kept + length if width is None else width - n_blocks
    if not kept + length <= n_window <= before + length:
        raise ValueError(
            f"Attention weights with {width} columns do not fit {length} tokens after {before}: "
            f"{n_blocks} blocks and {kept + length} to {before + length} single tokens were "
            "expected. Use the cache that transformers makes for the model (a static one is "
            "padded), or record without attention: Record(attention=None)."
        )
    return Columns(view, before, length, n_window, n_blocks)


def block_code(block: Ints) -> Ints:
    """Return what stands for a block in a trace; single tokens are their positions, −1 is none."""
    return NONE - 1 - block


def decode(code: Ints, rate: Any, span: Any) -> tuple[Ints, Ints, Ints]:
    """Return start, stop and kind of recorded sources; all three are −1 where there is none.

    Works alike on numpy arrays and, lazily, on Dask's; `rate` and `span` are a `View`'s, or hold
    those of each layer along the layer axis.
    """
    block = NONE - 1 - code
    is_block = block >= 0
    end = (block + 1) * rate
    begin = (end - span) * (end > span)
    start = code + (begin - code) * is_block
    stop = code + 1 + (end - code - 1) * is_block
    kind = is_block * (BLOCK_SOURCE - WINDOW_SOURCE) + WINDOW_SOURCE
    there = code != NONE
    return (start - NONE) * there + NONE, (stop - NONE) * there + NONE, (kind - NONE) * there + NONE


def visible_columns(view: View, positions: np.ndarray) -> np.ndarray:
    """Return how many sources each query sees `[token]`; 0 where the position is −1."""
    seen = view.visible_tokens(positions) + view.visible_blocks(positions)
    return np.where(positions < 0, 0, seen)


def codes_at(view: View, position: int) -> np.ndarray:
    """Return all sources that the query at a position sees `[source]`: tokens, then blocks."""
    tokens = np.arange(position + 1 - view.visible_tokens(position), position + 1)
    return np.concatenate([tokens, block_code(np.arange(view.visible_blocks(position)))])

"""Tokens that look, on an axis: which they are, and which of them share a row of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from v4kit.errors import InputError
from v4kit.figures.labels import token_label, visible
from v4kit.figures.reading import whole
from v4kit.trace import Trace

CELLS = 320
"""Up to so many tokens, each has a row or column of its own."""
BINS = 256
"""Most rows or columns of an aggregated picture."""
LABELLED = 48
"""Up to so many tokens, their texts stand beside the axis."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Neighbours on an axis that share a row or column."""

    first: int
    """Where the axis begins."""
    size: int
    """Places on the axis."""
    width: int
    """How many share a row or column."""

    @property
    def count(self) -> int:
        """Rows or columns."""
        return -(-self.size // self.width)

    @property
    def starts(self) -> np.ndarray:
        """First place of each row or column."""
        return np.asarray(self.first + np.arange(self.count) * self.width)

    @property
    def stops(self) -> np.ndarray:
        """End of each, excluded."""
        return np.asarray(np.minimum(self.starts + self.width, self.first + self.size))

    @property
    def centres(self) -> np.ndarray:
        """Where each is drawn."""
        return np.asarray(self.starts + (self.width - 1) / 2)

    def of(self, places: np.ndarray) -> np.ndarray:
        """Return the row or column of each place."""
        return np.asarray((places - self.first) // self.width)


def bins(first: int, size: int) -> Bins:
    """Return an axis: every place for itself, or so many together that `BINS` are enough."""
    return Bins(first, size, 1 if size <= CELLS else -(-size // BINS))


@dataclass(frozen=True, slots=True)
class Queries:
    """Tokens of one document that look."""

    document: int
    """Its number."""
    rows: tuple[int, int]
    """First row and end of where they lie."""
    chosen: np.ndarray
    """Their rows `[query]`, in order."""
    positions: np.ndarray
    """Their positions `[query]`."""
    others: int
    """Documents of the span that are left out."""
    several: bool
    """Whether the trace holds several documents."""

    @property
    def in_a_row(self) -> bool:
        """Whether each stands right after the one before."""
        return bool((np.diff(self.positions) == 1).all())

    def axis(self, rows: Bins) -> Bins:
        """Return the axis that they are drawn on: positions, or plain numbers if some lack."""
        first = int(self.positions[0]) if self.in_a_row else 0
        return Bins(first, rows.size, rows.width)

    @property
    def name(self) -> str:
        """What is shown, in a few words; not escaped."""
        n = len(self.chosen)
        text = f"{n:,} token{'s' * (n != 1)}"
        if self.several:
            text += f" of document {self.document}"
        if self.others:
            text += f", {self.others} other document{'s' * (self.others != 1)} left out"
        return text


def queries_of(trace: Trace, rows: tuple[int, int], document: int | None) -> Queries:
    """Return the tokens of one document within some rows that were fed to the model.

    Args:
        trace: A trace.
        rows: First row and end.
        document: Its number; the first one of the rows if not given.

    Raises:
        InputError: The rows hold no such document.
    """
    start, stop = rows
    documents = trace.tokens["document"].to_numpy()[start:stop]
    there = sorted(set(documents.tolist()))
    if document is None:
        document = int(documents[0]) if there else 0
    elif not whole(document) or document not in there:
        named = ", ".join(map(str, there[:8])) + (" …" if len(there) > 8 else "")
        raise InputError(
            f"These rows hold no document {document!r}; given were rows {start} to {stop - 1}. "
            f"There is: {named or 'none'}."
        )
    own = documents == document
    fed = np.flatnonzero(own & trace.tokens["valid"].to_numpy()[start:stop]) + start
    bounds = (int(fed[0]), int(fed[-1]) + 1) if len(fed) else (start, start)
    positions = trace.tokens["position"].to_numpy()[fed]
    several = trace.tokens["document"].nunique() > 1
    return Queries(int(document), bounds, fed, positions, max(len(there) - 1, 0), several)


def token_ticks(
    trace: Trace, axis: Bins, rows: np.ndarray, *, most: int = LABELLED
) -> tuple[dict[str, Any], int]:
    """Return the ticks of an axis with the tokens' texts where they fit, and their length.

    Args:
        trace: The trace.
        axis: The axis.
        rows: Row of the trace of every place, −1 where there is none.
        most: Places up to which there is room.
    """
    if axis.size > most:
        return {}, 0
    known = rows >= 0
    texts = trace.tokens["text"].iloc[rows[known]].tolist()
    ticks = {
        "tickmode": "array",
        "tickvals": (axis.first + np.flatnonzero(known)).tolist(),
        "ticktext": [token_label(text, limit=14) for text in texts],
        "tickfont": {"size": 10},
    }
    return ticks, max((len(visible(text, limit=14)) for text in texts), default=0)

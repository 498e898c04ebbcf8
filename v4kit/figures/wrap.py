"""Lines of tokens: where each token of a text stands when it is set in cells of equal width."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from v4kit.figures.labels import visible

LONGEST = 40
"""A token that is longer is cut, with an ellipsis; its hover box says more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one token stands."""

    line: int
    """Line, from 0."""
    column: int
    """First cell."""
    width: int
    """Cells."""
    text: str
    """What is shown; not escaped."""


def cells(text: str) -> int:
    """Return how many cells a text fills: wide characters two, marks above others none."""
    width = 0
    for character in text:
        if unicodedata.combining(character):
            continue
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return max(width, 1)


def wrap(texts: Sequence[str], *, columns: int, breaks: Sequence[int] = ()) -> list[Place]:
    """Return the place of each token.

    Args:
        texts: Text of each token.
        columns: Cells of a line; a token is never split.
        breaks: Indices of tokens that begin a paragraph: a line is left free above them.
    """
    places, line, column, starts = [], 0, 0, set(breaks)
    for index, text in enumerate(texts):
        if index in starts:
            line, column = line + (2 if column else 1), 0
        shown = visible(text, limit=LONGEST)
        width = cells(shown)
        if column and column + width > columns:
            line, column = line + 1, 0
        places.append(Place(line, column, width, shown))
        column += width
        if "\n" in text:
            line, column = line + 1, 0
    return places

"""Which parts of a text are shown, so that what one token looks at fits on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from v4kit.figures.pages import COLUMNS, PAGE
from v4kit.figures.reading import page_of
from v4kit.figures.wrap import Place, wrap

STRETCH = 50
"""Tokens that are shown or left out together."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Tokens that are left out."""

    first: int
    """The first of them, counted within the text."""
    stop: int
    """Their end, excluded."""
    line: int
    """Line of the page that says so."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What is shown of a text, and where."""

    shown: np.ndarray
    """Tokens that are shown, counted within the text."""
    places: list[Place]
    """Where each of them stands."""
    gaps: list[Gap]
    """What is left out."""

    @property
    def lines(self) -> int:
        """Lines of the page."""
        last = [self.places[-1].line] if self.places else []
        return max([*last, *(gap.line for gap in self.gaps)], default=0) + 1


def parts_of(
    texts: Sequence[str], masses: np.ndarray, token: int, *, page: int | None = None
) -> Parts:
    """Return the parts of a text to show: all of a short one, of a long one where the mass lies.

    Of a text of more than a page, stretches of 50 tokens are chosen: the one with the token itself,
    the one before it, then those that hold the most, until the page is full or nothing is left.

    Args:
        texts: Text of each token.
        masses: What the token looks at: share of each token of the text.
        token: The token that looks.
        page: One page as it stands instead.

    Raises:
        InputError: There is no such page.
    """
    if page is not None or len(texts) <= PAGE:
        start, stop = page_of(len(texts), page or 0, size=PAGE)
        shown = np.arange(start, stop)
    else:
        shown = _strongest(masses, token)
    return _placed(texts, shown)


def _strongest(masses: np.ndarray, token: int) -> np.ndarray:
    """Return the tokens of the stretches that hold most, at most a page of them."""
    count = -(-len(masses) // STRETCH)
    held = np.add.reduceat(masses.astype(np.float64), np.arange(count) * STRETCH)
    own = token // STRETCH
    held[[own, max(own - 1, 0)]] = np.inf
    order = np.argsort(-held, kind="stable")[: PAGE // STRETCH]
    chosen = np.sort(order[held[order] > 0])
    tokens = (chosen[:, None] * STRETCH + np.arange(STRETCH)).ravel()
    return tokens[tokens < len(masses)]


def _placed(texts: Sequence[str], shown: np.ndarray) -> Parts:
    """Return where each token stands; a line between parts is free for what is left out."""
    begins = np.flatnonzero(np.diff(shown) > 1) + 1
    places = wrap([texts[token] for token in shown], columns=COLUMNS, breaks=begins.tolist())
    gaps, top = [], int(shown[0] > 0)
    if top:
        gaps.append(Gap(0, int(shown[0]), 0))
        places = [Place(p.line + 1, p.column, p.width, p.text) for p in places]
    for begin in begins.tolist():
        left_out = int(shown[begin - 1]) + 1, int(shown[begin])
        gaps.append(Gap(*left_out, places[begin].line - 1))
    if shown[-1] + 1 < len(texts):
        gaps.append(Gap(int(shown[-1]) + 1, len(texts), places[-1].line + 1))
    return Parts(shown, places, gaps)

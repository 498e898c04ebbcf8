"""Which colour a token's text gets: an own one for the experts that lead most often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v4kit.core import NONE
from v4kit.figures.reading import BLOCK, Block, Facts, block
from v4kit.figures.theme import CATEGORIES
from v4kit.trace import Trace


@dataclass(frozen=True, slots=True)
class Leaders:
    """The experts of one layer that lead a token, over a whole trace."""

    top: tuple[int, ...]
    """Those that lead most often, most often first; each gets a colour of its own."""
    counts: tuple[int, ...]
    """Tokens that each of them leads."""
    tokens: int
    """Tokens that any expert leads."""
    how: str
    """What leading means here."""

    @property
    def covered(self) -> float:
        """Share of the tokens that one of the top experts leads."""
        return sum(self.counts) / max(self.tokens, 1)


def meaning(known: Facts, layer: int) -> str:
    """Return what the leading expert of a layer is."""
    if known.weighted:
        return "heaviest expert"
    return "expert of rank 1" if known.ranks(layer) else "first recorded expert (no order)"


def leading(part: Block, known: Facts) -> np.ndarray:
    """Return each token's leading expert in one layer, −1 for none.

    It is the one of the largest weight; without weights the one in the first slot.
    """
    if not len(part.experts):
        return np.zeros(0, np.int64)
    used = part.experts != NONE
    heavy = used.astype(np.float64)
    if part.weights is not None:
        heavy = np.where(used, np.nan_to_num(part.weights, nan=0.0), -1.0)
    slot = heavy.argmax(axis=1)
    return np.take_along_axis(part.experts, slot[:, None], axis=1)[:, 0].astype(np.int64)


def leaders(trace: Trace, known: Facts, layer: int) -> Leaders:
    """Return the experts that lead most often in a layer of the whole trace."""
    counts = np.zeros(known.n_experts, np.int64)
    for first in range(0, len(trace), BLOCK):
        part = block(trace, first, min(first + BLOCK, len(trace)), layer=layer)
        first_ones = leading(part, known)
        counts += np.bincount(first_ones[first_ones != NONE], minlength=known.n_experts)
    order = [int(e) for e in np.argsort(-counts, kind="stable")[: len(CATEGORIES)] if counts[e]]
    return Leaders(
        top=tuple(order),
        counts=tuple(int(counts[expert]) for expert in order),
        tokens=int(counts.sum()),
        how=meaning(known, layer),
    )

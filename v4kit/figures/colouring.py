"""Which colour a token's text gets: an own one for the experts that lead most often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v4kit.core import NONE
from v4kit.figures.reading import Block, Facts, block, blocks
from v4kit.figures.theme import CATEGORIES
from v4kit.trace import Trace
from v4kit.trace.leading import leading as leading_expert


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
    """What leading means here; empty where no expert leads, because they have no order."""

    @property
    def covered(self) -> float:
        """Share of the tokens that one of the top experts leads."""
        return sum(self.counts) / max(self.tokens, 1)


def leading(part: Block) -> np.ndarray:
    """Return each token's leading expert, −1 for none; shaped like the block without its slots.

    It is the one of the largest weight; without weights there is none.
    """
    return leading_expert(part.experts, part.weights)


def leaders(trace: Trace, known: Facts, layer: int) -> Leaders:
    """Return the experts that lead most often in a layer of the whole trace."""
    counts = np.zeros(known.n_experts, np.int64)
    for start, stop in blocks(0, len(trace)):
        first = leading(block(trace, start, stop, layer=layer))
        counts += np.bincount(first[first != NONE], minlength=known.n_experts)
    return _leaders(counts, known)


def leaders_of_all(trace: Trace, known: Facts) -> list[Leaders]:
    """Return the leaders of every layer, from one pass over the trace."""
    counts = np.zeros((len(known.kinds), known.n_experts), np.int64)
    for start, stop in blocks(0, len(trace)):
        first = leading(block(trace, start, stop))
        for layer, column in enumerate(first.T):
            counts[layer] += np.bincount(column[column != NONE], minlength=known.n_experts)
    return [_leaders(counts[layer], known) for layer in range(len(known.kinds))]


def _leaders(counts: np.ndarray, known: Facts) -> Leaders:
    order = [int(e) for e in np.argsort(-counts, kind="stable")[: len(CATEGORIES)] if counts[e]]
    return Leaders(
        top=tuple(order),
        counts=tuple(int(counts[expert]) for expert in order),
        tokens=int(counts.sum()),
        how="heaviest expert" if known.weighted else "",
    )

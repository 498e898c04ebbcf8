"""What one token looks at, placed on the text of its document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v4kit.core import HEAD, NONE
from v4kit.figures.attended import Looks
from v4kit.trace import Trace


@dataclass(frozen=True, slots=True)
class Seen:
    """What one token looks at, over the text of its document."""

    row: int
    """The token's row in the trace."""
    token: int
    """The token, counted within the text."""
    layer: int
    """The layer."""
    rows: np.ndarray
    """Row of each token of the text `[token]`, in order of position."""
    positions: np.ndarray
    """Position of each `[token]`."""
    window: np.ndarray
    """Mass as a single token `[token]`."""
    compressed: np.ndarray
    """Mass by way of blocks `[token]`, folded by a convention."""
    shares: dict[str, float]
    """Sink, window, compressed and rest; they add up to 1."""
    lost: tuple[float, float]
    """What the rest is: single tokens, blocks."""
    absent: float
    """Mass on tokens of the document that the trace does not hold."""
    convention: str
    """Name of the convention, and what it does with a block's mass."""

    @property
    def mass(self) -> np.ndarray:
        """Mass of each token `[token]`, one way or the other."""
        return np.asarray(self.window + self.compressed)


def seen_by(trace: Trace, row: int, found: Looks, *, head: int | None, convention: str) -> Seen:
    """Return what a token looks at, placed on the tokens of its document.

    Args:
        trace: A trace with attention.
        row: The token's row.
        found: What it attends to.
        head: One head; their mean if not given.
        convention: How a block's mass is folded.

    Raises:
        InputError: The convention is unknown, or its weights were not recorded.
    """
    folded = trace.attention_to_tokens([row], layers=found.layer, convention=convention)
    if HEAD in folded.dims:
        folded = folded.mean(HEAD, keep_attrs=True) if head is None else folded.isel({HEAD: head})
    by_position = [folded[name].to_numpy()[0, 0] for name in ("window", "compressed")]
    documents = trace.tokens["document"].to_numpy()
    own = np.flatnonzero(documents == documents[row])
    positions, first = np.unique(trace.tokens["position"].to_numpy()[own], return_index=True)
    there = positions != NONE
    rows, positions = own[first][there], positions[there]
    window, compressed = (mass[positions] for mass in by_position)
    placed = float(window.sum() + compressed.sum())
    lost = found.lost()[0]
    return Seen(
        row=row,
        token=int(np.searchsorted(positions, trace.tokens["position"].iloc[row])),
        layer=found.layer,
        rows=rows,
        positions=positions,
        window=window,
        compressed=compressed,
        shares={name: float(values[0]) for name, values in found.shares().items()},
        lost=(float(lost[0]), float(lost[1])),
        absent=max(sum(float(mass.sum()) for mass in by_position) - placed, 0.0),
        convention=f"{folded.attrs['convention']}: {folded.attrs['meaning']}",
    )

"""All masses of a layer, row after row without gaps, as long as each row's visible columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from v4kit.attention.spans import View, codes_at, visible_columns
from v4kit.core import NONE

_TOGETHER = 2**20
"""Masses that are read at once, those of rows between the wanted ones included."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """The masses of one layer over all its visible columns.

    Row after row, within a row head after head, within a head the window's tokens and then the
    blocks, as `codes_at` lists them.
    """

    values: Any
    """All masses `[element]`: a numpy array, or a Dask array when they lie on disk."""
    starts: np.ndarray
    """Where each row's masses begin `[token]`."""
    view: View
    """What the layer can see."""
    positions: np.ndarray
    """Position of each row `[token]`; −1 for a row that has no masses."""
    heads: int
    """Heads that are kept apart; 1 for their mean."""

    @classmethod
    def of(cls, values: Any, view: View, positions: np.ndarray, heads: int) -> Ragged:
        """Return rows whose masses follow one another from the first on."""
        sizes = visible_columns(view, positions) * heads
        return cls(values, np.cumsum(sizes) - sizes, view, positions, heads)

    @property
    def columns(self) -> np.ndarray:
        """How many columns each row has `[token]`."""
        return visible_columns(self.view, self.positions)

    def take(self, rows: Any) -> Ragged:
        """Return some rows; the masses are shared, not copied."""
        return Ragged(self.values, self.starts[rows], self.view, self.positions[rows], self.heads)

    def flat(self) -> Any:
        """Return the masses of these rows, one after the other `[element]`."""
        sizes = self.columns * self.heads
        stops = self.starts + sizes
        if len(sizes) and np.array_equal(self.starts[1:], stops[:-1]):
            return self.values[int(self.starts[0]) : int(stops[-1])]
        flat, begins = np.empty(int(sizes.sum()), np.float32), np.cumsum(sizes) - sizes
        for rows in self._near(stops):
            first = int(self.starts[rows[0]])
            part = _in_memory(self.values[first : int(stops[rows].max())])
            for row in rows:
                at = self.starts[row] - first
                flat[begins[row] : begins[row] + sizes[row]] = part[at : at + sizes[row]]
        return flat

    def _near(self, stops: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the rows in groups whose masses lie close enough to be read at once."""
        order = np.argsort(self.starts, kind="stable")
        order = order[stops[order] > self.starts[order]]
        while len(order):
            reach = int(self.starts[order[0]]) + _TOGETHER
            count = max(1, int(np.argmax(np.append(stops[order] > reach, values=True))))
            yield order[:count]
            order = order[count:]

    def table(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return codes `[token, source]` and masses `[token, head, source]`, filled up to a width.

        A source that is not there has the code −1 and no mass; a row without masses has NaN.
        """
        codes = np.full((len(self.positions), width), NONE, np.int32)
        masses = np.zeros((len(self.positions), self.heads, width), np.float32)
        flat, done = _in_memory(self.flat()), 0
        for row, (position, size) in enumerate(
            zip(self.positions.tolist(), self.columns.tolist(), strict=True)
        ):
            if position < 0:
                masses[row] = np.nan
                continue
            codes[row, :size] = codes_at(self.view, position)
            masses[row, :, :size] = flat[done : done + size * self.heads].reshape(self.heads, size)
            done += size * self.heads
        return codes, masses


def _in_memory(values: Any) -> np.ndarray:
    """Return masses as numpy; one of Dask's own threads may ask, so no others are started."""
    lazy = hasattr(values, "compute")
    return np.asarray(values.compute(scheduler="synchronous") if lazy else values)


def joined(parts: list[Ragged]) -> Ragged:
    """Return the rows of several, one after the other."""
    flats = [part.flat() for part in parts]
    if all(isinstance(flat, np.ndarray) for flat in flats):
        values = np.concatenate(flats)
    else:
        import dask.array

        values = dask.array.concatenate(flats)  # type: ignore[no-untyped-call]
    positions = np.concatenate([part.positions for part in parts])
    return Ragged.of(values, parts[0].view, positions, parts[0].heads)

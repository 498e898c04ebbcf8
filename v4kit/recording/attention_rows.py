"""Rows of recorded attention, for layers that see alike and lie on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from v4kit.attention import Columns, Ragged, View, columns
from v4kit.errors import UnsupportedModel
from v4kit.recording.attention_reduce import reduce_attention

_TOGETHER = 64
"""Single tokens that wait to be reduced together, which costs as much as to reduce one."""
_BLOCK = 512
"""Rows up to which short parts are joined."""
HOLD = 65_536
"""Weights of one layer and token up to which they may wait."""


@dataclass(frozen=True, slots=True)
class Held:
    """Attention weights over some rows, before they are reduced."""

    weights: Tensor
    """`[layer, row, (head,) column]`, float32."""
    positions: np.ndarray
    """Position of each row."""
    first: np.ndarray
    """Position of the first column's token, for each row."""
    n_window: int
    """Columns that are single tokens."""

    @classmethod
    def of_pass(cls, weights: Tensor, seen: Columns) -> Held:
        """Return the weights of one pass, a batch of documents that stand at the same position."""
        positions = np.tile(seen.queries, weights.shape[1] // seen.length)
        return cls(weights, positions, np.full(len(positions), seen.first), seen.n_window)

    def take(self, rows: Tensor | None) -> Held:
        """Return some of the rows, or all."""
        if rows is None:
            return self
        chosen = rows.cpu().numpy()
        weights = self.weights[:, rows.to(self.weights.device)]
        return Held(weights, self.positions[chosen], self.first[chosen], self.n_window)

    def reduce(self, *, sources: int | None, sinks: bool) -> dict[str, Tensor]:
        """Return what a trace keeps of these rows, axes `[row, layer, …]`."""
        return reduce_attention(
            self.weights,
            first=torch.from_numpy(self.first).to(self.weights.device),
            n_window=self.n_window,
            sources=sources,
            sinks=sinks,
        )

    def visible(self, view: View) -> np.ndarray:
        """Return which columns each row can see, booleans `[row, column]`."""
        token = self.first[:, None] + np.arange(self.n_window)
        query = self.positions[:, None]
        seen = (token >= 0) & (token <= query)
        if view.window is not None:
            seen &= token > query - view.window
        blocks = np.arange(self.weights.shape[-1] - self.n_window) < view.visible_blocks(query)
        return np.concatenate([seen, blocks], axis=1)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass left of some layers, as the hooks caught it."""

    weights: tuple[Tensor, ...]
    """Of each layer, `[row, (head,) column]`."""
    chosen: tuple[Tensor, ...]
    """What each layer's indexer chose `[batch, token, choice]`, or how many `[batch, token]`; empty
    where there is none."""
    before: int
    """Tokens of the document before this pass."""
    length: int
    """Tokens of this pass."""
    start: int
    """Number of its first row among all that count."""
    rows: Tensor | None
    """Which of its rows count, in which order; None: all."""

    def held(self, view: View) -> Held:
        """Return the weights with where their rows stand.

        Raises:
            UnsupportedModel: They have columns that can't be told.
        """
        weights = torch.stack(self.weights)
        seen = known_columns(view, self.before, self.length, weights.shape[-1])
        held = Held.of_pass(weights, seen)
        if self.length == 1 and view.window is not None and view.window != held.n_window:
            # The same columns for every single token: the window ends with the token itself.
            missing = view.window - held.n_window
            held = Held(
                F.pad(weights, (missing, 0)), held.positions, held.first - missing, view.window
            )
        return held.take(self.rows)

    def choices(self) -> Tensor:
        """Return how many blocks each layer's indexer chose `[row, layer]`."""
        counts = torch.stack([counted(blocks) for blocks in self.chosen], -1).flatten(0, 1)
        return counts if self.rows is None else counts[self.rows.to(counts.device)]


def counted(blocks: Tensor) -> Tensor:
    """Return how many blocks were chosen `[batch, token]`, if they are not counted yet."""
    return blocks if blocks.ndim == 2 else (blocks >= 0).sum(-1, dtype=torch.int32)


def known_columns(view: View, before: int, length: int, width: int) -> Columns:
    """Return what the columns of weights stand for.

    Raises:
        UnsupportedModel: There are more or fewer than the layer can see.
    """
    try:
        return columns(view, before=before, length=length, width=width)
    except ValueError as error:
        raise UnsupportedModel(str(error)) from error


def _together(several: list[Held]) -> Held:
    """Return the rows of several single tokens as one; missing columns are 0."""
    if len(several) == 1:
        return several[0]
    width = max(part.weights.shape[-1] for part in several)
    return Held(
        torch.cat([F.pad(p.weights, (0, width - p.weights.shape[-1])) for p in several], dim=1),
        np.concatenate([part.positions for part in several]),
        np.concatenate([part.first for part in several]),
        max(part.n_window for part in several),
    )


@dataclass(frozen=True, slots=True)
class Reduced:
    """What is kept of some rows."""

    values: dict[str, Tensor]
    """Variables `[row, layer, …]`."""
    masses: tuple[np.ndarray, ...]
    """All masses of each layer `[element]`, where they are kept."""
    device: torch.device
    """Where the weights were; what is kept has left it."""

    def __len__(self) -> int:
        return len(self.values["sink"])

    @classmethod
    def of(cls, held: Held, view: View, *, sources: int | None, sinks: bool) -> Reduced:
        """Return what is kept of some rows; all masses where `sources` is None."""
        reduced = held.reduce(sources=sources, sinks=sinks)
        values = {name: value.cpu() for name, value in reduced.items()}
        if sources is not None:
            return cls(values, (), held.weights.device)
        mask, masses = held.visible(view), []
        for weights in held.weights.cpu().numpy():
            seen = mask if weights.ndim == mask.ndim else mask[:, None].repeat(weights.shape[1], 1)
            masses.append(weights[seen])
        return cls(values, tuple(masses), held.weights.device)

    @classmethod
    def joined(cls, layers: Sequence[Reduced]) -> Reduced:
        """Return several layers' rows as one."""
        names = layers[0].values
        values = {name: torch.cat([part.values[name] for part in layers], dim=1) for name in names}
        masses = tuple(mass for part in layers for mass in part.masses)
        return cls(values, masses, layers[0].device)

    def take(self, rows: Tensor | None, positions: np.ndarray, view: View) -> Reduced:
        """Return some of the rows, or all; `positions` are those of all."""
        if rows is None:
            return self
        values = {name: value[rows.to(value.device)] for name, value in self.values.items()}
        heads = 1 if self.values["sink"].ndim == 2 else self.values["sink"].shape[-1]
        ragged = (Ragged.of(flat, view, positions, heads) for flat in self.masses)
        chosen = rows.cpu().numpy()
        masses = tuple(np.asarray(part.take(chosen).flat()) for part in ragged)
        return Reduced(values, masses, self.device)


class AttentionRows:
    """Collects rows of some layers: single tokens wait and are reduced together.

    Every pass is stored by the number of its first row, so that one that was interrupted half-way
    is written over by the next.
    """

    def __init__(
        self, layers: tuple[int, ...], view: View, *, sources: int | None, sinks: bool
    ) -> None:
        self.layers = layers
        self._view = view
        self._sources = sources
        self._sinks = sinks
        self._waiting: list[Pass] = []
        self._size = 0
        self._parts: dict[int, Reduced] = {}

    @property
    def new(self) -> bool:
        """Whether no pass was taken yet."""
        return not self._waiting and not self._parts

    def hold(self, caught: Pass) -> None:
        """Take a pass whose weights are not reduced yet."""
        self._waiting = [*(p for p in self._waiting if p.start < caught.start), caught]
        self._size += caught.weights[0].numel()
        full = self._sources is None
        if full or len(self._waiting) >= _TOGETHER or self._size > 4 * HOLD:
            self._settle()

    def add(self, reduced: Sequence[Reduced], caught: Pass, positions: np.ndarray) -> None:
        """Take a pass that was reduced already, layer by layer."""
        self._settle()
        part = Reduced.joined(reduced).take(caught.rows, positions, self._view)
        if caught.chosen:
            part.values["chosen_blocks"] = caught.choices().cpu()
        self._parts[caught.start] = part

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all rows by variable `[row, layer, …]`."""
        self._settle()
        starts = sorted(self._parts)
        parts = [self._parts[start].values for start in starts]
        sizes = [after - start for start, after in pairwise(starts)] + [None]
        return {
            name: torch.cat([part[name][:n] for part, n in zip(parts, sizes, strict=True)]).numpy()
            for name in (parts[0] if parts else ())
        }

    def masses(self) -> dict[int, np.ndarray]:
        """Return all masses of each layer `[element]`."""
        self._settle()
        parts = [self._parts[start].masses for start in sorted(self._parts)]
        nothing = np.empty(0, np.float32)
        return {
            layer: np.concatenate([nothing, *(part[place] for part in parts)])
            for place, layer in enumerate(self.layers)
        }

    @torch.no_grad()
    def _settle(self) -> None:
        """Reduce what waits; interrupted, it waits on."""
        if not self._waiting:
            return
        held = _together([caught.held(self._view) for caught in self._waiting])
        part = Reduced.of(held, self._view, sources=self._sources, sinks=self._sinks)
        if self._waiting[0].chosen:
            part.values["chosen_blocks"] = torch.cat([p.choices() for p in self._waiting]).cpu()
        self._store(self._waiting[0].start, part)
        self._waiting, self._size = [], 0

    def _store(self, start: int, part: Reduced) -> None:
        """Keep a part; short ones, of someone who looks after every token, are joined."""
        last = max(self._parts, default=start)
        before = self._parts.get(last)
        short = before is not None and not before.masses and len(before) + len(part) <= _BLOCK
        if before is not None and short and last + len(before) == start:
            names = part.values
            values = {n: torch.cat([before.values[n], part.values[n]]) for n in names}
            start, part = last, Reduced(values, (), part.device)
        self._parts[start] = part

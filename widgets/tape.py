"""Rows that a view shows: those of a trace, or of a run while it goes."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from v4kit.core import NONE
from v4kit.figures.colouring import leading
from v4kit.figures.reading import Block, block, blocks, facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from v4kit.engines import Step
    from v4kit.trace import Trace


@dataclass(frozen=True, slots=True)
class Totals:
    """How often each expert was used and led, over some rows."""

    counts: np.ndarray
    """Tokens that use it `[layer, expert]`."""
    leads: np.ndarray
    """Tokens of which it is the heaviest `[layer, expert]`."""
    routed: np.ndarray
    """Tokens that have any expert `[layer]`."""


class Tape:
    """The rows of a trace, and after them those that steps have told since.

    One thread adds; others read what they take with `now`. A step brings the text of a new row
    and the experts of the row before it, so the last row of a run has no experts yet.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._known = facts(trace)
        self._texts: list[str] = trace.tokens["text"].tolist()
        self._generated = (trace.tokens["phase"] == "generated").to_numpy()
        self._steps: list[Step] = []

    def __len__(self) -> int:
        return len(self._texts) + len(self._steps)

    @property
    def complete(self) -> int:
        """Rows up to the last one that has been fed to the model."""
        if self._steps:
            return len(self) - 1
        fed = np.flatnonzero(self.trace.tokens["valid"].to_numpy())
        return int(fed[-1]) + 1 if len(fed) else 0

    def add(self, step: Step) -> None:
        """Add the next step."""
        self._steps.append(step)

    def now(self) -> Tape:
        """Return the rows there are at this moment, on which several answers can agree."""
        still = copy(self)
        vars(still)["_steps"] = list(self._steps)
        return still

    def texts(self, start: int, stop: int) -> list[str]:
        """Return the texts of rows `start … stop−1`."""
        rows = len(self._texts)
        told = [step.text for step in self._steps[max(start - rows, 0) : max(stop - rows, 0)]]
        return self._texts[start:stop] + told

    def generated(self, start: int, stop: int) -> np.ndarray:
        """Return which of the rows were generated, one boolean each."""
        known = self._generated[start:stop]
        new = max(min(stop, len(self)) - start - len(known), 0)
        return np.concatenate([known, np.ones(new, bool)])

    def block(self, start: int, stop: int, *, layer: int | None = None) -> Block:
        """Return the routing of rows `start … stop−1` in one layer or in all; −1 where not told."""
        steps, rows = self._steps, len(self._texts)
        stop = min(stop, rows + len(steps))
        # The first step completes the trace's last row, so that the trace is not asked for it.
        held = rows - 1 if steps else rows
        if stop <= held:
            return block(self.trace, start, stop, layer=layer)
        if start >= stop:
            return block(self.trace, 0, 0, layer=layer)
        told = [_routing(step, layer) for step in steps[max(start - held, 0) : stop - held]]
        if stop - held > len(steps):
            told.append(_nothing(steps[-1], layer))
        experts = np.stack([part.experts for part in told])
        weights = np.stack([part.weights for part in told])
        if start < held:
            old = block(self.trace, start, held, layer=layer)
            experts = np.concatenate([old.experts, experts])
            if old.weights is not None:
                weights = np.concatenate([old.weights, weights])
        return Block(experts, weights if self._known.weighted else None)

    def totals(self) -> Totals:
        """Count experts over all rows that have any."""
        layers, experts = len(self._known.kinds), self._known.n_experts
        counts = np.zeros((layers, experts), np.int32)
        leads, routed = counts.copy(), np.zeros(layers, np.int32)
        for part in self._parts():
            first, used = leading(part), part.experts != NONE
            routed += used.any(axis=2).sum(axis=0, dtype=np.int32)
            for layer in range(layers):
                ids, led = part.experts[:, layer], first[:, layer]
                counts[layer] += np.bincount(ids[used[:, layer]], minlength=experts)
                leads[layer] += np.bincount(led[led != NONE], minlength=experts)
        return Totals(counts, leads, routed)

    def _parts(self) -> Iterator[Block]:
        for start, stop in blocks(0, len(self)):
            yield self.block(start, stop)


@dataclass(frozen=True, slots=True)
class _Row:
    """The routing of one row, in one layer or in all."""

    experts: np.ndarray
    """Expert ids `[(layer,) slot]`."""
    weights: np.ndarray
    """Their weights, NaN where none were told."""


def _routing(step: Step, layer: int | None) -> _Row:
    experts, weights = step.experts, step.weights
    if weights is None:
        weights = np.full(experts.shape, np.nan, np.float32)
    return _Row(experts, weights) if layer is None else _Row(experts[layer], weights[layer])


def _nothing(like: Step, layer: int | None) -> _Row:
    """Return a row that has no experts yet."""
    row = _routing(like, layer)
    return _Row(np.full_like(row.experts, NONE), np.full_like(row.weights, np.nan))

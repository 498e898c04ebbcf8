"""Everything that is recorded of forward passes, in one hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from v4kit.arch import Architecture, Family
from v4kit.core import Record
from v4kit.recording.attention import AttentionRecorder
from v4kit.recording.displaced import DisplacedRecorder
from v4kit.recording.modules import find_attentions, find_compressors
from v4kit.recording.outputs import OutputRecorder
from v4kit.recording.pooling import PoolingRecorder
from v4kit.recording.recorder import RoutingRecorder
from v4kit.recording.streams import StreamRecorder
from v4kit.recording.taps import Before, Hook
from v4kit.trace import Trace, make_trace


class PassRecorder:
    """Records routing and attention of forward passes; one counts once it is committed.

    `hooks` are `(module, hook)` for all that is recorded; attach them after all that may edit, and
    `first(layers)` before the edits of some layers.
    `kept` is the Record, without attention if the model returns none.
    """

    def __init__(
        self,
        hf_model: Any,
        routers: dict[int, nn.Module],
        family: Family,
        architecture: Architecture,
        record: Record,
    ) -> None:
        self.routing = RoutingRecorder(hf_model, routers, family, architecture, record)
        self.attention = AttentionRecorder(hf_model, family, architecture, record)
        self.kept = record if self.attention.on else replace(record, attention=None)
        self._pooling: PoolingRecorder | None = None
        if record.pooling and self.attention.on:
            attentions = find_attentions(hf_model, family, architecture)
            self._pooling = PoolingRecorder(find_compressors(attentions, family), architecture)
        self._outputs = OutputRecorder(hf_model, family, architecture) if record.outputs else None
        self._streams = StreamRecorder(hf_model, family, architecture) if record.streams else None
        self._displaced = DisplacedRecorder(routers)
        self.first = self._displaced.hooks
        every = (self.routing, self.attention, self._pooling, self._outputs, self._streams)
        self._all = [one for one in every if one is not None]
        self.hooks: list[tuple[nn.Module, Hook | Before]] = [
            pair for one in self._all for pair in one.hooks()
        ]

    def begin(self, before: int, length: int) -> None:
        """Tell how many tokens of the document are before the next pass, and in it."""
        self.discard()
        self.attention.begin(before, length)

    def discard(self) -> None:
        """Forget a pass that did not end."""
        for one in (*self._all, self._displaced):
            one.discard()

    def commit(self, rows: Tensor | None = None, documents: Sequence[int] = (0,)) -> None:
        """Make the last pass count.

        Args:
            rows: Which of its rows, and in which order; all if not given.
            documents: The document of each row of the batch.
        """
        # Before routing takes its rows in, so that it still tells where they begin.
        self._displaced.commit(len(self.routing), rows)
        for one in (self.routing, self.attention, self._outputs, self._streams):
            if one is not None:
                one.commit(rows)
        if self._pooling:
            self._pooling.commit(documents)

    def trace(
        self,
        columns: dict[str, Any],
        meta: dict[str, Any],
        *,
        completed: int | None = None,
        order: np.ndarray | None = None,
    ) -> Trace:
        """Return the Trace of what was committed.

        Args:
            columns: The token table; its rows may be more than those that were committed.
            meta: What the trace is of.
            completed: Rows that count; None: all that were committed.
            order: Which committed row stands in each row of the trace; None: as committed.
        """
        length = len(columns["id"])
        arrays = self.routing.arrays(length, completed=completed)
        if self._outputs:
            arrays |= self._outputs.arrays(arrays["experts"], completed)
        if self._streams:
            arrays |= self._streams.arrays(length, completed)
        arrays |= self._displaced.arrays(arrays["experts"])
        if order is not None:
            arrays = {n: a if n == "bias" else a[order] for n, a in arrays.items()}
        meta = {**meta, "attention": self.attention.meta}
        found = self.attention.result(length, completed=completed, order=order)
        if found is None:
            return make_trace(columns, arrays, meta)
        attention, masses = found
        if self._pooling:
            fed = length if completed is None else completed
            documents = np.asarray(columns.get("document", np.zeros(length, int)))
            places = np.asarray(columns.get("position", []), int)
            attention |= self._pooling.arrays(length, documents[:fed], places[:fed])
        return make_trace(columns, arrays, meta, attention=attention, masses=masses)

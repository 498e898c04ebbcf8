"""The small summary inside a `.v4trace` file, for viewers that have no kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from v4kit.core import HEAD

if TYPE_CHECKING:
    from v4kit.attention import Attention
    from v4kit.trace.trace import Trace

TEXT = 4_000
"""Characters of text that an overview keeps."""
SHARES = ("sink", "window", "compressed")
"""Shares of attention whose mean an overview keeps, by layer over the tokens that have any."""


class Overview:
    """Counts experts, averages attention and keeps the first text while a trace is written."""

    def __init__(self, meta: dict[str, Any]) -> None:
        architecture = meta["architecture"]
        shape = (len(architecture["layers"]), int(architecture["n_experts"]))
        self._meta = meta
        self._counts = np.zeros(shape, dtype=np.int64)
        self._shares = np.zeros((len(SHARES), shape[0]))
        self._attended = np.zeros(shape[0], dtype=np.int64)
        self._text = ""
        self._rows = 0
        self._documents: set[int] = set()

    def add(self, part: Trace) -> None:
        """Count a part of the trace."""
        experts = part.routing["experts"].to_numpy()
        n_experts = self._counts.shape[1]
        for layer in range(experts.shape[1]):
            used = experts[:, layer].ravel()
            self._counts[layer] += np.bincount(used[used >= 0], minlength=n_experts)
        if part.stored_attention is not None:
            self._add_attention(part.stored_attention)
        self._rows += len(part)
        self._documents |= set(part.tokens["document"])
        if len(self._text) < TEXT:
            self._text = (self._text + part.text)[:TEXT]

    def _add_attention(self, attention: Attention) -> None:
        values = attention.values[list(SHARES)]
        shares = (values.mean(HEAD) if HEAD in values.dims else values).to_array().to_numpy()
        there = ~np.isnan(shares).any(axis=0)
        self._shares += np.where(there, shares, 0).sum(axis=1, dtype=np.float64)
        self._attended += there.sum(axis=0)

    def data(self) -> dict[str, Any]:
        """Return the overview as JSON data."""
        overview = {
            "tokens": self._rows,
            "documents": len(self._documents),
            "meta": self._meta,
            "counts": self._counts.tolist(),
            "text": self._text,
        }
        if self._attended.any():
            # A layer of which nothing was recorded has 0 in all of them.
            means = self._shares / np.maximum(self._attended, 1)
            overview["attention"] = dict(zip(SHARES, means.round(6).tolist(), strict=True))
        return overview

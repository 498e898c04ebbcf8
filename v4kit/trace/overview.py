"""The small summary inside a `.v4trace` file, for viewers that have no kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from v4kit.trace.trace import Trace

TEXT = 4_000
"""Characters of text that an overview keeps."""


class Overview:
    """Counts experts `[layer, expert]` and keeps the first characters while a trace is written."""

    def __init__(self, meta: dict[str, Any]) -> None:
        architecture = meta["architecture"]
        shape = (len(architecture["layers"]), int(architecture["n_experts"]))
        self._meta = meta
        self._counts = np.zeros(shape, dtype=np.int64)
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
        self._rows += len(part)
        self._documents |= set(part.tokens["document"])
        if len(self._text) < TEXT:
            self._text = (self._text + part.text)[:TEXT]

    def data(self) -> dict[str, Any]:
        """Return the overview as JSON data."""
        return {
            "tokens": self._rows,
            "documents": len(self._documents),
            "meta": self._meta,
            "counts": self._counts.tolist(),
            "text": self._text,
        }

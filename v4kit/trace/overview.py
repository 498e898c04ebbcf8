"""The small summary inside a `.v4trace` file, for viewers that have no kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from v4kit.core import HEAD, LAYER
from v4kit.trace.leading import coloured_layer, leading
from v4kit.trace.schema import plain_text

if TYPE_CHECKING:
    from v4kit.attention import Attention
    from v4kit.trace.trace import Trace

TEXT = 4_000
"""Characters of text, and tokens of it, that an overview keeps."""
SHARES = ("sink", "window", "compressed")
"""Shares of attention whose mean an overview keeps, by layer over the tokens that have any."""
BLOCK = 4_096
"""Rows read at once, so that a trace on disk need not fit into memory."""


class Overview:
    """Counts experts, averages attention and keeps the first text while a trace is written."""

    def __init__(self, meta: dict[str, Any]) -> None:
        architecture = meta["architecture"]
        shape = (len(architecture["layers"]), int(architecture["n_experts"]))
        self._meta = meta
        self._counts = np.zeros(shape, dtype=np.int64)
        self._shares = np.zeros((len(SHARES), shape[0]))
        self._attended = np.zeros(shape[0], dtype=np.int64)
        self._text = _Text(coloured_layer([layer["routing"] for layer in architecture["layers"]]))
        self._rows = 0
        self._generated = 0
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
        self._generated += int((part.tokens["phase"] == "generated").sum())
        self._documents |= set(part.tokens["document"])
        self._text.add(part)

    def _add_attention(self, attention: Attention) -> None:
        values = attention.values[list(SHARES)]
        shares = (values.mean(HEAD) if HEAD in values.dims else values).to_array().to_numpy()
        there = ~np.isnan(shares).any(axis=0)
        self._shares += np.where(there, shares, 0).sum(axis=1, dtype=np.float64)
        self._attended += there.sum(axis=0)

    def data(self) -> dict[str, Any]:
        """Return the overview as JSON data.

        `counts` is `[layer][expert]`. `text` is the first text, and `pieces` says how to cut and
        colour it: for each token the characters (code points) in `lengths` and the leading expert
        of one `layer` in `experts`, −1 for none; `weighted` if weights tell which one is the
        heaviest, without which none leads; `begins` lists the tokens that begin a document.
        `pieces` is missing where no layer has a router, `attention` where none was recorded.
        """
        overview = {
            "tokens": self._rows,
            "generated": self._generated,
            "documents": len(self._documents),
            "meta": self._meta,
            "counts": self._counts.tolist(),
            **self._text.data(),
        }
        if self._attended.any():
            # A layer of which nothing was recorded has 0 in all of them.
            means = self._shares / np.maximum(self._attended, 1)
            overview["attention"] = dict(zip(SHARES, means.round(6).tolist(), strict=True))
        return overview


class _Text:
    """The first text, token by token."""

    def __init__(self, layer: int | None) -> None:
        self._layer = layer
        self._weighted = False
        self._texts: list[str] = []
        self._experts: list[int] = []
        self._begins: list[int] = []
        self._room = TEXT
        self._document: int | None = None

    def add(self, part: Trace) -> None:
        """Keep what there is still room for."""
        first, kept = len(self._texts), min(len(part), TEXT - len(self._texts))
        for text, document in zip(
            plain_text(part.tokens["text"].iloc[:kept]),
            part.tokens["document"].iloc[:kept].tolist(),
            strict=True,
        ):
            if not self._room:
                break
            if document != self._document:
                self._begins.append(len(self._texts))
                self._document = document
            self._texts.append(text[: self._room])
            self._room -= len(self._texts[-1])
        if self._layer is not None and len(self._texts) > first:
            self._lead(part, self._layer, len(self._texts) - first)

    def _lead(self, part: Trace, layer: int, count: int) -> None:
        routing = part.routing.isel({LAYER: layer})
        self._weighted = "weights" in routing
        weights = routing["weights"].to_numpy()[:count] if self._weighted else None
        self._experts += leading(routing["experts"].to_numpy()[:count], weights).tolist()

    def data(self) -> dict[str, Any]:
        """Return the text and its pieces."""
        text: dict[str, Any] = {"text": "".join(self._texts)}
        if self._layer is not None:
            text["pieces"] = {
                "layer": self._layer,
                "weighted": self._weighted,
                "lengths": [len(piece) for piece in self._texts],
                "experts": self._experts,
                "begins": self._begins,
            }
        return text


def overview_of(trace: Trace) -> dict[str, Any]:
    """Return the overview of a trace for a notebook: any trace's, read block by block.

    It is what `overview.json` holds, but that every row of whole numbers is one string, "3 0 12":
    a notebook's file gives each number of a list a line, which takes five times the room. What is
    no JSON in the meta is given as text.
    """
    overview = Overview(_plain(trace.meta))
    for start in range(0, len(trace), BLOCK):
        overview.add(trace[start : start + BLOCK])
    data = overview.data()
    data["counts"] = [_row(row) for row in data["counts"]]
    if "pieces" in data:
        data["pieces"] |= {n: _row(data["pieces"][n]) for n in ("lengths", "experts", "begins")}
    return data


def _row(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {plain_text([key])[0]: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (int, float)):
        return value
    return plain_text([value])[0]

"""Rows as messages: texts as JSON, numbers as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from v4kit.core import DENSE, NONE, TOPK
from v4kit.figures.barcode import ceiling
from v4kit.figures.labels import visible
from v4kit.figures.reading import Facts
from v4kit.figures.rows import rows

if TYPE_CHECKING:
    from v4kit.trace import Trace
    from v4kit.widgets.tape import Tape, Totals

TEXT = 200
"""Most characters of a token that are shown."""


def about(known: Facts) -> dict[str, Any]:
    """Return what a page must know of the model to draw its layers and experts."""
    place, top = rows(known), np.ones((1, known.top_k)) / known.top_k
    learned = [i for i, kind in enumerate(known.kinds) if kind == TOPK]
    routed = learned or [i for i, kind in enumerate(known.kinds) if kind != DENSE]
    return {
        "model": known.model,
        "kinds": known.kinds,
        "names": [known.describe(layer) for layer in range(len(known.kinds))],
        "ranked": [known.ranks(layer) for layer in range(len(known.kinds))],
        "nExperts": known.n_experts,
        "topK": known.top_k,
        "nShared": known.n_shared,
        "chance": known.chance,
        "weighted": known.weighted,
        "weightTop": ceiling(known, top),
        "place": place.position,
        "headings": place.headers,
        "height": place.total,
        "start": routed[-1] if routed else None,
    }


def page(tape: Tape, start: int, stop: int) -> tuple[dict[str, Any], list[bytes]]:
    """Return rows `start … stop−1` as a message: texts, and experts and weights as bytes."""
    texts, part = tape.texts(start, stop), tape.block(start, stop)
    weights = part.weights
    if weights is None:
        weights = np.full(part.experts.shape, np.nan, np.float32)
    content = {
        "start": start,
        "texts": [visible(text, limit=TEXT) for text in texts],
        "breaks": [i for i, text in enumerate(texts) if "\n" in text],
        "rows": len(tape),
    }
    return content, [
        part.experts.astype("<i2").tobytes(),
        weights.astype("<f4").tobytes(),
        tape.generated(start, stop).astype("u1").tobytes(),
    ]


def sums(totals: Totals) -> list[bytes]:
    """Return totals as bytes, 32-bit integers each: uses, leads, routed tokens."""
    values = (totals.counts, totals.leads, totals.routed)
    return [value.astype("<i4").tobytes() for value in values]


def details(trace: Trace, row: int) -> dict[str, Any]:
    """Return what a trace tells of one token beyond its routing; nothing of a row it lacks."""
    if row >= len(trace):
        return {}
    token = trace.tokens.iloc[row]
    numbers = {name: float(token[name]) for name in ("logprob", "entropy")}
    return {
        "id": int(token["id"]),
        "position": int(token["position"]),
        "document": int(token["document"]) if trace.tokens["document"].nunique() > 1 else None,
        "role": str(token["role"]),
        "phase": str(token["phase"]),
        **{name: None if np.isnan(value) else value for name, value in numbers.items()},
        "displaced": _displaced(trace, row),
    }


def _displaced(trace: Trace, row: int) -> dict[int, list[int]]:
    """Return by layer the experts of a row that edits put others in the place of."""
    if "displaced" not in trace.routing:
        return {}
    found = trace.routing["displaced"].isel(token=row).to_numpy()
    gone = {layer: ids[ids != NONE].tolist() for layer, ids in enumerate(found)}
    return {layer: ids for layer, ids in gone.items() if ids}

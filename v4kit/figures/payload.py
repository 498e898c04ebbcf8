"""The data of a report as JSON: compact arrays, and figures whose axes the page only refills."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.core import NONE
from v4kit.figures.barcode import ceiling, token_barcode
from v4kit.figures.bundle import summary
from v4kit.figures.chance import ENOUGH, binomial_band
from v4kit.figures.colouring import leaders_of_all
from v4kit.figures.labels import plain, visible
from v4kit.figures.load import load_of
from v4kit.figures.maps import map_of
from v4kit.figures.reading import Block, Facts, Tally, block, facts, last_learned
from v4kit.figures.rows import rows
from v4kit.figures.theme import CATEGORIES, THEMES, Theme
from v4kit.trace import Trace

DETAIL = 5_000
"""Tokens whose text and routing are embedded; map and load count all of them."""
LEVELS = 65_535
"""Steps of an embedded weight, between 0 and the largest."""


def payload(trace: Trace, counted: Tally, *, title: str) -> dict[str, Any]:
    """Return everything that the page shows, ready for JSON."""
    known = facts(trace)
    shown = min(len(trace), DETAIL)
    part = block(trace, 0, shown)
    routed = np.flatnonzero((part.experts != NONE).any(axis=(1, 2)))
    return {
        "title": title,
        "summary": summary(trace),
        "notes": notes(trace, known, shown),
        "total": len(trace),
        "shown": shown,
        "kinds": list(known.kinds),
        "layers": [known.describe(layer) for layer in range(len(known.kinds))],
        "nExperts": known.n_experts,
        "topK": known.top_k,
        "ranked": [known.ranks(layer) for layer in range(len(known.kinds))],
        "chance": known.chance,
        "enough": ENOUGH,
        "start": last_learned(trace),
        "first": int(routed[0]) if len(routed) else None,
        "rows": list(rows(known).position),
        "tokens": _tokens(trace, shown),
        **_arrays(part, known),
        "counts": pack(counted.count.astype("<i4")),
        "routed": counted.tokens.tolist(),
        "bands": [binomial_band(int(n), known.chance) for n in counted.tokens],
        "leaders": [asdict(found) for found in leaders_of_all(trace, known)],
        "categories": list(CATEGORIES),
        "themes": {
            name: _look(trace, theme, counted, int(routed[0]) if len(routed) else None)
            for name, theme in THEMES.items()
        },
    }


def notes(trace: Trace, known: Facts, shown: int) -> list[str]:
    """Return what a reader must know to read the pictures rightly; not escaped."""
    lines = []
    if shown < len(trace):
        lines.append(
            f"Text and details of single tokens: the first {shown:,} of {len(trace):,} tokens. "
            "Nothing else of the others is shown, but map and load count all tokens."
        )
    if known.hash_layers:
        lines.append(
            f"Hash-routed layers ({', '.join(map(str, known.hash_layers))}): the token id alone "
            "decides which experts are used, so they are drawn apart and have no ranks."
        )
    if not known.ranked:
        lines.append("Slots are unranked: they stand in the order in which they were recorded.")
    if not known.weighted:
        lines.append("No weights were recorded: every expert used counts alike.")
    if "router_dtype" in trace.meta:
        lines.append(
            f"The routers computed in {plain(trace.meta['router_dtype'])}; in another precision "
            "some tokens can use other experts."
        )
    idle = len(trace) - int(trace.tokens["valid"].sum())
    if idle:
        were = "token was" if idle == 1 else "tokens were"
        lines.append(
            f"{idle:,} {were} never fed to the model, so no expert was used: the last sampled "
            "token of a generation is never fed."
        )
    lines.append(
        f"Chance: an expert drawn at random is used by {known.chance:.2%} of the tokens. "
        "How often an expert is used does not tell what it is for."
    )
    return lines


def pack(array: np.ndarray) -> str:
    """Return an array's bytes, deflated, in base64."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode("ascii")


def to_json(data: dict[str, Any]) -> str:
    """Return JSON that can stand inside a script element: nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tokens(trace: Trace, shown: int) -> dict[str, Any]:
    """Return the token table, column by column."""
    table = trace.tokens.iloc[:shown]
    documents = table["document"].to_numpy()
    starts = np.flatnonzero(np.diff(documents, prepend=documents[:1] - 1))
    return {
        "text": [visible(text, limit=200) for text in table["text"]],
        "breaks": [i for i, text in enumerate(table["text"]) if "\n" in text],
        "id": pack(table["id"].to_numpy("<i4")),
        "position": pack(table["position"].to_numpy("<i4")),
        "documents": [
            [int(row), int(documents[row]), visible(label) if label else ""]
            for row in starts
            for label in [table["label"].iloc[row]]
        ],
        "generated": pack((table["phase"] == "generated").to_numpy("u1")),
        "logprob": pack(table["logprob"].to_numpy("<f4")),
        "entropy": pack(table["entropy"].to_numpy("<f4")),
    }


def _arrays(part: Block, known: Facts) -> dict[str, Any]:
    """Return experts and weights; weights in steps of the largest, 0 where there is none."""
    arrays: dict[str, Any] = {"experts": pack(part.experts.astype("<i2")), "weights": None}
    if part.weights is not None:
        weights = np.nan_to_num(part.weights.astype(np.float64), nan=0.0)
        low, high = float(weights.min(initial=0.0)), float(weights.max(initial=0.0))
        step = (high - low) / LEVELS or 1.0
        arrays["weights"] = pack(np.round((weights - low) / step).astype("<u2"))
        arrays["weightLow"], arrays["weightStep"] = low, step
        arrays["weightTop"] = ceiling(known, part.weights)
    return arrays


def _look(trace: Trace, theme: Theme, counted: Tally, first: int | None) -> dict[str, Any]:
    """Return what depends on the theme: colours, and figures without titles."""
    look: dict[str, Any] = {
        "learned": theme.learned,
        "hash": theme.hash,
        "other": theme.other,
        "paper": theme.paper,
        "figures": {},
    }
    if first is not None:
        known = facts(trace)
        look["figures"] = {
            "map": _untitled(map_of(known, counted, theme), 36),
            "barcode": _untitled(token_barcode(trace, first, theme=theme.name), 12),
            "load": _untitled(load_of(known, counted, last_learned(trace), theme), 12),
        }
    return look


def _untitled(figure: go.Figure, top: int) -> dict[str, Any]:
    """Return a figure as JSON data without its title: the page has headings of its own."""
    spare = figure.layout.margin.t - top
    figure.update_layout(title=None, margin_t=top, height=figure.layout.height - spare)
    data: dict[str, Any] = json.loads(figure.to_json())
    return data

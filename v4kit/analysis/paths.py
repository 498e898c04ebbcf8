"""The ways that tokens take through the layers, told by the expert that each layer chose first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.results import checked, described, special_tokens
from v4kit.analysis.used import BLOCK, learned_layers, routed_layers, whole_number
from v4kit.core import LAYER, NONE, SLOT, TOKEN
from v4kit.errors import InputError
from v4kit.trace import Trace

PATH = "path"
_MEANINGS = {
    "expert": "expert of rank 1 in the layer",
    "count": "tokens that take the path",
    "share": "share of the tokens that take the path",
    "chance": "that share if each layer chose its first expert independently of the others",
    "n": "tokens that were routed in all these layers",
    "different": "different paths that tokens take",
}


def paths(trace: Trace, layers: Sequence[int] | None = None, *, top: int = 20) -> xr.Dataset:
    """Return the most frequent sequences of first experts over some layers.

    The field's usual path through a mixture of experts: of each layer the expert of rank 1, by
    selection. It leaves the token's other k − 1 experts aside, and so tells little of it. Layers
    have experts that lead many tokens whatever the others do; so beside each share stands the
    product over the layers of the share of tokens that its expert leads. With many layers most
    paths are taken by one token, and `different` is near `n`: take fewer.

    Args:
        trace: A trace with slots in the order of selection. Special tokens count;
            `trace[~trace.tokens["special"]]` leaves them out.
        layers: Indices of layers that choose, in any order; None means all of them.
        top: How many paths are told, the most frequent ones.

    Returns:
        Over `(path, layer)`: `expert`. Over `path`, the most frequent first: `count`, `share`,
        `chance`. Scalars `n`, the tokens that were routed in all these layers, and `different`, how
        many paths there are. Coordinate `kind`.

    Raises:
        InputError: It is no trace, its slots have no order, or a layer does not choose.
    """
    chosen = _layers(checked(trace), layers)
    top = whole_number("top", top, least=1)
    if trace.meta.get("ranked", True) is not True:
        raise InputError(
            "paths needs slots in the order of selection, and this trace has them in no order. "
            "v4kit.analysis.cross_layer counts all experts of two layers."
        )
    first = _first(trace, chosen)
    found, counts = np.unique(first, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:top]
    told, n = found[order], len(first)
    led = [np.bincount(every)[some] for every, some in zip(first.T, told.T, strict=True)]
    data: dict[str, Any] = {
        "expert": ((PATH, LAYER), told),
        "count": (PATH, counts[order]),
        "share": (PATH, counts[order] / max(n, 1)),
        "chance": (PATH, np.prod(np.array(led, float) / max(n, 1), axis=0)),
        "n": ((), n),
        "different": ((), len(found)),
    }
    kinds = trace.routing["kind"].to_numpy()[chosen]
    return described(data, _MEANINGS, special_tokens=special_tokens(trace)).assign_coords(
        {LAYER: chosen, "kind": (LAYER, kinds)}
    )


def _layers(trace: Trace, given: Sequence[int] | None) -> list[int]:
    """Return layer indices; None means all that choose.

    Raises:
        InputError: One does not choose, or there is none.
    """
    known, chosen = learned_layers(trace), routed_layers(trace, given)
    hashed = [layer for layer in chosen if layer not in known]
    if hashed or not chosen:
        what = f"layer {hashed[0]} looks its experts up in a table" if hashed else "none was given"
        raise InputError(
            f"Paths lead through layers that choose their experts, and {what}. The trace's are "
            f"{', '.join(map(str, known)) or 'none'}."
        )
    return chosen


def _first(trace: Trace, layers: list[int]) -> np.ndarray:
    """Return the first experts `[token, layer]` of the tokens that were routed in all layers."""
    parts = [np.empty((0, len(layers)), np.int16)]
    for start in range(0, len(trace), BLOCK):
        rows = slice(start, start + BLOCK)
        part = trace.routing["experts"].isel({TOKEN: rows, LAYER: layers, SLOT: 0}).to_numpy()
        routed = (part != NONE).all(axis=1) & trace.tokens["valid"].to_numpy()[rows]
        parts.append(part[routed])
    return np.concatenate(parts)

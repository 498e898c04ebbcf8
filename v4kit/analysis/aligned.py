"""Pairs of documents that say the same, such as translations: do they use the same experts?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.bits import jensen_shannon, shares
from v4kit.analysis.results import checked, dataset
from v4kit.analysis.used import (
    BLOCK,
    array_of,
    generator,
    learned_layers,
    recorded,
    whole_number,
)
from v4kit.core import LAYER, NONE, TOKEN
from v4kit.errors import InputError
from v4kit.trace import Trace

FEWEST = 5
"""Different documents on each side, below which a shuffle of partners tells nothing."""
_MEANINGS = {
    "js_bits": "mean divergence of paired documents' experts, bits: 0 alike, 1 apart",
    "null_mean": "mean of js_bits when partners are exchanged, bits",
    "null_std": "standard deviation of js_bits when partners are exchanged, bits",
    "pair_js_bits": "divergence of a pair's experts, bits: 0 alike, 1 apart",
    "n": "pairs of documents",
}


def alignment(
    trace: Trace, pairs: Sequence[tuple[int, int]], *, permutations: int = 100, seed: int = 0
) -> xr.Dataset:
    """Return how far apart the routing of paired documents is, layer by layer.

    For each document, the mean over its tokens of the routing weights, as shares of the experts;
    of these the Jensen–Shannon divergence in bits within each pair, 0 if equal, 1 if no expert is
    shared (as arXiv 2510.04694 does for translations). Documents of any text have experts in common
    and short ones few, so beside it stands the mean over pairs when partners are exchanged; a
    document that meets itself then does not count.

    Args:
        trace: A trace of many documents, with weights. Special tokens count: those that all
            documents begin with make them alike; `trace[~trace.tokens["special"]]` leaves them out.
        pairs: Numbers of documents, as in `trace.tokens["document"]`: different pairs of two
            documents, with 5 different ones or more on each side.
        permutations: How often partners are exchanged.
        seed: Of the exchanges.

    Returns:
        Over `layer`: `js_bits`, the mean over the pairs, `null_mean`, `null_std`. Over
        `(pair, layer)`: `pair_js_bits`. Scalar `n`, the pairs. NaN in layers that do not choose.
        Coordinate `kind`.

    Raises:
        InputError: It is no trace, has no weights, lacks a document, or the pairs are too few, not
            different or no pairs.
    """
    recorded(checked(trace), "weights", 'record=v4kit.Record(routing="scores")')
    one, other = _checked_pairs(trace, pairs)
    permutations = whole_number("permutations", permutations, least=1)
    orders = _exchanges(one, other, permutations, seed)
    layers = len(trace.meta["architecture"]["layers"])
    apart, nulls = np.full((len(one), layers), np.nan), np.full((permutations, layers), np.nan)
    documents, places = np.unique([one, other], return_inverse=True)
    mine, theirs = places.reshape(2, -1)
    weights = _weights(trace, documents)
    for layer in learned_layers(trace):
        spread = shares(weights[:, layer])
        apart[:, layer] = jensen_shannon(spread[mine], spread[theirs])
        for draw, order in enumerate(orders):
            others = mine != theirs[order]
            exchanged = spread[mine[others]], spread[theirs[order][others]]
            nulls[draw, layer] = jensen_shannon(*exchanged).mean()
    data: dict[str, Any] = {
        "js_bits": (LAYER, apart.mean(axis=0)),
        "null_mean": (LAYER, nulls.mean(axis=0)),
        "null_std": (LAYER, nulls.std(axis=0)),
        "pair_js_bits": (("pair", LAYER), apart),
        "n": ((), len(one)),
    }
    return dataset(trace, data, _MEANINGS)


def _checked_pairs(trace: Trace, pairs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the second documents of the pairs.

    Raises:
        InputError: They are no pairs of the trace's documents, not different, or too few.
    """
    found = array_of(pairs)
    if found.ndim != 2 or found.shape[1] != 2 or not np.issubdtype(found.dtype, np.integer):
        raise InputError(
            f"pairs are pairs of document numbers, [(0, 1), (2, 3), …]; given was {pairs!r}."
        )
    _check_different(found)
    sides = [len(np.unique(side)) for side in found.T]
    if min(sides) < FEWEST:
        raise InputError(
            f"Partners of {len(found)} pairs of {sides[0]} documents with {sides[1]} can't be "
            "exchanged in enough ways to tell what chance gives; "
            f"{FEWEST} pairs are needed, of {FEWEST} documents on each side."
        )
    known = np.unique(trace.tokens["document"].to_numpy()[trace.tokens["valid"].to_numpy()])
    lacking = np.setdiff1d(found, known)
    if lacking.size:
        raise InputError(f"The trace has no document {lacking[0]}; it has {len(known)} of them.")
    return found[:, 0], found[:, 1]


def _check_different(pairs: np.ndarray) -> None:
    """Raise `InputError` unless each pair `[pair, 2]` is of two documents, and stands once."""
    seen: set[frozenset[int]] = set()
    for one, other in pairs.tolist():
        pair = frozenset((one, other))
        if one == other or pair in seen:
            why = "is a document and itself" if one == other else "is given twice"
            raise InputError(
                f"The pair ({one}, {other}) {why}. Give each pair of two documents once."
            )
        seen.add(pair)


def _exchanges(one: np.ndarray, other: np.ndarray, times: int, seed: int) -> list[np.ndarray]:
    """Return orders of the partners, in each of which some document meets another one."""
    rng = generator(seed)
    orders: list[np.ndarray] = []
    while len(orders) < times:
        order = rng.permutation(len(one))
        if (one != other[order]).any():
            orders.append(order)
    return orders


def _weights(trace: Trace, documents: np.ndarray) -> np.ndarray:
    """Return the sums of weights of some documents `[document, layer, expert]`."""
    layers = len(trace.meta["architecture"]["layers"])
    width = trace.meta["architecture"]["n_experts"]
    sums = np.zeros((len(documents), layers, width))
    first = np.arange(layers)[:, None] * width
    numbers = trace.tokens["document"].to_numpy()
    for start in range(0, len(trace), BLOCK):
        rows = slice(start, start + BLOCK)
        part = trace.routing.isel({TOKEN: rows})
        experts, weights = (part[name].to_numpy() for name in ("experts", "weights"))
        for place in np.flatnonzero(np.isin(documents, numbers[rows])):
            own = (numbers[rows] == documents[place])[:, None, None]
            used = own & (experts != NONE)
            cells = (experts.astype(np.int64) + first)[used]
            sums[place] += np.bincount(cells, weights[used], layers * width).reshape(layers, width)
    return sums

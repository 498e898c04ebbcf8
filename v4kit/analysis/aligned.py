"""Pairs of documents that say the same, such as translations: do they use the same experts?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.bits import jensen_shannon, shares
from v4kit.analysis.load import checked, dataset
from v4kit.analysis.used import BLOCK, learned_layers, recorded, whole_number
from v4kit.core import LAYER, NONE, TOKEN
from v4kit.errors import InputError
from v4kit.trace import Trace

FEWEST = 5
"""Pairs below which a shuffle of partners tells nothing."""


def alignment(
    trace: Trace, pairs: Sequence[tuple[int, int]], *, permutations: int = 100, seed: int = 0
) -> xr.Dataset:
    """Return how far apart the routing of paired documents is, layer by layer.

    For each document, the mean over its tokens of the routing weights, as shares of the experts;
    of these the Jensen–Shannon divergence in bits within each pair, 0 if equal, 1 if no expert is
    shared (as arXiv 2510.04694 does for translations). Documents of any text have experts in common
    and short ones few, so beside it stands the mean over pairs when partners are exchanged.

    Args:
        trace: A trace of many documents, with weights.
        pairs: Numbers of documents, as in `trace.tokens["document"]`: 5 pairs or more.
        permutations: How often partners are exchanged.
        seed: Of the exchanges.

    Returns:
        Over `layer`: `js_bits`, the mean over the pairs, `null_mean`, `null_std`. Over
        `(pair, layer)`: `pair_js_bits`. Scalar `n`, the pairs. NaN in layers that do not choose.
        Coordinate `kind`.

    Raises:
        InputError: It is no trace, has no weights, lacks a document, or there are too few pairs.
    """
    recorded(checked(trace), "weights", 'record=v4kit.Record(routing="scores")')
    one, other = _checked_pairs(trace, pairs)
    permutations = whole_number("permutations", permutations, least=1)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(one)) for _ in range(permutations)]
    layers = len(trace.meta["architecture"]["layers"])
    apart, nulls = np.full((len(one), layers), np.nan), np.full((permutations, layers), np.nan)
    documents, places = np.unique([one, other], return_inverse=True)
    mine, theirs = places.reshape(2, -1)
    weights = _weights(trace, documents)
    for layer in learned_layers(trace):
        spread = shares(weights[:, layer])
        apart[:, layer] = jensen_shannon(spread[mine], spread[theirs])
        for draw, order in enumerate(orders):
            nulls[draw, layer] = jensen_shannon(spread[mine], spread[theirs[order]]).mean()
    data: dict[str, Any] = {
        "js_bits": (LAYER, apart.mean(axis=0)),
        "null_mean": (LAYER, nulls.mean(axis=0)),
        "null_std": (LAYER, nulls.std(axis=0)),
        "pair_js_bits": (("pair", LAYER), apart),
        "n": ((), len(one)),
    }
    return dataset(trace, data)


def _checked_pairs(trace: Trace, pairs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the second documents of the pairs.

    Raises:
        InputError: They are no pairs of the trace's documents, or too few.
    """
    found = np.asarray(pairs)
    if found.ndim != 2 or found.shape[1] != 2 or not np.issubdtype(found.dtype, np.integer):
        raise InputError(
            f"pairs are pairs of document numbers, [(0, 1), (2, 3), …]; given was {pairs!r}."
        )
    if len(found) < FEWEST:
        raise InputError(
            f"Partners of {len(found)} pairs can't be exchanged in enough ways to tell what chance "
            f"gives; {FEWEST} pairs are needed."
        )
    known = np.unique(trace.tokens["document"].to_numpy()[trace.tokens["valid"].to_numpy()])
    lacking = np.setdiff1d(found, known)
    if lacking.size:
        raise InputError(f"The trace has no document {lacking[0]}; it has {len(known)} of them.")
    return found[:, 0], found[:, 1]


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

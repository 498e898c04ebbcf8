"""Experts from one token to the next, and from one layer to another."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.load import checked, dataset
from v4kit.analysis.used import BLOCK, expert_sets, in_common, routed_layer
from v4kit.core import EXPERT, LAYER, NONE, TOPK
from v4kit.trace import Trace

EXPERT2 = "expert2"


def repetition(trace: Trace, *, seed: int = 0) -> xr.Dataset:
    """Return how often consecutive tokens use the same experts.

    Over pairs of neighbours in one document that were both routed: `first`, the share whose expert
    of rank 1 is the same; `any`, the share with at least one expert in common; `overlap`, the mean
    share of their experts that they have in common (Mixtral, arXiv 2401.04088, section 5). Two
    equal tokens repeat their experts trivially, in hash-routed layers always, so all is told for
    neighbours of different tokens only, and again for all pairs (`…_all`). Beside them stand closed
    forms for uniform routing, and the same shares for neighbours after a shuffle within each
    document (`…_shuffled`): what the text's topics alone would give.

    Args:
        trace: Any trace with token ids.
        seed: Of the shuffle.

    Returns:
        Over `layer`: `first`, `any`, `overlap`, each also `…_all` and `…_shuffled`; `n` and
        `n_all`, the pairs. `first` is NaN where slots have no order. Scalars `chance_first`,
        `chance_any`, `chance_overlap`. Coordinate `kind`.

    Raises:
        InputError: It is no trace.
    """
    rows = np.arange(len(checked(trace)))
    found = {
        f"{name}{suffix}": value
        for suffix, order in (("", rows), ("_shuffled", _shuffled(trace, seed)))
        for name, value in _pairs(trace, order).items()
    }
    k, n = (trace.meta["architecture"][name] for name in ("top_k", "n_experts"))
    data: dict[str, Any] = {
        name: (LAYER, value) for name, value in found.items() if "_all_shuffled" not in name
    }
    chances = {"first": 1 / n, "any": 1 - comb(n - k, k) / comb(n, k), "overlap": k / n}
    data |= {f"chance_{name}": ((), value) for name, value in chances.items()}
    return dataset(trace, data).drop_vars("n_shuffled")


def cross_layer(trace: Trace, layer: int, layer2: int) -> xr.Dataset:
    """Return how often tokens use one expert in one layer and another in a second layer.

    All pairs of a token's experts count, not only those of equal rank.

    Args:
        trace: Any trace.
        layer: Index of a layer.
        layer2: Index of another one.

    Returns:
        Over `(expert, expert2)`: `count`, the tokens that use both, and `share` of the tokens with
        the first that use the second (NaN where none uses the first). `n`, the tokens that were
        routed in both; `chance`, the share under uniform routing.

    Raises:
        InputError: It is no trace, or a layer has no router.
    """
    architecture = checked(trace).meta["architecture"]
    size, k = architecture["n_experts"], architecture["top_k"]
    pair = [routed_layer(trace, layer), routed_layer(trace, layer2)]
    count, used, tokens = np.zeros((size, size), np.int64), np.zeros(size, np.int64), 0
    for start in range(0, len(trace), BLOCK):
        sets = expert_sets(trace, slice(start, start + BLOCK))[:, pair].astype(np.int64)
        sets = sets[(sets != NONE).any(axis=2).all(axis=1)]
        one, two = sets[:, 0, :, None], sets[:, 1, None, :]
        cells = (one * size + two)[(one != NONE) & (two != NONE)]
        count += np.bincount(cells, minlength=size**2).reshape(size, size)
        used += np.bincount(sets[:, 0][sets[:, 0] != NONE], minlength=size)
        tokens += len(sets)
    with np.errstate(invalid="ignore"):
        share = count / used[:, None]
    axes = (EXPERT, EXPERT2)
    values = {"count": (axes, count), "share": (axes, share), "n": ((), tokens)}
    coords = {EXPERT: np.arange(size), EXPERT2: np.arange(size)}
    return xr.Dataset(values | {"chance": ((), k / size)}, coords=coords)


def _shuffled(trace: Trace, seed: int) -> np.ndarray:
    """Return rows with those of each document in another order."""
    rng = np.random.default_rng(seed)
    documents = trace.tokens["document"].to_numpy()
    return np.lexsort((rng.random(len(documents)), documents))


def _pairs(trace: Trace, order: np.ndarray) -> dict[str, np.ndarray]:
    """Return shares over neighbours in an order of rows, and their numbers, by layer."""
    documents, ids = (trace.tokens[name].to_numpy()[order] for name in ("document", "id"))
    together = np.flatnonzero(documents[1:] == documents[:-1])
    differ = ids[together] != ids[together + 1]
    kinds = trace.routing["kind"].to_numpy()
    ranked = (kinds == TOPK) & (trace.meta.get("ranked", True) is True)
    sums = {name: np.zeros((2, len(kinds))) for name in ("first", "any", "overlap", "n")}
    for start in range(0, len(together), BLOCK):
        some, other = together[start : start + BLOCK], differ[start : start + BLOCK]
        found = _alike(trace, order[some], order[some + 1])
        for name, values in found.items():
            sums[name] += [values[other].sum(axis=0), values.sum(axis=0)]
    n = sums.pop("n")
    with np.errstate(invalid="ignore"):
        shares = {name: total / n for name, total in sums.items()}
    shares["first"] = np.where(ranked, shares["first"], np.nan)
    shares["n"] = n.astype(int)
    return {f"{name}{part}": values[i] for name, values in shares.items()
            for i, part in enumerate(("", "_all"))}  # fmt: skip


def _alike(trace: Trace, rows: np.ndarray, next_rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return what pairs of rows have in common `[pair, layer]`, 0 where one was not routed."""
    mine, theirs = expert_sets(trace, rows), expert_sets(trace, next_rows)
    sizes = (mine != NONE).sum(axis=2), (theirs != NONE).sum(axis=2)
    routed = np.minimum(*sizes) > 0
    shared = in_common(mine, theirs)
    experts = trace.routing["experts"]
    best, next_best = (experts.isel(token=r, slot=0).to_numpy() for r in (rows, next_rows))
    return {
        "first": ((best == next_best) & routed).astype(float),
        "any": ((shared > 0) & routed).astype(float),
        "overlap": np.where(routed, shared / np.maximum(np.maximum(*sizes), 1), 0.0),
        "n": routed.astype(float),
    }

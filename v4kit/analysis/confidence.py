"""How sure routers are of their choice, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.bits import entropy, shares
from v4kit.analysis.results import checked, dataset
from v4kit.analysis.used import BLOCK, recorded
from v4kit.core import LAYER, NONE, TOKEN
from v4kit.trace import Trace

_MEANINGS = {
    "score_entropy_bits": "entropy of all experts' scores ÷ their sum, bits",
    "weight_entropy_bits": "entropy of the used experts' weights ÷ their sum, bits",
    "score_entropy_max": "largest that score_entropy_bits can be: log₂ experts, bits",
    "weight_entropy_max": "largest that weight_entropy_bits can be: log₂ slots, bits",
    "margin": "selection score of the last chosen expert minus that of the first not chosen",
    "bias_flips": "chosen experts that the scores without bias would not have chosen",
    "n": "tokens that were routed",
}


def confidence(trace: Trace) -> xr.Dataset:
    """Return how decided each router was.

    The field's usual measures: the Shannon entropies of scores and weights, and the distance from
    the last expert that was chosen to the first that was not. Scores that are flat leave entropies
    near their largest values: with V4's sqrt(softplus) that is what an ordinary choice looks like,
    so compare tokens and layers with each other. In an edited run the margin is below 0 where the
    edit kept a better expert out: it is told on the router's own scores.

    Args:
        trace: A trace with weights; with `Record(routing="full")` for the entropy of the scores.
            Special tokens have rows as all others do.

    Returns:
        Over `(token, layer)`: `score_entropy_bits` of all experts' scores ÷ their sum (at most
        `score_entropy_max`, log₂ experts; NaN throughout if the trace lacks them), and
        `weight_entropy_bits` of the used experts' weights ÷ their sum (at most
        `weight_entropy_max`, log₂ slots); `margin`, by which the last chosen expert beat the first
        that was not, on the selection score; `bias_flips`, chosen experts that the scores without
        bias would not have chosen. NaN where nothing was routed; margin and flips also in
        hash-routed layers, which do not choose. Over `layer`: `n`, the tokens that were routed.
        Coordinate `kind`.

    Raises:
        InputError: It is no trace, or has no weights.
    """
    recorded(checked(trace), "weights", 'record=v4kit.Record(routing="scores")')
    architecture = trace.meta["architecture"]
    shape = (len(trace), len(architecture["layers"]))
    weights, scores = np.full(shape, np.nan), np.full(shape, np.nan)
    whole = "router_scores" in trace.routing
    for start in range(0, len(trace), BLOCK):
        rows = slice(start, start + BLOCK)
        part = trace.routing.isel({TOKEN: rows})
        weights[rows] = _entropy(part["weights"].to_numpy())
        if whole:
            scores[rows] = _entropy(part["router_scores"].to_numpy())
    axes = (TOKEN, LAYER)
    data: dict[str, Any] = {
        "score_entropy_bits": (axes, scores, {} if whole else {"lacks": 'Record(routing="full")'}),
        "weight_entropy_bits": (axes, weights),
        "score_entropy_max": ((), np.log2(architecture["n_experts"])),
        "weight_entropy_max": ((), np.log2(architecture["top_k"])),
        "n": (LAYER, (~np.isnan(weights)).sum(axis=0)),
    }
    for name in ("margin", "bias_flips"):
        found = np.full(shape, np.nan)
        if name in trace.routing:
            known = trace.routing[name].to_numpy()
            found = np.where(known == NONE, np.nan, known) if name == "bias_flips" else known
        data[name] = (axes, found.astype(float))
    return dataset(trace, data, _MEANINGS)


def _entropy(values: np.ndarray) -> np.ndarray:
    """Return the entropy of values ÷ their sum along the last axis; NaN where there is none."""
    known = ~np.isnan(values)
    found = entropy(shares(np.where(known, values, 0.0).astype(float)))
    return np.where(known.any(axis=-1), found, np.nan)

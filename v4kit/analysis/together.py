"""Which experts of one layer are used by the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.results import checked, described, special_tokens
from v4kit.analysis.succession import EXPERT2
from v4kit.analysis.used import BLOCK, expert_sets, routed_layers
from v4kit.core import EXPERT, LAYER, NONE, TOKEN, TOPK
from v4kit.errors import InputError
from v4kit.trace import Trace

_MEANINGS = {
    "count": "tokens that use both experts",
    "share": "share of the tokens with the first expert that use the second",
    "lift": "that share ÷ the second expert's share of all tokens; 1 if independent",
    "uses": "tokens that use the first expert",
    "n": "tokens that were routed",
    "chance": "share under uniform routing",
}


def coactivation(
    trace: Trace,
    *,
    layers: int | Sequence[int] | None = None,
    compatibility: str | None = None,
) -> xr.Dataset:
    """Return how often tokens that use one expert use another one of the same layer.

    Of N_i tokens with expert i and N_ij with both: `share` is N_ij ÷ N_i (OLMoE, arXiv 2409.02060,
    section 5.2), and `lift` N_ij · N ÷ (N_i · N_j), which is 1 where the two are independent and
    does not grow with how common they are. The diagonal says nothing, and is NaN.

    The script that OLMoE's authors published counts neighbours in rank only, 7 of the 28 pairs of 8
    experts, so that its numbers are several times smaller. `compatibility="olmoe"` gives those.

    Args:
        trace: Any trace. Special tokens count; `trace[~trace.tokens["special"]]` leaves them out.
        layers: Layer index or indices; None means all that choose. In hash-routed layers, what is
            used together follows from a table.
        compatibility: None, or "olmoe".

    Returns:
        Over `(layer, expert, expert2)`: `count`, `share` (NaN where no token uses the first) and
        `lift`, which "olmoe" lacks. Over `(layer, expert)`: `uses`, the tokens with the first
        expert; a share of few is mostly noise. Over `layer`: `n`, the tokens that were routed.
        `chance`, the share under uniform routing: (slots − 1) ÷ (experts − 1), of "olmoe" that of
        neighbours in rank: 2 (slots − 1) ÷ (slots (experts − 1)). Coordinate `kind`.

    Raises:
        InputError: It is no trace, a layer has no router, or "olmoe" is asked of slots without
            order.
    """
    architecture = checked(trace).meta["architecture"]
    kinds = [one["routing"] for one in architecture["layers"]]
    chosen = routed_layers(trace, layers)
    if compatibility not in (None, "olmoe"):
        raise InputError(f'compatibility is None or "olmoe"; given was {compatibility!r}.')
    if compatibility and not _ordered(trace, [kinds[layer] for layer in chosen]):
        raise InputError(
            'compatibility="olmoe" counts neighbours in rank, but slots have no order in this '
            "trace, or in a hash-routed layer. Leave it out, or choose other layers."
        )
    n_experts, k = architecture["n_experts"], architecture["top_k"]
    count, single, tokens = _counts(trace, chosen, adjacent=compatibility == "olmoe")
    own = np.eye(n_experts, dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(own, np.nan, count / single[:, :, None])
        lift = share * tokens[:, None, None] / single[:, None, :]
    axes = (LAYER, EXPERT, EXPERT2)
    data: dict[str, Any] = {"count": (axes, count), "share": (axes, share)}
    if compatibility is None:
        data["lift"] = (axes, lift)
    # Of a token's k − 1 other experts, only 2 (k − 1) ÷ k are next to one in rank, on average.
    partners = (k - 1) * (2 / k if compatibility else 1)
    data |= {"uses": (axes[:2], single), "n": (LAYER, tokens)}
    data["chance"] = ((), partners / max(n_experts - 1, 1))
    experts = np.arange(n_experts)
    coords = {LAYER: chosen, "kind": (LAYER, [kinds[i] for i in chosen])}
    found = described(data, _MEANINGS, special_tokens=special_tokens(trace))
    return found.assign_coords(coords | {EXPERT: experts, EXPERT2: experts})


def _ordered(trace: Trace, kinds: list[str]) -> bool:
    return trace.meta.get("ranked", True) is True and all(kind == TOPK for kind in kinds)


def _counts(
    trace: Trace, layers: list[int], *, adjacent: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens that use both `[layer, expert, expert]`, one `[layer, expert]`, any `[layer]`.

    0 on the diagonal of the first.
    """
    slots, n_experts = (trace.meta["architecture"][name] for name in ("top_k", "n_experts"))
    several = pairwise(range(slots)) if adjacent else combinations(range(slots), 2)
    first, second = np.array(list(several), int).reshape(-1, 2).T
    # One more, for slots without an expert: to sort them out costs more.
    size = n_experts + 1
    count = np.zeros((len(layers), size * size), np.int64)
    single, tokens = np.zeros((len(layers), size), np.int64), np.zeros(len(layers), np.int64)
    for start in range(0, len(trace), BLOCK):
        rows = slice(start, start + BLOCK)
        ids = _in_order(trace, rows) if adjacent else expert_sets(trace, rows)
        for place, layer in enumerate(layers):
            used = ids[:, layer].astype(np.int64) - NONE
            cells = used[:, first] * size + used[:, second]
            count[place] += np.bincount(cells.ravel(), minlength=size * size)
            single[place] += np.bincount(used.ravel(), minlength=size)
            tokens[place] += used.any(axis=1).sum()
    square = count.reshape(-1, size, size)[:, 1:, 1:]
    both: np.ndarray = square + square.transpose(0, 2, 1)
    both[:, np.arange(n_experts), np.arange(n_experts)] = 0
    return both, single[:, 1:], tokens


def _in_order(trace: Trace, rows: slice) -> np.ndarray:
    """Return experts of rows `[token, layer, slot]` by rank; −1 where a token was not read."""
    experts = trace.routing["experts"].isel({TOKEN: rows}).to_numpy().copy()
    experts[~trace.tokens["valid"].to_numpy()[rows]] = NONE
    return experts

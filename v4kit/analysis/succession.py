"""Experts from one token to the next, and from one layer to another."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.results import checked, dataset, described, special_tokens
from v4kit.analysis.used import (
    BLOCK,
    expert_sets,
    generator,
    in_common,
    routed_layer,
    successors,
)
from v4kit.core import EXPERT, LAYER, NONE, TOPK
from v4kit.trace import Trace

EXPERT2 = "expert2"
_SHARES = {
    "first": "share of consecutive tokens whose expert of rank 1 is the same",
    "any": "share of consecutive tokens with an expert in common",
    "overlap": "mean share of their experts that consecutive tokens have in common",
}
_REPETITION = {
    **_SHARES,
    **{f"{name}_all": f"{told}, equal tokens included" for name, told in _SHARES.items()},
    **{f"{name}_shuffled": f"{told}, after a shuffle" for name, told in _SHARES.items()},
    **{f"chance_{name}": f"{told}, under uniform routing" for name, told in _SHARES.items()},
    "n": "pairs of consecutive, different tokens that were both routed",
    "n_all": "pairs of consecutive tokens that were both routed",
    "n_shuffled": "pairs of different tokens after a shuffle",
}
_CROSS_LAYER = {
    "count": "tokens that use both experts",
    "share": "share of the tokens with the first expert that use the second",
    "uses": "tokens that use the first expert, and were routed in both layers",
    "n": "tokens that were routed in both layers",
    "recall": "mean share of a held-out token's experts that the first layer foretells",
    "recall_frequent": "the same where the most frequent experts are always guessed",
    "held_out": "tokens that were guessed for",
    "chance": "share and recall under uniform routing: slots ÷ experts",
}


def repetition(trace: Trace, *, seed: int = 0) -> xr.Dataset:
    """Return how often consecutive tokens use the same experts.

    Over pairs of tokens at consecutive positions of one document that were both routed: `first`,
    the share whose expert of rank 1 is the same; `any`, the share with at least one expert in
    common; `overlap`, the mean share of their experts that they have in common (Mixtral, arXiv
    2401.04088, section 5). Two equal tokens repeat their experts trivially, in hash-routed layers
    always, so all is told for pairs of different tokens only, and again for all pairs (`…_all`).
    Beside them stand closed forms for uniform routing, and the same shares after a shuffle of the
    tokens of each document (`…_shuffled`): what the text's topics alone would give.

    Args:
        trace: Any trace with token ids. A part of its rows will do: two tokens are a pair only
            where none is missing between them. Special tokens count, and the pair of the first one
            with the text's first token; `trace[~trace.tokens["special"]]` leaves them out.
        seed: Of the shuffle.

    Returns:
        Over `layer`: `first`, `any`, `overlap` and `n`, the pairs, of which a share says little if
        they are few; each also `…_all` and `…_shuffled`. Shares are NaN without pairs, and `first`
        where slots have no order. Scalars `chance_first`, `chance_any`, `chance_overlap`.
        Coordinate `kind`.

    Raises:
        InputError: It is no trace, or the seed is no whole number.
    """
    rows = np.arange(len(checked(trace)))
    after = successors(trace)
    row = np.flatnonzero(after != NONE)
    pairs = np.stack([row, after[row]])
    found = {
        f"{name}{suffix}": value
        for suffix, order in (("", rows), ("_shuffled", _shuffled(trace, seed)))
        for name, value in _pairs(trace, *order[pairs]).items()
    }
    k, n = (trace.meta["architecture"][name] for name in ("top_k", "n_experts"))
    data: dict[str, Any] = {
        name: (LAYER, value) for name, value in found.items() if "_all_shuffled" not in name
    }
    chances = {"first": 1 / n, "any": 1 - comb(n - k, k) / comb(n, k), "overlap": k / n}
    data |= {f"chance_{name}": ((), value) for name, value in chances.items()}
    return dataset(trace, data, _REPETITION)


def cross_layer(trace: Trace, layer: int, layer2: int) -> xr.Dataset:
    """Return how often tokens use one expert in one layer and another in a second layer.

    The field's usual count, with all k² pairs of a token's experts; the script that OLMoE's authors
    published (arXiv 2409.02060) counts those of equal rank only. How well the first layer foretells
    the second is told on text that was not counted for it: the experts of every second document are
    guessed as those that most often go with a token's experts of the first layer in the other
    documents.

    Args:
        trace: Any trace. Special tokens count; `trace[~trace.tokens["special"]]` leaves them out.
        layer: Index of a layer.
        layer2: Index of another one.

    Returns:
        Over `(expert, expert2)`: `count`, the tokens that use both, and `share` of the tokens with
        the first that use the second (NaN where none uses the first). Over `expert`: `uses`, the
        tokens with the first, over which `share` is told. Scalars: `n`, the tokens that were routed
        in both; `recall`, the mean share of a held-out token's experts that are among the k
        guessed, `recall_frequent`, the same where always the most frequent ones are guessed, both
        NaN with fewer than two documents, and `held_out`, the tokens; `chance` of `share` and of
        `recall` under uniform routing.

    Raises:
        InputError: It is no trace, or a layer has no router.
    """
    architecture = checked(trace).meta["architecture"]
    size, k = architecture["n_experts"], architecture["top_k"]
    pair = [routed_layer(trace, layer), routed_layer(trace, layer2)]
    # By halves of the documents: those that are guessed from, and those that are held out.
    count, used = np.zeros((2, size, size), np.int64), np.zeros((2, size), np.int64)
    tokens = np.zeros(2, np.int64)
    for half, sets in _by_half(trace, pair):
        count[half] += _pairs_of(sets, size)
        used[half] += np.bincount(sets[:, 0][sets[:, 0] != NONE], minlength=size)
        tokens[half] += len(sets)
    with np.errstate(invalid="ignore"):
        share = count.sum(axis=0) / used.sum(axis=0)[:, None]
        known = np.nan_to_num(count[0] / used[0][:, None])
    frequent = np.broadcast_to(count[0].sum(axis=0), known.shape)
    axes, held = (EXPERT, EXPERT2), int(tokens[1])
    values: dict[str, Any] = {
        "count": (axes, count.sum(axis=0)),
        "share": (axes, share),
        "uses": (EXPERT, used.sum(axis=0)),
        "n": ((), tokens.sum()),
        "recall": ((), _recall(trace, pair, known) / held if held else np.nan),
        "recall_frequent": ((), _recall(trace, pair, frequent) / held if held else np.nan),
        "held_out": ((), held),
        "chance": ((), k / size),
    }
    found = described(values, _CROSS_LAYER, special_tokens=special_tokens(trace))
    return found.assign_coords({EXPERT: np.arange(size), EXPERT2: np.arange(size)})


def _by_half(trace: Trace, pair: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield 0 or 1, and sets of experts `[token, 2, slot]` of every second document or the rest."""
    numbers = trace.tokens["document"].to_numpy()
    half = np.unique(numbers, return_inverse=True)[1] % 2
    for start in range(0, len(trace), BLOCK):
        sets = expert_sets(trace, slice(start, start + BLOCK))[:, pair].astype(np.int64)
        routed = (sets != NONE).any(axis=2).all(axis=1)
        for which in (0, 1):
            yield which, sets[routed & (half[start : start + BLOCK] == which)]


def _pairs_of(sets: np.ndarray, size: int) -> np.ndarray:
    """Return tokens by their experts in the two layers `[expert, expert2]`."""
    one, two = sets[:, 0, :, None], sets[:, 1, None, :]
    cells = (one * size + two)[(one != NONE) & (two != NONE)]
    return np.bincount(cells, minlength=size**2).reshape(size, size)


def _recall(trace: Trace, pair: list[int], known: np.ndarray) -> float:
    """Return the sum over held-out tokens of the share of experts that are guessed."""
    found, k = 0.0, trace.meta["architecture"]["top_k"]
    for half, sets in _by_half(trace, pair):
        if half == 0:
            continue
        hints = np.zeros((len(sets), len(known)))
        for slot in range(sets.shape[2]):
            expert = sets[:, 0, slot]
            hints += np.where((expert != NONE)[:, None], known[expert], 0.0)
        guess = np.argsort(-hints, axis=1, kind="stable")[:, None, :k]
        size = (sets[:, 1] != NONE).sum(axis=1)
        found += float((in_common(sets[:, 1:], guess)[:, 0] / size).sum())
    return found


def _shuffled(trace: Trace, seed: int) -> np.ndarray:
    """Return for each row another one of its document, drawn at random `[token]`."""
    documents = trace.tokens["document"].to_numpy()
    order = np.empty(len(documents), int)
    drawn = np.lexsort((generator(seed).random(len(documents)), documents))
    order[np.argsort(documents, kind="stable")] = drawn
    return order


def _pairs(trace: Trace, rows: np.ndarray, next_rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return shares over pairs of rows, and their numbers, by layer."""
    ids = trace.tokens["id"].to_numpy()
    differ = ids[rows] != ids[next_rows]
    kinds = trace.routing["kind"].to_numpy()
    ranked = (kinds == TOPK) & (trace.meta.get("ranked", True) is True)
    sums = {name: np.zeros((2, len(kinds))) for name in ("first", "any", "overlap", "n")}
    for start in range(0, len(rows), BLOCK):
        some = slice(start, start + BLOCK)
        found, other = _alike(trace, rows[some], next_rows[some]), differ[some]
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

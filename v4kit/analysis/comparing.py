"""Two traces against each other: the experts that the same tokens use, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.alike import check_alike, check_vocabulary, kinds_of, require_ids
from v4kit.analysis.pairing import PAIR, Pairs, pair_tokens
from v4kit.analysis.proportions import false_discovery, pooled_p, score_interval
from v4kit.analysis.results import described, special_tokens
from v4kit.analysis.used import agreements, uses
from v4kit.core import DENSE, EXPERT, LAYER, NONE, TOPK
from v4kit.errors import InputError
from v4kit.trace import Trace

_MEANINGS = {
    "value": "mean share of a token's experts that both traces use",
    "chance": "the same if both draw their experts uniformly and independently",
    "tokens": "pairs of tokens that were routed in both traces",
    "shared": "experts that both tokens of a pair use; −1 where one was not routed",
    "first_change": "first pair that uses different experts; −1 if none does",
    "first_row": "row of that pair in the first trace; −1 if there is none",
    "first_other_row": "row of that pair in the second trace; −1 if there is none",
    "count_a": "tokens of the first trace that use the expert",
    "count_b": "tokens of the second trace that use the expert",
    "n_a": "tokens of the first trace that were routed",
    "n_b": "tokens of the second trace that were routed",
    "low": "lower 95 % limit of the difference",
    "high": "upper 95 % limit of the difference",
    "p": "two-sided p of equal shares",
    "q": "p adjusted over all cells of learned layers that can be tested",
}
_DIFFERENCE = _MEANINGS | {"value": "share of the first trace's tokens minus the second's"}


def overlap(trace: Trace, other: Trace, top: int | None = None) -> xr.Dataset:
    """Return how many of its experts each token keeps from one trace to another of the same tokens.

    The mean over the tokens of |Sᵃ ∩ Sᵇ| ÷ k, where S are the k experts that a token uses (OLMoE,
    arXiv 2409.02060, section 5.1: router saturation, between checkpoints). For checkpoints,
    quantisations, engines, edits, or a prompt read in other chunks. Hash-routed layers follow from
    the token, so that any trace of the same tables gives exactly 1 there.

    Args:
        trace: A trace with token ids. Special tokens count; `trace[~trace.tokens["special"]]`
            leaves them out, of both.
        other: A trace of exactly the same tokens, and of as many layers, experts and slots.
        top: Only the first so many slots, in the order of selection; all if not given.

    Returns:
        Over `layer`: `value` (NaN where nothing was routed), `chance` (slots ÷ experts), `tokens`
        (how many were routed in both traces); coordinate `kind`.

    Raises:
        InputError: The tokens, documents, shapes or tokenizers differ, there are no token ids, or
            the slots have no order and `top` needs one.
    """
    check_alike(trace, other)
    slots = _slots(trace, other, top)
    rows = _same_rows(trace, other)
    layers = len(trace.meta["architecture"]["layers"])
    shared, tokens = np.zeros(layers, np.int64), np.zeros(layers, np.int64)
    for some in agreements(trace, other, rows, slots):
        routed = some.shared != NONE
        shared += np.where(routed, some.shared, 0).sum(axis=0)
        tokens += routed.sum(axis=0)
    return _dataset(trace, other, _shares(trace, other, shared, tokens, slots))


def paired_overlap(trace: Trace, other: Trace, pairs: Pairs | None = None) -> xr.Dataset:
    """Return how many experts the tokens that two traces share have in common, pair by pair.

    Up to the first difference of the texts a pair is the same token after the same words; later on
    only the token is the same. So `shared` says whether routing parts before the text does. Of each
    pair it is |Sᵃ ∩ Sᵇ|, as in `overlap`.

    Args:
        trace: A trace with token ids.
        other: Another one, of as many layers, experts and slots, from the same tokenizer.
        pairs: What `pair_tokens(trace, other)` returned, to save doing it again; its `rows` may
            also be a part of those.

    Returns:
        Over `(pair, layer)`: `shared`, from 0 to k, −1 where one of the two was not routed. Over
        `layer`: `value` (mean share of the k experts; NaN without pairs), `chance` (k ÷ experts),
        `tokens` (pairs that count), `first_change` (first pair with different experts, −1 if none)
        and its `first_row` and `first_other_row`. Coordinates: `row` and `other_row` of each pair,
        `kind` of each layer.

    Raises:
        InputError: The traces differ in shape, documents or tokenizer, lack token ids, or the pairs
            are of other traces.
    """
    check_alike(trace, other)
    rows = pair_tokens(trace, other).rows if pairs is None else _checked(trace, other, pairs)
    layers = len(trace.meta["architecture"]["layers"])
    shared = np.full((len(rows), layers), NONE, np.int16)
    change = np.full(layers, NONE, np.int64)
    start = 0
    for some in agreements(trace, other, rows):
        stop = start + len(some.shared)
        shared[start:stop] = some.shared
        first = np.where(some.changed.any(axis=0), start + some.changed.argmax(axis=0), NONE)
        change = np.where(change == NONE, first, change)
        start = stop
    routed = shared != NONE
    total = np.where(routed, shared, 0).sum(axis=0, dtype=np.int64)
    found = rows[change] if len(rows) else np.full((layers, 2), NONE)
    firsts = np.where(change[:, None] == NONE, NONE, found)
    slots = int(trace.meta["architecture"]["top_k"])
    values = _shares(trace, other, total, routed.sum(axis=0), slots) | {
        "shared": ((PAIR, LAYER), shared),
        "first_change": (LAYER, change),
        "first_row": (LAYER, firsts[:, 0]),
        "first_other_row": (LAYER, firsts[:, 1]),
    }
    found_in = {"row": (PAIR, rows[:, 0]), "other_row": (PAIR, rows[:, 1])}
    return _dataset(trace, other, values).assign_coords(found_in)


def risk_difference(trace: Trace, other: Trace) -> xr.Dataset:
    """Return how much more of its tokens the first trace sends to each expert than the second.

    The difference of the shares of tokens that use the expert (SteerMoE, arXiv 2509.09660), with
    Newcombe's score interval (1998), the pooled z test for two proportions, and Benjamini and
    Hochberg's (1995) adjustment over the learned layers. All of these take tokens as independent.
    Tokens of one text are not, nor are the experts of one layer, so intervals are too narrow and p
    and q too small: they describe and rank, and prove nothing. Compare only some rows by slicing:
    `trace[10:]`.

    Hash-routed layers tell how often the texts hold which token; they have no q, and no part in
    those of the others.

    Args:
        trace: Any trace. Special tokens count; `trace[~trace.tokens["special"]]` leaves them out.
        other: One of as many layers, experts and slots; the texts may differ.

    Returns:
        Over `(layer, expert)`: `value`, `low` and `high` (95 %), `p` (NaN where no token or every
        token of both uses the expert), `q`, and `count_a` and `count_b`, the tokens that use it.
        Over `layer`: `n_a` and `n_b`, the tokens that were routed. NaN where a trace has none.
        Coordinate `kind`.

    Raises:
        InputError: The traces differ in shape.
    """
    check_alike(trace, other)
    mine, theirs = uses(trace), uses(other)
    cells = (mine.count, mine.tokens[:, None], theirs.count, theirs.tokens[:, None])
    low, high = score_interval(*cells)
    p = pooled_p(*cells)
    learned = kinds_of(trace, other) == TOPK
    q = np.full(p.shape, np.nan)
    q[learned] = false_discovery(p[learned])
    with np.errstate(invalid="ignore"):
        value = mine.count / cells[1] - theirs.count / cells[3]
    by_cell = {"value": value, "low": low, "high": high, "p": p, "q": q}
    by_cell |= {"count_a": mine.count, "count_b": theirs.count}
    values: dict[str, Any] = {name: ((LAYER, EXPERT), array) for name, array in by_cell.items()}
    values |= {"n_a": (LAYER, mine.tokens), "n_b": (LAYER, theirs.tokens)}
    data = _dataset(trace, other, values, _DIFFERENCE)
    return data.assign_coords({EXPERT: np.arange(p.shape[1])})


def _slots(trace: Trace, other: Trace, top: Any) -> int:
    """Return how many slots are compared, checked."""
    top_k = int(trace.meta["architecture"]["top_k"])
    if top is None:
        return top_k
    whole = isinstance(top, (int, np.integer)) and not isinstance(top, bool)
    if not whole or not 1 <= top <= top_k:
        raise InputError(f"top is a number of slots from 1 to {top_k}; given was {top!r}.")
    ordered = all(one.meta.get("ranked", True) is True for one in (trace, other))
    if top < top_k and not ordered:
        raise InputError(
            f"top={top} needs slots in the order of selection, and one of the traces has them in "
            "no order. Leave top out to compare all experts of each token."
        )
    return int(top)


def _same_rows(trace: Trace, other: Trace) -> np.ndarray:
    """Return all rows, paired by number `[pair, 2]`, if the two hold the same tokens."""
    ids, other_ids = require_ids(trace, "first"), require_ids(other, "second")
    if len(ids) != len(other_ids):
        raise InputError(
            f"overlap takes two traces of the same tokens; the first has {len(ids):,}, the second "
            f"{len(other_ids):,}. Use paired_overlap for the tokens that both have."
        )
    for column in ("id", "position"):
        mine, theirs = trace.tokens[column], other.tokens[column]
        differ = np.flatnonzero(mine.to_numpy() != theirs.to_numpy())
        if differ.size:
            row = int(differ[0])
            first, second = (
                f"{one.tokens['text'][row]!r} ({column} {one.tokens[column][row]})"
                for one in (trace, other)
            )
            raise InputError(
                f"overlap takes two traces of the same tokens; row {row} is {first} in the first "
                f"and {second} in the second. Use paired_overlap for the tokens that both have."
            )
    rows = np.stack([np.arange(len(ids))] * 2, axis=1)
    check_vocabulary(trace, other, rows)
    return rows


def _checked(trace: Trace, other: Trace, pairs: Pairs) -> np.ndarray:
    """Return the pairs' rows, if they are of these traces."""
    if not isinstance(pairs, Pairs):
        raise InputError(
            f"pairs are what pair_tokens(trace, other) returned; given was {type(pairs).__name__}."
        )
    rows = pairs.rows
    inside = (rows >= 0).all() and (rows < (len(trace), len(other))).all()
    ids, other_ids = trace.tokens["id"].to_numpy(), other.tokens["id"].to_numpy()
    if not inside or (ids[rows[:, 0]] != other_ids[rows[:, 1]]).any():
        raise InputError(
            "These pairs are of other traces: rows that they name don't hold the same token. "
            "Leave them out, or give pair_tokens(trace, other) of these two."
        )
    return rows


def _shares(
    trace: Trace, other: Trace, shared: np.ndarray, tokens: np.ndarray, slots: int
) -> dict[str, Any]:
    """Return value, chance and tokens of each layer, given the sum of shared experts."""
    chance = np.full(len(tokens), slots / trace.meta["architecture"]["n_experts"])
    chance[kinds_of(trace, other) == DENSE] = np.nan
    with np.errstate(invalid="ignore"):
        value = shared / (slots * tokens)
    return {"value": (LAYER, value), "chance": (LAYER, chance), "tokens": (LAYER, tokens)}


def _dataset(
    trace: Trace, other: Trace, values: dict[str, Any], meanings: Mapping[str, str] = _MEANINGS
) -> xr.Dataset:
    """Return a Dataset of axes and values by name, with the layers' kinds and what all mean."""
    special = [special_tokens(one) for one in (trace, other)]
    kinds = kinds_of(trace, other)
    found = described(values, meanings, special_tokens=special)
    return found.assign_coords({LAYER: np.arange(len(kinds)), "kind": (LAYER, kinds)})

"""Whether experts prefer words: what a token's id, or the next one's, tells of its experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.alike import require_ids
from v4kit.analysis.bits import entropy, mutual_information, shares
from v4kit.analysis.results import checked, dataset
from v4kit.analysis.used import BLOCK, expert_sets, generator, successors, whole_number
from v4kit.core import DENSE, LAYER, NONE
from v4kit.errors import InputError
from v4kit.trace import Trace

WORDS = ("input", "predicted", "next")
_HELD = 2**28
"""Bytes of expert ids that are held at once: a trace on disk is read once for each such part."""
_MEANINGS = {
    "value": "mean over words of the largest share of a word's tokens that one expert gets",
    "null_mean": "mean of value when routing is shuffled within documents",
    "null_std": "standard deviation of value when routing is shuffled within documents",
    "types": "words that count",
    "n": "their tokens that were routed",
    "mutual_information_bits": "what word and expert tell of each other, bits",
    "mutual_information_bits_null_mean": "the same when routing is shuffled within documents, bits",
    "context_independence": "share of an expert's uncertainty that the word removes, from 0 to 1",
    "context_independence_null_mean": "the same when routing is shuffled within documents",
    "chance": "share of an expert's tokens under uniform routing: top ÷ experts",
}


@dataclass(frozen=True, slots=True)
class _Words:
    """The tokens that count, and what each is called."""

    rows: np.ndarray
    """Rows of the trace."""
    types: np.ndarray
    """Which word each of them is, from 0."""
    document: np.ndarray
    """Their documents, for the shuffles."""


def vocabulary_specialization(
    trace: Trace,
    *,
    of: str = "input",
    top: int = 1,
    min_count: int = 10,
    permutations: int = 20,
    seed: int = 0,
) -> xr.Dataset:
    """Return how much of each word goes to the expert that takes most of it.

    For each different word x, the largest share of its tokens that one expert gets,
    max over e of N(e, x) ÷ N(x), and of these the mean over the words (OLMoE, arXiv 2409.02060,
    section 5.4: vocabulary specialization). A word of few tokens has a large share by chance, so
    only words of `min_count` tokens or more count, and beside the value stand its mean and standard
    deviation when routing is shuffled among the tokens of each document. In hash-routed layers the
    value is exactly 1 of "input": experts follow from the id.

    Over the same tokens, `mutual_information_bits` is what word and expert tell of each other, and
    `context_independence` is 1 − H(expert | word) ÷ H(expert): 1 if the word decides, 0 if it tells
    nothing. Both are above 0 by chance; their shuffled means stand beside them.

    Args:
        trace: A trace with token ids. Special tokens count as words, and those that stand in every
            document are frequent; `trace[~trace.tokens["special"]]` leaves them out.
        of: Which word a token counts as: "input" its own id, "predicted" the id that the model
            found most probable after it, "next" the id at the next position of its document (a
            token does not count where that one is not in the trace).
        top: Only the first so many of a token's experts, in the order of selection.
        min_count: The fewest tokens of a word that counts.
        permutations: How often routing is shuffled.
        seed: Of the shuffles.

    Returns:
        Over `layer`: `value`, `null_mean`, `null_std`, `types` (words that count) and `n` (their
        tokens); `mutual_information_bits`, `context_independence`, each with `…_null_mean`. Scalar
        `chance`: `top` ÷ experts. NaN in dense layers. Coordinate `kind`.

    Raises:
        InputError: It is no trace, ids or their order are missing, or no word is frequent enough.
    """
    words = _words(checked(trace), of, whole_number("min_count", min_count, least=1))
    permutations = whole_number("permutations", permutations, least=1)
    architecture = trace.meta["architecture"]
    top = whole_number("top", top, least=1, most=architecture["top_k"])
    if top < architecture["top_k"] and trace.meta.get("ranked", True) is not True:
        raise InputError(
            f"top={top} needs slots in the order of selection, and this trace has them in no "
            f"order. Give top={architecture['top_k']} to count all experts of each token."
        )
    names = ("value", "null_mean", "null_std", "types", "n", "mutual_information_bits",
             "mutual_information_bits_null_mean", "context_independence",
             "context_independence_null_mean")  # fmt: skip
    found = {name: np.full(len(architecture["layers"]), np.nan) for name in names}
    orders = _orders(words.document, permutations, seed)
    for layer, used in _layers(trace, words.rows, top):
        for name, value in _of_layer(used, words.types, orders, architecture["n_experts"]).items():
            found[name][layer] = value
    data: dict[str, Any] = {name: (LAYER, value) for name, value in found.items()}
    for name in ("types", "n"):
        data[name] = (LAYER, np.nan_to_num(found[name]).astype(int))
    data["chance"] = ((), top / architecture["n_experts"])
    return dataset(trace, data, _MEANINGS)


def _of_layer(
    used: np.ndarray, types: np.ndarray, orders: list[np.ndarray], n_experts: int
) -> dict[str, float]:
    """Return one layer's values; `used` are the experts of the tokens that count `[token, top]`."""
    values, independence, told = [], [], []
    _, n = _joint(used, types, n_experts)
    found = {"types": float((n > 0).sum()), "n": float(n.sum())}
    for order in [np.arange(len(used)), *orders]:
        cells, n = _joint(used[order], types, n_experts)
        with np.errstate(invalid="ignore"):
            values.append(float(np.mean(cells.max(axis=1)[n > 0] / n[n > 0])))
        bits = float(mutual_information(cells))
        total = float(entropy(shares(cells.sum(axis=0))))
        told.append(bits)
        # Where one expert has all, nothing is left to be decided.
        independence.append(bits / total if total > 0 else 1.0)
    return found | {
        "value": values[0],
        "null_mean": float(np.mean(values[1:])),
        "null_std": float(np.std(values[1:])),
        "mutual_information_bits": told[0],
        "mutual_information_bits_null_mean": float(np.mean(told[1:])),
        "context_independence": independence[0],
        "context_independence_null_mean": float(np.mean(independence[1:])),
    }


def _joint(used: np.ndarray, types: np.ndarray, n_experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens by word and expert `[word, expert]`, and by word alone `[word]`."""
    size = int(types.max()) + 1
    cells = types[:, None] * n_experts + used
    counts = np.bincount(cells[used != NONE], minlength=size * n_experts)
    n = np.bincount(types[(used != NONE).any(axis=1)], minlength=size)
    return counts.reshape(size, n_experts), n


def _layers(trace: Trace, rows: np.ndarray, top: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each routed layer and its experts `[token, top]`, some layers in one reading."""
    kinds = [one["routing"] for one in trace.meta["architecture"]["layers"]]
    routed = [layer for layer, kind in enumerate(kinds) if kind != DENSE]
    at_once = max(_HELD // max(len(rows) * top * 2, 1), 1)
    for first in range(0, len(routed), at_once):
        some = routed[first : first + at_once]
        parts = [
            expert_sets(trace, rows[start : start + BLOCK], top)[:, some]
            for start in range(0, len(rows), BLOCK)
        ]
        held = np.concatenate(parts)
        for place, layer in enumerate(some):
            yield layer, held[:, place].astype(np.int64)


def _words(trace: Trace, of: str, min_count: int) -> _Words:
    """Return the tokens whose word is frequent enough.

    Raises:
        InputError: There is none, or the trace does not tell its words.
    """
    if of not in WORDS:
        raise InputError(f"of is one of {', '.join(WORDS)}; given was {of!r}.")
    document = trace.tokens["document"].to_numpy()
    if of == "predicted":
        names = trace.tokens["predicted"].to_numpy()
    else:
        names = require_ids(trace, "given")
    if of == "next":
        after = successors(trace)
        names = np.where(after == NONE, NONE, names[after])
    routed = _routed(trace)
    known, which, counts = np.unique(
        np.where(routed, names, NONE), return_inverse=True, return_counts=True
    )
    enough = (counts >= min_count) & (known != NONE)
    if not enough.any():
        most = int(counts[known != NONE].max(initial=0))
        raise InputError(
            f"No word has {min_count} tokens; the most frequent one has {most}. Read more text, or "
            "give a smaller min_count and trust the value less."
        )
    rows = np.flatnonzero(enough[which])
    types = np.cumsum(enough)[which[rows]] - 1
    return _Words(rows, types, document[rows])


def _routed(trace: Trace) -> np.ndarray:
    """Return which tokens have any expert `[token]`."""
    found = [
        (expert_sets(trace, slice(start, start + BLOCK)) != NONE).any(axis=(1, 2))
        for start in range(0, len(trace), BLOCK)
    ]
    return np.concatenate([*found, np.zeros(0, bool)])


def _orders(document: np.ndarray, permutations: int, seed: int) -> list[np.ndarray]:
    """Return orders of the tokens that keep each within its document."""
    rng = generator(seed)
    place = np.argsort(document, kind="stable")
    orders = []
    for _ in range(permutations):
        drawn = np.lexsort((rng.random(len(document)), document))
        order = np.empty_like(drawn)
        order[place] = drawn
        orders.append(order)
    return orders

"""Whether experts prefer kinds of text, beside what shuffled labels give."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial, prod
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.bits import jensen_shannon, mutual_information, shares
from v4kit.analysis.results import checked, dataset
from v4kit.analysis.used import BLOCK, expert_sets, generator, learned_layers, whole_number
from v4kit.core import EXPERT, LAYER, NONE
from v4kit.errors import InputError
from v4kit.trace import Trace

LABEL, LABEL2 = "label", "label2"
ARRANGEMENTS = 20
"""Ways to spread the labels over the documents, below which a shuffle tells nothing."""

_AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("share", "share_null_mean", "share_null_std"), (LABEL, LAYER, EXPERT)),
    **dict.fromkeys(("js_bits", "js_bits_null_mean", "js_bits_null_std"), (LABEL, LABEL2, LAYER)),
    **dict.fromkeys(("mutual_information_bits", "null_mean", "null_std"), (LAYER,)),
    "committee": (LAYER, EXPERT),
    "committee_mass": (LAYER,),
}
_MEANINGS = {
    "share": "share of the label's tokens that use the expert; they sum to the slots",
    "share_null_mean": "mean of share when labels are shuffled among documents",
    "share_null_std": "standard deviation of share when labels are shuffled",
    "js_bits": "divergence of two labels' experts, bits: 0 alike, 1 apart",
    "js_bits_null_mean": "mean of js_bits when labels are shuffled among documents, bits",
    "js_bits_null_std": "standard deviation of js_bits when labels are shuffled, bits",
    "mutual_information_bits": "what an expert tells about the label, bits",
    "null_mean": "mean of mutual_information_bits when labels are shuffled among documents, bits",
    "null_std": "standard deviation of mutual_information_bits when labels are shuffled, bits",
    "committee": "whether the expert is among the leading ones of every label",
    "committee_mass": "share of all uses that are the committee's",
    "n": "tokens with the label that were routed",
    "documents": "documents with the label",
    "chance": "share under uniform routing: slots ÷ experts",
    "committee_chance": "experts of a committee if each label's leading ones were drawn at random",
}


@dataclass(frozen=True, slots=True)
class _Labelled:
    """The labelled documents of a trace."""

    names: list[str]
    """Different labels, in the order of the alphabet."""
    document: np.ndarray
    """Place of each row's document among the labelled ones; −1 of rows without label `[token]`."""
    label: np.ndarray
    """Place of each labelled document's label in `names` `[document]`."""


def domain_specialization(
    trace: Trace, *, permutations: int = 100, seed: int = 0, top: int | None = None
) -> xr.Dataset:
    """Return how experts divide labelled texts among them.

    The share of a label's tokens that use the expert (OLMoE, arXiv 2409.02060, section 5.3:
    domain specialization); how far apart two labels' distributions over the experts are
    (Jensen–Shannon divergence), and what an expert tells about the label (mutual information, the
    plug-in estimate with one observation per slot), both in bits. All of these are above zero by
    chance, the more so the less text there is. So each stands beside its mean and standard
    deviation when the labels are shuffled among whole documents: tokens of one document resemble
    each other, and to shuffle tokens would call every topic a specialty.

    The `committee` of a layer are the experts that are among the `top` of every label
    (arXiv 2601.03425); so many would be found by chance: `committee_chance`.

    Args:
        trace: A trace of labelled documents, as `model.read_many(texts, labels=…)` returns it. Rows
            without a label do not count, so that a document may be labelled in part. Special tokens
            with one do; `trace[~trace.tokens["special"]]` leaves them out.
        permutations: How often the labels are shuffled.
        seed: Of the shuffles.
        top: How many leading experts of each label may sit in the committee; k if not given.

    Returns:
        Over `(label, layer, expert)`: `share` (of k; they sum to it), `share_null_mean` and
        `share_null_std`. Over `(label, label2, layer)`: `js_bits` and its null. Over `layer`:
        `mutual_information_bits`, `null_mean`, `null_std`, `committee_mass` (the share of all uses
        that are its experts'). Over `(layer, expert)`: `committee`. Over `(label, layer)`: `n`, the
        label's tokens; over `label`: `documents`. Scalars `chance` (slots ÷ experts) and
        `committee_chance`. NaN in layers that do not choose: there the text alone decides.

    Raises:
        InputError: It is no trace, it has fewer than two labels, a document has several, or there
            are so few documents that shuffling can't tell anything.
    """
    labelled = _labelled(checked(trace))
    permutations = whole_number("permutations", permutations, least=1)
    architecture = trace.meta["architecture"]
    k, n_experts = architecture["top_k"], architecture["n_experts"]
    top = whole_number("top", k if top is None else top, least=1, most=n_experts)
    counts, tokens = _by_document(trace, labelled)
    orders = _orders(labelled, permutations, seed)
    sizes = {LABEL: len(labelled.names), LABEL2: len(labelled.names), EXPERT: n_experts}
    sizes[LAYER] = len(architecture["layers"])
    found = {name: np.full([sizes[dim] for dim in dims], np.nan) for name, dims in _AXES.items()}
    for layer in learned_layers(trace):
        for name, value in _specialized(orders, counts[:, layer], tokens[:, layer], top).items():
            np.moveaxis(found[name], _AXES[name].index(LAYER), 0)[layer] = value
    data: dict[str, Any] = {name: (_AXES[name], value) for name, value in found.items()}
    data |= {
        "committee": ((LAYER, EXPERT), found["committee"] == 1),
        "n": ((LABEL, LAYER), orders[0].astype(np.int64) @ tokens),
        "documents": (LABEL, np.bincount(labelled.label)),
        "chance": ((), k / n_experts),
        "committee_chance": ((), n_experts * (top / n_experts) ** len(labelled.names)),
    }
    coords = {LABEL: labelled.names, LABEL2: labelled.names, EXPERT: np.arange(n_experts)}
    return dataset(trace, data, _MEANINGS).assign_coords(coords)


def _specialized(
    orders: np.ndarray, counts: np.ndarray, tokens: np.ndarray, top: int
) -> dict[str, np.ndarray]:
    """Return one layer's values, and their nulls from all orders but the first.

    Args:
        orders: Which label each document has in each order of the labels, 1 or 0
            `[order, label, document]`; the first order is the true one.
        counts: Tokens of each document that use the expert `[document, expert]`.
        tokens: Tokens of each document that were routed `[document]`.
        top: Experts of each label that may sit in the committee.
    """
    used = orders @ counts
    with np.errstate(invalid="ignore"):
        share = used / (orders @ tokens)[..., None]
    spread = shares(used)
    apart = jensen_shannon(spread[:, :, None], spread[:, None])
    told = mutual_information(used)
    leaders = np.argsort(-share[0], axis=1, kind="stable")[:, :top]
    committee = np.bincount(leaders.ravel(), minlength=counts.shape[1]) == len(leaders)
    values = {"share": share, "js_bits": apart, "mutual_information_bits": told}
    found = {name: value[0] for name, value in values.items()}
    for name, value in values.items():
        prefix = "" if name == "mutual_information_bits" else f"{name}_"
        found[f"{prefix}null_mean"] = value[1:].mean(axis=0)
        found[f"{prefix}null_std"] = value[1:].std(axis=0)
    mass = used[0].sum(axis=0)[committee].sum() / max(used[0].sum(), 1)
    return found | {"committee": committee, "committee_mass": mass}


def _labelled(trace: Trace) -> _Labelled:
    """Return the labelled documents.

    Raises:
        InputError: Fewer than two labels, several in one document, or too few documents.
    """
    known = trace.tokens[["document", "label"]]
    known = known[known["label"] != ""]
    each = known.drop_duplicates().sort_values("document")
    names = sorted(each["label"].unique())
    if len(names) < 2:
        raise InputError(
            f"Specialization compares two labels or more; the trace has {len(names)}. "
            "Label its documents: model.read_many(texts, labels=[…])."
        )
    twice = each["document"][each["document"].duplicated()]
    if len(twice):
        raise InputError(
            f"Document {twice.iloc[0]} has several labels, and labels are shuffled among whole "
            "documents. Give each document one label."
        )
    label = np.searchsorted(names, each["label"].to_numpy(dtype=str))
    _check_enough(names, label)
    places = each["document"].to_numpy()
    document, named = trace.tokens["document"].to_numpy(), trace.tokens["label"].to_numpy() != ""
    place = np.searchsorted(places, document).clip(max=len(places) - 1)
    own = (places[place] == document) & named
    return _Labelled(names, np.where(own, place, NONE), label)


def _check_enough(names: list[str], label: np.ndarray) -> None:
    sizes = np.bincount(label).tolist()
    ways = factorial(len(label)) // prod(map(factorial, sizes))
    if ways < ARRANGEMENTS:
        told = ", ".join(f"{name}: {size}" for name, size in zip(names, sizes, strict=True))
        raise InputError(
            f"Too few documents to shuffle their labels: {ways} ways to spread them ({told}); "
            f"{ARRANGEMENTS} are needed. Three documents of each of two labels are enough."
        )


def _orders(labelled: _Labelled, permutations: int, seed: int) -> np.ndarray:
    rng = generator(seed)
    drawn = [labelled.label, *(rng.permutation(labelled.label) for _ in range(permutations))]
    names = np.arange(len(labelled.names))
    return np.asarray(np.stack(drawn)[:, None, :] == names[:, None], np.float64)


def _by_document(trace: Trace, labelled: _Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Return uses `[document, layer, expert]` and routed tokens `[document, layer]`."""
    n_layers = len(trace.meta["architecture"]["layers"])
    width = trace.meta["architecture"]["n_experts"] + 1
    counts = np.zeros((len(labelled.label), n_layers, width - 1), np.int32)
    tokens = np.zeros(counts.shape[:2], np.int64)
    first = np.arange(n_layers)[:, None] * width - NONE
    for start in range(0, len(trace), BLOCK):
        rows = slice(start, start + BLOCK)
        sets, own = expert_sets(trace, rows), labelled.document[rows]
        for document in np.unique(own[own != NONE]):
            mine = sets[own == document]
            cells = np.bincount((mine + first).ravel(), minlength=n_layers * width)
            counts[document] += cells.reshape(n_layers, width)[:, 1:].astype(np.int32)
            tokens[document] += (mine != NONE).any(axis=2).sum(axis=0)
    return counts, tokens

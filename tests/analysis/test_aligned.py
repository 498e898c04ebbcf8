"""Alignment of paired documents: loops over the definition, its null, refusals."""

import math
from itertools import permutations

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made
from v4kit.analysis import alignment
from v4kit.errors import InputError

LEARNED = [layer for layer, kind in enumerate(KINDS) if kind == "topk"]
PAIRS = [(0, 5), (1, 6), (2, 7), (8, 3), (4, 9)]


def some(rows=150, alike=False):
    """Ten documents; partners use the same experts if asked to."""
    rng = np.random.default_rng(6)
    document = np.sort(rng.integers(0, 10, rows))
    experts = np.argsort(rng.random((rows, len(KINDS), EXPERTS)), axis=2)[:, :, :TOP_K]
    if alike:
        experts[:] = ((document % 5)[:, None, None] + np.arange(TOP_K)) % EXPERTS
    experts[:, KINDS.index("dense")] = -1
    weights = rng.random(experts.shape) + 0.1
    weights[experts < 0] = np.nan
    weights[[3, rows - 1]] = np.nan
    return made(
        rng.integers(0, 20, rows), document=document, holes=(3, rows - 1), experts=experts,
        arrays={"weights": weights},
    )  # fmt: skip


@pytest.fixture
def trace(kept):
    return kept(some())


def apart(trace, layer, one, other):
    """The divergence of two documents, term by term."""
    spreads = []
    experts, weights = (trace.routing[n].values for n in ("experts", "weights"))
    for document in (one, other):
        sums = [0.0] * EXPERTS
        for row in np.flatnonzero(trace.tokens["document"] == document):
            for e, w in zip(experts[row, layer], weights[row, layer], strict=True):
                if e >= 0:
                    sums[e] += float(w)
        spreads.append([s / math.fsum(sums) for s in sums])
    found = 0.0
    for p, q in zip(*spreads, strict=True):
        middle = (p + q) / 2
        found += sum(x / 2 * math.log2(x / middle) for x in (p, q) if x)
    return found


def test_it_follows_its_definition(trace) -> None:
    found = alignment(trace, PAIRS, permutations=2)
    for layer in range(len(KINDS)):
        if layer not in LEARNED:
            assert np.isnan(found["js_bits"][layer])
            continue
        values = [apart(trace, layer, *pair) for pair in PAIRS]
        np.testing.assert_allclose(found["pair_js_bits"][:, layer], values, rtol=1e-6)
        assert float(found["js_bits"][layer]) == pytest.approx(np.mean(values))
    assert int(found["n"]) == 5


def test_the_null_exchanges_partners(trace) -> None:
    layer = LEARNED[0]
    ones, others = zip(*PAIRS, strict=True)
    all_ways = [
        np.mean([apart(trace, layer, a, b) for a, b in zip(ones, way, strict=True)])
        for way in permutations(others)
    ]
    found = alignment(trace, PAIRS, permutations=500).sel(layer=layer)
    assert float(found["null_mean"]) == pytest.approx(np.mean(all_ways), rel=0.02)
    assert float(found["null_std"]) == pytest.approx(np.std(all_ways), rel=0.15)


def test_documents_do_not_meet_themselves_in_the_null() -> None:
    """In a ring of pairs an exchange can give a document itself: that is no partner."""
    trace, layer = some(), LEARNED[0]
    ring = [(d, (d + 1) % 5) for d in range(5)]
    each = []
    for way in permutations(range(5)):
        met = [(a, b) for (a, _), b in zip(ring, way, strict=True) if a != b]
        if met:
            each.append(np.mean([apart(trace, layer, *pair) for pair in met]))
    found = alignment(trace, ring, permutations=500).sel(layer=layer)
    assert float(found["null_mean"]) == pytest.approx(np.mean(each), rel=0.02)


def test_partners_that_agree_are_below_their_null() -> None:
    found = alignment(some(alike=True), PAIRS).sel(layer=LEARNED[0])
    assert float(found["js_bits"]) < float(found["null_mean"]) - 2 * float(found["null_std"])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (PAIRS[:4], "5 pairs are needed"),
        ([*PAIRS, (0, 77)], "no document 77"),
        ([0, 1, 2, 3, 4], "pairs of document numbers"),
        ([(0.5, 1.5)] * 5, "pairs of document numbers"),
        ([(0, 1), (2, 3, 4), (5, 6)], "pairs of document numbers"),
        ([(0, 5)] * 5, r"\(0, 5\) is given twice"),
        ([*PAIRS, (5, 0)], r"\(5, 0\) is given twice"),
        ([*PAIRS, (6, 6)], r"\(6, 6\) is a document and itself"),
        ([(0, d) for d in range(1, 7)], "6 pairs of 1 documents with 6 can't be exchanged"),
    ],
)
def test_refusals(pairs, message) -> None:
    with pytest.raises(InputError, match=message):
        alignment(some(), pairs)


@pytest.mark.parametrize("seed", [1.5, "x", -1])
def test_a_seed_is_a_whole_number(seed) -> None:
    with pytest.raises(InputError, match="seed is a whole number"):
        alignment(some(), PAIRS, seed=seed)


def test_no_weights() -> None:
    with pytest.raises(InputError, match="weights"):
        alignment(made([1, 2, 3]), PAIRS)

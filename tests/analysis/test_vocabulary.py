"""Vocabulary specialization: loops over the definition, hash layers, its null, refusals."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, used_by
from v4kit.analysis import vocabulary_specialization
from v4kit.errors import InputError

HASHED = [layer for layer, kind in enumerate(KINDS) if kind == "hash"]
LEARNED = [layer for layer, kind in enumerate(KINDS) if kind == "topk"]
DENSE = KINDS.index("dense")


def some(rows=400, **options):
    rng = np.random.default_rng(9)
    document = np.sort(rng.integers(0, 5, rows))
    predicted = rng.integers(0, 12, rows)
    predicted[::17] = -1
    return made(
        rng.integers(0, 20, rows), document=document, holes=(3, 77, rows - 1),
        columns={"predicted": predicted}, **options
    )  # fmt: skip


@pytest.fixture
def trace(kept):
    return kept(some())


def words_of(trace, of):
    """What each row counts as; None if it does not."""
    ids, document, position = (trace.tokens[n].tolist() for n in ("id", "document", "position"))
    if of == "input":
        return ids
    if of == "predicted":
        return [None if p == -1 else p for p in trace.tokens["predicted"]]
    known = dict(zip(zip(document, position, strict=True), ids, strict=True))
    return [known.get((document[i], position[i] + 1)) for i in range(len(ids))]


def by_definition(trace, layer, of, top, min_count):
    words = words_of(trace, of)
    n, joint = Counter(), defaultdict(Counter)
    for row, word in enumerate(words):
        used = used_by(trace, row, layer, top)
        if word is None or not used:
            continue
        n[word] += 1
        joint[word].update(used)
    known = [word for word, count in n.items() if count >= min_count]
    value = math.fsum(max(joint[w].values()) / n[w] for w in known) / len(known)
    total = sum(sum(joint[w].values()) for w in known)
    experts = sum((joint[w] for w in known), Counter())
    told = math.fsum(
        c / total * math.log2(c * total / (sum(joint[w].values()) * experts[e]))
        for w in known for e, c in joint[w].items()
    )  # fmt: skip
    entropy = -math.fsum(c / total * math.log2(c / total) for c in experts.values())
    return value, len(known), sum(n[w] for w in known), told, told / entropy


@pytest.mark.parametrize("of", ["input", "predicted", "next"])
@pytest.mark.parametrize(("top", "least"), [(1, 10), (TOP_K, 15), (2, 1)])
def test_it_follows_its_definition(trace, of, top, least) -> None:
    found = vocabulary_specialization(trace, of=of, top=top, min_count=least, permutations=2)
    assert float(found["chance"]) == top / EXPERTS
    for layer in range(len(KINDS)):
        part = found.sel(layer=layer)
        if layer == DENSE:
            assert np.isnan(part["value"])
            assert int(part["types"]) == 0
            continue
        value, types, n, told, independence = by_definition(trace, layer, of, top, least)
        assert float(part["value"]) == pytest.approx(value, rel=1e-12)
        assert (int(part["types"]), int(part["n"])) == (types, n)
        assert float(part["mutual_information_bits"]) == pytest.approx(told, rel=1e-11)
        assert float(part["context_independence"]) == pytest.approx(independence, rel=1e-11)


def test_the_next_word_is_the_one_at_the_next_position(kept) -> None:
    part = kept(some()[np.random.default_rng(0).random(400) < 0.7])
    found = vocabulary_specialization(part, of="next", min_count=3, permutations=1)
    for layer in LEARNED:
        value, types, n, *_ = by_definition(part, layer, "next", 1, 3)
        assert (int(found["types"][layer]), int(found["n"][layer])) == (types, n)
        assert float(found["value"][layer]) == pytest.approx(value, rel=1e-12)
    with pytest.raises(InputError, match="the most frequent one has 0"):
        vocabulary_specialization(some()[np.arange(400) % 2 == 0], of="next")


@pytest.mark.parametrize("top", [1, TOP_K])
def test_hash_layers_are_exactly_one(trace, top) -> None:
    found = vocabulary_specialization(trace, top=top, min_count=1)
    assert found["value"].to_numpy()[HASHED].tolist() == [1.0] * len(HASHED)
    assert (found["null_mean"].to_numpy()[HASHED] < 0.6).all()


def test_random_routing_is_what_its_null_says() -> None:
    """Words drawn independently of routing: far above 1 ÷ experts, and so is the null."""
    found = vocabulary_specialization(some(4_000), min_count=10, permutations=40)
    for layer in LEARNED:
        part = found.sel(layer=layer)
        assert float(part["value"]) > 1.2 * float(part["chance"])
        assert abs(float(part["value"] - part["null_mean"])) < 4 * float(part["null_std"]) + 1e-9
        for name in ("mutual_information_bits", "context_independence"):
            assert float(part[name]) == pytest.approx(float(part[f"{name}_null_mean"]), rel=0.5)


def test_the_null_stays_within_documents() -> None:
    """With one expert for each document, no shuffle within documents changes anything."""
    document = np.repeat([0, 1, 2], 40)
    experts = np.stack([document, document + 3, document + 6], -1)[:, None].repeat(len(KINDS), 1)
    experts[:, DENSE] = -1
    trace = made(document, document=document, experts=experts)
    found = vocabulary_specialization(trace, permutations=5).sel(layer=LEARNED[0])
    assert (float(found["value"]), float(found["null_mean"])) == (1, 1)
    assert float(found["null_std"]) == 0


def test_without_order() -> None:
    trace = some(ranked=False)
    with pytest.raises(InputError, match=f"top={TOP_K} to count all"):
        vocabulary_specialization(trace)
    assert vocabulary_specialization(trace, top=TOP_K)["value"][LEARNED].notnull().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "output"}, "input, predicted, next"),
        ({"min_count": 10_000}, "No word has 10000 tokens"),
        ({"min_count": 0}, "min_count is a whole number"),
        ({"top": TOP_K + 1}, "top is a whole number"),
        ({"permutations": 1.5}, "permutations is a whole number"),
        ({"seed": "x"}, "seed is a whole number"),
    ],
)
def test_refusals(options, message) -> None:
    with pytest.raises(InputError, match=message):
        vocabulary_specialization(some(), **options)


def test_no_ids() -> None:
    with pytest.raises(InputError, match="no token id"):
        vocabulary_specialization(made(np.full(30, -1)))

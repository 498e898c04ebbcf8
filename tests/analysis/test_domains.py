"""Domain specialization: loops over the definition, its null, hash layers, refusals."""

import math
from itertools import combinations

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, used_by
from v4kit.analysis import domain_specialization
from v4kit.errors import InputError

LABELS = ("code", "story", "")
LEARNED = [layer for layer, kind in enumerate(KINDS) if kind == "topk"]


def some(rows=240, documents=9, skew=False, **options):
    """Documents by turns code, story and without label; code prefers expert 0 if asked to."""
    rng = np.random.default_rng(5)
    document = np.sort(rng.integers(0, documents, rows))
    labels = [LABELS[d % 3] for d in document]
    experts = np.argsort(rng.random((rows, len(KINDS), EXPERTS)), axis=2)[:, :, :TOP_K]
    if skew:
        for row in range(rows):
            if labels[row] == "code":
                experts[row] = [0, 1, 2 + row % 5]
    experts[:, KINDS.index("dense")] = -1
    return made(
        rng.integers(0, 20, rows), document=document, holes=(3, 77, rows - 1), experts=experts,
        columns={"label": labels}, **options
    )  # fmt: skip


@pytest.fixture
def trace(kept):
    return kept(some(skew=True))


def counted(trace, layer, name_of):
    """Uses by name and expert and tokens by name, one by one; `name_of` a document's label."""
    count, tokens = {}, {}
    for row, document in enumerate(trace.tokens["document"]):
        name, used = name_of.get(document, ""), used_by(trace, row, layer)
        if name and used and trace.tokens["label"].iloc[row]:
            tokens[name] = tokens.get(name, 0) + 1
            for expert in used:
                count[name, expert] = count.get((name, expert), 0) + 1
    return count, tokens


def bits(shares):
    return -math.fsum(p * math.log2(p) for p in shares if p)


def by_definition(trace, layer, name_of):
    """Share, divergence and mutual information of a layer, term by term."""
    count, tokens = counted(trace, layer, name_of)
    names = sorted(tokens)
    share = {(n, e): count.get((n, e), 0) / tokens[n] for n in names for e in range(EXPERTS)}
    spread = {n: [share[n, e] / TOP_K for e in range(EXPERTS)] for n in names}
    apart = {}
    for a, b in combinations(names, 2):
        middle = [(p + q) / 2 for p, q in zip(spread[a], spread[b], strict=True)]
        apart[a, b] = bits(middle) - (bits(spread[a]) + bits(spread[b])) / 2
    total = sum(count.values())
    told = 0.0
    for (name, expert), joint in count.items():
        uses = sum(c for (n, _), c in count.items() if n == name)
        used = sum(c for (_, e), c in count.items() if e == expert)
        told += joint / total * math.log2(joint * total / (uses * used))
    return share, apart, told


def labels_of(trace):
    return dict(zip(trace.tokens["document"], trace.tokens["label"], strict=True))


def test_it_follows_its_definition(trace) -> None:
    found = domain_specialization(trace, permutations=3)
    assert found["label"].to_numpy().tolist() == ["code", "story"]
    assert float(found["chance"]) == TOP_K / EXPERTS
    for layer in range(len(KINDS)):
        part = found.sel(layer=layer)
        if layer not in LEARNED:
            for name in ("share", "js_bits", "mutual_information_bits", "null_mean"):
                assert part[name].isnull().all(), (layer, name)
            assert not part["committee"].any()
            continue
        share, apart, told = by_definition(trace, layer, labels_of(trace))
        for (name, expert), value in share.items():
            assert float(part["share"].sel(label=name, expert=expert)) == pytest.approx(value)
        for (a, b), value in apart.items():
            for one, other in ((a, b), (b, a)):
                js = float(part["js_bits"].sel(label=one, label2=other))
                assert js == pytest.approx(value, rel=1e-12)
            assert float(part["js_bits"].sel(label=a, label2=a)) == 0
        assert float(part["mutual_information_bits"]) == pytest.approx(told, rel=1e-12)
        _, tokens = counted(trace, layer, labels_of(trace))
        assert part["n"].to_numpy().tolist() == [tokens["code"], tokens["story"]]
    np.testing.assert_allclose(found["share"].sum("expert")[:, LEARNED], TOP_K, rtol=1e-12)
    assert found["documents"].to_numpy().tolist() == [3, 3]


def test_the_null_shuffles_documents(trace) -> None:
    """Every shuffle is one of the ways to hand out the labels; their mean is near all ways'."""
    documents = [d for d, name in labels_of(trace).items() if name]
    layer = LEARNED[0]
    told = []
    for coded in combinations(documents, 3):
        name_of = {d: "code" if d in coded else "story" for d in documents}
        told.append(by_definition(trace, layer, name_of)[2])
    found = domain_specialization(trace, permutations=2_000).sel(layer=layer)
    assert float(found["null_mean"]) == pytest.approx(np.mean(told), rel=0.08)
    assert float(found["null_std"]) == pytest.approx(np.std(told), rel=0.2)
    again = domain_specialization(trace, permutations=2_000).sel(layer=layer)
    assert found.identical(again)
    other = domain_specialization(trace, permutations=400, seed=1).sel(layer=layer)
    assert float(other["null_mean"]) != float(found["null_mean"])


def test_rows_without_label_do_not_count(kept) -> None:
    """Documents that are labelled in part: only their labelled rows are the label's tokens."""
    whole, some_rows = some(skew=True), np.random.default_rng(1).random(240) < 0.6
    labels = np.where(some_rows, whole.tokens["label"], "")
    whole.tokens["label"] = labels.astype(str)
    trace = kept(whole)
    found = domain_specialization(trace, permutations=3)
    names = {d: n for d, n in zip(trace.tokens["document"], labels, strict=True) if n}
    for layer in LEARNED:
        share, _, told = by_definition(trace, layer, names)
        _, tokens = counted(trace, layer, names)
        part = found.sel(layer=layer)
        assert part["n"].to_numpy().tolist() == [tokens["code"], tokens["story"]]
        assert float(part["mutual_information_bits"]) == pytest.approx(told, rel=1e-12)
        for (name, expert), value in share.items():
            assert float(part["share"].sel(label=name, expert=expert)) == pytest.approx(value)


def test_specialists_are_found_and_others_are_not() -> None:
    found = domain_specialization(some(skew=True, documents=24), permutations=50)
    plain = domain_specialization(some(documents=24), permutations=50)
    layer = LEARNED[-1]
    assert float(found["share"].sel(label="code", layer=layer, expert=0)) == 1
    for one, above in ((found, True), (plain, False)):
        part = one.sel(layer=layer)
        far = part["mutual_information_bits"] - part["null_mean"] > 2.5 * part["null_std"]
        assert bool(far) is above


def test_the_committee_leads_everywhere() -> None:
    experts = np.broadcast_to([4, 7, 0], (240, len(KINDS), TOP_K)).copy()
    experts[::2, :, 2] = 1
    experts[:, KINDS.index("dense")] = -1
    document = np.arange(240) // 40
    labels = [LABELS[d % 2] for d in document]
    trace = made(np.zeros(240), document=document, experts=experts, columns={"label": labels})
    found = domain_specialization(trace, permutations=2, top=2).sel(layer=LEARNED[0])
    assert np.flatnonzero(found["committee"]).tolist() == [4, 7]
    assert float(found["committee_mass"]) == pytest.approx(2 / 3)
    assert float(found["committee_chance"]) == pytest.approx(EXPERTS * (2 / EXPERTS) ** 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([""] * 9, "has 0"),
        (["code"] * 9, "has 1"),
        (["a"] * 8 + ["b"], "Too few documents"),
    ],
    ids=["none", "one", "a single document of one label"],
)  # fmt: skip
def test_refusals(labels, message) -> None:
    trace = some()
    named = made(
        trace.tokens["id"], document=trace.tokens["document"],
        columns={"label": [labels[d] for d in trace.tokens["document"]]},
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        domain_specialization(named)


def test_a_document_with_two_labels() -> None:
    trace = made([1, 2, 3], columns={"label": ["a", "a", "b"]})
    with pytest.raises(InputError, match="Document 0 has several labels"):
        domain_specialization(trace)


@pytest.mark.parametrize("options", [{"permutations": 0}, {"top": 0}, {"top": 13}, {"seed": -2}])
def test_numbers_out_of_range(options) -> None:
    with pytest.raises(InputError, match="whole number"):
        domain_specialization(some(), **options)


def test_no_trace() -> None:
    with pytest.raises(InputError, match="takes a trace"):
        domain_specialization([1])

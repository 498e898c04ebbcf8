"""Comparisons against loops over sets, exact where they count, and what must hold of any two."""

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, used_by
from v4kit.analysis import overlap, pair_tokens, paired_overlap, risk_difference, used
from v4kit.errors import InputError
from v4kit.trace import import_routing

RNG = np.random.default_rng(5)
IDS = RNG.integers(0, 20, 50)
DOCUMENTS = np.repeat([0, 1, 2], [20, 5, 25])
HASH = [layer for layer, kind in enumerate(KINDS) if kind == "hash"]
TOPK = [layer for layer, kind in enumerate(KINDS) if kind == "topk"]


def two(**options):
    """Two traces of the same tokens, with rows that one, the other or neither was fed."""
    first = made(IDS, document=DOCUMENTS, holes=[3, 4, 49], **options)
    second = made(IDS, seed=1, document=DOCUMENTS, holes=[4, 5], **options)
    return first, second


def parted():
    """Two texts that part, meet again and end differently."""
    return made([1, 2, 3, 4, 5, 6, 7], holes=[6]), made([1, 2, 9, 4, 5, 6, 8, 8], seed=1)


def looped(trace, other, rows, layer, top=None):
    """Shared experts of each pair in a layer; None where one was not routed."""
    shared = []
    for row, other_row in rows:
        mine, theirs = used_by(trace, row, layer, top), used_by(other, other_row, layer, top)
        shared.append(len(mine & theirs) if mine and theirs else None)
    return shared


@pytest.fixture(params=[4_096, 7], ids=["one block", "many blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(used, "BLOCK", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("top", [None, 1, 2, 3])
def test_overlap_is_the_mean_of_shared_experts(top):
    trace, other = two()
    found, slots = overlap(trace, other, top), top or TOP_K
    assert found["kind"].values.tolist() == list(KINDS)
    for layer, kind in enumerate(KINDS):
        shared = looped(trace, other, [(i, i) for i in range(50)], layer, top)
        counted = [number for number in shared if number is not None]
        assert found["tokens"].values[layer] == len(counted)
        if kind == "dense":
            assert not counted
            assert np.isnan(found["value"].values[layer])
            assert np.isnan(found["chance"].values[layer])
        else:
            mean = sum(counted) / (len(counted) * slots)
            assert found["value"].values[layer] == pytest.approx(mean, abs=1e-12)
            assert found["chance"].values[layer] == slots / EXPERTS


@pytest.mark.parametrize("top", [None, 2])
def test_overlap_with_itself_is_one(top):
    trace, _ = two()
    value = overlap(trace, trace, top)["value"].values
    assert (value[HASH + TOPK] == 1).all()


@pytest.mark.parametrize("top", [None, 1])
def test_overlap_is_symmetric(top):
    trace, other = two()
    assert overlap(trace, other, top).identical(overlap(other, trace, top))


@pytest.mark.parametrize("top", [None, 1, 2])
def test_hash_layers_overlap_wholly(top):
    value = overlap(*two(), top)["value"].values
    assert (value[HASH] == 1).all()
    assert (value[TOPK] < 1).all()


def test_a_table_in_either_trace_makes_a_layer_hash():
    trace, imported = made([1, 2]), made([1, 2], kinds=("topk", "dense", "topk", "topk", "topk"))
    assert overlap(trace, imported)["kind"].values.tolist() == list(KINDS)
    assert overlap(imported, trace)["kind"].values.tolist() == list(KINDS)


def test_chance_agrees_with_simulation():
    ids = np.zeros(4_000, int)
    found = overlap(made(ids, kinds=("topk",)), made(ids, seed=1, kinds=("topk",)))
    # 4,000 hypergeometric draws of 3 of 12: the mean of the share has a deviation of 0.0036.
    assert found["value"].values[0] == pytest.approx(found["chance"].values[0], abs=0.015)
    assert found["chance"].values[0] == 0.25


def test_overlap_counts_an_expert_that_is_named_twice_once():
    trace = made([1, 2], kinds=("topk",), experts=[[[3, 3, 5]], [[1, -1, -1]]])
    other = made([1, 2], kinds=("topk",), experts=[[[3, 3, 3]], [[1, 2, 3]]])
    assert overlap(trace, other)["value"].values.tolist() == [pytest.approx(2 / 6)]
    found = paired_overlap(trace, other)
    assert found["shared"].values.ravel().tolist() == [1, 1]
    assert found["first_change"].values.tolist() == [0]


def test_overlap_of_no_tokens_is_unknown():
    found = overlap(made([]), made([]))
    assert np.isnan(found["value"].values).all()
    assert found["tokens"].values.tolist() == [0] * len(KINDS)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (made([1, 2, 9, 4]), r"row 2 is 't3 ' \(id 3\).*'t9 ' \(id 9\).*paired_overlap"),
        (made([1, 2, 3]), r"first has 4, the second 3.*paired_overlap"),
        (made([1, 2, 3, 4], document=[0, 0, 1, 1]), r"row 2 is 't3 ' \(position 2\).*position 0"),
        (made([1, 2, 3, 4], texts=["t1 ", "t2 ", "x", "t4 "]), "different tokenizers"),
        (made([1, 2, 3, -1]), "no token id in row 3"),
    ],
    ids=["token", "length", "document", "tokenizer", "no id"],
)
def test_overlap_of_other_tokens_is_refused(other, message):
    with pytest.raises(InputError, match=message):
        overlap(made([1, 2, 3, 4]), other)


@pytest.mark.parametrize("top", [0, 4, -1, True, 1.0, "2"])
def test_impossible_top_is_refused(top):
    with pytest.raises(InputError, match="from 1 to 3; given was"):
        overlap(made([1]), made([1]), top)


def test_top_needs_an_order():
    trace, other = made([1]), made([1], ranked=False)
    with pytest.raises(InputError, match="no order"):
        overlap(trace, other, 2)
    assert overlap(trace, other, 3)["value"].values[0] == 1


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("traces", [two, parted])
def test_pairs_are_compared_one_by_one(traces):
    trace, other = traces()
    rows = pair_tokens(trace, other).rows.tolist()
    found = paired_overlap(trace, other)
    assert found["row"].values.tolist() == [row for row, _ in rows]
    assert found["other_row"].values.tolist() == [row for _, row in rows]
    for layer in range(len(KINDS)):
        shared = looped(trace, other, rows, layer)
        assert found["shared"].values[:, layer].tolist() == [-1 if s is None else s for s in shared]
        counted = [number for number in shared if number is not None]
        assert found["tokens"].values[layer] == len(counted)
        if counted:
            mean = sum(counted) / (TOP_K * len(counted))
            assert found["value"].values[layer] == pytest.approx(mean, abs=1e-12)
        first = next((i for i, s in enumerate(shared) if s is not None and s < TOP_K), -1)
        place = rows[first] if first >= 0 else [-1, -1]
        names = ("first_change", "first_row", "first_other_row")
        assert [found[name].values[layer] for name in names] == [first, *place]


def test_paired_overlap_of_the_same_tokens_is_overlap():
    trace, other = two()
    both = (overlap(trace, other), paired_overlap(trace, other))
    for name in ("value", "chance", "tokens"):
        assert both[0][name].identical(both[1][name])


@pytest.mark.usefixtures("blocks")
def test_the_first_change_is_found_in_every_layer():
    experts = np.tile([0, 1, 2], (20, 3, 1))
    other = experts.copy()
    other[[9, 15], 1], other[2, 2] = [1, 2, 3], [2, 1, 0]
    found = paired_overlap(
        *(made(range(20), kinds=("topk",) * 3, experts=e) for e in (experts, other))
    )
    assert found["first_change"].values.tolist() == [-1, 9, -1]
    assert found["first_row"].values.tolist() == [-1, 9, -1]


def test_pairs_that_are_given_are_used():
    trace, other = parted()
    pairs = pair_tokens(trace, other)
    assert paired_overlap(trace, other, pairs).identical(paired_overlap(trace, other))


def test_pairs_of_other_traces_are_refused():
    trace, other = parted()
    pairs = pair_tokens(trace, other)
    for first, second in ((trace[:3], other), (trace, other[2:]), (trace[::-1], other)):
        with pytest.raises(InputError, match="pairs are of other traces"):
            paired_overlap(first, second, pairs)


def test_no_pairs_are_no_overlap():
    found = paired_overlap(made([1, 2]), made([3, 4]))
    assert found["shared"].shape == (0, len(KINDS))
    assert np.isnan(found["value"].values).all()
    assert found["first_change"].values.tolist() == [-1] * len(KINDS)


def counts(trace, layer):
    """Tokens that were routed in a layer, and how many of them use each expert."""
    rows = [used_by(trace, row, layer) for row in range(len(trace))]
    times = [sum(expert in used for used in rows) for expert in range(EXPERTS)]
    return sum(bool(used) for used in rows), times


@pytest.mark.usefixtures("blocks")
def test_risk_difference_is_the_difference_of_shares():
    trace = made(IDS, document=DOCUMENTS, holes=[3, 4, 49])
    other = made(IDS[:31], seed=1, holes=[0])
    found = risk_difference(trace, other)
    assert found["kind"].values.tolist() == list(KINDS)
    assert found["expert"].values.tolist() == list(range(EXPERTS))
    for layer in range(len(KINDS)):
        (n, times), (other_n, other_times) = counts(trace, layer), counts(other, layer)
        assert (found["n_a"].values[layer], found["n_b"].values[layer]) == (n, other_n)
        assert found["count_a"].values[layer].tolist() == times
        assert found["count_b"].values[layer].tolist() == other_times
        for expert in range(EXPERTS if n else 0):
            value = times[expert] / n - other_times[expert] / other_n
            cell = found.isel(layer=layer, expert=expert)
            assert float(cell["value"]) == pytest.approx(value, abs=1e-12)
            assert float(cell["low"]) <= value <= float(cell["high"])
    dense = found.isel(layer=1)
    assert all(np.isnan(dense[name].values).all() for name in ("value", "low", "high", "p", "q"))


def test_risk_difference_is_antisymmetric():
    trace, other = made(IDS, holes=[3]), made(IDS[:31], seed=1)
    one, two = risk_difference(trace, other), risk_difference(other, trace)
    for name, mirrored in (("value", "value"), ("low", "high"), ("high", "low")):
        np.testing.assert_array_equal(one[name], -two[mirrored])
    for name, mirrored in (("p", "p"), ("q", "q"), ("n_a", "n_b"), ("count_a", "count_b")):
        np.testing.assert_array_equal(one[name], two[mirrored])


def test_a_trace_does_not_differ_from_itself():
    trace = made(IDS)
    found = risk_difference(trace, trace).isel(layer=TOPK)
    assert (found["value"] == 0).all()
    np.testing.assert_array_equal(found["low"], -found["high"])
    used_at_all = (found["count_a"] > 0).values & (found["count_a"] < found["n_a"]).values
    assert (found["p"].values[used_at_all] == 1).all()
    assert np.isnan(found["p"].values[~used_at_all]).all()


def test_hash_layers_have_no_q_and_change_none():
    long, other = made(IDS), made(IDS[:31], seed=1)
    found = risk_difference(long, other)
    assert np.isnan(found["q"].values[HASH]).all()
    assert np.isfinite(found["p"].values[HASH]).any()
    p = found["p"].values[TOPK]
    ordered = sorted(value for value in p.ravel().tolist() if not np.isnan(value))
    assert len(ordered) > 5
    for layer in TOPK:
        for expert, value in enumerate(found["p"].values[layer].tolist()):
            if not np.isnan(value):
                later = [x * len(ordered) / (i + 1) for i, x in enumerate(ordered) if x >= value]
                assert found["q"].values[layer, expert] == pytest.approx(min(1.0, *later))


@pytest.mark.parametrize(("rows", "other_rows"), [(0, 5), (5, 0), (0, 0)])
def test_no_tokens_are_no_difference(rows, other_rows):
    found = risk_difference(made(IDS[:rows]), made(IDS[:other_rows]))
    for name in ("value", "low", "high", "p", "q"):
        assert np.isnan(found[name].values).all()


def test_slices_restrict_the_rows():
    trace, other = made(IDS), made(IDS, seed=1)
    found = risk_difference(trace[10:], other[:20])
    assert found["n_a"].values[0] == 40
    assert found["count_a"].values[2].tolist() == counts(trace[10:], 2)[1]
    assert found["count_b"].values[2].tolist() == counts(other[:20], 2)[1]


@pytest.mark.parametrize("compare", [overlap, paired_overlap, risk_difference])
def test_traces_of_other_shapes_are_refused(compare):
    other = import_routing([[[0, 1]]], n_experts=4, token_ids=[1])
    with pytest.raises(InputError, match=r"5 layers with 12 experts.*1 layer with 4 experts"):
        compare(made([1]), other)
    with pytest.raises(InputError, match="Two traces are compared; given was NoneType"):
        compare(made([1]), None)


@pytest.mark.parametrize("compare", [overlap, paired_overlap, risk_difference])
def test_traces_on_disk_are_compared_like_those_in_memory(kept, compare):
    trace, other = two()
    assert compare(kept(trace), other).identical(compare(trace, other))
    assert compare(other, kept(trace)).identical(compare(other, trace))


def test_pairs_that_are_none_are_refused():
    trace, other = two()
    with pytest.raises(InputError, match=r"pair_tokens\(trace, other\) returned; given was list"):
        paired_overlap(trace, other, [(0, 0)])

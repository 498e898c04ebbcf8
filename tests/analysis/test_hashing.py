"""The audit of hash layers: true tables, one wrong row, engines that number experts anew."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, VOCABULARY, made, tables
from v4kit.analysis import hash_audit
from v4kit.analysis.subsets import chance_of_sharing, pairs_sharing
from v4kit.errors import InputError

HASHED = [layer for layer, kind in enumerate(KINDS) if kind == "hash"]
TABLES = {layer: tables()[layer] for layer in HASHED}


def some(rows=300, **options):
    rng = np.random.default_rng(4)
    return made(rng.integers(0, VOCABULARY - 3, rows), holes=(0, 9, rows - 1), **options)


@pytest.fixture
def trace(kept):
    return kept(some())


@pytest.mark.parametrize("given", [None, TABLES], ids=["shown", "given"])
def test_true_tables_agree_exactly(trace, given) -> None:
    found = hash_audit(trace, given)
    agreement = found["agreement"].to_numpy()
    assert agreement[HASHED].tolist() == [1.0] * len(HASHED)
    assert np.isnan(np.delete(agreement, HASHED)).all()
    ids = set(trace.tokens["id"][trace.tokens["valid"]]) if given is None else range(VOCABULARY)
    for layer in HASHED:
        assert int(found["types"][layer]) == len(ids)
        for expert in range(EXPERTS):
            share = sum(expert in TABLES[layer][i] for i in ids) / len(ids)
            load = float(found["vocabulary_load"][layer, expert])
            assert load == pytest.approx(share, rel=1e-12)
        sets = [set(TABLES[layer][i].tolist()) for i in ids]
        pairs = [len(one & two) for one, two in combinations(sets, 2)]
        for least in range(1, TOP_K + 1):
            share = sum(shared >= least for shared in pairs) / len(pairs)
            assert float(found["pairs_sharing"].sel(layer=layer, shared=least)) == share
    assert float(found["chance"]) == TOP_K / EXPERTS


@given(st.integers(1, 4), st.integers(0, 25), st.sampled_from([5, 9, 2**20]), st.integers(0, 99))
def test_common_members_are_those_of_all_pairs(k, n, size, seed) -> None:
    """Also where subsets have no number of 64 bits, sets are few, and slots are empty."""
    rng = np.random.default_rng(seed)
    ids = np.sort(np.argsort(rng.random((n, 5)), axis=1)[:, :k] + (size - 5), axis=1)
    ids[rng.random((n, k)) < 0.1] = -1
    sets = [set(row) - {-1} for row in ids.tolist()]
    pairs = [len(one & two) for one, two in combinations(sets, 2)]
    found = pairs_sharing(ids, size)
    assert len(found) == k
    for least, value in enumerate(found, start=1):
        share = sum(shared >= least for shared in pairs) / len(pairs) if pairs else math.nan
        assert value == pytest.approx(share, nan_ok=True)


def test_chance_of_common_members_is_that_of_drawing() -> None:
    every = [set(some) for some in combinations(range(7), 3)]
    shared = [len({0, 1, 2} & other) for other in every]
    chances = [sum(s >= least for s in shared) / len(every) for least in (1, 2, 3)]
    assert chance_of_sharing(3, 7).tolist() == pytest.approx(chances, rel=1e-12)
    found = hash_audit(some(), TABLES)["pairs_sharing_chance"]
    np.testing.assert_array_equal(found, chance_of_sharing(TOP_K, EXPERTS))


def test_an_expert_that_a_table_names_twice_counts_once() -> None:
    table = TABLES[0].copy()
    table[:, 1] = table[:, 0]
    experts = some().routing["experts"].values.copy()
    experts[:, 0] = table[some().tokens["id"]]
    trace = made(some().tokens["id"], experts=experts, holes=(0, 9, 299))
    found = hash_audit(trace, TABLES | {0: table})
    assert float(found["agreement"][0]) == 1
    assert float(found["vocabulary_load"][0].sum()) == pytest.approx(TOP_K - 1)
    assert float(found["pairs_sharing"][0, TOP_K - 1]) == 0


@pytest.mark.parametrize("given", [None, TABLES], ids=["shown", "given"])
def test_one_wrong_row_is_counted(given) -> None:
    trace = some()
    experts = trace.routing["experts"].values.astype(int)
    row, layer = 200, HASHED[1]
    experts[row, layer, 0] = next(e for e in range(EXPERTS) if e not in experts[row, layer])
    found = hash_audit(made(trace.tokens["id"], experts=experts, holes=(0, 9, 299)), given)
    assert float(found["agreement"][layer]) == pytest.approx(1 - 1 / 297)
    assert float(found["agreement"][HASHED[0]]) == 1


def test_experts_that_were_numbered_anew_are_seen() -> None:
    trace = some()
    experts = trace.routing["experts"].values.astype(int)
    experts[experts >= 0] = (experts[experts >= 0] + 1) % EXPERTS
    renamed = made(trace.tokens["id"], experts=experts, holes=(0, 9, 299))
    assert (hash_audit(renamed, TABLES)["agreement"][HASHED] < 0.1).all()
    assert hash_audit(renamed)["agreement"].to_numpy()[HASHED].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no table for hash-routed layer 0"),
        (TABLES | {0: TABLES[0][:5]}, "a row of experts for each id"),
        (TABLES | {0: TABLES[0] + 50}, "names experts from"),
        (TABLES | {0: TABLES[0] + 0.5}, "rows of 3 float64 values"),
        (TABLES | {0: TABLES[0][:, :2]}, "rows of 2 int64 values"),
        (TABLES | {0: [[1, 2, 3], [4]]}, "a row of experts for each id"),
        ([TABLES[0]], "tables are by layer index"),
    ],
)
def test_tables_that_do_not_fit(given, message) -> None:
    with pytest.raises(InputError, match=message):
        hash_audit(some(), given)


def test_nothing_to_audit() -> None:
    with pytest.raises(InputError, match="no hash-routed layer"):
        hash_audit(made([1, 2], kinds=("topk", "dense")))
    with pytest.raises(InputError, match="no token id"):
        hash_audit(made([-1, -1]))

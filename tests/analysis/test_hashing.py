"""The audit of hash layers: true tables, one wrong row, engines that number experts anew."""

import numpy as np
import pytest

import v4kit
from tests.analysis.samples import EXPERTS, KINDS, TOP_K, VOCABULARY, made, tables
from v4kit.analysis import hash_audit
from v4kit.errors import InputError

HASHED = [layer for layer, kind in enumerate(KINDS) if kind == "hash"]
TABLES = {layer: tables()[layer] for layer in HASHED}


def some(rows=300, **options):
    rng = np.random.default_rng(4)
    return made(rng.integers(0, VOCABULARY - 3, rows), holes=(0, 9, rows - 1), **options)


@pytest.fixture(params=["in memory", "on disk"])
def trace(request, tmp_path):
    found = some()
    if request.param == "in memory":
        return found
    return v4kit.open_trace(found.save(tmp_path / "hash.v4trace"))


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
    assert float(found["chance"]) == TOP_K / EXPERTS


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

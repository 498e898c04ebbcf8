"""Paths of first experts: plain loops over the definition, refusals."""

from collections import Counter

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, used_by
from v4kit.analysis import paths
from v4kit.errors import InputError
from v4kit.trace import import_routing

LEARNED = [layer for layer, kind in enumerate(KINDS) if kind == "topk"]


def some(rows=300, **options):
    rng = np.random.default_rng(4)
    experts = np.argsort(rng.random((rows, len(KINDS), EXPERTS)), axis=2)[:, :, :TOP_K]
    experts[:, :, 0] = rng.integers(0, 3, (rows, len(KINDS)))
    experts[:, :, 1:] = 3 + experts[:, :, 1:] % 9
    experts[:, KINDS.index("dense")] = -1
    experts[7, LEARNED[1]] = -1
    return made(rng.integers(0, 20, rows), experts=experts, holes=(3, 77, rows - 1), **options)


@pytest.fixture
def trace(kept):
    return kept(some())


@pytest.mark.parametrize("layers", [None, LEARNED[::-1], [LEARNED[0]], LEARNED[1]])
def test_they_follow_their_definition(trace, layers) -> None:
    wanted = LEARNED if layers is None else np.atleast_1d(layers).tolist()
    experts = trace.routing["experts"].values
    taken = Counter(
        tuple(int(experts[row, layer, 0]) for layer in wanted)
        for row in range(len(trace))
        if all(used_by(trace, row, layer) for layer in wanted)
    )
    n = sum(taken.values())
    found = paths(trace, layers, top=6)
    assert found["layer"].to_numpy().tolist() == wanted
    assert found["kind"].to_numpy().tolist() == ["topk"] * len(wanted)
    assert (int(found["n"]), int(found["different"])) == (n, len(taken))
    assert n == 297 - (LEARNED[1] in wanted)
    assert found["count"].to_numpy().tolist() == sorted(taken.values(), reverse=True)[:6]
    for place in range(found.sizes["path"]):
        path, one = tuple(found["expert"].to_numpy()[place].tolist()), found.isel(path=place)
        assert int(one["count"]) == taken[path]
        assert float(one["share"]) == pytest.approx(taken[path] / n, rel=1e-12)
        chance = 1.0
        for step, expert in enumerate(path):
            chance *= sum(times for other, times in taken.items() if other[step] == expert) / n
        assert float(one["chance"]) == pytest.approx(chance, rel=1e-12)


def test_independent_layers_are_at_chance_and_copies_are_not() -> None:
    found = paths(some(6_000))
    assert float(np.abs(found["share"] / found["chance"] - 1).max()) < 0.15
    experts = some(600).routing["experts"].values.copy()
    experts[:, LEARNED[1]] = experts[:, LEARNED[0]]
    copied = paths(made(np.zeros(600), experts=experts))
    assert int(copied["different"]) == 3
    np.testing.assert_allclose(copied["chance"], copied["share"] ** 2, rtol=1e-12)


def test_all_paths_are_there_if_asked_for() -> None:
    found = paths(some(), top=1_000)
    assert int(found["count"].sum()) == int(found["n"])
    assert float(found["share"].sum()) == pytest.approx(1)
    assert float(found["chance"].sum()) <= 1 + 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [2, 0]}, "layer 0 looks its experts up in a table"),
        ({"layers": []}, "none was given"),
        ({"layers": [1]}, "Layer 1 has no router"),
        ({"layers": "23"}, "Layer '23' has no router"),
        ({"top": 0}, "top is a whole number"),
    ],
)
def test_refusals(options, message) -> None:
    with pytest.raises(InputError, match=message):
        paths(some(), **options)


def test_without_order_there_is_no_first() -> None:
    with pytest.raises(InputError, match="no order"):
        paths(import_routing([[[0, 1]], [[1, 2]]], n_experts=4))
    with pytest.raises(InputError, match="The trace's are none"):
        paths(made([1, 2], kinds=("hash", "dense")))
    with pytest.raises(InputError, match="takes a trace"):
        paths("trace")


def test_empty_trace() -> None:
    found = paths(some()[:0])
    assert (int(found["n"]), int(found["different"]), found.sizes["path"]) == (0, 0, 0)

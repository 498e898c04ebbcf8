"""Co-activation: plain loops over the definition, and over what the published script counts."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, used_by
from v4kit.analysis import coactivation, expert_load
from v4kit.errors import InputError

RANKED = [layer for layer, kind in enumerate(KINDS) if kind == "topk"]


def some(rows=200, **options):
    """A trace with hash layers, a dense one, and rows that were never fed."""
    ids = np.random.default_rng(1).integers(0, 20, rows)
    return made(ids, holes=(2, 90, rows - 1), **options)


@pytest.fixture
def trace(kept):
    return kept(some())


def loops(trace, layer, pairs):
    """Tokens that use both of two experts, token by token."""
    count = np.zeros((EXPERTS, EXPERTS), int)
    for row in range(len(trace)):
        if used_by(trace, row, layer):
            for one, two in pairs(trace.routing["experts"].values[row, layer].tolist()):
                count[one, two] += 1
                count[two, one] += 1
    return count


@pytest.mark.parametrize("layers", [None, [0, 3], 2, np.int64(3), np.array([2, 4])])
def test_every_pair_by_the_definition(trace, layers) -> None:
    found = coactivation(trace, layers=layers)
    wanted = RANKED if layers is None else np.atleast_1d(layers).tolist()
    assert found["layer"].to_numpy().tolist() == wanted
    assert found["kind"].to_numpy().tolist() == [KINDS[layer] for layer in wanted]
    load = expert_load(trace)
    for place, layer in enumerate(wanted):
        count = loops(trace, layer, lambda ids: combinations(ids, 2))
        np.testing.assert_array_equal(found["count"][place], count)
        single, n = load["count"].to_numpy()[layer], int(load["n"][layer])
        assert int(found["n"][place]) == n
        np.testing.assert_array_equal(found["uses"][place], single)
        assert int(found["count"][place].sum()) == TOP_K * (TOP_K - 1) * n
        for one in range(EXPERTS):
            for two in range(EXPERTS):
                share, lift = (float(found[name][place, one, two]) for name in ("share", "lift"))
                if one == two or not single[one]:
                    assert np.isnan(share)
                    continue
                assert share == pytest.approx(count[one, two] / single[one], rel=1e-12)
                if single[two]:
                    expected = count[one, two] * n / (single[one] * single[two])
                    assert lift == pytest.approx(expected, rel=1e-12)


def test_the_published_script_counts_neighbours_in_rank(trace) -> None:
    found = coactivation(trace, compatibility="olmoe")
    load = expert_load(trace)["count"].to_numpy()
    for place, layer in enumerate(RANKED):
        count = loops(trace, layer, pairwise)
        np.testing.assert_array_equal(found["count"][place], count)
        for one, two in combinations(range(EXPERTS), 2):
            expected = count[one, two] / load[layer][one]
            assert float(found["share"][place, one, two]) == pytest.approx(expected, rel=1e-12)
    assert "lift" not in found
    assert float(found["chance"]) == pytest.approx(2 * (TOP_K - 1) / TOP_K / (EXPERTS - 1))
    whole = coactivation(trace)
    assert (whole["count"] >= found["count"]).all()
    assert int(found["count"].sum()) * 3 == int(whole["count"].sum()) * 2


def test_random_routing_is_near_chance() -> None:
    found = coactivation(some(20_000))
    assert float(found["chance"]) == (TOP_K - 1) / (EXPERTS - 1)
    assert float(found["share"].mean()) == pytest.approx(float(found["chance"]), rel=0.01)
    assert float(found["lift"].std()) < 0.1
    found = coactivation(some(20_000), compatibility="olmoe")
    assert float(found["share"].mean()) == pytest.approx(float(found["chance"]), rel=0.01)


def test_experts_that_always_come_together() -> None:
    experts = np.zeros((60, len(KINDS), TOP_K), int)
    experts[::2], experts[1::2] = [0, 1, 2], [3, 4, 5]
    found = coactivation(made(np.arange(60) % 20, experts=experts), layers=2)
    assert float(found["share"][0, 0, 1]) == 1.0
    assert float(found["lift"][0, 0, 1]) == 2.0
    assert float(found["share"][0, 0, 3]) == 0.0
    assert np.isnan(found["share"][0, 9]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 1}, "Layer 1 has no router; those with one are 0, 2, 3, 4"),
        ({"layers": [2, 7]}, "Layer 7 has no router"),
        ({"layers": np.int64(1)}, "Layer .*1.* has no router"),
        ({"layers": 2.0}, "Layer 2.0 has no router"),
        ({"layers": [2, 3.0]}, "Layer 3.0 has no router"),
        ({"layers": "23"}, "Layer '23' has no router"),
        ({"compatibility": "mixtral"}, "given was 'mixtral'"),
        ({"compatibility": "olmoe", "layers": 0}, "slots have no order"),
    ],
)
def test_refusals(options, words) -> None:
    with pytest.raises(InputError, match=words):
        coactivation(some(), **options)


def test_neighbours_in_rank_of_slots_without_order() -> None:
    with pytest.raises(InputError, match="slots have no order"):
        coactivation(some(ranked=False), compatibility="olmoe")


def test_empty_trace() -> None:
    found = coactivation(made([1, 2])[:0])
    assert int(found["count"].sum()) == 0
    assert found["share"].isnull().all()

"""Load and its evenness: plain loops over the definition, known distributions, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, used_by
from v4kit.analysis import expert_load, load_matched, load_statistics
from v4kit.analysis.load import evenness
from v4kit.errors import InputError

DENSE = KINDS.index("dense")


def some(rows=150, **options):
    """A trace with hash layers, a dense one, documents, and rows that were never fed."""
    rng = np.random.default_rng(3)
    document = np.sort(rng.integers(0, 4, rows))
    return made(rng.integers(0, 20, rows), document=document, holes=(3, 77, rows - 1), **options)


@pytest.fixture
def trace(kept):
    return kept(some())


def counted(trace):
    """Uses of each expert and routed tokens of each layer, one by one."""
    count = [[0] * EXPERTS for _ in KINDS]
    tokens = [0] * len(KINDS)
    for layer in range(len(KINDS)):
        for row in range(len(trace)):
            experts = used_by(trace, row, layer)
            tokens[layer] += bool(experts)
            for expert in experts:
                count[layer][expert] += 1
    return count, tokens


def test_load_is_what_loops_count(trace) -> None:
    found = expert_load(trace)
    count, tokens = counted(trace)
    assert found["count"].to_numpy().tolist() == count
    assert found["n"].to_numpy().tolist() == tokens
    assert float(found["chance"]) == TOP_K / EXPERTS
    for layer, row in enumerate(found["share"].to_numpy()):
        if layer == DENSE:
            assert np.isnan(row).all()
            continue
        for expert, share in enumerate(row):
            assert share == pytest.approx(count[layer][expert] / tokens[layer], rel=1e-12)
    assert found["kind"].to_numpy().tolist() == list(KINDS)


def test_counts_sum_to_slots_times_tokens(trace) -> None:
    found = expert_load(trace)
    np.testing.assert_array_equal(found["count"].sum("expert"), TOP_K * found["n"])


def by_definition(count):
    """The statistics of one layer's counts, term by term."""
    total, n = sum(count), len(count)
    shares = [c / total for c in count]
    entropy = -math.fsum(p * math.log2(p) for p in shares if p)
    mean = total / n
    gini = math.fsum(abs(a - b) for a in count for b in count) / (2 * n * total)
    spread = math.sqrt(math.fsum((c - mean) ** 2 for c in count) / n)

    def coverage(part):
        reached = 0
        for used, c in enumerate(sorted(count, reverse=True), start=1):
            reached += c
            if reached >= part * total - 1e-9:
                return used
        raise AssertionError

    return {
        "entropy_bits": entropy,
        "normalized_entropy": entropy / math.log2(n) if n > 1 else 1,
        "effective_experts": 2**entropy,
        "gini": gini,
        "cv": spread / mean,
        "max_violation": max(count) / mean - 1,
        "balancedness": mean / max(count),
        "dead": sum(c == 0 for c in count),
        "coverage_50": coverage(0.5),
        "coverage_80": coverage(0.8),
    }


def test_statistics_follow_their_definitions(trace) -> None:
    found = load_statistics(trace)
    count, tokens = counted(trace)
    for layer in range(len(KINDS)):
        for name in by_definition([1]):
            value = float(found[name][layer])
            if layer == DENSE:
                assert math.isnan(value)
            else:
                expected = by_definition(count[layer])[name]
                assert value == pytest.approx(expected, rel=1e-12, abs=1e-12), (layer, name)
    assert found["n"].to_numpy().tolist() == tokens


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=40).filter(any))
def test_any_counts(count) -> None:
    found = evenness(np.array([count]))
    for name, expected in by_definition(count).items():
        assert float(found[name][0]) == pytest.approx(expected, rel=1e-9, abs=1e-9), name


def test_uniform_and_one_sided() -> None:
    even = evenness(np.full((1, 16), 7))
    assert [float(even[n][0]) for n in ("entropy_bits", "gini", "cv", "max_violation")] == (
        pytest.approx([4.0, 0.0, 0.0, 0.0], abs=1e-12)
    )
    assert (float(even["coverage_50"][0]), float(even["coverage_80"][0])) == (8, 13)
    one = evenness(np.eye(1, 16) * 9)
    assert [float(one[n][0]) for n in ("entropy_bits", "effective_experts", "dead")] == [0, 1, 15]
    assert float(one["gini"][0]) == pytest.approx(15 / 16)
    assert [float(f["normalized_entropy"][0]) for f in (even, one)] == pytest.approx([1, 0])
    assert [float(f["balancedness"][0]) for f in (even, one)] == pytest.approx([1, 1 / 16])
    assert float(evenness(np.array([[5]]))["normalized_entropy"][0]) == 1


def test_random_routing_lies_within_its_null() -> None:
    """The samples' learned layers are uniform draws: every statistic is near its null."""
    found = load_statistics(some(3_000))
    for name in by_definition([1]):
        for layer in (2, 3):
            mean, std = (float(found[f"{name}_null_{what}"][layer]) for what in ("mean", "std"))
            assert abs(float(found[name][layer]) - mean) < 5 * std + 1e-9, name


def test_uneven_routing_lies_outside_of_it() -> None:
    ids = np.arange(2_000) % 20
    experts = np.broadcast_to([0, 1, 2], (2_000, len(KINDS), TOP_K))
    found = load_statistics(made(ids, experts=experts))
    gini, mean, std = (float(found[n][2]) for n in ("gini", "gini_null_mean", "gini_null_std"))
    assert gini > mean + 20 * std
    assert float(found["dead"][2]) == EXPERTS - 3


def test_too_few_tokens() -> None:
    with pytest.raises(InputError, match=r"2\.5 uses per expert, 10 are needed, so about 40"):
        load_statistics(made(np.arange(10)))
    assert int(expert_load(made(np.arange(10)))["n"][0]) == 10


@pytest.mark.parametrize("analysis", [expert_load, load_statistics])
def test_what_is_no_trace(analysis) -> None:
    with pytest.raises(InputError, match="takes a trace; given was str"):
        analysis("trace")


def test_empty_trace() -> None:
    empty = made([1, 2])[:0]
    assert int(expert_load(empty)["count"].sum()) == 0
    with pytest.raises(InputError, match=r"0\.0 uses per expert"):
        load_statistics(empty)


class TestLoadMatched:
    """Controls for chosen experts."""

    def test_they_are_others_of_like_load(self) -> None:
        trace = some(2_000)
        count = expert_load(trace)["count"].to_numpy()[2]
        for seed in range(20):
            drawn = load_matched(trace, 2, [3, 8, 0], seed=seed, among=2)
            assert len({*drawn, 3, 8, 0}) == 6
            for chosen, control in zip([3, 8, 0], drawn, strict=True):
                others = [e for e in range(EXPERTS) if e not in (3, 8, 0)]
                apart = sorted(abs(count[e] - count[chosen]) for e in others)
                # Those drawn before may have been nearer.
                assert abs(count[control] - count[chosen]) <= apart[3]
            assert drawn == load_matched(trace, 2, [3, 8, 0], seed=seed, among=2)
        assert len({tuple(load_matched(trace, 2, [3], seed=s)) for s in range(40)}) == 5

    @pytest.mark.parametrize(
        ("layer", "experts", "message"),
        [
            (1, [3], "has no router"),
            (2, [EXPERTS], "expert is a whole number"),
            (2, [3, 3], "each expert once"),
            (2, range(7), "as many others"),
            (2, 3, "a list of ids, such as"),
            (2, "37", "a list of ids, such as"),
            (2, [3.0], "expert is a whole number"),
            (2.0, [3], "Layer 2.0 has no router"),
            (True, [3], "Layer True has no router"),
        ],
    )
    def test_refusals(self, layer, experts, message) -> None:
        with pytest.raises(InputError, match=message):
            load_matched(some(), layer, experts)

    @pytest.mark.parametrize("options", [{"among": 0}, {"seed": -1}, {"seed": "x"}])
    def test_numbers_out_of_range(self, options) -> None:
        with pytest.raises(InputError, match="whole number"):
            load_matched(some(), 2, [], **options)

"""Confidence, saliency and super experts: loops over recorded numbers, refusals."""

import math

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, with_outputs
from v4kit.analysis import confidence, saliency, super_experts
from v4kit.errors import InputError

DENSE = KINDS.index("dense")
LAYERS = len(KINDS)


@pytest.fixture
def trace(kept):
    return kept(with_outputs())


def bits(values):
    total = math.fsum(values)
    return -math.fsum(v / total * math.log2(v / total) for v in values if v)


def test_confidence_follows_its_definition(trace) -> None:
    found = confidence(trace)
    assert float(found["score_entropy_max"]) == math.log2(EXPERTS)
    assert float(found["weight_entropy_max"]) == math.log2(TOP_K)
    for name, source in (("weight_entropy_bits", "weights"),
                         ("score_entropy_bits", "router_scores")):  # fmt: skip
        values, entropies = trace.routing[source].values, found[name].to_numpy()
        for row in range(len(trace)):
            for layer in range(LAYERS):
                if np.isnan(values[row, layer]).any():
                    assert math.isnan(entropies[row, layer])
                else:
                    expected = bits(values[row, layer].tolist())
                    assert entropies[row, layer] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(found["margin"], trace.routing["margin"].values)
    flips = trace.routing["bias_flips"].values
    np.testing.assert_array_equal(found["bias_flips"], np.where(flips < 0, np.nan, flips))
    for layer in range(LAYERS):
        rows = {row for row, la, *_ in tokens_of(trace) if la == layer}
        assert int(found["n"][layer]) == len(rows)


def test_confidence_without_all_scores() -> None:
    found = confidence(with_outputs(full=False))
    assert found["score_entropy_bits"].isnull().all()
    assert "full" in found["score_entropy_bits"].attrs["lacks"]
    assert found["weight_entropy_bits"].notnull().any()


def tokens_of(trace):
    """`(row, layer, expert, slot)` of everything that was used."""
    experts = trace.routing["experts"].values
    return [(r, la, int(e), s) for r in range(len(trace)) for la in range(LAYERS)
            for s, e in enumerate(experts[r, la]) if e >= 0]  # fmt: skip


def test_saliency_follows_its_definition(trace) -> None:
    found = saliency(trace)
    norm, weight = (trace.routing[n].values.astype(float) for n in ("output_norm", "weights"))
    lists = {}
    for row, layer, expert, slot in tokens_of(trace):
        lists.setdefault((layer, expert), []).append((norm[row, layer, slot],
                                                      weight[row, layer, slot]))  # fmt: skip
    for layer in range(LAYERS):
        n = len({row for row, la, *_ in tokens_of(trace) if la == layer})
        assert int(found["n"][layer]) == n
        for expert in range(EXPERTS):
            cell, pairs = found.sel(layer=layer, expert=expert), lists.get((layer, expert), [])
            assert int(cell["count"]) == len(pairs)
            expected = {
                "reap": np.mean([w * x for x, w in pairs]) if pairs else np.nan,
                "ean": math.fsum(x for x, _ in pairs) if pairs else np.nan,
                "man": np.mean([x for x, _ in pairs]) if pairs else np.nan,
                "msan": np.mean([x * x for x, _ in pairs]) if pairs else np.nan,
                "frequency": len(pairs) / n if pairs else np.nan,
                "weighted_frequency": math.fsum(w for _, w in pairs) / n if pairs else np.nan,
            }
            for name, value in expected.items():
                assert float(cell[name]) == pytest.approx(value, rel=1e-9, nan_ok=True), name
    mass = np.nansum(weight, axis=(0, 2)) / np.maximum(found["n"].to_numpy(), 1)
    np.testing.assert_allclose(found["weighted_frequency"].sum("expert"), mass, rtol=1e-12)
    routed, shared = (trace.routing[n].values.astype(float) for n in ("routed_norm", "shared_norm"))
    for layer in set(range(LAYERS)) - {DENSE}:
        shares = [r / (r + s) for r, s in zip(routed[:, layer], shared[:, layer], strict=True)]
        known = [share for share in shares if not math.isnan(share)]
        assert float(found["routed_share"][layer]) == pytest.approx(np.mean(known))


def test_never_used_is_not_zero() -> None:
    trace = with_outputs(40)
    experts = np.where(trace.routing["experts"].values == 5, 4, trace.routing["experts"].values)
    arrays = {n: trace.routing[n].values for n in ("weights", "output_norm", "output_max",
                                                   "routed_norm", "shared_norm")}  # fmt: skip
    bare = made(np.zeros(40), experts=experts, arrays=arrays)
    found = saliency(bare).sel(expert=5)
    for name in ("reap", "ean", "man", "msan", "frequency", "weighted_frequency"):
        assert found[name].isnull().all()
    assert super_experts(bare).sel(expert=5)["max_abs"].isnull().all()


@pytest.mark.parametrize("depth", [1.0, 0.5])
def test_super_experts_follow_their_definition(trace, depth) -> None:
    largest, row_of = {}, {}
    values = trace.routing["output_max"].values.astype(float)
    for row, layer, expert, slot in tokens_of(trace):
        value = values[row, layer, slot]
        if value > largest.get((layer, expert), -1):
            largest[layer, expert], row_of[layer, expert] = value, row
    threshold = max(np.percentile(list(largest.values()), 99.5), max(largest.values()) / 10)
    found = super_experts(trace, depth=depth)
    assert float(found["threshold"]) == pytest.approx(threshold)
    assert int(found["n"]) == len(largest)
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            cell, key = found.sel(layer=layer, expert=expert), (layer, expert)
            value = largest.get(key, np.nan)
            assert float(cell["max_abs"]) == pytest.approx(value, nan_ok=True)
            assert int(cell["row"]) == row_of.get(key, -1)
            is_super = value > threshold and layer < depth * LAYERS
            assert bool(cell["is_super"]) is bool(is_super)
    assert bool(found["is_super"].any()) or depth < 1


@pytest.mark.parametrize("analysis", [saliency, super_experts])
def test_what_was_not_recorded(analysis) -> None:
    with pytest.raises(InputError, match=r"Record\(outputs=True\)"):
        analysis(made([1, 2, 3]))


def test_no_weights() -> None:
    with pytest.raises(InputError, match='routing="scores"'):
        confidence(made([1, 2, 3]))


def test_no_outputs_at_all() -> None:
    bare = with_outputs(4)
    arrays = {n: np.full_like(bare.routing[n].values, np.nan) for n in ("output_max",)}
    with pytest.raises(InputError, match="No token"):
        super_experts(made(np.zeros(4), arrays=arrays))
    for depth in (0, 1.5, "half", None, True - 1):
        with pytest.raises(InputError, match="depth is a share"):
            super_experts(bare, depth=depth)

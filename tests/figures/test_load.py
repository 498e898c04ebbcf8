"""Load: shares against plain loops, chance, and bands against exact and simulated chance."""

import math

import numpy as np
import pytest

from tests.figures.traces import flash, loops, routed
from v4kit.figures import expert_load
from v4kit.figures.chance import binomial_band, sorted_band


@pytest.mark.parametrize(("trace", "layer"), [(routed(200), 0), (routed(200), 4), (flash(600), 30)])
def test_bars_agree_with_loops(trace, layer):
    count, _, tokens = loops(trace)
    figure = expert_load(trace, layer=layer)
    (bars,) = figure.data
    for expert, (share, mark) in enumerate(zip(bars.y, bars.customdata, strict=True)):
        assert share == pytest.approx(count[layer, expert] / tokens[layer])
        assert mark.tolist() == [-1, layer, expert, count[layer, expert], tokens[layer]]
    assert f"n = {tokens[layer]:,} tokens" in figure.layout.title.subtitle.text


def test_chance_line_and_band():
    trace = routed(200)
    figure = expert_load(trace, layer=3)
    band, line = figure.layout.shapes
    assert line.y0 == line.y1 == pytest.approx(3 / 32)
    low, high = binomial_band(199, 3 / 32)
    assert (band.y0, band.y1) == pytest.approx((low / 199, high / 199))
    (bars,) = figure.data
    outside = [not low <= mark[3] <= high for mark in bars.customdata]
    strong = figure.layout.meta["outside"]
    assert [colour == strong for colour in bars.marker.color] == outside
    assert "if routing were uniform" in figure.layout.annotations[0].text


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (20, 0.1), (199, 3 / 32), (2_000, 6 / 256)])
def test_band_is_the_exact_binomial_one(n, p):
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    mass = [math.exp(logs[k] + k * math.log(p) + (n - k) * math.log1p(-p)) for k in range(n + 1)]
    below = np.cumsum(mass)
    low, high = binomial_band(n, p)
    assert low == next(k for k in range(n + 1) if below[k] >= 0.025)
    assert high == next(k for k in range(n + 1) if below[k] >= 0.975 - 1e-12)
    assert sum(mass[low : high + 1]) >= 0.95


@pytest.mark.parametrize("arguments", [(0, 0.1), (10, 0.0), (10, 1.0), (5_000_000, 6 / 256)])
def test_band_at_the_edges(arguments):
    low, high = binomial_band(*arguments)
    assert 0 <= low <= high <= arguments[0]


def test_uniform_routing_lies_in_the_bands():
    rng = np.random.default_rng(3)
    counts = np.bincount(np.argsort(rng.random((2_000, 64)), axis=1)[:, :6].ravel(), minlength=64)
    low, high = binomial_band(2_000, 6 / 64)
    assert ((counts < low) | (counts > high)).mean() < 0.15
    lows, highs = sorted_band(2_000, 64, 6 / 64)
    ordered = -np.sort(-counts)
    assert ((ordered < lows) | (ordered > highs)).mean() < 0.2


def test_all_layers_sorted_and_hash_apart():
    trace = routed(200)
    count, _, tokens = loops(trace)
    figure = expert_load(trace)
    curves = {drawn.name: drawn for drawn in figure.data if drawn.name.startswith("layer")}
    assert set(curves) == {f"layer {layer}" for layer in range(6)}
    for layer in range(6):
        curve = curves[f"layer {layer}"]
        assert sorted(curve.customdata[:, 2].tolist()) == list(range(32))
        assert (np.diff(curve.y) <= 0).all()
        for share, (_, _, expert, times, _) in zip(curve.y, curve.customdata, strict=True):
            assert times == count[layer, expert]
            assert share == pytest.approx(times / tokens[layer])
    assert curves["layer 0"].xaxis == "x2"
    assert {curves[f"layer {layer}"].xaxis for layer in range(1, 6)} == {"x"}
    assert figure.layout.shapes[0].y0 == pytest.approx(3 / 32)


@pytest.mark.parametrize("layer", [None, 3])
def test_too_few_tokens_are_said_loudly(layer):
    few = expert_load(routed(40), layer=layer)
    assert few.layout.title.text.startswith("n too small (3.7 uses per expert, 10 needed)")
    assert few.data
    assert "too small" not in expert_load(routed(200), layer=layer).layout.title.text

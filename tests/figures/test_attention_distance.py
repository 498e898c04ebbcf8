"""Distances against plain loops, rows that add up to 1, and long traces that stay small."""

import time
from collections import Counter

import numpy as np
import pytest

from tests import zoo
from tests.figures.attention_traces import KINDS, long, looking, loops
from v4kit import Record
from v4kit.errors import InputError
from v4kit.figures import attention_distance


def cells(figure, n_layers):
    """(part, layer, first distance) → value; and the sum of each layer's row."""
    found, rows = {}, Counter()
    for panel in figure.data:
        for layer in range(n_layers):
            for column, mark in enumerate(panel.customdata[layer]):
                value = float(panel.z[layer, column])
                assert tuple(mark[:3]) == (-1, layer, -1)
                if np.isfinite(value):
                    key = int(mark[3]) if mark[3] >= 0 else column
                    found[panel.name, layer, key] = value
                    rows[layer] += value
    return found, rows


def low(distance):
    """The bin of a distance, by its first distance."""
    edge = 1
    while edge * 2 <= distance:
        edge *= 2
    return edge if distance else 0


def expected(trace, layer, start=0, stop=None):
    sums, n = Counter(), 0
    for row, (sink, _, sources) in loops(trace, layer).items():
        if start <= row < (len(trace) if stop is None else stop):
            n += 1
            sums["sink", 0] += sink
            position = int(trace.tokens["position"][row])
            for _, end, kind, mass in sources:
                part = "blocks" if kind else "single tokens"
                sums[part, low(position - (end - 1))] += mass
    return {key: value / n for key, value in sums.items()}, n


TRACES = {
    "strongest": looking,
    "full": lambda: looking(sources="full"),
    "each head": lambda: looking(40, heads=3),
    "each head, full": lambda: looking(40, heads=2, sources="full"),
    "documents": lambda: looking(90, documents=3),
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("span", [None, (5, 31)])
def test_numbers_agree_with_loops(name, span):
    trace = TRACES[name]()
    figure = attention_distance(trace, span=span)
    found, rows = cells(figure, len(KINDS))
    for layer in range(len(KINDS)):
        wanted, n = expected(trace, layer, *(span or ()))
        for (part, edge), value in wanted.items():
            assert found[part, layer, edge] == pytest.approx(value, abs=1e-6)
        drawn = {key for key, value in found.items() if key[1] == layer and value > 1e-7}
        assert {(part, edge) for part, _, edge in drawn if part != "not kept"} <= set(wanted)
        assert rows[layer] == pytest.approx(1, abs=1e-5)
        assert f"n = {n:,} tokens" in figure.layout.title.subtitle.text


def test_what_was_not_kept_is_told_apart():
    trace = looking()
    panels = {panel.name: panel for panel in attention_distance(trace).data}
    data = trace.attention
    kept = data["mass"].where(data["kind"] == 0).sum("source")
    for layer in (0, 1, 2):
        lost = float((data["window"] - kept).isel(layer=layer).mean())
        assert panels["not kept"].z[layer, 0] == pytest.approx(lost, abs=1e-5)
    assert np.isnan(panels["not kept"].z[0, 1])
    full = {panel.name for panel in attention_distance(looking(sources="full")).data}
    assert full == {"sink", "single tokens", "blocks"}


def test_layers_are_named_by_their_attention():
    figure = attention_distance(looking())
    assert list(figure.layout.yaxis.ticktext) == ["0 · sliding", "1 · CSA", "2 · HCA", "3 · CSA"]
    blocks = next(panel for panel in figure.data if panel.name == "blocks")
    assert np.isnan(blocks.z[0]).all()
    assert "last token" in figure.layout.annotations[-1].text


def test_family_without_blocks():
    figure = attention_distance(looking(40, kinds=("full", "full"), sources="full"))
    assert [panel.name for panel in figure.data] == ["sink", "single tokens"]
    assert list(figure.layout.xaxis2.ticktext)[:3] == ["0", "1", "2–3"]


def test_hover_says_how_many_tokens_reach_so_far():
    trace = looking(60, documents=2)
    panel = next(p for p in attention_distance(trace).data if p.name == "blocks")
    positions = trace.tokens["position"][trace.tokens["valid"]].to_numpy()
    for mark in panel.customdata[1]:
        assert mark[6] == int((positions >= mark[3]).sum())


def test_long_traces_are_fast_and_small():
    started = time.perf_counter()
    figure = attention_distance(long())
    assert time.perf_counter() - started < 10
    assert len(figure.to_json()) < 100_000
    _, rows = cells(figure, 3)
    assert all(total == pytest.approx(1, abs=1e-5) for total in rows.values())
    labels = figure.layout.xaxis3.ticktext
    assert labels[-1] == "16k–32k"


@pytest.mark.parametrize("record", [Record(), Record(attention="full", heads="each")])
def test_of_a_real_model(record):
    trace = zoo.random_model("small").read(zoo.TEXT, record=record)
    found, rows = cells(attention_distance(trace), 6)
    assert all(total == pytest.approx(1, abs=1e-5) for total in rows.values())
    for layer in range(6):
        wanted, _ = expected(trace, layer)
        for (part, edge), value in wanted.items():
            assert found[part, layer, edge] == pytest.approx(value, abs=1e-5)


def test_bad_span():
    with pytest.raises(InputError, match="pair of rows"):
        attention_distance(looking(), span=3)

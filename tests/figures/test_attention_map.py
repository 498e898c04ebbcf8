"""Token × token: every row adds up to 1, blocks lie over what they cover, long ones are shared."""

import time

import numpy as np
import pytest

from tests import zoo
from tests.figures.attention_traces import KINDS, long, looking, loops
from v4kit import Record
from v4kit.errors import InputError
from v4kit.figures import attention_map

WHOLE = [
    looking(),
    looking(sources="full"),
    looking(40, heads=3),
    looking(40, heads=2, sources="full"),
]


def panels(figure):
    return {panel.name: panel for panel in figure.data}


def drawn(panel, row, position):
    """The value at a position, by the axis."""
    (column,) = np.flatnonzero(np.asarray(panel.x) == position)
    return float(panel.z[row, column])


@pytest.mark.parametrize("trace", WHOLE, ids=["strongest", "full", "each", "each, full"])
@pytest.mark.parametrize("layer", range(len(KINDS)))
def test_numbers_agree_with_loops(trace, layer):
    figure = attention_map(trace, layer)
    parts = panels(figure)
    assert ("blocks" in parts) is (KINDS[layer] != "sliding")
    for row, (sink, rest, sources) in loops(trace, layer).items():
        token, number, expert, position, _ = parts["sink"].customdata[row, 0]
        assert (token, number, expert) == (row, layer, -1)
        assert position == trace.tokens["position"][row]
        others = [sink, rest] if parts["sink"].z.shape[1] == 2 else [sink]
        assert parts["sink"].z[row].tolist() == pytest.approx(others, abs=1e-5)
        wanted = {0: {}, 1: {}}
        for start, stop, kind, mass in sources:
            for place in range(start, stop):
                cells = wanted[kind]
                cells[place] = cells.get(place, 0) + mass / (stop - start)
        for kind, name in ((0, "single tokens"), (1, "blocks")):
            for place, value in wanted[kind].items():
                assert drawn(parts[name], row, place) == pytest.approx(value, abs=1e-5)
        total = sum(np.nansum(part.z[row]) for part in parts.values())
        assert total == pytest.approx(1, abs=1e-4)


def test_nothing_is_drawn_out_of_sight():
    figure = attention_map(looking(sources="full"), 1)
    parts = panels(figure)
    for row in range(59):
        tokens = np.asarray(parts["single tokens"].x)[np.isfinite(parts["single tokens"].z[row])]
        assert tokens.tolist() == list(range(max(0, row - 7), row + 1))
        blocks = np.isfinite(parts["blocks"].z[row])
        assert blocks.sum() == (row + 1) // 4 * 4


def test_one_head():
    trace = looking(40, heads=3)
    for head in (0, 2):
        parts = panels(attention_map(trace, 2, head=head))
        for row, (sink, _, _) in loops(trace, 2, head).items():
            assert parts["sink"].z[row, 0] == pytest.approx(sink, abs=1e-6)
    assert "head 2 of 3" in attention_map(trace, 2, head=2).layout.title.subtitle.text
    assert "mean of 3 heads" in attention_map(trace, 2).layout.title.subtitle.text


def test_one_document_at_a_time():
    trace = looking(90, documents=3)
    figure = attention_map(trace, 1)
    assert (
        "30 tokens of document 0, 2 other documents left out" in figure.layout.title.subtitle.text
    )
    second = attention_map(trace, 1, document=1)
    rows = panels(second)["sink"].customdata[:, 0, 0]
    assert rows.tolist() == list(range(30, 60))
    assert panels(second)["sink"].customdata[:, 0, 3].tolist() == list(range(30))
    cut = attention_map(trace, 1, span=(40, 90))
    assert panels(cut)["sink"].customdata[0, 0].tolist()[:4] == [40, 1, -1, 10]
    with pytest.raises(InputError, match=r"no document 7.*There is: 0, 1, 2"):
        attention_map(trace, 1, document=7)


def test_documents_that_are_mixed():
    trace = looking(60, documents=2, unfed=0)
    mixed = trace[[0, 30, 1, 31, 2, 32, 3, 33]]
    for document in (0, 1):
        shown = panels(attention_map(mixed, 1, document=document))
        alone = panels(attention_map(trace[slice(30 * document, 30 * document + 4)], 1))
        assert shown["sink"].customdata[:, 0, 0].tolist() == [document + 2 * n for n in range(4)]
        for name, part in alone.items():
            np.testing.assert_allclose(shown[name].z, part.z, atol=1e-6)


def test_texts_stand_beside_few_tokens():
    figure = attention_map(looking(20, unfed=0), 0)
    assert list(figure.layout.yaxis.ticktext[:4]) == ["Once", "\u00a0upon", "\u00a0a", "\u00a0time"]
    assert figure.layout.xaxis.ticktext[4] == "⏎"
    assert attention_map(looking(60), 0).layout.yaxis.ticktext is None


def test_tokens_that_share_a_row():
    trace = looking(330, kinds=("csa",), sources="full", unfed=0, window=40)
    figure = attention_map(trace, 0)
    parts, truth = panels(figure), loops(trace, 0)
    assert "(2 to a row)" in figure.layout.yaxis.title.text
    assert "(2 to a column)" in figure.layout.xaxis.title.text
    for row in (0, 40, 164):
        wanted = {"single tokens": np.zeros(166), "blocks": np.zeros(166)}
        for query in (2 * row, 2 * row + 1):
            for start, stop, kind, mass in truth[query][2]:
                for place in range(start, stop):
                    name = "blocks" if kind else "single tokens"
                    wanted[name][place // 2] += mass / (stop - start) / 2
        for name, values in wanted.items():
            shown = np.nan_to_num(parts[name].z[row])
            np.testing.assert_allclose(shown, values[: len(shown)], atol=1e-5)
            assert parts[name].customdata[row, 0, 0] in (0, 2 * row)


def test_far_sources_of_a_late_span():
    trace = long()
    figure = attention_map(trace, 1, span=(19_000, 19_100))
    parts = panels(figure)
    assert parts["single tokens"].x[0] == 19_000 - 7
    assert parts["blocks"].x[0] < 100
    assert parts["sink"].z.shape[0] == 100
    totals = sum(np.nansum(part.z, axis=1) for part in parts.values())
    np.testing.assert_allclose(totals, 1, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_long_traces_are_shared_fast_and_small(layer):
    started = time.perf_counter()
    figure = attention_map(long(), layer)
    assert time.perf_counter() - started < 10
    assert len(figure.to_json()) < 5_000_000
    totals = sum(np.nansum(panel.z, axis=1) for panel in figure.data)
    np.testing.assert_allclose(totals, 1, atol=1e-4)
    assert "79 to a row" in figure.layout.yaxis.title.text


def test_longest_picture_without_shared_rows_is_not_too_large():
    figure = attention_map(long()[:320], 1)
    assert panels(figure)["blocks"].z.shape == (320, 320)
    assert len(figure.to_json()) < 6_000_000


def test_rows_out_of_order():
    trace = looking(40, unfed=0)[[30, 5, 9]]
    figure = attention_map(trace, 1)
    assert "one after the other" in figure.layout.yaxis.title.text
    assert panels(figure)["sink"].customdata[:, 0, 3].tolist() == [30, 5, 9]
    totals = sum(np.nansum(panel.z, axis=1) for panel in figure.data)
    np.testing.assert_allclose(totals, 1, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 4}, "no layer 4"),
        ({"layer": -1}, "no layer -1"),
        ({"layer": 1, "head": 0}, "only the mean of the heads"),
        ({"layer": 1, "span": (1, 2, 3)}, "pair of rows"),
        ({"layer": 1, "document": "x"}, "no document 'x'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        attention_map(looking(), **options)


@pytest.mark.parametrize("head", [3, -1, "0", True])
def test_no_such_head(head):
    with pytest.raises(InputError, match="there is no head"):
        attention_map(looking(20, heads=3), 1, head=head)


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_of_a_real_model(name):
    trace = zoo.model(name).read(zoo.TEXT, record=Record(attention="full"))
    for layer, view in enumerate(trace.stored_attention.views):
        figure = attention_map(trace, layer)
        totals = sum(np.nansum(panel.z, axis=1) for panel in figure.data)
        np.testing.assert_allclose(totals, 1, atol=1e-4)
        assert ("blocks" in panels(figure)) is bool(view.rate)

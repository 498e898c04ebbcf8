"""The text: every token once and in order, colours that mean one expert, pages instead of cuts."""

import numpy as np
import pytest

from tests.figures.traces import WORDS, imported, loops, routed
from v4kit.errors import InputError
from v4kit.figures import routing_text
from v4kit.figures.labels import EMPTY
from v4kit.figures.theme import CATEGORIES, LIGHT, colour_at, scale
from v4kit.figures.wrap import cells, wrap


def bars(figure):
    """Row → (name of its colour, text, customdata, fill)."""
    found = {}
    for drawn in figure.data:
        if drawn.type != "bar":
            continue
        fills = drawn.marker.color
        for i, mark in enumerate(drawn.customdata):
            fill = fills if isinstance(fills, str) else fills[i]
            assert int(mark[0]) not in found
            found[int(mark[0])] = (drawn.name, drawn.text[i], mark, fill)
    return found


def test_every_token_once():
    trace = routed()
    found = bars(routing_text(trace, layer=3))
    assert sorted(found) == list(range(60))
    for row, (_, text, mark, _) in found.items():
        raw = trace.tokens["text"][row]
        assert text == (raw.replace("\n", "⏎").replace(" ", "\u00a0") or EMPTY)
        np.testing.assert_array_equal(mark[5:8], trace.routing["experts"].values[row, 3])


def test_colour_is_the_heaviest_expert():
    trace = routed(200)
    figure = routing_text(trace, layer=3)
    ids, weights = trace.routing["experts"].values[:, 3], trace.routing["weights"].values[:, 3]
    heavy = [int(e[int(np.argmax(w))]) for e, w in zip(ids[:-1], weights[:-1], strict=True)]
    often = sorted(set(heavy), key=lambda e: (-heavy.count(e), e))[: len(CATEGORIES)]
    found = bars(figure)
    for row, expert in enumerate(heavy):
        name, _, mark, fill = found[row]
        assert mark[2] == expert
        if expert in often:
            assert fill == CATEGORIES[often.index(expert)]
            assert name.startswith(f"expert {expert}: {heavy.count(expert)} ")
        else:
            assert fill == LIGHT.other
            assert name.startswith("all others")
    assert found[199][0] == "not routed"


def test_heaviest_wins_over_first_without_ranks():
    trace = imported(weights=True)
    figure = routing_text(trace, layer=1)
    ids, weights = trace.routing["experts"].values[:, 1], trace.routing["weights"].values[:, 1]
    assert (weights[:, 0] < weights[:, 1]).any()
    for row, (_, _, mark, _) in bars(figure).items():
        assert mark[2] == ids[row, weights[row].argmax()]
    assert "heaviest" in figure.layout.title.text


def test_without_weights_no_expert_leads():
    """Ids alone come in no order: no token gets the colour of one of its experts."""
    figure = routing_text(imported(), layer=1)
    assert figure.layout.title.text.startswith("Text of layer 1, whose experts have no order")
    assert {fill for *_, fill in bars(figure).values()} == {LIGHT.paper}


def test_by_expert():
    trace = routed(200)
    count, _, _ = loops(trace)
    expert = max(range(32), key=lambda e: count[3, e])
    found = bars(routing_text(trace, layer=3, expert=expert))
    steps = scale((LIGHT.paper, *LIGHT.learned[1:]))
    ids, weights = trace.routing["experts"].values[:, 3], trace.routing["weights"].values[:, 3]
    for row, (_, _, mark, fill) in found.items():
        slots = np.flatnonzero(ids[row] == expert)
        weight = float(weights[row, slots[0]]) if len(slots) else 0.0
        assert fill == colour_at(steps, weight / 1.0)
        assert (fill == LIGHT.paper) == (len(slots) == 0)
        assert mark[2] == (expert if len(slots) else -1)


def test_layer_is_the_last_learned_one_by_default():
    assert "layer 5" in routing_text(routed()).layout.title.text


def test_pages_instead_of_a_cut():
    trace = routed(4_100, layers=2, experts=8, top_k=1, hashed=0)
    pages = [routing_text(trace, page=page) for page in range(3)]
    rows = [row for figure in pages for row in bars(figure)]
    assert sorted(rows) == list(range(4_100))
    assert "of 4,100, page 1 of 0–2" in pages[1].layout.title.subtitle.text
    first, second = ({d.name: d.marker.color for d in figure.data} for figure in pages[:2])
    assert all(second[name] == colour for name, colour in first.items() if name in second)
    for page in (3, -1, "1"):
        with pytest.raises(InputError, match="there is no page"):
            routing_text(trace, page=page)


@pytest.mark.parametrize("expert", [32, -1, "5", 1.0])
def test_no_such_expert(expert):
    with pytest.raises(InputError, match="there is no expert"):
        routing_text(routed(), expert=expert)


def test_lines_do_not_overlap():
    places = wrap([*WORDS * 30, "x" * 500], columns=50, breaks=[20])
    ends = {}
    for place in places:
        assert place.column == ends.get(place.line, 0)
        ends[place.line] = place.column + place.width
        assert place.width == cells(place.text)
    assert max(ends.values()) <= 50
    assert places[-1].text.endswith("…")
    assert places[20].line >= places[19].line + 2 or places[20].column == 0


def test_wide_characters_take_two_cells():
    assert (cells("ab"), cells("床"), cells("e\u0301"), cells("\u0301")) == (2, 2, 1, 1)

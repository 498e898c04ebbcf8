"""The text of one token: shares that add up to 1, every mass in its place, nothing cut silently."""

import re

import numpy as np
import pytest

from tests import zoo
from tests.figures.attention_traces import KINDS, long, looking, loops
from tests.figures.test_theme import contrast, luminance
from v4kit import Record
from v4kit.errors import InputError
from v4kit.figures import attention_text
from v4kit.figures.stretches import parts_of
from v4kit.figures.theme import DARK, LIGHT, colour_at, ink_on, scale


def shares(figure):
    return {bar.name.split(" ")[0]: float(bar.x[0]) for bar in figure.data if bar.xaxis == "x2"}


def tokens(figure):
    """Row → (customdata, fill) of the bars that carry text."""
    found = {}
    for bar in figure.data:
        if bar.name in {"seen", "the token itself", "later"}:
            fills = bar.marker.color
            for place, mark in enumerate(bar.customdata):
                assert int(mark[0]) not in found
                found[int(mark[0])] = (mark, fills if isinstance(fills, str) else fills[place])
    return found


@pytest.mark.parametrize(
    "trace",
    [looking(), looking(sources="full"), looking(40, heads=3), looking(80, documents=2)],
    ids=["strongest", "full", "each", "documents"],
)
@pytest.mark.parametrize("layer", range(len(KINDS)))
def test_every_mass_is_in_its_place(trace, layer):
    row = len(trace) - 2
    sink, rest, sources = loops(trace, layer)[row]
    figure = attention_text(trace, row, layer=layer)
    sums = {0: {}, 1: {}}
    for start, stop, kind, mass in sources:
        for place in range(start, stop):
            sums[kind][place] = sums[kind].get(place, 0) + mass / (stop - start)
    document = trace.tokens["document"][row]
    own = trace.tokens.index[trace.tokens["document"] == document]
    found = tokens(figure)
    assert sorted(found) == own.tolist()
    for mark, _ in found.values():
        position = int(mark[3])
        assert mark[4] == document
        assert mark[5] == pytest.approx(sums[0].get(position, 0), abs=1e-6)
        assert mark[6] == pytest.approx(sums[1].get(position, 0), abs=1e-6)
    parts = shares(figure)
    assert parts["sink"] == pytest.approx(sink, abs=1e-6)
    assert parts["not"] == pytest.approx(rest, abs=1e-6)
    assert parts["window"] == pytest.approx(sum(sums[0].values()), abs=1e-5)
    assert parts["blocks"] == pytest.approx(sum(sums[1].values()), abs=1e-5)
    assert sum(parts.values()) == pytest.approx(1, abs=1e-5)


def test_next_to_nothing_is_drawn_pale():
    trace = looking(sources="full")
    values = trace.stored_attention.masses[1].values
    values *= 1e-4
    found = tokens(attention_text(trace, 50, layer=1))
    steps = scale((LIGHT.paper, *LIGHT.window[1:]))
    for mark, fill in found.values():
        assert fill == colour_at(steps, float(mark[5]) / 0.01)


def test_colour_is_mass():
    trace = looking(sources="full")
    figure = attention_text(trace, 50, layer=1)
    found = tokens(figure)
    top = max(float(mark[5]) for mark, _ in found.values())
    steps = scale((LIGHT.paper, *LIGHT.window[1:]))
    for mark, fill in found.values():
        assert fill == colour_at(steps, float(mark[5]) / top)
    strips = next(bar for bar in figure.data if bar.name == "blocks")
    assert len(strips.customdata) == sum(mark[6] > 0 for mark, _ in found.values())
    (box,) = figure.layout.shapes
    own = next(bar for bar in figure.data if bar.name == "the token itself")
    assert (box.x0, box.x1) == (own.base[0], own.base[0] + own.x[0])
    assert own.customdata[0, 0] == 50


def test_convention_is_named():
    words = attention_text(looking(), 40, layer=1).layout.annotations[0].text
    assert "uniform: a block's mass is split evenly over the tokens it covers" in words
    assert "convention" not in attention_text(looking(), 40, layer=0).layout.annotations[0].text
    with pytest.raises(InputError, match="convention is one of"):
        attention_text(looking(), 40, convention="best")
    with pytest.raises(InputError, match="pooling=True"):
        attention_text(looking(), 40, convention="pooled")


def test_pooled():
    record = Record(attention="full", pooling=True)
    trace = zoo.random_model("small").read(zoo.TEXT, record=record)
    row = len(trace) - 1
    folded = trace.attention_to_tokens([row], layers=3, convention="pooled")
    found = tokens(attention_text(trace, row, layer=3, convention="pooled"))
    for mark, _ in found.values():
        place = {"token": 0, "layer": 0, "position": int(mark[3])}
        assert mark[6] == pytest.approx(float(folded["compressed"].isel(place)), abs=1e-6)


def test_layer_is_the_last_one_with_blocks_by_default():
    assert "layer 3 (CSA)" in attention_text(looking(), 9).layout.title.subtitle.text
    plain = looking(kinds=("full", "full"), sources="full")
    assert "layer 1 (full)" in attention_text(plain, 9).layout.title.subtitle.text


def test_one_head():
    trace = looking(40, heads=3)
    figure = attention_text(trace, 30, layer=2, head=1)
    sink, _, sources = loops(trace, 2, 1)[30]
    assert shares(figure)["sink"] == pytest.approx(sink, abs=1e-6)
    single = {start: mass for start, _, kind, mass in sources if kind == 0}
    for mark, _ in tokens(figure).values():
        assert mark[5] == pytest.approx(single.get(int(mark[3]), 0), abs=1e-6)
    assert "head 1 of 3" in figure.layout.title.subtitle.text
    with pytest.raises(InputError, match="there is no head 3"):
        attention_text(trace, 30, head=3)
    with pytest.raises(InputError, match=r'heads="each"'):
        attention_text(looking(), 30, head=0)


def test_a_page_holds_two_thousand_tokens():
    trace = long(2_000)
    figure = attention_text(trace, 1_990, layer=1)
    assert sorted(tokens(figure)) == list(range(2_000))
    assert "all 2,000 tokens" in figure.layout.title.subtitle.text
    assert len(figure.to_json()) < 1_000_000


@pytest.mark.parametrize("token", [30, 9_999, 19_999])
def test_long_texts_show_where_the_mass_lies(token):
    trace = long()
    figure = attention_text(trace, token, layer=2)
    found = tokens(figure)
    assert token in found
    assert len(found) <= 2_000
    gaps = [bar for bar in figure.data if bar.name == "left out"]
    said = sum(float(mark[3]) for bar in gaps for mark in bar.customdata)
    shown = sum(float(mark[5] + mark[6]) for mark, _ in found.values())
    parts = shares(figure)
    assert shown + said == pytest.approx(parts["window"] + parts["blocks"], abs=1e-5)
    assert f"{len(found):,} of 20,000 tokens" in figure.layout.title.subtitle.text
    lost = sum(int(re.search(r"([\d,]+) (later )?tokens", text)[1].replace(",", ""))
               for bar in gaps for text in bar.text)  # fmt: skip
    assert lost + len(found) == 20_000
    assert len(figure.to_json()) < 1_000_000


def test_mass_that_does_not_fit_on_the_page_is_counted():
    masses = np.full(20_000, 1 / 20_000)
    parts = parts_of(["x "] * 20_000, masses, 19_999)
    assert len(parts.shown) == 2_000
    left = sum(masses[gap.first : gap.stop].sum() for gap in parts.gaps)
    assert left == pytest.approx(0.9)
    lines = [place.line for place in parts.places]
    assert not {gap.line for gap in parts.gaps} & set(lines)
    assert lines == sorted(lines)


def test_the_token_itself_is_shown_even_if_nothing_lies_near():
    masses = np.zeros(20_000)
    masses[7] = 1
    shown = parts_of(["x "] * 20_000, masses, 12_345).shown
    assert shown.tolist() == [*range(50), *range(12_250, 12_350)]


def test_pages_as_they_stand():
    trace = long()
    figure = attention_text(trace, 19_000, layer=2, page=2)
    assert sorted(tokens(figure)) == list(range(4_000, 6_000))
    assert re.search(
        r"2,000 of 20,000 tokens, \d+\.\d% of the attention that was kept lies on the others",
        figure.layout.title.subtitle.text,
    )
    for page in (10, -1, "0"):
        with pytest.raises(InputError, match="there is no page"):
            attention_text(trace, 19_000, page=page)


def test_tokens_that_the_trace_does_not_hold():
    trace = looking(60, sources="full")[40:]
    figure = attention_text(trace, 5, layer=1)
    parts = shares(figure)
    assert sum(parts.values()) == pytest.approx(1, abs=1e-5)
    shown = sum(float(mark[5] + mark[6]) for mark, _ in tokens(figure).values())
    absent = parts["window"] + parts["blocks"] - shown
    assert absent > 0.01
    assert f"{absent:.1%} on tokens that the trace does not hold" in (
        figure.layout.title.subtitle.text
    )


def test_token_that_was_never_fed():
    assert "never fed" in attention_text(looking(), -1).layout.annotations[0].text


@pytest.mark.parametrize("token", [60, -61, "3", 1.5, True])
def test_no_such_token(token):
    with pytest.raises(InputError, match="there is no token"):
        attention_text(looking(), token)


@pytest.mark.parametrize("layer", [4, -1, "1", 0.0])
def test_no_such_layer(layer):
    with pytest.raises(InputError, match="there is no layer"):
        attention_text(looking(), 3, layer=layer)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_attention_are_readable_and_ordered(theme):
    for steps in (theme.window, theme.blocks, theme.nowhere):
        levels = [luminance(step) for step in steps]
        assert levels == sorted(levels, reverse=theme is LIGHT)
        assert contrast(steps[0], steps[-1]) > 8
        for fill in steps:
            assert contrast(ink_on(fill), fill) >= 4.5

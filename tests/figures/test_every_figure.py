"""What holds for all figures: pure, escaped, clickable, in two themes, and never an exception."""

import json
import re

import numpy as np
import pytest

from tests.figures.traces import NASTY, flash, imported, routed
from v4kit import figures
from v4kit.errors import InputError
from v4kit.figures.theme import DARK, LIGHT

MAKERS = {
    "map": figures.routing_map,
    "barcode": lambda trace, **options: figures.token_barcode(trace, 3, **options),
    "timeline": lambda trace, **options: figures.layer_timeline(trace, 2, **options),
    "load": lambda trace, **options: figures.expert_load(trace, layer=2, **options),
    "load of all": figures.expert_load,
    "text": figures.routing_text,
    "text by expert": lambda trace, **options: figures.routing_text(trace, expert=1, **options),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def state(trace):
    arrays = {name: variable.values.tobytes() for name, variable in trace.routing.items()}
    return trace.tokens.to_json(), arrays, json.dumps(trace.meta)


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (() if key == "bdata" else strings(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)


@every
def test_is_pure(make):
    trace = routed()
    before = state(trace)
    first, second = make(trace).to_dict(), make(trace).to_dict()
    assert json.dumps(first, default=str) == json.dumps(second, default=str)
    assert state(trace) == before


@every
@pytest.mark.parametrize("trace", [routed(), flash(40), imported(), imported(weights=True)])
def test_marks_can_be_traced_back(make, trace):
    used = trace.routing["experts"].values
    marks = 0
    for drawn in make(trace).data:
        if drawn.customdata is None:
            continue
        columns = np.reshape(drawn.customdata, (-1, drawn.customdata.shape[-1]))
        if drawn.type == "heatmap":
            columns = columns[np.isfinite(drawn.z).ravel()]
        for token, layer, expert, *_ in columns:
            assert -1 <= token < len(trace)
            assert 0 <= layer < used.shape[1]
            assert -1 <= expert < trace.meta["architecture"]["n_experts"]
            if token >= 0 and expert >= 0:
                assert expert in used[int(token), int(layer)]
            marks += 1
    assert marks


@every
def test_token_text_is_escaped(make):
    trace = routed(40, texts=NASTY, meta={"model": "<script>alert(1)</script>"})
    found = list(strings(json.loads(make(trace).to_json())))
    text = "\n".join(found)
    assert "<script" not in text
    assert "<img" not in text
    assert "<a " not in text
    assert "<b>bold" not in text
    assert not any("\u202e" in one or "\x00" in one or "\x1b" in one for one in found)
    assert not any("$x^2$" in one for one in found)


@every
def test_themes_differ(make):
    trace = routed()
    light, dark = make(trace), make(trace, theme="dark")
    assert light.layout.template.layout.paper_bgcolor == LIGHT.paper
    assert dark.layout.template.layout.paper_bgcolor == DARK.paper
    assert "sendDataToCloud" in light.layout.template.layout.modebar.remove
    with pytest.raises(InputError, match=r'"light" or "dark".*sepia'):
        make(trace, theme="sepia")


@every
@pytest.mark.parametrize(
    "trace",
    [routed(5)[:0], routed(5)[4:], routed(60)[[59] * 5]],
    ids=["no tokens", "one token, never fed", "no valid token"],
)
def test_nothing_to_draw_is_said(make, trace):
    if make is MAKERS["barcode"] and len(trace) == 1:
        make = figures.token_barcode
        figure = make(trace, 0)
    else:
        figure = make(trace)
    title = figure.layout.title
    said = [title.text, title.subtitle.text or "", *(n.text for n in figure.layout.annotations)]
    assert re.search(r"No token|None of|none of|never fed|no tokens", " ".join(said))


@every
def test_one_token(make):
    trace = routed(60)[3:4]
    if make is MAKERS["barcode"]:
        assert figures.token_barcode(trace, 0).data
    else:
        assert make(trace).data


@every
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 2, 2), (3, 32, 32)])
def test_odd_shapes(make, shape):
    layers, experts, top_k = shape
    trace = routed(12, layers=max(layers, 3), experts=experts, top_k=top_k, hashed=0)
    if make is not MAKERS["text by expert"] or experts > 1:
        assert make(trace).data


def test_several_models_after_concat():
    trace = routed(meta={"model": ["one", "two"], "ranked": [True, False]})
    assert "one, two" in figures.routing_map(trace).layout.title.subtitle.text
    assert "rank %" not in figures.layer_timeline(trace, 2).data[0].hovertemplate

"""The map: numbers against plain loops, hash layers apart, dense and shared experts shown."""

import numpy as np
import pytest

from tests.figures.traces import flash, imported, loops, routed
from v4kit.errors import InputError
from v4kit.figures import routing_map


def read(figure):
    """(layer, expert) → (value drawn, times used, tokens) of all heatmaps of routed experts."""
    cells = {}
    for drawn in figure.data:
        if drawn.name in {"topk", "hash"}:
            for values, marks in zip(drawn.z, drawn.customdata, strict=True):
                for value, (_, layer, expert, count, tokens) in zip(values, marks, strict=True):
                    if not np.isnan(value):
                        cells[int(layer), int(expert)] = (float(value), int(count), int(tokens))
    return cells


@pytest.mark.parametrize("trace", [routed(), routed(dense=1), flash(), imported()])
@pytest.mark.parametrize("span", [None, (5, 20)])
def test_numbers_agree_with_loops(trace, span):
    count, _, tokens = loops(trace, *(span or ()))
    cells = read(routing_map(trace, span=span))
    experts = trace.meta["architecture"]["n_experts"]
    assert len(cells) == len(trace.layers) * experts
    for (layer, expert), (value, times, n) in cells.items():
        assert value == times == count[layer, expert]
        assert n == tokens[layer]


def test_share_and_weight():
    trace = routed()
    count, weight, tokens = loops(trace)
    for (layer, expert), (value, _, _) in read(routing_map(trace, value="share")).items():
        assert value == pytest.approx(count[layer, expert] / tokens[layer])
    for (layer, expert), (value, _, _) in read(routing_map(trace, value="weight")).items():
        assert value == pytest.approx(weight[layer, expert] / tokens[layer], abs=1e-6)


@pytest.mark.parametrize("trace", [routed(), flash(), routed(dense=2)])
def test_hash_layers_stand_apart(trace):
    figure = routing_map(trace)
    by_name = {drawn.name: drawn for drawn in figure.data}
    kinds = trace.routing["kind"].values
    place = dict(
        zip(map(int, figure.layout.yaxis.ticktext), figure.layout.yaxis.tickvals, strict=True)
    )
    hashed = [place[i] for i in np.flatnonzero(kinds == "hash")]
    others = [place[i] for i in np.flatnonzero(kinds != "hash")]
    assert max(hashed) + 1 < min(others)
    assert by_name["hash"].coloraxis != by_name["topk"].coloraxis
    assert by_name["hash"].y.max() < by_name["topk"].y.min()
    assert figure.layout.coloraxis.colorscale != figure.layout.coloraxis2.colorscale
    assert any("hash" in note.text for note in figure.layout.annotations)
    assert len(set(place.values())) == len(kinds)


def test_chance_is_stated_and_marked():
    figure = routing_map(routed())
    assert "chance 9.38%" in figure.layout.title.subtitle.text.replace("\u202f", "")
    assert any("chance" in tick for tick in figure.layout.coloraxis.colorbar.ticktext)
    assert "an even split gives" in figure.data[0].hovertemplate


def test_shared_experts_are_a_rail():
    rail = {drawn.name: drawn for drawn in routing_map(routed(shared=2, dense=1)).data}[
        "shared expert"
    ]
    assert rail.xaxis == "x2"
    assert rail.z.shape[1] == 2
    assert np.isfinite(rail.z).sum() == 2 * 5
    assert "shared expert" not in {d.name for d in routing_map(routed(shared=0)).data}


def test_dense_layers_are_shown_as_such():
    figure = routing_map(routed(dense=2))
    dense = {drawn.name: drawn for drawn in figure.data}["dense"]
    assert sorted(dense.customdata[np.isfinite(dense.z[:, 0]), 0, 1]) == [0, 1]
    assert "no experts" in dense.hovertemplate


def test_rows_are_tall_enough_to_read():
    for trace in (routed(), flash()):
        figure = routing_map(trace)
        margins = figure.layout.margin
        rows = figure.layout.yaxis.range[0] + 0.5
        assert (figure.layout.height - margins.t - margins.b) / rows >= 13


@pytest.mark.parametrize("span", [(5, 5), (50, 20), (900, 950)])
def test_empty_span_is_said(span):
    assert "No token" in routing_map(routed(), span=span).layout.annotations[0].text


def test_span_forms_agree():
    trace = routed()
    pair, part = routing_map(trace, span=(5, 20)), routing_map(trace, span=slice(5, 20))
    assert read(pair) == read(part)
    assert read(routing_map(trace, span=(-10, None))) == read(routing_map(trace, span=(50, 60)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": "load"}, "value is one of"),
        ({"span": 5}, "pair of rows"),
        ({"span": (1, 2, 3)}, "pair of rows"),
        ({"span": (0.5, 2)}, "pair of rows"),
        ({"span": slice(0, 9, 2)}, "pair of rows"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        routing_map(routed(), **options)


def test_weights_that_were_not_recorded():
    with pytest.raises(InputError, match="recorded without them"):
        routing_map(imported(), value="weight")


def test_figure_of_flash_stays_small():
    assert len(routing_map(flash()).to_json()) < 500_000

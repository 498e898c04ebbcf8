"""One layer over time: every use a mark, or, of long traces, every use counted."""

import numpy as np
import pytest

from tests.figures.traces import flash, imported, routed
from v4kit.errors import InputError
from v4kit.figures import layer_timeline


def test_every_use_is_a_mark():
    trace = routed(dense=1)
    (drawn,) = layer_timeline(trace, 4).data
    ids = trace.routing["experts"].values[:, 4]
    expected = {(row, int(e)) for row in range(len(ids)) for e in ids[row] if e >= 0}
    assert set(zip(drawn.x.tolist(), drawn.y.tolist(), strict=True)) == expected
    assert len(drawn.x) == len(expected)
    weights = trace.routing["weights"].values[:, 4]
    for token, _, expert, rank, weight, position, document in drawn.customdata:
        slot = int(rank) - 1
        assert ids[int(token), slot] == expert
        assert weights[int(token), slot] == pytest.approx(weight)
        assert position == trace.tokens["position"][int(token)]
        assert document == trace.tokens["document"][int(token)]


def test_span_keeps_row_numbers():
    (drawn,) = layer_timeline(routed(), 3, span=(10, 20)).data
    assert set(drawn.x.tolist()) == set(range(10, 20))


def test_texts_stand_below_few_tokens():
    axis = layer_timeline(routed(), 3, span=(0, 12)).layout.xaxis
    assert list(axis.ticktext[:4]) == ["Once", "\u00a0upon", "\u00a0a", "\u00a0time"]
    assert axis.ticktext[4] == "⏎"
    assert layer_timeline(routed(), 3).layout.xaxis.ticktext is None


@pytest.mark.parametrize(("layer", "ranked"), [(0, False), (1, True)])
def test_hash_layer_has_no_rank(layer, ranked):
    figure = layer_timeline(routed(), layer)
    assert ("rank %{" in figure.data[0].hovertemplate) is ranked
    assert ("hash" in figure.layout.title.subtitle.text) is not ranked


def test_long_traces_are_aggregated_and_say_so():
    trace = routed(9_000, layers=3, experts=16, top_k=2)
    figure = layer_timeline(trace, 2)
    (drawn,) = figure.data
    assert drawn.z.shape == (16, 250)
    assert "36 to a column (aggregated: 9,000 tokens)" in figure.layout.xaxis.title.text
    ids = trace.routing["experts"].values[:, 2]
    for column in (0, 7, 249):
        part = ids[column * 36 : (column + 1) * 36]
        for expert in range(16):
            count = int((part == expert).sum())
            token, layer, mark, times, tokens = drawn.customdata[expert, column]
            assert (token, layer, mark, times) == (column * 36, 2, expert, count)
            assert drawn.z[expert, column] == pytest.approx(count / tokens)
    assert drawn.customdata[..., 3].sum() == (ids >= 0).sum()


def test_four_thousand_tokens_are_not():
    figure = layer_timeline(routed(4_000, layers=2, experts=8, top_k=1, hashed=0), 1)
    assert figure.data[0].type == "scatter"
    assert len(figure.data[0].x) == 3_999


def test_without_weights():
    figure = layer_timeline(imported(), 1)
    assert "weight" not in figure.data[0].hovertemplate
    assert "unranked" in figure.data[0].hovertemplate
    assert np.isnan(figure.data[0].customdata[:, 4]).all()


@pytest.mark.parametrize(
    ("layer", "message"), [(6, "no layer 6"), (-1, "no layer -1"), ("a", "no layer"), (0, "dense")]
)
def test_bad_layers(layer, message):
    with pytest.raises(InputError, match=message):
        layer_timeline(routed(dense=1), layer)


def test_long_figures_of_flash_stay_small():
    assert len(layer_timeline(flash(1_000), 30).to_json()) < 1_000_000

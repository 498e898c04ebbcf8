"""The barcode: every expert of the token once, weights end to end, ranks where there are any."""

import numpy as np
import pytest

from tests.figures.traces import flash, imported, routed
from v4kit.errors import InputError
from v4kit.figures import token_barcode


def marks(figure, names=("topk", "hash")):
    found = {}
    for drawn in figure.data:
        if drawn.name in names:
            for x, (_, layer, expert, rank, weight, _) in zip(
                drawn.x, drawn.customdata, strict=True
            ):
                assert x == expert
                found[int(layer), int(expert)] = (int(rank), float(weight))
    return found


@pytest.mark.parametrize("trace", [routed(), routed(dense=1), flash()])
@pytest.mark.parametrize("token", [0, 7, -2])
def test_shows_what_was_recorded(trace, token):
    found = marks(token_barcode(trace, token))
    ids, weights = trace.routing["experts"].values[token], trace.routing["weights"].values[token]
    kinds = trace.routing["kind"].values
    expected = {
        (layer, int(ids[layer, slot])): (
            slot + 1 if kinds[layer] == "topk" else 0,
            weights[layer, slot],
        )
        for layer in range(len(ids))
        for slot in range(ids.shape[1])
        if ids[layer, slot] >= 0
    }
    assert {key: rank for key, (rank, _) in found.items()} == {
        k: r for k, (r, _) in expected.items()
    }
    for key, (_, weight) in found.items():
        assert weight == pytest.approx(expected[key][1])


def test_weights_stand_end_to_end():
    trace = routed(dense=1)
    stacks = [drawn for drawn in token_barcode(trace, 4).data if drawn.type == "bar"]
    assert len(stacks) == 3
    ends = np.nansum([stack.x for stack in stacks], axis=0)
    np.testing.assert_allclose(ends, 1.5, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(stacks[1].base, float), stacks[0].x, rtol=1e-5)


def test_hash_layers_have_no_rank():
    figure = token_barcode(routed(), 4)
    by_name = {drawn.name: drawn for drawn in figure.data}
    assert "unranked" in by_name["hash"].hovertemplate
    assert "rank %{customdata[3]}" in by_name["topk"].hovertemplate
    assert set(by_name["hash"].text) == {""}
    assert set(by_name["topk"].text) == {"1", "2", "3"}


def test_trace_without_ranks_or_weights():
    figure = token_barcode(imported(), 4)
    assert all(rank == 0 for rank, _ in marks(figure).values())
    assert not [drawn for drawn in figure.data if drawn.type == "bar"]
    assert "weight" not in figure.data[0].hovertemplate
    assert "by rank" not in str(token_barcode(imported(weights=True), 4).layout.xaxis3.title.text)


def test_token_that_was_never_fed():
    assert "never fed" in token_barcode(routed(), -1).layout.annotations[0].text


@pytest.mark.parametrize("token", [60, -61, "3", 1.5, True])
def test_no_such_token(token):
    with pytest.raises(InputError, match="there is no token"):
        token_barcode(routed(), token)

"""Chosen blocks: exact counts, exact choices where all masses were kept, and plain words else."""

import time

import numpy as np
import pytest

from tests import zoo
from tests.figures.attention_traces import CHOSEN, long, looking, loops
from v4kit import Record
from v4kit.errors import InputError
from v4kit.figures import chosen_blocks
from v4kit.figures.theme import LIGHT, colour_at


def parts(figure):
    return {drawn.name: drawn for drawn in figure.data}


@pytest.mark.parametrize(
    "trace",
    [
        looking(),
        looking(sources="full"),
        looking(40, heads=3),
        looking(40, heads=2, sources="full"),
    ],
    ids=["strongest", "full", "each", "each, full"],
)
@pytest.mark.parametrize("layer", [1, 3])
def test_numbers_agree_with_loops(trace, layer):
    drawn = parts(chosen_blocks(trace, layer))
    data, grid = trace.attention.isel(layer=layer), drawn["mass"]
    for row, (_, _, sources) in loops(trace, layer).items():
        visible = (row + 1) // 4
        assert drawn["visible blocks"].y[row] == visible
        assert drawn["chosen blocks"].y[row] == min(visible, CHOSEN)
        share = data["compressed"].isel(token=row).values.mean()
        assert drawn["attention on blocks"].y[row] == pytest.approx(share, abs=1e-6)
        if visible:
            ratio = min(visible, CHOSEN) / visible
            assert drawn["chosen ÷ visible"].y[row] == pytest.approx(ratio)
        masses = {stop // 4 - 1: mass for _, stop, kind, mass in sources if kind == 1 and mass}
        for block in range(grid.z.shape[0]):
            value = float(grid.z[block, row])
            assert np.isnan(value) == (block >= visible)
            if block < visible:
                assert value == pytest.approx(masses.get(block, 0), abs=1e-6)
                mark = grid.customdata[block, row]
                assert mark.tolist() == [row, layer, -1, row, block, block, block in masses, 1]


def test_chosen_blocks_have_mass_where_all_were_kept():
    trace = looking(sources="full")
    figure = chosen_blocks(trace, 1)
    drawn = parts(figure)
    coloured = (np.nan_to_num(drawn["mass"].z) > 0).sum(axis=0)
    np.testing.assert_array_equal(coloured, drawn["chosen blocks"].y)
    assert "coloured blocks were chosen" in figure.layout.annotations[0].text
    steps = figure.layout.coloraxis.colorscale
    assert steps[0][1] == LIGHT.grid
    assert colour_at([(p, c) for p, c in steps], 1e-6) != LIGHT.grid


def test_only_kept_sources_are_known():
    figure = chosen_blocks(looking(), 1)
    assert "may have been chosen too" in figure.layout.annotations[0].text
    assert "the 6 strongest sources kept" in figure.layout.title.subtitle.text


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_of_a_real_model(name):
    trace = zoo.model(name).read(zoo.TEXT * 2, record=Record(attention="full"))
    drawn = parts(chosen_blocks(trace, 4))
    coloured = (np.nan_to_num(drawn["mass"].z) > 0).sum(axis=0)
    np.testing.assert_array_equal(coloured, drawn["chosen blocks"].y)
    assert (drawn["chosen blocks"].y < drawn["visible blocks"].y).any()


def test_tokens_and_blocks_that_share_a_cell():
    trace = long()
    started = time.perf_counter()
    figure = chosen_blocks(trace, 1)
    assert time.perf_counter() - started < 10
    assert len(figure.to_json()) < 5_000_000
    drawn = parts(figure)
    grid = drawn["mass"]
    assert grid.z.shape == (250, 254)
    assert "79 to a column" in figure.layout.xaxis.title.text
    assert "(20 to a row)" in figure.layout.yaxis.title.text
    data = trace.stored_attention.values.isel(layer=1)
    for column in (0, 100, 253):
        some = data.isel(token=slice(79 * column, 79 * column + 79))
        codes, masses = some["code"].values, some["mass"].values
        for row in (0, 12, 60):
            inside = (codes < -1) & ((-2 - codes) // 20 == row)
            if np.isfinite(grid.z[row, column]):
                wanted = masses[inside].sum() / len(codes)
                assert grid.z[row, column] == pytest.approx(wanted, abs=1e-6)
                assert grid.customdata[row, column, 6] == (inside & (masses > 0)).sum()
        seen = some["visible_blocks"].values
        assert drawn["visible blocks"].y[column] == pytest.approx(seen.mean(), rel=1e-6)
        assert grid.customdata[0, column, 7] == np.minimum(seen, 20).sum()


def test_one_document_of_a_span():
    trace = looking(90, documents=3)
    figure = chosen_blocks(trace, 1, span=(40, 90))
    line = parts(figure)["visible blocks"]
    assert line.customdata[0].tolist()[:5] == [40, 1, -1, 10, 2]
    assert "1 other document left out" in figure.layout.title.subtitle.text
    last = parts(chosen_blocks(trace, 1, document=2))["visible blocks"]
    assert last.customdata[:, 0].tolist() == list(range(60, 89))


@pytest.mark.parametrize("layer", [0, 2])
def test_layers_without_an_indexer(layer):
    with pytest.raises(InputError, match=r"no indexer.*Layers with one \(csa\): 1, 3\."):
        chosen_blocks(looking(), layer)


def test_models_without_an_indexer():
    with pytest.raises(InputError, match="none in this model"):
        chosen_blocks(looking(kinds=("full",)), 0)
    with pytest.raises(InputError, match="no layer 9"):
        chosen_blocks(looking(), 9)


def test_no_block_is_visible_yet():
    said = chosen_blocks(looking(), 1, span=(0, 3)).layout.annotations[0].text
    assert "None of these tokens sees a block" in said

"""Which tokens a column stands for: the arithmetic against plain loops over tokens."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention_reference import block, columns_of, sources
from v4kit.attention import Columns, View, columns, decode
from v4kit.attention.spans import block_code, codes_at, visible_columns

many = settings(max_examples=150, deadline=None, database=None, derandomize=True)


@st.composite
def views(draw) -> View:
    """Windows and blocks of every kind, those that no model has included."""
    window = draw(st.none() | st.integers(1, 24))
    rate = draw(st.integers(1, 9))
    span = draw(st.sampled_from([0, rate, 2 * rate]))
    return View(window, rate if span else 0, span)


@st.composite
def passes(draw) -> list[tuple[int, int]]:
    """Start and stop of the passes that read a document in chunks of any size."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    stops = np.cumsum(sizes).tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))


def shown(layout: Columns, row: int) -> list[tuple[int, int, int]]:
    """The intervals that a query of a pass sees, in the columns' order."""
    triples = zip(*(getattr(layout, n).tolist() for n in ("start", "stop", "kind")), strict=True)
    return [one for one, seen in zip(triples, layout.visible()[row], strict=True) if seen]


class TestBlocks:
    @many
    @given(views().filter(lambda view: view.rate), st.integers(1, 120))
    def test_they_cover_what_is_closed(self, view, length) -> None:
        """Every closed token once in a block of its own, and once in the next if they overlap."""
        layout = columns(View(1, view.rate, view.span), before=0, length=length)
        blocks = np.stack([layout.start, layout.stop])[:, layout.kind == 1].T.tolist()
        closed = length - length % view.rate
        assert len(blocks) == layout.n_blocks == closed // view.rate
        for token in range(length):
            within = [n for n, (start, stop) in enumerate(blocks) if start <= token < stop]
            own = token // view.rate
            expected = [own] if view.span == view.rate else [own, own + 1]
            assert within == [n for n in expected if n < len(blocks)], token
        for number, (start, stop) in enumerate(blocks):
            assert stop == view.rate * (number + 1)
            assert stop - start == (view.rate if number == 0 else view.span)

    def test_deepseek_v4(self) -> None:
        """The intervals that the fact sheet names, which were measured on the real modules."""
        csa = columns(View(128, 4, 8), before=0, length=20)
        hca = columns(View(128, 128, 128), before=0, length=300)
        assert list(zip(csa.start[20:], csa.stop[20:], strict=True)) == [
            (0, 4), (0, 8), (4, 12), (8, 16), (12, 20),
        ]  # fmt: skip
        assert list(zip(hca.start[300:], hca.stop[300:], strict=True)) == [(0, 128), (128, 256)]

    @pytest.mark.parametrize(
        ("fed", "widths"), [(1, (1, 1, 1)), (4, (4, 5, 4)), (8, (8, 10, 8)), (16, (8, 12, 9)),
                            (50, (8, 20, 11))]
    )  # fmt: skip
    def test_widths_that_were_seen(self, fed, widths) -> None:
        """Of real weights, step by step, with a window of 8 and rates of 4 and 16."""
        for view, width in zip((View(8), View(8, 4, 8), View(8, 16, 16)), widths, strict=True):
            assert len(columns(view, before=fed - 1, length=1)) == width

    @pytest.mark.parametrize(
        ("before", "widths"), [(0, (13, 16, 13)), (13, (20, 26, 21)), (26, (20, 29, 22))]
    )
    def test_widths_of_chunks_that_were_seen(self, before, widths) -> None:
        for view, width in zip((View(8), View(8, 4, 8), View(8, 16, 16)), widths, strict=True):
            assert len(columns(view, before=before, length=13)) == width


class TestColumns:
    @many
    @given(views(), st.integers(0, 70), st.integers(1, 40), st.data())
    def test_against_loops(self, view, before, length, data) -> None:
        """What stands where, for every width that a cache may give."""
        least = len(columns(view, before=before, length=length))
        kept = before if view.window is None else min(before, view.window - 1)
        width = data.draw(st.none() | st.integers(least, least + before - kept))
        layout = columns(view, before=before, length=length, width=width)
        assert len(layout) == (width or least) == layout.n_window + layout.n_blocks
        expected = columns_of(len(layout), before + length, (view.window, view.rate, view.span))
        triples = (getattr(layout, name).tolist() for name in ("start", "stop", "kind"))
        assert list(zip(*triples, strict=True)) == expected
        assert layout.first == expected[0][0]
        assert layout.queries.tolist() == list(range(before, before + length))
        for row in range(length):
            seen = sources(before + row, view.window, view.rate, view.span)
            assert shown(layout, row) == seen

    @settings(many, max_examples=40)
    @given(views(), passes())
    def test_chunks_do_not_matter(self, view, passes) -> None:
        """A query sees the same, whole, in chunks and step by step, whatever came before it."""
        length = passes[-1][1]
        whole = columns(view, before=0, length=length)
        for start, stop in passes:
            layout = columns(view, before=start, length=stop - start)
            for position in range(start, stop):
                expected = shown(whole, position)
                assert shown(layout, position - start) == expected
                assert shown(columns(view, before=position, length=1), 0) == expected

    @many
    @given(views(), st.integers(0, 70), st.integers(1, 30))
    def test_causality(self, view, before, length) -> None:
        """Nothing ends after the query; each token of the window is seen once, as itself."""
        layout = columns(view, before=before, length=length)
        for row in range(length):
            position = before + row
            seen = shown(layout, row)
            assert all(0 <= start < stop <= position + 1 for start, stop, _ in seen)
            single = [start for start, stop, kind in seen if kind == 0]
            oldest = 0 if view.window is None else max(0, position - view.window + 1)
            assert single == list(range(oldest, position + 1))
            assert all(stop == start + 1 for start, stop, kind in seen if kind == 0)

    @many
    @given(views(), st.integers(0, 70), st.integers(1, 40), st.integers(1, 50))
    def test_impossible_widths(self, view, before, length, much) -> None:
        least = len(columns(view, before=before, length=length))
        kept = before if view.window is None else min(before, view.window - 1)
        for width in (least - much, least + before - kept + much):
            with pytest.raises(ValueError, match=f"{width} columns do not fit {length} tokens"):
                columns(view, before=before, length=length, width=width)


class TestCodes:
    @many
    @given(views(), st.integers(0, 70), st.integers(1, 40))
    def test_decode_is_the_inverse(self, view, before, length) -> None:
        layout = columns(view, before=before, length=length)
        assert len(set(layout.codes.tolist())) == len(layout)
        assert -1 not in layout.codes
        start, stop, kind = decode(layout.codes, view.rate, view.span)
        for column, code in enumerate(layout.codes.tolist()):
            triple = (int(start[column]), int(stop[column]), int(kind[column]))
            if column < layout.n_window:
                assert code == layout.first + column
                assert triple == (code, code + 1, 0)
            else:
                number = column - layout.n_window
                assert code == block_code(number) == -2 - number
                assert triple == block(number, view.rate, view.span)
            assert decode(code, view.rate, view.span) == triple

    @many
    @given(views(), st.lists(st.integers(-40, 200), min_size=1, max_size=20))
    def test_none_stays_none(self, view, codes) -> None:
        """Also in the middle of others, and for layers without blocks."""
        some = np.array([code if view.rate or code >= -1 else -1 for code in codes], np.int32)
        start, stop, kind = decode(some, view.rate, view.span)
        nothing = some == -1
        for array in (start, stop, kind):
            assert (array[nothing] == -1).all()
            assert (array[~nothing] >= 0).all()

    def test_layers_side_by_side(self) -> None:
        """Rate and span of each layer along an axis of xarray, lazily."""
        code = xr.DataArray(np.array([[5, -2, -4, -1]] * 2), dims=("layer", "source")).chunk()
        rate, span = (xr.DataArray(np.array(x), dims="layer") for x in ([4, 16], [8, 16]))
        start, stop, kind = decode(code, rate, span)
        assert start.chunks is not None
        assert start.transpose("layer", "source").to_numpy().tolist() == [
            [5, 0, 4, -1], [5, 0, 32, -1],
        ]  # fmt: skip
        assert stop.transpose("layer", "source").to_numpy().tolist() == [
            [6, 4, 12, -1], [6, 16, 48, -1],
        ]  # fmt: skip
        assert kind.transpose("layer", "source").to_numpy().tolist() == [[0, 1, 1, -1]] * 2

    @many
    @given(views(), st.lists(st.integers(-1, 150), min_size=1, max_size=20))
    def test_what_one_query_sees(self, view, positions) -> None:
        """`codes_at` and `visible_columns` say what `Columns.visible` does."""
        counts = visible_columns(view, np.array(positions))
        for position, count in zip(positions, counts.tolist(), strict=True):
            if position < 0:
                assert count == 0
                continue
            codes = codes_at(view, position)
            layout = columns(view, before=position, length=1)
            assert codes.tolist() == layout.codes[layout.visible()[0]].tolist()
            assert count == len(codes) == layout.visible().sum()
            seen = sources(position, view.window, view.rate, view.span)
            triples = zip(*(x.tolist() for x in decode(codes, view.rate, view.span)), strict=True)
            assert list(triples) == seen

    @many
    @given(views(), st.lists(st.integers(0, 150), min_size=1, max_size=8))
    def test_counts_of_any_type(self, view, positions) -> None:
        """Numbers, arrays and xarray's arrays are counted alike."""
        array = np.array(positions)
        for name in ("visible_tokens", "visible_blocks"):
            count = getattr(view, name)
            one_by_one = [count(position) for position in positions]
            assert count(array).tolist() == one_by_one
            assert count(xr.DataArray(array)).to_numpy().tolist() == one_by_one
            assert [int(count(position)) for position in array] == one_by_one
        expected = [sources(p, view.window, view.rate, view.span) for p in positions]
        assert view.visible_blocks(array).tolist() == [
            sum(kind for _, _, kind in seen) for seen in expected
        ]

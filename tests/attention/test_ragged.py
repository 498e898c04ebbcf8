"""All masses of a layer without gaps: rows taken in any order, joined, and as tables."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.test_spans import views
from tests.attention_reference import sources
from v4kit.attention import Ragged, View, decode
from v4kit.attention.ragged import joined

many = settings(max_examples=80, deadline=None, database=None, derandomize=True)
positions = st.lists(st.integers(-1, 60), min_size=0, max_size=12)


def made(view: View, positions: list[int], heads: int, first: float = 0.0):
    """Masses `[row][head][source]` as nested lists, and the `Ragged` of them."""
    rows, value = [], first
    for position in positions:
        count = 0
        if position >= 0:
            count = len(sources(position, view.window, view.rate, view.span))
        row = []
        for _ in range(heads):
            row.append([value + i for i in range(count)])
            value += count
        rows.append(row)
    flat = np.array([x for row in rows for head in row for x in head], np.float32)
    return rows, Ragged.of(flat, view, np.array(positions, int), heads)


def compare(ragged: Ragged, rows: list, positions: list[int]) -> None:
    """Assert that a `Ragged` holds these rows."""
    view = ragged.view
    assert ragged.positions.tolist() == positions
    assert ragged.columns.tolist() == [len(row[0]) for row in rows]
    assert ragged.flat().tolist() == [x for row in rows for head in row for x in head]
    width = max((len(row[0]) for row in rows), default=0) + 2
    codes, masses = ragged.table(width)
    assert codes.shape == (len(rows), width)
    assert masses.shape == (len(rows), ragged.heads, width)
    for row, position, code, mass in zip(rows, positions, codes, masses, strict=True):
        if position < 0:
            assert (code == -1).all()
            assert np.isnan(mass).all()
            continue
        count = len(row[0])
        triples = zip(
            *(x.tolist() for x in decode(code[:count], view.rate, view.span)), strict=True
        )
        assert list(triples) == sources(position, view.window, view.rate, view.span)
        assert (code[count:] == -1).all()
        assert mass[:, :count].tolist() == row
        assert (mass[:, count:] == 0).all()


@many
@given(views(), positions, st.integers(1, 3), st.data())
def test_rows_in_any_order(view, positions, heads, data) -> None:
    rows, ragged = made(view, positions, heads)
    compare(ragged, rows, positions)
    at = st.lists(st.integers(0, len(positions) - 1)) if positions else st.just([])
    for chosen in (data.draw(at), list(range(len(positions)))[1::2]):
        taken = ragged.take(np.array(chosen, int))
        compare(taken, [rows[i] for i in chosen], [positions[i] for i in chosen])
    part = ragged.take(slice(1, 4))
    compare(part, rows[1:4], positions[1:4])


@many
@given(views(), st.lists(positions, min_size=1, max_size=3), st.integers(1, 2))
def test_joined(view, several, heads) -> None:
    """Parts that were cut from others join as well as whole ones."""
    parts, rows, places = [], [], []
    for number, some in enumerate(several):
        own, ragged = made(view, some, heads, first=1000.0 * number)
        parts.append(ragged.take(slice(None, None, -1)))
        rows += own[::-1]
        places += some[::-1]
    compare(joined(parts), rows, places)

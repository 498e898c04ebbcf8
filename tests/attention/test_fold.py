"""Masses on a token axis, by both conventions, against plain loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.test_spans import views
from tests.attention_reference import sources
from v4kit.attention import CONVENTIONS, decode
from v4kit.attention.fold import fold
from v4kit.attention.spans import codes_at

many = settings(max_examples=80, deadline=None, database=None, derandomize=True)


@many
@given(views(), st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_uniform_and_pooled(view, positions, seed) -> None:
    rng = np.random.default_rng(seed)
    length = max(positions) + 1
    width = max(len(codes_at(view, position)) for position in positions) + 1
    codes = np.full((len(positions), width), -1, np.int32)
    masses = np.zeros((len(positions), width), np.float32)
    pool = rng.random((length, 2), np.float32)
    expected = {name: np.zeros((2, len(positions), length)) for name in CONVENTIONS}
    for row, position in enumerate(positions):
        seen = codes_at(view, position)
        rng.shuffle(seen)
        codes[row, : len(seen)] = seen
        masses[row, : len(seen)] = rng.random(len(seen))
        masses[row, : len(seen) // 4] = 0
        intervals = zip(*(x.tolist() for x in decode(seen, view.rate, view.span)), strict=True)
        for place, (start, stop, kind) in enumerate(intervals):
            assert (start, stop, kind) in sources(position, view.window, view.rate, view.span)
            mass = float(masses[row, place])
            for token in range(start, stop):
                share = 1 / (stop - start)
                weight = float(pool[token, 0 if token >= stop - view.rate else 1])
                expected["uniform"][kind, row, token] += mass * share
                expected["pooled"][kind, row, token] += mass * (weight if kind else 1)
    for convention, given_pool in (("uniform", None), ("pooled", pool)):
        window, blocks = fold(codes, masses, view, length=length, pool=given_pool)
        np.testing.assert_allclose(window, expected[convention][0], atol=1e-5)
        np.testing.assert_allclose(blocks, expected[convention][1], atol=1e-5)
    # Evenly split, no mass is lost.
    window, blocks = fold(codes, masses, view, length=length)
    np.testing.assert_allclose((window + blocks).sum(-1), masses.sum(-1), rtol=1e-5, atol=1e-6)


def test_rows_without_masses() -> None:
    from v4kit.attention import View

    codes, masses = np.full((2, 3), -1, np.int32), np.full((2, 3), np.nan, np.float32)
    codes[0], masses[0] = [3, -2, -1], [0.5, 0.25, 0]
    window, blocks = fold(codes, masses, View(8, 4, 8), length=5)
    assert window.tolist() == [[0, 0, 0, 0.5, 0], [0] * 5]
    assert blocks.tolist() == [[0.0625, 0.0625, 0.0625, 0.0625, 0], [0] * 5]

"""Rank correlation."""

from __future__ import annotations

import numpy as np


def spearman(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Return the rank correlation of two lists, and over how many pairs.

    Pairs with a NaN do not count; equal values share the mean of their ranks. NaN with fewer than
    three pairs, or where one of the two does not vary.
    """
    known = ~(np.isnan(one) | np.isnan(other))
    n = int(known.sum())
    if n < 3:
        return np.nan, n
    ranks = [_ranks(values[known]) for values in (one, other)]
    spreads = [rank.std() for rank in ranks]
    if not all(spreads):
        return np.nan, n
    mine, theirs = ((rank - rank.mean()) / rank.std() for rank in ranks)
    return float((mine * theirs).mean()), n


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]

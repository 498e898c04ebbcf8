"""How many members sets have in common, two by two, without looking at any pair."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from v4kit.core import NONE


def pairs_sharing(sets: np.ndarray, size: int) -> np.ndarray:
    """Return the share of all pairs of sets with 1, 2, … k members in common, or more `[shared]`.

    Two sets with s members in common have C(s, j) subsets of j in common. So the numbers of equal
    subsets tell Σ C(s, j) over all pairs for each j, and from these follow the pairs with each s.

    Args:
        sets: Sets of ids `[set, slot]`, sorted; −1 for none.
        size: All ids are below it.
    """
    n, k = sets.shape
    equal = [_equal_subsets(sets, j, size) for j in range(1, k + 1)]
    exactly = [
        sum((-1) ** (j - s) * comb(j, s) * equal[j - 1] for j in range(s, k + 1))
        for s in range(1, k + 1)
    ]
    pairs = comb(n, 2)
    return np.array([sum(exactly[s:]) / pairs if pairs else np.nan for s in range(k)])


def chance_of_sharing(k: int, size: int) -> np.ndarray:
    """Return the same of sets of k that are drawn uniformly and independently `[shared]`."""
    ways = [comb(k, s) * comb(size - k, k - s) for s in range(k + 1)]
    return np.array([sum(ways[s:]) / comb(size, k) for s in range(1, k + 1)])


def _equal_subsets(sets: np.ndarray, j: int, size: int) -> int:
    """Return how many pairs of equal subsets of j members there are, each of another set."""
    places = [list(some) for some in combinations(range(sets.shape[1]), j)]
    members = np.concatenate([sets[:, some] for some in places]).astype(np.int64)
    members = members[(members != NONE).all(axis=1)]
    if size**j < 2**63:
        # One number for each subset, which sorts much faster than rows do.
        members = (members * size ** np.arange(j)).sum(axis=1)
    _, times = np.unique(members, axis=0, return_counts=True)
    return int((times * (times - 1) // 2).sum())

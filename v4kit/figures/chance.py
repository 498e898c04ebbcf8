"""What uniform routing would give by chance: exact binomial bands, sorted curves by simulation."""

from __future__ import annotations

import numpy as np

ENOUGH = 10
"""Below so many uses per expert on average, load mostly shows noise."""


def binomial_band(n: int, p: float, *, coverage: float = 0.95) -> tuple[int, int]:
    """Return the counts between which a Binomial(n, p) lies with at least this probability.

    If every token draws its experts alike and independently, the uses of one expert by n tokens are
    Binomial(n, top-k ÷ experts).
    """
    if n <= 0 or p <= 0:
        return 0, 0
    if p >= 1:
        return n, n
    most = min(n, int(n * p + 12 * np.sqrt(n * p * (1 - p)) + 60))
    count = np.arange(most)
    steps = np.log((n - count) / (count + 1)) + np.log(p / (1 - p))
    logs = n * np.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)])
    total = np.cumsum(np.exp(logs))
    tail = (1 - coverage) / 2
    low = int(np.searchsorted(total, tail, side="left"))
    high = int(np.searchsorted(total, 1 - tail, side="left"))
    return low, min(high, most)


def sorted_band(
    n: int, experts: int, p: float, *, draws: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5 % and 97.5 % bounds of each place of sorted counts, largest first.

    By simulation from a fixed seed: the same arguments give the same band.
    """
    draw = np.random.default_rng(0).binomial(max(n, 0), min(p, 1.0), size=(draws, experts))
    ordered = -np.sort(-draw, axis=1)
    low, high = np.quantile(ordered, [0.025, 0.975], axis=0)
    return low, high

"""The expert that leads a token: the one that colours its text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from v4kit.core import DENSE, NONE, TOPK


def leading(experts: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return each token's leading expert: the one of the largest weight.

    Without weights none leads: whoever tells ids alone tells them in no order.

    Args:
        experts: Expert ids `[token, (layer,) slot]`, −1 for none.
        weights: Weights of the same shape, NaN for none; None if none were told.

    Returns:
        Expert ids, int64, `[token, (layer)]`; −1 where no slot holds an expert.
    """
    if weights is None:
        return np.full(experts.shape[:-1], NONE, np.int64)
    heavy = np.where(experts != NONE, np.nan_to_num(weights, nan=0.0), -1.0)
    slot = heavy.argmax(axis=-1)
    return np.take_along_axis(experts, slot[..., None], axis=-1)[..., 0].astype(np.int64)


def coloured_layer(kinds: Sequence[str]) -> int | None:
    """Return the layer that colours a text: the last learned one, else the last routed, else None.

    Args:
        kinds: Routing kind of each layer.
    """
    learned = [layer for layer, kind in enumerate(kinds) if kind == TOPK]
    routed = learned or [layer for layer, kind in enumerate(kinds) if kind != DENSE]
    return routed[-1] if routed else None

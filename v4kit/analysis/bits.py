"""Information in bits, of counts and shares along the last axis."""

from __future__ import annotations

import numpy as np


def entropy(shares: np.ndarray) -> np.ndarray:
    """Return −Σ p log₂ p `[…]` of shares `[…, outcome]` that sum to 1; 0 · log 0 is 0."""
    logs = np.log2(shares, out=np.zeros(shares.shape), where=shares > 0)
    return np.asarray(-(shares * logs).sum(-1))


def shares(counts: np.ndarray) -> np.ndarray:
    """Return counts `[…, outcome]` as shares of their sum; NaN where it is 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(-1, keepdims=True))


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the divergence of shares `[…, outcome]` from their mean: 0 if equal, 1 if apart."""
    found = entropy((one + other) / 2) - (entropy(one) + entropy(other)) / 2
    # Rounding may leave equal shares a hair below 0.
    return np.asarray(np.maximum(found, 0.0))


def mutual_information(counts: np.ndarray) -> np.ndarray:
    """Return what two outcomes tell of each other `[…]`, from joint counts `[…, first, second]`.

    The plug-in estimate, H(first) + H(second) − H(both), which chance alone makes positive.
    """
    joint = shares(counts.reshape(*counts.shape[:-2], -1))
    table = joint.reshape(counts.shape)
    found = entropy(table.sum(-1)) + entropy(table.sum(-2)) - entropy(joint)
    return np.asarray(np.maximum(found, 0.0))

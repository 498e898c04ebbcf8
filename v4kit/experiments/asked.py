"""Which rows and layers an experiment is asked for, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from v4kit.engines import Model
from v4kit.errors import InputError
from v4kit.trace import Trace


def rows_of(trace: Trace, tokens: Sequence[int] | None) -> list[int]:
    """Return rows in the order of the trace.

    Raises:
        InputError: One is not there, was not fed, or no token follows it.
    """
    document = trace.tokens["document"].to_numpy()
    fed = trace.tokens["valid"].to_numpy()
    able = np.flatnonzero((document[1:] == document[:-1]) & fed[:-1])
    if tokens is None:
        return [int(row) for row in able]
    rows = _listed("tokens", tokens)
    wrong = sorted(set(rows) - set(able.tolist()))
    if wrong or not rows:
        raise InputError(
            f"tokens are rows of the trace that a token follows in the same document; given was "
            f"{wrong[0] if wrong else list(tokens)!r}."
        )
    return rows


def _listed(name: str, several: Any) -> list[int]:
    """Return whole numbers, sorted, each once.

    Raises:
        InputError: They are none.
    """
    listed = list(several) if isinstance(several, Iterable) else [several]
    if not all(isinstance(one, Integral) and not isinstance(one, bool) for one in listed):
        raise InputError(f"{name} takes whole numbers, such as [3, 4]; given was {several!r}.")
    return sorted({int(one) for one in listed})


def layers_of(model: Model, layers: Sequence[int] | None) -> list[int]:
    """Return layer indices.

    Raises:
        InputError: One has no router.
    """
    routed = list(model.architecture.routed)
    chosen = routed if layers is None else _listed("layers", layers)
    wrong = [layer for layer in chosen if layer not in routed]
    if wrong or not chosen:
        known = ", ".join(map(str, routed))
        raise InputError(f"Layers with a router are {known}; given was {layers!r}.")
    return chosen

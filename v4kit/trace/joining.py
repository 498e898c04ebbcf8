"""Several traces as one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from v4kit.attention import concat_attention, concat_rows
from v4kit.errors import InputError, TraceError
from v4kit.trace.schema import BY_NAME, OF_EDITS
from v4kit.trace.trace import Trace


def concat(traces: Iterable[Trace]) -> Trace:
    """Return one Trace of several; documents are numbered anew, positions kept.

    What the metas agree on is kept; where they differ, the joined meta lists their values.

    Raises:
        InputError: There is no trace to join.
        TraceError: The traces are of models with different layers, experts or selection biases, or
            were recorded with different settings.
    """
    parts = list(traces)
    if not parts:
        raise InputError("concat needs at least one trace; given was an empty list.")
    first = parts[0]
    for part in parts[1:]:
        _check_alike(first, part)
    edited = [name for name in OF_EDITS if any(name in part.routing for part in parts)]
    frames, next_document = [], 0
    for part in parts:
        numbers, known = pd.factorize(part.tokens["document"])
        document = (numbers + next_document).astype(np.int32)
        frames.append(part.tokens.assign(document=document))
        next_document += len(known)
    tokens = pd.concat(frames, ignore_index=True)
    routing = concat_rows([_with(part.routing, edited) for part in parts])
    kept = [part.stored_attention for part in parts if part.stored_attention is not None]
    attention = concat_attention(kept) if kept else None
    return Trace(tokens, routing, _joined_meta([part.meta for part in parts]), attention)


def _check_alike(first: Trace, other: Trace) -> None:
    """Raise `TraceError` unless two traces can be joined."""
    if other.meta["architecture"] != first.meta["architecture"]:
        raise TraceError(
            f"Traces of different architectures can't be joined: {first!r} and {other!r}. "
            "Keep them apart, and compare them."
        )
    names, known = ({*one.routing.data_vars} - {*OF_EDITS} for one in (other, first))
    if names != known:
        raise TraceError(
            "Traces recorded with different settings can't be joined: one has "
            f"{sorted(map(str, known))}, another {sorted(map(str, names))}. "
            "Record them with the same Record."
        )
    if _attended(other) != _attended(first):
        raise TraceError(
            f"Traces with different attention can't be joined: one has {_attended(first)}, "
            f"another {_attended(other)}. Record them with the same Record."
        )
    if "bias" in first.routing and not first.routing["bias"].equals(other.routing["bias"]):
        raise TraceError(
            "Traces with different selection biases can't be joined: their models differ. "
            "Keep them apart, and compare them."
        )


def _with(routing: xr.Dataset, names: Iterable[str]) -> xr.Dataset:
    """Return a routing Dataset that has these variables, empty where it lacked them."""
    for name in names:
        if name not in routing:
            variable = BY_NAME[name]
            shape = tuple(routing.sizes[dim] for dim in variable.dims)
            empty = np.full(shape, variable.missing, variable.dtype)
            routing = routing.assign({name: (variable.dims, empty, {"meaning": variable.meaning})})
    return routing


def _attended(trace: Trace) -> str:
    """Return how attention was recorded."""
    if trace.stored_attention is None:
        return "none"
    names = ", ".join(sorted(map(str, trace.stored_attention.values.data_vars)))
    return f"{trace.meta['attention']} ({names})"


def _joined_meta(metas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all metas agree on; where they differ, the list of their values."""
    joined = copy.deepcopy(metas[0])
    for key in sorted({key for meta in metas for key in meta}):
        values = [meta.get(key) for meta in metas]
        if any(value != values[0] for value in values):
            distinct: list[Any] = []
            for value in values:
                if value not in distinct:
                    distinct.append(value)
            joined[key] = distinct
    if isinstance(joined.get("attention"), list):
        joined["attention"] = _lacking([meta.get("attention") or {} for meta in metas])
    return joined


def _lacking(recorded: list[dict[str, Any]]) -> dict[str, Any]:
    """Return why there is no attention, of traces that lack it for different reasons."""
    reasons = dict.fromkeys(str(part["why"]) for part in recorded if part.get("why"))
    return {**recorded[0], "sources": None, "why": " ".join(reasons) or None}

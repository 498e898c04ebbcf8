"""Traces made of plain arrays: by recorders, and by users from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from v4kit.core import LAYER, NONE, ROUTING_KINDS, SLOT, TOKEN
from v4kit.errors import InputError
from v4kit.trace.schema import BY_NAME, COLUMNS, routing_dataset
from v4kit.trace.trace import Trace


def token_frame(columns: dict[str, Any], rows: int) -> pd.DataFrame:
    """Return the token table of a trace; columns that are not given hold their missing value."""
    frame = {}
    for column in COLUMNS:
        values = columns.get(column.name)
        if column.dtype in ("text", "code"):
            strings = [column.missing] * rows if values is None else list(values)
            frame[column.name] = pd.Series(strings, dtype="str")
        else:
            filled = np.full(rows, column.missing) if values is None else np.asarray(values)
            frame[column.name] = pd.Series(filled.astype(column.dtype))
    return pd.DataFrame(frame)


def make_trace(
    columns: dict[str, Any], arrays: dict[str, np.ndarray], meta: dict[str, Any]
) -> Trace:
    """Return a Trace of columns by name and routing arrays by variable name."""
    typed = {name: np.asarray(array, BY_NAME[name].dtype) for name, array in arrays.items()}
    tokens = token_frame(columns, len(typed["experts"]))
    return Trace(tokens, routing_dataset(typed, meta), meta)


def import_routing(
    experts: Any,
    *,
    n_experts: int,
    token_ids: Any = None,
    text: Sequence[str] | None = None,
    document: Any = None,
    labels: Sequence[str] | None = None,
    weights: Any = None,
    predicted_ids: Any = None,
    layer_kinds: Sequence[str] | None = None,
    model: str = "imported",
) -> Trace:
    """Return a Trace of expert ids from anywhere.

    Args:
        experts: Integers `[token, layer, slot]`, −1 where a token has no expert.
        n_experts: Routed experts of a layer.
        token_ids: Token id of each row; −1 everywhere if not given.
        text: Text of each row.
        document: Number of each row's document; positions count from 0 within each.
        labels: Label of each row's document, one per row.
        weights: Factors `[token, layer, slot]` on the experts' outputs.
        predicted_ids: Most probable next token id after each row.
        layer_kinds: "hash", "topk" or "dense" for each layer; without it, layers that hold
            nothing but −1 are dense and all others topk.
        model: What to call the model.

    Raises:
        InputError: Shapes, ids or kinds can't be right.
    """
    ids = np.asarray(experts)
    if ids.ndim != len((TOKEN, LAYER, SLOT)) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"experts must be integers [token, layer, slot]; given was {ids.dtype} {ids.shape}."
        )
    rows, n_layers, top_k = ids.shape
    if ids.size and (ids.min() < NONE or ids.max() >= n_experts):
        raise InputError(
            f"Expert ids reach from {ids.min()} to {ids.max()}; with n_experts={n_experts} they "
            f"lie in −1 … {n_experts - 1}. Check n_experts and any shared expert in the array."
        )
    kinds = list(layer_kinds) if layer_kinds is not None else _kinds(ids)
    if len(kinds) != n_layers or not set(kinds) <= set(ROUTING_KINDS):
        raise InputError(
            f"layer_kinds needs {n_layers} of {', '.join(ROUTING_KINDS)}; given was {kinds}."
        )
    columns = {
        "id": token_ids,
        "text": text,
        "document": document,
        "label": labels,
        "predicted": predicted_ids,
    }
    for name, values in columns.items():
        if values is not None and len(values) != rows:
            raise InputError(f"{name} has {len(values)} rows; the experts have {rows}.")
    columns["valid"] = (ids[:, np.array(kinds) != "dense"] != NONE).any(axis=(1, 2))
    columns["position"] = _positions(np.zeros(rows, int) if document is None else document)
    arrays = {"experts": ids}
    if weights is not None:
        arrays["weights"] = np.asarray(weights)
        if arrays["weights"].shape != ids.shape:
            raise InputError(
                f"weights have shape {arrays['weights'].shape}; the experts have {ids.shape}."
            )
    meta = {
        "model": model,
        "engine": "imported",
        "ranked": False,
        "architecture": {
            "family": "imported",
            "n_experts": int(n_experts),
            "top_k": int(top_k),
            "n_shared": 0,
            "weight_sum": None,
            "layers": [{"routing": kind, "attention": "other"} for kind in kinds],
        },
    }
    return make_trace(columns, arrays, meta)


def _kinds(ids: np.ndarray) -> list[str]:
    """Return "dense" for layers without a single expert, "topk" for all others."""
    return ["topk" if (ids[:, layer] != NONE).any() else "dense" for layer in range(ids.shape[1])]


def _positions(document: Any) -> np.ndarray:
    """Return each row's position within its document."""
    return pd.Series(np.asarray(document)).groupby(np.asarray(document)).cumcount().to_numpy()

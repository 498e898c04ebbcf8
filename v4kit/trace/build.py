"""Traces made of plain arrays: by recorders, and by users from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v4kit.core import DENSE, LAYER, NONE, ROUTING_KINDS, SLOT, TOKEN, TOPK
from v4kit.errors import InputError
from v4kit.trace.arrays import captured, check_distinct, last_of, read_arrays, with_row
from v4kit.trace.attention_schema import make_attention
from v4kit.trace.schema import BY_NAME, COLUMNS, MOST_EXPERTS, plain_text, routing_dataset
from v4kit.trace.trace import Trace


def token_frame(columns: dict[str, Any], rows: int) -> pd.DataFrame:
    """Return the token table of a trace; columns that are not given hold their missing value."""
    frame = {}
    for column in COLUMNS:
        values = columns.get(column.name)
        if column.dtype in ("text", "code"):
            strings = [column.missing] * rows if values is None else plain_text(values)
            frame[column.name] = pd.Series(strings, dtype="str")
        else:
            filled = np.full(rows, column.missing) if values is None else np.asarray(values)
            frame[column.name] = pd.Series(filled.astype(column.dtype))
    return pd.DataFrame(frame)


def make_trace(
    columns: dict[str, Any],
    arrays: dict[str, np.ndarray],
    meta: dict[str, Any],
    *,
    attention: dict[str, np.ndarray] | None = None,
    masses: Sequence[np.ndarray] = (),
) -> Trace:
    """Return a Trace of columns by name and arrays by variable name.

    Args:
        columns: Columns of the token table.
        arrays: Variables of routing.
        meta: What the trace is of; `meta["attention"]` says how attention was recorded.
        attention: Stored variables of attention; None if there is none.
        masses: All masses of each layer `[element]`, where they were kept.
    """
    typed = {name: np.asarray(array, BY_NAME[name].dtype) for name, array in arrays.items()}
    tokens = token_frame(columns, len(typed["experts"]))
    kept = None if attention is None else make_attention(attention, tokens, meta, masses=masses)
    return Trace(tokens, routing_dataset(typed, meta), meta, kept)


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

    Training tools write what serving engines return: all layers, zeros where nothing was captured
    (in dense layers, for example), and no row for the token that was sampled last. So a token whose
    slots are all 0 counts as one without experts, where there are several slots: no token has an
    expert twice. And `token_ids` may be one more than the rows, all other values with it or not.

    Args:
        experts: Integers `[token, layer, slot]`, −1 where a token has no expert; or a file of them:
            `.npy`, or `.npz` with the one array of three axes, and token ids beside it if an
            array of one axis is called token_ids or input_ids.
        n_experts: Routed experts of a layer.
        token_ids: Token id of each row; −1 everywhere if not given.
        text: Text of each row.
        document: Number of each row's document; positions count from 0 within each.
        labels: Label of each row's document, one per row.
        weights: Factors `[token, layer, slot]` on the experts' outputs.
        predicted_ids: Most probable next token id after each row.
        layer_kinds: "hash", "topk" or "dense" for each layer; without it, layers that hold
            nothing but −1, or zeros, are dense and all others topk. Zeros do not tell a dense layer
            from one that was not captured, such as SGLang's hash layers: say what it is.
        model: What to call the model.

    Raises:
        InputError: Shapes, ids or kinds can't be right, or a file can't be read.
    """
    if isinstance(experts, (str, Path)):
        experts, beside = read_arrays(Path(experts))
        token_ids = beside if token_ids is None else token_ids
    ids = captured(_expert_ids(experts, n_experts))
    check_distinct(ids)
    rows = len(ids)
    if token_ids is not None and np.shape(token_ids) == (rows + 1,):
        # The last token was sampled and never read.
        ids, weights = with_row(ids, rows, NONE), with_row(weights, rows, np.nan)
        text, predicted_ids = with_row(text, rows, ""), with_row(predicted_ids, rows, NONE)
        document = with_row(document, rows, last_of(document, 0))
        labels = with_row(labels, rows, last_of(labels, ""))
    kinds = _kinds(ids, layer_kinds)
    columns = {
        "id": _integers("token_ids", token_ids, len(ids)),
        "text": _strings("text", text, len(ids)),
        "document": _integers("document", document, len(ids)),
        "label": _strings("labels", labels, len(ids)),
        "predicted": _integers("predicted_ids", predicted_ids, len(ids)),
        "valid": (ids != NONE).any(axis=(1, 2)),
    }
    columns["position"] = _positions(columns["document"], len(ids))
    arrays = {"experts": ids}
    if weights is not None:
        arrays["weights"] = _weights(weights, ids)
    architecture = {
        "family": "imported",
        "n_experts": int(n_experts),
        "top_k": ids.shape[2],
        "n_shared": 0,
        "weight_sum": None,
        "layers": [{"routing": kind, "attention": "other"} for kind in kinds],
    }
    meta = {"model": model, "engine": "imported", "ranked": False, "architecture": architecture}
    return make_trace(columns, arrays, meta)


def _expert_ids(experts: Any, n_experts: Any) -> np.ndarray:
    """Return expert ids `[token, layer, slot]`, checked."""
    ids = np.asarray(experts)
    if ids.ndim != len((TOKEN, LAYER, SLOT)) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"experts must be integers [token, layer, slot]; given was {ids.dtype} {ids.shape}."
        )
    if not isinstance(n_experts, (int, np.integer)) or not 0 < n_experts <= MOST_EXPERTS:
        raise InputError(f"n_experts is 1 … {MOST_EXPERTS:,}; given was {n_experts!r}.")
    if not ids.shape[1] or not 0 < ids.shape[2] <= n_experts:
        raise InputError(
            f"experts {ids.shape} need one layer or more, and 1 … {n_experts} slots "
            "(n_experts). The axes are [token, layer, slot]."
        )
    if ids.size and (ids.min() < NONE or ids.max() >= n_experts):
        raise InputError(
            f"Expert ids reach from {ids.min()} to {ids.max()}; with n_experts={n_experts} they "
            f"lie in −1 … {n_experts - 1}. Check n_experts and any shared expert in the array."
        )
    return ids


def _kinds(ids: np.ndarray, given: Sequence[str] | None) -> list[str]:
    """Return the kind of every layer; those without a single expert are dense."""
    empty = (ids == NONE).all(axis=(0, 2)) if len(ids) else np.zeros(ids.shape[1], bool)
    if given is None:
        return [DENSE if is_empty else TOPK for is_empty in empty]
    kinds = list(given)
    if len(kinds) != len(empty) or not set(kinds) <= set(ROUTING_KINDS):
        raise InputError(
            f"layer_kinds needs {len(empty)} of {', '.join(ROUTING_KINDS)}; given was {kinds}."
        )
    for layer, kind in enumerate(kinds):
        if kind == DENSE and len(ids) and not empty[layer]:
            raise InputError(
                f"layer_kinds says that layer {layer} is dense, but it has experts. "
                "Give topk or hash, or −1 for all its experts."
            )
    return kinds


def _weights(weights: Any, ids: np.ndarray) -> np.ndarray:
    """Return weights of the experts' shape."""
    array = np.asarray(weights)
    if array.shape != ids.shape or array.dtype.kind not in "fiu":
        raise InputError(
            f"weights must be numbers {ids.shape} like the experts; "
            f"given was {array.dtype} {array.shape}."
        )
    return array


def _integers(name: str, values: Any, rows: int) -> np.ndarray | None:
    """Return one integer per row, or None if there are none."""
    if values is None:
        return None
    array = np.asarray(values)
    limits = np.iinfo(np.int32)
    if (
        array.shape != (rows,)
        or (rows and array.dtype.kind not in "iu")
        or (rows and (array.min() < limits.min or array.max() > limits.max))
    ):
        raise InputError(
            f"{name} needs one 32-bit integer for each of the {rows} rows of experts; "
            f"given was {array.dtype} {array.shape}."
        )
    return array


def _strings(name: str, values: Sequence[str] | None, rows: int) -> list[str] | None:
    """Return one string per row, or None if there are none."""
    if values is None:
        return None
    strings = list(values)
    if isinstance(values, str) or len(strings) != rows:
        raise InputError(f"{name} has {len(strings)} rows; the experts have {rows}.")
    for value in strings:
        if not isinstance(value, str):
            raise InputError(f"{name} takes strings, one per row; one is {value!r}.")
    return strings


def _positions(document: np.ndarray | None, rows: int) -> np.ndarray:
    """Return each row's position within its document."""
    if document is None:
        return np.arange(rows)
    return pd.Series(document).groupby(document).cumcount().to_numpy()

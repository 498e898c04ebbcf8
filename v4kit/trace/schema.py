"""What a trace holds: columns, variables, their types, and the checks that keep them true."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from v4kit.core import EXPERT, LAYER, NONE, ROUTING_KINDS, SLOT, TOKEN
from v4kit.errors import TraceFormatError

PHASES = ("prompt", "generated")
MOST_EXPERTS = 32_767
"""Expert ids are kept in 16 bits."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `trace.tokens`."""

    name: str
    """Its name."""
    dtype: str
    """numpy type on disk; "text" for strings of any length, "code" for strings of a small set."""
    missing: Any
    """Value of a row that has none."""
    meaning: str
    """What a value says."""


COLUMNS: tuple[Column, ...] = (
    Column("id", "int32", NONE, "token id"),
    Column("text", "text", "", "text that this token completes; joined, the text of the trace"),
    Column("position", "int32", NONE, "position within the document, from 0"),
    Column("document", "int32", 0, "number of the document, from 0"),
    Column("label", "code", "", "label of the document"),
    Column("role", "code", "", "system, user, reasoning, answer or text"),
    Column("phase", "code", "prompt", "prompt or generated"),
    Column("special", "bool", missing=False, meaning="a special token of the tokenizer"),
    Column("valid", "bool", missing=True, meaning="the token was fed to the model"),
    Column("logprob", "float32", np.nan, "log-probability of the token, nats; NaN in first rows"),
    Column("entropy", "float32", np.nan, "entropy of the distribution it came from, nats"),
    Column("predicted", "int32", NONE, "most probable next token id after the row"),
)


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of `trace.routing`, or of attention as it is stored."""

    name: str
    """Its name."""
    dims: tuple[str, ...]
    """Named axes."""
    dtype: str
    """numpy type."""
    missing: Any
    """Value where there is none."""
    meaning: str
    """What a value says."""


VARIABLES: tuple[Variable, ...] = (
    Variable("experts", (TOKEN, LAYER, SLOT), "int16", NONE, "expert used; −1 none"),
    Variable("weights", (TOKEN, LAYER, SLOT), "float32", np.nan, "factor on the expert's output"),
    Variable("scores", (TOKEN, LAYER, SLOT), "float32", np.nan, "unbiased affinity of the expert"),
    Variable("margin", (TOKEN, LAYER), "float32", np.nan, "lowest selection score of the chosen "
             "minus the runner-up's; below 0 where an edit kept a better one out"),
    Variable("runner_up", (TOKEN, LAYER), "int16", NONE, "best expert that was not chosen, of "
             "the groups that were open"),
    Variable("bias_flips", (TOKEN, LAYER), "int16", NONE, "chosen experts that the unbiased "
             "scores would not have chosen"),
    Variable("displaced", (TOKEN, LAYER, SLOT), "int16", NONE, "expert that the router chose and "
             "that had to go when edits brought the slot's expert in; −1 if it was chosen anyway"),
    Variable("router_scores", (TOKEN, LAYER, EXPERT), "float32", np.nan, "scores of all experts"),
    Variable("output_norm", (TOKEN, LAYER, SLOT), "float32", np.nan, "Euclidean norm of the "
             "expert's output, before its weight"),
    Variable("output_max", (TOKEN, LAYER, SLOT), "float32", np.nan, "largest magnitude in the "
             "expert's output, before its weight"),
    Variable("routed_norm", (TOKEN, LAYER), "float32", np.nan, "norm of the weighted sum of the "
             "experts' outputs"),
    Variable("shared_norm", (TOKEN, LAYER), "float32", np.nan, "norm of the shared experts' "
             "output"),
    Variable("alpha_attention", (TOKEN, LAYER), "float32", np.nan, "factor with which the "
             "attention's output is in the final state, all streams together"),
    Variable("alpha_experts", (TOKEN, LAYER), "float32", np.nan, "factor with which the output "
             "of the experts' block is in the final state"),
    Variable("alpha_embedding", (TOKEN,), "float32", np.nan, "factor with which the embedding is "
             "in the final state"),
    Variable("bias", (LAYER, EXPERT), "float32", np.nan, "bias on the selection score"),
)  # fmt: skip

COLUMN_NAMES = tuple(column.name for column in COLUMNS)
BY_NAME = {variable.name: variable for variable in VARIABLES}
EXPERT_IDS = ("experts", "runner_up", "displaced")
"""Variables whose values are expert ids."""
OF_EDITS = ("displaced",)
"""Variables that only traces of edited runs have; in others nothing was displaced."""


def routing_dataset(arrays: dict[str, Any], meta: dict[str, Any]) -> xr.Dataset:
    """Return the routing Dataset of arrays by variable name, with coordinates from the meta.

    Raises:
        TraceFormatError: The arrays' sizes do not agree.
    """
    architecture = meta["architecture"]
    layers = architecture["layers"]
    coords: dict[str, Any] = {
        LAYER: np.arange(len(layers)),
        "kind": (LAYER, np.array([layer["routing"] for layer in layers])),
        "attention_kind": (LAYER, np.array([layer["attention"] for layer in layers])),
        SLOT: np.arange(architecture["top_k"]),
        EXPERT: np.arange(architecture["n_experts"]),
    }
    data = {
        name: (BY_NAME[name].dims, array, {"meaning": BY_NAME[name].meaning})
        for name, array in arrays.items()
    }
    try:
        return xr.Dataset(data, coords=coords)
    except ValueError as error:
        raise TraceFormatError(
            f"The arrays of the trace have shapes that do not agree ({error}). Make it again."
        ) from error


def check_meta(meta: Any) -> None:
    """Raise `TraceFormatError` unless the meta describes an architecture."""
    try:
        architecture = meta["architecture"]
        layers, n_experts, top_k = (architecture[key] for key in ("layers", "n_experts", "top_k"))
        sound = (
            isinstance(layers, list)
            and 0 < len(layers) <= 4096
            and all(layer["routing"] in ROUTING_KINDS for layer in layers)
            and all(isinstance(layer["attention"], str) for layer in layers)
            and all(type(size) is int for size in (n_experts, top_k))
            and 0 < top_k <= n_experts <= MOST_EXPERTS
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TraceFormatError(
            f"The trace's meta does not describe an architecture ({error!r}). "
            "Write the trace again with this version of v4kit."
        ) from error
    if not sound:
        raise TraceFormatError(
            "The trace's meta describes an impossible architecture. "
            "The file is damaged or was not written by v4kit; write the trace again."
        )


def check_shapes(tokens: pd.DataFrame, routing: xr.Dataset, meta: dict[str, Any]) -> None:
    """Raise `TraceFormatError` unless columns, variables and sizes agree."""
    missing = [column.name for column in COLUMNS if column.name not in tokens]
    if missing or "experts" not in routing:
        raise TraceFormatError(
            f"The trace lacks {', '.join(missing) or 'the experts'}. "
            "It is damaged or was not written by v4kit; write it again."
        )
    architecture = meta["architecture"]
    expected = {
        TOKEN: len(tokens),
        LAYER: len(architecture["layers"]),
        SLOT: int(architecture["top_k"]),
        EXPERT: int(architecture["n_experts"]),
    }
    for name, variable in routing.data_vars.items():
        if name not in BY_NAME:
            raise TraceFormatError(f"The trace has an unknown routing variable {name!r}.")
        known = BY_NAME[str(name)]
        shape = tuple(expected[dim] for dim in known.dims)
        if variable.dims != known.dims or variable.shape != shape or variable.dtype != known.dtype:
            raise TraceFormatError(
                f"The trace's {name} has axes {variable.dims}, shape {variable.shape} and type "
                f"{variable.dtype}; expected were {known.dims}, {shape} and {known.dtype}. "
                "The trace is damaged; write it again."
            )


def check_ids(name: str, ids: np.ndarray, n_experts: int) -> None:
    """Raise `TraceFormatError` if an expert id is out of range."""
    if ids.size and (ids.min() < NONE or ids.max() >= n_experts):
        raise TraceFormatError(
            f"The trace's {name} reach from {ids.min()} to {ids.max()}; with {n_experts} experts "
            f"they lie in −1 … {n_experts - 1}. The trace is damaged; write it again."
        )


def exactly(name: str, values: np.ndarray, dtype: str) -> np.ndarray:
    """Return a column's values in the type it is kept in.

    Raises:
        TraceFormatError: That would change integers or truth values.
    """
    with np.errstate(invalid="ignore"):
        typed = values.astype(dtype)
    if typed.dtype.kind != "f" and not np.array_equal(typed, values):
        raise TraceFormatError(
            f"The column {name} of trace.tokens has values that {dtype} can't hold. "
            "Put back what was there, or keep your own values in a column of their own."
        )
    return typed


def plain_text(texts: Iterable[Any]) -> list[str]:
    """Return strings that UTF-8 can hold: lone surrogates, which are no text, become U+FFFD."""
    strings = [str(text) for text in texts]
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return [s.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for s in strings]
    return strings

"""The tokens of a trace, to be run through a model again."""

from __future__ import annotations

from typing import Any

import numpy as np

from v4kit.core import NONE
from v4kit.engines import Model
from v4kit.errors import InputError
from v4kit.trace import Trace

CHUNK = 256
"""Tokens that are read at once, where the trace does not tell."""


def check_pair(model: Any, trace: Any) -> None:
    """Refuse what is no model and a trace of one like it.

    Raises:
        InputError: It is not.
    """
    if not isinstance(model, Model) or not isinstance(trace, Trace):
        raise InputError(
            "An experiment takes a Model and a Trace of it; given were "
            f"{type(model).__name__} and {type(trace).__name__}."
        )
    told = trace.meta["architecture"]
    sizes = (len(told["layers"]), told["n_experts"], told["top_k"])
    own = (model.architecture.n_layers, model.architecture.n_experts, model.architecture.top_k)
    if sizes != own:
        raise InputError(
            f"The trace is of another model: it has {sizes[0]} layers and {sizes[2]} of {sizes[1]} "
            f"experts; the model has {own[0]} layers and {own[2]} of {own[1]}."
        )


def read_until(trace: Trace, token: object) -> list[int]:
    """Return the ids of a token's document from its beginning up to the token.

    Args:
        trace: A trace.
        token: A row of it; negative ones count from the end.

    Raises:
        InputError: There is no such row, or the trace lacks the beginning of its document.
    """
    rows = len(trace)
    if not rows:
        raise InputError("The trace is empty, so there is no token to ask about.")
    if not isinstance(token, (int, np.integer)) or not -rows <= token < rows:
        raise InputError(f"token is a row of the trace, from 0 to {rows - 1}; given was {token!r}.")
    row = int(token) % rows
    table = trace.tokens.iloc[: row + 1]
    table = table[table["document"] == table["document"].iloc[-1]]
    if not np.array_equal(table["position"], np.arange(len(table))):
        raise InputError(
            f"The trace lacks tokens before row {row} of the same document, which the model has to "
            "read. Give the whole trace, not a slice."
        )
    ids = table["id"].tolist()
    if NONE in ids:
        raise InputError("The trace has no token ids, so the model can't read its text again.")
    return [int(i) for i in ids]


def prompt_of(trace: Trace, token: int) -> int | None:
    """Return how many tokens of a row's document were not generated; None: all of them."""
    document = trace.tokens["document"]
    phases = trace.tokens["phase"][document == document.iloc[token]]
    return int((phases == "prompt").sum()) if (phases == "generated").any() else None


def check_edits(model: Model, trace: Trace) -> None:
    """Refuse a trace of edits that do not act now.

    Raises:
        InputError: It is one.
    """
    told = trace.meta.get("edits")
    if told and told != model.edits:
        raise InputError(
            f"The trace was recorded under edits ({', '.join(_names(told))}) that do not act now, "
            "so that the model would do something else. Ask inside the same model.edit(…), or of "
            "a trace without edits."
        )


def _names(edits: list[Any]) -> list[str]:
    return [str(one["edit"]) if isinstance(one, dict) else "several" for one in edits]


def chunk_of(trace: Trace) -> int:
    """Return how many tokens are read at once."""
    return int(trace.meta.get("prefill_chunk") or CHUNK)

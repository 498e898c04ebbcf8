"""From an engine's array to the experts of tokens: aligned, checked, and honest about gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from v4kit.arch import Architecture
from v4kit.core import DENSE, HASH, NONE
from v4kit.errors import EngineError

CAPTURED, TABLE, PARTLY, MISSING = "captured", "table", "partly", "missing"
"""Where a layer's experts come from: the engine, the table of a hash layer, the engine for some
tokens only, or nowhere."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The experts of a text's tokens, and where they come from."""

    experts: np.ndarray
    """Ids, int16 `[token, layer, slot]`; −1 where there are none or they are not known."""
    layers: tuple[str, ...]
    """"captured", "table", "partly", "missing" or "dense", for each layer."""


def align(
    found: np.ndarray,
    ids: list[int],
    fed: int,
    architecture: Architecture,
    *,
    start: int = 0,
    tables: Mapping[int, np.ndarray] | None = None,
) -> Routes:
    """Return the experts of `ids` from what an engine returned.

    A row is one token that the model read; the last sampled one was not read and gets no experts.
    Engines return 0 where they have captured nothing, which is told from expert 0: a token never
    has the same expert twice.

    Args:
        found: Integers `[row, layer, slot]`, or all in a row `[element]`.
        ids: The text's token ids.
        fed: How many of them the model has read.
        architecture: The model that the engine serves.
        start: First token that rows were asked of.
        tables: Experts of each token id `[id, slot]`, by index of a hash layer.

    Raises:
        EngineError: The array is of another model or another text, or can't be right.
    """
    rows = _rows(found, fed - start, architecture, start=start)
    _check_range(rows, architecture)
    rows = rows.astype(np.int16)
    experts = np.full((len(ids), architecture.n_layers, architecture.top_k), NONE, np.int16)
    known = np.zeros(len(ids), bool)
    known[start:fed] = True
    states = []
    for layer in architecture.layers:
        values, at = rows[:, layer.index], layer.index
        if layer.routing == DENSE:
            _check_dense(values, at)
            states.append(DENSE)
            continue
        blank = _blank(values, architecture.top_k)
        table = (tables or {}).get(at)
        if layer.routing == HASH and table is not None:
            expected = np.asarray(table)[ids].astype(np.int16)
            _check_table(values[~blank], expected[start:fed][~blank], at)
            experts[known, at] = expected[known]
            states.append(CAPTURED if not blank.any() else TABLE)
            continue
        _check_distinct(values[~blank], at)
        experts[start:fed, at] = np.where(blank[:, None], NONE, values)
        states.append(_state(blank))
    return Routes(experts, tuple(states))


def _rows(found: np.ndarray, wanted: int, architecture: Architecture, *, start: int) -> np.ndarray:
    """Return integers `[row, layer, slot]`, one row for each token that was read."""
    size = (architecture.n_layers, architecture.top_k)
    if found.ndim == 1 and found.size % (size[0] * size[1]) == 0:
        found = found.reshape(-1, *size)
    if found.ndim != 3 or found.shape[1:] != size:
        raise EngineError(
            f"The engine returned experts {found.shape}, which are not {size[0]} layers of "
            f"{size[1]} experts. Does it serve another model? connect(…, model=…) tells which."
        )
    # Some versions add a row for the token that was sampled last. From a later start, one row more
    # may as well be one before it: of an engine that does not heed the start.
    if len(found) != wanted and (start or len(found) != wanted + 1):
        hint = f" Ask from start=0, if it can't begin at {start}." if start else ""
        raise EngineError(
            f"The engine returned experts of {len(found)} tokens, but {wanted} were read. "
            f"Rows can't be told apart, so none is used.{hint}"
        )
    return found[:wanted]


def _check_range(rows: np.ndarray, architecture: Architecture) -> None:
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < architecture.n_experts:
        raise EngineError(
            f"The engine returned expert ids from {rows.min()} to {rows.max()}, but a layer has "
            f"{architecture.n_experts} experts. Does it serve another model, or tell the places "
            "of redundant experts instead of the experts?"
        )


def _blank(values: np.ndarray, top_k: int) -> np.ndarray:
    """Return which rows `[token, slot]` hold nothing that was captured.

    Where a token has one expert only, 0 may be that expert, and is taken for it.
    """
    blank: np.ndarray = (values == 0).all(axis=1) if top_k > 1 else np.zeros(len(values), bool)
    return blank


def _state(blank: np.ndarray) -> str:
    """Return where a layer's experts come from, by which rows hold none."""
    if not blank.any():
        return CAPTURED
    return MISSING if blank.all() else PARTLY


def _check_dense(values: np.ndarray, layer: int) -> None:
    if values.any():
        raise EngineError(
            f"The engine returned experts of layer {layer}, which is dense in the model that was "
            "expected. Does it serve another one? connect(…, model=…) tells which."
        )


def _check_distinct(values: np.ndarray, layer: int) -> None:
    ordered = np.sort(values, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise EngineError(
            f"The engine returned an expert twice for one token, in layer {layer}: the array can't "
            "be what its routers chose."
        )


def _check_table(values: np.ndarray, expected: np.ndarray, layer: int) -> None:
    if not np.array_equal(np.sort(values, axis=1), np.sort(expected, axis=1)):
        raise EngineError(
            f"The experts of hash layer {layer} are not those of its table: the engine reads other "
            "tokens, or serves another model."
        )


def describe_gaps(routes: Routes, advice: str) -> str:
    """Return in words what is missing; empty if nothing is."""
    words = {MISSING: "no experts", PARTLY: "the experts of some tokens only"}
    said = []
    for state, what in words.items():
        layers = [str(i) for i, found in enumerate(routes.layers) if found == state]
        if layers:
            where = "layer" if len(layers) == 1 else "layers"
            said.append(f"The engine captured {what} in {where} {', '.join(layers)}.")
    return " ".join([*said, advice]) if said else ""


def as_meta(routes: Routes, advice: str) -> dict[str, Any]:
    """Return where the experts of each layer come from, and what is missing, as JSON data."""
    gaps = describe_gaps(routes, advice)
    return {"layers": list(routes.layers)} | ({"gaps": gaps} if gaps else {})

"""Hash-routed layers against their tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from v4kit.analysis.alike import require_ids
from v4kit.analysis.load import checked, dataset
from v4kit.analysis.used import BLOCK, expert_sets, in_common
from v4kit.core import EXPERT, HASH, LAYER, NONE
from v4kit.errors import InputError
from v4kit.trace import Trace


def hash_audit(trace: Trace, tables: Mapping[int, npt.ArrayLike] | None = None) -> xr.Dataset:
    """Return whether hash-routed layers use the experts that their tables name.

    Such a layer looks a token's experts up by its id, so every token of one id has the same ones:
    anything below an agreement of exactly 1 means that ids and experts are not of the same tokens,
    or that experts were numbered anew (an engine's physical ids). The load over the vocabulary is
    how evenly a table spreads the ids; a text's load differs because words are not equally
    frequent: `v4kit.analysis.expert_load`.

    Args:
        trace: A trace with token ids.
        tables: The tables `[id, slot]` by layer index, for instance
            `{0: model.routers[0].tid2eid}`. Without them a table is what the trace itself shows:
            the experts of an id's first token.

    Returns:
        Over `layer`: `agreement`, the share of tokens with exactly the table's experts; `n`, the
        tokens; `types`, the ids that the table is known for. Over `(layer, expert)`:
        `vocabulary_load`, the share of those ids that have the expert. Scalar `chance`: slots ÷
        experts. NaN in layers that are not hash-routed. Coordinate `kind`.

    Raises:
        InputError: It is no trace, has no ids or no hash-routed layer, or a table does not fit.
    """
    ids = require_ids(checked(trace), "given")
    architecture = trace.meta["architecture"]
    size, k = architecture["n_experts"], architecture["top_k"]
    kinds = [one["routing"] for one in architecture["layers"]]
    hashed = [layer for layer, kind in enumerate(kinds) if kind == HASH]
    if not hashed:
        raise InputError("The trace has no hash-routed layer, so there is no table to check.")
    known = _shown(trace, ids, hashed) if tables is None else _given(tables, hashed, ids, size)
    same, n = np.zeros(len(kinds)), np.zeros(len(kinds), int)
    for start in range(0, len(trace), BLOCK):
        rows = slice(start, start + BLOCK)
        sets = expert_sets(trace, rows)[:, hashed]
        named = np.stack([table[ids[rows]] for table in known], axis=1)
        routed = (sets != NONE).any(axis=2)
        equal = in_common(sets, named) == np.maximum(*((s != NONE).sum(axis=2)
                                                       for s in (sets, named)))  # fmt: skip
        same[hashed] += (equal & routed).sum(axis=0)
        n[hashed] += routed.sum(axis=0)
    load, types = np.full((len(kinds), size), np.nan), np.zeros(len(kinds), int)
    for layer, table in zip(hashed, known, strict=True):
        filled = table[(table != NONE).any(axis=1)]
        types[layer] = len(filled)
        load[layer] = np.bincount(filled[filled != NONE], minlength=size) / max(len(filled), 1)
    with np.errstate(invalid="ignore"):
        agreement = same / n
    data: dict[str, Any] = {
        "agreement": (LAYER, agreement),
        "n": (LAYER, n),
        "types": (LAYER, types),
        "vocabulary_load": ((LAYER, EXPERT), load),
        "chance": ((), k / size),
    }
    return dataset(trace, data).assign_coords({EXPERT: np.arange(size)})


def _shown(trace: Trace, ids: np.ndarray, layers: list[int]) -> list[np.ndarray]:
    """Return tables that hold the experts of each id's first routed token; −1 elsewhere."""
    known = np.full((len(layers), int(ids.max(initial=0)) + 1, trace.routing.sizes["slot"]), NONE)
    for start in range(0, len(trace), BLOCK):
        rows = slice(start, start + BLOCK)
        sets = expert_sets(trace, rows)[:, layers]
        for place in range(len(layers)):
            routed = (sets[:, place] != NONE).any(axis=1)
            types, first = np.unique(ids[rows][routed], return_index=True)
            new = (known[place, types] == NONE).all(axis=1)
            known[place, types[new]] = sets[routed, place][first[new]]
    return list(known)


def _given(
    tables: Mapping[int, npt.ArrayLike], layers: list[int], ids: np.ndarray, size: int
) -> list[np.ndarray]:
    """Return the given tables, each row sorted.

    Raises:
        InputError: One is missing, or is too short, or names experts that are not there.
    """
    found = []
    for layer in layers:
        if layer not in tables:
            raise InputError(
                f"There is no table for hash-routed layer {layer}; given were tables for "
                f"{', '.join(map(str, sorted(tables))) or 'none'}."
            )
        table = np.sort(np.asarray(tables[layer]), axis=-1)
        if table.ndim != 2 or len(table) <= ids.max(initial=0):
            raise InputError(
                f"The table of layer {layer} has shape {table.shape}, and the trace holds id "
                f"{ids.max(initial=0)}: a table has a row of experts for each id."
            )
        if table.min() < 0 or table.max() >= size:
            raise InputError(
                f"The table of layer {layer} names experts from {table.min()} to {table.max()}; "
                f"the trace's are 0 to {size - 1}."
            )
        found.append(table.astype(np.int64))
    return found

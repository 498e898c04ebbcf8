"""Hash-routed layers against their tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from v4kit.analysis.alike import require_ids
from v4kit.analysis.results import checked, dataset
from v4kit.analysis.subsets import chance_of_sharing, pairs_sharing
from v4kit.analysis.used import BLOCK, array_of, distinct, expert_sets, in_common
from v4kit.core import EXPERT, HASH, LAYER, NONE
from v4kit.errors import InputError
from v4kit.trace import Trace

SHARED = "shared"
_MEANINGS = {
    "agreement": "share of the tokens with exactly the experts that the table names",
    "n": "tokens that were routed",
    "types": "ids that the table is known for",
    "vocabulary_load": "share of those ids that have the expert",
    "pairs_sharing": "share of the pairs of those ids with so many experts in common, or more",
    "pairs_sharing_chance": "the same if each id's experts were drawn uniformly",
    "chance": "vocabulary_load of a table that is even: slots ÷ experts",
}


def hash_audit(trace: Trace, tables: Mapping[int, npt.ArrayLike] | None = None) -> xr.Dataset:
    """Return whether hash-routed layers use the experts that their tables name.

    Such a layer (Hash Layers, arXiv 2106.04426) looks a token's experts up by its id, so every
    token of one id has the same ones: anything below an agreement of exactly 1 means that ids and
    experts are not of the same tokens, or that experts were numbered anew (an engine's physical
    ids). The load over the vocabulary is how evenly a table spreads the ids, and each id once; a
    text's load differs because words are not equally frequent: `v4kit.analysis.expert_load`. Ids
    that share experts are the same to them: two ids with all k in common can't be told apart by
    the choice in this layer.

    Args:
        trace: A trace with token ids. Special tokens count; `trace[~trace.tokens["special"]]`
            leaves them out.
        tables: The tables `[id, slot]` by layer index, for instance
            `{0: model.routers[0].tid2eid}`. Without them a table is what the trace itself shows:
            the experts of an id's first token.

    Returns:
        Over `layer`: `agreement`, the share of tokens with exactly the table's experts; `n`, the
        tokens; `types`, the ids that the table is known for. Over `(layer, expert)`:
        `vocabulary_load`, the share of those ids that have the expert; scalar `chance`: slots ÷
        experts. Over `(layer, shared)`: `pairs_sharing`, the share of all pairs of those ids that
        have 1, 2, … k experts in common, or more; over `shared`: `pairs_sharing_chance`, the same
        if experts were drawn uniformly. NaN in layers that are not hash-routed. Coordinate `kind`.

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
    known = _shown(trace, ids, hashed) if tables is None else _given(tables, hashed, ids, size, k)
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
    with np.errstate(invalid="ignore"):
        agreement = same / n
    data: dict[str, Any] = {"agreement": (LAYER, agreement), "n": (LAYER, n)}
    data |= _of_tables(dict(zip(hashed, known, strict=True)), len(kinds), size, k)
    found = dataset(trace, data | {"chance": ((), k / size)}, _MEANINGS)
    return found.assign_coords({EXPERT: np.arange(size), SHARED: np.arange(1, k + 1)})


def _of_tables(tables: dict[int, np.ndarray], layers: int, size: int, k: int) -> dict[str, Any]:
    """Return what is told of the tables `[id, slot]` by layer index, whatever the text."""
    load, types = np.full((layers, size), np.nan), np.zeros(layers, int)
    sharing = np.full((layers, k), np.nan)
    for layer, table in tables.items():
        filled = table[(table != NONE).any(axis=1)]
        types[layer] = len(filled)
        load[layer] = np.bincount(filled[filled != NONE], minlength=size) / max(len(filled), 1)
        sharing[layer] = pairs_sharing(filled, size)
    return {
        "types": (LAYER, types),
        "vocabulary_load": ((LAYER, EXPERT), load),
        "pairs_sharing": ((LAYER, SHARED), sharing),
        "pairs_sharing_chance": (SHARED, chance_of_sharing(k, size)),
    }


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
    tables: Mapping[int, npt.ArrayLike], layers: list[int], ids: np.ndarray, size: int, k: int
) -> list[np.ndarray]:
    """Return the given tables, each row sorted.

    Raises:
        InputError: One is missing, or no table, or too short, or names experts that are not there.
    """
    if not isinstance(tables, Mapping):
        raise InputError(
            "tables are by layer index, such as {0: model.routers[0].tid2eid}; given was "
            f"{type(tables).__name__}."
        )
    found = []
    for layer in layers:
        if layer not in tables:
            raise InputError(
                f"There is no table for hash-routed layer {layer}; given were tables for "
                f"{', '.join(map(str, sorted(tables))) or 'none'}."
            )
        table = array_of(tables[layer])
        if table.ndim != 2 or len(table) <= ids.max(initial=0):
            raise InputError(
                f"The table of layer {layer} has shape {table.shape}, and the trace holds id "
                f"{ids.max(initial=0)}: a table has a row of experts for each id."
            )
        if not np.issubdtype(table.dtype, np.integer) or table.shape[1] != k:
            raise InputError(
                f"The table of layer {layer} has rows of {table.shape[1]} {table.dtype} values; a "
                f"table has the ids of {k} experts in each row."
            )
        if table.min() < 0 or table.max() >= size:
            raise InputError(
                f"The table of layer {layer} names experts from {table.min()} to {table.max()}; "
                f"the trace's are 0 to {size - 1}."
            )
        found.append(distinct(table.astype(np.int64)))
    return found

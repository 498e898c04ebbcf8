"""The experts that tokens used, read from a trace block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from v4kit.core import DENSE, NONE, TOKEN, TOPK
from v4kit.errors import InputError
from v4kit.trace import Trace

BLOCK = 4_096
"""Rows read at once, so that a trace on disk need not fit into memory."""


@dataclass(frozen=True, slots=True)
class Uses:
    """How many tokens used each expert."""

    count: np.ndarray
    """Tokens that used the expert `[layer, expert]`."""
    tokens: np.ndarray
    """Tokens that were routed `[layer]`."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What pairs of tokens have in common; all −1 or False where one of the two was not routed."""

    shared: np.ndarray
    """Experts that both used `[pair, layer]`."""
    changed: np.ndarray
    """Whether the two used different experts `[pair, layer]`."""


def expert_sets(trace: Trace, rows: slice | np.ndarray, top: int | None = None) -> np.ndarray:
    """Return the different experts of rows `[token, layer, slot]`, sorted; −1 for none.

    Tokens that were never fed to the model have none.

    Args:
        trace: A trace.
        rows: Rows of it.
        top: Only so many slots, from the first on; all if not given.
    """
    sets = distinct(trace.routing["experts"].isel({TOKEN: rows}).to_numpy()[..., :top])
    sets[~trace.tokens["valid"].to_numpy()[rows]] = NONE
    return sets


def distinct(ids: np.ndarray) -> np.ndarray:
    """Return ids `[…, slot]` sorted, each one once; −1 in the place of the others."""
    sets = np.sort(ids, axis=-1)
    sets[..., 1:][sets[..., 1:] == sets[..., :-1]] = NONE
    return sets


def uses(trace: Trace, marked: np.ndarray | None = None) -> Uses:
    """Return how many tokens used each expert; only those that are marked, if any are `[token]`."""
    architecture = trace.meta["architecture"]
    # Each layer has one cell more, for slots without an expert: to sort them out costs more.
    shape = (len(architecture["layers"]), architecture["n_experts"] + 1)
    count, tokens = np.zeros(shape, np.int64), np.zeros(shape[0], np.int64)
    first = np.arange(shape[0])[:, None] * shape[1] - NONE
    for start in range(0, len(trace), BLOCK):
        sets = expert_sets(trace, slice(start, start + BLOCK))
        if marked is not None:
            sets = sets[marked[start : start + BLOCK]]
        cells = np.bincount((sets + first).ravel(), minlength=count.size)
        count += cells.reshape(shape)
        # Sets are sorted: the last slot tells for all but those that hold an expert twice.
        routed = sets[..., -1] != NONE
        routed[~routed] = (sets[~routed] != NONE).any(axis=1)
        tokens += routed.sum(axis=0)
    return Uses(count[:, 1:], tokens)


def in_common(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return how many experts pairs of sets share `[pair, layer]`.

    Args:
        mine: Sets `[pair, layer, slot]`, −1 for none.
        theirs: Others.
    """
    shared = np.zeros(mine.shape[:2], np.int16)
    for slot in range(theirs.shape[2]):
        expert = theirs[..., slot, None]
        shared += ((mine == expert) & (expert != NONE)).any(axis=2)
    return shared


def successors(trace: Trace) -> np.ndarray:
    """Return the row of the token that follows each one in its document; −1 if none `[token]`.

    By the tokens' positions: rows that stand together in a trace are no neighbours where rows
    between them were left out.
    """
    document, position = (trace.tokens[n].to_numpy() for n in ("document", "position"))
    order = np.lexsort((position, document))
    row, after = order[:-1], order[1:]
    next_to = (position[row] >= 0) & (position[after] - position[row] == 1)
    follows = (document[row] == document[after]) & next_to
    found = np.full(len(order), NONE, np.int64)
    found[row[follows]] = after[follows]
    return found


def routed_layer(trace: Trace, layer: object) -> int:
    """Return the index of a layer with a router.

    Raises:
        InputError: It has none, or there is no such layer.
    """
    kinds = [one["routing"] for one in trace.meta["architecture"]["layers"]]
    routed = [index for index, kind in enumerate(kinds) if kind != DENSE]
    whole = isinstance(layer, (int, np.integer)) and not isinstance(layer, bool)
    if not whole or layer not in routed:
        raise InputError(
            f"Layer {layer!r} has no router; those with one are {', '.join(map(str, routed))}."
        )
    return int(layer)


def routed_layers(trace: Trace, given: object) -> list[int]:
    """Return the indices of one or several layers with a router; of all that choose for None.

    Raises:
        InputError: One has none, or there is no such layer.
    """
    if given is None:
        return learned_layers(trace)
    several = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    return [routed_layer(trace, layer) for layer in several]


def expert_ids(experts: object, n_experts: int) -> list[int]:
    """Return the ids of some experts of a layer.

    Raises:
        InputError: They are no sequence of ids, or one is out of range.
    """
    if isinstance(experts, str) or not isinstance(experts, Iterable):
        raise InputError(f"experts are a list of ids, such as [3, 17]; given was {experts!r}.")
    return [whole_number("expert", one, least=0, most=n_experts - 1) for one in experts]


def learned_layers(trace: Trace) -> list[int]:
    """Return the indices of the layers that choose their experts."""
    kinds = [one["routing"] for one in trace.meta["architecture"]["layers"]]
    return [layer for layer, kind in enumerate(kinds) if kind == TOPK]


def recorded(trace: Trace, variable: str, how: str) -> None:
    """Raise `InputError` unless a trace has a variable.

    Args:
        trace: A trace.
        variable: Name of a variable of `trace.routing`.
        how: What records it.
    """
    if variable not in trace.routing:
        raise InputError(
            f"This needs {variable}, which the trace does not have. Record it anew with {how}."
        )


def whole_number(name: str, value: object, *, least: int, most: int | None = None) -> int:
    """Return a whole number.

    Raises:
        InputError: It is none, or out of range.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        bounds = f"from {least} up" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} is a whole number {bounds}; given was {value!r}.")
    return int(value)  # type: ignore[call-overload, no-any-return]


def array_of(values: npt.ArrayLike) -> np.ndarray:
    """Return values as an array; one that holds nothing where they are ragged."""
    try:
        return np.asarray(values)
    except ValueError:
        return np.empty(0)


def generator(seed: object) -> np.random.Generator:
    """Return random numbers from a seed.

    Raises:
        InputError: It is no whole number from 0 up.
    """
    return np.random.default_rng(whole_number("seed", seed, least=0))


def agreements(
    trace: Trace, other: Trace, rows: np.ndarray, top: int | None = None
) -> Iterator[Agreement]:
    """Yield what pairs of rows `[pair, 2]` have in common, block by block."""
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        mine = expert_sets(trace, some[:, 0], top)
        theirs = expert_sets(other, some[:, 1], top)
        shared = in_common(mine, theirs)
        sizes = [(sets != NONE).sum(axis=2) for sets in (mine, theirs)]
        routed = np.minimum(*sizes) > 0
        yield Agreement(
            shared=np.where(routed, shared, NONE).astype(np.int16),
            changed=routed & (shared < np.maximum(*sizes)),
        )

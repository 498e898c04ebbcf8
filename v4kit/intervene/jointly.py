"""Whether several edits of one layer leave every token the experts that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from v4kit.arch import Architecture
from v4kit.errors import InputError
from v4kit.intervene.base import Edit


def check_jointly(edits: Sequence[Edit], layer: int, architecture: Architecture) -> None:
    """Refuse edits of which one would undo another.

    Raises:
        InputError: Too few experts are left, more are preferred than there are slots or in more
            groups than are open, or an expert is preferred and taken out.
    """
    for acting in _together(edits):
        barred = {expert for edit in acting for expert in edit.bars}
        wanted = {expert for edit in acting for expert in edit.prefers}
        _check_left(barred, layer, architecture)
        _check_wanted(wanted, layer, architecture)
        if barred & wanted:
            raise InputError(
                f"Expert {min(barred & wanted)} of layer {layer} is to be chosen always and never. "
                "Leave one of the two edits out, or give them different tokens."
            )


def _together(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    """Yield the edits that act on the same tokens, for each stretch of a text and each phase."""
    starts = {0}
    for edit in edits:
        if not isinstance(edit.tokens, str):
            start, stop = edit.tokens
            starts |= {start, start if stop is None else stop}
    for phase in ("prompt", "generated"):
        for start in sorted(starts):
            yield [edit for edit in edits if edit.acts_at(start, phase)]


def _check_left(barred: set[int], layer: int, architecture: Architecture) -> None:
    n_experts, top_k = architecture.n_experts, architecture.top_k
    size = n_experts // architecture.n_groups
    groups = range(architecture.n_groups)
    left = sorted(size - sum(expert // size == group for expert in barred) for group in groups)
    # Which groups are open is the router's to say: the emptiest ones might be.
    least = sum(left[: architecture.top_groups])
    if barred and least < top_k:
        where = "" if architecture.n_groups == 1 else " in the groups that a token may choose from"
        raise InputError(
            f"In layer {layer} ablate leaves {least} of {n_experts} experts{where}, but every "
            f"token needs {top_k}. Ablate fewer, or knock them out: reroute=False."
        )


def _check_wanted(wanted: set[int], layer: int, architecture: Architecture) -> None:
    top_k = architecture.top_k
    if len(wanted) > top_k:
        raise InputError(
            f"{len(wanted)} experts can't all be chosen in layer {layer}: a token has {top_k}. "
            "Give fewer."
        )
    size = architecture.n_experts // architecture.n_groups
    groups = {expert // size for expert in wanted}
    if len(groups) > architecture.top_groups:
        raise InputError(
            f"The experts {sorted(wanted)} stand in {len(groups)} groups, but a token chooses from "
            f"{architecture.top_groups}. Give experts of fewer groups."
        )

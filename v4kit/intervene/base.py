"""What every edit of the routing is: layers, tokens, and what it makes of a choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from v4kit.arch import Architecture
from v4kit.errors import InputError
from v4kit.intervene.choice import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An edit of some layers, for some tokens."""

    layers: tuple[int, ...] | None
    """Layer indices; None: all that have a router, or all that the edit can act on."""
    tokens: tuple[int, int | None] = (0, None)
    """Positions in the document, from the first on up to the second, excluded; None: all later."""

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return True

    @property
    def way_out(self) -> str:
        """What else can be said for layers that do not choose by score."""
        return ""

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
        raise NotImplementedError

    def check(self, architecture: Architecture) -> None:
        """Refuse what can't take effect in such a model.

        Raises:
            InputError: It can't.
        """

    def data(self) -> dict[str, Any]:
        """Return the edit as JSON data, for a trace's meta."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
        return {"edit": type(self).__name__.lower(), **plain}


def in_range(experts: Sequence[int], n_experts: int) -> None:
    """Refuse experts that are not there.

    Raises:
        InputError: An id lies outside.
    """
    wrong = [expert for expert in experts if not 0 <= expert < n_experts]
    if wrong:
        raise InputError(
            f"There is no expert {wrong[0]}: a layer has {n_experts}, from 0 to {n_experts - 1}."
        )

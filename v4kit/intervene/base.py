"""What every edit of the routing is: layers, tokens, and what it makes of a choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from v4kit.arch import Architecture, Family
from v4kit.errors import InputError
from v4kit.intervene.choice import Choice

Phase = Literal["prompt", "generated"]
Tokens = tuple[int, int | None] | Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An edit of some layers, for some tokens."""

    layers: tuple[int, ...] | None
    """Layer indices; None: all that have a router, or all that the edit can act on."""
    tokens: Tokens = (0, None)
    """Positions in the document, from the first on up to the second, excluded; None: all later. Or
    "prompt" or "generated": the tokens of that phase; a text that is only read is all prompt."""

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return True

    @property
    def way_out(self) -> str:
        """What else can be said for layers that do not choose by score."""
        return ""

    def within(self, positions: Tensor, prompt: int | None) -> Tensor:
        """Return which positions `[token]` it acts on.

        Args:
            positions: Positions in the document.
            prompt: How many tokens the prompt has; None: all are its.
        """
        if isinstance(self.tokens, str):
            of_prompt = torch.ones_like(positions, dtype=torch.bool)
            if prompt is not None:
                of_prompt = positions < prompt
            return of_prompt if self.tokens == "prompt" else ~of_prompt
        start, stop = self.tokens
        inside = positions >= start
        return inside if stop is None else inside & (positions < stop)

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
        raise NotImplementedError

    def check(self, architecture: Architecture) -> None:
        """Refuse what can't take effect in such a model.

        Raises:
            InputError: It can't.
        """

    @staticmethod
    def together(
        hf_model: Any, family: Family, architecture: Architecture, edits: Sequence[Edit]
    ) -> Any:
        """Return some edits at work in a model, in their order: an `Editing`.

        Raises:
            InputError: One can't take effect.
        """
        from v4kit.intervene.editing import Editing

        return Editing(hf_model, family, architecture, edits)

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

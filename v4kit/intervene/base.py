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
    def name(self) -> str:
        """The function that makes it."""
        return type(self).__name__.lower()

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

    def choose(self, choice: Choice, rows: Tensor) -> Choice:  # noqa: ARG002 - not every edit does
        """Return what a layer chooses by, as the edit makes it in some rows `[token]`."""
        return choice

    def weigh(self, choice: Choice, rows: Tensor) -> Choice:  # noqa: ARG002 - not every edit does
        """Return a choice that was made, with weights as the edit makes them in some rows."""
        return choice

    @property
    def silences(self) -> bool:
        """Whether it takes the shared experts' output away."""
        return False

    @property
    def prefers(self) -> tuple[int, ...]:
        """Experts that are to be chosen in every row it acts on."""
        return ()

    @property
    def bars(self) -> tuple[int, ...]:
        """Experts that are not to be chosen in any row it acts on."""
        return ()

    def check(self, architecture: Architecture, family: Family) -> None:
        """Refuse what can't take effect in such a model.

        Raises:
            InputError: It can't.
        """

    def check_reach(self, prompt: int, further: int) -> None:
        """Refuse tokens that a run will not have.

        Args:
            prompt: Tokens that are read first.
            further: Tokens that may be generated; the last is sampled, and not fed any more.

        Raises:
            InputError: The edit would act on none.
        """
        fed = prompt + max(further - 1, 0)
        beyond = self.tokens[0] >= fed if isinstance(self.tokens, tuple) else False
        if beyond or (self.tokens == "generated" and further < 2):
            raise InputError(
                f"An edit with tokens={self.tokens!r} acts on no token of this run: {prompt:,} are "
                f"read and {max(further - 1, 0):,} more are fed. Give others, or leave it out."
            )

    def acts_at(self, position: int, phase: Phase) -> bool:
        """Whether it acts on a token there, if that is of the phase."""
        if isinstance(self.tokens, str):
            return self.tokens == phase
        start, stop = self.tokens
        return start <= position and (stop is None or position < stop)

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
        return {"edit": self.name, **plain}


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

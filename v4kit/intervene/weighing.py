"""Edits of how much of each expert is taken: scaling and budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from v4kit.arch import Architecture, Family
from v4kit.errors import InputError
from v4kit.intervene.base import Edit, in_range
from v4kit.intervene.choice import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale(Edit):
    """Weights of some experts times a factor, wherever they are chosen."""

    experts: tuple[int, ...]
    """Their ids."""
    factor: float
    """What their weights are multiplied with."""
    renorm: bool = False
    """Whether a token's weights are brought back to the sum they had."""

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return False

    def check(self, architecture: Architecture, family: Family) -> None:  # noqa: ARG002 - all alike
        """Refuse experts that are not there."""
        in_range(self.experts, architecture.n_experts)

    def weigh(self, choice: Choice, rows: Tensor) -> Choice:
        """Return a choice that was made, with the experts' weights scaled."""
        held = choice.holds(torch.tensor(self.experts, device=choice.experts.device))
        factors = torch.where(held, self.factor, 1.0)
        return choice.scaled(factors, rows, renorm=self.renorm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Edit):
    """Fewer experts per token: the lowest by selection get no weight, the others make up for it."""

    k: int
    """How many are left."""

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return False

    def check(self, architecture: Architecture, family: Family) -> None:  # noqa: ARG002 - all alike
        """Refuse more than there are slots."""
        top_k = architecture.top_k
        if not 1 <= self.k <= top_k:
            raise InputError(f"budget leaves 1 to {top_k} experts per token; given was {self.k!r}.")

    def weigh(self, choice: Choice, rows: Tensor) -> Choice:
        """Return a choice that was made, with weights of its best experts alone."""
        chosen = choice.order.gather(-1, choice.experts)
        place = chosen.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return choice.scaled((place < self.k).to(choice.weights), rows, renorm=True)

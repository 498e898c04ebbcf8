"""Edits of how much of each expert is taken, and of whose experts: scaling, budget, replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from v4kit.arch import Architecture
from v4kit.core import NONE
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

    def check(self, architecture: Architecture) -> None:
        """Refuse experts that are not there."""
        in_range(self.experts, architecture.n_experts)

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
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

    def check(self, architecture: Architecture) -> None:
        """Refuse more than there are slots."""
        top_k = architecture.top_k
        if not 1 <= self.k <= top_k:
            raise InputError(f"budget leaves 1 to {top_k} experts per token; given was {self.k!r}.")

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
        chosen = choice.selection.gather(-1, choice.experts)
        place = chosen.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return choice.scaled((place < self.k).to(choice.weights), rows, renorm=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay(Edit):
    """The experts of another run, position by position; weights are those of the current pass."""

    trace: Any
    """Where they come from."""
    source: Tensor
    """Its experts `[position, layer, slot]`, −1 where it has none."""

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return False

    def check(self, architecture: Architecture) -> None:
        """Refuse a trace of another model."""
        theirs = self.trace.meta["architecture"]
        given = (len(theirs["layers"]), theirs["top_k"], theirs["n_experts"])
        own = (architecture.n_layers, architecture.top_k, architecture.n_experts)
        if given != own:
            raise InputError(
                "The trace that is replayed has {} layers of {} of {} experts, this model ".format(
                    *given
                )
                + "{} of {} of {}. Replay one of the same model.".format(*own)
            )

    def data(self) -> dict[str, Any]:
        """Return the edit as JSON data, for a trace's meta."""
        told = {name: getattr(self, name) for name in ("layers", "tokens")}
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in told.items()}
        return {"edit": "replay", **plain, "of": self.trace.meta.get("model")}

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
        positions = choice.positions.to(self.source.device)
        missing = positions[rows.cpu() & (positions >= len(self.source))]
        if len(missing):
            raise InputError(
                f"The trace that is replayed has {len(self.source):,} positions, but position "
                f"{int(missing[0]):,} is read. Replay a longer one, or limit tokens=(start, stop)."
            )
        told = self.source[positions.clamp(max=len(self.source) - 1), choice.layer]
        known = rows & (told != NONE).all(-1).to(rows.device)
        experts = torch.where(known.unsqueeze(-1), told.to(choice.experts), choice.experts)
        return choice.take(experts, known)

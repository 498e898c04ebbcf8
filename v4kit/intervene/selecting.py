"""Edits of who is chosen: experts taken out, preferred, avoided or nudged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from v4kit.arch import Architecture
from v4kit.errors import InputError
from v4kit.intervene.base import Edit, in_range
from v4kit.intervene.choice import Choice

OnHash = Literal["error", "drop", "drop_renorm", "substitute"]
ON_HASH = ("error", "drop", "drop_renorm", "substitute")
"""What may happen to a hash layer's experts that are taken out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablate(Edit):
    """Experts that are not to be used."""

    experts: tuple[int, ...]
    """Their ids."""
    reroute: bool = True
    """Whether others are chosen in their place; else their weights become 0."""
    renorm: bool = False
    """Without rerouting: whether the others' weights make up for them."""
    on_hash: OnHash = "error"
    """What happens in layers that do not choose by score."""

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return self.reroute and self.on_hash == "error"

    @property
    def way_out(self) -> str:
        """What else can be said for layers that do not choose by score."""
        return ' Or say what is to happen there: on_hash="drop", "drop_renorm" or "substitute".'

    def check(self, architecture: Architecture) -> None:
        """Refuse experts that are not there, and leaving fewer than a token needs."""
        n_experts, top_k = architecture.n_experts, architecture.top_k
        in_range(self.experts, n_experts)
        if self.reroute and n_experts - len(set(self.experts)) < top_k:
            raise InputError(
                f"ablate leaves {n_experts - len(set(self.experts))} of {n_experts} experts, but "
                f"every token needs {top_k}. Ablate fewer, or knock them out: reroute=False."
            )

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
        gone = torch.tensor(self.experts, device=choice.experts.device)
        if self.reroute and choice.ranked:
            masked = choice.selection.index_fill(-1, gone, -torch.inf)
            return choice.select(torch.where(rows.unsqueeze(-1), masked, choice.selection), rows)
        if self.reroute and self.on_hash == "substitute":
            return self._substitute(choice, rows, gone)
        renorm = self.renorm if not self.reroute else self.on_hash == "drop_renorm"
        return choice.scaled((~choice.holds(gone)).to(choice.weights), rows, renorm=renorm)

    @staticmethod
    def _substitute(choice: Choice, rows: Tensor, gone: Tensor) -> Choice:
        """Put the best others by score into the slots of experts that are gone."""
        lost = choice.holds(gone)
        free = choice.scores.index_fill(-1, gone, -torch.inf)
        best = free.scatter(-1, choice.experts, -torch.inf).topk(lost.shape[-1], dim=-1).indices
        place = (lost.cumsum(-1) - 1).clamp(min=0)
        return choice.take(torch.where(lost, best.gather(-1, place), choice.experts), rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steer(Edit):
    """Experts that are chosen always, and experts that are chosen last (SteerMoE by V4's rule)."""

    prefer: tuple[int, ...]
    """Their scores of selection are raised above all."""
    avoid: tuple[int, ...]
    """Theirs are lowered below all."""
    weight: Literal["natural", "max"] = "natural"
    """How preferred experts are weighed: by their own score, or by the largest of the token."""
    margin: float = 0.01
    """By how much above, and below."""

    def check(self, architecture: Architecture) -> None:
        """Refuse experts that are not there, in both sets, or more than there are slots."""
        n_experts, top_k = architecture.n_experts, architecture.top_k
        in_range((*self.prefer, *self.avoid), n_experts)
        if set(self.prefer) & set(self.avoid):
            raise InputError(f"steer prefers and avoids {sorted({*self.prefer} & {*self.avoid})}.")
        if len(set(self.prefer)) > top_k:
            raise InputError(
                f"{len(set(self.prefer))} experts can't all be chosen: a token has {top_k}. "
                "Give fewer."
            )
        size = n_experts // architecture.n_groups
        groups = {expert // size for expert in self.prefer}
        if len(groups) > architecture.top_groups:
            raise InputError(
                f"The experts {sorted(self.prefer)} stand in {len(groups)} groups, but a token "
                f"chooses from {architecture.top_groups}. Give experts of fewer groups."
            )

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
        selection, scores = choice.selection.clone(), None
        device = selection.device
        most, least = selection.amax(-1, keepdim=True), selection.amin(-1, keepdim=True)
        # So far above that its group is open as well: a group's rank is the sum of its best two.
        above, below = most + (most - least) + self.margin, least - self.margin
        prefer, avoid = (torch.tensor(s, device=device).long() for s in (self.prefer, self.avoid))
        selection[:, prefer] = above
        selection[:, avoid] = below
        if self.weight == "max" and len(prefer):
            scores = choice.scores.clone()
            scores[:, prefer] = scores.amax(-1, keepdim=True)
        return choice.select(
            torch.where(rows.unsqueeze(-1), selection, choice.selection), rows, scores
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Nudge(Edit):
    """A bias added to some experts' selection: who is chosen moves, the weights' rule does not."""

    experts: tuple[int, ...]
    """Their ids."""
    delta: float
    """What is added."""

    def check(self, architecture: Architecture) -> None:
        """Refuse experts that are not there."""
        in_range(self.experts, architecture.n_experts)

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
        step = torch.zeros_like(choice.selection[0])
        step[list(self.experts)] = self.delta
        return choice.select(choice.selection + step * rows.unsqueeze(-1), rows)

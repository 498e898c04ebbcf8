"""Edits of who is chosen: experts taken out, preferred, avoided or nudged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from v4kit.arch import Architecture, Family
from v4kit.errors import InputError
from v4kit.intervene.base import Edit, in_range
from v4kit.intervene.choice import Choice

OnHash = Literal["error", "drop", "drop_renorm", "substitute"]
ON_HASH: tuple[OnHash, ...] = get_args(OnHash)
"""What may happen to a hash layer's experts that are taken out."""
Nudged = Literal["selection", "logits"]
NUDGED: tuple[Nudged, ...] = get_args(Nudged)
"""What may be nudged."""


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

    @property
    def bars(self) -> tuple[int, ...]:
        """Experts that are not to be chosen in any row it acts on."""
        return self.experts if self.reroute else ()

    def check(self, architecture: Architecture, family: Family) -> None:  # noqa: ARG002 - all alike
        """Refuse experts that are not there."""
        in_range(self.experts, architecture.n_experts)

    def choose(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer chooses by, without the experts."""
        if self.reroute and (choice.ranked or self.on_hash == "substitute"):
            return choice.bar(choice.mask(self.experts), rows)
        return choice

    def weigh(self, choice: Choice, rows: Tensor) -> Choice:
        """Return a choice that was made, without the weights of experts that stayed in it."""
        if self.reroute and (choice.ranked or self.on_hash == "substitute"):
            return choice
        gone = torch.tensor(self.experts, device=choice.experts.device)
        renorm = self.renorm if not self.reroute else self.on_hash == "drop_renorm"
        return choice.scaled((~choice.holds(gone)).to(choice.weights), rows, renorm=renorm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steer(Edit):
    """Experts that are chosen always, and experts that are chosen last (SteerMoE by V4's rule)."""

    prefer: tuple[int, ...]
    """They are chosen before all others."""
    avoid: tuple[int, ...]
    """They are chosen after all others."""
    weight: Literal["natural", "max"] = "natural"
    """How preferred experts are weighed: by their own score, or by the largest of the token."""

    @property
    def prefers(self) -> tuple[int, ...]:
        """Experts that are to be chosen in every row it acts on."""
        return self.prefer

    def check(self, architecture: Architecture, family: Family) -> None:  # noqa: ARG002 - all alike
        """Refuse experts that are not there, or in both sets."""
        in_range((*self.prefer, *self.avoid), architecture.n_experts)
        if set(self.prefer) & set(self.avoid):
            raise InputError(f"steer prefers and avoids {sorted({*self.prefer} & {*self.avoid})}.")

    def choose(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer chooses by, with the experts above or below all others."""
        if self.avoid:
            choice = choice.avoid(choice.mask(self.avoid), rows)
        if not self.prefer:
            return choice
        preferred = choice.mask(self.prefer)
        if self.weight == "max":
            most = choice.scores.amax(-1, keepdim=True)
            choice = choice.weigh_by(torch.where(preferred, most, choice.scores), rows)
        return choice.prefer(preferred, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nudge(Edit):
    """Some experts made likelier, or less likely, to be chosen."""

    experts: tuple[int, ...]
    """Their ids."""
    delta: float
    """By how much."""
    on: Nudged = "selection"
    """What is moved: the score of selection, or the logit in proportion to its size."""

    def check(self, architecture: Architecture, family: Family) -> None:  # noqa: ARG002 - all alike
        """Refuse experts that are not there."""
        in_range(self.experts, architecture.n_experts)

    def choose(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer chooses by, with the experts moved."""
        step = choice.mask(self.experts) * self.delta
        if self.on == "selection":
            return choice.shift(step, rows)
        return choice.rescore(choice.logits + step * choice.logits.abs(), rows)

"""Edits that put something simpler in the place of what a router decides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from v4kit.intervene.base import Edit
from v4kit.intervene.choice import Choice

Rule = Literal["no_bias", "random", "uniform", "nothing"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simpler(Edit):
    """A rule in the place of the router's."""

    rule: Rule
    """Which one."""
    seed: int = 0
    """Of what is random."""

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return self.rule == "no_bias"

    def apply(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer's choice becomes in some rows `[token]`."""
        if self.rule == "no_bias":
            return choice.select(choice.scores, rows)
        if self.rule == "random":
            return choice.take(self._drawn(choice).to(choice.experts), rows)
        weights = torch.zeros_like(choice.weights)
        if self.rule == "uniform":
            weights = choice.weights.mean(-1, keepdim=True).expand_as(weights)
        return replace(choice, weights=torch.where(rows.unsqueeze(-1), weights, choice.weights))

    def _drawn(self, choice: Choice) -> Tensor:
        """Return experts `[token, slot]` that depend on layer and position alone."""
        n_experts, top_k = choice.architecture.n_experts, choice.architecture.top_k
        draws, generator = [], torch.Generator()
        for position in choice.positions.tolist():
            generator.manual_seed((self.seed * 4_099 + choice.layer) * 16_777_259 + position)
            draws.append(torch.randperm(n_experts, generator=generator)[:top_k])
        return torch.stack(draws)

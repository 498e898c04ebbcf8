"""Edits that put something simpler in the place of what a router decides, or of shared experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from v4kit.arch import Architecture, Family
from v4kit.errors import InputError
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
    def name(self) -> str:
        """The function that makes it."""
        return "ablate_router"

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return self.rule == "no_bias"

    def check(self, architecture: Architecture, family: Family) -> None:
        """Refuse to leave out a bias that is not there."""
        if self.rule == "no_bias" and family.bias is None:
            raise InputError(
                f"Routers of {architecture.family} models choose without a bias, so that leaving "
                "it out changes nothing. Use another rule."
            )

    def choose(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer chooses by, as the rule has it."""
        if self.rule == "no_bias" and choice.bias is not None:
            return choice.shift(-choice.bias, rows)
        if self.rule == "random":
            drawn = torch.zeros_like(choice.barred).scatter(-1, self._drawn(choice), value=True)
            return choice.prefer(drawn, rows)
        return choice

    def weigh(self, choice: Choice, rows: Tensor) -> Choice:
        """Return a choice that was made, with weights as the rule has them."""
        if self.rule == "uniform":
            mean = choice.weights.mean(-1, keepdim=True)
            return choice.weighed(mean.expand_as(choice.weights), rows)
        if self.rule == "nothing":
            return choice.weighed(torch.zeros_like(choice.weights), rows)
        return choice

    def _drawn(self, choice: Choice) -> Tensor:
        """Return experts `[token, slot]` that depend on layer and position alone."""
        n_experts, top_k = choice.architecture.n_experts, choice.architecture.top_k
        draws, generator = [], torch.Generator()
        for position in choice.positions.tolist():
            generator.manual_seed((self.seed * 4_099 + choice.layer) * 16_777_259 + position)
            draws.append(torch.randperm(n_experts, generator=generator)[:top_k])
        return torch.stack(draws).to(choice.experts.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unshare(Edit):
    """Shared experts whose output is taken away."""

    @property
    def name(self) -> str:
        """The function that makes it."""
        return "ablate_shared"

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return False

    @property
    def silences(self) -> bool:
        """Whether it takes the shared experts' output away."""
        return True

    def check(self, architecture: Architecture, family: Family) -> None:  # noqa: ARG002 - all alike
        """Refuse to take away what is not there."""
        if not architecture.n_shared:
            raise InputError(f"{architecture.family} models have no shared experts.")

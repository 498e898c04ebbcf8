"""One layer's choice in one forward pass, and the family's rule by which it is made again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from v4kit.arch import Architecture
from v4kit.core import HASH
from v4kit.recording import RouterEvent
from v4kit.recording.routers import eligible


@dataclass(frozen=True, slots=True)
class Choice:
    """What a layer has chosen for each token, and what it chose by."""

    layer: int
    """Layer index."""
    positions: Tensor
    """Positions within the document, integers `[token]`."""
    scores: Tensor
    """Unbiased affinities `[token, expert]`."""
    selection: Tensor
    """Scores that the choice is made by, the bias included `[token, expert]`."""
    experts: Tensor
    """Expert ids `[token, slot]`."""
    weights: Tensor
    """Factors on the experts' outputs `[token, slot]`."""
    architecture: Architecture
    """Tells how many are chosen, from which groups, and what the weights add up to."""
    ranked: bool
    """Whether the layer chooses by score; else its experts follow from the token id."""

    def select(self, selection: Tensor, rows: Tensor, scores: Tensor | None = None) -> Self:
        """Return the choice by other scores, for some rows `[token]`.

        A token whose set of experts stays the same keeps the very tensors that its router
        returned: another order of slots alone would move the logits.
        """
        if scores is None:
            # Where nothing moved, not even a tie is to be settled in another way.
            rows = rows & (selection != self.selection).any(-1)
        top_k = self.architecture.top_k
        chosen = eligible(selection, self.architecture).topk(top_k, dim=-1).indices
        return self.take(chosen, rows, scores=scores, selection=selection)

    def take(
        self,
        experts: Tensor,
        rows: Tensor,
        *,
        scores: Tensor | None = None,
        selection: Tensor | None = None,
    ) -> Self:
        """Return the choice of given experts `[token, slot]`, for some rows `[token]`.

        They are weighed by their scores as the family does; `scores` replaces the scores too.
        """
        weighed = self.scores if scores is None else scores
        same = (experts.sort(-1).values == self.experts.sort(-1).values).all(-1)
        # Other scores weigh the same experts anew.
        changed = rows if scores is not None else rows & ~same
        weights = self._weigh(weighed.gather(-1, experts))
        pick = changed.unsqueeze(-1)
        return replace(
            self,
            scores=torch.where(rows.unsqueeze(-1), weighed, self.scores),
            selection=self.selection if selection is None else selection,
            experts=torch.where(pick, experts.to(self.experts.dtype), self.experts),
            weights=torch.where(pick, weights.to(self.weights.dtype), self.weights),
        )

    def scaled(self, factors: Tensor, rows: Tensor, *, renorm: bool) -> Self:
        """Return the choice with weights times `factors` `[token, slot]`, for some rows.

        Args:
            factors: What each weight is multiplied with.
            rows: Which tokens `[token]`.
            renorm: Whether a token's weights are then brought back to the sum they had. Where all
                are 0, they stay so.
        """
        weights = self.weights * factors.to(self.weights.dtype)
        if renorm:
            before, after = (w.sum(-1, keepdim=True) for w in (self.weights, weights))
            weights = torch.where(after > 0, weights * before / after.clamp(min=1e-20), weights)
        # A factor of 1 everywhere leaves a token as it was, to the bit.
        changed = (rows & (factors != 1).any(-1)).unsqueeze(-1)
        return replace(self, weights=torch.where(changed, weights, self.weights))

    def holds(self, experts: Tensor) -> Tensor:
        """Return which slots `[token, slot]` hold one of some experts `[n]`."""
        return torch.isin(self.experts, experts.to(self.experts))

    def _weigh(self, chosen: Tensor) -> Tensor:
        """Return weights of chosen experts' scores, normalized and scaled as the family says."""
        if self.architecture.normalized:
            chosen = chosen / (chosen.sum(-1, keepdim=True) + 1e-20)
        return chosen * self.architecture.scale


def made(event: RouterEvent, bias: Tensor | None, architecture: Architecture) -> Choice:
    """Return the choice that a router has made.

    Args:
        event: What it returned.
        bias: On its selection scores `[expert]`; None where there is none.
        architecture: The model's.
    """
    scores = event.scores
    return Choice(
        layer=event.layer,
        positions=event.positions,
        scores=scores,
        selection=scores if bias is None else scores + bias.to(scores.device),
        experts=event.experts,
        weights=event.weights,
        architecture=architecture,
        ranked=architecture.layers[event.layer].routing != HASH,
    )

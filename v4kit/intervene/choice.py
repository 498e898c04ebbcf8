"""One layer's choice in one forward pass, and the family's rule by which it is made again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from v4kit.arch import Architecture
from v4kit.core import HASH
from v4kit.recording import RouterEvent
from v4kit.recording.routers import SCORING, eligible

_BELOW = 0.01
"""How far below all others an expert counts that is avoided or barred when groups are compared."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a layer has chosen for each token, and what it chooses by.

    Edits first change what is chosen by: scores, standing, and who is barred. `settled` then makes
    the choice, and edits change its weights.
    """

    layer: int
    """Layer index."""
    positions: Tensor
    """Positions within the document, integers `[token]`."""
    logits: Tensor
    """What the scores are made of `[token, expert]`."""
    scores: Tensor
    """Unbiased affinities, which experts are weighed by `[token, expert]`."""
    selection: Tensor
    """Scores that the choice is made by, the bias included `[token, expert]`."""
    bias: Tensor | None
    """What they include `[expert]`; None where there is none."""
    standing: Tensor
    """Experts of a higher one are chosen first, whatever their score `[token, expert]`. 0 where a
    layer chooses by score; 1 for the experts that a table names."""
    barred: Tensor
    """Experts that are not chosen at all `[token, expert]`."""
    moved: Tensor
    """Tokens whose scores are not the router's, so that they are weighed anew `[token]`."""
    experts: Tensor
    """Expert ids `[token, slot]`."""
    weights: Tensor
    """Factors on the experts' outputs `[token, slot]`."""
    architecture: Architecture
    """Tells how many are chosen, from which groups, and what the weights add up to."""
    scoring: str
    """How the family turns logits into scores."""
    ranked: bool
    """Whether the layer chooses by score; else its experts follow from the token id."""

    # What is chosen by.

    def shift(self, by: Tensor, rows: Tensor) -> Self:
        """Return the choice with `by` `[expert]` added to the selection, for some rows."""
        return replace(self, selection=self.selection + by * rows.unsqueeze(-1))

    def rescore(self, logits: Tensor, rows: Tensor) -> Self:
        """Return the choice by other logits `[token, expert]`, for some rows; the bias stays."""
        logits = logits.to(self.logits.dtype)
        rows = rows & (logits != self.logits).any(-1)
        kept = torch.where(rows.unsqueeze(-1), logits, self.logits)
        scores = SCORING[self.scoring](kept)
        moved = torch.where(rows.unsqueeze(-1), scores - self.scores, 0)
        choice = replace(self, logits=kept, selection=self.selection + moved)
        return choice.weigh_by(scores, rows)

    def weigh_by(self, scores: Tensor, rows: Tensor) -> Self:
        """Return the choice with weights of other scores `[token, expert]`, for some rows."""
        kept = torch.where(rows.unsqueeze(-1), scores, self.scores)
        return replace(self, scores=kept, moved=self.moved | rows)

    def prefer(self, experts: Tensor, rows: Tensor) -> Self:
        """Return the choice with some experts `[token, expert]` (truth) above all others."""
        above = self.standing.amax(-1, keepdim=True).clamp(min=0) + 1
        return self._stand(above, experts, rows)

    def avoid(self, experts: Tensor, rows: Tensor) -> Self:
        """Return the choice with some experts `[token, expert]` (truth) below all others."""
        below = self.standing.amin(-1, keepdim=True).clamp(max=0) - 1
        return self._stand(below, experts, rows)

    def _stand(self, standing: Tensor, experts: Tensor, rows: Tensor) -> Self:
        where = experts & rows.unsqueeze(-1)
        return replace(self, standing=torch.where(where, standing, self.standing))

    def bar(self, experts: Tensor, rows: Tensor) -> Self:
        """Return the choice without some experts `[token, expert]` (truth)."""
        return replace(self, barred=self.barred | (experts & rows.unsqueeze(-1)))

    def mask(self, experts: tuple[int, ...]) -> Tensor:
        """Return which experts these are, truth `[1, expert]`."""
        found = torch.zeros_like(self.barred[:1])
        found[:, list(experts)] = True
        return found

    @property
    def order(self) -> Tensor:
        """What experts are chosen by, the largest first: standing, then selection, then the id.

        Whole numbers `[token, expert]`, all different.
        """
        best_first = self.selection.argsort(dim=-1, descending=True, stable=True)
        place = best_first.argsort(dim=-1)
        return self.standing * self.selection.shape[-1] - place

    # The choice.

    def settled(self, own: Choice) -> Self:
        """Return the choice made again, by what it is made by now.

        A token whose set of experts stays the same keeps the very tensors that its router
        returned: another order of slots alone would move the logits. Where nothing moved, not even
        a tie is settled in another way.

        Args:
            own: The choice as the router made it.
        """
        gone = self.barred
        if self.architecture.top_groups >= self.architecture.n_groups:
            gone = gone.gather(-1, self.experts)
        asked = (self.selection != own.selection).any(-1) | (self.standing != own.standing).any(-1)
        asked = asked | gone.any(-1)
        experts = self._best()
        same = (experts.sort(-1).values == self.experts.sort(-1).values).all(-1)
        pick = (asked & ~same).unsqueeze(-1)
        chosen = torch.where(pick, experts.to(self.experts.dtype), self.experts)
        weights = self._weigh(self.scores.gather(-1, chosen)).to(self.weights.dtype)
        anew = pick | self.moved.unsqueeze(-1)
        return replace(self, experts=chosen, weights=torch.where(anew, weights, self.weights))

    def _best(self) -> Tensor:
        """Return the experts that the family's rule chooses `[token, slot]`; ties: the lower id."""
        closed = self.barred | (self._closed() & (self.standing <= 0))
        able = self.order.masked_fill(closed, -torch.inf)
        return able.topk(self.architecture.top_k, dim=-1).indices

    def _closed(self) -> Tensor:
        """Return the experts whose group is not open `[token, expert]`; none without groups.

        Groups with an expert of a higher standing come first, then those with the largest scores,
        as the family's rule has it.
        """
        n_groups = self.architecture.n_groups
        if self.architecture.top_groups >= n_groups:
            return torch.zeros_like(self.barred)
        least = self.selection.amin(-1, keepdim=True) - _BELOW
        low = self.barred | (self.standing < 0)
        scores = torch.where(low, least, self.selection)
        standing = self.standing.masked_fill(self.barred, 0).clamp(min=0)
        top = standing.reshape(*standing.shape[:-1], n_groups, -1).amax(-1)
        # Higher than any sum of two scores, for each step of standing.
        apart = 2 * (scores.amax(-1, keepdim=True) - scores.amin(-1, keepdim=True)) + _BELOW
        size = scores.shape[-1] // n_groups
        raised = scores + (top * apart).repeat_interleave(size, dim=-1)
        return eligible(raised, self.architecture).isneginf()

    def _weigh(self, chosen: Tensor) -> Tensor:
        """Return weights of chosen experts' scores, normalized and scaled as the family says."""
        if self.architecture.normalized:
            chosen = chosen / (chosen.sum(-1, keepdim=True) + 1e-20)
        return chosen * self.architecture.scale

    # Its weights.

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
        return self.weighed(weights, rows & (factors != 1).any(-1))

    def weighed(self, weights: Tensor, rows: Tensor) -> Self:
        """Return the choice with other weights `[token, slot]`, for some rows."""
        kept = torch.where(rows.unsqueeze(-1), weights.to(self.weights.dtype), self.weights)
        return replace(self, weights=kept)

    def holds(self, experts: Tensor) -> Tensor:
        """Return which slots `[token, slot]` hold one of some experts `[n]`."""
        return torch.isin(self.experts, experts.to(self.experts))


def made(event: RouterEvent, bias: Tensor | None, architecture: Architecture) -> Choice:
    """Return the choice that a router has made.

    Args:
        event: What it returned.
        bias: On its selection scores `[expert]`; None where there is none.
        architecture: The model's.
    """
    scores = event.scores
    ranked = architecture.layers[event.layer].routing != HASH
    bias = None if bias is None else bias.to(scores.device)
    # In 16 bits not all whole numbers of an order are there.
    standing = torch.zeros_like(scores, dtype=torch.float32)
    if not ranked:
        standing = standing.scatter(-1, event.experts.long(), 1.0)
    return Choice(
        layer=event.layer,
        positions=event.positions,
        logits=event.logits,
        scores=scores,
        selection=scores if bias is None else scores + bias,
        bias=bias,
        standing=standing,
        barred=torch.zeros_like(scores, dtype=torch.bool),
        moved=torch.zeros_like(scores[:, 0], dtype=torch.bool),
        experts=event.experts,
        weights=event.weights,
        architecture=architecture,
        scoring=event.scoring,
        ranked=ranked,
    )

"""From routers' raw outputs to what a trace keeps, many layers at once."""

from __future__ import annotations

import torch
from torch import Tensor

from v4kit.arch import Architecture
from v4kit.core import NONE
from v4kit.recording.routers import SCORING, eligible


def reduce_routing(
    logits: Tensor,
    weights: Tensor,
    experts: Tensor,
    *,
    bias: Tensor,
    ranked: Tensor,
    scoring: str,
    architecture: Architecture,
    routing: str,
) -> dict[str, Tensor]:
    """Return the recorded variables of some layers, axes `[token, layer, …]`.

    Slots of ranked layers are stored in descending selection score (score + bias), ties to the
    lower id; hash layers keep the table's order and have no margin, runner-up and bias flips.

    Args:
        logits: Router logits `[layer, token, expert]`.
        weights: Weights that were used `[layer, token, slot]`.
        experts: Experts that were used `[layer, token, slot]`.
        bias: Bias on the selection score `[layer, token, expert]`; 0 where there is none.
        ranked: Which layers chose by score `[layer]`.
        scoring: Name of the scoring function.
        architecture: Tells whether a token chooses from some groups of experts only.
        routing: "ids", "scores" or "full".
    """
    scores = SCORING[scoring](logits)
    selection = (scores + bias).float()
    is_ranked = ranked[:, None, None]
    order = _canonical(selection.gather(-1, experts), experts, is_ranked)
    experts = experts.gather(-1, order)
    kept = {"experts": experts.to(torch.int16), "weights": weights.gather(-1, order).float()}
    if routing != "ids":
        kept["scores"] = scores.gather(-1, experts).float()
        kept |= _competition(scores, selection, experts, is_ranked[..., 0], architecture)
    if routing == "full":
        kept["router_scores"] = scores.float()
    return {name: value.transpose(0, 1) for name, value in kept.items()}


def _canonical(chosen: Tensor, experts: Tensor, ranked: Tensor) -> Tensor:
    """Return the slot order `[layer, token, slot]`: descending selection score, then lower id."""
    by_id = experts.argsort(dim=-1, stable=True)
    by_score = chosen.gather(-1, by_id).argsort(dim=-1, descending=True, stable=True)
    slots = torch.arange(experts.shape[-1], device=experts.device).expand_as(experts)
    return torch.where(ranked, by_id.gather(-1, by_score), slots)


def _competition(
    scores: Tensor,
    selection: Tensor,
    experts: Tensor,
    ranked: Tensor,
    architecture: Architecture,
) -> dict[str, Tensor]:
    """Return margin, runner-up and bias flips, axes `[layer, token]`; ties count for the chosen.

    Where experts stand in groups, only those of open groups compete for second place, and the
    unbiased scores open groups of their own.
    """
    others = eligible(selection, architecture).scatter(-1, experts, -torch.inf)
    best, runner_up = others.max(-1)
    margin = selection.gather(-1, experts).amin(-1) - best
    unbiased = eligible(scores, architecture)
    threshold = unbiased.topk(experts.shape[-1], dim=-1).values[..., -1:]
    flips = (unbiased.gather(-1, experts) < threshold).sum(-1)
    alone = ~ranked | best.isneginf()
    return {
        "margin": margin.masked_fill(alone, torch.nan).float(),
        "runner_up": runner_up.masked_fill(alone, NONE).to(torch.int16),
        "bias_flips": flips.masked_fill(~ranked, NONE).to(torch.int16),
    }

"""From attention weights to what a trace keeps, many layers at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from v4kit.core import NONE


def by_row(weights: Tensor, *, each: bool) -> Tensor:
    """Return weights `[row, (head,) column]` in float32 of `[batch, head, token, column]`.

    Rows are tokens, batch by batch; heads are averaged unless each is kept. The result shares no
    memory with the weights.
    """
    if each:
        return weights.transpose(1, 2).flatten(0, 1).to(torch.float32, copy=True)
    return weights.mean(1, dtype=torch.float32).flatten(0, 1)


def reduce_attention(
    weights: Tensor, *, first: Tensor, n_window: int, sources: int | None, sinks: bool
) -> dict[str, Tensor]:
    """Return shares, entropy and strongest sources, axes `[row, layer, (head,) …]`.

    kept + rest + sink is 1: in float32 to 1e-6; weights that were rounded to bfloat16 may add up to
    more than 1 by 3e-3, and so may these.

    Args:
        weights: Attention weights in float32 `[layer, row, (head,) column]`, the window's columns
            first; columns that a row does not have are 0.
        first: Position of the first column's token `[row]`.
        n_window: Columns that are single tokens.
        sources: How many sources to keep; None: their masses are kept elsewhere.
        sinks: Whether what is missing to 1 is the sinks' share; without sinks it is rounding.
    """
    window = weights[..., :n_window].sum(-1)
    compressed = weights[..., n_window:].sum(-1)
    total = window + compressed
    sink = (1 - total).clamp(min=0) if sinks else torch.zeros_like(total)
    nats = torch.special.entr(weights).sum(-1) + torch.special.entr(sink)
    found = {
        "sink": sink,
        "window": window,
        "compressed": compressed,
        "rest": torch.zeros_like(sink),
        "entropy_bits": nats / math.log(2),
    }
    if sources is not None:
        mass, column = weights.topk(min(sources, weights.shape[-1]), dim=-1)
        whole = total if sinks else torch.ones_like(total)
        found["rest"] = (whole - mass.sum(-1)).clamp(min=0)
        # As `v4kit.attention.decode` reads it.
        token = column + first.view(-1, *[1] * (column.ndim - 2))
        code = torch.where(column < n_window, token, NONE - 1 - (column - n_window))
        padding = (0, sources - mass.shape[-1])
        found["mass"] = F.pad(mass, padding)
        found["code"] = F.pad(code.masked_fill(mass <= 0, NONE).int(), padding, value=NONE)
    return {name: value.transpose(0, 1) for name, value in found.items()}

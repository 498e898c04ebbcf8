"""Where a model's routers stand, and how their logits become scores and a selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4kit.arch import Architecture, Family
from v4kit.errors import UnsupportedModel

SCORING: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrtsoftplus": lambda logits: F.softplus(logits).sqrt(),
    "softmax": lambda logits: torch.softmax(logits, dim=-1, dtype=torch.float32),
    "sigmoid": lambda logits: torch.sigmoid(logits.float()),
}
"""From logits to unbiased affinities, as the family's own router computes them."""


def eligible(selection: Tensor, architecture: Architecture) -> Tensor:
    """Return selection scores `[…, expert]`, −inf for experts that a token may not choose.

    Where experts stand in groups, only the groups with the largest sum of their two best scores
    are open (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
    """
    if architecture.top_groups >= architecture.n_groups:
        return selection
    groups = selection.reshape(*selection.shape[:-1], architecture.n_groups, -1)
    best = groups.topk(2, dim=-1).values.sum(-1).topk(architecture.top_groups, dim=-1).indices
    closed = torch.ones_like(groups[..., 0], dtype=torch.bool).scatter(-1, best, value=False)
    return groups.masked_fill(closed.unsqueeze(-1), -torch.inf).reshape(selection.shape)


def selection_bias(decoder_layer: nn.Module, family: Family) -> Tensor | None:
    """Return the bias on a layer's selection scores `[expert]`; None where there is none."""
    if family.bias is None:
        return None
    path, _, name = family.bias.rpartition(".")
    bias: Tensor | None = getattr(decoder_layer.get_submodule(path), name, None)
    return bias


def find_routers(model: Any, family: Family, architecture: Architecture) -> dict[int, nn.Module]:
    """Return the router modules by layer index.

    Raises:
        UnsupportedModel: A layer that should have a router has none where the table says.
    """
    layers = model.get_submodule(family.layers)
    routers = {}
    for index in architecture.routed:
        try:
            routers[index] = layers[index].get_submodule(family.router)
        except AttributeError as error:
            raise UnsupportedModel(
                f"Layer {index} of this {family.model_type} model has no router at "
                f"{family.router}. v4kit's table is made for transformers 5.23 or newer; "
                "check the transformers version."
            ) from error
    return routers

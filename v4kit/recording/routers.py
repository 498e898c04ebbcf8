"""Where a model's routers stand, and how their logits become scores."""

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

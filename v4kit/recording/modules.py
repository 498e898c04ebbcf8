"""Where a model's attentions, indexers and compressors stand, by the table of families."""

from __future__ import annotations

from typing import Any

from torch import nn

from v4kit.arch import Architecture, Family
from v4kit.errors import UnsupportedModel

_SILENT = ("sdpa", "flash", "flex", "paged")
"""Parts of the names of attention implementations that return no weights."""


def implementation(model: Any) -> str:
    """Return the name of a transformers model's attention implementation."""
    return str(getattr(model.config, "_attn_implementation", None))


def gives_weights(model: Any) -> bool:
    """Whether a transformers model's attention may return its weights."""
    return not any(part in implementation(model) for part in _SILENT)


def find_attentions(model: Any, family: Family, architecture: Architecture) -> dict[int, nn.Module]:
    """Return the attention modules whose columns are known, by layer index.

    Raises:
        UnsupportedModel: A layer has no attention where the table says.
    """
    layers = model.get_submodule(family.layers)
    attentions = {}
    for layer in architecture.layers:
        if layer.attention == "other":
            continue
        try:
            attentions[layer.index] = layers[layer.index].get_submodule(family.attention)
        except AttributeError as error:
            raise UnsupportedModel(
                f"Layer {layer.index} of this {family.model_type} model has no attention at "
                f"{family.attention}. v4kit's table is made for transformers 5.23 or newer; "
                "check the transformers version."
            ) from error
    return attentions


def find_indexers(attentions: dict[int, nn.Module], family: Family) -> dict[int, nn.Module]:
    """Return what chooses among the blocks, for the layers that have it."""
    return _below(attentions, family.indexer)


def find_compressors(attentions: dict[int, nn.Module], family: Family) -> dict[int, nn.Module]:
    """Return what pools tokens into blocks, for the layers that have it."""
    return _below(attentions, family.compressor)


def _below(attentions: dict[int, nn.Module], path: str | None) -> dict[int, nn.Module]:
    found: dict[int, nn.Module] = {}
    for layer, attention in attentions.items() if path else ():
        module: Any = attention
        for name in str(path).split("."):
            module = getattr(module, name, None)
        if module is not None:
            found[layer] = module
    return found

"""From a transformers config to a model's architecture as data, nothing loaded."""

from __future__ import annotations

from typing import Any

from v4kit.arch.architecture import Architecture, Layer
from v4kit.arch.families import FAMILIES, Family, family_of
from v4kit.core import DENSE, HASH, TOPK
from v4kit.errors import UnsupportedModel

_ATTENTION = {
    "sliding_attention": "sliding",
    "compressed_sparse_attention": "csa",
    "heavily_compressed_attention": "hca",
    "indexed_attention": "dsa",
    "full_attention": "full",
}
_COUNTS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "head_dim",
    "vocab_size",
    "num_experts_per_tok",
    "max_position_embeddings",
)
"""Fields that are 1 or more where a config has them."""

_ROUTING = {"hash_moe": HASH, "moe": TOPK, "sparse": TOPK, "dense": DENSE}


def describe(config: Any) -> Architecture:
    """Return the architecture that a transformers config describes, nothing loaded.

    Raises:
        UnsupportedModel: The family is not in the table, the config names no experts, or lacks
            what its family has.
    """
    family = family_of(config)
    try:
        return _described(family, language_part(config))
    except (AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        why = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}, {error}"
        raise UnsupportedModel(
            f"This {family.model_type} config can't be read: {why}. "
            "Compare it with the config.json of the checkpoint."
        ) from error


def _described(family: Family, text: Any) -> Architecture:
    n_experts = getattr(text, family.experts, None)
    if not n_experts:
        raise UnsupportedModel(
            f"This {family.model_type} config has no routed experts ({family.experts} is "
            f"{n_experts!r}). Use a mixture-of-experts model of one of these families: "
            f"{', '.join(sorted(FAMILIES))}."
        )
    _check_counts(text, int(n_experts))
    groups = [int(getattr(text, name) or 1) for name in family.groups or ()] or [1, 1]
    return Architecture(
        family=family.model_type,
        layers=tuple(
            Layer(i, _routing(text, i), **_attention(text, i))
            for i in range(text.num_hidden_layers)
        ),
        n_experts=int(n_experts),
        top_k=int(text.num_experts_per_tok),
        n_shared=int(getattr(text, "n_shared_experts", 0) or 0),
        normalized=bool(_told(text, family.normalized)),
        scale=float(_told(text, family.scale)),
        n_groups=groups[0],
        top_groups=groups[1],
        vocabulary=int(text.vocab_size),
        context=int(text.max_position_embeddings),
        heads=int(text.num_attention_heads),
        sinks=family.sinks,
    )


def _check_counts(text: Any, n_experts: int) -> None:
    for name in _COUNTS:
        value = getattr(text, name, None)
        if value is not None and int(value) < 1:
            raise ValueError(f"{name} is {value!r}")
    if text.num_experts_per_tok > n_experts:
        raise ValueError(f"num_experts_per_tok is {text.num_experts_per_tok} of {n_experts}")


def language_part(config: Any) -> Any:
    """Return the part of a config that describes the language model; all of it in most families."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _told(text: Any, value: Any) -> Any:
    """Return what a config says of a field, or what the table knows."""
    return getattr(text, value) if isinstance(value, str) else value


def _routing(text: Any, layer: int) -> str:
    """Return the kind of a layer's routing, told in one of three ways."""
    types = getattr(text, "mlp_layer_types", None)
    if types:
        return _ROUTING[types[layer]]
    dense = layer < (getattr(text, "first_k_dense_replace", None) or 0)
    dense |= layer in (getattr(text, "mlp_only_layers", None) or ())
    dense |= (layer + 1) % (getattr(text, "decoder_sparse_step", None) or 1) != 0
    return DENSE if dense else TOPK


def _attention(text: Any, layer: int) -> dict[str, Any]:
    """Return the kind of a layer's attention, and what it can see."""
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    name = types[layer] if types else "sliding_attention" if window else "full_attention"
    kind = _ATTENTION.get(name, "other")
    rate = int((getattr(text, "compress_rates", None) or {}).get(name, 0))
    return {
        "attention": kind,
        "window": int(window) if window and kind in ("sliding", "csa", "hca") else None,
        "rate": rate,
        # A CSA block pools the tokens of the block before it with its own.
        "span": 2 * rate if kind == "csa" else rate,
        "chosen": int(text.index_topk) if kind in ("csa", "dsa") else None,
    }

"""The table of families: where a router stands and how it scores, and what attention is made of.

In transformers 5 every router returns `(logits [token, expert], weights [token, slot],
experts [token, slot])`, so a family is one row of data. To add one, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from v4kit.arch.architecture import Architecture, Layer
from v4kit.core import DENSE, HASH, TOPK
from v4kit.errors import UnsupportedModel

_ATTENTION = {
    "sliding_attention": "sliding",
    "compressed_sparse_attention": "csa",
    "heavily_compressed_attention": "hca",
    "full_attention": "full",
}
_V4_ROUTING = {"hash_moe": HASH, "moe": TOPK}


@dataclass(frozen=True, slots=True)
class Family:
    """One family of models, as transformers builds it."""

    model_type: str
    """transformers' `config.model_type`."""
    router: str
    """The router's path below a decoder layer."""
    scoring: str
    """How logits become scores: "sqrtsoftplus", "softmax" or "sigmoid"."""
    bias: str | None
    """The router's attribute with the bias that acts on selection only; None: there is none."""
    experts: str
    """The config's field with the number of routed experts."""
    layers: str = "model.layers"
    """Path of the list of decoder layers below the causal model."""
    weight_sum: str | float | None = None
    """What the weights add up to: a field of the config, a number, or None where it varies."""
    attention: str = "self_attn"
    """The attention's path below a decoder layer; its second output is the weights."""
    sinks: bool = False
    """Every attention head has a learned sink."""
    compressor: str | None = None
    """Path below the attention of what pools tokens into blocks; layers without blocks lack it."""
    indexer: str | None = None
    """Path below the attention of what chooses among the blocks; only some layers have it."""


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "deepseek_v4",
            router="mlp.gate",
            scoring="sqrtsoftplus",
            bias="e_score_correction_bias",
            experts="n_routed_experts",
            weight_sum="routed_scaling_factor",
            sinks=True,
            compressor="compressor",
            indexer="compressor.indexer",
        ),
        Family(
            "mixtral",
            router="mlp.gate",
            scoring="softmax",
            bias=None,
            experts="num_local_experts",
            weight_sum=1.0,
        ),
        Family(
            "olmoe",
            router="mlp.gate",
            scoring="softmax",
            bias=None,
            experts="num_experts",
        ),
        Family(
            "gpt_oss",
            router="mlp.router",
            scoring="softmax",
            bias=None,
            experts="num_local_experts",
            weight_sum=1.0,
            sinks=True,
        ),
    )
}


def family_of(config: Any) -> Family:
    """Return the row of the table for a transformers config.

    Raises:
        UnsupportedModel: The family is not in the table.
    """
    model_type = getattr(config, "model_type", None)
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    raise UnsupportedModel(
        f"v4kit can't read models of type {model_type!r}: it needs a mixture-of-experts model. "
        f"Families that work: {', '.join(sorted(FAMILIES))}."
    )


def describe(config: Any) -> Architecture:
    """Return the architecture that a transformers config describes, nothing loaded.

    Raises:
        UnsupportedModel: The family is not in the table, or the config names no experts.
    """
    family = family_of(config)
    n_experts = getattr(config, family.experts, None)
    if not n_experts:
        raise UnsupportedModel(
            f"This {family.model_type} config has no routed experts ({family.experts} is "
            f"{n_experts!r}). Use a mixture-of-experts model of one of these families: "
            f"{', '.join(sorted(FAMILIES))}."
        )
    count = config.num_hidden_layers
    routing = getattr(config, "mlp_layer_types", None) or ["moe"] * count
    weight_sum = family.weight_sum
    if isinstance(weight_sum, str):
        weight_sum = float(getattr(config, weight_sum))
    return Architecture(
        family=family.model_type,
        layers=tuple(
            Layer(i, _V4_ROUTING.get(routing[i], DENSE), **_attention(config, i))
            for i in range(count)
        ),
        n_experts=int(n_experts),
        top_k=int(config.num_experts_per_tok),
        n_shared=int(getattr(config, "n_shared_experts", 0) or 0),
        weight_sum=weight_sum,
        vocabulary=int(config.vocab_size),
        context=int(config.max_position_embeddings),
        heads=int(config.num_attention_heads),
        sinks=family.sinks,
    )


def _attention(config: Any, layer: int) -> dict[str, Any]:
    """Return the kind of a layer's attention, and what it can see."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    name = types[layer] if types else "sliding_attention" if window else "full_attention"
    kind = _ATTENTION.get(name, "other")
    rate = int((getattr(config, "compress_rates", None) or {}).get(name, 0))
    return {
        "attention": kind,
        "window": None if kind in ("full", "other") or not window else int(window),
        "rate": rate,
        # A CSA block pools the tokens of the block before it with its own.
        "span": 2 * rate if kind == "csa" else rate,
    }

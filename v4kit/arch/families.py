"""The table of families: where a router stands and how it scores.

In transformers 5 every router returns `(logits [token, expert], weights [token, slot],
experts [token, slot])`, so a family is one row of data. To add one, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from v4kit.arch.architecture import Architecture, Layer
from v4kit.core import DENSE, HASH, TOPK
from v4kit.errors import UnsupportedModel

_V4_ATTENTION = {
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
    attention = getattr(config, "layer_types", None) or ["full_attention"] * count
    weight_sum = family.weight_sum
    if isinstance(weight_sum, str):
        weight_sum = float(getattr(config, weight_sum))
    return Architecture(
        family=family.model_type,
        layers=tuple(
            Layer(i, _V4_ROUTING.get(routing[i], DENSE), _V4_ATTENTION.get(attention[i], "other"))
            for i in range(count)
        ),
        n_experts=int(n_experts),
        top_k=int(config.num_experts_per_tok),
        n_shared=int(getattr(config, "n_shared_experts", 0) or 0),
        weight_sum=weight_sum,
        vocabulary=int(config.vocab_size),
        context=int(config.max_position_embeddings),
    )

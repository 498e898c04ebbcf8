"""The table of families: where a router stands and how it scores, and what attention is made of.

In transformers 5 every router returns `(logits [token, expert], weights [token, slot],
experts [token, slot])`, so a family is one row of data. To add one, add a row; `v4kit.validate`
tells whether it is right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from v4kit.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Mixing:
    """Where a model with several residual streams mixes them."""

    attention: str
    """Path below a decoder layer of what mixes the streams around the attention."""
    experts: str
    """Path below a decoder layer of what mixes the streams around the experts."""
    head: str
    """Path below the causal model of what collapses the streams in the end."""


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
    """Path below a decoder layer of the bias that acts on selection only; None: there is none."""
    experts: str
    """The config's field with the number of routed experts."""
    expert_block: str = "mlp.experts"
    """Path below a decoder layer of the module of all routed experts."""
    shared_block: str = "mlp.shared_experts"
    """Path below a decoder layer of the shared experts, where there are any."""
    mixing: Mixing | None = None
    """Where residual streams are mixed; None: there is one stream."""
    layers: str = "model.layers"
    """Path of the list of decoder layers below the causal model."""
    loader: str = "AutoModelForCausalLM"
    """transformers' class that makes the model from its config."""
    normalized: str | bool = True
    """Whether a token's weights are divided by their sum: a field of the config, or known."""
    scale: str | float = 1.0
    """What the weights are multiplied by in the end: a field of the config, or a number."""
    groups: tuple[str, str] | None = None
    """The config's fields with the number of groups of experts, and with how many of them a token
    may choose from; None: it chooses from all experts."""
    attention: str = "self_attn"
    """The attention's path below a decoder layer; its second output is the weights."""
    sinks: bool = False
    """Every attention head has a learned sink."""
    compressor: str | None = None
    """Path below the attention of what pools tokens into blocks; layers without blocks lack it."""
    indexer: str | None = None
    """Path below the attention of what chooses among the blocks; only some layers have it."""


_V3 = Family(
    "deepseek_v3",
    router="mlp.gate",
    scoring="sigmoid",
    bias="mlp.gate.e_score_correction_bias",
    experts="n_routed_experts",
    normalized="norm_topk_prob",
    scale="routed_scaling_factor",
    groups=("n_group", "topk_group"),
)
_OLMOE = Family(
    "olmoe",
    router="mlp.gate",
    scoring="softmax",
    bias=None,
    experts="num_experts",
    normalized="norm_topk_prob",
)

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "deepseek_v4",
            router="mlp.gate",
            scoring="sqrtsoftplus",
            bias="mlp.gate.e_score_correction_bias",
            experts="n_routed_experts",
            scale="routed_scaling_factor",
            sinks=True,
            compressor="compressor",
            indexer="compressor.indexer",
            mixing=Mixing("attn_hc", "ffn_hc", "model.hc_head"),
        ),
        _V3,
        replace(_V3, model_type="deepseek_v32"),
        replace(_V3, model_type="glm_moe_dsa"),
        # A model for pictures, too: its config has DeepSeek-V3's for the language part.
        replace(
            _V3,
            model_type="kimi_k25",
            layers="model.language_model.layers",
            loader="AutoModelForImageTextToText",
        ),
        Family(
            "minimax_m2",
            router="mlp.gate",
            scoring="sigmoid",
            bias="mlp.e_score_correction_bias",
            experts="num_local_experts",
        ),
        _OLMOE,
        replace(_OLMOE, model_type="qwen3_moe"),
        Family(
            "mixtral",
            router="mlp.gate",
            scoring="softmax",
            bias=None,
            experts="num_local_experts",
        ),
        Family(
            "gpt_oss",
            router="mlp.router",
            scoring="softmax",
            bias=None,
            experts="num_local_experts",
            sinks=True,
        ),
    )
}

REFUSED = {
    "deepseek_v41": "DeepSeek-V4.1 is a new architecture, not a larger V4: an encoder and a "
    "decoder, layers that share compressed keys and choices, n-gram memory. transformers "
    f"{version('transformers')} has no classes for it, so there is nothing to load it with.",
}
"""Families that people ask for and that can't be read, with the reason."""


def family_of(config: Any) -> Family:
    """Return the row of the table for a transformers config.

    Raises:
        UnsupportedModel: The family is not in the table.
    """
    model_type = getattr(config, "model_type", None)
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise UnsupportedModel(refusal(model_type))


def refusal(model_type: Any, why: str = "it needs a mixture-of-experts model.") -> str:
    """Return why models of a type can't be read, and which can."""
    return (
        f"v4kit can't read models of type {model_type!r}: {REFUSED.get(str(model_type), why)} "
        f"Families that work: {', '.join(sorted(FAMILIES))}."
    )

"""Models for tests: random ones of every family, made in milliseconds, and the shipped one.

Builders are cached, so a run makes each once; a test that changes a model builds its own with
`fresh`. Random means trained on nothing, not trivial: weights are large enough that experts, blocks
and next tokens differ from token to token.
"""

import functools
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV4Config,
    DeepseekV4ForCausalLM,
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    GlmMoeDsaConfig,
    GlmMoeDsaForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Kimi_K25Config,
    Kimi_K25ForConditionalGeneration,
    MiniMaxM2Config,
    MiniMaxM2ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import v4kit
from v4kit.models.checkpoint import TINY
from v4kit.models.published import published

# Matrices this small lose by a second thread: tenfold where the machine is busy.
torch.set_num_threads(1)

SPECIAL = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
)
"""Special tokens of the tests' tokenizer, in the order of their ids."""

CONTEXT = 400
"""Tokens that the random models hold."""

TEXT = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on. "
    "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2). "
    "Sum: 12 + 34 = 46; 5 + 7 = 12. 春眠不觉晓, 处处闻啼鸟. Ünïcödé – naïve café, 👩‍🚀🙂. "
)
"""A text of several kinds; some of its characters take more than one token."""


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with V4's special tokens, few merges, and every byte."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )


SLIDING, CSA, HCA = (
    "sliding_attention",
    "compressed_sparse_attention",
    "heavily_compressed_attention",
)

_V4: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 48,
        "moe_intermediate_size": 24,
        "num_attention_heads": 4,
        "head_dim": 16,
        "q_lora_rank": 24,
        "o_groups": 2,
        "o_lora_rank": 12,
        "n_routed_experts": 16,
        "num_experts_per_tok": 3,
        "routed_scaling_factor": 1.5,
        "sliding_window": 8,
        "compress_rates": {CSA: 4, HCA: 16},
        "index_n_heads": 16,
        "index_head_dim": 8,
        "index_topk": 4,
        "layer_types": [SLIDING, SLIDING, CSA, HCA, CSA, HCA],
        "mlp_layer_types": ["hash_moe", "hash_moe", "moe", "moe", "moe", "moe"],
    },
    # Other sizes everywhere, and hash layers in unusual places.
    "wide": {
        "hidden_size": 64,
        "moe_intermediate_size": 16,
        "num_attention_heads": 8,
        "head_dim": 8,
        "q_lora_rank": 32,
        "o_groups": 4,
        "o_lora_rank": 8,
        "hc_mult": 2,
        "n_routed_experts": 40,
        "num_experts_per_tok": 5,
        "routed_scaling_factor": 2.5,
        "sliding_window": 20,
        "compress_rates": {CSA: 4, HCA: 32},
        "index_n_heads": 32,
        "index_head_dim": 16,
        "index_topk": 7,
        "layer_types": [HCA, CSA, SLIDING, CSA, HCA],
        "mlp_layer_types": ["moe", "hash_moe", "moe", "moe", "hash_moe"],
    },
}


def v4_config(name: str, **changes: Any) -> DeepseekV4Config:
    """The config "small" or "wide"."""
    fields = {**_V4[name], **changes}
    return DeepseekV4Config(
        vocab_size=len(tokenizer()),
        num_hidden_layers=len(fields["layer_types"]),
        num_key_value_heads=1,
        n_shared_experts=1,
        max_position_embeddings=CONTEXT,
        partial_rotary_factor=0.5,
        initializer_range=0.12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **fields,
    )


PUBLISHED = {
    "flash": "deepseek-ai/DeepSeek-V4-Flash",
    "pro": "deepseek-ai/DeepSeek-V4-Pro",
}
"""Published DeepSeek-V4s, whose first layers stand here in small."""


def _shrunk(repo: str) -> DeepseekV4Config:
    """A published config, as wide as a test can bear: its routing and its blocks unchanged."""
    fields = {k: v for k, v in published()[repo].config.items() if k != "quantization_config"}
    layers = 7
    narrow = {
        "vocab_size": len(tokenizer()),
        "num_hidden_layers": layers,
        "compress_ratios": fields["compress_ratios"][:layers],
        "hidden_size": 48,
        "moe_intermediate_size": 8,
        "num_attention_heads": 4,
        "head_dim": 16,
        "qk_rope_head_dim": 8,
        "q_lora_rank": 24,
        "o_groups": 2,
        "o_lora_rank": 12,
        "index_n_heads": 4,
        "index_head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.12,
        "rope_scaling": None,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    return DeepseekV4Config(**{**fields, **narrow})


def _randomise(hf: Any) -> None:
    """Fill the buffers and parameters that start at zero with something that matters."""
    for module in hf.modules():
        if type(module).__name__ == "DeepseekV4HashRouter":
            table = module.tid2eid
            table.copy_(torch.rand(len(table), module.num_experts).argsort(-1)[:, : table.shape[1]])
        elif type(module).__name__.endswith("Router"):
            torch.nn.init.normal_(module.weight, std=0.2)
        bias = getattr(module, "e_score_correction_bias", None)
        if bias is not None:
            bias.normal_(std=0.3)
        for parameter in ("sinks", "position_bias"):
            if isinstance(getattr(module, parameter, None), torch.nn.Parameter):
                torch.nn.init.normal_(getattr(module, parameter))


_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
"""Sizes of multi-head latent attention."""

_V3 = {
    **_LATENT,
    "num_hidden_layers": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}
_INDEXED = {**_V3, "index_topk": 6, "index_head_dim": 8, "index_n_heads": 4}
"""DeepSeek sparse attention, which sees so many tokens only."""


def _kimi(**fields: Any) -> Any:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    return Kimi_K25Config(text_config={"model_type": "deepseek_v3", **fields}, vision_config=vision)


_OTHERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "deepseek_v3": (DeepseekV3Config, DeepseekV3ForCausalLM, _V3),
    "deepseek_v32": (DeepseekV32Config, DeepseekV32ForCausalLM, _INDEXED),
    "glm_moe_dsa": (
        GlmMoeDsaConfig,
        GlmMoeDsaForCausalLM,
        _INDEXED
        | {"n_group": 1, "topk_group": 1, "indexer_types": ["full", "shared", "full", "shared"]},
    ),
    "kimi_k25": (_kimi, Kimi_K25ForConditionalGeneration, _V3 | {"n_group": 1, "topk_group": 1}),
    "minimax_m2": (
        MiniMaxM2Config,
        MiniMaxM2ForCausalLM,
        {"head_dim": 8, "num_hidden_layers": 3, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "mixtral": (
        MixtralConfig,
        MixtralForCausalLM,
        {"num_hidden_layers": 3, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "olmoe": (
        OlmoeConfig,
        OlmoeForCausalLM,
        {"num_hidden_layers": 2, "num_experts": 12, "num_experts_per_tok": 4},
    ),
    "qwen3_moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {
            "head_dim": 8,
            "num_hidden_layers": 4,
            "mlp_only_layers": [1],
            "moe_intermediate_size": 16,
            "num_experts": 12,
            "num_experts_per_tok": 4,
            "norm_topk_prob": True,
        },
    ),
    "gpt_oss": (
        GptOssConfig,
        GptOssForCausalLM,
        {
            "num_hidden_layers": 4,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "sliding_window": 8,
            "rope_parameters": {"rope_type": "default"},
        },
    ),
}
"""Config, model and sizes of every family but DeepSeek-V4."""

_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def fresh(family: str, *, seed: int = 1, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A new model: "small", "wide", "flash" or "pro" (V4), or a family by transformers' name."""
    attention = changes.pop("attn_implementation", None)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        if family in _V4:
            hf = DeepseekV4ForCausalLM(v4_config(family, **changes))
        elif family in PUBLISHED:
            hf = DeepseekV4ForCausalLM(_shrunk(PUBLISHED[family]))
        else:
            config, model, sizes = _OTHERS[family]
            fields = {"vocab_size": len(tokenizer()), **_COMMON, **sizes, **changes}
            hf = model(config(**fields))
        _randomise(hf)
    if attention:
        hf.set_attn_implementation(attention)
    return hf.to(dtype).eval()


@functools.cache
def random_model(family: str) -> v4kit.Model:
    """A random model of a family, wrapped; shared, so leave it as you find it."""
    return v4kit.wrap(fresh(family), tokenizer())


@functools.cache
def eager(family: str) -> v4kit.Model:
    """A random model of a family, as `v4kit.load` would make it: attention returns its weights."""
    return v4kit.wrap(fresh(family, attn_implementation="eager"), tokenizer())


@functools.cache
def tiny() -> v4kit.Model:
    """The model that ships with the kit; without its weights the package is not whole."""
    assert (TINY / "model.safetensors").is_file(), f"The weights are missing in {TINY}."
    return v4kit.load()


def model(name: str) -> v4kit.Model:
    """ "tiny" or the name of a random family."""
    return tiny() if name == "tiny" else random_model(name)


V4 = ("small", "wide", "tiny")
"""DeepSeek-V4 models under test."""
ALL = (*V4, "mixtral", "olmoe")
"""Models of the families that most tests run on."""
OTHERS = tuple(_OTHERS)
"""Every family but DeepSeek-V4."""
EVERY = ("flash", "pro", *OTHERS)
"""Every family, DeepSeek-V4 in two published shapes."""

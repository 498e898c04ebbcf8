"""A small random mixture-of-experts model that a serving engine can load on a CPU."""

import copy
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests import zoo

FIELDS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "mlp_only_layers": [1],
    "norm_topk_prob": True,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "dtype": "float32",
}

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<｜User｜>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜></think>{% endif %}"
)
"""How its chats are written; it is of a family that has no format of its own."""


def tokenizer() -> PreTrainedTokenizerFast:
    """The tests' tokenizer, with a template for chats."""
    own = copy.deepcopy(zoo.tokenizer())
    own.chat_template = TEMPLATE
    return own


def build() -> Qwen3MoeForCausalLM:
    """The model; the same weights every time."""
    torch.manual_seed(0)
    hf = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=len(zoo.tokenizer()), **FIELDS))
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.ndim >= 2:
                wide = "gate.weight" in name or "embed" in name
                parameter.normal_(0, 0.3 if wide else 0.12)
    return hf.eval()


def write(folder: Path) -> Path:
    """Write its weights, config and tokenizer, as an engine loads them."""
    build().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder

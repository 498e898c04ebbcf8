"""What a context costs: the cache of its tokens, and the memory that a pass works in."""

from __future__ import annotations

from typing import Any

from v4kit.arch import Architecture, Layer, language_part

_COPIES = 3
"""Attention logits, their softmax, and the weights without the sink stand in memory at once."""


def cache_bytes(config: Any, architecture: Architecture, layer: int, tokens: int, size: int) -> int:
    """Return the bytes that transformers' cache holds of one layer after so many tokens.

    Args:
        config: The transformers config.
        architecture: The same, as data.
        layer: Index of the layer.
        tokens: Tokens of the one sequence.
        size: Bytes of one number.
    """
    text = language_part(config)
    one = architecture.layers[layer]
    kept = tokens if one.window is None else min(tokens, one.window - 1)
    if not one.rate:
        return kept * _row(text, one) * size
    return (kept * _row(text, one) + _blocks(text, one, tokens)) * size


def working_bytes(config: Any, architecture: Architecture, tokens: int, chunk: int) -> int:
    """Return an estimate of what one pass over a chunk needs at most, at the end of a context.

    The largest layer's attention logits in float32, the indexer's scores, and the logits of the
    chunk; experts and residual streams are small beside them.
    """
    text = language_part(config)
    rows = min(chunk, tokens)
    attention = max(_columns(one, tokens, rows) for one in architecture.layers)
    heads = architecture.heads * attention * _COPIES
    # What an indexer scores: blocks, or tokens one by one.
    rates = [one.rate or 1 for one in architecture.layers if one.attention in ("csa", "dsa")]
    indexer = getattr(text, "index_n_heads", 0) * (tokens // min(rates)) if rates else 0
    return 4 * rows * (heads + indexer + 2 * architecture.vocabulary)


def _columns(layer: Layer, tokens: int, rows: int) -> int:
    """Return how many columns the attention of a chunk has."""
    seen = tokens if layer.window is None else min(tokens, layer.window - 1 + rows)
    return seen + (tokens // layer.rate if layer.rate else 0)


def _row(text: Any, layer: Layer) -> int:
    """Return the numbers that are kept of one token: its keys and its values."""
    if getattr(text, "model_type", "") == "deepseek_v4":
        # One head whose values are its keys; without blocks the two are kept apart all the same.
        return (1 if layer.rate else 2) * int(text.head_dim)
    if getattr(text, "kv_lora_rank", None):
        # One latent for all heads, its rotated part, and the key of the indexer.
        latent = int(text.kv_lora_rank) + int(text.qk_rope_head_dim)
        return latent + (int(text.index_head_dim) if _indexes(text, layer) else 0)
    heads = int(text.num_attention_heads)
    size = getattr(text, "head_dim", None) or int(text.hidden_size) // heads
    return 2 * int(getattr(text, "num_key_value_heads", None) or heads) * int(size)


def _indexes(text: Any, layer: Layer) -> bool:
    """Tell whether a layer chooses tokens itself, and not as the layer before it did."""
    types = getattr(text, "indexer_types", None)
    return layer.attention == "dsa" and not (types and types[layer.index] == "shared")


def _blocks(text: Any, layer: Layer, tokens: int) -> int:
    """Return the numbers that are kept of blocks: those closed, and what the next one gathers."""
    closed, open_ = divmod(tokens, layer.rate)
    if layer.attention != "csa":
        return (closed + 2 * open_) * int(text.head_dim)
    width = int(text.head_dim) + int(text.index_head_dim)
    overlap = 2 * layer.rate if closed else 0
    return (closed + 4 * open_ + overlap) * width

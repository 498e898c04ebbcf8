"""The size of a checkpoint's files, from its config alone."""

from __future__ import annotations

import copy
from typing import Any

import torch

from v4kit.arch import family_of, language_part
from v4kit.models.skeleton import Skeleton, countable, skeleton


def stored_bytes(config: Any) -> int | None:
    """Return the bytes of a model's parameters as they are stored, if that can be counted."""
    return _bytes(_as_stored(config), "") if countable(config) else None


def file_bytes(config: Any, loaded: int | None) -> int | None:
    """Return the bytes of a checkpoint's files, if they can be counted.

    They hold more than transformers loads: blocks that predict several tokens at once (MTP), each
    a decoder layer and two projections of its input.

    Args:
        config: The transformers config.
        loaded: Bytes of what is loaded, as it is stored.
    """
    text = language_part(config)
    blocks = getattr(text, "num_nextn_predict_layers", None) or 0
    if loaded is None or not blocks:
        return loaded
    layers = _bytes(_as_stored(_of_last_layers(config, blocks)), f"{family_of(config).layers}.")
    width = 1 if getattr(config, "quantization_config", None) is not None else 2
    return loaded + layers + blocks * 2 * int(text.hidden_size) ** 2 * width


def _of_last_layers(config: Any, count: int) -> Any:
    """Return the config of so many layers like the last; DeepSeek-V4's without blocks of tokens."""
    short = copy.deepcopy(config)
    text = language_part(short)
    layers = int(text.num_hidden_layers)
    for name, kinds in list(vars(text).items()):
        if isinstance(kinds, list) and len(kinds) == layers:
            plain = name == "layer_types" and text.model_type == "deepseek_v4"
            setattr(text, name, ["sliding_attention" if plain else kinds[-1]] * count)
    if getattr(text, "first_k_dense_replace", None):
        text.first_k_dense_replace = 0
    text.num_hidden_layers = count
    return short


def _as_stored(config: Any) -> Skeleton:
    dtype = getattr(language_part(config), "dtype", None) or torch.bfloat16
    return skeleton(config, dtype, quantized=True)


def _bytes(bones: Skeleton, begin: str) -> int:
    """Return the bytes of the tensors whose names begin so."""
    tensors = (*bones.model.named_parameters(), *bones.model.named_buffers())
    return sum(bones.bytes_of(name, tensor) for name, tensor in tensors if name.startswith(begin))

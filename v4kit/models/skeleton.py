"""A model without storage: transformers' own modules and quantizer on the meta device."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from v4kit.errors import UnsupportedModel
from v4kit.models.checkpoint import loader_of, sentence


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model whose tensors have shapes and dtypes, but no memory."""

    model: Any
    """transformers' causal language model on the meta device."""
    quantizer: Any
    """transformers' quantizer, if quantized weights are kept; else None."""
    dtypes: dict[str, torch.dtype]
    """Part of a name → dtype of the parameters that are loaded in another one than the model's."""

    def bytes_of(self, name: str, tensor: torch.Tensor) -> int:
        """Return the memory that a parameter or buffer takes once it is loaded."""
        if tensor.dtype == self.model.dtype and isinstance(tensor, torch.nn.Parameter):
            parts = name.split(".")
            for kept, dtype in self.dtypes.items():
                if kept in parts:
                    return tensor.numel() * dtype.itemsize
        return tensor.numel() * tensor.element_size()


def skeleton(config: Any, dtype: torch.dtype, *, quantized: bool) -> Skeleton:
    """Return a model as transformers would build it for loading, nothing allocated.

    Args:
        config: A transformers config.
        dtype: What parameters that are not quantized get.
        quantized: Whether weights stay in the precision of the checkpoint's quantization.

    Raises:
        UnsupportedModel: transformers can't build a model of it.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    config = copy.deepcopy(config)
    stored = getattr(config, "quantization_config", None)
    try:
        with torch.device("meta"):
            model = loader_of(config).from_config(config, dtype=dtype)
    # Whatever the modules do with a number that can't be: all kinds of errors.
    except Exception as error:
        raise UnsupportedModel(
            f"transformers can't build a {config.model_type} model of this config: "
            f"{type(error).__name__}, {sentence(error)} Compare it with the checkpoint's "
            "config.json."
        ) from error
    quantizer = None
    if quantized and stored is not None:
        quantizer = AutoHfQuantizer.from_config(stored, pre_quantized=True)
        quantizer.quantization_config.dequantize = False
        with _experts_as_they_were():
            quantizer._process_model_before_weight_loading(model)  # noqa: SLF001 - asks no GPU
    return Skeleton(model, quantizer, model._get_dtype_plan(dtype))  # noqa: SLF001 - as loading does


@contextlib.contextmanager
def _experts_as_they_were() -> Iterator[None]:
    """Undo that transformers wraps the class of FP8 experts once more for every layer it makes.

    After some twenty models of 43 layers, making one would exceed Python's depth of calls.
    """
    from transformers.integrations.finegrained_fp8 import FP8Experts

    wrapped = ("__init__", "forward")
    before = {name: getattr(FP8Experts, name) for name in wrapped}
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(FP8Experts, name, method)


def quantization_of(config: Any) -> dict[str, Any]:
    """Return how a checkpoint is quantized; nothing if it is not."""
    stored = getattr(config, "quantization_config", None) or {}
    return stored if isinstance(stored, dict) else dict(stored.to_dict())


def check_quantization(config: Any) -> None:
    """Refuse a quantization that transformers does not know.

    Raises:
        UnsupportedModel: The config's `quantization_config` can't be read.
    """
    from transformers.quantizers.auto import AutoQuantizationConfig

    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return
    try:
        AutoQuantizationConfig.from_dict(quantization_of(config))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UnsupportedModel(
            f"transformers can't read how this checkpoint is quantized: {sentence(error)} Compare "
            "quantization_config and expert_dtype with the config.json of the checkpoint."
        ) from error


def countable(config: Any) -> bool:
    """Whether the bytes of a checkpoint's weights can be counted as they are stored."""
    return bool(quantization_of(config).get("quant_method", "fp8") == "fp8")


def stored_as(config: Any) -> str:
    """Return the precision of a checkpoint's files, in words."""
    stored = quantization_of(config)
    if not stored:
        return str(getattr(config, "dtype", None) or "bfloat16").removeprefix("torch.")
    method = str(stored.get("quant_method", "quantized")).upper()
    return f"FP4 experts + {method}" if stored.get("expert_dtype") == "fp4" else method

"""A transformers model and its tokenizer, from the kit's own folder, a local folder or a hub id."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from v4kit.arch import describe
from v4kit.errors import InputError, ModelError, ModelNotFound
from v4kit.models.checkpoint import (
    TINY,
    cached,
    check_files,
    loader_of,
    not_found,
    options_of,
    read_config,
    sentence,
    source_of,
)
from v4kit.models.dtypes import resolve_dtype
from v4kit.models.foresee import SMALL, foresee
from v4kit.models.place import Place
from v4kit.models.precision import check_scales, keep_float32
from v4kit.models.skeleton import check_quantization, countable, stored_as


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory and what is known of where it came from."""

    model: Any
    """transformers' causal language model, in evaluation mode."""
    tokenizer: Any
    """transformers' tokenizer."""
    name: str
    """"tiny", a folder or a hub id."""
    revision: str | None
    """Commit of the hub's files; None for local ones."""
    stored: str
    """Precision of its files."""


def load_transformers(
    name: str | Path | None,
    *,
    dtype: str | torch.dtype,
    device_map: Any,
    max_memory: dict[Any, Any] | None,
    offload_folder: str | Path | None,
    revision: str | None,
    attn_implementation: str,
    anyway: bool = False,
) -> Loaded:
    """Return a model and its tokenizer; None or "tiny" is the model that ships with the kit.

    The config is read and judged before any weight is: a model that the kit can't read is refused
    without a download, and so is, unless `anyway`, what can't fit or would be dequantized to more
    than it is stored in. Devices that are not there and disks that are full are refused always.
    Code from a checkpoint is never executed.

    Raises:
        ModelNotFound: There is no such folder or hub id, or it can't be reached.
        UnsupportedModel: The model is dense or of a family that the table lacks.
        ModelError: Weights are missing or damaged, fit another config, or do not fit into memory.
        InputError: The dtype or the device map can't be used, or weights would be dequantized.
    """
    resolve_dtype(dtype)
    config = read_config(name, revision=revision)
    describe(config)
    check_quantization(config)
    quantized = getattr(config, "quantization_config", None) is not None
    torch_dtype = resolve_dtype(dtype, quantized=quantized)
    source = source_of(name)
    place = Place.of(device_map, max_memory, offload_folder)
    local = Path(source).is_dir()
    size = check_files(Path(source)) if local else None
    if size is None or size >= SMALL or place.by_module:
        foresee(
            config,
            place.machine,
            download=not local,
            dtype=dtype,
            device_map=place.device_map,
            offload_folder=place.folder,
            anyway=anyway,
        )
    stored = stored_as(config)
    options = options_of(revision)
    placement = place.options()
    tokenizer = _tokenizer(source, options)
    how = {"dtype": torch_dtype, "attn_implementation": attn_implementation}
    model = _weights(source, {**options, **placement, "config": config, **how})
    keep_float32(model, quantized=quantized)
    if countable(config):
        check_scales(model)
    commit = getattr(config, "_commit_hash", None)
    known = "tiny" if source == str(TINY) else source
    return Loaded(model.eval(), tokenizer, known, commit, stored)


def _tokenizer(source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        local = Path(source).is_dir()
        advice = "Save the model's tokenizer into the same folder." if local else cached()
        raise ModelNotFound(
            f"{source!r} has no tokenizer that can be read: {sentence(error)} {advice}"
        ) from error


def _weights(source: str, options: dict[str, Any]) -> Any:
    model, info = _read(source, options)
    _check_keys(source, info)
    return model


def _read(source: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a model, and which weights it had no use for, or none of, or of another shape."""
    from safetensors import SafetensorError

    try:
        with _progress(Path(source)):
            found: Any = loader_of(options["config"]).from_pretrained(
                source, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
            model, info = found
            return model, info
    except OSError as error:
        raise not_found(source, error) from error
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"The weights of {source!r} could not be loaded: {sentence(error)} "
            "Check that the files are whole, belong to the config and fit into memory."
        ) from error
    except (ValueError, AssertionError) as error:
        if re.search("attention|attn_implementation", str(error), re.IGNORECASE):
            raise InputError(
                f"attn_implementation={options['attn_implementation']!r} can't be used: "
                f'{sentence(error)} Use "eager".'
            ) from error
        raise InputError(
            f"{source!r} can't be placed as asked (device_map, max_memory, offload_folder): "
            f"{sentence(error)} Weights that stay on disk need an offload_folder."
        ) from error


def _check_keys(source: str, info: dict[str, Any]) -> None:
    """Refuse a model of which a part was not read, or that lacks what was read."""
    wrong = {
        "are missing, and would be random": info["missing_keys"],
        "belong to no part of the model": info["unexpected_keys"],
        "have another shape than the config says": [key for key, *_ in info["mismatched_keys"]],
    }
    for what, keys in wrong.items():
        if keys:
            first = ", ".join([*sorted(keys)[:3], *(["…"] if len(keys) > 3 else [])])
            raise ModelError(
                f"{len(keys)} weights of {source!r} {what}: {first}. "
                "Check that the files are whole and belong to the config."
            )


@contextlib.contextmanager
def _progress(source: Path) -> Iterator[None]:
    """Show transformers' progress bar where there is something to wait for."""
    from transformers.utils import logging

    small = source.is_dir() and sum(f.stat().st_size for f in source.glob("*.safetensors")) < SMALL
    if not small or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]

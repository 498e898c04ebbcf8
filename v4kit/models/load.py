"""A transformers model and its tokenizer, from the kit's own folder, a local folder or a hub id."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from v4kit.arch import FAMILIES, describe
from v4kit.errors import InputError, ModelError, ModelNotFound, UnsupportedModel

TINY = Path(__file__).parent / "tiny"
"""Folder of the small trained model that ships with the kit."""

_SMALL = 10**9
"""Bytes of weights below which loading takes no more than seconds."""

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


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


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype | str:
    """Return the dtype to load in; "auto" is float32 on a CPU, else what the checkpoint says.

    Raises:
        InputError: The dtype is not one that V4 runs in.
    """
    if dtype == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise InputError(
            f"dtype can be 'auto', 'bfloat16' or 'float32'; given was {dtype!r}. "
            "float16 fails inside V4, whose compressors stay in float32."
        )
    return _DTYPES[name]


def load_transformers(
    name: str | Path | None,
    *,
    dtype: str | torch.dtype,
    device_map: Any,
    max_memory: dict[Any, Any] | None,
    offload_folder: str | Path | None,
    revision: str | None,
    attn_implementation: str,
) -> Loaded:
    """Return a model and its tokenizer; None or "tiny" is the model that ships with the kit.

    The config is read and judged before any weight is: a model that the kit can't read is refused
    without a download. Code from a checkpoint is never executed.

    Raises:
        ModelNotFound: There is no such folder or hub id, or it can't be reached.
        UnsupportedModel: The model is dense or of a family that the table lacks.
        ModelError: The weights are damaged, fit another config, or do not fit into memory.
        InputError: The dtype or the device map can't be used.
    """
    torch_dtype = resolve_dtype(dtype)
    config = read_config(name, revision=revision)
    describe(config)
    source = _source(name)
    options = _options(revision)
    placement = _placement(device_map, max_memory, offload_folder)
    tokenizer = _tokenizer(source, options)
    how = {"dtype": torch_dtype, "attn_implementation": attn_implementation}
    model = _weights(source, {**options, **placement, "config": config, **how})
    commit = getattr(config, "_commit_hash", None)
    return Loaded(model.eval(), tokenizer, "tiny" if source == str(TINY) else source, commit)


def read_config(name: str | Path | None, *, revision: str | None = None) -> Any:
    """Return a model's transformers config; nothing else of it is read.

    Raises:
        ModelNotFound: There is no such folder or hub id, or it can't be reached.
        UnsupportedModel: transformers knows no such architecture.
    """
    from transformers import AutoConfig

    source = _source(name)
    _check_folder(source)
    try:
        return AutoConfig.from_pretrained(source, **_options(revision))
    except OSError as error:
        raise _not_found(source, error) from error
    except (ValueError, KeyError) as error:
        raise UnsupportedModel(
            f"The config of {source!r} describes no model that transformers knows: "
            f"{_reason(error)} Families that work: {', '.join(sorted(FAMILIES))}."
        ) from error


def _tokenizer(source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"{source!r} has no tokenizer that can be read: {_reason(error)} "
            "Save the model's tokenizer into the same folder."
        ) from error


def _weights(source: str, options: dict[str, Any]) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        with _progress(Path(source)):
            return AutoModelForCausalLM.from_pretrained(source, **options)
    except OSError as error:
        raise _not_found(source, error) from error
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"The weights of {source!r} could not be loaded: {_reason(error)} "
            "Check that the files are whole, belong to the config and fit into memory."
        ) from error
    except (ValueError, AssertionError) as error:
        if re.search("attention|attn_implementation", str(error), re.IGNORECASE):
            raise InputError(
                f"attn_implementation={options['attn_implementation']!r} can't be used: "
                f'{_reason(error)} Use "eager".'
            ) from error
        raise InputError(
            f"{source!r} can't be placed as asked (device_map, max_memory, offload_folder): "
            f"{_reason(error)} Weights that stay on disk need an offload_folder."
        ) from error


@contextlib.contextmanager
def _progress(source: Path) -> Iterator[None]:
    """Show transformers' progress bar where there is something to wait for."""
    from transformers.utils import logging

    small = source.is_dir() and sum(f.stat().st_size for f in source.glob("*.safetensors")) < _SMALL
    if not small or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _options(revision: str | None) -> dict[str, Any]:
    """Return what every reading of a checkpoint is called with: none of its code is run."""
    return {"trust_remote_code": False, **({"revision": revision} if revision else {})}


def _source(name: str | Path | None) -> str:
    """Return a folder or a hub id as text; "./name" stays what it is, a folder."""
    if name is None or name == "tiny":
        return str(TINY)
    return str(Path(name).expanduser()) if str(name).startswith("~") else str(name)


def _check_folder(source: str) -> None:
    folder = Path(source)
    looks_local = source.startswith((".", "/")) or folder.exists()
    if not looks_local:
        return
    if not folder.is_dir():
        raise ModelNotFound(f"There is no folder {source}. Give a model's folder or a hub id.")
    if not (folder / "config.json").exists():
        raise ModelNotFound(
            f"The folder {source} holds no model: it has no config.json. "
            "Give a folder as save_pretrained writes it."
        )


def _placement(
    device_map: Any, max_memory: dict[Any, Any] | None, offload_folder: str | Path | None
) -> dict[str, Any]:
    """Return transformers' placement options; without a GPU "auto" means the CPU."""
    if device_map == "auto" and max_memory is None and not torch.cuda.is_available():
        return {}
    if device_map is None:
        return {}
    if find_spec("accelerate") is None:
        raise InputError(
            f"device_map={device_map!r} needs accelerate, which is not installed. "
            "Run: pip install v4kit[gpu]"
        )
    placement: dict[str, Any] = {"device_map": device_map}
    if max_memory is not None:
        placement["max_memory"] = max_memory
    if offload_folder is not None:
        placement["offload_folder"] = str(offload_folder)
    return placement


def _reason(error: Exception) -> str:
    """Return the first line of what an error says, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" .:!") + "."


def _not_found(source: str, error: Exception) -> ModelNotFound:
    return ModelNotFound(
        f"{source!r} could not be loaded: {_reason(error)} "
        'Give "tiny", a folder that holds a model, or a hub id that this machine can reach.'
    )

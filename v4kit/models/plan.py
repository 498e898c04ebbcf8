"""`plan`: what loading a model will need, before anything of it is downloaded or allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from v4kit.arch import Architecture, describe
from v4kit.core.plan import MemoryPlan, Part
from v4kit.errors import InputError, ModelNotFound
from v4kit.models import placing
from v4kit.models.chat import MAX_CONTEXT
from v4kit.models.checkpoint import read_config
from v4kit.models.counting import count
from v4kit.models.dtypes import resolve_dtype
from v4kit.models.hardware import Machine, machine
from v4kit.models.published import published
from v4kit.models.rooms import CHUNK, Rooms
from v4kit.models.skeleton import (
    check_quantization,
    countable,
    quantization_of,
    skeleton,
    stored_as,
)
from v4kit.models.stored import file_bytes, stored_bytes
from v4kit.models.verdict import Findings, bandwidths, judge, most_tokens_per_second

CONTEXT = 32_768
"""Tokens that a cache is planned for, if nothing is said."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A config and where it came from."""

    name: str
    config: Any
    where: str
    download: int | None
    """Bytes of its files, if they are known."""
    local: bool
    """Whether its files are here."""

    @property
    def unknown(self) -> bool:
        """Whether the size of its files has to be counted."""
        return not self.local and self.download is None


def plan(
    model: str | Path | Any,
    *,
    max_memory: Mapping[Any, Any] | None = None,
    dtype: str | torch.dtype = "auto",
    context: int | None = None,
    gpus: str | None = None,
    device_map: Any = "auto",
) -> MemoryPlan:
    """Return what loading a model will need and where its layers will go; nothing is loaded.

    Parameters are counted on the meta device with transformers' own classes and quantizer, and
    placed by its own functions, so the plan is what loading will do. Configs of the published
    DeepSeek-V4 checkpoints ship with the kit; others are read from a folder or the hub.

    Args:
        model: A hub id, a folder, or a transformers config.
        max_memory: Memory by device, such as `{0: "80GB", "cpu": "200GB"}`; devices that it lacks
            are not used.
        dtype: As in `load`.
        context: Tokens that the cache is to hold; None: 32,768, or what the model reads if that is
            less.
        gpus: GPUs to plan for, such as "4 x H100"; those of this machine if not given.
        device_map: As in `load`.

    Raises:
        ModelNotFound: There is no such folder or hub id, or it can't be reached.
        UnsupportedModel: The model is dense or of a family that the kit can't read.
        InputError: A size, device or context that can't be.
    """
    return _planned(
        _source(model), machine(gpus, max_memory), dtype=dtype, context=context, asked=device_map
    )


def plan_here(
    config: Any, here: Machine, *, download: bool, dtype: str | torch.dtype, device_map: Any
) -> MemoryPlan:
    """Return the plan for loading a model now, with no more memory than there is.

    Args:
        config: Its transformers config.
        here: The devices of this machine.
        download: Whether its files come from the hub, so that their size is of interest.
        dtype: As in `load`.
        device_map: As in `load`.

    Raises:
        UnsupportedModel: transformers can't build a model of the config.
        InputError: A device or a module that is not there.
    """
    source = replace(_source(config), local=not download)
    return _planned(source, here, dtype=dtype, context=1, asked=device_map)


def _planned(
    source: _Source,
    here: Machine,
    *,
    dtype: str | torch.dtype,
    context: int | None,
    asked: Any,
) -> MemoryPlan:
    config, architecture = source.config, describe(source.config)
    check_quantization(config)
    context = _context(context, architecture)
    stored, counts = bool(quantization_of(config)), countable(config)
    keeps = stored and counts and here.keeps_quantized
    torch_dtype = _dtype(config, dtype, here)
    bones = skeleton(config, torch_dtype, quantized=keeps)
    placed = placing.device_map(bones, here, asked=asked)
    parts = count(bones, architecture)
    as_stored = _as_stored(source, parts, keeps=keeps)
    rooms = Rooms(config, architecture, bones, here, placed)
    found = Findings(
        parts=parts,
        placements=rooms.at(context),
        context=context,
        longest=rooms.longest(),
        layers=architecture.n_layers,
        stored=stored_as(config),
        stored_bytes=as_stored if stored and not keeps else None,
        counts=counts,
    )
    return MemoryPlan(
        model=source.name,
        source=source.where,
        stored=found.stored,
        precision=found.stored if keeps else str(torch_dtype).removeprefix("torch."),
        parts=parts,
        device_map=placed,
        placements=found.placements,
        context=context,
        chunk=CHUNK,
        longest=found.longest,
        fits=found.fits,
        verdict=judge(found),
        advice=(*found.advice(), *_effort(architecture, found.longest)),
        most_tokens_per_second=most_tokens_per_second(found, architecture),
        bandwidths=bandwidths(found),
        download=file_bytes(config, as_stored) if source.unknown else source.download,
    )


def _as_stored(source: _Source, parts: tuple[Part, ...], *, keeps: bool) -> int | None:
    """Return the bytes of all parameters as they are stored, where that is asked for."""
    if keeps:
        return sum(part.bytes for part in parts)
    asked = source.unknown or quantization_of(source.config)
    return stored_bytes(source.config) if asked else None


def _effort(architecture: Architecture, longest: int) -> tuple[str, ...]:
    """Tell whether DeepSeek-V4's greatest reasoning effort has room to think in."""
    if (
        architecture.family != "deepseek_v4"
        or not 0 < longest < MAX_CONTEXT <= architecture.context
    ):
        return ()
    return (
        (
            f'Reasoning with effort "max" wants a context of {MAX_CONTEXT:,} tokens: '
            "more than fit here."
        ),
    )


def _source(model: Any) -> _Source:
    if hasattr(model, "to_dict"):
        name = getattr(model, "name_or_path", "") or type(model).__name__
        return _Source(name, model, "the config that was given", None, local=False)
    known = published().get(str(model))
    if known is not None and not Path(str(model)).is_dir() and not _cached(known.repo):
        from transformers import AutoConfig

        config = AutoConfig.for_model(**known.config)
        where = f"a snapshot that ships with the kit: {known.source}"
        return _Source(known.repo, config, where, known.download_bytes, local=False)
    try:
        config = read_config(model)
    except ModelNotFound as error:
        raise ModelNotFound(
            f"{error} Without network, these are known: {', '.join(published())}."
        ) from error
    if Path(str(model)).is_dir() or model in (None, "tiny"):
        return _Source(str(model or "tiny"), config, "its folder", None, local=True)
    size = known.download_bytes if known else None
    return _Source(str(model), config, "the hub's config.json", size, local=False)


def _cached(repo: str) -> bool:
    """Whether the hub's cache on this machine has the config of a repository."""
    from huggingface_hub import try_to_load_from_cache

    # The hub's client would ask the network who it works for, even about files that are here.
    return isinstance(try_to_load_from_cache(repo, "config.json"), str)


def _dtype(config: Any, dtype: str | torch.dtype, here: Machine) -> torch.dtype:
    """Return what loading makes of parameters that are not quantized."""
    quantized = getattr(config, "quantization_config", None) is not None
    found = resolve_dtype(dtype, quantized=quantized, gpu=bool(here.gpus))
    if isinstance(found, torch.dtype):
        return found
    return getattr(config.get_text_config(), "dtype", None) or torch.bfloat16


def _context(context: Any, architecture: Architecture) -> int:
    if context is None:
        return min(CONTEXT, architecture.context)
    if isinstance(context, bool) or not isinstance(context, int) or context < 1:
        raise InputError(f"context is a number of tokens, 1 or more; given was {context!r}.")
    if context > architecture.context:
        raise InputError(
            f"The model reads up to {architecture.context:,} tokens; given was context={context:,}."
        )
    return context

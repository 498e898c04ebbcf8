"""What must be known of a model that runs elsewhere: its config, its tokenizer, its hash tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from v4kit.errors import ModelNotFound
from v4kit.models.checkpoint import options_of, read_config, sentence, source_of
from v4kit.models.published import published

_TABLE = re.compile(r"layers\.(\d+)\..*\btid2eid$")


@dataclass(frozen=True, slots=True)
class Identity:
    """A model without its weights."""

    config: Any
    """Its transformers config."""
    tokenizer: Any
    """Its transformers tokenizer."""
    tables: dict[int, np.ndarray]
    """Experts of each token id `[id, slot]`, by index of a hash layer; empty if not at hand."""


def identify(name: str | Path) -> Identity:
    """Return what a folder or a hub id tells of a model; no weights but the hash tables are read.

    The hub is asked only for what is not on this machine. Configs of the published DeepSeek-V4
    ship with the kit; a tokenizer must be found.

    Raises:
        ModelNotFound: There is no such folder or hub id, or no tokenizer.
        UnsupportedModel: transformers can't read the config.
    """
    from transformers import AutoConfig, AutoTokenizer

    source = source_of(name)
    try:
        config = read_config(name)
    except ModelNotFound:
        if source not in published():
            raise
        config = AutoConfig.for_model(**published()[source].config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options_of(None))
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"{source!r} has no tokenizer that can be read: {sentence(error)} "
            "Give a folder or a hub id that has one."
        ) from error
    return Identity(config, tokenizer, hash_tables(Path(source)))


def hash_tables(folder: Path) -> dict[int, np.ndarray]:
    """Return the tables of a folder's hash layers `[id, slot]`, by layer; empty if there are none.

    Tables of int64 by name `…layers.N.….tid2eid`, in whichever file they lie.
    """
    from safetensors import safe_open

    tables = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with safe_open(file, framework="numpy") as opened:
            for key in opened.keys():  # noqa: SIM118 - no mapping
                named = _TABLE.search(key)
                if named:
                    tables[int(named[1])] = opened.get_tensor(key)
    return tables


def tables_of(routers: dict[int, Any]) -> dict[int, np.ndarray]:
    """Return the tables of the hash layers among a loaded model's routers, by layer."""
    found = {layer: getattr(router, "tid2eid", None) for layer, router in routers.items()}
    return {layer: table.cpu().numpy() for layer, table in found.items() if table is not None}

"""A checkpoint before any of its weights is read: its place, its config, whether it is whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from v4kit.arch import family_of, refusal
from v4kit.errors import InputError, ModelError, ModelNotFound, UnsupportedModel

TINY = Path(__file__).parent / "tiny"
"""Folder of the small trained model that ships with the kit."""

_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")


def read_config(name: str | Path | None, *, revision: str | None = None) -> Any:
    """Return a model's transformers config; nothing else of it is read.

    Raises:
        ModelNotFound: There is no such folder or hub id, or it can't be reached.
        UnsupportedModel: transformers knows no such architecture, or the config is none.
        InputError: Neither a folder nor a hub id.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    source = source_of(name)
    _check_folder(source)
    try:
        return AutoConfig.from_pretrained(source, **options_of(revision))
    except OSError as error:
        raise not_found(source, error) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
            StrictDataclassError) as error:  # fmt: skip
        # A field's own trouble stands below the sentence that there is some.
        told = error.__cause__ if isinstance(error, StrictDataclassError) else None
        raise UnsupportedModel(
            refusal(
                _model_type(source, revision),
                f"transformers can't read the config of {source!r}: {sentence(told or error)}",
            )
        ) from error


def _model_type(source: str, revision: str | None) -> Any:
    """Return what a config calls itself, of which transformers can read no more than that."""
    from transformers import PreTrainedConfig

    try:
        fields, _ = PreTrainedConfig.get_config_dict(source, **options_of(revision))
        return fields.get("model_type")
    except (TypeError, AttributeError):
        # JSON, but no object.
        return None


def loader_of(config: Any) -> Any:
    """Return transformers' class that makes a family's models."""
    import transformers

    return getattr(transformers, family_of(config).loader)


def options_of(revision: str | None) -> dict[str, Any]:
    """Return what every reading of a checkpoint is called with: none of its code is run."""
    return {"trust_remote_code": False, **({"revision": revision} if revision else {})}


def source_of(name: str | Path | None) -> str:
    """Return a folder or a hub id as text; "./name" stays what it is, a folder.

    Raises:
        InputError: It is neither.
    """
    if name is None or name == "tiny":
        return str(TINY)
    if not isinstance(name, str | Path):
        raise InputError(
            f"A model is named by a folder or a hub id; given was a {type(name).__name__}. "
            "Plan for a model that is in memory by its config; record it with v4kit.wrap."
        )
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


def check_files(folder: Path) -> int:
    """Return the bytes of a folder's weights, after a look at each file's frame.

    A file that is missing or cut off is found here, before a model is made for it.

    Raises:
        ModelError: A file is missing, cut off or damaged, or the weights are pickles.
    """
    files = _weight_files(folder)
    if not files and any(folder.glob("*.bin")):
        raise ModelError(
            f"The weights in {folder} are pickles (.bin), which could run code. "
            "Give a checkpoint in safetensors."
        )
    return sum(_whole(path) for path in files)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.exists():
        files = sorted(folder.glob("*.safetensors"))
        if any(_SHARD.search(file.name) for file in files):
            raise ModelError(
                f"{folder} holds {len(files)} files of weights, but no {_INDEX}, which tells what "
                "lies in which. Fetch it as well; what is there is kept."
            )
        return files
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} can't be read: {sentence(error)} Fetch it again.") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(names)} files of weights are missing in {folder}, the first "
            f"is {missing[0]}. Fetch them again; what is there is kept."
        )
    return [folder / name for name in names]


def _whole(path: Path) -> int:
    """Return a file's size, if it is what its own header says."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, size)))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        wanted = -1
    if size == wanted:
        return size
    lacks = f"has {size:,} bytes of {wanted:,}" if wanted > size else "is damaged"
    raise ModelError(f"{path} {lacks}. Fetch it again.")


def sentence(error: BaseException) -> str:
    """Return the first line of what an error says, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" .:!") + "."


def not_found(source: str, error: Exception) -> ModelNotFound:
    """Return the error that says what could not be reached, and what to give."""
    return ModelNotFound(
        f"{source!r} could not be loaded: {sentence(error)} "
        'Give "tiny", a folder that holds a model, or a hub id that this machine can reach. '
        f"{cached()}"
    )


def cached() -> str:
    """Return in a sentence which models of the hub are on this machine."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        found = frozenset()
    names = sorted(repo.repo_id for repo in found if repo.repo_type == "model")
    return f"In this machine's cache, wholly or in part: {', '.join(names) or 'nothing'}."

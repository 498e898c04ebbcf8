"""What engines answer, in one form, and how arrays are unpacked from text."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from v4kit.errors import EngineError


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says of itself."""

    engine: str
    """"vllm" or "sglang"."""
    version: str
    """Its version; empty if it does not tell."""
    model: str
    """Name of the model it serves."""
    source: str
    """Where it loaded it from: a folder or a hub id."""
    context: int | None
    """Most tokens of a sequence; None if it does not tell."""
    routed_experts: bool | None = None
    """Whether it returns the experts; None if that was not asked."""
    advice: str = ""
    """What to change on the server, if something is to be changed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One continuation, as an engine told it."""

    prompt: list[int]
    """The ids that it read."""
    tokens: list[int]
    """The ids that it wrote."""
    finish: str | None
    """"length", "stop" or what else it calls the reason."""
    packed: Any
    """The experts as they came; None if none did."""
    unpack: Callable[[Any], np.ndarray]
    """Makes integers `[row, layer, slot]` or `[element]` of them. Not done at once: what was
    written must not be lost with experts that can't be read."""
    start: int = 0
    """The first token whose experts were asked for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of a streamed answer."""

    tokens: list[int]
    """Ids, in order; often one."""
    finish: str | None = None
    """Why it ends with them; None: it goes on."""


def unpack_npy(text: Any) -> np.ndarray:
    """Return the integers of a `.npy` file in base64, as vLLM sends them.

    Raises:
        EngineError: It is no such file, or of anything but integers.
    """
    file = io.BytesIO(_bytes(text))
    try:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else _newer_header
        shape, _, dtype = read(file)
        left = len(file.getbuffer()) - file.tell()
    except (ValueError, EOFError, OSError) as error:
        raise EngineError(f"The routed experts are no array: {error}.") from error
    # The header is believed only where the bytes bear it out.
    if dtype.kind not in "iu" or left != dtype.itemsize * math.prod(shape):
        raise EngineError(
            f"The routed experts say that they are {dtype} {shape}, in {left:,} bytes; integers "
            "were expected, and as many as come."
        )
    file.seek(0)
    array: np.ndarray = np.load(file, allow_pickle=False)
    return array


def _newer_header(file: io.BytesIO) -> Any:
    return np.lib.format.read_array_header_2_0(file)


def unpack_int32(text: Any) -> np.ndarray:
    """Return the integers `[element]` of raw little-endian int32 in base64, as SGLang sends them.

    Raises:
        EngineError: They are no such integers.
    """
    content = _bytes(text)
    if len(content) % 4:
        raise EngineError(
            f"The routed experts have {len(content)} bytes, which are no 32-bit integers."
        )
    return np.frombuffer(content, "<i4")


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise EngineError(f"The routed experts are {type(text).__name__}, not text in base64.")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise EngineError(f"The routed experts are no base64: {error}.") from error


def token_ids(value: Any, what: str) -> list[int]:
    """Return token ids of an answer.

    Raises:
        EngineError: They are missing, or no integers.
    """
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise EngineError(
            f"The engine did not return the {what}, so its rows belong to no tokens we know. "
            "Use a newer version of it."
        )
    return value


def field(value: Any, *path: str | int) -> Any:
    """Return what lies at a path in JSON data; None if it does not lead anywhere."""
    for name in path:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            return None
    return value

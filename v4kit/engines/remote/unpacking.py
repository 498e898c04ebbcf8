"""Arrays in answers: unpacked from text, with nothing executed and no header believed."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from v4kit.errors import EngineError
from v4kit.trace.arrays import read_npy


def unpack_npy(text: Any) -> np.ndarray:
    """Return the integers of a `.npy` file in base64, as vLLM sends them.

    Raises:
        EngineError: It is no such file, or of anything but integers.
    """
    content = _bytes(text)
    try:
        array = read_npy(io.BytesIO(content), len(content))
    except ValueError as error:
        raise EngineError(f"The routed experts are no array that can be read. {error}") from error
    if array.dtype.kind not in "iu":
        raise EngineError(
            f"The routed experts are {array.dtype} {array.shape}; integers were expected. "
            "Is it a vLLM server?"
        )
    return array


def unpack_int32(text: Any) -> np.ndarray:
    """Return the integers `[element]` of raw little-endian int32 in base64, as SGLang sends them.

    Raises:
        EngineError: They are no such integers.
    """
    content = _bytes(text)
    if len(content) % 4:
        raise EngineError(
            f"The routed experts have {len(content)} bytes, which are no 32-bit integers. "
            "Is it an SGLang server?"
        )
    return np.frombuffer(content, "<i4")


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise EngineError(f"The routed experts are {type(text).__name__}, not text in base64.")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise EngineError(f"The routed experts are no base64: {error}.") from error

"""Bodies of answers as they come: parts, lines, JSON; each bounded, and none believed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_MESSAGE = 400
"""Characters of a server's words that are shown."""

CheckSize = Callable[[int], None]
"""Raises for so many bytes, if they are more than is allowed."""


def lines(parts: Iterable[bytes], check_size: CheckSize) -> Iterator[bytes]:
    """Yield the lines of a body that comes in parts, each checked before it is whole.

    A line ends with LF: texts in JSON may hold whatever else Unicode calls the end of one.
    """
    begun: list[bytes] = []
    size = 0
    for part in parts:
        *ended, rest = part.split(b"\n")
        for piece in ended:
            check_size(size + len(piece))
            yield b"".join([*begun, piece])
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        check_size(size)
    if size:
        yield b"".join(begun)


def whole(parts: Iterable[bytes], check_size: CheckSize) -> bytes:
    """Return a body that comes in parts."""
    kept, size = [], 0
    for part in parts:
        size += len(part)
        check_size(size)
        kept.append(part)
    return b"".join(kept)


def parsed(content: bytes | str) -> Any:
    """Return JSON data.

    Raises:
        ValueError: It is none, or nested so deep that it can't be read.
    """
    # Raised afterwards: json's own error holds all that was to be read, and a key that it may tell.
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(content)
    raise ValueError("This is no JSON, or nested too deep.")


def message(content: bytes | str) -> str:
    """Return what a refusal says: the message in JSON, else its text."""
    text = content if isinstance(content, str) else content.decode("utf-8", "replace")
    try:
        found = parsed(text)
    except ValueError:
        return " ".join(text.split()) or "nothing."
    return message_of(found)


def message_of(found: Any) -> str:
    """Return the message in JSON data."""
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return str(found)


def shown(text: str) -> str:
    """Return as much of a server's words as fits into a message."""
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}…"


def megabytes(size: float) -> str:
    """Return a size in words."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.2g} MB"

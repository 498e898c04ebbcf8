"""Token text made visible and harmless.

A token is untrusted text. Plotly reads a little HTML in labels, hover boxes and ticks, so
everything that comes from a trace goes through `escape` on its way into a figure.
"""

from __future__ import annotations

import html
import unicodedata
from typing import Any

from v4kit.trace import Trace

EMPTY = "▯"
"""Stands for a token without text of its own: a later token completes its character."""

_MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡", "\u00a0": "⍽"}
_CODED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: str, *, limit: int | None = None) -> str:
    """Return text in which line breaks, controls and direction marks can be seen; not escaped.

    Args:
        text: Any text; empty text becomes `EMPTY`.
        limit: Longest result in characters, an ellipsis included.
    """
    if not text:
        return EMPTY
    shown = "".join(map(_mark, text[: None if limit is None else limit + 1]))
    if unicodedata.category(shown[0])[0] == "M":
        shown = "◌" + shown
    if limit is not None and len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return shown


def escape(text: Any) -> str:
    """Return text that plotly shows as it is: no tag, no entity, no formula."""
    return html.escape(str(text), quote=False).replace("$", "&#36;")


def token_label(text: str, *, limit: int = 24) -> str:
    """Return a token's text as an escaped label that keeps its blanks."""
    return escape(visible(text, limit=limit).replace(" ", "\u00a0"))


def caption(trace: Trace, row: int) -> str:
    """Return what a title says of one token: text, row, position; escaped."""
    token = trace.tokens.iloc[row]
    line = f"<b>“{token_label(token['text'], limit=60)}”</b> token {row}"
    several = trace.tokens["document"].nunique() > 1
    if several or token["position"] != row:
        line += f", position {token['position']}"
    if several:
        named = f" ({escape(visible(token['label'], limit=30))})" if token["label"] else ""
        line += f" of document {token['document']}{named}"
    return line


def plain(value: Any) -> str:
    """Return a value of the meta as one short line of text; not escaped."""
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return visible(str(value), limit=120)


def _mark(character: str) -> str:
    if character in _MARKS:
        return _MARKS[character]
    if character < " ":
        return chr(0x2400 + ord(character))
    if unicodedata.category(character) in _CODED:
        return f"⟦U+{ord(character):04X}⟧"
    return character

"""The text that each token completes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class TokenText:
    """Turns ids into text piece by piece; a character split over tokens goes to its last token."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)

    def step(self, token: int) -> str:
        """Return the text that this token completes; empty if it completes none."""
        return self._stream.step(self._backend, token) or ""


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokenizer's special tokens."""
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {i for i, t in added.items() if t.special}


def text_columns(ids: list[int], texts: Iterable[str] | None, tokenizer: Any) -> dict[str, Any]:
    """Return the columns text, special and role of a document's ids.

    `texts` saves decoding again what a stream has decoded already.
    """
    from v4kit.models.chat import ASSISTANT, USER, roles

    if texts is None:
        decoder = TokenText(tokenizer)
        texts = [decoder.step(token) for token in ids]
    special = special_ids(tokenizer)
    names = tokenizer.convert_ids_to_tokens(ids)
    return {
        "text": list(texts),
        "special": [i in special for i in ids],
        "role": roles(names, chat=USER in names or ASSISTANT in names),
    }

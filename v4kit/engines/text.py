"""Token ids from prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from v4kit.errors import InputError
from v4kit.models import chat

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


def encode_prompt(
    prompt: Prompt, tokenizer: Any, *, thinking: str | None, edition: str, vocabulary: int
) -> list[int]:
    """Return the token ids of a prompt: a text, token ids or chat messages.

    A text gets the beginning-of-sentence token once; ids are taken as they are.

    Raises:
        InputError: The prompt is empty, no prompt, or has ids outside the vocabulary.
    """
    if isinstance(prompt, str):
        if thinking is not None:
            raise InputError(
                f"thinking={thinking!r} needs chat messages; given was a text. "
                'Give [{"role": "user", "content": "…"}].'
            )
        if not prompt:
            raise InputError("The prompt is empty. Give a text, token ids or chat messages.")
        return _encode_text(prompt, tokenizer)
    items = prompt.tolist() if isinstance(prompt, np.ndarray) else list(prompt)
    if not items:
        raise InputError("The prompt is empty. Give a text, token ids or chat messages.")
    if all(isinstance(item, Mapping) for item in items):
        return _encode_text(chat.encode(items, thinking, edition=edition), tokenizer)
    if not all(
        isinstance(item, (int, np.integer)) and not isinstance(item, bool) for item in items
    ):
        raise InputError(
            "A prompt is a text, a list of token ids or a list of chat messages; given was a list "
            f"with {type(items[0]).__name__}."
        )
    return check_ids([int(item) for item in items], vocabulary)


def check_ids(ids: list[int], vocabulary: int) -> list[int]:
    """Return the ids.

    Raises:
        InputError: An id lies outside the vocabulary.
    """
    wrong = [i for i in ids if not 0 <= i < vocabulary]
    if wrong:
        raise InputError(
            f"Token id {wrong[0]} lies outside the vocabulary of {vocabulary:,} ids (0 … "
            f"{vocabulary - 1}). Were the ids made by another tokenizer?"
        )
    return ids


def _encode_text(text: str, tokenizer: Any) -> list[int]:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

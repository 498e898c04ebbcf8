"""Token ids from prompts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from v4kit.errors import InputError
from v4kit.models import chat

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]

_KINDS = "A prompt is a text, a list of token ids or a list of chat messages"


def encode_prompt(
    prompt: Prompt,
    tokenizer: Any,
    *,
    thinking: str | None,
    edition: str | None,
    vocabulary: int,
    context: int | None = None,
) -> list[int]:
    """Return the token ids of a prompt: a text, token ids or chat messages.

    A text gets the beginning-of-sentence token once; ids are taken as they are. Messages are
    written in DeepSeek-V4's format, or by another family's own template.

    Args:
        prompt: What to go on from.
        tokenizer: The model's.
        thinking: Reasoning effort of a chat; None is chat mode.
        edition: Generation of a DeepSeek-V4 checkpoint; None for other families.
        vocabulary: Number of token ids.
        context: Longest sequence of the model, where it is to be told that it is short for an
            effort.

    Raises:
        InputError: The prompt is empty, no prompt, or has ids outside the vocabulary.
    """
    # Arrays and tensors of ids are lists of ids.
    items: Any = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    if not isinstance(items, Sequence) or isinstance(items, bytes):
        raise InputError(f"{_KINDS}; given was {type(prompt).__name__}.")
    if not items:
        raise InputError("The prompt is empty. Give a text, token ids or chat messages.")
    if not isinstance(items, str) and all(isinstance(item, Mapping) for item in items):
        return _encode_chat(items, tokenizer, thinking, edition, context)
    if thinking is not None:
        raise InputError(
            f"thinking={thinking!r} needs chat messages; given was a text or ids. "
            'Give [{"role": "user", "content": "…"}].'
        )
    if isinstance(items, str):
        return _encode_text(items, tokenizer)
    odd = {type(item) for item in items if type(item) is bool or not isinstance(item, Integral)}
    if odd:
        raise InputError(f"{_KINDS}; given was a list with {odd.pop().__name__}.")
    return check_ids([int(item) for item in items], vocabulary)


def _encode_chat(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    thinking: str | None,
    edition: str | None,
    context: int | None,
) -> list[int]:
    if edition is not None:
        text = chat.encode(messages, thinking, edition=edition)
        if thinking == "max" and context is not None and context < chat.MAX_CONTEXT:
            warnings.warn(
                f'thinking="max" is meant for a context of {chat.MAX_CONTEXT:,} tokens; this model '
                f"has {context:,}, and may be cut off while it thinks.",
                stacklevel=2,
            )
        return _encode_text(text, tokenizer)
    if thinking is not None:
        raise InputError(
            f"thinking={thinking!r} is a reasoning effort of DeepSeek-V4, and this model is of "
            "another family. Leave it out."
        )
    return chat.encode_by_template(messages, tokenizer)


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


def stop_ids(config: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a generation: those a config names, and the tokenizer's."""
    named = getattr(config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _encode_text(text: str, tokenizer: Any) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text is no valid Unicode: character {error.start} is half of one. "
            "Decode the text again from where it came."
        ) from error
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

"""Messages → token ids where a checkpoint tells its own prompt format: other families than V4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from v4kit.errors import InputError
from v4kit.models.chat.turns import Message, check_messages, text_of
from v4kit.models.chat.vocabulary import USER


def can_chat(tokenizer: Any, edition: str | None) -> bool:
    """Tell whether chat messages can be made a prompt.

    Args:
        tokenizer: The model's transformers tokenizer.
        edition: Generation of a DeepSeek-V4 checkpoint; None for other families.
    """
    if edition is not None:
        return USER in tokenizer.get_vocab()
    return bool(getattr(tokenizer, "chat_template", None))


def encode_by_template(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """Return the ids that the tokenizer's own chat template makes of messages.

    The template ends where the assistant begins to answer, and puts special tokens where they
    belong.

    Raises:
        InputError: The tokenizer has no template, or its template does not take these messages.
    """
    check_messages(messages)
    if not can_chat(tokenizer, None):
        raise InputError(
            "This model's tokenizer has no chat template, so it is not known how to write chat "
            "messages for it. Give the prompt as a text, or set tokenizer.chat_template."
        )
    said = [_as_text(index, message) for index, message in enumerate(messages)]
    tools = [tool for message in messages for tool in message.get("tools") or ()]
    try:
        ids = tokenizer.apply_chat_template(
            said, tools=tools or None, add_generation_prompt=True, return_dict=False
        )
    # A template raises what it likes.
    except Exception as error:
        raise InputError(
            f"The model's chat template does not take these messages: {error}. Give roles and an "
            "order that it knows, such as user and assistant in turn."
        ) from error
    return [int(i) for i in ids]


def _as_text(index: int, message: Message) -> Mapping[str, Any]:
    if not isinstance(message.get("role"), str):
        raise InputError(
            f"Message {index} has the role {message.get('role')!r}. A role is a text such as "
            '"user".'
        )
    return {**message, "content": text_of(index, message)}

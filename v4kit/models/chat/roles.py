"""Which part of a conversation each token belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby

from v4kit.models.chat.vocabulary import (
    ASSISTANT,
    BOS,
    CALLS,
    END_CALLS,
    END_RESULT,
    END_THINK,
    REMINDER,
    RESULT,
    TASKS,
    THINK,
    USER,
)

_OPENED = {
    **dict.fromkeys(TASKS.values(), "answer"),
    USER: "user",
    ASSISTANT: "answer",
    REMINDER: "system",
    BOS: "text",
}
_TOOL = {
    "answer": re.compile(rf"(?:\n\n)?{CALLS}.*?(?:{END_CALLS}|\Z)", re.DOTALL),
    "user": re.compile(rf"{RESULT}.*?(?:{END_RESULT}|\Z)", re.DOTALL),
}
"""Whose turn → what in it is of a tool: the assistant's calls, and results among a user's texts."""
_OTHERS = "<｜tool▁"
"""How tokens of DeepSeek-V3's tools begin; its turns are V4's, but calls and results are not."""


class Roles:
    """Tells each token's turn as tokens arrive: system, user, reasoning, answer or text.

    Without any turn token everything is "text". A turn token belongs to the turn it opens, the
    end-of-thought token to the reasoning it closes, the end-of-sentence token to its answer.
    """

    def __init__(self) -> None:
        self._role = "text"

    def step(self, token: str) -> str:
        """Return the role of the next token, given as its vocabulary entry."""
        role = self._role
        if token == END_THINK and role == "reasoning":
            self._role = "answer"
            return role
        # The text that tells of tools speaks of thinking as well, with the same tokens.
        if token == THINK and role == "answer":
            self._role = "reasoning"
        else:
            self._role = _OPENED.get(token, role)
        return self._role


def roles(tokens: Iterable[str], texts: Sequence[str] | None = None, *, chat: bool) -> list[str]:
    """Return the role of each token; before the first turn of a chat it is "system".

    What other families write is "text", unless its turns have these tokens.

    With the tokens' texts, "tool" is told apart: a token that has any of its text inside a call or
    a result, tags included.

    Args:
        tokens: Entries of the vocabulary.
        texts: The text that each token completes.
        chat: Whether there are turns.
    """
    state, tokens = Roles(), list(tokens)
    found = [state.step(token) for token in tokens]
    if any((token or "").startswith(_OTHERS) for token in tokens):
        return ["text"] * len(tokens)
    if not chat:
        return found
    found = ["system" if role == "text" else role for role in found]
    return found if texts is None else _with_tools(found, texts)


def _with_tools(found: list[str], texts: Sequence[str]) -> list[str]:
    """Return the roles with "tool" where a turn's text is a call or a result."""
    known: list[str] = []
    for role, group in groupby(found):
        count = len(list(group))
        known += _of_turn(role, texts[len(known) : len(known) + count])
    return known


def _of_turn(role: str, texts: Sequence[str]) -> list[str]:
    spans = [m.span() for m in _TOOL[role].finditer("".join(texts))] if role in _TOOL else []
    if not spans:
        return [role] * len(texts)
    ends = list(accumulate(map(len, texts)))
    starts = [0, *ends[:-1]]
    # A token that completes no text stands where the next one does.
    return [
        "tool" if any(a < max(end, start + 1) and start < b for a, b in spans) else role
        for start, end in zip(starts, ends, strict=True)
    ]

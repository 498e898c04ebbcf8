"""Messages → the prompt that DeepSeek-V4 was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from v4kit.errors import InputError
from v4kit.models.chat.turns import Message, Turn, check_messages, turns_of
from v4kit.models.chat.vocabulary import (
    ASSISTANT,
    BOS,
    END_THINK,
    EOS,
    REMINDER,
    TASKS,
    THINK,
    USER,
    effort_text,
)

_ASKS = ("user", "developer")
_HEADS = {"system": "", "latest_reminder": REMINDER, "user": USER, "developer": USER}


def encode(
    messages: Sequence[Message],
    thinking: str | None = None,
    *,
    edition: str = "0731",
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Return the prompt for a conversation, ready to be continued by the assistant.

    Messages have the form that chat services use: "role" and "content", which is a text or a list
    of text parts. A system or developer message may have "tools" and a "response_format"; an
    assistant's "reasoning" and "tool_calls"; a tool's "tool_call_id"; any a "task", which is a
    quick instruction. An assistant's message at the end is refused, unless "prefix" is true: then
    the prompt stops after it, to be continued.

    Reasoning is kept after the last user message only, and everywhere where there are tools. A
    task is kept wherever it stands; the published code loses that of a user message which follows
    a tool's result.

    Args:
        messages: The conversation.
        thinking: None for chat mode, else the reasoning effort. "V4-Flash-Max" is no checkpoint of
            its own: it is "max" with a context of at least `MAX_CONTEXT` tokens.
        edition: Checkpoint generation, "preview" or "0731": the same effort means other things.
        tools: Tools that the first system message is given.

    Raises:
        InputError: A role, a content, an effort or an order that the format does not have.
    """
    check_messages(messages)
    if tools:
        messages = _with_tools(messages, tools)
    keeps = any(message.get("tools") for message in messages)
    turns = turns_of(messages)
    _check_end(turns)
    if thinking is not None and not keeps:
        last = _last_question(turns)
        turns = [turn for i, turn in enumerate(turns) if turn.role != "developer" or i >= last]
    thinks_from = 0 if keeps else _last_question(turns)
    parts = [BOS, effort_text(thinking, edition)]
    for index, turn in enumerate(turns):
        thought = thinking is not None and index >= thinks_from
        if turn.role == "assistant":
            asked = turns[index - 1].task
            parts.append(_said(turn, thought=thought and asked is None))
        else:
            parts.append(_HEADS[turn.role] + turn.text)
        if index + 1 == len(turns) or turns[index + 1].role in ("assistant", "latest_reminder"):
            parts.append(_opening(turn, THINK if thought else END_THINK, thinking))
    return "".join(parts)


def _said(turn: Turn, *, thought: bool) -> str:
    reasoning = turn.reasoning + END_THINK if thought else ""
    return reasoning + turn.text + ("" if turn.unfinished else EOS)


def _opening(turn: Turn, thinks: str, thinking: str | None) -> str:
    """Return what follows a turn that is answered: the assistant's token, or a task's."""
    if turn.task == "action":
        return ASSISTANT + (END_THINK if thinking is None else THINK) + TASKS["action"]
    if turn.task is not None:
        return TASKS[turn.task]
    return ASSISTANT + thinks if turn.role in _ASKS else ""


def _last_question(turns: Sequence[Turn]) -> int:
    return max((i for i, turn in enumerate(turns) if turn.role in _ASKS), default=-1)


def _check_end(turns: Sequence[Turn]) -> None:
    asks = bool(turns) and (
        turns[-1].role in _ASKS or turns[-1].task is not None or turns[-1].unfinished
    )
    if not asks or _last_question(turns) < 0:
        raise InputError(
            "The conversation must end with a user message, so that the assistant can answer."
        )


def _with_tools(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> Sequence[Message]:
    """Return the messages with tools on the first system message, or on an empty one before all."""
    place = next((i for i, m in enumerate(messages) if m.get("role") == "system"), None)
    if place is None:
        return [{"role": "system", "content": "", "tools": tools}, *messages]
    first = {**messages[place], "tools": [*(messages[place].get("tools") or ()), *tools]}
    return [*messages[:place], first, *messages[place + 1 :]]

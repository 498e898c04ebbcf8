"""From messages to the turns that the format knows: checked, tool results inside user turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from v4kit.errors import InputError
from v4kit.models.chat.tools import calls_text, told
from v4kit.models.chat.vocabulary import END_RESULT, RESULT, TASKS

Message = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool", "latest_reminder", "developer")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says at a time."""

    role: str
    """One of `ROLES`, but never "tool"."""
    text: str
    """All that is said, tools, calls and results included."""
    reasoning: str = ""
    """What an assistant thought before it."""
    task: str | None = None
    """Quick instruction that follows it."""
    unfinished: bool = False
    """An assistant's text that is to be continued."""


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """Return the turns of a conversation.

    Tool results and user texts that follow each other are one user turn; its results stand in the
    order of the calls, in the places where there are any.

    Raises:
        InputError: A role, a content or an order that the format does not have.
    """
    turns: list[Turn] = []
    said: list[tuple[int | None, str]] = []
    calls: list[str | None] = []
    for index, message in enumerate(messages):
        role, text = _role(index, message), text_of(index, message)
        if role == "tool":
            known = [place for place, _ in said if place is not None]
            place = _place(index, message, calls, turns, known)
            said.append((place, RESULT + text + END_RESULT))
            continue
        if role == "user":
            said.append((None, text))
            if message.get("task") is None and _speaks_on(messages, index):
                continue
            turns.append(Turn("user", _joined(said), task=_task(index, message)))
            said = []
            continue
        if said:
            turns.append(Turn("user", _joined(said)))
            said = []
        turns.append(_turn(index, message, role, text, turns))
        if role == "assistant":
            calls = [call.get("id") for call in message.get("tool_calls") or ()]
    return [*turns, Turn("user", _joined(said))] if said else turns


def _speaks_on(messages: Sequence[Message], index: int) -> bool:
    """Whether the next message belongs to the same user turn."""
    return index + 1 < len(messages) and messages[index + 1].get("role") in ("user", "tool")


def _joined(said: list[tuple[int | None, str]]) -> str:
    """Return the text of a user turn, its results sorted by the order of their calls."""
    results = [(place, text) for place, text in said if place is not None]
    ordered = iter(sorted(results, key=lambda result: result[0]))
    return "\n\n".join(text if place is None else next(ordered)[1] for place, text in said)


def _turn(index: int, message: Message, role: str, text: str, before: list[Turn]) -> Turn:
    if role != "assistant":
        return Turn(role, text + told(message), task=_task(index, message))
    speakers = [turn.role for turn in before if turn.role != "latest_reminder"]
    if not speakers or speakers[-1] not in ("user", "developer"):
        raise InputError(
            f"Message {index} is the assistant's and answers nobody. Put a user message before it."
        )
    return Turn(
        role,
        text + calls_text(message.get("tool_calls") or ()),
        reasoning=message.get("reasoning") or message.get("reasoning_content") or "",
        task=_task(index, message),
        unfinished=bool(message.get("prefix")),
    )


def _role(index: int, message: Message) -> str:
    role = message.get("role")
    if role in ROLES:
        return str(role)
    raise InputError(
        f"Message {index} has the role {role!r}; the roles are {', '.join(ROLES[:-1])}."
    )


def check_messages(messages: Any) -> None:
    """Refuse what is no conversation.

    Raises:
        InputError: It is no list of messages.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InputError(
            'A conversation is a list of messages such as {"role": "user", "content": "…"}; given '
            f"was a {type(messages).__name__}."
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(
                f"Message {index} is a {type(message).__name__}. A message is a dict such as "
                '{"role": "user", "content": "…"}.'
            )


def text_of(index: int, message: Message) -> str:
    """Return a message's text; an assistant that only calls tools may say nothing.

    Raises:
        InputError: It has none, or more than text.
    """
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else [content]
    texts = [_part(part) for part in parts]
    if parts and all(isinstance(text, str) for text in texts):
        return "\n\n".join(map(str, texts))
    odd = next((part for part, text in zip(parts, texts, strict=True) if text is None), content)
    kind = odd.get("type", "part") if isinstance(odd, Mapping) else None
    raise InputError(
        f"Message {index} has a {kind} in 'content'; the model reads text only."
        if kind
        else f"Message {index} has no text in 'content'; given was {content!r}."
    )


def _part(part: Any) -> Any:
    """Return the text of one part of a content; None if it is of another kind."""
    if not isinstance(part, Mapping):
        return part
    return part.get("text") if part.get("type", "text") == "text" else None


def _task(index: int, message: Message) -> str | None:
    task = message.get("task")
    if task is None:
        return None
    if isinstance(task, str) and task in TASKS:
        return task
    raise InputError(
        f"Message {index} has the task {task!r}; the tasks are {', '.join(map(repr, TASKS))}."
    )


def _place(
    index: int,
    message: Message,
    calls: list[str | None],
    turns: list[Turn],
    known: list[int],
) -> int:
    """Return which of the calls a tool result answers; `known` are those with a result."""
    named = message.get("tool_call_id")
    if not calls or not turns or turns[-1].role != "assistant":
        raise InputError(
            f"Message {index} is a tool result, but the assistant called no tool before it. "
            "Give the assistant's message with its 'tool_calls' first."
        )
    if len(known) == len(calls):
        raise InputError(
            f"Message {index} is one tool result more than the assistant made calls "
            f"({len(calls)}). Give one for each."
        )
    if named is None:
        return len(calls)
    if named not in calls:
        ids = ", ".join(repr(call) for call in calls if call)
        raise InputError(
            f"Message {index} is the result of call {named!r}, which the assistant did not make. "
            f"Its calls are {ids or 'without an id'}."
        )
    if calls.index(named) in known:
        raise InputError(f"Message {index} is a second result of call {named!r}. Give one.")
    return calls.index(named)

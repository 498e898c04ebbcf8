"""What a model said → reasoning, answer and tool calls, also when it stopped in the middle."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from v4kit.errors import InputError
from v4kit.models.chat.vocabulary import CALLS, DSML, EFFORTS, END_CALLS, END_THINK, EOS

_BLOCK = f"\n\n{CALLS}"
_INVOKE = re.compile(rf'\n?<{DSML}invoke name="([^"]*)">\n')
_PARAMETER = re.compile(
    rf'<{DSML}parameter name="([^"]*)" string="(true|false)">(.*?)</{DSML}parameter>\n', re.DOTALL
)
_END_INVOKE = re.compile(rf"\n?</{DSML}invoke>")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool."""

    name: str
    """Which tool."""
    arguments: dict[str, Any]
    """Its arguments by name."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is known of a completion."""

    reasoning: str | None
    """What was thought; None in chat mode."""
    answer: str
    """What was answered."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that have been written to their end."""
    complete: bool = False
    """Whether the end-of-sentence token came, and everything before it has the format's form."""
    pending: str = ""
    """What stands at the end and is none of these: half a tag, half a call, or what no longer has
    the format's form."""


def parse(completion: str, thinking: str | None = None) -> Reply:
    """Return what a completion consists of; it may stop anywhere, so this serves streams as well.

    Half a tag at the end belongs to nothing yet, so what was shown of an answer is never taken
    back while it grows.

    Args:
        completion: Text after the prompt, with its special tokens.
        thinking: The reasoning effort it was asked with; None for chat mode.

    Raises:
        InputError: The completion is no text, or no edition has such an effort.
    """
    if not isinstance(completion, str):
        raise InputError(f"A completion is a text; given was a {type(completion).__name__}.")
    efforts = sorted({effort for edition in EFFORTS.values() for effort in edition})
    if thinking is not None and thinking not in efforts:
        raise InputError(
            f"thinking={thinking!r} is no reasoning effort. There are "
            f"{', '.join(map(repr, efforts))}; None is chat mode without reasoning."
        )
    reasoning = None
    if thinking is not None:
        reasoning, tag, completion = _cut(completion, END_THINK, EOS)
        if tag != END_THINK:
            return Reply(reasoning, "", pending=tag + completion)
    answer, tag, rest = _cut(completion, _BLOCK, CALLS, EOS)
    if tag in (_BLOCK, CALLS):
        calls, rest = _calls(rest)
        complete = rest == EOS
        return Reply(reasoning, answer, calls, complete, "" if complete else rest)
    return Reply(reasoning, answer, complete=tag == EOS and not rest, pending=rest)


def _cut(text: str, *tags: str) -> tuple[str, str, str]:
    """Return what stands before the first tag, the tag, and the rest.

    Without a tag, the rest is what may be the beginning of one.
    """
    found = [(text.find(tag), -len(tag), tag) for tag in tags if tag in text]
    if found:
        place, _, tag = min(found)
        return text[:place], tag, text[place + len(tag) :]
    longest = max(map(len, tags)) - 1
    for start in range(max(len(text) - longest, 0), len(text)):
        if any(tag.startswith(text[start:]) for tag in tags):
            return text[:start], "", text[start:]
    return text, "", ""


def _calls(text: str) -> tuple[tuple[ToolCall, ...], str]:
    """Return the calls of a block, and what follows the last one that could be read."""
    calls = []
    while (call := _call(text)) is not None:
        calls.append(call[0])
        text = call[1]
    end = f"\n{END_CALLS}"
    return tuple(calls), text.removeprefix(end) if calls else text


def _call(text: str) -> tuple[ToolCall, str] | None:
    """Return the call that a text begins with, and what follows; None if it holds no whole one."""
    begin = _INVOKE.match(text)
    if begin is None:
        return None
    place, arguments = begin.end(), {}
    while (found := _PARAMETER.match(text, place)) is not None:
        name, is_text, value = found.groups()
        if name in arguments:
            return None
        try:
            arguments[name] = value if is_text == "true" else json.loads(value)
        # A value nested deeper than Python counts is no more readable than one out of form.
        except (ValueError, RecursionError):
            return None
        place = found.end()
    end = _END_INVOKE.match(text, place)
    return None if end is None else (ToolCall(begin[1], arguments), text[end.end() :])

"""DeepSeek-V4's prompt format: messages → text, and which part of it each token belongs to.

Follows the description published with the checkpoints; nothing of a checkpoint is executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from v4kit.errors import InputError

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK = "<think>"
END_THINK = "</think>"

_ABSOLUTE = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "
    "resolve the root cause, rigorously stress-testing your logic against all potential paths, "
    "edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, "
    "considered alternative, and rejected hypothesis to ensure absolutely no assumption is left "
    "unchecked.\n\n"
)
_BEYOND = (
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "
    "exhaustively decompose the problem into its most fundamental components, trace every causal "
    "chain to its root, and resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles "
    "and are certain that no assumption remains unchecked and no error remains undiscovered.\n\n"
)
EFFORTS: dict[str, dict[str, str]] = {
    "preview": {"high": "", "max": _ABSOLUTE},
    "0731": {"low": "", "high": _ABSOLUTE, "max": _BEYOND},
}
"""The text that a reasoning effort puts before the system text, by checkpoint generation."""

Message = Mapping[str, Any]


def edition_of(config: Any) -> str:
    """Return the generation of a checkpoint: configs since "0731" speak of DSpark."""
    later = any(key.startswith("dspark_") for key in config.to_dict())
    return "0731" if later else "preview"


def encode(
    messages: Sequence[Message], thinking: str | None = None, *, edition: str = "0731"
) -> str:
    """Return the prompt for a conversation, ready to be continued by the assistant.

    Args:
        messages: Dicts with "role" (system, user or assistant) and "content"; an assistant's may
            have "reasoning", which is kept only after the last user message.
        thinking: None for chat mode, else the reasoning effort.
        edition: Checkpoint generation, "preview" or "0731": the same effort means other things.

    Raises:
        InputError: A role, an effort or the order of messages that the format does not have.
    """
    text = BOS + _effort(thinking, edition)
    last_user = max((i for i, m in enumerate(messages) if m.get("role") == "user"), default=-1)
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            raise InputError(f"Message {index} has no text in 'content'; given was {content!r}.")
        if role == "system":
            text += content
        elif role == "user":
            text += USER + content
        elif role == "assistant":
            reasoning = message.get("reasoning") if index > last_user else None
            thought = END_THINK if reasoning is None else THINK + reasoning + END_THINK
            text += ASSISTANT + thought + content + EOS
        else:
            raise InputError(
                f"Message {index} has the role {role!r}; the roles are system, user and assistant."
            )
    if last_user < 0 or messages[-1].get("role") != "user":
        raise InputError(
            "The conversation must end with a user message, so that the assistant can answer."
        )
    return text + ASSISTANT + (END_THINK if thinking is None else THINK)


def _effort(thinking: str | None, edition: str) -> str:
    if edition not in EFFORTS:
        raise InputError(f"edition is {' or '.join(map(repr, EFFORTS))}; given was {edition!r}.")
    if thinking is None:
        return ""
    if thinking not in EFFORTS[edition]:
        known = ", ".join(map(repr, EFFORTS[edition]))
        raise InputError(
            f"thinking={thinking!r} is no reasoning effort of edition {edition!r}. "
            f"It has {known}; None is chat mode without reasoning."
        )
    return EFFORTS[edition][thinking]


class Roles:
    """Tells each token's role as tokens arrive: system, user, reasoning, answer or text.

    Without any turn token everything is "text". A turn token belongs to the turn it opens, the
    end-of-thought token to the reasoning it closes, the end-of-sentence token to its answer.
    """

    def __init__(self) -> None:
        self._role = "text"

    def step(self, token: str) -> str:
        """Return the role of the next token, given as its vocabulary entry."""
        if token == END_THINK:
            role = self._role if self._role == "reasoning" else "answer"
            self._role = "answer"
            return role
        opened = {USER: "user", ASSISTANT: "answer", THINK: "reasoning"}.get(token)
        if opened:
            self._role = opened
        elif token == BOS:
            self._role = "text"
        return self._role


def roles(tokens: Iterable[str], *, chat: bool) -> list[str]:
    """Return the role of each token; before the first turn of a chat it is "system"."""
    state = Roles()
    found = [state.step(token) for token in tokens]
    return ["system" if chat and role == "text" else role for role in found]

"""What an engine wrote: checked against what was sent, and kept where it can't be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from v4kit.engines.remote.answers import Answer, token_ids
from v4kit.errors import EngineError


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt and what an engine wrote after it."""

    ids: list[int]
    """Token ids of both."""
    n_prompt: int
    """How many of them are the prompt's."""
    problem: str = ""
    """Why its experts can't be used, in a sentence; empty if they can."""

    def confirm(self) -> None:
        """Do nothing, unless there is a problem.

        Raises:
            EngineError: There is one.
        """
        if self.problem:
            raise EngineError(self.problem)


def compare(answer: Answer, sent: list[int], tokenizer: Any, vocabulary: int) -> Written:
    """Return what was sent and written, with the first thing that can't be right.

    Where an engine does not tell the tokens of its text, they are made by the tokenizer: a text
    that has come is not lost.
    """
    prompt, no_prompt = _told(answer.prompt, "tokens it read", vocabulary)
    tokens, no_tokens = _told(answer.tokens, "tokens it wrote", vocabulary)
    other = (
        "The engine read other tokens than were sent. Does it, or a gateway before it, change "
        "prompts?"
        if prompt is not None and prompt != sent
        else ""
    )
    if not prompt:
        prompt = sent
    if tokens is None:
        text = answer.text if isinstance(answer.text, str) else ""
        kept = text.encode("utf-8", "replace").decode()
        tokens = list(tokenizer(kept, add_special_tokens=False)["input_ids"])
    problem = answer.problem or no_prompt or other or no_tokens
    return Written([*prompt, *tokens], len(prompt), problem)


def _told(value: Any, what: str, vocabulary: int) -> tuple[list[int] | None, str]:
    """Return ids and nothing, or None and what is wrong with them."""
    try:
        return token_ids(value, what, below=vocabulary), ""
    except EngineError as error:
        return None, str(error)

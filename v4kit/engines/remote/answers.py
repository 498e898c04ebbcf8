"""What engines answer, in one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from v4kit.errors import EngineError


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says of itself."""

    engine: str
    """"vllm" or "sglang"."""
    version: str
    """Its version; empty if it does not tell."""
    model: str
    """Name of the model it serves."""
    source: str
    """Where it loaded it from: a folder or a hub id."""
    context: int | None
    """Most tokens of a sequence; None if it does not tell."""
    routed_experts: bool | None = None
    """Whether it returns the experts; None if that was not asked."""
    advice: str = ""
    """What to change on the server, if something is to be changed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One continuation, as an engine told it; ids and experts are still to be checked.

    Nothing is refused at once: what was written must not be lost with what can't be right.
    """

    prompt: Any
    """The ids that it read."""
    tokens: Any
    """The ids that it wrote."""
    text: Any
    """The text that it wrote."""
    finish: str | None
    """"length", "stop" or what else it calls the reason."""
    packed: Any
    """The experts as they came; None if none did."""
    unpack: Callable[[Any], np.ndarray]
    """Makes integers `[row, layer, slot]` or `[element]` of them."""
    start: int = 0
    """The first token whose experts were asked for."""
    problem: str = ""
    """What went wrong, in a sentence; empty if nothing is known to have."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of a streamed answer."""

    tokens: list[int]
    """Ids, in order; often one."""
    finish: str | None = None
    """Why it ends with them; None: it goes on."""


def token_ids(value: Any, what: str, *, below: int | None = None) -> list[int]:
    """Return token ids of an answer.

    Args:
        value: What came.
        what: What to call them.
        below: The vocabulary's size, if it is to be checked.

    Raises:
        EngineError: They are missing, no integers, or outside the vocabulary.
    """
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise EngineError(
            f"The engine did not return the {what}, so its rows belong to no tokens we know. "
            "Use a newer version of it, or leave out the gateway before it."
        )
    wrong = [one for one in value if below is not None and not 0 <= one < below]
    if wrong:
        raise EngineError(
            f"Among the {what} is one with id {_short(wrong[0])}, outside the vocabulary of "
            f"{below:,} ids. Does it serve another model? connect(…, model=…) tells which."
        )
    return value


def word(value: Any) -> str | None:
    """Return a word of an answer; None if there is none."""
    return None if value is None else str(value)


def count(value: Any) -> int | None:
    """Return a number of tokens that a server tells of itself; None if it is no such number."""
    return value if type(value) is int and value > 0 else None


def field(value: Any, *path: str | int) -> Any:
    """Return what lies at a path in JSON data; None if it does not lead anywhere."""
    for name in path:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _short(number: int) -> str:
    return f"{number:,}" if abs(number) < 10**15 else "of too many digits"

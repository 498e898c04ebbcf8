"""OpenAI's paths, which both engines have."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import PurePath
from typing import Any

from v4kit.engines.base import Sampling
from v4kit.engines.remote.answers import Answer, Piece, field, token_ids, word
from v4kit.engines.remote.calls import Call
from v4kit.engines.remote.http import Transport
from v4kit.errors import EngineError

FLAG = "--enable-return-routed-experts"
"""What both engines must be started with."""


def body_of(model: str, ids: list[int], sampling: Sampling) -> dict[str, Any]:
    """Return a request to `/v1/completions` that both engines understand."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": ids,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "return_token_ids": True,
        "skip_special_tokens": False,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body


def stream_of(
    transport: Transport, body: dict[str, Any], call: Call
) -> Generator[Piece, None, None]:
    """Yield the tokens of a streamed answer of `/v1/completions`.

    Raises:
        EngineError: The request fails, or an event has text and no token ids.
    """
    for event in transport.events("/v1/completions", body | {"stream": True}, call):
        choice = field(event, "choices", 0)
        if choice is None:
            continue
        tokens, finish = field(choice, "token_ids"), word(field(choice, "finish_reason"))
        # The end may come alone; text never comes without the tokens that it is of.
        if tokens is None and finish is not None and not field(choice, "text"):
            tokens = []
        yield Piece(token_ids(tokens, "tokens it wrote"), finish)


def choices_of(answer: Any) -> list[Any]:
    """Return the continuations in an answer.

    Raises:
        EngineError: It has no list of them.
    """
    found = field(answer, "choices")
    if not isinstance(found, list):
        raise EngineError(
            "The engine's answer has no list of choices. Is it a vLLM or SGLang server?"
        )
    return found


def answer_of(choice: Any, packed: Any, unpack: Any, start: int) -> Answer:
    """Return one continuation of an answer."""
    return Answer(
        field(choice, "prompt_token_ids"),
        field(choice, "token_ids"),
        field(choice, "text"),
        word(field(choice, "finish_reason")),
        packed,
        unpack,
        start,
    )


def served_model(transport: Transport, wanted: Sequence[str], *, strictly: bool) -> dict[str, Any]:
    """Return what a server says of the model to ask.

    Args:
        transport: The way to it.
        wanted: Names of the model, by which it is told from others.
        strictly: Whether it must be one of that name, though there is only one.

    Raises:
        EngineError: It lists none, or several and it is not clear which is meant.
    """
    listed = field(transport.get("/v1/models"), "data")
    cards = [
        card
        for card in (listed if isinstance(listed, list) else [])
        if isinstance(card, dict) and isinstance(card.get("id"), str)
    ]
    if not cards:
        raise EngineError(f"{transport.url} lists no model at /v1/models. Is it still loading one?")
    for card in cards:
        if set(wanted) & _names(card):
            return card
    # Several names of one model are one; a model with small changes of it names its parent.
    own = [card for card in cards if not card.get("parent")] or cards
    if strictly or len({_source(card) for card in own}) > 1:
        names = transport.hide(", ".join(repr(card["id"]) for card in cards))
        raise EngineError(
            f"{transport.url} serves {names}; wanted is {' or '.join(map(repr, wanted)) or 'one'}. "
            "Tell which: connect(…, name=…)."
        )
    return own[0]


def _source(card: dict[str, Any]) -> str:
    return str(card.get("root") or card["id"])


def _names(card: dict[str, Any]) -> set[str]:
    places = (card["id"], _source(card))
    return {*places, *(PurePath(place).name for place in places)}

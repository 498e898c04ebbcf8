"""How each engine is asked and what its answers look like; one class per engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from v4kit.engines.base import Sampling
from v4kit.engines.remote.answers import (
    Answer,
    Piece,
    Served,
    field,
    token_ids,
    unpack_int32,
    unpack_npy,
)
from v4kit.engines.remote.http import Transport
from v4kit.errors import EngineError, InputError

FLAG = "--enable-return-routed-experts"
"""What both engines must be started with."""


_CLOSED = (403, 404, 405)
"""Answers of a server, or of a gateway before it, that does not let a path through."""


class Adapter(Protocol):
    """One kind of engine."""

    name: str
    """What it is called."""
    advice: str
    """What to do when experts are missing."""

    def bytes_per_id(self, n_experts: int) -> int:
        """Return the bytes that one expert id takes on the way, before base64."""

    def served(self) -> Served:
        """Return what the server says of itself."""

    def complete(self, ids: list[int], sampling: Sampling, *, n: int, start: int) -> list[Answer]:
        """Return `n` continuations with the routes of all tokens from `start` on."""

    def stream(self, ids: list[int], sampling: Sampling) -> Iterator[Piece]:
        """Yield one continuation as it is written, without routes."""


class VLLM:
    """vLLM's OpenAI-compatible server: completions of token ids, routes as `.npy` in base64."""

    name = "vllm"
    advice = (
        f"Start the server with {FLAG}; it wants prefix caching on, and no pipeline parallelism."
    )

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._model = ""

    def bytes_per_id(self, n_experts: int) -> int:
        """Return the bytes that one expert id takes on the way, before base64."""
        return 1 if n_experts <= 256 else 2

    def served(self) -> Served:
        """Return what the server says of itself."""
        version = str(self._transport.get("/version").get("version", ""))
        card = served_model(self._transport)
        self._model = str(card["id"])
        root, context = card.get("root") or self._model, card.get("max_model_len")
        return Served(self.name, version, self._model, str(root), context)

    def complete(self, ids: list[int], sampling: Sampling, *, n: int, start: int) -> list[Answer]:
        """Return `n` continuations with the routes of all tokens from `start` on."""
        body = openai_body(self._model, ids, sampling)
        body |= {"n": n, "routed_experts_prompt_start": start}
        answer = self._transport.post("/v1/completions", body)
        choices = field(answer, "choices")
        return [_from_choice(c, c.get("routed_experts"), unpack_npy, start) for c in choices or []]

    def stream(self, ids: list[int], sampling: Sampling) -> Iterator[Piece]:
        """Yield one continuation as it is written, without routes."""
        return openai_stream(self._transport, openai_body(self._model, ids, sampling))


class SGLang:
    """SGLang's own `/generate`: routes as raw int32 in base64.

    Where a gateway lets only OpenAI's paths through, `/v1/completions` is asked instead.
    """

    name = "sglang"
    advice = (
        f"Start the server with {FLAG}. If layers are missing, choose another "
        "--moe-runner-backend: some choose experts where nothing is recorded."
    )

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._model = ""
        self._native = True

    def bytes_per_id(self, n_experts: int) -> int:  # noqa: ARG002 - int32, whatever their number
        """Return the bytes that one expert id takes on the way, before base64."""
        return 4

    def served(self) -> Served:
        """Return what the server says of itself."""
        try:
            info = self._transport.get("/server_info")
        except EngineError as error:
            if error.status not in _CLOSED:
                raise
            info = {}
        card = served_model(self._transport)
        self._model = str(card["id"])
        enabled = info.get("enable_return_routed_experts")
        return Served(
            self.name,
            str(info.get("version", "")),
            self._model,
            str(info.get("model_path") or card.get("root") or self._model),
            info.get("context_length") or card.get("max_model_len"),
            None if enabled is None else bool(enabled),
        )

    def complete(self, ids: list[int], sampling: Sampling, *, n: int, start: int) -> list[Answer]:
        """Return `n` continuations with the routes of all tokens from `start` on."""
        asked = {"return_routed_experts": True, "routed_experts_start_len": start}
        if self._native:
            body = {**self._body(ids, sampling, n=n), **asked}
            try:
                found = self._transport.post("/generate", body)
            except EngineError as error:
                self._close_native(error)
            else:
                answers = found if isinstance(found, list) else [found]
                return [self._from_native(ids, answer, start) for answer in answers]
        if n > 1:
            raise InputError(
                "SGLang's /v1/completions returns experts of one continuation only. "
                "Ask with n=1, or connect to the server's /generate."
            )
        return self._from_openai(openai_body(self._model, ids, sampling) | asked, start)

    def stream(self, ids: list[int], sampling: Sampling) -> Iterator[Piece]:
        """Yield one continuation as it is written, without routes."""
        if self._native:
            try:
                yield from self._native_stream(ids, sampling)
            except EngineError as error:
                self._close_native(error)
            else:
                return
        yield from openai_stream(self._transport, openai_body(self._model, ids, sampling))

    def _close_native(self, error: EngineError) -> None:
        """Ask OpenAI's path from now on, if an error says that the own one is closed."""
        if error.status not in _CLOSED:
            raise error
        self._native = False

    def _native_stream(self, ids: list[int], sampling: Sampling) -> Iterator[Piece]:
        told = 0
        body = {**self._body(ids, sampling, n=1), "stream": True}
        for event in self._transport.events("/generate", body):
            written = token_ids(event.get("output_ids"), "tokens it wrote")
            total = field(event, "meta_info", "completion_tokens")
            total = len(written) if total is None else int(total)
            # Events hold all tokens or the new ones alone, as the server was started.
            new = written[len(written) - (total - told) :] if total > told else []
            told = total
            yield Piece(new, _reason(event))

    def _body(self, ids: list[int], sampling: Sampling, *, n: int) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "n": n,
            "skip_special_tokens": False,
        }
        if sampling.seed is not None:
            settings["sampling_seed"] = sampling.seed
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        return {"input_ids": ids, "sampling_params": settings}

    def _from_native(self, ids: list[int], answer: Any, start: int) -> Answer:
        read = field(answer, "meta_info", "prompt_tokens")
        if read is not None and read != len(ids):
            raise EngineError(
                f"The engine read {read} tokens, but {len(ids)} were sent. Does a gateway change "
                "prompts?"
            )
        packed = field(answer, "meta_info", "routed_experts")
        return Answer(
            ids,
            token_ids(field(answer, "output_ids"), "tokens it wrote"),
            _reason(answer),
            packed,
            unpack_int32,
            start,
        )

    def _from_openai(self, body: dict[str, Any], start: int) -> list[Answer]:
        answer = self._transport.post("/v1/completions", body)
        choice = field(answer, "choices", 0) or {}
        places = [
            field(place, name, "routed_experts")
            for place in (answer, choice)
            for name in ("sglext", "sgl_ext")
        ]
        packed = next((place for place in places if place is not None), None)
        return [_from_choice(choice, packed, unpack_int32, start)]


def openai_body(model: str, ids: list[int], sampling: Sampling) -> dict[str, Any]:
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


def openai_stream(transport: Transport, body: dict[str, Any]) -> Iterator[Piece]:
    """Yield the tokens of a streamed answer of `/v1/completions`."""
    for event in transport.events("/v1/completions", body | {"stream": True}):
        choice = field(event, "choices", 0)
        if choice is not None:
            yield Piece(list(choice.get("token_ids") or []), choice.get("finish_reason"))


def served_model(transport: Transport) -> dict[str, Any]:
    """Return the first model that a server lists.

    Raises:
        EngineError: It lists none.
    """
    card = field(transport.get("/v1/models"), "data", 0)
    if not isinstance(card, dict) or "id" not in card:
        raise EngineError(f"{transport.url} lists no model at /v1/models. Is it still loading one?")
    return card


def _from_choice(choice: Any, packed: Any, unpack: Any, start: int) -> Answer:
    return Answer(
        token_ids(field(choice, "prompt_token_ids"), "tokens it read"),
        token_ids(field(choice, "token_ids"), "tokens it wrote"),
        field(choice, "finish_reason"),
        packed,
        unpack,
        start,
    )


def _reason(answer: Any) -> str | None:
    """Return why SGLang's own answer ended."""
    found = field(answer, "meta_info", "finish_reason")
    reason = field(found, "type") if isinstance(found, dict) else found
    return None if reason is None else str(reason)


ADAPTERS: dict[str, type[VLLM | SGLang]] = {"vllm": VLLM, "sglang": SGLang}
"""Engines by name; to add one, add a class and a row."""

"""How SGLang is asked, and what its answers look like."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from v4kit.engines.base import Sampling
from v4kit.engines.remote import openai
from v4kit.engines.remote.answers import Answer, Piece, Served, count, field, token_ids, word
from v4kit.engines.remote.calls import Call
from v4kit.engines.remote.http import Transport
from v4kit.engines.remote.unpacking import unpack_int32
from v4kit.errors import EngineError, InputError

_CLOSED = (403, 404, 405)
"""Answers of a server, or of a gateway before it, that does not let a path through."""
_SEEDS = 2**63
"""How many seeds there are."""


class SGLang:
    """SGLang's own `/generate`: routes as raw int32 in base64.

    Where a gateway lets only OpenAI's paths through, `/v1/completions` is asked instead.
    """

    name = "sglang"
    advice = (
        f"Start the server with {openai.FLAG}. If layers are missing, choose another "
        "--moe-runner-backend: some choose experts where nothing is recorded."
    )

    def __init__(self, transport: Transport, wanted: Sequence[str], *, strictly: bool) -> None:
        self._transport = transport
        self._wanted, self._strictly = wanted, strictly
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
        card = openai.served_model(self._transport, self._wanted, strictly=self._strictly)
        self._model = card["id"]
        enabled = info.get("enable_return_routed_experts")
        return Served(
            self.name,
            str(info.get("version", "")),
            self._model,
            str(info.get("model_path") or card.get("root") or self._model),
            count(info.get("context_length")) or count(card.get("max_model_len")),
            None if enabled is None else bool(enabled),
        )

    def complete(
        self,
        ids: list[int],
        sampling: Sampling,
        *,
        n: int = 1,
        start: int = 0,
        call: Call | None = None,
    ) -> list[Answer]:
        """Return `n` continuations with the routes of all tokens from `start` on."""
        asked = {"return_routed_experts": True, "routed_experts_start_len": start}
        if self._native:
            try:
                found = self._transport.post("/generate", _body(ids, sampling, n) | asked, call)
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
        body = openai.body_of(self._model, ids, sampling) | asked
        answer = self._transport.post("/v1/completions", body, call)
        choices = openai.choices_of(answer)[:1]
        return [openai.answer_of(one, _packed(answer, one), unpack_int32, start) for one in choices]

    def stream(
        self, ids: list[int], sampling: Sampling, call: Call
    ) -> Generator[Piece, None, None]:
        """Yield one continuation as it is written, without routes."""
        if self._native:
            try:
                yield from self._native_stream(ids, sampling, call)
            except EngineError as error:
                self._close_native(error)
            else:
                return
        body = openai.body_of(self._model, ids, sampling)
        yield from openai.stream_of(self._transport, body, call)

    def _close_native(self, error: EngineError) -> None:
        """Ask OpenAI's path from now on, if an error says that the own one is closed."""
        if error.status not in _CLOSED:
            raise error
        self._native = False

    def _native_stream(
        self, ids: list[int], sampling: Sampling, call: Call
    ) -> Generator[Piece, None, None]:
        told: list[int] = []
        body = {**_body(ids, sampling, 1), "stream": True}
        for event in self._transport.events("/generate", body, call):
            found = token_ids(event.get("output_ids"), "tokens it wrote")
            new = _new(found, told, field(event, "meta_info", "completion_tokens"))
            told += new
            problem = self._aborted(event)
            yield Piece(new, None if problem else _reason(event))
            if problem:
                raise EngineError(problem)

    def _from_native(self, ids: list[int], answer: Any, start: int) -> Answer:
        read = field(answer, "meta_info", "prompt_tokens")
        problem = self._aborted(answer)
        if not problem and read is not None and read != len(ids):
            problem = (
                f"The engine read {read} tokens, but {len(ids)} were sent. Does a gateway change "
                "prompts?"
            )
        return Answer(
            ids,
            field(answer, "output_ids"),
            field(answer, "text"),
            _reason(answer),
            field(answer, "meta_info", "routed_experts"),
            unpack_int32,
            start,
            problem,
        )

    def _aborted(self, answer: Any) -> str:
        """Return why the server broke the text off, in a sentence; empty if it did not."""
        why = field(answer, "meta_info", "finish_reason")
        if _reason(answer) != "abort":
            return ""
        said = self._transport.hide(str(field(why, "message") or "it does not say why"))
        return f"The engine broke off: {said[:400]}."


def _body(ids: list[int], sampling: Sampling, n: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "n": 1,
        "skip_special_tokens": False,
    }
    if sampling.stop:
        settings["stop"] = list(sampling.stop)
    seed = sampling.seed
    each = [
        settings if seed is None else settings | {"sampling_seed": (seed + i) % _SEEDS}
        for i in range(n)
    ]
    # Several continuations are several requests in one: with "n" all would have the same seed.
    if n == 1:
        return {"input_ids": ids, "sampling_params": each[0]}
    return {"input_ids": [ids] * n, "sampling_params": each}


def _new(found: list[int], told: list[int], total: Any) -> list[int]:
    """Return the tokens of an event that were not told before.

    Events hold all tokens or the new ones alone, as the server was started.

    Raises:
        EngineError: Tokens are missing, or it is not told how many there are.
    """
    if type(total) is int and len(found) == total and found[: len(told)] == told:
        return found[len(told) :]
    if type(total) is int and len(told) + len(found) == total:
        return found
    raise EngineError(
        f"The engine says that it has written {total!r} tokens, but {len(told)} came before and "
        f"{len(found)} with this. Does a gateway change its answers? Ask again."
    )


def _packed(answer: Any, choice: Any) -> Any:
    """Return the experts in an answer of `/v1/completions`: code and documentation differ."""
    places = [
        field(place, name, "routed_experts")
        for place in (answer, choice)
        for name in ("sglext", "sgl_ext")
    ]
    return next((place for place in places if place is not None), None)


def _reason(answer: Any) -> str | None:
    """Return why SGLang's own answer ended."""
    found = field(answer, "meta_info", "finish_reason")
    return word(field(found, "type") if isinstance(found, dict) else found)

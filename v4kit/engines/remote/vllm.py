"""How vLLM is asked, and what its answers look like."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from v4kit.engines.base import Sampling
from v4kit.engines.remote import openai
from v4kit.engines.remote.answers import Answer, Piece, Served, count, field
from v4kit.engines.remote.calls import Call
from v4kit.engines.remote.http import Transport
from v4kit.engines.remote.unpacking import unpack_npy


class VLLM:
    """vLLM's OpenAI-compatible server: completions of token ids, routes as `.npy` in base64."""

    name = "vllm"
    advice = (
        f"Start the server with {openai.FLAG}; it wants prefix caching on, and no pipeline "
        "parallelism."
    )

    def __init__(self, transport: Transport, wanted: Sequence[str], *, strictly: bool) -> None:
        self._transport = transport
        self._wanted, self._strictly = wanted, strictly
        self._model = ""

    def bytes_per_id(self, n_experts: int) -> int:
        """Return the bytes that one expert id takes on the way, before base64."""
        return 1 if n_experts <= 256 else 2

    def served(self) -> Served:
        """Return what the server says of itself."""
        version = str(self._transport.get("/version").get("version", ""))
        card = openai.served_model(self._transport, self._wanted, strictly=self._strictly)
        self._model = card["id"]
        root, context = card.get("root") or self._model, count(card.get("max_model_len"))
        return Served(self.name, version, self._model, str(root), context)

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
        body = openai.body_of(self._model, ids, sampling)
        body |= {"n": n, "routed_experts_prompt_start": start}
        answer = self._transport.post("/v1/completions", body, call)
        return [
            openai.answer_of(choice, field(choice, "routed_experts"), unpack_npy, start)
            for choice in openai.choices_of(answer)
        ]

    def stream(
        self, ids: list[int], sampling: Sampling, call: Call
    ) -> Generator[Piece, None, None]:
        """Yield one continuation as it is written, without routes."""
        return openai.stream_of(self._transport, openai.body_of(self._model, ids, sampling), call)

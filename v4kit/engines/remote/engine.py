"""`Engine`: a model that a vLLM or SGLang server runs, with the calls of a `Model`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from v4kit.core import Record
from v4kit.engines.base import OnStep, Sampling, whole
from v4kit.engines.remote.adapters import Adapter
from v4kit.engines.remote.answers import Answer, Served
from v4kit.engines.remote.asking import check_chunk, check_record, settings, within
from v4kit.engines.remote.bodies import megabytes
from v4kit.engines.remote.calls import Call
from v4kit.engines.remote.http import Transport
from v4kit.engines.remote.routes import Routes, describe_gaps
from v4kit.engines.remote.stream import RemoteStream
from v4kit.engines.remote.tracing import Tracing, other_number
from v4kit.engines.text import Prompt, encode_prompt
from v4kit.errors import InputError
from v4kit.models.identity import Identity
from v4kit.trace import Trace

_ONE = Sampling(max_new_tokens=1)
_ANSWER_BYTES = 64
"""Bytes of text and ids per token that come with its routes, at most."""


class Engine(Tracing):
    """A model that a serving engine runs; made by `v4kit.connect`.

    `generate`, `read` and `stream` are called as on a `Model` and return traces of the experts
    that the engine used. Slots are in no order, and there are no weights, scores or attention:
    engines do not return them. `tokenizer` and `architecture` are those of the model that is
    served, read on this machine.
    """

    def __init__(
        self, transport: Transport, adapter: Adapter, served: Served, identity: Identity
    ) -> None:
        self._transport = transport
        self._warned: set[str] = set()
        super().__init__(adapter, self._hidden(served), identity)

    def __repr__(self) -> str:
        a = self.architecture
        return (
            f"Engine({self.meta['model']} · {self.meta['engine']} at {self._transport.url} · "
            f"{a.n_layers} layers · {a.n_experts} experts · top-{a.top_k})"
        )

    def check(self) -> Served:
        """Return what the server says of itself, after asking it for the experts of one token.

        `routed_experts` tells whether it returns them; if not, `advice` says what to start it with.

        Raises:
            EngineError: The server can't be reached, or answers what can't be right.
        """
        served = self._hidden(self.adapter.served())
        first = next(iter(self.stop_ids), 0)
        answer = self._read([first], start=0, call=None)
        if answer.packed is None:
            return replace(served, routed_experts=False, advice=self.adapter.advice)
        routes = self.routes([first], 1, answer)
        advice = describe_gaps(routes, self.adapter.advice)
        return replace(served, routed_experts=True, advice=advice)

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        thinking: str | None = None,
        stop: str | Sequence[str] | None = None,
        prefill_chunk: int | None = None,
        n: int = 1,
        start: int = 0,
        record: Record | None = None,
        on_step: OnStep | None = None,
    ) -> Trace:
        """Return the Trace of a prompt and its continuation.

        Args:
            prompt: A text, token ids, or chat messages; always sent as token ids.
            max_new_tokens: Most tokens to generate.
            temperature: 0 takes the most probable token.
            top_p: Draw from the smallest set of tokens with this probability.
            seed: Same seed, same tokens, if the engine keeps to it.
            thinking: Reasoning effort for chat messages; None is chat mode.
            stop: Strings that end the generation once complete.
            prefill_chunk: Without meaning here, where the engine has its own chunks; taken so that
                a call for a `Model` serves an engine, too.
            n: Continuations; each is a document of the trace, with the prompt's rows.
            start: First token whose experts are asked for; spares bytes with long prompts.
            record: `Record()`, or with less; what engines do not tell is refused.
            on_step: As in `Model.generate`; the experts then come at the end, in a replay.

        Raises:
            InputError: The prompt or a setting can't be used, or the answer would be too large.
            EngineError: The engine can't be reached, refuses, does not return experts, or answers
                what can't be right; its `trace` is the text that was received.
        """
        ids = self.encode(prompt, thinking)
        sampling = settings(max_new_tokens, temperature, top_p, seed, stop)
        check_record(record)
        check_chunk(prefill_chunk)
        n = whole("n", n, least=1)
        start = whole("start", start, least=0, most=len(ids))
        if on_step is not None:
            if n > 1 or start:
                raise InputError("on_step follows one continuation from its start: n=1, start=0.")
            stream = self._stream(ids, sampling, thinking).finish(on_step)
            return self._warned_of(stream.trace)
        self.check_size(n * (len(ids) - start + sampling.max_new_tokens))
        meta = {"sampling": sampling.as_meta(), "seed": sampling.seed, "thinking": thinking}
        asked = within(sampling, self.context - len(ids))
        answers = self.adapter.complete(ids, asked, n=n, start=start)
        return self._warned_of(self.joined(ids, answers, n, meta))

    def read(
        self,
        text: Prompt,
        *,
        prefill_chunk: int | None = None,
        start: int = 0,
        record: Record | None = None,
    ) -> Trace:
        """Return the Trace of a text: the experts of every token, in one pass.

        Args:
            text: A text, token ids, or chat messages.
            prefill_chunk: As in `generate`.
            start: First token whose experts are asked for.
            record: As in `generate`.

        Raises:
            InputError: As `generate`.
            EngineError: As `generate`.
        """
        ids = self.encode(text, None)
        check_record(record)
        check_chunk(prefill_chunk)
        start = whole("start", start, least=0, most=len(ids))
        routes = self.replay(ids, start=start)
        return self._warned_of(self.trace(ids, len(ids), routes))

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        thinking: str | None = None,
        stop: str | Sequence[str] | None = None,
        prefill_chunk: int | None = None,
        record: Record | None = None,
    ) -> RemoteStream:
        """Return an iterator of `Step`s; first the text, at its end all experts.

        The arguments are those of `generate`.

        Raises:
            InputError: The prompt or a setting can't be used.
        """
        check_record(record)
        check_chunk(prefill_chunk)
        sampling = settings(max_new_tokens, temperature, top_p, seed, stop)
        return self._stream(self.encode(prompt, thinking), sampling, thinking)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    # What streams ask of their engine, besides traces.

    def replay(self, ids: list[int], *, start: int = 0, call: Call | None = None) -> Routes:
        """Return the experts of all tokens of a text, by letting the engine read it."""
        self.check_size(len(ids) - start)
        # An answer of one token must fit behind what is read.
        read = min(len(ids), self.context - 1)
        answer = self._read(ids[:read], start=start, call=call)
        return self.routes(ids, read, answer)

    def check_size(self, tokens: int) -> None:
        """Refuse to ask for more than is allowed to come.

        Raises:
            InputError: The answer would be too large.
        """
        a = self.architecture
        each = a.n_layers * a.top_k * self.adapter.bytes_per_id(a.n_experts) * 4 / 3
        size, most = tokens * (each + _ANSWER_BYTES), self._transport.max_bytes
        if size > most:
            raise InputError(
                f"The experts of {tokens:,} tokens are {megabytes(size)} on the way; allowed are "
                f"{megabytes(most)}. Ask for fewer, from a later start, or connect with a larger "
                "max_bytes."
            )

    def encode(self, prompt: Prompt, thinking: str | None) -> list[int]:
        """Return the token ids of a prompt.

        Raises:
            InputError: The prompt can't be used, or is longer than the context.
        """
        ids = encode_prompt(
            prompt,
            self.tokenizer,
            thinking=thinking,
            edition=self.edition,
            vocabulary=self.architecture.vocabulary,
            context=self.context,
        )
        most = self.context
        if len(ids) >= most:
            raise InputError(
                f"The prompt has {len(ids):,} tokens; the engine's context holds {most:,}, one of "
                "them for an answer. Shorten the prompt."
            )
        return ids

    def _stream(self, ids: list[int], sampling: Sampling, thinking: str | None) -> RemoteStream:
        self.check_size(len(ids) + sampling.max_new_tokens)
        return RemoteStream(self, ids, sampling=sampling, meta={"thinking": thinking})

    def _read(self, ids: list[int], *, start: int, call: Call | None) -> Answer:
        """Let the engine read ids and write one token; return what it told."""
        answers = self.adapter.complete(ids, _ONE, start=start, call=call)
        if len(answers) != 1:
            raise other_number(answers, 1)
        self.written(ids, answers[0]).confirm()
        return answers[0]

    def _warned_of(self, trace: Trace) -> Trace:
        """Return a trace; warn of layers that it lacks, of the same ones once."""
        told = trace.meta.get("routes")
        for routes in told if isinstance(told, list) else [told or {}]:
            gaps = (routes or {}).get("gaps")
            if gaps and gaps not in self._warned:
                self._warned.add(gaps)
                warnings.warn(gaps, stacklevel=3)
        return trace

    def _hidden(self, served: Served) -> Served:
        """Return what a server says of itself without the key, which it might say back."""
        hide = self._transport.hide
        return replace(
            served,
            version=hide(served.version),
            model=hide(served.model),
            source=hide(served.source),
        )

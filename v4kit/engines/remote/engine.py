"""`Engine`: a model that a vLLM or SGLang server runs, with the calls of a `Model`."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from v4kit.arch import describe
from v4kit.core import NONE, Record
from v4kit.engines.base import OnStep, Sampling, whole
from v4kit.engines.remote.adapters import Adapter
from v4kit.engines.remote.answers import Answer, Served
from v4kit.engines.remote.asking import LACKING, check_record, settings, why_ended, within
from v4kit.engines.remote.http import Transport
from v4kit.engines.remote.routes import Routes, align, as_meta, describe_gaps
from v4kit.engines.remote.stream import RemoteStream
from v4kit.engines.text import Prompt, encode_prompt, stop_ids
from v4kit.errors import EngineError, InputError
from v4kit.models.chat import edition_of
from v4kit.models.identity import Identity
from v4kit.recording.meta import architecture_meta
from v4kit.recording.text import text_columns
from v4kit.trace import Trace, concat
from v4kit.trace.build import make_trace

_ONE = Sampling(max_new_tokens=1)
_ANSWER_BYTES = 64
"""Bytes of text and ids per token that come with its routes, at most."""


class Engine:
    """A model that a serving engine runs; made by `v4kit.connect`.

    `generate`, `read` and `stream` are called as on a `Model` and return traces of the experts
    that the engine used. Slots are in no order, and there are no weights, scores or attention:
    engines do not return them. `tokenizer` and `architecture` are those of the model that is
    served, read on this machine.
    """

    def __init__(
        self, transport: Transport, adapter: Adapter, served: Served, identity: Identity
    ) -> None:
        config, tokenizer = identity.config, identity.tokenizer
        self.tokenizer = tokenizer
        self.architecture = describe(config)
        self.edition = edition_of(config)
        self.stop_ids = stop_ids(config.get_text_config(), tokenizer)
        self.tables = identity.tables
        self.context = served.context or self.architecture.context
        self.lacks = {"attention": LACKING, "weights": LACKING, "scores": LACKING}
        self.meta = {
            "model": served.model,
            "revision": None,
            "engine": f"{served.engine} {served.version}".strip(),
            "dtype": "unknown",
            "router_dtype": "unknown",
            "ranked": False,
            "architecture": architecture_meta(self.architecture),
            "versions": {"python": platform.python_version()},
            "attention": {"sources": None, "heads": "mean", "why": LACKING},
        }
        self._transport = transport
        self.adapter = adapter

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
        served = self.adapter.served()
        first = next(iter(self.stop_ids), 0)
        answer = self.ask([first], _ONE)[0]
        if answer.packed is None:
            return replace(served, routed_experts=False, advice=self.adapter.advice)
        routes = self._routes([first], 1, answer)
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
        whole("n", n, least=1)
        whole("start", start, least=0, most=len(ids))
        if on_step is not None:
            if n > 1 or start:
                raise InputError("on_step follows one continuation from its start: n=1, start=0.")
            return self._stream(ids, sampling, thinking).finish(on_step).trace
        self.check_size(n * (len(ids) - start + sampling.max_new_tokens))
        meta = {"sampling": sampling.as_meta(), "seed": sampling.seed, "thinking": thinking}
        asked = within(sampling, self.context - len(ids))
        answers = self.ask(ids, asked, n=n, start=start)
        traces = [self._trace_of(ids, answer, meta) for answer in answers]
        return traces[0] if n == 1 else concat(traces)

    def read(self, text: Prompt, *, start: int = 0, record: Record | None = None) -> Trace:
        """Return the Trace of a text: the experts of every token, in one pass.

        Args:
            text: A text, token ids, or chat messages.
            start: First token whose experts are asked for.
            record: As in `generate`.

        Raises:
            InputError: As `generate`.
            EngineError: As `generate`.
        """
        ids = self.encode(text, None)
        check_record(record)
        whole("start", start, least=0, most=len(ids))
        return self.trace(ids, len(ids), self.replay(ids, start=start))

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
        record: Record | None = None,
    ) -> RemoteStream:
        """Return an iterator of `Step`s; first the text, at its end all experts.

        The arguments are those of `generate`.

        Raises:
            InputError: The prompt or a setting can't be used.
        """
        check_record(record)
        sampling = settings(max_new_tokens, temperature, top_p, seed, stop)
        return self._stream(self.encode(prompt, thinking), sampling, thinking)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    # What streams ask of their engine.

    def ask(
        self, ids: list[int], sampling: Sampling, *, n: int = 1, start: int = 0
    ) -> list[Answer]:
        """Return continuations as the engine told them, after a look at the ids it read."""
        answers = self.adapter.complete(ids, sampling, n=n, start=start)
        if len(answers) != n:
            raise EngineError(f"The engine returned {len(answers)} continuations; asked were {n}.")
        if any(answer.prompt != ids for answer in answers):
            raise EngineError(
                "The engine read other tokens than were sent. Does it, or a gateway before it, "
                "change prompts?"
            )
        return answers

    def replay(self, ids: list[int], *, start: int = 0) -> Routes:
        """Return the experts of all tokens of a text, by letting the engine read it."""
        self.check_size(len(ids) - start)
        # An answer of one token must fit behind what is read.
        read = min(len(ids), self.context - 1)
        answer = self.ask(ids[:read], _ONE, start=start)[0]
        return self._routes(ids, read, answer)

    def trace(self, ids: list[int], n_prompt: int, routes: Routes | None, **meta: Any) -> Trace:
        """Return the Trace of ids with their experts, or without any."""
        a = self.architecture
        experts = (
            np.full((len(ids), a.n_layers, a.top_k), NONE, np.int16)
            if routes is None
            else routes.experts
        )
        columns = {
            "id": ids,
            "position": np.arange(len(ids)),
            "phase": ["prompt"] * n_prompt + ["generated"] * (len(ids) - n_prompt),
            "valid": (experts != NONE).any(axis=(1, 2)),
            **text_columns(ids, None, self.tokenizer),
        }
        if routes is not None:
            meta["routes"] = as_meta(routes)
        return make_trace(columns, {"experts": experts}, {**self.meta, **meta})

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
                f"The experts of {tokens:,} tokens are {size / 1e6:,.0f} MB on the way; allowed "
                f"are {most / 1e6:,.0f}. Ask for fewer, from a later start, or connect with a "
                "larger max_bytes."
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

    def _trace_of(self, ids: list[int], answer: Answer, meta: Mapping[str, Any]) -> Trace:
        whole_text = [*ids, *answer.tokens]
        most = meta["sampling"]["max_new_tokens"]
        why = why_ended(
            answer.finish, len(answer.tokens), most, stopped=whole_text[-1] in self.stop_ids
        )
        meta = {**meta, "stop_reason": why}
        try:
            routes = self._routes(whole_text, len(whole_text) - 1, answer)
        except EngineError as error:
            # What was written is not lost with its routes.
            error.trace = self.trace(whole_text, len(ids), None, **meta)
            raise
        return self.trace(whole_text, len(ids), routes, **meta)

    def _routes(self, ids: list[int], fed: int, answer: Answer) -> Routes:
        if answer.packed is None:
            raise EngineError(f"The engine returned no experts. {self.adapter.advice}")
        found = answer.unpack(answer.packed)
        return align(found, ids, fed, self.architecture, start=answer.start, tables=self.tables)

"""What an engine's answers become: traces, or an error that holds what had come."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from v4kit.arch import describe
from v4kit.core import NONE
from v4kit.engines.remote.adapters import Adapter
from v4kit.engines.remote.answers import Answer, Served
from v4kit.engines.remote.asking import LACKING, why_ended
from v4kit.engines.remote.routes import Routes, align, as_meta
from v4kit.engines.remote.written import Written, compare
from v4kit.engines.text import stop_ids
from v4kit.errors import EngineError
from v4kit.models.chat import edition_of
from v4kit.models.identity import Identity
from v4kit.recording.meta import architecture_meta
from v4kit.recording.text import text_columns
from v4kit.trace import Trace, concat
from v4kit.trace.build import make_trace


class Tracing:
    """A model that is served elsewhere, as far as it must be known here to make traces of it."""

    def __init__(self, adapter: Adapter, served: Served, identity: Identity) -> None:
        config, tokenizer = identity.config, identity.tokenizer
        self.adapter = adapter
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
            meta["routes"] = as_meta(routes, self.adapter.advice)
        return make_trace(columns, {"experts": experts}, {**self.meta, **meta})

    def joined(self, ids: list[int], answers: list[Answer], n: int, meta: dict[str, Any]) -> Trace:
        """Return the trace of all continuations; if one can't be right, all come with the error."""
        traces, errors = [], []
        if len(answers) != n:
            errors.append(other_number(answers, n))
        for answer in answers:
            try:
                traces.append(self._trace_of(ids, answer, meta))
            except EngineError as error:
                traces.append(error.trace)
                errors.append(error)
        whole_trace = concat(traces) if len(traces) > 1 else traces[0] if traces else None
        if errors or whole_trace is None:
            errors[0].trace = whole_trace
            raise errors[0]
        return whole_trace

    def _trace_of(self, ids: list[int], answer: Answer, meta: dict[str, Any]) -> Trace:
        found = self.written(ids, answer)
        stopped, most = found.ids[-1] in self.stop_ids, meta["sampling"]["max_new_tokens"]
        why = why_ended(answer.finish, len(found.ids) - found.n_prompt, most, stopped=stopped)
        meta = {**meta, "stop_reason": why}
        try:
            found.confirm()
            routes = self.routes(found.ids, len(found.ids) - 1, answer)
        except EngineError as error:
            # What was written is not lost with its routes.
            error.trace = self.trace(found.ids, found.n_prompt, None, **meta)
            raise
        return self.trace(found.ids, found.n_prompt, routes, **meta)

    def written(self, sent: list[int], answer: Answer) -> Written:
        """Return what was sent and written, with what can't be right of it."""
        return compare(answer, sent, self.tokenizer, self.architecture.vocabulary)

    def routes(self, ids: list[int], fed: int, answer: Answer) -> Routes:
        """Return the experts of ids, of which the first `fed` were read.

        Raises:
            EngineError: There are none, or they can't be right.
        """
        if answer.packed is None:
            raise EngineError(f"The engine returned no experts. {self.adapter.advice}")
        found = answer.unpack(answer.packed)
        return align(found, ids, fed, self.architecture, start=answer.start, tables=self.tables)


def other_number(answers: list[Answer], n: int) -> EngineError:
    """Return what to say where another number of continuations came."""
    return EngineError(f"The engine returned {len(answers)} continuations; asked were {n}.")

"""Engines that are none: what vLLM and SGLang answer, computed by a model in this process."""

import base64
import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import v4kit
from tests.engines.stand_in import Asked, Reply
from v4kit.errors import ModelBusy

Change = Callable[[np.ndarray], Any]


def unhurried(ask: Callable[[], v4kit.Trace]) -> v4kit.Trace:
    """Ask a model that another thread may be using: a server's, for an answer nobody wants now."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            return ask()
        except ModelBusy:
            time.sleep(0.01)
    return ask()


@dataclass
class Served:
    """A model behind an engine's HTTP paths, after the engines' sources."""

    model: v4kit.Model
    change: Change = lambda rows: rows
    """What becomes of the array of experts `[row, layer, slot]`; None: no experts are returned."""
    first: list[Reply] = field(default_factory=list)
    """Replies to the first requests for tokens, before any is computed."""
    other: dict[str, Reply] = field(default_factory=dict)
    """Replies to paths, whatever is asked."""
    spoil: Callable[[dict[str, Any]], Any] = lambda answer: answer
    """What becomes of the whole answer."""
    hash_zeros: bool = False
    """Whether hash layers are never captured, as in SGLang."""
    wait: float = 0.0
    """Seconds between two events."""
    events: Callable[[list[Any]], Iterable[Any]] = lambda events: events
    """What becomes of the events of a streamed answer."""

    def __call__(self, asked: Asked) -> Reply:
        """Answer a request."""
        path = asked.path
        if path in self.other:
            return self.other[path]
        if path == "/v1/models":
            return Reply({"data": [self.card()]})
        known = self.get(path) if asked.method == "GET" else None
        if known is not None:
            return known
        if asked.method == "GET" or path not in self.paths:
            return Reply({"detail": "Not Found"}, status=404)
        return self.first.pop(0) if self.first else self.answer(asked)

    paths: tuple[str, ...] = ()
    owner: str = ""

    def card(self) -> dict[str, Any]:
        """What `/v1/models` says."""
        context = self.model.architecture.context
        return {"id": "a model", "owned_by": self.owner, "root": "x", "max_model_len": context}

    def get(self, path: str) -> Reply | None:
        """The answer to a GET that only this engine knows."""
        raise NotImplementedError

    def answer(self, asked: Asked) -> Reply:
        """The answer to a request for tokens."""
        raise NotImplementedError

    def run(self, ids: list[int], count: int, stop: list[str]) -> tuple[list[int], str]:
        """Continue ids; return what was written and why it ended."""
        trace = unhurried(lambda: self.model.generate(ids, max_new_tokens=count, stop=stop or None))
        ended = "length" if trace.meta["stop_reason"] == "length" else "stop"
        return trace.tokens["id"].tolist()[len(ids) :], ended

    def text(self, written: list[int]) -> str:
        """What tokens say."""
        return self.model.tokenizer.decode(written)

    def rows(self, ids: list[int], written: list[int], start: int) -> Any:
        """The experts of all tokens that were read, from `start` on; unordered, 0 for none."""
        read = [*ids, *written][:-1]
        trace = unhurried(lambda: self.model.read(read))
        found = trace.routing["experts"].to_numpy().astype(np.int64)
        found = np.where(found < 0, 0, found[..., ::-1])
        if self.hash_zeros:
            found[:, list(self.model.architecture.hash_layers)] = 0
        return self.change(found[start:])


@dataclass
class VLLM(Served):
    """vLLM 0.30's `/v1/completions`."""

    paths: tuple[str, ...] = ("/v1/completions",)
    owner: str = "vllm"

    def get(self, path: str) -> Reply | None:
        """`/version`."""
        return Reply({"version": "0.30.0"}) if path == "/version" else None

    def answer(self, asked: Asked) -> Reply:
        """A completion, streamed or not."""
        body = asked.body
        ids, n = body["prompt"], body.get("n", 1)
        written, ended = self.run(ids, body["max_tokens"], body.get("stop", []))
        if body.get("stream"):
            return Reply(events=self.events(openai_events(ids, written, ended)), wait=self.wait)
        rows = self.rows(ids, written, body.get("routed_experts_prompt_start", 0))
        choice = {
            "prompt_token_ids": ids,
            "token_ids": written,
            "text": self.text(written),
            "finish_reason": ended,
            "routed_experts": None if rows is None else npy(rows),
        }
        choices = [{**choice, "index": index} for index in range(n)]
        return Reply(self.spoil({"id": "cmpl-1", "choices": choices}))


@dataclass
class SGLang(Served):
    """SGLang 0.5.23's `/generate` and `/v1/completions`."""

    paths: tuple[str, ...] = ("/generate", "/v1/completions")
    owner: str = "sglang"
    spelling: str = "sglext"
    """The field of `/v1/completions`: "sglext" in the answer, or "sgl_ext" in its choice."""
    incremental: bool = False
    """Whether an event holds its new tokens only."""
    enabled: bool = True
    """What `/server_info` says of the flag."""

    def get(self, path: str) -> Reply | None:
        """`/server_info`."""
        info = {"version": "0.5.23", "model_path": "x", "context_length": None}
        info["enable_return_routed_experts"] = self.enabled
        return Reply(info) if path == "/server_info" else None

    def answer(self, asked: Asked) -> Reply:
        """Tokens by the engine's own path or by OpenAI's."""
        return self._native(asked.body) if asked.path == "/generate" else self._openai(asked.body)

    def _native(self, body: dict[str, Any]) -> Reply:
        ids, settings = body["input_ids"], body["sampling_params"]
        if body.get("stream"):
            written, ended = self.run(ids, settings["max_new_tokens"], settings.get("stop", []))
            events = self._events(ids, written, {"type": ended})
            return Reply(events=self.events(events), wait=self.wait)
        if isinstance(settings, dict):
            return Reply(self.spoil(self._whole(body, ids, settings)))
        each = zip(ids, settings, strict=True)
        return Reply(self.spoil([self._whole(body, *one) for one in each]))

    def _whole(self, body: dict[str, Any], ids: list[int], settings: Any) -> dict[str, Any]:
        assert settings["n"] == 1
        written, ended = self.run(ids, settings["max_new_tokens"], settings.get("stop", []))
        meta = {"prompt_tokens": len(ids), "completion_tokens": len(written)}
        meta["finish_reason"] = {"type": ended}
        if body.get("return_routed_experts"):
            rows = self.rows(ids, written, body["routed_experts_start_len"])
            if rows is not None:
                meta["routed_experts"] = int32(rows)
        return {"text": self.text(written), "output_ids": written, "meta_info": meta}

    def _events(self, ids: list[int], written: list[int], reason: Any) -> list[Any]:
        events = []
        for place in range(len(written)):
            meta = {"prompt_tokens": len(ids), "completion_tokens": place + 1}
            meta["finish_reason"] = reason if place == len(written) - 1 else None
            new = written[place : place + 1] if self.incremental else written[: place + 1]
            events.append({"output_ids": new, "meta_info": meta})
        return events

    def _openai(self, body: dict[str, Any]) -> Reply:
        ids = body["prompt"]
        written, ended = self.run(ids, body["max_tokens"], body.get("stop", []))
        if body.get("stream"):
            return Reply(events=self.events(openai_events(ids, written, ended)), wait=self.wait)
        rows = self.rows(ids, written, body["routed_experts_start_len"])
        choice = {"prompt_token_ids": ids, "token_ids": written, "finish_reason": ended}
        extra = {self.spelling: {"routed_experts": int32(rows)}}
        answer: dict[str, Any] = {"choices": [choice]}
        (answer if self.spelling == "sglext" else choice).update(extra)
        return Reply(self.spoil(answer))


def openai_events(ids: list[int], written: list[int], ended: str) -> list[Any]:
    """A streamed answer of `/v1/completions`, a token at a time."""
    events = []
    for place, token in enumerate(written):
        choice = {"index": 0, "token_ids": [token], "finish_reason": None}
        choice["prompt_token_ids"] = None if place else ids
        if place == len(written) - 1:
            choice["finish_reason"] = ended
        events.append({"choices": [choice]})
    return events


def npy(rows: Any) -> str:
    """An array as vLLM packs it; text is left as it is."""
    if isinstance(rows, str):
        return rows
    file = io.BytesIO()
    np.save(file, rows.astype(np.uint8) if rows.dtype == np.int64 else rows)
    return base64.b64encode(file.getvalue()).decode()


def int32(rows: Any) -> str:
    """An array as SGLang packs it; text is left as it is."""
    if isinstance(rows, str):
        return rows
    return base64.b64encode(np.asarray(rows, "<i4").tobytes()).decode()

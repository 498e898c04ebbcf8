"""Keeps what a real engine answered, for tests that have none: a folder of exchanges as JSON."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from v4kit.engines.remote.calls import Call
from v4kit.engines.remote.http import Transport
from v4kit.errors import EngineError

ANSWERS = Path(__file__).parents[1] / "engines" / "answers"


class Exchanges:
    """Every request that a `Transport` makes, with its answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[dict[str, Any]] = []
        get, post, events = Transport.get, Transport.post, Transport.events

        def kept_get(transport: Transport, path: str) -> Any:
            return self._keep("GET", path, {}, lambda: get(transport, path))

        def kept_post(
            transport: Transport, path: str, body: dict[str, Any], call: Call | None = None
        ) -> Any:
            return self._keep("POST", path, body, lambda: post(transport, path, body, call))

        def kept_events(
            transport: Transport, path: str, body: dict[str, Any], call: Call | None = None
        ) -> Iterator[Any]:
            seen: list[Any] = []
            self._add("POST", path, body, events=seen)
            for event in events(transport, path, body, call):
                seen.append(event)
                yield event

        monkeypatch.setattr(Transport, "get", kept_get)
        monkeypatch.setattr(Transport, "post", kept_post)
        monkeypatch.setattr(Transport, "events", kept_events)

    def write(self, name: str) -> None:
        """Write them, without what tells of the machine."""
        ANSWERS.mkdir(exist_ok=True)
        text = json.dumps(self.all, indent=1, ensure_ascii=False)
        (ANSWERS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")

    def _keep(self, method: str, path: str, body: dict[str, Any], ask: Any) -> Any:
        try:
            answer = ask()
        except EngineError as error:
            said = {"error": {"message": str(error).partition(": ")[2]}}
            self._add(method, path, body, answer=said, status=error.status)
            raise
        self._add(method, path, body, answer=_impersonal(answer))
        return answer

    def _add(
        self,
        method: str,
        path: str,
        body: dict[str, Any],
        *,
        answer: Any = None,
        events: list[Any] | None = None,
        status: int | None = 200,
    ) -> None:
        one = {"method": method, "path": path, "body": copy.deepcopy(body), "status": status}
        self.all.append(one | {"answer": answer, "events": events})


def _impersonal(answer: Any) -> Any:
    """An answer in which a model's folder is only its name."""
    if isinstance(answer, dict) and isinstance(answer.get("data"), list):
        cards = [card | {"root": card["id"], "permission": []} for card in answer["data"]]
        return answer | {"data": cards}
    return answer

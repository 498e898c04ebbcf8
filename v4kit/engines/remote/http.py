"""Requests to a serving engine: bounded in size and time, retried where that is safe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx

from v4kit.errors import EngineError, InputError

_ATTEMPTS = 3
_PAUSE = 0.5
"""Seconds before the second attempt; twice that before the third."""
_BUSY = (429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""
_UNANSWERED = (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""Ways in which a connection fails before an answer begins; a server may close an idle one."""
_CONNECT = 10.0
"""Seconds to wait for a connection."""
_MESSAGE = 400
"""Characters of a refusal that are shown."""


class Transport:
    """Speaks JSON with one server.

    Requests have no effect but their answer, so one that was refused for the moment, or to which
    no answer began, is sent again. One that was cut off while its answer came is not, nor one whose
    time ran out: it would only take as long again.
    """

    def __init__(self, url: str, api_key: str | None, *, timeout: float, max_bytes: int) -> None:
        parts = httpx.URL(_with_scheme(url))
        if parts.userinfo or not parts.host or parts.scheme not in ("http", "https"):
            raise InputError(
                'connect takes an address such as "http://host:8000", without user or password; '
                "give a key as api_key."
            )
        self.max_bytes = max_bytes
        self._key = api_key
        self.url = str(parts.copy_with(query=None, fragment=None)).rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=min(_CONNECT, timeout)),
        )

    def __repr__(self) -> str:
        return f"Transport({self.url})"

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        """Return the answer to a GET.

        Raises:
            EngineError: The server can't be reached, refuses, or answers no JSON object.
        """
        return _object(self._answer("GET", path, None), path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to a POST.

        Raises:
            EngineError: As `get`; or the answer is larger than allowed.
        """
        return _parsed(self._answer("POST", path, body), path)

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of a streamed answer; closing the iterator cancels the request.

        Raises:
            EngineError: As `post`; or the stream was cut off before its end.
        """
        size = 0
        with closing(self._sent("POST", path, body)) as response:
            try:
                for line in response.iter_lines():
                    size += len(line)
                    self._check_size(size)
                    content = line.removeprefix("data:").strip()
                    if content == "[DONE]":
                        return
                    if line.startswith("data:") and content:
                        yield _object(content.encode(), path)
            except httpx.HTTPError as error:
                raise self._cut_off(error) from error
        raise EngineError(f"{self.url} ended its stream without saying that it is done. Try again.")

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        parts, size = [], 0
        with closing(self._sent(method, path, body)) as response:
            try:
                for part in response.iter_bytes():
                    size += len(part)
                    self._check_size(size)
                    parts.append(part)
            except httpx.HTTPError as error:
                raise self._cut_off(error) from error
        return b"".join(parts)

    def _sent(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Return an answer whose status is good and whose body is still to be read."""
        pauses = [_PAUSE * 2**attempt for attempt in range(_ATTEMPTS - 1)]
        while True:
            try:
                return self._once(method, path, body)
            except EngineError as error:
                unanswered = isinstance(error.__cause__, _UNANSWERED)
                if not pauses or not (unanswered or error.status in _BUSY):
                    raise
            time.sleep(pauses.pop(0))

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        request = self._client.build_request(method, f"{self.url}{path}", json=body)
        try:
            response = self._client.send(request, stream=True)
        except httpx.ConnectError as error:
            raise EngineError(
                f"{self.url} can't be reached: {self._hide(str(error))} "
                "Check the address, and that the server is up."
            ) from error
        except httpx.HTTPError as error:
            raise self._cut_off(error) from error
        if not response.is_success:
            raise self._refusal(response)
        return response

    def _refusal(self, response: httpx.Response) -> EngineError:
        text = ""
        try:
            for part in response.iter_text():
                text += part
                if len(text) > 4 * _MESSAGE:
                    break
        except httpx.HTTPError:
            text = ""
        finally:
            response.close()
        status = response.status_code
        said = self._hide(_said(text))[:_MESSAGE]
        why = {
            401: " Give a key: api_key, or the environment's V4KIT_API_KEY.",
            403: " This key, or this server, does not allow it.",
            404: " Is it a vLLM or SGLang server?",
        }.get(status, "")
        return EngineError(f"{self.url} answered {status}: {said}{why}", status=status)

    def _cut_off(self, error: Exception) -> EngineError:
        if isinstance(error, httpx.TimeoutException):
            return EngineError(
                f"{self.url} did not answer in time. Ask for fewer tokens, or connect with a "
                "longer timeout."
            )
        return EngineError(
            f"{self.url} cut the connection off: {self._hide(str(error)) or type(error).__name__} "
            "Try again."
        )

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise EngineError(
                f"{self.url} answered more than {self.max_bytes / 1e6:,.0f} MB. Ask for fewer "
                "tokens, or connect with a larger max_bytes."
            )

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


def _with_scheme(url: Any) -> str:
    if not isinstance(url, str) or not url.strip():
        raise InputError(f'connect takes an address such as "http://host:8000"; given was {url!r}.')
    return url if "://" in url else f"http://{url}"


def _parsed(content: bytes, path: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        start = content[:60].decode("utf-8", "replace")
        raise EngineError(
            f"The answer of {path} is no JSON, it begins with {start!r}. "
            "Is it a vLLM or SGLang server?"
        ) from error


def _object(content: bytes, path: str) -> dict[str, Any]:
    found = _parsed(content, path)
    if not isinstance(found, dict):
        raise EngineError(f"The answer of {path} is no JSON object. Is it a vLLM or SGLang server?")
    if found.get("error"):
        raise EngineError(f"The engine reports an error: {_said(json.dumps(found))[:_MESSAGE]}")
    return found


def _said(text: str) -> str:
    """Return the message in an answer of JSON, else its text."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return " ".join(text.split()) or "nothing."
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return str(found)

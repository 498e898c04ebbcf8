"""Requests to a serving engine: bounded in size and time, retried where that is safe."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

import httpx

from v4kit.engines.base import whole as whole_number
from v4kit.engines.remote.address import Secret, is_this_machine, seconds, server_url
from v4kit.engines.remote.bodies import lines, megabytes, message, message_of, parsed, shown, whole
from v4kit.engines.remote.calls import Call
from v4kit.errors import EngineError

_ATTEMPTS = 3
_PAUSE = 0.5
"""Seconds before the second attempt; twice that before the third."""
_BUSY = (429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""
_UNANSWERED = (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""Ways in which a connection fails before an answer begins."""
_CONNECT = 10.0
"""Seconds to wait for a connection."""
_REFUSAL = 2**16
"""Bytes of a refusal that are read."""
_ADVICE = {
    401: " Give a key: api_key, or the environment's V4KIT_API_KEY.",
    403: " This key, or this server, does not allow it.",
    404: " Is it a vLLM or SGLang server?",
}


class Transport:
    """Speaks JSON with one server.

    Requests have no effect but their answer, so one that was refused for the moment, or to which
    no answer began, is sent again. One that was cut off while its answer came is not, nor one whose
    time ran out: it would only take as long again. What a server says is shown without the key.
    """

    def __init__(self, url: str, api_key: str | None, *, timeout: float, max_bytes: int) -> None:
        self.url = server_url(url)
        self.max_bytes = whole_number("max_bytes", max_bytes, least=1)
        self._secret = Secret(api_key)
        self._timeout = seconds(timeout)
        self._client = httpx.Client(
            headers=self._secret.headers,
            timeout=httpx.Timeout(self._timeout, connect=min(_CONNECT, self._timeout)),
            # A connection for each request: the socket to break off is known from its beginning.
            limits=httpx.Limits(max_keepalive_connections=0),
            # The environment's proxies are not for this machine, and would be shown the key.
            trust_env=not is_this_machine(self.url),
        )

    def __repr__(self) -> str:
        return f"Transport({self.url})"

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def hide(self, text: str) -> str:
        """Return words of the server without the key."""
        return self._secret.hide(text)

    def get(self, path: str) -> dict[str, Any]:
        """Return the answer to a GET.

        Raises:
            EngineError: The server can't be reached, refuses, or answers no JSON object.
        """
        return self._object(self._answer("GET", path, None, Call()), path)

    def post(self, path: str, body: dict[str, Any], call: Call | None = None) -> Any:
        """Return the answer to a POST, of which `call` can be broken off.

        Raises:
            EngineError: As `get`; or the answer is larger than allowed.
        """
        return self._data(self._answer("POST", path, body, call or Call()), path)

    def events(
        self, path: str, body: dict[str, Any], call: Call | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """Yield the events of a streamed answer; closing the iterator cancels the request.

        Raises:
            EngineError: As `post`; or the stream was cut off before its end.
        """
        with closing(self._sent("POST", path, body, call or Call())) as response:
            try:
                for line in lines(response.iter_bytes(), self._check_size):
                    content = line.removeprefix(b"data:").strip()
                    if content == b"[DONE]":
                        return
                    if line.startswith(b"data:") and content:
                        yield self._object(content, path)
            except httpx.HTTPError as error:
                raise self._failed(error) from error
        raise EngineError(f"{self.url} ended its stream without saying that it is done. Try again.")

    def _answer(self, method: str, path: str, body: dict[str, Any] | None, call: Call) -> bytes:
        with closing(self._sent(method, path, body, call)) as response:
            try:
                return whole(response.iter_bytes(), self._check_size)
            except httpx.HTTPError as error:
                raise self._failed(error) from error

    def _sent(
        self, method: str, path: str, body: dict[str, Any] | None, call: Call
    ) -> httpx.Response:
        """Return an answer whose status is good and whose body is still to be read."""
        pauses = [_PAUSE * 2**attempt for attempt in range(_ATTEMPTS - 1)]
        while True:
            try:
                return self._once(method, path, body, call)
            except EngineError as error:
                unanswered = isinstance(error.__cause__, _UNANSWERED)
                if not pauses or not (unanswered or error.status in _BUSY):
                    raise
                if call.pause(pauses.pop(0)):
                    raise

    def _once(
        self, method: str, path: str, body: dict[str, Any] | None, call: Call
    ) -> httpx.Response:
        request = self._client.build_request(
            method, f"{self.url}{path}", json=body, extensions={"trace": call.hear}
        )
        try:
            response = self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        if not response.is_success:
            raise self._refusal(response)
        return response

    def _refusal(self, response: httpx.Response) -> EngineError:
        content = b""
        try:
            for part in response.iter_bytes():
                content += part
                if len(content) > _REFUSAL:
                    break
        except httpx.HTTPError:
            content = b""
        finally:
            response.close()
        status = response.status_code
        why = _ADVICE.get(status, "")
        if response.has_redirect_location:
            place = self.hide(response.headers["Location"])
            why = f" It points to {shown(place)}: connect to that address, if you trust it."
        said = shown(self.hide(message(content)))
        return EngineError(f"{self.url} answered {status}: {said}{why}", status=status)

    def _failed(self, error: httpx.HTTPError) -> EngineError:
        """Return what to say of a request that got no answer, or not all of it."""
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            why = self.hide(str(error)) or type(error).__name__
            return EngineError(
                f"{self.url} can't be reached: {why}. Check the address, and that the server is up."
            )
        if isinstance(error, httpx.TimeoutException):
            return EngineError(
                f"{self.url} did not answer in time, within {self._timeout:g} seconds. Ask for "
                "fewer tokens, or connect with a longer timeout."
            )
        return EngineError(
            f"{self.url} cut the connection off: {self.hide(str(error)) or type(error).__name__} "
            "Try again."
        )

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise EngineError(
                f"{self.url} answered more than {megabytes(self.max_bytes)}. Ask for fewer "
                "tokens, or connect with a larger max_bytes."
            )

    def _data(self, content: bytes, path: str) -> Any:
        """Return the JSON data of an answer."""
        try:
            found = parsed(content)
        except ValueError:
            start = self.hide(content[:_REFUSAL].decode("utf-8", "replace"))[:60]
            raise EngineError(
                f"The answer of {path} is no JSON, it begins with {start!r}. "
                "Is it a vLLM or SGLang server?"
            ) from None
        if isinstance(found, dict) and (found.get("error") or found.get("object") == "error"):
            said = shown(self.hide(message_of(found)))
            raise EngineError(f"The engine reports an error: {said}")
        return found

    def _object(self, content: bytes, path: str) -> dict[str, Any]:
        found = self._data(content, path)
        if not isinstance(found, dict):
            raise EngineError(
                f"The answer of {path} is no JSON object. Is it a vLLM or SGLang server?"
            )
        return found

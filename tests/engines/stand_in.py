"""A server on loopback that answers as a test tells it to."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Reply:
    """An answer, and what goes wrong with it."""

    data: Any = None
    """JSON data; bytes are sent as they are."""
    events: Iterable[Any] | None = None
    """JSON data of a streamed answer, one by one; bytes are sent as they are."""
    status: int = 200
    """HTTP status."""
    hang_up: bool = False
    """Close the connection without an answer."""
    cut: bool = False
    """Close the connection in the middle."""
    wait: float = 0.0
    """Seconds before the answer, or before each event."""
    done: bool = True
    """Whether a streamed answer says that it is done."""
    headers: dict[str, str] = field(default_factory=dict)
    """What is sent besides."""


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    body: dict[str, Any]
    key: str | None
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the other side hung up while it was answered."""


Answer = Callable[[Asked], Reply]


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self, body: dict[str, Any]) -> None:
        asked = Asked(self.command, self.path, body, self.headers.get("Authorization"))
        self.server.asked.append(asked)
        reply = self.server.answer(asked)
        self.close_connection = True
        if reply.hang_up:
            return
        try:
            if reply.events is None:
                self._send(reply)
            else:
                self._send_events(reply, reply.events)
        except (BrokenPipeError, ConnectionResetError):
            asked.closed.set()

    def _send(self, reply: Reply) -> None:
        time.sleep(reply.wait)
        data = reply.data
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(content)))
        self._end_headers(reply)
        self.wfile.write(content[: len(content) // 2] if reply.cut else content)

    def _send_events(self, reply: Reply, events: Iterable[Any]) -> None:
        self.send_response(200)
        if "Content-Type" not in reply.headers:
            self.send_header("Content-Type", "text/event-stream")
        self._end_headers(reply)
        for event in events:
            time.sleep(reply.wait)
            raw = isinstance(event, bytes)
            self.wfile.write(event if raw else f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        if reply.done:
            self.wfile.write(b"data: [DONE]\n\n")

    def _end_headers(self, reply: Reply) -> None:
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked: list[Asked] = []


class StandIn:
    """Serves for as long as the block runs; `asked` holds every request, `served` who answers."""

    def __init__(self, answer: Answer) -> None:
        self._server = _Server(answer)
        self.asked = self._server.asked
        self.served = answer
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, path: str) -> list[Asked]:
        """The requests of one path."""
        return [asked for asked in self.asked if asked.path == path]


def recorded(exchanges: Sequence[dict[str, Any]]) -> Answer:
    """Answer as a real server did, to the very same requests only."""

    def answer(asked: Asked) -> Reply:
        for one in exchanges:
            if (one["method"], one["path"], one["body"]) == (asked.method, asked.path, asked.body):
                return Reply(one["answer"], one["events"], one["status"])
        return Reply({"error": {"message": "this was never asked"}}, status=404)

    return answer

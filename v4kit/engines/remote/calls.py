"""Requests that another thread can break off, and threads that fetch so that nobody must wait."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_LOOK = 0.05
"""Seconds between two looks whether a call was broken off."""
_AHEAD = 256
"""Most items that are fetched before anybody takes one."""


class Call:
    """A request on its way; any thread may break it off."""

    def __init__(self) -> None:
        self._broken = threading.Event()
        self._sockets: list[socket.socket] = []

    @property
    def broken(self) -> bool:
        """Whether it was broken off."""
        return self._broken.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait; return at once, and True, where it is broken off."""
        return self._broken.wait(seconds)

    def hear(self, event: str, told: dict[str, Any]) -> None:
        """Hear from httpx, by its extension "trace", what a request does."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._sockets.append(told["return_value"].get_extra_info("socket"))
            if self.broken:
                self.break_off()

    def break_off(self) -> None:
        """End it: who reads its answer is not kept waiting, and the server hears of it."""
        self._broken.set()
        for connected in self._sockets:
            # Closing a socket does not wake a thread that reads from it; this does. Of a TLS
            # socket, too, only the connection is ended: the rest belongs to the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


class Fetched(Generic[T]):
    """Items that a thread of its own fetches over the network, a few ahead of who takes them.

    Args:
        fetch: Called in that thread; what it yields is fetched. It belongs to the `Call`, which is
            broken off by `close`, or when nobody has this object any more.
    """

    def __init__(self, fetch: Callable[[Call], Generator[T, None, None]]) -> None:
        self._call = Call()
        self._over = False
        self._items: queue.Queue[T | _End] = queue.Queue(_AHEAD)
        weakref.finalize(self, self._call.break_off)
        threading.Thread(
            target=_fetch, args=(fetch, self._call, self._items), name="v4kit-fetch", daemon=True
        ).start()

    @property
    def ended(self) -> bool:
        """Whether no item comes any more."""
        return self._over or self._call.broken

    def next(self, patience: float = _LOOK) -> T | None:
        """Return the next item; None if none has come in so many seconds, or none will.

        Raises:
            Exception: What the fetching ended with.
        """
        if self.ended:
            return None
        try:
            item = self._items.get(timeout=patience)
        except queue.Empty:
            return None
        if not isinstance(item, _End):
            return item
        self._over = True
        if item.error is not None and not self._call.broken:
            raise item.error
        return None

    def close(self) -> None:
        """Break the call off; nothing comes any more."""
        self._call.break_off()


class _End:
    """What comes after the last item: what ended it, if that was an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _fetch(
    fetch: Callable[[Call], Generator[T, None, None]], call: Call, items: queue.Queue[T | _End]
) -> None:
    end = _End()
    try:
        with contextlib.closing(fetch(call)) as found:
            for item in found:
                if not _put(items, item, call):
                    return
    except BaseException as error:  # noqa: BLE001 - whoever waits for the items gets it
        end = _End(error)
    _put(items, end, call)


def _put(items: queue.Queue[T | _End], item: T | _End, call: Call) -> bool:
    """Wait for room and return True; False if the call was broken off."""
    while not call.broken:
        with contextlib.suppress(queue.Full):
            items.put(item, timeout=_LOOK)
            return True
    return False

"""A generation in a thread of its own: it waits for its turn, can be stopped and be awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from v4kit.errors import ModelBusy

if TYPE_CHECKING:
    from v4kit.engines.stream import Stream
    from v4kit.trace import Trace

LOOK = 0.02
"""Seconds between two looks whether it is one's turn, or whether a run has ended."""

Tell = Callable[["Run", "str | None"], object]

_turns: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()


class Run:
    """One stream on its way, from the moment it is made.

    `await run` and `run.wait()` return the Trace. Runs of one model follow each other: two at once
    would be slower than one after the other, and a model can be in use elsewhere.

    Args:
        model: Whose turn is waited for.
        stream: What is advanced.
        tell: Called in the run's thread with the run and "waiting", "running", and None at the end,
            before those who wait for it go on.
    """

    def __init__(self, model: Any, stream: Stream, tell: Tell) -> None:
        self.stream = stream
        self.error: Exception | None = None
        self._tell = tell
        self._turn = _turns.setdefault(model, threading.Lock())
        self._state: str | None = None
        self._stop = threading.Event()
        self._hung_up = False
        self._ended = threading.Event()
        threading.Thread(target=self._work, name="v4kit-run", daemon=True).start()

    def __repr__(self) -> str:
        state = "ended" if self.done else self._state or "about to begin"
        return f"Run({state}: await it, or call wait(), for its trace)"

    @property
    def stopped(self) -> bool:
        """Whether somebody asked it to stop."""
        return self._stop.is_set()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    def stop(self) -> None:
        """Ask it to stop; it does so before its next forward pass.

        Asked again, it does not wait for the experts of a serving engine either.
        """
        if self.stopped and not self.done and hasattr(self.stream, "hang_up"):
            self._hung_up = True
            self.stream.hang_up()
        self._stop.set()

    def wait(self, timeout: float | None = None) -> Trace:
        """Block until the run has ended; return its Trace.

        Raises:
            TimeoutError: It has not ended in so many seconds.
            Exception: What ended it, if it failed.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"The run has not ended within {timeout} seconds.")
        if self.error is not None:
            raise self.error
        return self.stream.trace

    def __await__(self) -> Generator[Any, None, Trace]:
        return self._awaited().__await__()

    async def _awaited(self) -> Trace:
        try:
            # Short sleeps, so that an interrupt of the cell reaches it at once.
            while not self.done:
                await asyncio.sleep(LOOK)
        finally:
            self.stop()
        return self.wait()

    def _work(self) -> None:
        try:
            if self._wait_for_turn():
                try:
                    self._advance()
                    if not self._hung_up:
                        self.stream.leave()
                finally:
                    self._turn.release()
        except Exception as error:  # noqa: BLE001 - whoever waits for the run gets it
            self.error = error
        finally:
            try:
                self._say(None)
            finally:
                self._ended.set()

    def _wait_for_turn(self) -> bool:
        while not self._turn.acquire(timeout=LOOK):
            self._say("waiting")
            if self.stopped:
                return False
        return True

    def _advance(self) -> None:
        while not self.stopped and self.stream.stop_reason is None:
            try:
                self.stream.advance()
            except ModelBusy:
                self._say("waiting")
                self._stop.wait(LOOK)
            else:
                self._say("running")

    def _say(self, state: str | None) -> None:
        if state != self._state or state is None:
            self._state = state
            self._tell(self, state)

"""A generation on a serving engine, token by token; its experts come at the end, in a replay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from v4kit.core import NONE
from v4kit.engines.base import OnStep, Sampling, Step, whole
from v4kit.engines.remote.calls import Call, Fetched
from v4kit.engines.remote.incoming import Incoming
from v4kit.engines.turns import Turns
from v4kit.engines.watchers import Watchers, watched
from v4kit.errors import EngineError, InputError
from v4kit.recording.text import TokenText
from v4kit.trace import Trace

if TYPE_CHECKING:
    from v4kit.engines.remote.engine import Engine
    from v4kit.engines.remote.routes import Routes


_BROKEN = ("engine error", "interrupted")
"""Ends after which nothing more is asked of the engine."""
_CLOSED = ("stop token", "stop string", "context")
"""Ends after which the text can't go on."""


class RemoteStream(Iterator[Step]):
    """Yields a `Step` per token that the engine writes, with its text and no experts yet.

    Streamed answers hold no experts. Once the text has ended, or `leave` is called, the engine
    reads all of it once more, which brings the experts of every token, the last one included; the
    trace's meta says that they are `replayed`. A replay may differ from the generation where two
    experts are nearly level, because the engine computes many tokens at once.

    `stop_reason` is as in a `Model`'s stream, or "engine error": the text received until then
    stays in `trace`. A thread of its own waits for the network; so `trace`, `leave` and `hang_up`
    do not wait for a token that is on its way, whichever thread they are asked from.
    """

    def __init__(
        self, engine: Engine, prompt: list[int], *, sampling: Sampling, meta: dict[str, Any]
    ) -> None:
        self.stop_reason: str | None = None
        self._engine = engine
        self._ids = list(prompt)
        self._n_prompt = len(prompt)
        self._sampling = sampling
        self._meta = meta
        self._incoming = Incoming(engine, len(prompt))
        self._text = TokenText(engine.tokenizer)
        for token in prompt:
            self._text.step(token)
        self._routes: Routes | None = None
        self._replay: Fetched[Routes] | None = None
        self._left = 0
        self._watchers = Watchers()
        # Whoever advances or replays has a lock of its own; none who only looks waits for these.
        self._advancing, self._replaying = threading.RLock(), threading.Lock()
        self._turns = Turns()

    @property
    def prompt_tokens(self) -> int:
        """How many rows of the trace are the prompt's."""
        return self._n_prompt

    @property
    def trace(self) -> Trace:
        """The Trace up to here; its experts are there once the text has ended or was left."""
        with self._turns:
            return self._engine.trace(
                self._ids,
                self._n_prompt,
                self._routes if self._known else None,
                **self._meta,
                sampling=self._sampling.as_meta(),
                seed=self._sampling.seed,
                replayed=self._known,
                stop_reason=self.stop_reason or "left",
            )

    def __next__(self) -> Step:
        left, step = self._left, None
        while step is None:
            if self.stop_reason is not None or self._left != left:
                raise StopIteration
            step = self.advance()
        return step

    def advance(self) -> Step | None:
        """Return the next token's step; None if it has not come yet, or none comes any more.

        A moment is waited for it. After the last one, the next call replays and ends.

        Raises:
            EngineError: The engine can't be reached, refuses, or breaks off.
        """
        try:
            with self._advancing:
                step = self._next() if self.stop_reason is None else None
                if step is not None:
                    self._watchers.tell(step)
                elif self._incoming.over is not None and self.stop_reason is None:
                    self._end(self._incoming.over)
        except EngineError as error:
            if self.stop_reason is None:
                self._end("engine error")
            error.trace = self.trace
            raise
        except Exception:
            raise
        except BaseException:
            if self.stop_reason is None:
                self._end("interrupted")
            raise
        return step

    def finish(self, on_step: OnStep | None = None) -> Self:
        """Run to the end, telling `on_step` of every step; then replay.

        Raises:
            InputError: `on_step` is neither a function nor has it an `attach`.
            EngineError: As `advance`.
        """
        left = self._left
        with watched(self, on_step):
            while self.stop_reason is None and self._left == left:
                self.advance()
        return self

    def watch(
        self,
        on_step: Callable[[Step], object],
        on_end: Callable[[RemoteStream], object] | None = None,
    ) -> Callable[[], None]:
        """Call `on_step` with every step, `on_end` with the stream at its end, after the replay.

        Returns:
            A function that ends the watching.

        Raises:
            InputError: One of the two is no function.
        """
        return self._watchers.add(on_step, on_end)

    def leave(self) -> None:
        """Cancel the rest of the answer, and replay what there is, if a token came.

        Any thread may call it; loops over the stream in other threads end.

        Raises:
            EngineError: As `advance`.
        """
        with self._turns:
            self._left += 1
            self._incoming.let_go()
            ended = self._incoming.over
            begun = len(self._ids) > self._n_prompt or self.stop_reason is not None
        try:
            if ended is not None and ended not in _BROKEN:
                with self._advancing:
                    if self.stop_reason in (None, *_BROKEN):
                        self._end(ended)
            elif begun:
                self._replay_all()
        except EngineError as error:
            error.trace = self.trace
            raise

    def hang_up(self) -> None:
        """Cancel the rest of the answer, or a replay that is going on, and ask for nothing more.

        Any thread may call it; the text that came stays, without experts until a `leave`.
        """
        with self._turns:
            self._left += 1
            self._incoming.let_go()
            if self._replay is not None:
                self._replay.close()

    def extend(self, max_new_tokens: int) -> None:
        """Raise the limit of new tokens: the engine is asked to go on from all that there is.

        Raises:
            InputError: Not a whole number, the text ended by itself, or too large an answer.
        """
        more = whole("max_new_tokens", max_new_tokens, least=1)
        with self._turns:
            ended = self._incoming.over or self.stop_reason
            if ended in _CLOSED:
                raise InputError(
                    f"The stream ended with {ended!r}, so {more} tokens more can't follow. "
                    "Begin a new one."
                )
            limit = self._sampling.max_new_tokens + more
            self._engine.check_size(self._n_prompt + limit)
            # What is on its way was asked for under the old limit.
            self._incoming.let_go()
            self._sampling = replace(self._sampling, max_new_tokens=limit)
            self._incoming.finish = self.stop_reason = None

    @property
    def _known(self) -> bool:
        """Whether the experts of all tokens are there."""
        return self._routes is not None and len(self._routes.experts) == len(self._ids)

    def _next(self) -> Step | None:
        """Return the step of the next token; None if none is there."""
        with self._turns:
            answer = self._incoming.ask(self._ids, self._sampling)
        # Here alone the network is waited for, and no lock is held that others need.
        piece = None if answer is None else answer.next()
        with self._turns:
            if answer is not None:
                self._incoming.take(answer, piece, self._ids, self._sampling)
            token = self._incoming.next()
            if token is None:
                return None
            self._ids.append(token)
            a = self._engine.architecture
            nothing = np.full((a.n_layers, a.top_k), NONE, np.int16)
            return Step(token, self._text.step(token), len(self._ids) - 2, nothing)

    def _end(self, why: str) -> None:
        """End for a reason: hang up, replay unless something broke, and tell."""
        with self._turns:
            self._incoming.let_go()
        try:
            if why not in _BROKEN and not self._replay_all():
                why = "interrupted"
        except BaseException as error:
            why = "engine error" if isinstance(error, EngineError) else "interrupted"
            raise
        finally:
            self.stop_reason = why
            self._watchers.tell_end(self)

    def _replay_all(self) -> bool:
        """Have the engine read all once more; return whether its experts are there."""
        with self._replaying:
            engine, ids = self._engine, list(self._ids)

            def replayed(call: Call) -> Generator[Routes, None, None]:
                yield engine.replay(ids, call=call)

            with self._turns:
                if self._known:
                    return True
                self._replay = replay = Fetched(replayed)
            routes = None
            try:
                while routes is None and not replay.ended:
                    routes = replay.next()
            finally:
                replay.close()
                with self._turns:
                    self._replay = None
                    self._routes = routes or self._routes
            return routes is not None

"""A generation on a serving engine, token by token; its experts come at the end, in a replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from v4kit.core import NONE
from v4kit.engines.base import OnStep, Sampling, Step, whole
from v4kit.engines.remote.asking import why_ended, within
from v4kit.engines.turns import Turns
from v4kit.engines.watchers import Watchers, watched
from v4kit.errors import EngineError, InputError
from v4kit.recording.text import TokenText
from v4kit.trace import Trace

if TYPE_CHECKING:
    from v4kit.engines.remote.answers import Piece
    from v4kit.engines.remote.engine import Engine
    from v4kit.engines.remote.routes import Routes


_BROKEN = ("engine error", "interrupted")
"""Ends after which nothing more is asked of the engine."""


class RemoteStream(Iterator[Step]):
    """Yields a `Step` per token that the engine writes, with its text and no experts yet.

    Streamed answers hold no experts. Once the text has ended, or `leave` is called, the engine
    reads all of it once more, which brings the experts of every token, the last one included; the
    trace's meta says that they are `replayed`. A replay may differ from the generation where two
    experts are nearly level, because the engine computes many tokens at once.

    `stop_reason` is as in a `Model`'s stream, or "engine error": the text received until then
    stays in `trace`.
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
        self._pieces: Iterator[Piece] | None = None
        self._waiting: deque[int] = deque()
        self._finish: str | None = None
        self._text = TokenText(engine.tokenizer)
        for token in prompt:
            self._text.step(token)
        self._routes: Routes | None = None
        self._watchers = Watchers()
        self._turns = Turns()

    @property
    def prompt_tokens(self) -> int:
        """How many rows of the trace are the prompt's."""
        return self._n_prompt

    @property
    def trace(self) -> Trace:
        """The Trace up to here; its experts are there once the text has ended or was left."""
        with self._turns:
            known = self._routes is not None and len(self._routes.experts) == len(self._ids)
            return self._engine.trace(
                self._ids,
                self._n_prompt,
                self._routes if known else None,
                **self._meta,
                sampling=self._sampling.as_meta(),
                seed=self._sampling.seed,
                replayed=known,
                stop_reason=self.stop_reason or "left",
            )

    def __next__(self) -> Step:
        step = None
        while step is None:
            if self.stop_reason is not None:
                raise StopIteration
            step = self.advance()
        return step

    def advance(self) -> Step | None:
        """Wait for the next token and return its step; None where none comes any more.

        Raises:
            EngineError: The engine can't be reached, refuses, or breaks off.
        """
        try:
            with self._turns:
                step = self._next() if self.stop_reason is None else None
            if step is not None:
                self._watchers.tell(step)
        except EngineError as error:
            self._end("engine error")
            error.trace = self.trace
            raise
        except Exception:
            raise
        except BaseException:
            self._end("interrupted")
            raise
        if self._finish is not None and not self._waiting and self.stop_reason is None:
            self._end(self._finish)
        return step

    def finish(self, on_step: OnStep | None = None) -> Self:
        """Run to the end, telling `on_step` of every step; then replay.

        Raises:
            InputError: `on_step` is neither a function nor has it an `attach`.
            EngineError: As `advance`.
        """
        with watched(self, on_step):
            while self.stop_reason is None:
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
        """Cancel the rest of the answer, and replay what there is.

        Raises:
            EngineError: As `advance`.
        """
        with self._turns:
            self._hang_up()
            if self.stop_reason is None:
                # Tokens told but not taken yet are asked for again, and the end with them.
                self._finish = None
            self._replay()

    def extend(self, max_new_tokens: int) -> None:
        """Raise the limit of new tokens: the engine is asked to go on from all that there is.

        Raises:
            InputError: Not a whole number, the text ended by itself, or too large an answer.
        """
        more = whole("max_new_tokens", max_new_tokens, least=1)
        with self._turns:
            if self.stop_reason in ("stop token", "stop string", "context"):
                raise InputError(
                    f"The stream ended with {self.stop_reason!r}, so {more} tokens more can't "
                    "follow. Begin a new one."
                )
            limit = self._sampling.max_new_tokens + more
            self._engine.check_size(self._n_prompt + limit)
            # What is on its way was asked for under the old limit.
            self._hang_up()
            self._sampling = replace(self._sampling, max_new_tokens=limit)
            self._finish = self.stop_reason = None

    def _next(self) -> Step | None:
        """Return the step of the next token; None if the engine has told its last."""
        while not self._waiting and self._finish is None:
            self._take()
        if not self._waiting:
            return None
        token = self._waiting.popleft()
        self._ids.append(token)
        a = self._engine.architecture
        nothing = np.full((a.n_layers, a.top_k), NONE, np.int16)
        return Step(token, self._text.step(token), len(self._ids) - 2, nothing)

    def _take(self) -> None:
        """Wait for some tokens of the engine, or for its end."""
        left = self._sampling.max_new_tokens - (len(self._ids) - self._n_prompt)
        if self._pieces is None:
            if len(self._ids) >= self._engine.context:
                self._finish = "context"
                return
            wanted = replace(self._sampling, max_new_tokens=left)
            asked = within(wanted, self._engine.context - len(self._ids))
            self._pieces = self._engine.adapter.stream(list(self._ids), asked)
        piece = next(self._pieces, None)
        if piece is None:
            self._finish = "length" if not left else "interrupted"
            return
        self._waiting.extend(piece.tokens)
        if piece.finish is not None:
            text = [*self._ids, *self._waiting]
            written, most = len(text) - self._n_prompt, self._sampling.max_new_tokens
            stopped = text[-1] in self._engine.stop_ids
            self._finish = why_ended(piece.finish, written, most, stopped=stopped)

    def _end(self, why: str) -> None:
        """End for a reason: hang up, replay unless something broke, and tell."""
        self._hang_up()
        self.stop_reason = why
        try:
            if why not in _BROKEN:
                with self._turns:
                    self._replay()
        except EngineError as error:
            self.stop_reason = "engine error"
            error.trace = self.trace
            raise
        finally:
            self._watchers.tell_end(self)

    def _hang_up(self) -> None:
        pieces, self._pieces = self._pieces, None
        if pieces is not None and hasattr(pieces, "close"):
            pieces.close()
        self._waiting.clear()

    def _replay(self) -> None:
        if self._routes is None or len(self._routes.experts) != len(self._ids):
            self._routes = self._engine.replay(self._ids)

"""Generation as an iterator that may be left at any token, watched, and taken up again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from v4kit.core import Record
from v4kit.engines.base import OnStep, Sampling, Step, whole
from v4kit.engines.sampler import Sampler
from v4kit.engines.session import Session
from v4kit.engines.turns import Turns
from v4kit.engines.watchers import Watchers, watched
from v4kit.errors import InputError, ModelBusy
from v4kit.intervene import Editing
from v4kit.trace import Trace

if TYPE_CHECKING:
    from v4kit.engines.local import Model

_ENDED = {
    "stop token": "the model ended its text",
    "stop string": "a stop string came",
    "context": "the model's context is full",
}


class Stream(Iterator[Step]):
    """Yields a `Step` per sampled token; `trace` is whole at any moment, also after leaving early.

    Nothing of the model is held between two passes: no hook, no lock, no grad mode. `stop_reason`
    is None while it runs, then "length", "stop token", "stop string", "context" or "interrupted".
    One thread may advance it while others read its trace, which waits for the pass that is going
    on.
    """

    def __init__(
        self,
        model: Model,
        prompt: list[int],
        *,
        sampling: Sampling,
        prefill_chunk: int | None,
        record: Record,
        editing: Editing | None,
        meta: dict[str, Any],
    ) -> None:
        self.stop_reason: str | None = None
        self._model = model
        self._sampling = sampling
        self._sampler = Sampler(sampling)
        self._chunk = prefill_chunk or len(prompt)
        self._session = Session(
            model, prompt, record, further=sampling.max_new_tokens, editing=editing
        )
        self._meta = {**meta, "seed": self._sampler.seed, "prefill_chunk": prefill_chunk}
        self._watchers = Watchers()
        self._turns = Turns()

    @property
    def prompt_tokens(self) -> int:
        """How many rows of the trace are the prompt's."""
        return self._session.n_prompt

    @property
    def trace(self) -> Trace:
        """The Trace up to here."""
        with self._turns:
            reason = self.stop_reason or "left"
            return self._session.trace(
                sampling=self._sampling.as_meta(), **self._meta, stop_reason=reason
            )

    def __next__(self) -> Step:
        step = None
        while step is None:
            if self.stop_reason is not None:
                raise StopIteration
            step = self.advance()
        return step

    def advance(self) -> Step | None:
        """Run one forward pass; return its step, or None while the prompt is still being read.

        Also None, and nothing is run, after the end.
        """
        with self._broken_off(), self._turns:
            return self._advance(wanted=True) if self.stop_reason is None else None

    def finish(self, on_step: OnStep | None = None) -> Self:
        """Run to the end, telling `on_step` of every step.

        What has a method `attach`, as widgets do, is given the stream by it and watches by itself.

        Raises:
            InputError: `on_step` is neither a function nor has it an `attach`.
            ModelBusy: Another thread is using the model; the stream can be taken up again.
        """
        with watched(self, on_step), self._broken_off():
            while self.stop_reason is None:
                with self._turns:
                    if self.stop_reason is None:
                        self._advance(wanted=False)
        return self

    def watch(
        self,
        on_step: Callable[[Step], object],
        on_end: Callable[[Stream], object] | None = None,
    ) -> Callable[[], None]:
        """Call `on_step` with every step from now on, whoever advances the stream.

        Both are called in the thread that advances it. An error that they raise comes out of the
        step, after all watchers were told; the stream can be taken up again. An interrupt ends it.

        Args:
            on_step: Called with every `Step`.
            on_end: Called with the stream when it ends, after its last step, whatever the reason;
                once more if it is extended and ends again.

        Returns:
            A function that ends the watching.

        Raises:
            InputError: One of the two is no function.
        """
        return self._watchers.add(on_step, on_end)

    def leave(self) -> None:
        """Let go of what is held between two passes: nothing here; an engine's stream has more."""

    def extend(self, max_new_tokens: int) -> None:
        """Raise the limit of new tokens, so that a stream that ended with "length" goes on.

        The trace is the one of a stream that had the higher limit from the start. One that was
        interrupted goes on where it was, and has what was left of its limit besides.

        Args:
            max_new_tokens: How many tokens more, 1 or more.

        Raises:
            InputError: Not a whole number; the text ended by itself; an interrupt left halves; or
                the recording would not fit into memory.
        """
        more = whole("max_new_tokens", max_new_tokens, least=1)
        with self._turns:
            limit = self._sampling.max_new_tokens + more
            sampling = replace(self._sampling, max_new_tokens=limit)
            ended = self._ending(sampling)
            if ended is not None:
                raise InputError(
                    f"The stream ended with {ended!r} ({_ENDED[ended]}), so {more} tokens more "
                    "can't follow. Begin a new one."
                )
            if not self._session.whole:
                raise InputError(
                    "The stream was interrupted while a token was stored, so it can't go on "
                    "exactly. Begin a new one; with the same seed it gives the same tokens."
                )
            self._session.check_size(limit)
            self._sampling = sampling
            self.stop_reason = None

    @contextlib.contextmanager
    def _broken_off(self) -> Iterator[None]:
        """End where an interrupt comes between two passes, or while watchers are told of one."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            if self.stop_reason is None:
                self.stop_reason = "interrupted"
                self._tell_end()
            raise

    def _advance(self, *, wanted: bool) -> Step | None:
        """Run one pass; after the one that completes the rows, sample a token and tell of it.

        Returns the step if there was one that is wanted or watched: to ask for the experts of
        single steps costs more than to store them together.
        """
        session = self._session
        try:
            left = len(session.ids) - session.fed
            if left:
                session.feed(min(left, self._chunk))
            if left > self._chunk:
                return None
            token, text = session.sample(self._sampler.draw)
            self.stop_reason = self._ending(self._sampling)
        except BaseException as error:
            if not (isinstance(error, ModelBusy) and session.whole):
                self.stop_reason = "interrupted"
                self._tell_end()
            raise
        return self._tell(token, text) if wanted or self._watchers else None

    def _tell(self, token: int, text: str) -> Step:
        """Tell all watchers of the step that was made, then of the end if it has come."""
        session = self._session
        try:
            step = Step(token, text, session.fed - 1, *session.last())
            self._watchers.tell(step)
        finally:
            self._tell_end()
        return step

    def _tell_end(self) -> None:
        if self.stop_reason is not None:
            self._watchers.tell_end(self)

    def _ending(self, sampling: Sampling) -> str | None:
        """Return why the stream ends with its last token, or None."""
        session = self._session
        generated = len(session.ids) - session.n_prompt
        if not generated:
            return None
        if session.ids[-1] in self._model.stop_ids:
            return "stop token"
        if sampling.stop:
            # A stop string may begin in earlier tokens; its length bounds how far back.
            longest = max(len(text) for text in sampling.stop)
            tail, pieces = "", session.texts[session.n_prompt :]
            while pieces and len(tail) < longest + len(session.texts[-1]):
                tail = pieces.pop() + tail
            if any(text in tail for text in sampling.stop):
                return "stop string"
        if generated >= sampling.max_new_tokens:
            return "length"
        return "context" if len(session.ids) >= self._model.architecture.context else None

"""Generation as an iterator that may be left at any token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from v4kit.core import Record
from v4kit.engines.base import Sampling, Step
from v4kit.engines.sampler import Sampler
from v4kit.engines.session import Session
from v4kit.trace import Trace

if TYPE_CHECKING:
    from v4kit.engines.local import Model


class Stream(Iterator[Step]):
    """Yields a `Step` per sampled token; `trace` is whole at any moment, also after leaving early.

    Nothing is held between two steps: no hook, no lock, no grad mode. `stop_reason` is None while
    it runs, then "length", "stop token", "stop string", "context" or "interrupted".
    """

    def __init__(
        self,
        model: Model,
        prompt: list[int],
        *,
        sampling: Sampling,
        prefill_chunk: int | None,
        record: Record,
        meta: dict[str, Any],
    ) -> None:
        self.stop_reason: str | None = None
        self._model = model
        self._sampling = sampling
        self._sampler = Sampler(sampling)
        self._chunk = prefill_chunk or len(prompt)
        self._session = Session(model, prompt, record, further=sampling.max_new_tokens)
        self._meta = {**meta, "seed": self._sampler.seed, "prefill_chunk": prefill_chunk}

    def __next__(self) -> Step:
        if self.stop_reason is not None:
            raise StopIteration
        token, text = self._advance()
        return Step(token, text, self._session.fed - 1, self._session.experts())

    def _advance(self) -> tuple[int, str]:
        """Sample a token; return it with the text it completes."""
        session = self._session
        try:
            while True:
                left = len(session.ids) - session.fed
                logits = session.feed(min(left, self._chunk))
                if left <= self._chunk:
                    break
        except BaseException:
            self.stop_reason = "interrupted"
            raise
        token = self._sampler.draw(logits)
        text = session.append(token)
        self.stop_reason = self._ending(token)
        return token, text

    def _ending(self, token: int) -> str | None:
        session, sampling = self._session, self._sampling
        generated = len(session.ids) - session.n_prompt
        if token in self._model.stop_ids:
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

    @property
    def trace(self) -> Trace:
        """The Trace up to here."""
        return self._session.trace(**self._meta, stop_reason=self.stop_reason or "left")

    def finish(self, on_step: Callable[[Step], object] | None = None) -> Self:
        """Run to the end, telling `on_step` of every step."""
        if on_step is None:
            # Nobody asks for the experts of single steps, which are cheaper to tell together.
            while self.stop_reason is None:
                self._advance()
        else:
            for step in self:
                on_step(step)
        return self

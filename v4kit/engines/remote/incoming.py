"""Tokens on their way from an engine: asked for, come, and not taken yet."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from v4kit.engines.base import Sampling
from v4kit.engines.remote.answers import token_ids
from v4kit.engines.remote.asking import why_ended, within
from v4kit.engines.remote.calls import Fetched
from v4kit.errors import EngineError

if TYPE_CHECKING:
    from v4kit.engines.remote.answers import Piece
    from v4kit.engines.remote.engine import Engine


class Incoming:
    """The answer to a text, as far as it has come; asked for anew after it was let go.

    Not made for several threads: its stream gives them turns.
    """

    def __init__(self, engine: Engine, n_prompt: int) -> None:
        self.finish: str | None = None
        """Why the text ended, in the words of streams; known once its last token has come."""
        self._engine = engine
        self._n_prompt = n_prompt
        self._answer: Fetched[Piece] | None = None
        self._waiting: deque[int] = deque()
        self._room = 0

    @property
    def over(self) -> str | None:
        """Why the text ended, if its last token was taken."""
        return None if self._waiting else self.finish

    def ask(self, ids: list[int], sampling: Sampling) -> Fetched[Piece] | None:
        """Return the answer to wait for, after asking for it; None if there is none to wait for."""
        if self._waiting or self.finish is not None:
            return None
        engine, text = self._engine, list(ids)
        if self._answer is None and len(text) >= engine.context:
            self.finish = "context"
        elif self._answer is None:
            left = sampling.max_new_tokens - (len(text) - self._n_prompt)
            asked = within(replace(sampling, max_new_tokens=left), engine.context - len(text))
            self._room = asked.max_new_tokens
            self._answer = Fetched(lambda call: engine.adapter.stream(text, asked, call))
        return self._answer

    def take(
        self, answer: Fetched[Piece], piece: Piece | None, ids: list[int], sampling: Sampling
    ) -> None:
        """Take what has come of an answer: some tokens, nothing yet, or its end.

        Raises:
            EngineError: Ids can't be right, or are more than were asked for.
        """
        if answer is not self._answer:
            return
        if piece is not None:
            self._take(piece, ids, sampling.max_new_tokens)
        elif answer.ended:
            written = len(ids) - self._n_prompt
            self.finish = "length" if written >= sampling.max_new_tokens else "interrupted"

    def next(self) -> int | None:
        """Return the next token that has come; None if there is none."""
        return self._waiting.popleft() if self._waiting else None

    def let_go(self) -> None:
        """Cancel the answer; what was told of it and not taken is asked for again."""
        if self._answer is not None:
            self._answer.close()
        self._answer = None
        if self._waiting:
            self._waiting.clear()
            self.finish = None

    def _take(self, piece: Piece, ids: list[int], most: int) -> None:
        vocabulary = self._engine.architecture.vocabulary
        tokens = token_ids(piece.tokens, "tokens it wrote", below=vocabulary)
        self._room -= len(tokens)
        if self._room < 0:
            raise EngineError(
                f"The engine wrote {-self._room} tokens more than it was asked for. Is this the "
                "answer to another request? Ask again."
            )
        self._waiting.extend(tokens)
        if piece.finish is not None:
            text = [*ids, *self._waiting]
            stopped = text[-1] in self._engine.stop_ids
            self.finish = why_ended(piece.finish, len(text) - self._n_prompt, most, stopped=stopped)

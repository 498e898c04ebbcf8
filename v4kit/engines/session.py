"""One document going through a model: forward passes, their records, and the Trace of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from v4kit.core import Record
from v4kit.recording import PassRecorder, check_size
from v4kit.recording.likelihood import Likelihood
from v4kit.recording.text import TokenText, text_columns
from v4kit.trace import Trace

if TYPE_CHECKING:
    from v4kit.engines.local import Model


class Session:
    """The tokens of one document, how far they were fed, and what was recorded on the way.

    Its trace is whole at any moment: rows count when their forward pass has ended. `further` is how
    many tokens may come after the prompt.

    Raises:
        InputError: What is to be recorded would not fit into memory.
    """

    def __init__(
        self, model: Model, prompt: list[int], record: Record, *, further: int = 0
    ) -> None:
        self.model = model
        self.ids = list(prompt)
        self.n_prompt = len(prompt)
        self.fed = 0
        self._text = TokenText(model.tokenizer)
        self.texts = [self._text.step(token) for token in prompt]
        self._recorder = PassRecorder(
            model.hf, model.routers, model.family, model.architecture, record
        )
        most = min(len(prompt) + further, model.architecture.context)
        check_size(model.architecture, self._recorder.kept, most)
        self._likelihood = Likelihood()
        self._cache: Any = None

    def feed(self, count: int) -> Tensor:
        """Run the model on the next `count` tokens; return the last one's logits, float32."""
        start, stop = self.fed, self.fed + count
        self._recorder.begin(start, count)
        try:
            logits, self._cache = self.model.forward(
                self.ids[start:stop], start, self._cache, self._recorder.hooks
            )
        except BaseException:
            self._recorder.discard()
            raise
        self._recorder.commit()
        self.fed = stop
        self._likelihood.add(start, logits, self.ids[start + 1 : stop + 1])
        return logits[-1].float()

    def append(self, token: int) -> str:
        """Add a token that was sampled after the last fed one; return the text it completes."""
        self._likelihood.sampled(token, len(self.ids))
        text = self._text.step(token)
        self.ids.append(token)
        self.texts.append(text)
        return text

    def experts(self) -> np.ndarray:
        """Return the experts of the last completed row `[layer, slot]`."""
        return self._recorder.routing.last("experts")

    def trace(self, **meta: Any) -> Trace:
        """Return the Trace of everything so far; rows that were not fed are empty."""
        rows = len(self.ids)
        columns = {
            "id": self.ids,
            "position": np.arange(rows),
            "phase": ["prompt"] * self.n_prompt + ["generated"] * (rows - self.n_prompt),
            "valid": np.arange(rows) < self.fed,
            **text_columns(self.ids, self.texts, self.model.tokenizer),
            **self._likelihood.columns(rows),
        }
        return self._recorder.trace(columns, {**self.model.meta, **meta}, completed=self.fed)

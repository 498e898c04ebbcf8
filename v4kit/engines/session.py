"""One document going through a model: forward passes, their records, and the Trace of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from v4kit.core import Record
from v4kit.engines.cache import CacheState
from v4kit.intervene import Editing
from v4kit.recording import PassRecorder, check_size
from v4kit.recording.likelihood import Likelihood
from v4kit.recording.text import TokenText, text_columns
from v4kit.trace import Trace

if TYPE_CHECKING:
    from v4kit.engines.local import Model


class Session:
    """The tokens of one document, how far they were fed, and what was recorded on the way.

    Its trace is whole at any moment: rows count when their forward pass has ended. `further` is how
    many tokens may come after the prompt, `editing` what is edited in all its passes. `whole` says
    whether it can go on: a pass that is broken off is taken back, but what breaks off the storing
    of one leaves halves.

    Raises:
        InputError: What is to be recorded would not fit into memory.
    """

    def __init__(
        self,
        model: Model,
        prompt: list[int],
        record: Record,
        *,
        further: int = 0,
        editing: Editing | None = None,
    ) -> None:
        self.model = model
        self.ids = list(prompt)
        self.n_prompt = len(prompt)
        self.fed = 0
        self.whole = True
        self._text = TokenText(model.tokenizer)
        self.texts = [self._text.step(token) for token in prompt]
        self._recorder = PassRecorder(
            model.hf, model.routers, model.family, model.architecture, record
        )
        self.check_size(further)
        self._likelihood = Likelihood()
        self._cache: Any = None
        self._editing = editing
        self._edits: list[dict[str, Any]] = []
        self._logits = torch.empty(0)

    def check_size(self, further: int) -> None:
        """Refuse more tokens after the prompt than can be recorded.

        Raises:
            InputError: What is to be recorded would not fit into memory.
        """
        architecture = self.model.architecture
        most = min(self.n_prompt + further, architecture.context)
        check_size(architecture, self._recorder.kept, most)

    def feed(self, count: int) -> None:
        """Run the model on the next `count` tokens."""
        start, stop = self.fed, self.fed + count
        self.whole = False
        self._recorder.begin(start, count)
        before = CacheState(self._cache)
        # What acts is fixed when the pass begins.
        acting = [*self.model.edits, *(self._editing.data if self._editing else [])]
        try:
            logits, self._cache = self.model.forward(
                self.ids[start:stop],
                start,
                self._cache,
                self._recorder.hooks,
                prompt=self.n_prompt,
                editing=self._editing,
                first=self._recorder.first,
            )
        except BaseException:
            self._recorder.discard()
            self._cache = before.cache
            self.whole = before.restore()
            raise
        self._recorder.commit()
        self._edits += [edit for edit in acting if edit not in self._edits]
        self.fed = stop
        self._likelihood.add(start, logits, self.ids[start + 1 : stop + 1])
        # A copy, so that the logits of a whole chunk don't stay.
        self._logits = logits[-1].to(torch.float32, copy=True)
        self.whole = True

    def sample(self, draw: Callable[[Tensor], int]) -> tuple[int, str]:
        """Add the token drawn from the last row's logits; return it and the text it completes."""
        self.whole = False
        token = draw(self._logits)
        self._likelihood.sampled(token, len(self.ids))
        text = self._text.step(token)
        self.ids.append(token)
        self.texts.append(text)
        self.whole = True
        return token, text

    def last(self) -> tuple[np.ndarray, np.ndarray]:
        """Return experts and weights of the last completed row, both `[layer, slot]`."""
        return self._recorder.routing.last()

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
        if self._edits:
            meta["edits"] = self._edits
        return self._recorder.trace(columns, {**self.model.meta, **meta}, completed=self.fed)

"""Forward passes of a model: hooks, inference mode and its lock are held for one pass alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from v4kit.engines.hooking import First, Hooked
from v4kit.errors import ModelBusy
from v4kit.intervene import Editing
from v4kit.recording import attached
from v4kit.recording.taps import Before, Hook


class Passing(Hooked):
    """The part of a model that runs it."""

    hf: Any

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Hold the model for this thread.

        Raises:
            ModelBusy: Another thread has it.
        """
        if not self._lock.acquire(blocking=False):
            raise ModelBusy(
                f"{self!r} is in use by another thread. Wait for it, or load the model twice."
            )
        try:
            yield
        finally:
            self._lock.release()

    def forward(
        self,
        ids: list[int],
        start: int,
        cache: Any,
        hooks: Sequence[tuple[nn.Module, Hook | Before]],
        *,
        prompt: int | None = None,
        editing: Editing | None = None,
        first: First | None = None,
    ) -> tuple[Tensor, Any]:
        """Return the logits `[token, vocabulary]` of one document's next tokens, and the cache.

        Hooks, inference mode and the model's lock are held for this call alone. Edits and taps
        stand before `hooks`, so that what is recorded is what was used.

        Args:
            ids: The tokens.
            start: Position of the first.
            cache: What came before; None if nothing did.
            hooks: What is to see the pass.
            prompt: Tells edits how many tokens were not generated; all, if not given.
            editing: Edits of this call alone.
            first: Gives what is to see some layers' routers before they are edited.
        """
        positions = torch.arange(start, start + len(ids))
        before = self.pass_hooks(lambda: positions, prompt, editing, first)
        output = self._run([ids], cache, [*before, *hooks])
        return output.logits[0], output.past_key_values

    def branch(
        self,
        token: int,
        position: int,
        cache: Any,
        hooks: Sequence[tuple[nn.Module, Hook | Before]],
        copies: int,
    ) -> Tensor:
        """Return the logits `[copy, vocabulary]` after one token, fed to a cache of many copies.

        Hooks see one row per copy, so that each can be treated differently.
        """
        positions = torch.full((copies,), position)
        before = self.pass_hooks(lambda: positions, None, None, None)
        logits: Tensor = self._run([[token]] * copies, cache, [*before, *hooks]).logits[:, -1]
        return logits

    def _run(
        self,
        rows: list[list[int]],
        cache: Any,
        hooks: Sequence[tuple[nn.Module, Hook | Before]],
    ) -> Any:
        inputs = torch.tensor(rows, device=_input_device(self.hf))
        with self.busy(), torch.inference_mode(), attached(hooks):
            return self.hf(input_ids=inputs, past_key_values=cache, use_cache=True)


def _input_device(hf: Any) -> torch.device:
    """Return where ids are to be put; offloaded embeddings are on meta, and fetch theirs."""
    device: torch.device = hf.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device

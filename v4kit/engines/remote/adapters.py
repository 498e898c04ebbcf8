"""The engines that are known, and what is asked of each."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from v4kit.engines.base import Sampling
from v4kit.engines.remote.answers import Answer, Piece, Served
from v4kit.engines.remote.calls import Call
from v4kit.engines.remote.sglang import SGLang
from v4kit.engines.remote.vllm import VLLM


class Adapter(Protocol):
    """One kind of engine: how it is asked and what its answers look like."""

    name: str
    """What it is called."""
    advice: str
    """What to do when experts are missing."""

    def bytes_per_id(self, n_experts: int) -> int:
        """Return the bytes that one expert id takes on the way, before base64."""

    def served(self) -> Served:
        """Return what the server says of itself."""

    def complete(
        self,
        ids: list[int],
        sampling: Sampling,
        *,
        n: int = 1,
        start: int = 0,
        call: Call | None = None,
    ) -> list[Answer]:
        """Return `n` continuations with the routes of all tokens from `start` on."""

    def stream(
        self, ids: list[int], sampling: Sampling, call: Call
    ) -> Generator[Piece, None, None]:
        """Yield one continuation as it is written, without routes."""


ADAPTERS: dict[str, type[VLLM | SGLang]] = {"vllm": VLLM, "sglang": SGLang}
"""Engines by name; to add one, add a class and a row."""

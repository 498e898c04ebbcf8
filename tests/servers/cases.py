"""What is asked of an engine, live or recorded, and compared with transformers."""

from collections.abc import Callable
from typing import Any

import numpy as np

import v4kit

TEXT = "The quick brown fox jumps over the lazy dog"
LONG = TEXT * 8
"""More tokens than the server reads at once."""
CHAT = [{"role": "user", "content": "hi there"}]
START = 20

Case = Callable[[Any], v4kit.Trace]

CASES: dict[str, Case] = {
    "completion": lambda engine: engine.generate(TEXT, max_new_tokens=8),
    "chat": lambda engine: engine.generate(CHAT, max_new_tokens=6),
    "two": lambda engine: engine.generate(TEXT, max_new_tokens=6, temperature=1.0, seed=3, n=2),
    "long, in chunks": lambda engine: engine.read(LONG),
    "prefix in the cache": lambda engine: engine.read(LONG[:-4] + "cats"),
    "from a start": lambda engine: engine.generate(TEXT, max_new_tokens=4, start=START),
    "streamed": lambda engine: engine.stream(TEXT, max_new_tokens=8).finish().trace,
    "stopped by a string": lambda engine: engine.generate(TEXT, max_new_tokens=8, stop=")."),
}
"""Calls of an engine by name, in the order in which they are recorded."""


def compare(trace: v4kit.Trace, model: v4kit.Model, *, start: int = 0) -> int:
    """Assert that a trace holds the experts that transformers uses; return how many were compared.

    Every row that the engine has read is compared, as a set: engines do not order slots.
    """
    compared = 0
    for number in trace.tokens["document"].unique():
        part = trace[(trace.tokens["document"] == number).to_numpy()]
        own = np.sort(model.read(part.tokens["id"].tolist()).routing["experts"], axis=-1)
        told = np.sort(part.routing["experts"], axis=-1)
        fed = part.tokens["valid"].to_numpy().nonzero()[0]
        assert fed.tolist() == list(range(start, int(fed[-1]) + 1))
        assert len(part) - fed[-1] <= 2
        assert (told[fed] == own[fed]).all()
        compared += told[fed].size
    return compared

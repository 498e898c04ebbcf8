"""Reading texts without generating: one document, or many into one trace."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from v4kit.core import Record
from v4kit.engines.session import Session
from v4kit.errors import InputError
from v4kit.intervene import Editing
from v4kit.recording import recorded_bytes
from v4kit.trace import Trace, concat, open_trace

if TYPE_CHECKING:
    from v4kit.engines.local import Model

_FLUSH_TOKENS = 4_096
"""Tokens after which a growing trace is flushed, besides after every document of that size."""


def read(
    model: Model,
    ids: list[int],
    *,
    chunk: int | None,
    record: Record,
    editing: Editing | None = None,
) -> Trace:
    """Return the Trace of a document's ids, read in chunks."""
    session = Session(model, ids, record, editing=editing)
    size = chunk or len(ids)
    while session.fed < len(ids):
        session.feed(min(size, len(ids) - session.fed))
    return session.trace(prefill_chunk=chunk)


def read_many(
    model: Model,
    documents: list[list[int]],
    *,
    labels: Sequence[str] | None,
    folder: Path | None,
    chunk: int | None,
    record: Record,
    editing: Editing | None,
    progress: bool,
) -> Trace:
    """Return one Trace of many documents; interrupted, of those that were read."""
    if not documents:
        raise InputError("read_many needs at least one text; given was an empty list.")
    tokens = sum(len(ids) for ids in documents)
    size = sum(recorded_bytes(model.architecture, record, len(ids)) for ids in documents)
    bar = tqdm(
        total=tokens, unit="tok", desc=f"reading, {size / 1e6:,.1f} MB", disable=not progress
    )

    def traces() -> Iterator[Trace]:
        for number, ids in enumerate(documents):
            with model.busy():
                trace = read(model, ids, chunk=chunk, record=record, editing=editing)
            label = "" if labels is None else str(labels[number])
            trace.tokens = trace.tokens.assign(document=np.int32(number), label=label)
            bar.update(len(ids))
            yield trace

    with bar:
        return _collect(traces()) if folder is None else _write(traces(), folder)


def _collect(traces: Iterator[Trace]) -> Trace:
    done: list[Trace] = []
    try:
        done.extend(traces)
    except KeyboardInterrupt:
        if not done:
            raise
        _say_interrupted(len(done))
    return concat(done)


def _write(traces: Iterator[Trace], folder: Path) -> Trace:
    # Zarr and Dask take a second to import, which those who write nothing need not wait for.
    from v4kit.trace.store import TraceWriter

    done = unflushed = 0
    with TraceWriter(folder) as writer:
        try:
            for trace in traces:
                writer.append(trace)
                done, unflushed = done + 1, unflushed + len(trace)
                if unflushed >= _FLUSH_TOKENS or done == 1:
                    writer.flush()
                    unflushed = 0
        except KeyboardInterrupt:
            if not done:
                raise
            _say_interrupted(done)
    return open_trace(folder)


def _say_interrupted(done: int) -> None:
    warnings.warn(
        f"Interrupted: the trace holds the {done} documents that were read whole.", stacklevel=2
    )

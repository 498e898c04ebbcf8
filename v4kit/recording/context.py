"""`record(hf_model)`: any call of a transformers model, recorded from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from torch import Tensor

from v4kit.arch import describe, family_of
from v4kit.core import Record, to_record
from v4kit.errors import InputError
from v4kit.recording.followed import check_mask, check_positions, refuse_beams, unknown_mask
from v4kit.recording.likelihood import Likelihood
from v4kit.recording.meta import model_name, trace_meta
from v4kit.recording.passes import PassRecorder
from v4kit.recording.routers import find_routers
from v4kit.recording.size import check_size
from v4kit.recording.taps import attached
from v4kit.recording.text import text_columns
from v4kit.trace import Trace

_EDITED: WeakKeyDictionary[Any, list[Recording]] = WeakKeyDictionary()
"""What records and edits just now, by transformers model."""


def edits_of(hf_model: Any) -> list[dict[str, Any]]:
    """Return the edits of `record` that act on a transformers model now, as JSON data."""
    return [edit for recording in _EDITED.get(hf_model, ()) for edit in recording.edits]


class _Document:
    """One row of a batch and what came of it."""

    def __init__(self, number: int, start: int) -> None:
        self.number = number
        self.start = start
        self.ids: list[int] = []
        self.decoded: list[bool] = []
        self.likelihood = Likelihood()

    @property
    def stop(self) -> int:
        """The position that comes next."""
        return self.start + len(self.ids)


class Recording:
    """What `record` yields; `trace` is whole at any moment."""

    def __init__(
        self, hf_model: Any, record: Record, tokenizer: Any, edits: Sequence[Any] = ()
    ) -> None:
        if not hasattr(hf_model, "config") or not hasattr(hf_model, "base_model"):
            raise InputError(
                f"record takes a transformers model; given was {type(hf_model).__name__}. "
                "Pass model.hf of a v4kit model, or .module of a wrapped one."
            )
        self._hf = hf_model
        self._tokenizer = tokenizer
        self._architecture = describe(hf_model.config)
        family = family_of(hf_model.config)
        routers = find_routers(hf_model, family, self._architecture)
        name = model_name(hf_model)
        self._meta = trace_meta(hf_model, self._architecture, routers, name=name)
        self._recorder = PassRecorder(hf_model, routers, family, self._architecture, record)
        self._editing: Any = None
        if edits:
            self._editing = _together(edits)(hf_model, family, self._architecture, edits)
            self._meta["edits"] = self._editing.data
        self._routers = routers
        self._prompt: int | None = None
        self._positions = torch.empty(0)
        self._documents: list[_Document] = []
        self._of_cache: WeakKeyDictionary[Any, list[_Document]] = WeakKeyDictionary()
        self._guarded: WeakSet[Any] = WeakSet()
        self._rows: list[tuple[int, int]] = []
        self._inputs: dict[str, Any] = {}
        self._current: tuple[list[_Document], Tensor] | None = None

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The edits that act while it records, as JSON data."""
        return list(self._meta.get("edits", ()))

    def hooks(self) -> list[tuple[Any, Any]]:
        """Return the forward hooks: edits, routers, decoder, model."""
        base, edits = self._hf.base_model, []
        if self._editing:
            edits = [
                *self._recorder.first(self._editing.layers),
                *self._editing.hooks(self._routers, lambda: self._positions, lambda: self._prompt),
            ]
        return [
            *edits,
            *self._recorder.hooks,
            (base, self._after_decoder),
            (self._hf, self._after_model),
        ]

    def before(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the decoder's inputs, and refuse what can't be recorded truly."""
        self._recorder.discard()
        names = ("input_ids", "attention_mask", "position_ids", "past_key_values")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("input_ids") is None:
            raise InputError(
                "record can't follow a call with inputs_embeds: a trace needs token ids. "
                "Call the model with input_ids."
            )
        mask = given.get("attention_mask")
        cache, length = given.get("past_key_values"), given["input_ids"].shape[1]
        before = int(cache.get_seq_length()) if cache is not None else 0
        if isinstance(mask, Tensor) and mask.ndim == 2:
            check_mask(mask, length)
        elif isinstance(mask, Tensor):
            self._recorder.attention.give_up(unknown_mask(mask))
        check_positions(given.get("position_ids"), mask, before, length)
        if length > 1:
            check_size(self._architecture, self._recorder.kept, before + length)
        self._guard(cache)
        self._inputs = given
        if self._editing:
            batch = given["input_ids"].shape[0]
            self._positions = torch.arange(before, before + length).repeat(batch)
            # A single token fed to a filled cache counts as generated.
            self._prompt = 0 if length == 1 and before else None
        self._recorder.begin(before, length)

    def _guard(self, cache: Any) -> None:
        """Let a cache refuse to change the places of its rows."""
        if hasattr(cache, "reorder_cache"):
            cache.reorder_cache = refuse_beams
            self._guarded.add(cache)

    def close(self) -> None:
        """Leave the caches as they were."""
        for cache in self._guarded:
            vars(cache).pop("reorder_cache", None)

    def _after_decoder(self, _module: Any, _inputs: Any, output: Any) -> None:
        ids: Tensor = self._inputs["input_ids"]
        batch, length = ids.shape
        given = self._inputs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) or given
        before = cache.get_seq_length() - length if cache is not None else 0
        documents = self._documents_of(cache, batch, before)
        mask = self._inputs.get("attention_mask")
        real = torch.ones_like(ids, dtype=torch.bool)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            real = mask[:, -length:].bool()
        real = real.cpu()
        numbers = [document.number for document in documents]
        rows = None if bool(real.all()) else real.flatten().nonzero().squeeze(-1)
        self._recorder.commit(rows, numbers)
        for row, document in enumerate(documents):
            kept = ids[row].cpu()[real[row]].tolist()
            self._rows += [(document.number, len(document.ids) + i) for i in range(len(kept))]
            document.decoded += [length == 1 and before > 0] * len(kept)
            document.ids += kept
        self._current = (documents, real)

    def _documents_of(self, cache: Any, batch: int, before: int) -> list[_Document]:
        """Return the documents that a cache goes on with; a new cache begins new ones."""
        known = self._of_cache.get(cache) if cache is not None and before else None
        if known is not None:
            if [document.stop for document in known] != [before] * batch:
                raise InputError(
                    "record can't follow a cache that was padded, cut or rearranged since its last "
                    "pass. Run documents of unequal length one by one."
                )
            return known
        first = len(self._documents)
        documents = [_Document(first + row, before) for row in range(batch)]
        self._documents += documents
        if cache is not None:
            self._of_cache[cache] = documents
            self._guard(cache)
        return documents

    def _after_model(self, _module: Any, _inputs: Any, output: Any) -> None:
        if self._current is None:
            return
        (documents, real), self._current = self._current, None
        logits = getattr(output, "logits", None)
        if logits is None:
            return  # a plain tuple, in which nothing is named
        if logits.shape[1] != real.shape[1] and not bool(real.all()):
            return  # the kept logits are those of padding
        for row, document in enumerate(documents):
            new = int(real[row].sum())
            kept = logits[row][:new]
            document.likelihood.sampled(document.ids[-new], len(document.ids) - new)
            first = len(document.ids) - len(kept)
            document.likelihood.add(first, kept, document.ids[first + 1 :])

    @property
    def trace(self) -> Trace:
        """The Trace of all calls so far, one document per row of a batch."""
        columns: dict[str, list[Any]] = {}
        for number, document in enumerate(self._documents):
            rows = len(document.ids)
            part: dict[str, Any] = {
                "id": document.ids,
                "position": range(document.start, document.start + rows),
                "document": [number] * rows,
                "phase": ["generated" if d else "prompt" for d in document.decoded],
                **document.likelihood.columns(rows),
            }
            if self._tokenizer is not None:
                part |= text_columns(document.ids, None, self._tokenizer)
            for name, values in part.items():
                columns.setdefault(name, []).extend(values)
        order = sorted(range(len(self._rows)), key=self._rows.__getitem__)
        columns.setdefault("id", [])
        return self._recorder.trace(columns, self._meta, order=np.array(order, int))


def _together(edits: Sequence[Any]) -> Callable[..., Any]:
    """Return what sets edits to work; they know it themselves, as they are above this room.

    Raises:
        InputError: They are no edits.
    """
    several: list[Any] = list(edits) if hasattr(edits, "__iter__") else [edits]
    together = getattr(several[0], "together", None)
    if together is None:
        raise InputError(
            "edits takes edits, such as [v4kit.ablate(layer=2, experts=[7])]; given was "
            f"{several!r}."
        )
    found: Callable[..., Any] = together
    return found


@contextlib.contextmanager
def record(
    hf_model: Any,
    record: Record | None = None,
    *,
    tokenizer: Any = None,
    edits: Sequence[Any] = (),
) -> Iterator[Recording]:
    """Record every call of a transformers model while the block runs; yields a `Recording`.

    Each row of a batch becomes a document of `recording.trace`; a call with a cache goes on with
    the documents that the cache belongs to. A single token fed to a filled cache counts as
    generated. The model is left as it is, its gates' dtype included.

    Args:
        hf_model: A causal language model of a family in the table.
        record: What to record.
        tokenizer: Gives the rows their texts and roles.
        edits: Of the routing, as `model.edit` takes them; they act while the block runs. What they
            displace is in this recording's trace alone.

    Raises:
        UnsupportedModel: The model is dense or of a family that the kit can't read.
        InputError: A call with left padding, `inputs_embeds` or beam search; an edit that can't
            take effect in this model, or while others of `record` act on it.
    """
    if edits and edits_of(hf_model):
        raise InputError(
            "v4kit.record edits this model already. Give all edits in one place, where they act "
            "together."
        )
    recording = Recording(hf_model, to_record(record), tokenizer, edits)
    handle = hf_model.base_model.register_forward_pre_hook(recording.before, with_kwargs=True)
    acting = _EDITED.setdefault(hf_model, [])
    acting.append(recording)
    try:
        with attached(recording.hooks()):
            yield recording
    finally:
        handle.remove()
        recording.close()
        acting.remove(recording)

"""What is to be recorded."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from v4kit.errors import InputError

Routing = Literal["ids", "scores", "full"]
Heads = Literal["mean", "each"]

SOURCES = 16
"""Attention sources per token and layer unless said otherwise."""
_ROUTING = ("ids", "scores", "full")
_HEADS = ("mean", "each")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is recorded of every token; `Record()` is the default everywhere.

    Raises:
        InputError: A field has a value it can't have.
    """

    routing: Routing = "scores"
    """"ids": the experts used and their weights. "scores": also their unbiased scores, the margin
    to the runner-up and the bias flips. "full": also the scores of all experts."""
    attention: int | Literal["auto", "full"] | None = "auto"
    """How many of the strongest attention sources are kept per token and layer. "full": the mass of
    every source. "auto": 16 where the model returns attention weights, none where it does not, and
    the trace's meta says why. None: no attention at all."""
    heads: Heads = "mean"
    """"mean": attention averaged over the heads. "each": every head on its own."""
    pooling: bool = False
    """Also how much each token weighs in the compressed blocks it is pooled into, which
    `trace.attention_to_tokens(convention="pooled")` needs."""
    outputs: bool = False
    """Also the norm and the largest magnitude of every used expert's output, and the norms of the
    shared experts' and of the weighted sum: each used expert is computed once more for it."""
    streams: bool = False
    """Also how much of each block's output is left in the state that the logits are read from, in
    models with several residual streams."""

    def __post_init__(self) -> None:
        if self.routing not in _ROUTING:
            known = ", ".join(repr(r) for r in _ROUTING)
            raise InputError(
                f"Record(routing=…) takes one of {known}; given was {self.routing!r}. "
                'Use "scores"; "ids" for small files, "full" where every score matters.'
            )
        if not _can_be_attention(self.attention):
            raise InputError(
                'Record(attention=…) takes "auto", a whole number of sources from 1, "full" or '
                f"None; given was {self.attention!r}. Leave it out for the {SOURCES} strongest."
            )
        if self.heads not in _HEADS:
            raise InputError(
                f'Record(heads=…) takes "mean" or "each"; given was {self.heads!r}. '
                '"mean" averages over the heads and keeps traces small.'
            )
        for name in ("pooling", "outputs", "streams"):
            if getattr(self, name) not in (True, False):
                given = getattr(self, name)
                raise InputError(f"Record({name}=…) is True or False; given was {given!r}.")

    @property
    def sources(self) -> int | None:
        """How many sources are kept at most; None: not a fixed number."""
        if self.attention == "auto":
            return SOURCES
        return None if self.attention in ("full", None) else int(self.attention)


def _can_be_attention(given: Any) -> bool:
    """Whether that many sources can be kept; True is no number here."""
    if given is None or isinstance(given, bool):
        return given is None
    if isinstance(given, str):
        return given in ("auto", "full")
    return isinstance(given, Integral) and int(given) >= 1


def to_record(record: Record | None) -> Record:
    """Return what is to be recorded; None is the default.

    Raises:
        InputError: Something else than a `Record`.
    """
    if record is None:
        return Record()
    if not isinstance(record, Record):
        raise InputError(f"record takes a v4kit.Record(…) or None; given was {record!r}.")
    return record

"""What is to be recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from v4kit.errors import InputError

Routing = Literal["ids", "scores", "full"]

_ROUTING = ("ids", "scores", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is recorded of every token; `Record()` is the default everywhere.

    Raises:
        InputError: A field has a value it can't have.
    """

    routing: Routing = "scores"
    """"ids": the experts used and their weights. "scores": also their unbiased scores, the margin
    to the runner-up and the bias flips. "full": also the scores of all experts."""

    def __post_init__(self) -> None:
        if self.routing not in _ROUTING:
            known = ", ".join(repr(r) for r in _ROUTING)
            raise InputError(
                f"Record(routing=…) takes one of {known}; given was {self.routing!r}. "
                'Use "scores"; "ids" for small files, "full" where every score matters.'
            )


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

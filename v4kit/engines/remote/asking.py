"""What may be asked of a serving engine: settings of sampling, and what is to be recorded."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from v4kit.core import Record, to_record
from v4kit.engines.base import Sampling, stops
from v4kit.errors import InputError

LACKING = "A serving engine tells the ids of experts only; no weights, scores or attention."
"""Why a trace of an engine has nothing else."""


def settings(
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: str | Sequence[str] | None,
) -> Sampling:
    """Return checked settings; a draw without a seed gets one, so that the trace can tell it."""
    given = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stops(stop),
    )
    if seed is None and temperature > 0:
        return replace(given, seed=secrets.randbelow(2**31))
    return given


def check_record(record: Record | None) -> None:
    """Refuse to record what engines do not tell.

    Raises:
        InputError: It asks for more than ids.
    """
    asked = to_record(record)
    more = asked.pooling or asked.outputs or asked.streams
    if asked.routing == "full" or asked.attention not in ("auto", None) or more:
        raise InputError(f"{asked} can't be recorded. {LACKING} Use v4kit.Record(attention=None).")


def within(sampling: Sampling, room: int) -> Sampling:
    """Return settings that ask for no more tokens than there is room for."""
    return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))


def why_ended(finish: str | None, written: int, most: int, *, stopped: bool) -> str:
    """Return why a text ended, in the words of streams.

    Args:
        finish: The engine's word for it.
        written: How many tokens were written.
        most: How many were wanted at most.
        stopped: Whether the last one is a stop token.
    """
    if finish == "stop":
        return "stop token" if stopped else "stop string"
    if finish == "length":
        return "length" if written >= most else "context"
    return "interrupted"

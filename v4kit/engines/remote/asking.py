"""What may be asked of a serving engine: settings of sampling, and what is to be recorded."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from v4kit.core import Record, to_record
from v4kit.engines.base import Sampling, stops, whole
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
    for text in given.stop:
        _check_text(text)
    drawn = secrets.randbelow(2**31) if temperature > 0 else None
    # Numbers of other types, numpy's for example, are no JSON.
    return replace(
        given,
        max_new_tokens=int(max_new_tokens),
        temperature=float(temperature),
        top_p=float(top_p),
        seed=drawn if seed is None else int(seed),
    )


def check_chunk(prefill_chunk: int | None) -> None:
    """Check a chunk size, which a `Model` takes and an engine has no use for.

    Raises:
        InputError: It is neither a whole number nor None.
    """
    if prefill_chunk is not None:
        whole("prefill_chunk", prefill_chunk, least=1)


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


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The stop string {text!r} is no valid Unicode: character {error.start} is half of "
            "one. Decode it again from where it came."
        ) from error

"""What the functions that make edits are given, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, cast

import numpy as np

from v4kit.core import HASH, NONE
from v4kit.errors import InputError
from v4kit.intervene.base import Phase, Tokens

Layers = int | Sequence[int]
Experts = int | Sequence[int]


def layers_of(layer: Any) -> tuple[int, ...] | None:
    """Return layer indices; None means all.

    Raises:
        InputError: They are none.
    """
    if layer is None:
        return None
    several = _whole_numbers(layer)
    if not several:
        raise InputError(f"layer takes an index, or several, such as [3, 4]; given was {layer!r}.")
    return several


def ids_of(name: str, experts: Any, *, least: int = 1) -> tuple[int, ...]:
    """Return expert ids, each once.

    Raises:
        InputError: Too few, or no whole numbers.
    """
    several = _whole_numbers(experts)
    if several is None or len(several) < least:
        raise InputError(f"{name} takes ids of experts, such as [7, 90]; given was {experts!r}.")
    return several


def _whole_numbers(value: Any) -> tuple[int, ...] | None:
    """Return one or several whole numbers, each once; None if they are something else."""
    several = [value] if isinstance(value, Integral) else value
    if isinstance(several, str) or not isinstance(several, Iterable):
        return None
    listed = list(several)
    if not all(isinstance(one, Integral) and not isinstance(one, bool) for one in listed):
        return None
    return tuple(dict.fromkeys(int(one) for one in listed))


def span_of(tokens: Any) -> Tokens:
    """Return positions from, up to, or the name of a phase.

    Raises:
        InputError: They are none.
    """
    if isinstance(tokens, str) and tokens in ("prompt", "generated"):
        return cast("Phase", tokens)
    if isinstance(tokens, str) or not isinstance(tokens, Sequence) or len(tokens) != 2:
        raise InputError(
            'tokens=(start, stop) takes two positions, or "prompt" or "generated"; given was '
            f"{tokens!r}."
        )
    start, stop = tokens
    whole = isinstance(start, Integral) and (stop is None or isinstance(stop, Integral))
    if not whole or start < 0 or (stop is not None and stop <= start):
        raise InputError(f"tokens=(start, stop) runs forward from 0 or more; given was {tokens!r}.")
    return int(start), None if stop is None else int(stop)


def number_of(name: str, value: Any) -> float:
    """Return a finite number.

    Raises:
        InputError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{name} is a finite number; given was {value!r}.")
    return float(value)


def check_choosable(trace: Any, layers: tuple[int, ...] | None, tokens: Tokens) -> None:
    """Refuse a trace in which some tokens have experts that no router can have chosen.

    Args:
        trace: The trace.
        layers: Those that are asked for; None: all. Tables of hash layers may repeat an expert.
        tokens: Those that are asked for.

    Raises:
        InputError: A token has some experts and lacks others, or has one twice.
    """
    routing = trace.routing
    experts = routing["experts"].to_numpy()
    position, (start, stop) = trace.tokens["position"].to_numpy(), (0, None)
    if not isinstance(tokens, str):
        start, stop = tokens
    asked = (position >= start) & (position < (np.inf if stop is None else stop))
    wanted = np.isin(np.arange(experts.shape[1]), layers) if layers else True
    some, every = (experts != NONE).any(-1), (experts != NONE).all(-1)
    ordered = np.sort(experts, axis=-1)
    twice = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] != NONE)).any(-1)
    twice &= routing["kind"].to_numpy() != HASH
    wrong = np.argwhere(((some & ~every) | twice) & asked[:, None] & wanted)
    if len(wrong):
        row, layer = wrong[0].tolist()
        raise InputError(
            f"The trace that is replayed has the experts {experts[row, layer].tolist()} in row "
            f"{row}, layer {layer}, which no router can choose: a token has all its experts, each "
            "once. Limit layer and tokens to what can be replayed."
        )

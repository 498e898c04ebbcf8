"""What every engine shares: a step of a stream, and the settings of sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any, Protocol, runtime_checkable

import numpy as np

from v4kit.errors import InputError


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a stream."""

    token: int
    """Id of the token that was just sampled."""
    text: str
    """Text that it completes; empty while a character is still in parts."""
    row: int
    """Row of the trace that this pass completed: the one before the sampled token's."""
    experts: np.ndarray
    """Experts used in that row, integers `[layer, slot]`, −1 where there is no router."""
    weights: np.ndarray | None = None
    """What their outputs were multiplied with, float32 `[layer, slot]`, NaN where there is no
    router; None where the engine does not tell."""


@runtime_checkable
class Attachable(Protocol):
    """Something that watches a stream by itself, as widgets do."""

    def attach(self, stream: Any, /) -> object:
        """Begin to watch a stream."""


OnStep = Callable[[Step], object] | Attachable
"""A function that is called with every step, or what watches by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn and when to stop.

    Raises:
        InputError: A value that can't be used.
    """

    max_new_tokens: int = 64
    """Most tokens to generate, 1 or more."""
    temperature: float = 0.0
    """0 takes the most probable token; above it the distribution is flattened or sharpened."""
    top_p: float = 1.0
    """Smallest set of tokens with this probability is drawn from, in (0, 1]."""
    seed: int | None = None
    """Seed of the draw; None takes a new one, which the trace's meta tells."""
    stop: tuple[str, ...] = ()
    """Strings that end the generation once they are complete."""

    def as_meta(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        return {**asdict(self), "stop": list(self.stop)}

    def __post_init__(self) -> None:
        whole("max_new_tokens", self.max_new_tokens, least=1)
        if self.seed is not None:
            whole("seed", self.seed, least=0, most=2**63 - 1)
        if not _is_number(self.temperature) or not 0 <= self.temperature < math.inf:
            raise InputError(
                "temperature is 0 (greedy) or a finite number above; given was "
                f"{self.temperature!r}."
            )
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise InputError(f"top_p lies above 0 and up to 1; given was {self.top_p!r}.")
        if not all(isinstance(text, str) for text in self.stop) or "" in self.stop:
            raise InputError(f"stop takes strings that are not empty; given was {self.stop!r}.")


def stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return stop strings as a tuple: none, one or several may be given.

    Raises:
        InputError: Neither a string nor several.
    """
    if stop is None:
        return ()
    if not isinstance(stop, (str, Sequence)):
        raise InputError(f"stop takes a string or a list of strings; given was {stop!r}.")
    return (stop,) if isinstance(stop, str) else tuple(stop)


def whole(name: str, value: Any, *, least: int, most: float = math.inf) -> int:
    """Return a whole number between `least` and `most`.

    Raises:
        InputError: The value is something else.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not least <= value <= most:
        limit = "or more" if most == math.inf else f"to {most}"
        raise InputError(f"{name} is a whole number, {least} {limit}; given was {value!r}.")
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

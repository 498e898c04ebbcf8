"""Those who are told of a stream's steps and of its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from v4kit.engines.base import Attachable, OnStep, Step
from v4kit.errors import InputError

OnEnd = Callable[[Any], object]


class Watchers:
    """Functions that are called with every step of a stream, and with the stream at its end.

    All are called, in their order, even if one raises.
    """

    def __init__(self) -> None:
        self._all: dict[object, tuple[Callable[[Step], object], OnEnd | None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, on_step: Callable[[Step], object], on_end: OnEnd | None) -> Callable[[], None]:
        """Tell two functions from now on; return one that ends it.

        Raises:
            InputError: One of the two is no function.
        """
        for given in (on_step, on_end):
            if given is not None and not callable(given):
                raise InputError(f"A stream is watched by functions; given was {given!r}.")
        key = object()
        self._all[key] = (on_step, on_end)

        def end_watching() -> None:
            self._all.pop(key, None)

        return end_watching

    def tell(self, step: Step) -> None:
        """Tell of a step."""
        _call_all([on_step for on_step, _ in self._all.values()], step)

    def tell_end(self, stream: Any) -> None:
        """Tell of the end."""
        _call_all([on_end for _, on_end in self._all.values() if on_end is not None], stream)


@contextlib.contextmanager
def watched(stream: Any, on_step: OnStep | None) -> Iterator[None]:
    """Have a stream tell `on_step` of its steps while the block runs.

    What has a method `attach`, as widgets do, is given the stream by it and watches by itself.

    Raises:
        InputError: `on_step` is neither a function nor has it an `attach`.
    """
    if on_step is None:
        yield
    elif isinstance(on_step, Attachable):
        on_step.attach(stream)
        yield
    else:
        end_watching = stream.watch(on_step)
        try:
            yield
        finally:
            end_watching()


def _call_all(functions: list[Callable[[Any], object]], given: Any) -> None:
    with contextlib.ExitStack() as calls:
        for function in reversed(functions):
            calls.callback(function, given)

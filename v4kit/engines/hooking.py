"""What a model is hooked by while a block runs: taps that look, and edits of its routing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from v4kit.engines.tapping import Tapped, tapped
from v4kit.intervene import Edit, Editing

if TYPE_CHECKING:
    from v4kit.engines.local import Model


class Hooked:
    """The part of a model that knows its taps and edits."""

    def __init__(self) -> None:
        self._taps: list[Tapped] = []
        self._editing: list[Editing] = []

    @contextlib.contextmanager
    def tap(
        self, kind: str, tap: Callable[[Any], Any], *, layers: int | Sequence[int] | None = None
    ) -> Iterator[None]:
        """Call `tap(event)` for every forward pass and layer while the block runs.

        All events have `layer` and `positions`, and tensors that are live, not copies. "router":
        `logits`, `scores`, `weights`, `experts`. "attention": `weights` `[head, token, column]`
        with `start`, `stop` and `kind` of each column, and the `sink`'s share. "indexer": the
        `blocks` that were chosen and the `scores` of all, with `start` and `stop` of each block.
        Returning None only looks; returning `event.change(…)` edits routers and indexers.

        Args:
            kind: "router", "attention" or "indexer".
            tap: Your function.
            layers: Layer index or indices; None means all that have one.

        Raises:
            InputError: The kind is unknown, or a layer does not have it.
        """
        entry = tapped(cast("Model", self), kind, layers, tap)
        self._taps.append(entry)
        try:
            yield
        finally:
            self._taps.remove(entry)

    @contextlib.contextmanager
    def edit(self, *edits: Edit) -> Iterator[Editing]:
        """Edit the routing while the block runs; yields what the edits displaced.

        Edits act in the order in which they are given, in this Model's own calls; transformers'
        model itself is left alone. Taps and recordings see the edited routing, and traces of passes
        in the block name the edits in `meta["edits"]`.

        Args:
            edits: Made by `v4kit.ablate`, `force`, `steer`, `nudge`, `scale`, `budget`, `replay`.

        Raises:
            InputError: An edit that can't take effect in this model.
        """
        model = cast("Model", self)
        editing = Editing(model.hf, model.family, model.architecture, edits)
        entry = tapped(model, "router", editing.layers, editing.tap)
        # Before all other taps, so that they see what is used.
        self._taps.insert(len(self._editing), entry)
        self._editing.append(editing)
        try:
            yield editing
        finally:
            self._taps.remove(entry)
            self._editing.remove(editing)

    def tell(self, prompt: int | None) -> None:
        """Tell the edits how many tokens the prompt has; None: all are its."""
        for editing in self._editing:
            editing.prompt = prompt

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The edits that act now, in their order, as JSON data."""
        return [one for editing in self._editing for one in editing.data]

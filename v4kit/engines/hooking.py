"""What a model is hooked by while a block runs: taps that look, and edits of its routing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from v4kit.engines.tapping import Hooks, Positions, Tapped, tapped
from v4kit.errors import InputError
from v4kit.intervene import Edit, Editing
from v4kit.intervene.editing import check_all, edit_hooks
from v4kit.recording import edits_of

if TYPE_CHECKING:
    from v4kit.engines.local import Model


_ONE_PLACE = (
    "v4kit.record edits this model already. Give all edits in one place, where they act together."
)


First = Callable[[Sequence[int]], Hooks]
"""Gives the hooks that see some layers' routers before they are edited."""


class Hooked:
    """The part of a model that knows its taps and edits."""

    def __init__(self) -> None:
        self._taps: list[Tapped] = []
        self._editing: list[Editing] = []
        self._met: tuple[Editing, ...] = ()

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

        Edits act together, also with those of a block around this one: first those of who is
        chosen, in their order, then those of weights. They act in this Model's own calls;
        transformers' model itself is left alone. Taps and recordings see the edited routing, and
        traces of passes in the block name the edits in `meta["edits"]`; `routing.displaced` holds
        the experts that had to go.

        Args:
            edits: Made by `v4kit.ablate`, `ablate_router`, `ablate_shared`, `force`, `steer`,
                `nudge`, `scale`, `budget`, `replay`.

        Raises:
            InputError: An edit that can't take effect in this model, or beside the others.
        """
        editing = self.editing(edits)
        self._editing.append(editing)
        try:
            yield editing
        finally:
            self._editing.remove(editing)

    def editing(self, edits: Sequence[Edit]) -> Editing:
        """Return edits at work beside those that act now.

        Raises:
            InputError: One can't take effect in this model, or beside the others.
        """
        model = cast("Model", self)
        if edits_of(model.hf):
            raise InputError(_ONE_PLACE)
        return Editing(model.hf, model.family, model.architecture, edits, among=self._editing)

    def pass_hooks(
        self,
        positions: Positions,
        prompt: int | None,
        own: Editing | None,
        first: First | None,
    ) -> Hooks:
        """Return the hooks of edits and taps for one forward pass, in the order in which they act.

        Args:
            positions: Gives the positions of the pass's tokens.
            prompt: How many tokens the prompt has; None: a text is only read.
            own: Edits of this call alone, after those of blocks.
            first: Gives the hooks that stand before the edits of some layers.
        """
        model = cast("Model", self)
        editings = [*self._editing, *([own] if own else [])]
        self._check_together(editings)
        layers = sorted({layer for editing in editings for layer in editing.layers})
        before = first(layers) if first and layers else []
        edits = edit_hooks(editings, model.routers, positions, lambda: prompt)
        # Taps see what is used.
        taps = [pair for entry in self._taps for pair in entry.hooks(model, positions)]
        return [*before, *edits, *taps]

    def _check_together(self, editings: Sequence[Editing]) -> None:
        """Refuse edits that have met only now, such as a run's own and a block's around a step."""
        if editings and edits_of(cast("Model", self).hf):
            raise InputError(_ONE_PLACE)
        # Kept themselves, not by their id, which another may have after them.
        met = tuple(editings)
        if len(met) > 1 and met != self._met:
            check_all(met)
        self._met = met

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The edits of all blocks that are open, in their order, as JSON data."""
        outside = edits_of(cast("Model", self).hf)
        return outside + [one for editing in self._editing for one in editing.data]

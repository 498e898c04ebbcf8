"""Edits at work: checked against a model, applied to each pass, and what they displaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from v4kit.arch import Architecture, Family
from v4kit.errors import InputError
from v4kit.intervene.base import Edit
from v4kit.intervene.choice import Choice, made
from v4kit.recording import RouterEvent
from v4kit.recording.routers import selection_bias


class Editing:
    """Some edits of one model, applied in their order.

    `displaced` counts, by layer, the tokens whose set of experts became another; `scaled` those
    whose weights alone did.

    Raises:
        InputError: An edit can't take effect in this model.
    """

    def __init__(
        self, hf_model: Any, family: Family, architecture: Architecture, edits: Sequence[Edit]
    ) -> None:
        if not edits or not all(isinstance(edit, Edit) for edit in edits):
            raise InputError(
                "edit takes edits, such as v4kit.ablate(layer=2, experts=[7]); given was "
                f"{list(edits)!r}."
            )
        self._family, self._architecture = family, architecture
        self._decoder = hf_model.get_submodule(family.layers)
        self._by_layer: dict[int, list[Edit]] = {}
        for edit in edits:
            edit.check(architecture)
            for layer in _acting_on(edit, architecture):
                self._by_layer.setdefault(layer, []).append(edit)
        self.prompt: int | None = None
        """Tokens of the prompt that is answered just now; None: a text is only read."""
        self.data = [edit.data() for edit in edits]
        self._displaced: dict[int, Tensor] = {}
        self._scaled: dict[int, Tensor] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that any edit acts on."""
        return tuple(sorted(self._by_layer))

    @property
    def displaced(self) -> dict[int, int]:
        """Tokens whose experts became others, by layer, over all passes so far."""
        return {layer: int(count) for layer, count in sorted(self._displaced.items())}

    @property
    def scaled(self) -> dict[int, int]:
        """Tokens whose experts stayed and whose weights changed, by layer."""
        return {layer: int(count) for layer, count in sorted(self._scaled.items())}

    def tap(self, event: RouterEvent) -> RouterEvent | None:
        """Return a router's event as the edits make it."""
        layer = event.layer
        bias = selection_bias(self._decoder[layer], self._family)
        choice = before = made(event, bias, self._architecture)
        for edit in self._by_layer[layer]:
            rows = edit.within(event.positions, self.prompt).to(event.experts.device)
            choice = edit.apply(choice, rows)
        self._count(layer, before, choice)
        return event.change(experts=choice.experts, weights=choice.weights)

    def _count(self, layer: int, before: Choice, after: Choice) -> None:
        moved = (before.experts.sort(-1).values != after.experts.sort(-1).values).any(-1)
        weighed = (before.weights != after.weights).any(-1) & ~moved
        for counts, rows in ((self._displaced, moved), (self._scaled, weighed)):
            # Left on its device: to wait for a number in every layer would cost more than the edit.
            counts[layer] = rows.sum() + counts.get(layer, 0)


def _acting_on(edit: Edit, architecture: Architecture) -> tuple[int, ...]:
    """Return the layers that an edit acts on.

    Raises:
        InputError: One has no router, or does not choose by score and the edit needs that.
    """
    routed = architecture.routed
    ranked = [layer for layer in routed if layer not in architecture.hash_layers]
    able = ranked if edit.reranks else list(routed)
    if edit.layers is None:
        return tuple(able)
    for layer in edit.layers:
        if layer not in routed:
            known = ", ".join(map(str, routed))
            raise InputError(f"Layer {layer} has no router; the layers with one are {known}.")
        if layer not in able:
            raise InputError(
                f"{type(edit).__name__.lower()} can't act on layer {layer}: its experts follow "
                "from the token id, not from a score. Give layers that choose: "
                f"{', '.join(map(str, ranked))}.{edit.way_out}"
            )
    return edit.layers

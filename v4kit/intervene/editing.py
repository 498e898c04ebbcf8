"""Edits at work: checked against a model, applied to each pass, and what they displaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from v4kit.arch import Architecture, Family
from v4kit.errors import InputError
from v4kit.intervene.base import Edit
from v4kit.intervene.choice import Choice, made
from v4kit.intervene.jointly import check_jointly
from v4kit.recording import RouterEvent, router_tap
from v4kit.recording.routers import selection_bias
from v4kit.recording.taps import Hook, Tap

Hooks = list[tuple[nn.Module, Hook]]


class Editing:
    """Some edits of one model.

    `displaced` counts, by layer, the tokens whose set of experts became another; `scaled` those
    whose weights alone did. Where other edits act as well, theirs are counted with them.

    Args:
        hf_model: transformers' model.
        family: Its row of the table.
        architecture: Its layers and experts.
        edits: The edits, in their order.
        among: Those that act already, before these.

    Raises:
        InputError: An edit can't take effect in this model, or beside the others.
    """

    def __init__(
        self,
        hf_model: Any,
        family: Family,
        architecture: Architecture,
        edits: Sequence[Edit],
        among: Sequence[Editing] = (),
    ) -> None:
        if isinstance(edits, Edit) or not edits or not all(isinstance(e, Edit) for e in edits):
            raise InputError(
                "edits are given as a list, such as [v4kit.ablate(layer=2, experts=[7])]; given "
                f"was {edits if isinstance(edits, Edit) else list(edits)!r}."
            )
        self.family, self.architecture = family, architecture
        self.decoder: Any = hf_model.get_submodule(family.layers)
        self._by_layer: dict[int, list[Edit]] = {}
        for edit in edits:
            edit.check(architecture, family)
            for layer in _acting_on(edit, architecture):
                self._by_layer.setdefault(layer, []).append(edit)
        check_all([*among, self])
        self.edits = tuple(edits)
        self.data = [edit.data() for edit in edits]
        self._displaced: dict[int, Tensor] = {}
        self._scaled: dict[int, Tensor] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that any edit acts on."""
        return tuple(sorted(self._by_layer))

    def at(self, layer: int) -> Sequence[Edit]:
        """Return the edits of one layer, in their order."""
        return self._by_layer.get(layer, ())

    @property
    def displaced(self) -> dict[int, int]:
        """Tokens whose experts became others, by layer, over all passes so far."""
        return {layer: int(self._displaced.get(layer, 0)) for layer in self.layers}

    @property
    def scaled(self) -> dict[int, int]:
        """Tokens whose experts stayed and whose weights changed, by layer."""
        return {layer: int(self._scaled.get(layer, 0)) for layer in self.layers}

    def hooks(
        self,
        routers: dict[int, nn.Module],
        positions: Callable[[], Tensor],
        prompt: Callable[[], int | None],
    ) -> Hooks:
        """Return the hooks by which these edits alone act, as `edit_hooks` makes them."""
        return edit_hooks([self], routers, positions, prompt)

    def count(self, layer: int, before: Choice, after: Choice) -> None:
        """Count what became of a layer's choice in one pass."""
        moved = (before.experts.sort(-1).values != after.experts.sort(-1).values).any(-1)
        weighed = (before.weights != after.weights).any(-1) & ~moved
        for counts, rows in ((self._displaced, moved), (self._scaled, weighed)):
            # Left on its device: to wait for a number in every layer would cost more than the edit.
            counts[layer] = rows.sum() + counts.get(layer, 0)


def check_all(editings: Sequence[Editing]) -> None:
    """Refuse edits that act together, and of which one would undo another.

    Raises:
        InputError: There are some in a layer.
    """
    for layer in sorted({layer for editing in editings for layer in editing.layers}):
        edits = [edit for editing in editings for edit in editing.at(layer)]
        check_jointly(edits, layer, editings[0].architecture)


def edit_hooks(
    editings: Sequence[Editing],
    routers: dict[int, nn.Module],
    positions: Callable[[], Tensor],
    prompt: Callable[[], int | None],
) -> Hooks:
    """Return the hooks by which edits act in one forward pass.

    All edits of a layer act on one choice, in the order of `editings` and of each one's edits.

    Args:
        editings: The edits.
        routers: The routers by layer index.
        positions: Gives the positions of the pass's tokens `[token]`.
        prompt: Gives the tokens of the prompt; None: a text is only read.
    """
    hooks: Hooks = []
    for layer in sorted({layer for editing in editings for layer in editing.layers}):
        here = [editing for editing in editings if editing.at(layer)]
        first = here[0]
        tap = _router_tap(here, layer, prompt)
        hooks.append((routers[layer], router_tap(layer, first.family.scoring, positions, tap)))
        silent = [edit for one in here for edit in one.at(layer) if edit.silences]
        if silent:
            shared = first.decoder[layer].get_submodule(first.family.shared_block)
            hooks.append((shared, _silence(silent, positions, prompt)))
    return hooks


def edited(choice: Choice, edits: Sequence[Edit], rows: Callable[[Edit], Tensor]) -> Choice:
    """Return what a router's choice becomes: first who is chosen, then how much of each.

    Args:
        choice: As the router made it.
        edits: In their order.
        rows: Gives the tokens `[token]` that an edit acts on.
    """
    own = choice
    for edit in edits:
        choice = edit.choose(choice, rows(edit))
    if choice is not own:
        choice = choice.settled(own)
    for edit in edits:
        choice = edit.weigh(choice, rows(edit))
    return choice


def _router_tap(editings: Sequence[Editing], layer: int, prompt: Callable[[], int | None]) -> Tap:
    first = editings[0]
    edits = [edit for editing in editings for edit in editing.at(layer)]

    def tap(event: RouterEvent) -> RouterEvent | None:
        known, device = prompt(), event.experts.device
        inside = {id(edit): edit.within(event.positions, known) for edit in edits}
        acting = [edit for edit in edits if bool(inside[id(edit)].any())]
        if not acting:
            return None
        bias = selection_bias(first.decoder[layer], first.family)
        before = made(event, bias, first.architecture)
        after = edited(before, acting, lambda edit: inside[id(edit)].to(device))
        for editing in editings:
            editing.count(layer, before, after)
        return event.change(experts=after.experts, weights=after.weights)

    return tap


def _silence(
    edits: Sequence[Edit], positions: Callable[[], Tensor], prompt: Callable[[], int | None]
) -> Hook:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        places, known = positions().to(output.device), prompt()
        rows = torch.stack([edit.within(places, known) for edit in edits]).any(0)
        # By choice, not by a factor: 0 times infinity is not 0.
        return output.masked_fill(rows.reshape(*output.shape[:-1], 1), 0)

    return hook


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
                f"{edit.name} can't act on layer {layer}: its experts follow "
                "from the token id, not from a score. Give layers that choose: "
                f"{', '.join(map(str, ranked))}.{edit.way_out}"
            )
    return edit.layers

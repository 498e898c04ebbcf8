"""One token fed many times to the same past, each time with something else done to its experts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from v4kit.engines import Model
from v4kit.intervene import Edit
from v4kit.intervene.choice import Choice, made
from v4kit.intervene.editing import edited
from v4kit.recording import RouterEvent, router_tap
from v4kit.recording.routers import selection_bias
from v4kit.recording.taps import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap(Edit):
    """Another expert in the place of one, with the weight that it had."""

    expert: int
    """The one that goes."""
    other: int
    """The one that comes."""

    def weigh(self, choice: Choice, rows: Tensor) -> Choice:
        """Return a choice that was made, with the one in the other's place."""
        place = (choice.experts == self.expert) & rows.unsqueeze(-1)
        return replace(choice, experts=torch.where(place, self.other, choice.experts))


def repeated(cache: Any, copies: int) -> Any:
    """Return a cache whose one row is there many times; the given one is left as it is.

    Dynamic caches make new tensors when they grow, so the copies share what is there already.
    """
    many = copy.copy(cache)
    many.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in many.layers:
        vars(layer).update({name: _expanded(v, copies) for name, v in vars(layer).items()})
    return many


def _expanded(value: Any, copies: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == 1:
        return value.expand(copies, *value.shape[1:])
    if isinstance(value, dict):
        return {name: _expanded(one, copies) for name, one in value.items()}
    return value


def log_probabilities(
    model: Model, token: int, position: int, cache: Any, branches: Sequence[tuple[int, Edit]]
) -> tuple[Tensor, dict[int, set[int]]]:
    """Return log-probabilities of what follows the token, and which experts it uses as it is.

    The former are `[1 + branch, vocabulary]`, float64 on the CPU; the first row is the model as it
    is, computed beside the others. The latter are sets by layer.

    Args:
        model: The model.
        token: Id of the token.
        position: Its position.
        cache: What the model holds of the tokens before; None if there are none.
        branches: A layer and what is done to its choice, for each of the other rows.
    """
    many = repeated(cache, len(branches) + 1) if cache is not None else None
    used: dict[int, set[int]] = {}
    hooks = [
        (model.routers[layer], _hook(model, layer, position, branches, used))
        for layer in sorted({layer for layer, _ in branches})
    ]
    logits = model.branch(token, position, many, hooks, len(branches) + 1)
    return logits.double().log_softmax(-1).cpu().clone(), used


def _hook(
    model: Model,
    layer: int,
    position: int,
    branches: Sequence[tuple[int, Edit]],
    used: dict[int, set[int]],
) -> Hook:
    decoder: Any = model.hf.get_submodule(model.family.layers)

    def tap(event: RouterEvent) -> RouterEvent:
        bias = selection_bias(decoder[layer], model.family)
        used[layer] = set(event.experts[0].tolist())
        rows = torch.arange(len(branches) + 1, device=event.experts.device)
        own = {id(edit): rows == row for row, (_, edit) in enumerate(branches, start=1)}
        here = [edit for where, edit in branches if where == layer]
        choice = edited(made(event, bias, model.architecture), here, lambda edit: own[id(edit)])
        return event.change(experts=choice.experts, weights=choice.weights)

    positions = torch.full((len(branches) + 1,), position)
    return router_tap(layer, model.family.scoring, lambda: positions, tap)

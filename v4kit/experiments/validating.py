"""Proves by experiment that a model's routers and attention are read rightly."""

from __future__ import annotations

import contextlib
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from v4kit.core import DENSE
from v4kit.engines import Model
from v4kit.errors import InputError
from v4kit.experiments.facts import attention_facts, holds, router_facts
from v4kit.recording import AttentionEvent, RouterEvent, record

_TOKENS = 24
FACTS = (
    "found",
    "fires",
    "shapes",
    "ids",
    "experts",
    "weights",
    "matters",
    "recorded",
    "unchanged",
    "visible",
    "sums",
)
"""Columns of the table that say whether something holds."""


def validate(model: Model) -> pd.DataFrame:
    """Return one row per decoder layer, one column per fact, and `ok`: no fact is false.

    Each fact is an experiment on a short text. `found`: the module that the table of families names
    is the only one in the layer that returns logits, weights and expert ids; a dense layer has
    none. Then of each router: it `fires` once per pass; what it returns has the expected `shapes`;
    its `ids` are of experts that exist, each once; selecting by score and bias, within the open
    groups, gives the `experts` that were used (hash layers: the token's row of the table); the
    `weights` are those experts' scores, normalized and scaled as the family says; halving them
    `matters` to the logits. A recording holds the same experts and weights (`recorded`) and leaves
    the logits `unchanged` to the bit. Attention's mass is all on what is `visible` to a token: on
    every single token it can see (or as many as its indexer may choose) and on blocks that were
    chosen; what a row `sums` to leaves no more than the sink's share.

    `v4kit.validate(model).ok.all()` says that all is well. A fact is missing (`<NA>`) where it
    can't be asked: routers' facts of a dense layer, `visible` and `sums` if the model returns no
    attention weights, `recorded` and `unchanged` if a router does not do what can be recorded.
    """
    ids = _text(model)
    base, _ = model.forward(ids, 0, None, [])
    events, routers = _routed(model, ids)
    attended, chosen = _attended(model, ids)
    routed = {
        layer: router_facts(model, layer, events.get(layer, []), ids) for layer in model.routers
    }
    kept: dict[int, bool] = {}
    unchanged: bool | None = None
    if all(facts["fires"] and facts["ids"] for facts in routed.values()):
        kept, unchanged = _recorded(model, ids, base, events)
    rows = []
    for layer in model.architecture.layers:
        at = layer.index
        expected = [model.routers[at]] if at in model.routers else []
        facts: dict[str, bool | None] = {"found": routers.get(at, []) == expected}
        if layer.routing != DENSE:
            facts |= routed[at]
            facts |= {"matters": _matters(model, at, ids, base), "recorded": kept.get(at)}
        facts |= {"unchanged": unchanged}
        facts |= attention_facts(model, attended.get(at), chosen.get(at))
        about = {
            "layer": at,
            "routing": layer.routing,
            "attention": layer.attention,
            "router": type(expected[0]).__name__ if expected else "–",
        }
        rows.append(about | {fact: facts.get(fact) for fact in FACTS})
    table = pd.DataFrame(rows).astype(dict.fromkeys(FACTS, "boolean"))
    return table.assign(ok=table[list(FACTS)].all(axis=1).astype(bool))


def _text(model: Model) -> list[int]:
    """Return ids that fill two of the longest blocks."""
    needed = max(2 * layer.rate + 8 for layer in model.architecture.layers)
    count = min(max(_TOKENS, needed), model.architecture.context)
    return (torch.arange(count) % model.architecture.vocabulary).tolist()


def _routed(
    model: Model, ids: list[int]
) -> tuple[dict[int, list[RouterEvent]], dict[int, list[nn.Module]]]:
    """Return what each router said, and every module of each layer that speaks like a router."""
    events: dict[int, list[RouterEvent]] = {}
    routers: dict[int, list[nn.Module]] = {}

    def probe(layer: int) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if _like_a_router(output) and module not in routers.setdefault(layer, []):
                routers[layer].append(module)

        return hook

    decoder = model.hf.get_submodule(model.family.layers)
    probes = [(part, probe(i)) for i, layer in enumerate(decoder) for part in layer.modules()]
    with model.tap("router", lambda event: events.setdefault(event.layer, []).append(event)):
        model.forward(ids, 0, None, probes)
    return events, routers


def _like_a_router(output: Any) -> bool:
    """Tell whether an output is `(logits [token, expert], weights, ids [token, slot])`."""
    return (
        isinstance(output, tuple)
        and len(output) == 3
        and all(isinstance(part, Tensor) and part.ndim == 2 for part in output)
        and output[0].is_floating_point()
        and not output[2].is_floating_point()
    )


def _attended(model: Model, ids: list[int]) -> tuple[dict[int, AttentionEvent], dict[int, Tensor]]:
    """Return each layer's attention and the blocks its indexer chose; nothing without weights."""
    attended: dict[int, AttentionEvent] = {}
    chosen: dict[int, Tensor] = {}
    with contextlib.ExitStack() as taps:
        if model.indexers:
            taps.enter_context(
                model.tap("indexer", lambda event: chosen.update({event.layer: event.blocks}))
            )
        taps.enter_context(
            model.tap("attention", lambda event: attended.update({event.layer: event}))
        )
        # Only the first pass tells whether an attention implementation returns its weights.
        with contextlib.suppress(InputError):
            model.forward(ids, 0, None, [])
    return attended, chosen


def _recorded(
    model: Model, ids: list[int], base: Tensor, events: dict[int, list[RouterEvent]]
) -> tuple[dict[int, bool], bool]:
    """Return whether a recording holds what each router said, and left the logits as they are."""
    with record(model.hf) as recording:
        logits, _ = model.forward(ids, 0, None, [])
    trace = recording.trace
    kept = {layer: holds(trace, layer, said[0]) for layer, said in events.items()}
    return kept, torch.equal(logits, base)


def _matters(model: Model, layer: int, ids: list[int], base: Tensor) -> bool:
    """Tell whether halving a layer's weights changes the logits."""

    def halve(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        logits, weights, experts = output
        return logits, weights / 2, experts

    changed, _ = model.forward(ids, 0, None, [(model.routers[layer], halve)])
    return not torch.equal(changed, base)

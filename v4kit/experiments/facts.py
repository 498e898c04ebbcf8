"""What one pass shows of one layer, held against the architecture and the family's rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from v4kit.core import HASH, WINDOW_SOURCE
from v4kit.engines import Model
from v4kit.recording import AttentionEvent, RouterEvent
from v4kit.recording.routers import eligible, selection_bias
from v4kit.trace import Trace

_ROUNDING = 5e-3
"""Most by which a row of bfloat16 weights may add up to more than 1."""


def router_facts(
    model: Model, layer: int, events: list[RouterEvent], ids: list[int]
) -> dict[str, bool]:
    """Return what a router's events in one pass over some ids show."""
    if not events:
        return dict.fromkeys(("fires", "shapes", "ids", "experts", "weights"), False)
    event, architecture = events[0], model.architecture
    chosen = (len(ids), architecture.top_k)
    shapes = (
        tuple(event.logits.shape) == (len(ids), architecture.n_experts)
        and tuple(event.experts.shape) == chosen
        and tuple(event.weights.shape) == chosen
    )
    sound = shapes and _sound(event.experts, architecture.n_experts)
    return {
        "fires": len(events) == 1,
        "shapes": shapes,
        "ids": sound,
        "experts": sound and _follow_the_rule(model, layer, event, ids),
        "weights": sound and _weigh_as_told(model, event),
    }


def _sound(experts: Tensor, n_experts: int) -> bool:
    """Tell whether ids `[token, slot]` are of experts that exist, and distinct for each token."""
    ordered = experts.sort(-1).values
    exist = (ordered[:, 0] >= 0).all() and (ordered[:, -1] < n_experts).all()
    return bool(exist and (ordered[:, 1:] > ordered[:, :-1]).all())


def _follow_the_rule(model: Model, layer: int, event: RouterEvent, ids: list[int]) -> bool:
    """Tell whether the experts that were used are those that the family's rule gives."""
    expected = _expected_experts(model, layer, event, ids).to(event.experts.device)
    return torch.equal(event.experts.sort(-1).values, expected.sort(-1).values)


def _expected_experts(model: Model, layer: int, event: RouterEvent, ids: list[int]) -> Tensor:
    """Return the experts `[token, slot]` that the family's rule gives."""
    router: Any = model.routers[layer]
    if model.architecture.layers[layer].routing == HASH:
        table: Tensor = router.tid2eid
        return table[torch.tensor(ids, device=table.device)].long()
    # In the router's own dtype: rounding decides between experts that are nearly level.
    selection = event.scores
    decoder: Any = model.hf.get_submodule(model.family.layers)
    bias = selection_bias(decoder[layer], model.family)
    if bias is not None:
        selection = selection + bias.to(selection.device)
    allowed = eligible(selection, model.architecture)
    return allowed.topk(model.architecture.top_k, dim=-1).indices


def _weigh_as_told(model: Model, event: RouterEvent) -> bool:
    """Tell whether the weights are the chosen experts' scores, normalized and scaled."""
    expected = event.scores.float().gather(-1, event.experts)
    if model.architecture.normalized:
        expected = expected / expected.sum(-1, keepdim=True)
    rounding = max(4 * torch.finfo(event.weights.dtype).eps, 1e-5)
    weights = event.weights.float()
    return torch.allclose(weights, expected * model.architecture.scale, rtol=rounding, atol=1e-6)


def holds(trace: Trace, layer: int, event: RouterEvent) -> bool:
    """Tell whether a trace's layer holds an event's experts and their weights, in any order."""
    order = event.experts.argsort(-1)
    said = [part.gather(-1, order).float().cpu().numpy() for part in (event.experts, event.weights)]
    experts = trace.routing["experts"].sel(layer=layer).to_numpy()
    slots = experts.argsort(-1)
    weights = trace.routing["weights"].sel(layer=layer).to_numpy()
    kept = [np.take_along_axis(part, slots, axis=-1) for part in (experts, weights)]
    return all(np.array_equal(one, other) for one, other in zip(said, kept, strict=True))


def attention_facts(
    model: Model, event: AttentionEvent | None, blocks: Tensor | None
) -> dict[str, bool]:
    """Return what one layer's attention shows; nothing if it was not seen."""
    if event is None:
        return {}
    weights = event.weights.float().cpu()
    total = weights.sum(-1)
    most = float((total - 1).abs().max() if not event.sinks else (total - 1).max())
    layer = model.architecture.layers[event.layer]
    fewest = layer.chosen if layer.attention == "dsa" else None
    return {"visible": _where_told(event, weights > 0, blocks, fewest), "sums": most < _ROUNDING}


def _where_told(
    event: AttentionEvent, used: Tensor, blocks: Tensor | None, chosen: int | None
) -> bool:
    """Tell whether columns `[head, token, column]` with mass are those that a token can see.

    Args:
        event: The attention.
        used: Which columns have mass.
        blocks: The blocks that an indexer chose `[token, choice]`, if there is one.
        chosen: How many single tokens an indexer may choose; None: there is none for them.
    """
    seen = torch.from_numpy(event.columns.visible())
    single = seen & torch.from_numpy(event.kind == WINDOW_SOURCE)
    if blocks is not None:
        picked = torch.zeros(len(seen), event.columns.n_blocks + 1, dtype=torch.bool)
        picked.scatter_(1, blocks.cpu() % picked.shape[1], value=True)
        seen[:, event.columns.n_window :] &= picked[:, :-1]
    if not bool((used <= seen).all()):
        return False
    if chosen is None:
        return bool((used | ~single).all())
    count = single.sum(-1).clamp(max=chosen)
    alike = (used == used[:1]).all()
    return bool(alike and (used[0].sum(-1) == count).all())

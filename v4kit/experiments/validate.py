"""Proves by experiment that a model's routers are read rightly."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from v4kit.core import HASH
from v4kit.engines import Model
from v4kit.recording import RouterEvent

_TOKENS = 24


def validate(model: Model) -> pd.DataFrame:
    """Return one row per layer with a router, one column per fact, and `ok`.

    Each fact is an experiment on a short text: the router `fires` once per pass; it returns
    experts and weights of the expected `shapes`; selecting by score and bias gives the `experts`
    that were used (hash layers: the token's row of the table); the `weights` add up as the
    architecture says; and halving the weights of this layer `matters` to the logits.
    `v4kit.validate(model).ok.all()` says that all is well.
    """
    ids = torch.arange(_TOKENS) % model.architecture.vocabulary
    seen: dict[int, list[RouterEvent]] = {layer: [] for layer in model.routers}

    def look(event: RouterEvent) -> None:
        seen[event.layer].append(event)

    with model.tap("router", look):
        base, _ = model.forward(ids.tolist(), 0, None, [])
    rows = []
    for layer, events in seen.items():
        rows.append(
            {
                "layer": layer,
                "routing": model.architecture.layers[layer].routing,
                "attention": model.architecture.layers[layer].attention,
                "router": type(model.routers[layer]).__name__,
                "fires": len(events) == 1,
                **_facts(model, layer, events[0] if events else None, ids),
                "matters": _matters(model, layer, ids, base),
            }
        )
    table = pd.DataFrame(rows)
    facts = ["fires", "shapes", "experts", "weights", "matters"]
    return table.assign(ok=table[facts].all(axis=1))


def _facts(model: Model, layer: int, event: RouterEvent | None, ids: Tensor) -> dict[str, bool]:
    """Return what one event of a layer shows."""
    if event is None:
        return {"shapes": False, "experts": False, "weights": False}
    architecture = model.architecture
    chosen = (len(ids), architecture.top_k)
    shapes = (
        tuple(event.logits.shape) == (len(ids), architecture.n_experts)
        and tuple(event.experts.shape) == chosen
        and tuple(event.weights.shape) == chosen
    )
    total = event.weights.float().sum(-1)
    expected = architecture.weight_sum
    weights = bool((total > 0).all()) if expected is None else _close(total, expected)
    return {
        "shapes": shapes,
        "experts": shapes and _follow_the_rule(model, layer, event, ids),
        "weights": weights,
    }


def _follow_the_rule(model: Model, layer: int, event: RouterEvent, ids: Tensor) -> bool:
    """Tell whether the experts that were used are those that the family's rule gives."""
    expected = _expected_experts(model, layer, event, ids).to(event.experts.device)
    return torch.equal(event.experts.sort(-1).values, expected.sort(-1).values)


def _expected_experts(model: Model, layer: int, event: RouterEvent, ids: Tensor) -> Tensor:
    """Return the experts `[token, slot]` that the family's rule gives."""
    router: Any = model.routers[layer]
    if model.architecture.layers[layer].routing == HASH:
        table: Tensor = router.tid2eid
        return table[ids.to(table.device)].long()
    # In the router's own dtype: rounding decides between experts that are nearly level.
    selection = event.scores
    if model.family.bias is not None:
        selection = selection + getattr(router, model.family.bias).to(selection.device)
    return selection.topk(model.architecture.top_k, dim=-1).indices


def _close(total: Tensor, expected: float) -> bool:
    return bool(torch.allclose(total, torch.full_like(total, expected), rtol=1e-2))


def _matters(model: Model, layer: int, ids: Tensor, base: Tensor) -> bool:
    """Tell whether halving a layer's weights changes the logits."""

    def halve(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        logits, weights, experts = output
        return logits, weights / 2, experts

    changed, _ = model.forward(ids.tolist(), 0, None, [(model.routers[layer], halve)])
    return not torch.equal(changed, base)

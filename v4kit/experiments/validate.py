"""Proves by experiment that a model's routers and attention are read rightly."""

from __future__ import annotations

import contextlib
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from v4kit.core import HASH, WINDOW_SOURCE
from v4kit.engines import Model
from v4kit.errors import InputError
from v4kit.recording import AttentionEvent, RouterEvent

_TOKENS = 24
_ROUNDING = 5e-3
"""Most by which a row of bfloat16 weights may add up to more than 1."""


def validate(model: Model) -> pd.DataFrame:
    """Return one row per layer with a router, one column per fact, and `ok`.

    Each fact is an experiment on a short text: the router `fires` once per pass; it returns
    experts and weights of the expected `shapes`; selecting by score and bias gives the `experts`
    that were used (hash layers: the token's row of the table); the `weights` add up as the
    architecture says; and halving the weights of this layer `matters` to the logits. Attention
    has its mass where `columns` says that a token can see, on every single token it can see, and
    with blocks that were chosen only; what a row `sums` to leaves no more than the sink's share.
    `v4kit.validate(model).ok.all()` says that all is well; `columns` and `sums` are missing where
    the model returns no attention weights.
    """
    # Enough for two of the longest blocks.
    longest = max(layer.rate for layer in model.architecture.layers)
    count = min(max(_TOKENS, 2 * longest + 8), model.architecture.context)
    ids = torch.arange(count) % model.architecture.vocabulary
    seen: dict[int, list[RouterEvent]] = {layer: [] for layer in model.routers}

    def look(event: RouterEvent) -> None:
        seen[event.layer].append(event)

    with model.tap("router", look):
        base, _ = model.forward(ids.tolist(), 0, None, [])
    attended, chosen = _attended(model, ids.tolist())
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
                **_attention(model, attended.get(layer), chosen.get(layer)),
            }
        )
    table = pd.DataFrame(rows)
    facts = ["fires", "shapes", "experts", "weights", "matters", "columns", "sums"]
    return table.assign(ok=table[[fact for fact in facts if fact in table]].all(axis=1))


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


def _attention(
    model: Model, event: AttentionEvent | None, blocks: Tensor | None
) -> dict[str, bool]:
    """Return what one layer's attention shows; nothing if it was not seen."""
    if event is None:
        return {}
    weights = event.weights.float().cpu()
    seen = torch.from_numpy(event.columns.visible())
    single = seen & torch.from_numpy(event.kind == WINDOW_SOURCE)
    if blocks is not None:
        picked = torch.zeros(len(seen), event.columns.n_blocks + 1, dtype=torch.bool)
        picked.scatter_(1, blocks.cpu() % picked.shape[1], value=True)
        seen[:, event.columns.n_window :] &= picked[:, :-1]
    used = weights > 0
    total = weights.sum(-1)
    most = float((total - 1).abs().max() if not model.architecture.sinks else (total - 1).max())
    return {
        "columns": bool((used <= seen).all() and (used | ~single).all()),
        "sums": most < _ROUNDING,
    }


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

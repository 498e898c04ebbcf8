"""DeepSeek-V4's own training rules on top of transformers' modules.

Balanced hash tables, the auxiliary-loss-free routing bias, and the indexer's KL loss. Everything is
attached by hooks or as a registered attention function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

ATTENTION = "v4kit_training"


def hash_table(frequency: np.ndarray, experts: int, k: int, seed: int) -> torch.Tensor:
    """Return a table `[vocabulary, slot]` of distinct experts per token, balanced by frequency.

    Tokens are placed in descending frequency, each on k experts drawn from the 2 k least loaded, so
    that both the corpus load and the number of types per expert come out even.
    """
    rng = np.random.default_rng(seed)
    load = np.zeros(experts)
    table = np.zeros((len(frequency), k), dtype=np.int64)
    for token in np.argsort(-frequency, kind="stable"):
        least = np.lexsort((rng.random(experts), load))[: 2 * k]
        table[token] = rng.choice(least, k, replace=False)
        load[table[token]] += frequency[token] + 1
    return torch.from_numpy(table)


class IndexerLoss:
    """Collects the KL divergence between the indexer's scores and the attention it selects for.

    The target is the layer's attention over compressed entries, summed over heads and normalised;
    the indexer's inputs are detached, so its loss trains the indexer alone.
    """

    def __init__(self, model: nn.Module, topk: int) -> None:
        self.topk = topk
        self.terms: list[torch.Tensor] = []
        self.indexers = [m for m in model.modules() if type(m).__name__ == "DeepseekV4Indexer"]
        for layer in model.model.layers:  # type: ignore[union-attr]
            indexer = getattr(layer.self_attn.compressor, "indexer", None)
            if indexer is not None:
                indexer.register_forward_pre_hook(self._detach)
                indexer.scorer.register_forward_hook(self._keep(layer.self_attn))

    @staticmethod
    def _detach(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in inputs)

    @staticmethod
    def _keep(attention: nn.Module) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            attention.index_scores = output  # type: ignore[assignment]

        return hook

    def dense(self, on: bool) -> None:
        """Let every compressed entry be attended to, or only the top-k."""
        for indexer in self.indexers:
            indexer.index_topk = 10**6 if on else self.topk

    def add(self, scores: torch.Tensor, target: torch.Tensor, allowed: torch.Tensor) -> None:
        """Add one layer's term; all are `[batch, query, entry]`."""
        target = target / (target.sum(-1, keepdim=True) + 1e-9)
        predicted = F.log_softmax(scores.masked_fill(~allowed, -1e9), -1)
        divergence = target * ((target + 1e-9).log() - predicted)
        rows = allowed.sum(-1) > 1
        total = divergence.masked_fill(~allowed, 0).sum(-1)
        self.terms.append((total * rows).sum() / rows.sum().clamp(min=1))

    def take(self) -> torch.Tensor:
        """Return the sum of the collected terms and forget them."""
        total = torch.stack(self.terms).sum()
        self.terms.clear()
        return total


def attention(loss: IndexerLoss, watch: Callable[[Any, torch.Tensor], None] | None = None) -> Any:
    """Return the attention function of training: transformers' eager maths, plus the KL term.

    In training, `watch` is called with each attention module and its weights without the sink.
    """

    def forward(  # noqa: PLR0917 - the signature is transformers'
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scaling: float,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        batch, heads, length, width = query.shape
        key, value = key[:, 0], value[:, 0]  # one head, shared by all queries
        products = query.reshape(batch, heads * length, width) @ key.transpose(1, 2)
        logits = products.view(batch, heads, length, -1) * scaling + mask
        sinks = module.sinks.reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        weights = F.softmax(torch.cat([logits, sinks], -1), -1)[..., :-1]
        if module.training and watch is not None:
            watch(module, weights)
        if module.training and module.layer_type == "compressed_sparse_attention":
            entries = module.index_scores.shape[-1]
            allowed = torch.isfinite(mask[:, 0, :, -entries:])
            loss.add(module.index_scores, weights[..., -entries:].detach().sum(1), allowed)
        output = weights.reshape(batch, heads * length, -1) @ value
        return output.view(batch, heads, length, width).transpose(1, 2).contiguous(), None

    return forward


class RoutingBias:
    """Auxiliary-loss-free balancing: after each step the bias of idle experts rises."""

    def __init__(self, model: nn.Module, experts: int) -> None:
        self.experts = experts
        self.gates = [layer.mlp.gate for layer in model.model.layers]  # type: ignore[union-attr]
        self.load = torch.zeros(len(self.gates), experts)
        for index, gate in enumerate(self.gates):
            gate.register_forward_hook(self._count(index))

    def _count(self, index: int) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if module.training:
                self.load[index] = torch.bincount(output[2].reshape(-1), minlength=self.experts)

        return hook

    @torch.no_grad()
    def update(self, speed: float) -> torch.Tensor:
        """Move every bias by `speed` towards an even load; return the load `[layer, expert]`."""
        if dist.is_initialized():
            dist.all_reduce(self.load)
        for gate, load in zip(self.gates, self.load, strict=True):
            if hasattr(gate, "e_score_correction_bias"):
                gate.e_score_correction_bias += speed * torch.sign(load.mean() - load)
        return self.load

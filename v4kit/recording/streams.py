"""Records how much of each block's output is left in the state that the logits are read from.

In a model with hyper-connections a token has several residual streams. A block reads a mixture of
them and writes its output y back to all, after the streams were mixed with each other:
H ← post yᵀ + R H with R = combᵀ (DeepSeek-V4's mHC; `DeepseekV4DecoderLayer`). The head collapses
them with factors of its own. All of these are scalars of the token, so the final state before its
norm is Σ αⱼ yⱼ + α₀ · embedding, with αⱼ = preᵀ R_M … R_{j+1} postⱼ: one number per block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4kit.arch import Architecture, Family, Mixing
from v4kit.errors import InputError, UnsupportedModel
from v4kit.recording.buffers import Rows
from v4kit.recording.taps import Hook

_TOGETHER = 64
"""Tokens that short passes wait for: the products of a single one cost as much as those of all."""
_Pass = tuple[Tensor, Tensor, Tensor]


def alphas(post: Tensor, comb: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of the blocks `[block, token]` and of the embedding `[token]`.

    Args:
        post: What each block's output is written with `[block, token, stream]`.
        comb: What the streams are mixed with before it `[block, token, stream, stream]`.
        head: What the streams are collapsed with in the end `[token, stream]`.
    """
    found, reach = [], head
    for block in reversed(range(len(post))):
        found.append((reach * post[block]).sum(-1))
        reach = (comb[block] @ reach.unsqueeze(-1)).squeeze(-1)
    return torch.stack(found[::-1]), reach.sum(-1)


class StreamRecorder:
    """Collects the factors; a pass counts once `commit` is called after it.

    Raises:
        InputError: The model has one residual stream, of which all factors are 1.
    """

    def __init__(self, hf_model: Any, family: Family, architecture: Architecture) -> None:
        if family.mixing is None:
            raise InputError(
                f"A {family.model_type} model has one residual stream, and no coefficients to "
                "record. Use Record(streams=False)."
            )
        self._architecture = architecture
        self._mixing: Mixing = family.mixing
        self._hf = hf_model
        self._decoder = hf_model.get_submodule(family.layers)
        self._pending: dict[int, tuple[Tensor, Tensor]] = {}
        self._head: Tensor | None = None
        self._waiting: list[_Pass] = []
        self._rows = Rows()
        self._settled = 0

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """Return `(module, hook)` for every mixing of streams, and for the head."""
        hooks: list[tuple[nn.Module, Hook]] = []
        for layer in range(self._architecture.n_layers):
            for place, path in enumerate((self._mixing.attention, self._mixing.experts)):
                module = self._decoder[layer].get_submodule(path)
                hooks.append((module, self._mixed(2 * layer + place)))
        head = self._hf.get_submodule(self._mixing.head)
        return [*hooks, (head.get_submodule("input_norm"), self._collapsed(head))]

    def _mixed(self, block: int) -> Hook:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            post, comb, collapsed = output
            # As the layer uses them: cast to the dtype of the streams.
            kept = (post.to(collapsed.dtype), comb.to(collapsed.dtype))
            self._pending[block] = (kept[0].flatten(0, 1), kept[1].flatten(0, 1))

        return hook

    def _collapsed(self, head: Any) -> Hook:
        # The head returns only what it collapsed. Within its call its parameters are in place, even
        # where weights are offloaded.
        @torch.no_grad()
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            mixes = F.linear(output, head.hc_fn.float())
            pre = torch.sigmoid(mixes * head.hc_scale.float() + head.hc_base.float()) + head.eps
            self._head = pre.flatten(0, 1)

        return hook

    def discard(self) -> None:
        """Forget a pass that did not end."""
        self._pending.clear()
        self._head = None

    def last(self) -> _Pass:
        """Return what the last pass mixed its tokens with, as `alphas` takes it.

        Raises:
            UnsupportedModel: The streams were not collapsed in this pass.
        """
        if self._head is None:
            raise UnsupportedModel(
                "The residual streams were not collapsed in this forward pass, so their "
                "coefficients are not known. Call the whole model, or use Record(streams=False)."
            )
        blocks = [self._pending[block] for block in range(2 * self._architecture.n_layers)]
        post, comb = (torch.stack([b[i].to(self._head.device) for b in blocks]) for i in (0, 1))
        return post, comb, self._head

    @torch.no_grad()
    def commit(self, rows: Tensor | None = None) -> None:
        """Make the last pass count: all its tokens, or those of `rows` in that order."""
        post, comb, head = self.last()
        if rows is not None:
            at = rows.to(head.device)
            post, comb, head = post[:, at], comb[:, at], head[at]
        self._waiting.append((post, comb, head))
        if sum(len(head) for *_, head in self._waiting) >= _TOGETHER:
            self._settle()
        self.discard()

    @torch.no_grad()
    def _settle(self) -> None:
        if not self._waiting:
            return
        post, comb, head = zip(*self._waiting, strict=True)
        blocks, embedding = alphas(
            torch.cat(post, 1).float(), torch.cat(comb, 1).float(), torch.cat(head).float()
        )
        # Interrupted, they wait on, and are written to the same rows again.
        self._rows.append({"blocks": blocks.T, "embedding": embedding}, self._settled)
        self._settled, self._waiting = self._settled + len(embedding), []

    def arrays(self, length: int, completed: int | None = None) -> dict[str, np.ndarray]:
        """Return the factors over `length` rows, by variable name; missing ones NaN."""
        self._settle()
        layers = self._architecture.n_layers
        blocks = np.full((length, layers, 2), np.nan, np.float32)
        embedding = np.full(length, np.nan, np.float32)
        if len(self._rows):
            found = {name: value[:completed] for name, value in self._rows.arrays().items()}
            rows = len(found["embedding"])
            blocks[:rows] = found["blocks"].reshape(rows, layers, 2)
            embedding[:rows] = found["embedding"]
        return {
            "alpha_attention": blocks[..., 0],
            "alpha_experts": blocks[..., 1],
            "alpha_embedding": embedding,
        }

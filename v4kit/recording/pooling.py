"""Records how much each token weighs in the compressed blocks that it is pooled into.

A compressor pools the tokens of a block channel by channel, by a softmax over the tokens of a gate
with a bias per place (DeepSeek-V4 eqs. 11–12 and 21–22). Kept is that softmax averaged over the
channels: no true weight of a token, since the pooled entry is normalised afterwards, but the
compressor's own numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from v4kit.arch import Architecture
from v4kit.core import NONE
from v4kit.recording.taps import Before, Hook

_NAME = "compressor"
"""What the cache calls the attention's own compressor, beside the indexer's."""


@dataclass(frozen=True, slots=True)
class _Closed:
    """The blocks of one layer that were closed in one pass."""

    documents: Sequence[int]
    """The document of each batch row."""
    first: int
    """Number of the first block."""
    weights: np.ndarray
    """Mean weight of each token `[batch, block, token]`, the block before's tokens first."""


class PoolingRecorder:
    """Collects gate weights; a pass counts once `commit` is called after it."""

    def __init__(self, compressors: dict[int, nn.Module], architecture: Architecture) -> None:
        self._compressors = compressors
        self._architecture = architecture
        self._carried: dict[int, tuple[int, Tensor | None, Tensor | None]] = {}
        self._pending: dict[int, tuple[int, Tensor]] = {}
        self._closed: dict[int, list[_Closed]] = {layer: [] for layer in compressors}

    def hooks(self) -> list[tuple[nn.Module, Hook | Before]]:
        """Return `(module, hook)` for every compressor and its gate."""
        hooks: list[tuple[nn.Module, Hook | Before]] = []
        for layer, module in self._compressors.items():
            hooks.append((module, Before(self._before(layer))))
            hooks.append((module.get_submodule("gate_proj"), self._gate(layer, module)))
        return hooks

    def discard(self) -> None:
        """Forget a pass that did not end."""
        self._carried.clear()
        self._pending.clear()

    def _before(self, layer: int) -> Hook:
        def hook(_module: nn.Module, inputs: Any, named: Any) -> None:
            given = [*inputs, *named.values()]
            cache = next((x for x in given if hasattr(x, "layers")), None)
            state = None if cache is None else cache.layers[layer]
            self._carried[layer] = (0, None, None)
            if state is not None:
                gate, overlap = state.buffer_gate, getattr(state, "overlap_gate", {})
                self._carried[layer] = (
                    state.entry_count[_NAME],
                    gate.get(_NAME),
                    overlap.get(_NAME),
                )

        return hook

    def _gate(self, layer: int, compressor: nn.Module) -> Hook:
        rate, span = (getattr(self._architecture.layers[layer], n) for n in ("rate", "span"))

        @torch.no_grad()
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            first, buffered, overlap = self._carried[layer]
            gate = output if buffered is None else torch.cat([buffered, output], dim=1)
            count = gate.shape[1] // rate
            if not count:
                return
            # Here the parameter is in place even where weights are offloaded.
            bias: Any = compressor.position_bias
            blocks = gate[:, : count * rate].float()
            blocks = blocks.view(len(gate), count, rate, -1) + bias.float()
            if span > rate:
                own = blocks.shape[-1] // 2
                before = blocks.new_full((len(blocks), 1, rate, own), -torch.inf)
                if overlap is not None:
                    before = overlap.unsqueeze(1).float()
                before = torch.cat([before, blocks[:, :-1, :, :own]], dim=1)
                blocks = torch.cat([before, blocks[..., own:]], dim=2)
            self._pending[layer] = first, blocks.softmax(dim=2).mean(-1)

        return hook

    def commit(self, documents: Sequence[int] = (0,)) -> None:
        """Make the last pass count; `documents` are those of its batch rows."""
        for layer, (first, weights) in self._pending.items():
            self._closed[layer].append(_Closed(list(documents), first, weights.cpu().numpy()))
        self.discard()

    def arrays(
        self, length: int, documents: np.ndarray, positions: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return each token's weight in its own block and in the next one `[token, layer]`.

        Args:
            length: Rows of the trace; those beyond the documents' and positions' are missing.
            documents: Document of each row.
            positions: Position of each row within its document.
        """
        shape = (length, self._architecture.n_layers)
        own, after = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        places = {
            number: _rows_by_position(documents, positions, number) for number in {*documents}
        }
        for layer, closed in self._closed.items():
            rate, span = (getattr(self._architecture.layers[layer], n) for n in ("rate", "span"))
            for part in closed:
                stops = rate * (part.first + 1 + np.arange(part.weights.shape[1]))
                inside = stops[:, None] - span + np.arange(span)
                for number, weights in zip(part.documents, part.weights, strict=True):
                    rows = places.get(number, np.array([NONE]))
                    # Blocks that only padding completed are no blocks of the document.
                    there = (inside >= 0) & (inside < len(rows)) & (stops[:, None] <= len(rows))
                    at = np.where(there, rows[inside * there], NONE)
                    for values, some in (
                        (after, slice(span - rate)),
                        (own, slice(span - rate, None)),
                    ):
                        kept = at[:, some] != NONE
                        values[at[:, some][kept], layer] = weights[:, some][kept]
        return {"pool_own": own, "pool_next": after}


def _rows_by_position(documents: np.ndarray, positions: np.ndarray, number: int) -> np.ndarray:
    """Return the row of each position of a document, −1 where it has none."""
    mine = np.flatnonzero(documents == number)
    rows = np.full(int(positions[mine].max(initial=-1)) + 1, NONE)
    rows[positions[mine]] = mine
    return rows

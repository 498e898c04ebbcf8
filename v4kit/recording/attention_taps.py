"""Taps on attention and on the indexer: live tensors with the intervals that they speak of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from v4kit.attention import Columns, View, columns, decode
from v4kit.attention.spans import block_code
from v4kit.errors import InputError
from v4kit.recording.taps import Hook


@dataclass(frozen=True, slots=True)
class AttentionEvent:
    """What one layer attended to in one forward pass; tensors are live, not copies."""

    layer: int
    """Layer index."""
    positions: Tensor
    """Positions within the document, integers `[token]`."""
    weights: Tensor
    """Attention weights `[head, token, column]`; what is missing to 1 went to the sink."""
    columns: Columns
    """What the columns stand for; `columns.visible()` tells which of them each token can see."""
    sinks: bool
    """Whether the heads have sinks."""

    @property
    def start(self) -> np.ndarray:
        """First position of each column's interval `[column]`."""
        return self.columns.start

    @property
    def stop(self) -> np.ndarray:
        """End of each column's interval, excluded `[column]`."""
        return self.columns.stop

    @property
    def kind(self) -> np.ndarray:
        """0 for a single token of the window, 1 for a compressed block `[column]`."""
        return self.columns.kind

    @property
    def sink(self) -> Tensor:
        """Share of each head and token that went to no token `[head, token]`, float32."""
        missing = (1 - self.weights.float().sum(-1)).clamp(min=0)
        return missing if self.sinks else torch.zeros_like(missing)


@dataclass(frozen=True, slots=True)
class IndexerEvent:
    """Which blocks one layer's indexer chose in one forward pass; tensors are live."""

    layer: int
    """Layer index."""
    positions: Tensor
    """Positions within the document, integers `[token]`."""
    blocks: Tensor
    """Blocks that were chosen `[token, choice]`, best first; −1 where there was none to choose."""
    scores: Tensor
    """Scores of all blocks `[token, block]`, float32, those not visible yet included."""
    view: View
    """What the layer can see."""

    @property
    def start(self) -> np.ndarray:
        """First position of each block's interval `[block]`."""
        return self._interval()[0]

    @property
    def stop(self) -> np.ndarray:
        """End of each block's interval, excluded `[block]`."""
        return self._interval()[1]

    def _interval(self) -> tuple[np.ndarray, np.ndarray]:
        codes = block_code(np.arange(self.scores.shape[-1]))
        start, stop, _ = decode(codes, self.view.rate, self.view.span)
        return start, stop

    def change(self, *, blocks: Tensor) -> IndexerEvent:
        """Return an event with other blocks, to be returned from a tap.

        Args:
            blocks: Block numbers `[token, choice]` with any number of choices; −1 for none.

        Raises:
            InputError: They are no block numbers, one stands twice, or a token would see a block
                of its future.
        """
        if blocks.ndim != 2 or len(blocks) != len(self.blocks) or blocks.is_floating_point():
            raise InputError(
                f"A tap at layer {self.layer} changed blocks {tuple(self.blocks.shape)} to "
                f"{blocks.dtype} {tuple(blocks.shape)}. Give integers [token, choice], −1 for none."
            )
        ordered = blocks.sort(-1).values
        if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
            raise InputError(
                f"A tap at layer {self.layer} chose a block twice for one token. Give each once; "
                "−1 fills up."
            )
        visible = ((self.positions + 1) // self.view.rate).to(blocks.device)
        if bool(((blocks < -1) | (blocks >= visible.unsqueeze(-1))).any()):
            raise InputError(
                f"A tap at layer {self.layer} chose a block that its token cannot see. Token t "
                f"sees the blocks below (t + 1) // {self.view.rate}; −1 chooses none."
            )
        return replace(self, blocks=blocks.to(self.blocks))


AttentionTap = Callable[[AttentionEvent], object]
IndexerTap = Callable[[IndexerEvent], IndexerEvent | None]


def attention_tap(
    layer: int, view: View, positions: Callable[[], Tensor], tap: AttentionTap, *, sinks: bool
) -> Hook:
    """Return a forward hook that shows a layer's attention to a tap."""

    def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
        if output[1] is None:
            raise InputError(
                f"{type(module).__name__} returned no attention weights. "
                'Load the model with attn_implementation="eager".'
            )
        at = positions()
        seen = columns(view, before=int(at[0]), length=len(at), width=output[1].shape[-1])
        if tap(AttentionEvent(layer, at, output[1][0], seen, sinks)) is not None:
            raise InputError(
                f"An attention tap at layer {layer} returned something, but weights can't be "
                'changed once they were used. Return None; to edit, tap "indexer" or "router".'
            )

    return hook


def indexer_tap(
    layer: int, view: View, indexer: nn.Module, positions: Callable[[], Tensor], tap: IndexerTap
) -> list[tuple[nn.Module, Hook]]:
    """Return forward hooks that show a layer's choice of blocks to a tap and take back its change.

    The scorer's output is caught first, then the indexer's own.
    """
    scores: list[Tensor] = []

    def score(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        scores[:] = [output[0]]

    def choose(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        event = IndexerEvent(layer, positions(), output[0], scores.pop(), view)
        changed = tap(event)
        if changed is None or changed is event:
            return None
        if not isinstance(changed, IndexerEvent):
            raise InputError(
                f"An indexer tap returned {type(changed).__name__}. Return None to look, or "
                "event.change(blocks=…) to edit."
            )
        return torch.unsqueeze(changed.blocks, 0)

    return [(indexer.get_submodule("scorer"), score), (indexer, choose)]

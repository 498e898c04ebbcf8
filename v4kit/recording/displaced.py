"""Records the experts that routers chose and edits put others in the place of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from v4kit.core import NONE
from v4kit.recording.buffers import Rows
from v4kit.recording.taps import Hook


class DisplacedRecorder:
    """Collects what routers chose by themselves, in passes that are edited.

    Its hooks stand before the edits. What was displaced follows from what was used in the end.
    """

    def __init__(self, routers: dict[int, nn.Module]) -> None:
        self._routers = routers
        self._place = {layer: place for place, layer in enumerate(routers)}
        self._pending: dict[int, Tensor] = {}
        self._rows = Rows()
        self._at: list[int] = []
        self._device: torch.device | None = None

    def hooks(self, layers: Sequence[int]) -> list[tuple[nn.Module, Hook]]:
        """Return `(module, hook)` for the routers of layers that are edited in the next pass."""
        return [(self._routers[layer], self._hook(layer)) for layer in layers]

    def _hook(self, layer: int) -> Hook:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._pending[layer] = output[2]

        return hook

    def discard(self) -> None:
        """Forget a pass that did not end."""
        self._pending.clear()

    @torch.no_grad()
    def commit(self, start: int, rows: Tensor | None = None) -> None:
        """Make the last pass count, if it was edited.

        Args:
            start: How many rows were committed before it.
            rows: Which of its rows count, in their order; all if not given.
        """
        if not self._pending:
            return
        first = next(iter(self._pending.values()))
        # Which layers are edited may change; where rows are kept may not.
        self._device = self._device or first.device
        shape = (len(first), len(self._routers), first.shape[1])
        own = first.new_full(shape, NONE, device=self._device)
        for layer, experts in self._pending.items():
            own[:, self._place[layer]] = experts.to(own.device)
        if rows is not None:
            own = own[rows.to(own.device)]
        self._rows.append({"own": own.to(torch.int16)}, len(self._at))
        self._at += range(start, start + len(own))
        self.discard()

    def arrays(self, experts: np.ndarray) -> dict[str, np.ndarray]:
        """Return the variable `displaced`; nothing if no pass was edited.

        Args:
            experts: What was used `[token, layer, slot]`, as the trace has it.
        """
        if not self._at:
            return {}
        whole = np.full(experts.shape, NONE, np.int16)
        at = np.array(self._at)
        kept = at < len(experts)
        layers = list(self._place)
        own, at = self._rows.arrays()["own"][: len(at)][kept], at[kept]
        used = experts[at][:, layers]
        stays = (own[..., :, None] == used[..., None, :]).any(-1)
        # Rows that do not count any more have no experts at all.
        gone = np.where(stays | (used == NONE).all(-1, keepdims=True), NONE, own)
        # Beside experts that came in, one each; which came for which is nobody's to say.
        order = np.argsort(gone == NONE, axis=-1, kind="stable")
        listed = np.take_along_axis(gone, order, axis=-1)
        came = ~(used[..., :, None] == own[..., None, :]).any(-1) & (used != NONE)
        place = np.maximum(came.cumsum(axis=-1) - 1, 0)
        beside = np.where(came, np.take_along_axis(listed, place, axis=-1), NONE)
        whole[at[:, None], layers] = beside
        return {"displaced": whole}

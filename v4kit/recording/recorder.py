"""Records the routing of forward passes, layer by layer index, on each router's own device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from v4kit.arch import Architecture, Family
from v4kit.core import HASH, Record
from v4kit.recording.buffers import Rows
from v4kit.recording.reduce import reduce_routing
from v4kit.recording.taps import Hook
from v4kit.trace.schema import BY_NAME

_AT_ONCE = 1_024
"""Tokens up to which a pass's layers are reduced together: cheaper, but keeps all logits."""


class RoutingRecorder:
    """Collects what routers return; a pass counts once `commit` is called after it.

    The hooks keep references only. What is stored is computed once per pass for all layers of a
    device together, so that recording adds a handful of operations, not a handful per layer.
    """

    def __init__(
        self,
        routers: dict[int, nn.Module],
        family: Family,
        architecture: Architecture,
        record: Record,
    ) -> None:
        self._routers = routers
        self._family = family
        self._architecture = architecture
        self._record = record
        self._pending: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._reduced: dict[int, dict[str, Tensor]] = {}
        self._groups: dict[tuple[int, ...], Rows] = {}
        self._bias: dict[int, np.ndarray] = {}

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """Return `(module, hook)` for every router; attach them after all that may edit."""
        return [(router, self._hook(layer)) for layer, router in self._routers.items()]

    def _hook(self, layer: int) -> Hook:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._pending[layer] = output
            if len(output[0]) > _AT_ONCE:
                self._reduced[layer] = {
                    name: value.clone() for name, value in self._reduce([layer]).items()
                }
                del self._pending[layer]

        return hook

    def discard(self) -> None:
        """Forget a pass that did not end."""
        self._pending.clear()
        self._reduced.clear()

    def commit(self, rows: Tensor | None = None) -> None:
        """Make the last pass count: all its tokens, or those of `rows` in that order."""
        for layers in self._by_device():
            values = self._joined(layers) if self._reduced else self._reduce(list(layers))
            if rows is not None:
                values = {name: value[rows.to(value.device)] for name, value in values.items()}
            self._groups.setdefault(layers, Rows()).append(values)
        self.discard()

    def _by_device(self) -> list[tuple[int, ...]]:
        """Return the layers of the last pass, grouped by the device they are on."""
        on = {layer: output[0].device for layer, output in self._pending.items()}
        on |= {layer: values["experts"].device for layer, values in self._reduced.items()}
        devices: dict[torch.device, list[int]] = {}
        for layer in sorted(on):
            devices.setdefault(on[layer], []).append(layer)
        return [tuple(layers) for layers in devices.values()]

    def _joined(self, layers: tuple[int, ...]) -> dict[str, Tensor]:
        """Return what was reduced layer by layer, as one reduction of all layers would be."""
        parts = [self._reduced[layer] for layer in layers]
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    @torch.no_grad()
    def _reduce(self, layers: list[int]) -> dict[str, Tensor]:
        logits, weights, experts = (
            torch.stack([self._pending[layer][part] for layer in layers]) for part in range(3)
        )
        kinds = [self._architecture.layers[layer].routing != HASH for layer in layers]
        return reduce_routing(
            logits,
            weights,
            experts,
            bias=torch.stack([self._layer_bias(layer, logits) for layer in layers]),
            ranked=torch.tensor(kinds, device=logits.device),
            scoring=self._family.scoring,
            routing=self._record.routing,
        )

    def _layer_bias(self, layer: int, logits: Tensor) -> Tensor:
        """Return the selection bias `[expert]`; it is a buffer, so it is real under offload too."""
        name = self._family.bias
        bias: Tensor | None = getattr(self._routers[layer], name, None) if name else None
        if bias is None:
            return logits.new_zeros(logits.shape[-1])
        if layer not in self._bias:
            self._bias[layer] = bias.detach().float().cpu().numpy()
        return bias.detach().to(logits.device)

    def last(self, name: str = "experts") -> np.ndarray:
        """Return the last committed row `[layer, …]` of a variable; −1 or NaN without router."""
        sample = {layers: rows.last(name) for layers, rows in self._groups.items()}
        row: np.ndarray = self._spread(name, {k: v[None] for k, v in sample.items()}, 1)[0]
        return row

    def arrays(self, length: int) -> dict[str, np.ndarray]:
        """Return the variables `[token, layer, …]` over `length` rows, missing ones filled."""
        groups = {layers: rows.arrays() for layers, rows in self._groups.items()}
        arrays = {
            name: self._spread(name, {k: g[name] for k, g in groups.items()}, length)
            for name in self._names()
        }
        if self._family.bias:
            shape = (self._architecture.n_layers, self._architecture.n_experts)
            arrays["bias"] = np.full(shape, np.nan, np.float32)
            for layer, bias in self._bias.items():
                arrays["bias"][layer] = bias
        return arrays

    def _names(self) -> list[str]:
        scores = ["scores", "margin", "runner_up", "bias_flips"]
        kept = {"ids": [], "scores": scores, "full": [*scores, "router_scores"]}
        return ["experts", "weights", *kept[self._record.routing]]

    def _spread(
        self, name: str, groups: dict[tuple[int, ...], np.ndarray], length: int
    ) -> np.ndarray:
        """Return one array over all layers of values by groups of layers."""
        sizes = {
            "layer": self._architecture.n_layers,
            "slot": self._architecture.top_k,
            "expert": self._architecture.n_experts,
        }
        variable = BY_NAME[name]
        shape = (length, *(sizes[dim] for dim in variable.dims[1:]))
        whole = np.full(shape, variable.missing, dtype=variable.dtype)
        for layers, values in groups.items():
            whole[: len(values), list(layers)] = values[:length]
        return whole

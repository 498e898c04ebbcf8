"""Records the routing of forward passes, layer by layer index, on each router's own device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from v4kit.arch import Architecture, Family
from v4kit.core import HASH, Record
from v4kit.errors import UnsupportedModel
from v4kit.recording.buffers import Rows
from v4kit.recording.reduce import reduce_routing
from v4kit.recording.routers import selection_bias
from v4kit.recording.taps import Hook
from v4kit.trace.schema import BY_NAME

_AT_ONCE = 1_024
"""Tokens up to which a pass's layers are reduced together: cheaper, but keeps all logits."""
_TOGETHER = 64
"""Tokens that short passes wait for: to reduce a single one costs as much as to reduce them all."""


class RoutingRecorder:
    """Collects what routers return; a pass counts once `commit` is called after it.

    The hooks keep references only, and `commit` copies. What is stored is computed for all layers
    of a device and for many short passes together, so that recording a decoded token adds a handful
    of operations, not a handful per layer.
    """

    def __init__(
        self,
        hf_model: Any,
        routers: dict[int, nn.Module],
        family: Family,
        architecture: Architecture,
        record: Record,
    ) -> None:
        self._decoder: Any = hf_model.get_submodule(family.layers)
        self._routers = routers
        self._family = family
        self._architecture = architecture
        self._record = record
        self._pending: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._reduced: dict[int, dict[str, Tensor]] = {}
        self._waiting: dict[tuple[int, ...], tuple[int, list[list[Tensor]]]] = {}
        self._groups: dict[tuple[int, ...], Rows] = {}
        self._bias: dict[int, np.ndarray] = {}
        self._committed = 0

    def __len__(self) -> int:
        """How many rows count."""
        return self._committed

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """Return `(module, hook)` for every router; attach them after all that may edit."""
        return [(router, self._hook(layer)) for layer, router in self._routers.items()]

    def _hook(self, layer: int) -> Hook:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._pending[layer] = output
            if len(output[0]) > _AT_ONCE:
                values = self._reduce((layer,), self._raw((layer,)))
                self._reduced[layer] = {name: value.clone() for name, value in values.items()}
                del self._pending[layer]

        return hook

    def discard(self) -> None:
        """Forget a pass that did not end."""
        self._pending.clear()
        self._reduced.clear()

    def commit(self, rows: Tensor | None = None) -> None:
        """Make the last pass count: all its tokens, or those of `rows` in that order.

        Raises:
            UnsupportedModel: A router was not asked, so its layer's experts are not known.
        """
        silent = sorted(self._routers.keys() - self._pending.keys() - self._reduced.keys())
        if silent:
            raise UnsupportedModel(
                f"The router of layer {silent[0]} was not called in this forward pass, so the "
                "experts that were used are not known. Kernels for quantized experts can do "
                "without the router: load the model dequantized."
            )
        if self._reduced:
            self._settle()
        some = next(iter(self._reduced.values()))["experts"] if self._reduced else None
        tokens = len(next(iter(self._pending.values()))[2]) if some is None else len(some)
        for layers in self._by_device():
            if self._reduced:
                values = self._joined(layers)
                if rows is not None:
                    values = {name: value[rows.to(value.device)] for name, value in values.items()}
                self._groups.setdefault(layers, Rows()).append(values)
            else:
                self._wait(layers, rows)
        self._committed += tokens if rows is None else len(rows)
        self.discard()

    @torch.no_grad()
    def _wait(self, layers: tuple[int, ...], rows: Tensor | None) -> None:
        """Keep a copy of what the routers of a pass returned until enough tokens are there."""
        raw = self._raw(layers)
        if rows is not None:
            raw = [part[:, rows.to(part.device)] for part in raw]
        start = len(self._groups.setdefault(layers, Rows()))
        _, passes = self._waiting.setdefault(layers, (start, []))
        passes.append(raw)
        if sum(part[0].shape[1] for part in passes) >= _TOGETHER:
            self._settle()

    @torch.no_grad()
    def _settle(self) -> None:
        """Reduce what waits; interrupted, it waits on, and is written to the same rows again."""
        for layers, (start, passes) in list(self._waiting.items()):
            raw = passes[0]
            if len(passes) > 1:
                raw = [torch.cat(parts, dim=1) for parts in zip(*passes, strict=True)]
            self._groups[layers].append(self._reduce(layers, raw), start)
            del self._waiting[layers]

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

    def _raw(self, layers: tuple[int, ...]) -> list[Tensor]:
        """Return copies of logits, weights, experts and biases of the last pass, layers first."""
        outputs = [self._pending[layer] for layer in layers]
        raw = [torch.stack(parts) for parts in zip(*outputs, strict=True)]
        bias = torch.stack([self._layer_bias(layer, raw[0]) for layer in layers])
        return [*raw, bias.unsqueeze(1).expand(-1, raw[0].shape[1], -1)]

    @torch.no_grad()
    def _reduce(
        self, layers: tuple[int, ...], raw: list[Tensor], *, routing: str | None = None
    ) -> dict[str, Tensor]:
        logits, weights, experts, bias = raw
        kinds = [self._architecture.layers[layer].routing != HASH for layer in layers]
        return reduce_routing(
            logits,
            weights,
            experts,
            bias=bias,
            ranked=torch.tensor(kinds, device=logits.device),
            scoring=self._family.scoring,
            architecture=self._architecture,
            routing=routing or self._record.routing,
        )

    def _layer_bias(self, layer: int, logits: Tensor) -> Tensor:
        """Return the selection bias `[expert]`; it is a buffer, so it is real under offload too."""
        bias = selection_bias(self._decoder[layer], self._family)
        if bias is None:
            return logits.new_zeros(logits.shape[-1])
        if layer not in self._bias:
            self._bias[layer] = bias.detach().float().cpu().numpy()
        return bias.detach().to(logits.device)

    def last(self) -> tuple[np.ndarray, np.ndarray]:
        """Return experts and weights of the last committed row, both `[layer, slot]`.

        They are −1 and NaN without a router. What waits to be stored waits on.
        """
        found = {layers: self._last_of(layers) for layers in self._groups}
        experts, weights = (
            self._spread(name, {layers: row[name] for layers, row in found.items()}, 1)[0]
            for name in ("experts", "weights")
        )
        return experts, weights

    def _last_of(self, layers: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return experts and weights of the last row in some layers, both `[1, layer, slot]`."""
        if layers not in self._waiting:
            rows = self._groups[layers]
            return {name: rows.last(name)[None] for name in ("experts", "weights")}
        _, passes = self._waiting[layers]
        row = self._reduce(layers, [part[:, -1:] for part in passes[-1]], routing="ids")
        return {name: value.cpu().numpy() for name, value in row.items()}

    def arrays(self, length: int, *, completed: int | None = None) -> dict[str, np.ndarray]:
        """Return the variables `[token, layer, …]` over `length` rows, missing ones filled.

        Rows from `completed` on are missing too: an interrupt may come when some of a pass is
        stored already and the pass does not count yet.
        """
        self._settle()
        groups = {
            layers: {name: array[:completed] for name, array in rows.arrays().items()}
            for layers, rows in self._groups.items()
        }
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

"""Records how large the outputs of experts are, without changing what the model computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from v4kit.arch import Architecture, Family
from v4kit.core import NONE
from v4kit.errors import UnsupportedModel
from v4kit.recording.buffers import Rows
from v4kit.recording.taps import Hook

_PER_SLOT, _PER_LAYER = ("output_norm", "output_max"), ("routed_norm", "shared_norm")
_TOGETHER = 64
"""Tokens that short passes wait for, to be stored together."""
_AT_ONCE = 1_024
"""Tokens whose experts are asked at once: each has an output per slot, held only to measure it."""
_FEW = 16
"""Tokens of a pass up to which experts are asked later, for many passes together: to read the
weights of an expert once more for a single token costs as much as using it did."""


def each_expert(experts: nn.Module, hidden: Tensor, ids: Tensor) -> Tensor:
    """Return what each used expert puts out, before its weight `[token, slot, hidden]`.

    The experts' own forward is called once more, with one row for each token and slot: what that
    computes is theirs, whatever kernels and precision they have. Experts that are fused into one
    tensor show only the weighted sum otherwise.

    Args:
        experts: The module of a layer's routed experts.
        hidden: Its inputs `[token, hidden]`.
        ids: The experts used `[token, slot]`.
    """
    rows, chosen = hidden.repeat_interleave(ids.shape[-1], dim=0), ids.reshape(-1, 1)
    ones = torch.ones(chosen.shape, dtype=hidden.dtype, device=hidden.device)
    outputs: Tensor = experts.forward(rows, chosen, ones)
    return outputs.view(*ids.shape, hidden.shape[-1])


_Seen = dict[str, Tensor]
"""What one layer did in one pass, by variable name, in the router's slots."""


class OutputRecorder:
    """Collects norms of outputs; a pass counts once `commit` is called after it.

    Raises:
        UnsupportedModel: A layer has no module of experts where the table says.
    """

    def __init__(self, hf_model: Any, family: Family, architecture: Architecture) -> None:
        decoder = hf_model.get_submodule(family.layers)
        self._experts: dict[int, nn.Module] = {}
        self._shared: dict[int, nn.Module] = {}
        for layer in architecture.routed:
            try:
                self._experts[layer] = decoder[layer].get_submodule(family.expert_block)
            except AttributeError as error:
                raise UnsupportedModel(
                    f"Layer {layer} of this {family.model_type} model has no experts at "
                    f"{family.expert_block}, so their outputs can't be recorded. "
                    "Record without them: Record(outputs=False)."
                ) from error
            if architecture.n_shared:
                self._shared[layer] = decoder[layer].get_submodule(family.shared_block)
        self._pending: dict[int, _Seen] = {}
        self._waiting: list[dict[int, _Seen]] = []
        self._rows: dict[int, Rows] = {layer: Rows() for layer in self._experts}
        self._settled = 0

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """Return `(module, hook)` for the experts of every layer."""
        routed = [(module, self._hook(layer)) for layer, module in self._experts.items()]
        return routed + [(module, self._beside(layer)) for layer, module in self._shared.items()]

    def _hook(self, layer: int) -> Hook:
        @torch.no_grad()
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            hidden, ids, _ = inputs
            routed = _norms(output)
            shared = torch.full_like(routed, torch.nan)
            seen = {"ids": ids, "routed_norm": routed, "shared_norm": shared}
            if len(ids) <= _FEW and not _offloaded(module):
                seen["hidden"] = hidden.clone()
            else:
                seen |= _measured(module, hidden, ids)
            self._pending[layer] = seen

        return hook

    def _beside(self, layer: int) -> Hook:
        @torch.no_grad()
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._pending[layer]["shared_norm"] = _norms(output)

        return hook

    def discard(self) -> None:
        """Forget a pass that did not end."""
        self._pending.clear()

    def commit(self, rows: Tensor | None = None) -> None:
        """Make the last pass count: all its tokens, or those of `rows` in that order."""
        if self._pending.keys() != self._experts.keys():
            silent = min(self._experts.keys() - self._pending.keys())
            raise UnsupportedModel(
                f"The experts of layer {silent} were not called in this forward pass, so their "
                "outputs are not known. Record without them: Record(outputs=False)."
            )
        seen = dict(self._pending)
        if rows is not None:
            seen = {
                layer: {name: value[rows.to(value.device)] for name, value in values.items()}
                for layer, values in seen.items()
            }
        self._waiting.append(seen)
        if sum(len(next(iter(one.values()))["ids"]) for one in self._waiting) >= _TOGETHER:
            self._settle()
        self.discard()

    @torch.no_grad()
    def _settle(self) -> None:
        """Store what waits; interrupted, it waits on, and is written to the same rows again."""
        for layer, rows in self._rows.items():
            parts = _all_measured(self._experts[layer], [seen[layer] for seen in self._waiting])
            if parts:
                values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
                rows.append(values, self._settled)
        self._settled, self._waiting = max(map(len, self._rows.values()), default=0), []

    def arrays(self, experts: np.ndarray, completed: int | None = None) -> dict[str, np.ndarray]:
        """Return the variables `[token, layer, …]`, in the slots of what was recorded of routing.

        Args:
            experts: The experts `[token, layer, slot]` as the trace has them.
            completed: Rows that count; None: all that were committed.
        """
        self._settle()
        shape = experts.shape
        arrays = {name: np.full(shape, np.nan, np.float32) for name in _PER_SLOT}
        arrays |= {name: np.full(shape[:2], np.nan, np.float32) for name in _PER_LAYER}
        for layer, rows in self._rows.items():
            if not len(rows):
                continue
            found = {name: value[:completed] for name, value in rows.arrays().items()}
            ids = found.pop("ids")
            # The router's slots have no order; the trace's do.
            place = (experts[: len(ids), layer, :, None] == ids[:, None, :]).argmax(axis=2)
            for name, value in found.items():
                ordered = np.take_along_axis(value, place, axis=1) if value.ndim == 2 else value
                arrays[name][: len(ids), layer] = ordered
            missing = experts[:, layer] == NONE
            for name in _PER_SLOT:
                arrays[name][:, layer][missing] = np.nan
        return arrays


def _offloaded(module: nn.Module) -> bool:
    """Whether a module's weights come and go with its calls, which must not cross each other."""
    return hasattr(module, "_hf_hook") or any(p.is_meta for p in module.parameters())


def _all_measured(experts: nn.Module, parts: list[_Seen]) -> list[_Seen]:
    """Return what passes did, with the experts of those asked that were not asked in the pass."""
    later = [part for part in parts if "hidden" in part]
    if not later:
        return parts
    hidden, ids = (torch.cat([part[name] for part in later]) for name in ("hidden", "ids"))
    with torch.inference_mode():
        found = _measured(experts, hidden, ids)
    pieces, start = [], 0
    for part in parts:
        if "hidden" not in part:
            pieces.append(part)
            continue
        kept = {name: value for name, value in part.items() if name != "hidden"}
        rows = slice(start, start + len(part["ids"]))
        pieces.append(kept | {name: value[rows] for name, value in found.items()})
        start = rows.stop
    return pieces


def _measured(experts: nn.Module, hidden: Tensor, ids: Tensor) -> _Seen:
    """Return `output_norm` and `output_max` `[token, slot]`, asked for in pieces."""
    sizes = [
        _sizes(each_expert(experts, *part))
        for part in zip(torch.split(hidden, _AT_ONCE), torch.split(ids, _AT_ONCE), strict=True)
    ]
    norms, largest = (torch.cat(found) for found in zip(*sizes, strict=True))
    return {"output_norm": norms, "output_max": largest}


def _sizes(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return norms and largest magnitudes `[token, slot]` of outputs `[token, slot, hidden]`."""
    whole = outputs.float()
    return torch.linalg.vector_norm(whole, dim=-1), whole.abs().amax(-1)


def _norms(output: Tensor) -> Tensor:
    """Return the norms `[token]` of outputs `[…, hidden]`."""
    norms: Tensor = torch.linalg.vector_norm(output.float(), dim=-1)
    return norms.reshape(-1)

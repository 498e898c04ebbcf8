"""What each block of a model adds to the state of one token, caught in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from v4kit.engines import Model
from v4kit.recording import StreamRecorder, alphas, each_expert

EMBEDDING, ATTENTION, EXPERT, SHARED, DENSE_BLOCK = (
    "embedding",
    "attention",
    "expert",
    "shared",
    "dense",
)
_Hooks = list[tuple[nn.Module, Any]]


@dataclass(frozen=True, slots=True)
class Written:
    """One vector that was added to a token's state."""

    part: str
    """ "embedding", "attention", "expert", "shared" or "dense"."""
    layer: int
    """Layer index; −1 for the embedding."""
    slot: int
    """The router's slot of an expert; −1 for all others."""
    expert: int
    """Id of an expert; −1 for all others."""
    vector: Tensor
    """The vector `[hidden]` as it is in the final state, float64 on the CPU."""


@dataclass(frozen=True, slots=True)
class State:
    """The state that a token's logits are read from, and what it is made of."""

    final: Tensor
    """The state before the final norm `[hidden]`, float64."""
    logits: Tensor
    """The model's logits `[vocabulary]`, float64."""
    written: list[Written]
    """Its summands."""
    dtype: torch.dtype
    """What the model computed the state in."""


class _Catcher:
    """Keeps what the blocks did to the last token of a pass."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._decoder: Any = model.hf.get_submodule(model.family.layers)
        self._streams: StreamRecorder | None = None
        if model.family.mixing is not None:
            self._streams = StreamRecorder(model.hf, model.family, model.architecture)
        self.kept: dict[tuple[str, int], Any] = {}

    def hooks(self) -> _Hooks:
        family, hooks = self._model.family, list[tuple[nn.Module, Any]]()
        for layer, module in enumerate(self._decoder):
            hooks.append((module.get_submodule(family.attention), self._last(ATTENTION, layer)))
            if layer not in self._model.routers:
                block = module.get_submodule(family.expert_block.rpartition(".")[0])
                hooks.append((block, self._last(DENSE_BLOCK, layer)))
                continue
            hooks.append((module.get_submodule(family.expert_block), self._experts(layer)))
            if self._model.architecture.n_shared:
                hooks.append((module.get_submodule(family.shared_block), self._last(SHARED, layer)))
        hooks.append((self._model.hf.get_input_embeddings(), self._last(EMBEDDING, -1)))
        hooks.append((final_norm(self._model), self._before_norm))
        return hooks + (list(self._streams.hooks()) if self._streams else [])

    def _last(self, part: str, layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            whole = output[0] if isinstance(output, tuple) else output
            self.kept[part, layer] = whole.flatten(0, -2)[-1]

        return hook

    def _experts(self, layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any, _output: Any) -> None:
            hidden, ids, weights = (given[-1:] for given in inputs)
            each = each_expert(module, hidden, ids)[0].double() * weights[0, :, None].double()
            self.kept[EXPERT, layer] = (ids[0].tolist(), each.cpu())

        return hook

    def _before_norm(self, _module: nn.Module, inputs: Any, _output: Any) -> None:
        self.kept["final", -1] = inputs[0].flatten(0, -2)[-1]

    def factors(self) -> tuple[list[float], float]:
        """Return the factor of each block, and of the embedding: 1 where there is one stream."""
        if self._streams is None:
            return [1.0] * (2 * len(self._decoder)), 1.0
        post, comb, head = self._streams.last()
        blocks, embedding = alphas(post[:, -1:].double(), comb[:, -1:].double(), head[-1:].double())
        return blocks[:, 0].tolist(), float(embedding[0])


def state_of(model: Model, ids: list[int], chunk: int, prompt: int | None) -> State:
    """Return the state of the last of some tokens, in one reading of them all.

    Args:
        model: The model.
        ids: The tokens.
        chunk: How many are read at once.
        prompt: How many of them count as the prompt for edits; None: all.
    """
    catcher, cache, start = _Catcher(model), None, 0
    while len(ids) - start > chunk:
        _, cache = model.forward(ids[start : start + chunk], start, cache, [], prompt=prompt)
        start += chunk
    logits, _ = model.forward(ids[start:], start, cache, catcher.hooks(), prompt=prompt)
    blocks, embedding = catcher.factors()
    written = []
    for (part, layer), found in catcher.kept.items():
        if part == "final":
            continue
        factor = embedding
        if part != EMBEDDING:
            factor = blocks[2 * layer + (part != ATTENTION)]
        if part == EXPERT:
            ids_of, each = found
            written += [
                Written(part, layer, slot, expert, factor * vector)
                for slot, (expert, vector) in enumerate(zip(ids_of, each, strict=True))
            ]
        else:
            written.append(Written(part, layer, -1, -1, factor * found.double().cpu()))
    # In the order in which they are added.
    order = {EMBEDDING: 0, ATTENTION: 1, EXPERT: 2, DENSE_BLOCK: 2, SHARED: 3}
    written.sort(key=lambda one: (one.layer, order[one.part], one.slot))
    final = catcher.kept["final", -1]
    logit = logits[-1].double().cpu()
    return State(final.double().cpu(), logit, written, final.dtype)


def final_norm(model: Model) -> Any:
    """Return the norm before the head."""
    path = model.family.layers.rpartition(".")[0]
    return model.hf.get_submodule(f"{path}.norm")


@torch.no_grad()
def directions(model: Model, ids: list[int], final: Tensor) -> Tensor:
    """Return what a state is multiplied with to give the logits of some ids `[id, hidden]`.

    The final norm divides by the state's root mean square, which is taken as it is: what a block
    changes by changing that divisor is not counted.
    """
    norm, head = final_norm(model), model.hf.get_output_embeddings()
    # Offloaded parameters come in for this.
    with align_module_device(norm), align_module_device(head):
        gamma = norm.weight.double().cpu()
        rows = head.weight[torch.tensor(ids, device=head.weight.device)].double().cpu()
    scale = (final.square().mean() + norm.variance_epsilon).rsqrt()
    toward: Tensor = rows * gamma * scale
    return toward

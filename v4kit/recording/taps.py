"""Hooks by kind: your function sees the live tensors of a layer, and may change them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from v4kit.errors import InputError
from v4kit.recording.routers import SCORING

Hook = Callable[[nn.Module, Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Before:
    """Marks a hook that is to be called before its module, with positional and named inputs."""

    hook: Hook
    """The hook."""


@dataclass(frozen=True, slots=True)
class RouterEvent:
    """What one layer's router did in one forward pass; tensors are live, not copies."""

    layer: int
    """Layer index."""
    positions: Tensor
    """Positions within the document, integers `[token]`."""
    logits: Tensor
    """Router logits `[token, expert]`."""
    weights: Tensor
    """Factors on the experts' outputs `[token, slot]`, in the router's own slot order."""
    experts: Tensor
    """Expert ids `[token, slot]`, in the router's own slot order."""
    scoring: str
    """How the family turns logits into scores."""

    @property
    def scores(self) -> Tensor:
        """Unbiased affinities `[token, expert]`."""
        return SCORING[self.scoring](self.logits)

    def change(
        self, *, experts: Tensor | None = None, weights: Tensor | None = None
    ) -> RouterEvent:
        """Return an event with other experts or weights, to be returned from a tap.

        Raises:
            InputError: A shape differs from what the router returned.
        """
        new = replace(
            self,
            experts=self.experts if experts is None else experts.to(self.experts.dtype),
            weights=self.weights if weights is None else weights.to(self.weights.dtype),
        )
        if new.experts.shape != self.experts.shape or new.weights.shape != self.weights.shape:
            raise InputError(
                f"A tap at layer {self.layer} changed [token, slot] = {tuple(self.experts.shape)} "
                f"to experts {tuple(new.experts.shape)} and weights {tuple(new.weights.shape)}. "
                "Keep the shape; a weight of 0 switches an expert off."
            )
        return new


Tap = Callable[[RouterEvent], RouterEvent | None]


def router_tap(layer: int, scoring: str, positions: Callable[[], Tensor], tap: Tap) -> Hook:
    """Return a forward hook that shows a router's output to a tap and takes back its change."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        logits, weights, experts = output
        event = RouterEvent(layer, positions(), logits, weights, experts, scoring)
        changed = tap(event)
        if changed is None or changed is event:
            return None
        if not isinstance(changed, RouterEvent):
            raise InputError(
                f"A router tap returned {type(changed).__name__}. Return None to look, or "
                "event.change(experts=…, weights=…) to edit."
            )
        _check_experts(changed)
        return logits, changed.weights, changed.experts

    return hook


def _check_experts(event: RouterEvent) -> None:
    """Refuse ids that no expert has; on a GPU they would end the process's use of it."""
    lowest, highest = (int(bound) for bound in event.experts.aminmax())
    if lowest < 0 or highest >= event.logits.shape[-1]:
        raise InputError(
            f"A tap at layer {event.layer} changed experts to ids from {lowest} to {highest}; "
            f"they lie in 0 … {event.logits.shape[-1] - 1}. A weight of 0 switches an expert off."
        )


@contextlib.contextmanager
def attached(hooks: Sequence[tuple[nn.Module, Hook | Before]]) -> Iterator[None]:
    """Hold hooks for as long as the block runs, and take them off however it ends."""
    handles: list[RemovableHandle] = []
    try:
        for module, hook in hooks:
            if isinstance(hook, Before):
                handles.append(module.register_forward_pre_hook(hook.hook, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Gates in float32: DeepSeek's own code computes them so, transformers in the model's dtype.

In bfloat16 some 6 to 10 % of tokens get another set of experts. The parameter itself is left alone:
casting it would break offloading and change what is saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


class _Float32View:
    """A router seen with its weight and bias in float32; everything else is the router's own."""

    def __init__(self, router: nn.Module) -> None:
        self._router = router

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    @property
    def weight(self) -> Tensor:
        return self._router.get_parameter("weight").float()

    @property
    def bias(self) -> Tensor:
        return self._router.get_parameter("bias").float()


def run_in_float32(routers: Iterable[nn.Module]) -> None:
    """Let every router compute in float32 from now on.

    accelerate wraps `forward` and keeps the original as `_old_forward`; the change goes inside its
    wrapper, where an offloaded weight is in place. A bound method follows its router into a deep
    copy of the model, where a closure would stay behind.
    """
    for router in routers:
        inner = "_old_forward" if hasattr(router, "_hf_hook") else "forward"
        setattr(router, inner, MethodType(_forward, router))


def gate_dtype(routers: Iterable[nn.Module]) -> str:
    """Return the dtype that gates compute in: "float32", or their own."""
    return "/".join(sorted({_dtype(router) for router in routers}))


def _dtype(router: nn.Module) -> str:
    methods = (vars(router).get(name) for name in ("forward", "_old_forward"))
    if any(getattr(method, "__func__", None) is _forward for method in methods):
        return "float32"
    return str(router.weight.dtype).removeprefix("torch.")


def _forward(router: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    # Under autocast a float32 product would be taken back down.
    with torch.autocast(hidden_states.device.type, enabled=False):
        compute: Any = type(router).forward
        return compute(_Float32View(router), hidden_states.float(), *args, **kwargs)

"""What a trace says about where it came from."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from torch import nn

from v4kit.arch import Architecture
from v4kit.models.gates import gate_dtype


def architecture_meta(architecture: Architecture) -> dict[str, Any]:
    """Return the architecture as JSON data."""
    return {
        "family": architecture.family,
        "n_experts": architecture.n_experts,
        "top_k": architecture.top_k,
        "n_shared": architecture.n_shared,
        "weight_sum": architecture.weight_sum,
        "n_groups": architecture.n_groups,
        "top_groups": architecture.top_groups,
        "vocabulary": architecture.vocabulary,
        "context": architecture.context,
        "heads": architecture.heads,
        "sinks": architecture.sinks,
        "layers": [
            {
                "routing": layer.routing,
                "attention": layer.attention,
                "window": layer.window,
                "rate": layer.rate,
                "span": layer.span,
            }
            for layer in architecture.layers
        ],
    }


def trace_meta(
    hf: Any,
    architecture: Architecture,
    routers: dict[int, nn.Module],
    *,
    name: str,
    revision: str | None = None,
) -> dict[str, Any]:
    """Return the meta that all traces of a model share."""
    return {
        "model": name,
        "revision": revision,
        "engine": "transformers",
        "dtype": str(hf.dtype).removeprefix("torch."),
        "router_dtype": gate_dtype(routers.values()),
        "ranked": True,
        "architecture": architecture_meta(architecture),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers")},
        },
    }


def model_name(hf: Any) -> str:
    """Return what a transformers model calls itself: its source, else its class."""
    return getattr(hf.config, "_name_or_path", "") or type(hf).__name__

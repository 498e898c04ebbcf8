"""What a trace says about where it came from."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from v4kit.arch import Architecture


def architecture_meta(architecture: Architecture) -> dict[str, Any]:
    """Return the architecture as JSON data."""
    return {
        "family": architecture.family,
        "n_experts": architecture.n_experts,
        "top_k": architecture.top_k,
        "n_shared": architecture.n_shared,
        "weight_sum": architecture.weight_sum,
        "vocabulary": architecture.vocabulary,
        "context": architecture.context,
        "layers": [
            {"routing": layer.routing, "attention": layer.attention}
            for layer in architecture.layers
        ],
    }


def trace_meta(
    hf: Any, architecture: Architecture, *, name: str, revision: str | None, router_dtype: str
) -> dict[str, Any]:
    """Return the meta that all traces of a model share; `router_dtype` may be "native"."""
    dtype = str(hf.dtype).removeprefix("torch.")
    return {
        "model": name,
        "revision": revision,
        "engine": "transformers",
        "dtype": dtype,
        "router_dtype": dtype if router_dtype == "native" else router_dtype,
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

"""Traces made of random numbers, and what it means for two of them to be equal."""

import numpy as np
import pandas as pd
import xarray as xr
from hypothesis import strategies as st

from v4kit.trace import Trace, make_trace

LEVELS = {
    "ids": ("experts", "weights"),
    "scores": ("experts", "weights", "scores", "margin", "runner_up", "bias_flips"),
    "full": (
        "experts",
        "weights",
        "scores",
        "margin",
        "runner_up",
        "bias_flips",
        "router_scores",
        "bias",
    ),
}
"""Variables that each level of `Record.routing` leaves."""


def sample(
    rows: int = 20,
    *,
    routing: str = "full",
    layers: int = 3,
    n_experts: int = 8,
    top_k: int = 2,
    seed: int = 0,
    texts: list[str] | None = None,
    labels: list[str] | None = None,
    **meta: object,
) -> Trace:
    """A trace with every field filled; its last row is empty, as a sampled token's is."""
    rng = np.random.default_rng(seed)
    sizes = {"token": rows, "layer": layers, "slot": top_k, "expert": n_experts}
    shapes = {
        "experts": ("token", "layer", "slot"),
        "weights": ("token", "layer", "slot"),
        "scores": ("token", "layer", "slot"),
        "margin": ("token", "layer"),
        "runner_up": ("token", "layer"),
        "bias_flips": ("token", "layer"),
        "router_scores": ("token", "layer", "expert"),
        "bias": ("layer", "expert"),
    }
    arrays = {}
    for name in LEVELS[routing]:
        shape = tuple(sizes[axis] for axis in shapes[name])
        if name in ("experts", "runner_up"):
            arrays[name] = rng.integers(0, n_experts, shape, dtype=np.int16)
        elif name == "bias_flips":
            arrays[name] = rng.integers(0, top_k, shape, dtype=np.int16)
        else:
            arrays[name] = rng.random(shape, dtype=np.float32)
        if rows and name != "bias":
            arrays[name][-1] = -1 if arrays[name].dtype.kind == "i" else np.nan
        if rows > 1 and name == "margin":
            arrays[name][0, 0] = np.nan
    document = np.sort(rng.integers(0, 3, rows))
    columns = {
        "id": rng.integers(0, 1000, rows),
        "text": texts if texts is not None else [f"t{i} " for i in range(rows)],
        "position": np.arange(rows),
        "document": document,
        "label": labels if labels is not None else [f"label {d}" for d in document],
        "role": rng.choice(["user", "answer", "text"], rows),
        "phase": rng.choice(["prompt", "generated"], rows),
        "special": rng.random(rows) < 0.2,
        "valid": np.arange(rows) < rows - 1,
        "logprob": np.where(np.arange(rows) > 0, -rng.random(rows), np.nan),
        "entropy": rng.random(rows),
        "predicted": rng.integers(-1, 1000, rows),
    }
    return make_trace(columns, arrays, sample_meta(layers, n_experts, top_k, **meta))


def sample_meta(layers: int, n_experts: int, top_k: int, **meta: object) -> dict:
    """The meta of a sample; one hash layer, then top-k."""
    kinds = ["hash", *["topk"] * (layers - 1)]
    return {
        "model": "sample",
        "engine": "none",
        "seed": 3,
        "sampling": {"temperature": 0.5, "stop": ["\n"]},
        "architecture": {
            "family": "sample",
            "n_experts": n_experts,
            "top_k": top_k,
            "n_shared": 1,
            "weight_sum": 1.5,
            "layers": [{"routing": kind, "attention": "csa"} for kind in kinds],
        },
        **meta,
    }


def assert_same(found: Trace, expected: Trace) -> None:
    """Every column, variable, coordinate, type and fact of the meta is equal."""
    pd.testing.assert_frame_equal(found.tokens, expected.tokens, check_exact=True)
    xr.testing.assert_identical(found.routing.compute(), expected.routing.compute())
    types = {name: array.dtype for name, array in expected.routing.variables.items()}
    assert {name: array.dtype for name, array in found.routing.variables.items()} == types
    assert found.meta == expected.meta


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
"""Any text that UTF-8 can hold, the empty one included."""
torn_text = st.text(st.characters(), max_size=8)
"""Any Python string, lone surrogates included."""


@st.composite
def traces(draw: st.DrawFn, max_rows: int = 20, texts: st.SearchStrategy[str] = any_text) -> Trace:
    """Traces of any size, level, text and label."""
    rows = draw(st.integers(0, max_rows))
    return sample(
        rows,
        routing=draw(st.sampled_from(sorted(LEVELS))),
        layers=draw(st.integers(1, 4)),
        n_experts=draw(st.integers(2, 9)),
        top_k=draw(st.integers(1, 2)),
        seed=draw(st.integers(0, 99)),
        texts=draw(st.lists(texts, min_size=rows, max_size=rows)),
        labels=draw(
            st.lists(st.sampled_from(["", "a", "ü\n", "\0"]), min_size=rows, max_size=rows)
        ),
    )

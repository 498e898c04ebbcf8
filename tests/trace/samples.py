"""Traces made of random numbers, and what it means for two of them to be equal."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr
from hypothesis import strategies as st

from v4kit.attention import View
from v4kit.attention.spans import codes_at
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

VIEWS = (
    ("sliding", View(4)),
    ("csa", View(4, 2, 4)),
    ("hca", View(3, 4, 4)),
    ("full", View(None)),
)
"""Attention kind and view of each layer of a sample with attention, over and over."""
HEADS = 2

ATTENDED = {
    "none": {},
    "strongest": {"attention": 3},
    "strongest each": {"attention": 3, "heads": "each", "pooling": True},
    "full": {"attention": "full", "pooling": True},
    "full each": {"attention": "full", "heads": "each"},
}
"""Ways to record attention, as options of `sample`."""


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
    attention: int | str | None = None,
    heads: str = "mean",
    pooling: bool = False,
    **meta: object,
) -> Trace:
    """A trace with every field filled; its last row is empty, as a sampled token's is.

    With attention, every document's last row has none.
    """
    rng = np.random.default_rng(seed)
    arrays = random_routing(rows, routing, layers, n_experts, top_k, rng)
    document = np.sort(rng.integers(0, 3, rows))
    valid = np.arange(rows) < rows - 1
    if attention is not None:
        valid[:-1] &= document[:-1] == document[1:]
    columns = {
        "id": rng.integers(0, 1000, rows),
        "text": texts if texts is not None else [f"t{i} " for i in range(rows)],
        "position": pd.Series(document).groupby(document).cumcount().to_numpy(),
        "document": document,
        "label": labels if labels is not None else [f"label {d}" for d in document],
        "role": rng.choice(["user", "answer", "text"], rows),
        "phase": rng.choice(["prompt", "generated"], rows),
        "special": rng.random(rows) < 0.2,
        "valid": valid,
        "logprob": np.where(np.arange(rows) > 0, -rng.random(rows), np.nan),
        "entropy": rng.random(rows),
        "predicted": rng.integers(-1, 1000, rows),
    }
    known = sample_meta(layers, n_experts, top_k, **meta)
    if attention is None:
        return make_trace(columns, arrays, known)
    known["attention"] = {"sources": attention, "heads": heads, "why": None}
    known["architecture"] |= {"heads": HEADS}
    for layer, (kind, view) in zip(known["architecture"]["layers"], views(layers), strict=True):
        layer |= {"attention": kind, "window": view.window, "rate": view.rate, "span": view.span}
    positions = np.where(valid, columns["position"], -1)
    kept, masses = attend(positions, known, rng)
    if pooling:
        kept |= pooled(positions, layers, rng)
    return make_trace(columns, arrays, known, attention=kept, masses=masses)


def random_routing(
    rows: int, routing: str, layers: int, n_experts: int, top_k: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random routing; the last row is empty."""
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
    return arrays


def views(layers: int) -> Iterator[tuple[str, View]]:
    """Attention kind and view of each layer."""
    return (VIEWS[layer % len(VIEWS)] for layer in range(layers))


def attend(
    positions: np.ndarray, meta: dict, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Random stored attention, and every mass of each layer, by plain loops; −1: no row."""
    sources, apart = meta["attention"]["sources"], meta["attention"]["heads"] == "each"
    layers = len(meta["architecture"]["layers"])
    shape = (len(positions), layers, HEADS if apart else 1)
    shares = ("sink", "window", "compressed", "rest", "entropy_bits")
    found = {name: np.full(shape, np.nan, np.float32) for name in shares}
    found |= {n: np.full(shape[:2], -1, np.int32) for n in ("visible_blocks", "chosen_blocks")}
    if sources != "full":
        found["code"] = np.full((*shape, sources), -1, np.int32)
        found["mass"] = np.full((*shape, sources), np.nan, np.float32)
    flats: list[list[np.ndarray]] = [[np.empty(0, np.float32)] for _ in range(layers)]
    for row in np.flatnonzero(positions >= 0).tolist():
        for layer, (_, view) in enumerate(views(layers)):
            at = {name: array[row, layer, ...] for name, array in found.items()}
            masses = attend_once(at, view, int(positions[row]), rng, apart=apart)
            flats[layer].append(masses.ravel())
    if not apart:
        found = {n: a if n.endswith("_blocks") else a[:, :, 0] for n, a in found.items()}
    full = sources == "full"
    return found, [np.concatenate(flat) for flat in flats] if full else []


def attend_once(
    found: dict[str, np.ndarray],
    view: View,
    position: int,
    rng: np.random.Generator,
    *,
    apart: bool,
) -> np.ndarray:
    """Fill in the random attention of one token in one layer; return its masses."""
    codes, blocks = codes_at(view, position), view.visible_blocks(position)
    parts = rng.exponential(size=(HEADS, len(codes) + 1)).astype(np.float32)
    if blocks:  # as where an indexer did not choose the first block
        parts[:, :-1][:, codes == -2] = 0
    parts /= parts.sum(-1, keepdims=True)
    parts = parts if apart else parts.mean(0, keepdims=True)
    masses = parts[:, :-1]
    found["sink"][:] = parts[:, -1]
    found["window"][:] = masses[:, codes >= 0].sum(-1)
    found["compressed"][:] = masses[:, codes < 0].sum(-1)
    found["rest"][:] = 0
    found["entropy_bits"][:] = -(parts * np.log2(np.where(parts > 0, parts, 1))).sum(-1)
    if view.rate:
        found["visible_blocks"][...] = blocks
        found["chosen_blocks"][...] = max(blocks - 1, 0)
    if "code" in found:
        best = np.argsort(-masses, axis=-1)[:, : found["code"].shape[-1]]
        kept = np.take_along_axis(masses, best, -1)
        found["mass"][:] = 0
        found["mass"][:, : best.shape[1]] = kept
        found["code"][:, : best.shape[1]] = np.where(kept > 0, codes[best], -1)
        found["rest"][:] = masses.sum(-1) - kept.sum(-1)
    return masses


def pooled(positions: np.ndarray, layers: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights by which tokens are pooled into blocks; NaN in layers without blocks."""
    found = {}
    for name in ("pool_own", "pool_next"):
        found[name] = rng.random((len(positions), layers), dtype=np.float32)
        found[name][positions < 0] = np.nan
        found[name][:, [layer for layer, (_, v) in enumerate(views(layers)) if not v.rate]] = np.nan
    return found


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


def assert_same(found: Trace, expected: Trace, *, rounding: float = 0) -> None:
    """Every column, variable, coordinate, type and fact of the meta is equal.

    Attention may differ by a rounding, where it was reduced in other batches.
    """
    pd.testing.assert_frame_equal(found.tokens, expected.tokens, check_exact=True)
    xr.testing.assert_identical(found.routing.compute(), expected.routing.compute())
    types = {name: array.dtype for name, array in expected.routing.variables.items()}
    assert {name: array.dtype for name, array in found.routing.variables.items()} == types
    assert found.meta == expected.meta
    assert_same_attention(found, expected, rounding=rounding)


def assert_same_attention(found: Trace, expected: Trace, *, rounding: float = 0) -> None:
    """What is stored of attention is equal, and so is what it reads as."""
    stored, wanted = found.stored_attention, expected.stored_attention
    assert (stored is None) == (wanted is None)
    if stored is None:
        return
    if rounding:
        xr.testing.assert_allclose(stored.values, wanted.values, atol=rounding)
        return
    xr.testing.assert_identical(stored.values.compute(), wanted.values.compute())
    types = {name: array.dtype for name, array in wanted.values.variables.items()}
    assert {name: array.dtype for name, array in stored.values.variables.items()} == types
    assert stored.views == wanted.views
    for layer, other in zip(stored.masses, wanted.masses, strict=True):
        np.testing.assert_array_equal(layer.positions, other.positions)
        np.testing.assert_array_equal(np.asarray(layer.flat()), np.asarray(other.flat()))
    xr.testing.assert_identical(found.attention.compute(), expected.attention.compute())


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
        **draw(st.sampled_from([ATTENDED[name] for name in sorted(ATTENDED)])),
    )

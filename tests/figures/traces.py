"""Traces made by rules, and plain loops that count them without any of the kit's arithmetic."""

from collections import Counter

import numpy as np

from v4kit.trace import import_routing, make_trace

WORDS = ("Once", " upon", " a", " time", "\n", "def", " f", "(", ")", ":", "\n    ", "床", "", "é")
NASTY = (
    "<b>bold</b>",
    '<a href="https://evil.example">click</a>',
    "</script><img src=x onerror=alert(1)>",
    "&lt;i&gt;",
    "$x^2$",
    "%{customdata[0]}",
    "\u202eright to left",
    "\x00\x1b[31m",
    "\u0301",
    "",
    "\ud800",
    "'\"`{{ 7*7 }}",
)


def kinds_of(layers, hashed=1, dense=0):
    return ["dense"] * dense + ["hash"] * hashed + ["topk"] * (layers - hashed - dense)


def routed(
    tokens=60, layers=6, experts=32, top_k=3, hashed=1, dense=0, texts=WORDS, documents=2,
    weights=True, shared=1, seed=0, meta=None,
):  # fmt: skip
    """A trace as a recorder makes it: the last row was never fed to the model."""
    rng = np.random.default_rng(seed)
    kinds = kinds_of(layers, hashed, dense)
    skew = rng.random((layers, experts)) ** 3
    ids = np.argsort(-(skew + 0.7 * rng.random((tokens, layers, experts))), axis=2)[:, :, :top_k]
    share = rng.random((tokens, layers, top_k)) + 0.2
    share = -np.sort(-share, axis=2)
    factors = 1.5 * share / share.sum(axis=2, keepdims=True)
    ids[:, [kind == "dense" for kind in kinds]] = -1
    factors[ids < 0] = np.nan
    ids[-1:], factors[-1:] = -1, np.nan
    document = np.arange(tokens) * documents // max(tokens, 1)
    columns = {
        "id": np.arange(tokens) % len(texts),
        "text": [texts[i % len(texts)] for i in range(tokens)],
        "document": document,
        "label": [("story", "code")[d % 2] for d in document],
        "position": [int((document[:i] == document[i]).sum()) for i in range(tokens)],
        "phase": ["prompt" if i < tokens // 2 else "generated" for i in range(tokens)],
        "valid": [i < tokens - 1 for i in range(tokens)],
    }
    about = {
        "model": "a model",
        "ranked": True,
        "router_dtype": "float32",
        "architecture": {
            "family": "deepseek_v4",
            "n_experts": experts,
            "top_k": top_k,
            "n_shared": shared,
            "weight_sum": 1.5,
            "layers": [{"routing": kind, "attention": "csa"} for kind in kinds],
        },
    }
    arrays = {"experts": ids}
    if weights:
        arrays |= {"weights": factors, "scores": share}
    return make_trace(columns, arrays, about | (meta or {}))


def flash(tokens=300, **options):
    """A trace of DeepSeek-V4-Flash's shape."""
    return routed(tokens, layers=43, experts=256, top_k=6, hashed=3, **options)


def imported(tokens=40, weights=False):
    """A trace without ranks, and without weights unless asked for."""
    rng = np.random.default_rng(1)
    ids = rng.permuted(np.tile(np.arange(8), (tokens, 4, 1)), axis=2)[:, :, :2]
    factors = rng.random(ids.shape) if weights else None
    return import_routing(ids, n_experts=8, text=["x"] * tokens, weights=factors)


def loops(trace, start=0, stop=None):
    """How often each (layer, expert) was used, its weight, and each layer's tokens: by counting."""
    ids = trace.routing["experts"].values.tolist()
    weights = trace.routing["weights"].values.tolist() if "weights" in trace.routing else None
    count, weight, tokens = Counter(), Counter(), Counter()
    for row in range(start, len(trace) if stop is None else stop):
        for layer, slots in enumerate(ids[row]):
            tokens[layer] += any(expert >= 0 for expert in slots)
            for slot, expert in enumerate(slots):
                if expert >= 0:
                    count[layer, expert] += 1
                    if weights:
                        weight[layer, expert] += weights[row][layer][slot]
    return count, weight, tokens

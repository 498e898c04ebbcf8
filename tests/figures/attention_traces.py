"""Traces with attention, made by rules of their own, and plain loops over what they hold."""

import functools
from collections import defaultdict

import numpy as np

from tests.figures.traces import WORDS
from v4kit.trace import make_trace

WINDOW, RATES, SPANS = 8, {"csa": 4, "hca": 16}, {"csa": 8, "hca": 16}
CHOSEN = 5
"""Blocks that the indexer of a csa layer chooses at most."""
KINDS = ("sliding", "csa", "hca", "csa")


def columns(kind, position, window):
    """Everything that a token sees, as (first, end, code): tokens, then blocks."""
    low = 0 if kind == "full" else max(0, position - window + 1)
    seen = [(at, at + 1, at) for at in range(low, position + 1)]
    if kind in RATES:
        rate, span = RATES[kind], SPANS[kind]
        for block in range((position + 1) // rate):
            end = rate * (block + 1)
            seen.append((max(end - span, 0), end, -2 - block))
    return seen


def looking(
    tokens=60, kinds=KINDS, sources=6, heads=None, documents=1, window=WINDOW, texts=WORDS,
    sinks=True, unfed=1, seed=0, model="a model", labels=("story", "code"), heads_of_model=3,
):  # fmt: skip
    """A trace whose attention is random; the last rows were never fed to the model.

    `sources` is a number or "full"; `heads` is None for their mean, else how many are apart.
    """
    rng = np.random.default_rng(seed)
    document = np.arange(tokens) * documents // max(tokens, 1)
    position = np.array([int((document[:i] == document[i]).sum()) for i in range(tokens)], int)
    valid = np.arange(tokens) < tokens - unfed
    store, masses = _store(tokens, kinds, sources, heads), [[] for _ in kinds]
    for row in np.flatnonzero(valid):
        for layer, kind in enumerate(kinds):
            seen = columns(kind, int(position[row]), window)
            blocks = sum(code < -1 for *_, code in seen)
            picked = min(blocks, CHOSEN) if kind == "csa" else blocks
            out = rng.permutation(blocks)[picked:] + len(seen) - blocks
            if kind in RATES:
                store["visible_blocks"][row, layer] = blocks
                store["chosen_blocks"][row, layer] = picked
            for head in range(heads or 1):
                mass = rng.random(len(seen)) ** 4 + 1e-3
                mass[out] = 0
                mass *= (rng.uniform(0.3, 0.9) if sinks else 1) / mass.sum()
                at = (row, layer, head) if heads else (row, layer)
                masses[layer].append(_keep(store, at, seen, mass.astype(np.float32), sources))
    meta = _meta(kinds, sources, heads, window, model, heads_of_model)
    text = {
        "id": np.arange(tokens) % len(texts),
        "text": [texts[i % len(texts)] for i in range(tokens)],
        "document": document,
        "label": [labels[d % len(labels)] for d in document],
        "position": position,
        "valid": valid,
    }
    experts = np.where(valid[:, None, None], rng.integers(0, 4, (tokens, len(kinds), 1)), -1)
    flat = [np.concatenate([np.empty(0, np.float32), *part]) for part in masses]
    return make_trace(
        text, {"experts": experts}, meta, attention=store, masses=flat if sources == "full" else ()
    )


def _store(tokens, kinds, sources, heads):
    shape = (tokens, len(kinds), heads) if heads else (tokens, len(kinds))
    names = ("sink", "window", "compressed", "rest", "entropy_bits")
    store = {name: np.full(shape, np.nan, np.float32) for name in names}
    for name in ("visible_blocks", "chosen_blocks"):
        store[name] = np.full((tokens, len(kinds)), -1, np.int32)
    if sources != "full":
        store["code"] = np.full((*shape, sources), -1, np.int32)
        store["mass"] = np.full((*shape, sources), np.nan, np.float32)
    return store


def _keep(store, at, seen, mass, sources):
    """Store one row of masses; return all of them."""
    codes = np.array([code for *_, code in seen])
    store["sink"][at] = max(0, 1 - mass.sum())
    store["window"][at] = mass[codes >= 0].sum()
    store["compressed"][at] = mass[codes < 0].sum()
    store["rest"][at], store["entropy_bits"][at] = 0, 1
    if sources != "full":
        order = np.argsort(-mass, kind="stable")[:sources]
        order = order[mass[order] > 0]
        store["mass"][at], store["code"][at] = 0, -1
        store["mass"][at][: len(order)] = mass[order]
        store["code"][at][: len(order)] = codes[order]
        store["rest"][at] = mass.sum() - mass[order].sum()
    return mass


def _meta(kinds, sources, heads, window, model, heads_of_model):
    layers = [
        {
            "routing": "topk",
            "attention": kind,
            "window": None if kind == "full" else window,
            "rate": RATES.get(kind, 0),
            "span": SPANS.get(kind, 0),
        }
        for kind in kinds
    ]
    return {
        "model": model,
        "ranked": True,
        "attention": {"sources": sources, "heads": "each" if heads else "mean", "why": None},
        "architecture": {
            "family": "deepseek_v4",
            "n_experts": 4,
            "top_k": 1,
            "n_shared": 0,
            "weight_sum": None,
            "heads": heads or heads_of_model,
            "layers": layers,
        },
    }


@functools.cache
def long(tokens=20_000, sources=8):
    """A long document, made fast: nearby tokens and evenly spaced blocks."""
    rng = np.random.default_rng(3)
    kinds = ("sliding", "csa", "hca")
    store = _store(tokens, kinds, sources, None)
    position = np.arange(tokens)
    half = sources // 2
    for layer, kind in enumerate(kinds):
        codes = np.full((tokens, sources), -1)
        codes[:, :half] = np.maximum(position[:, None] - np.arange(half), -1)
        if kind in RATES:
            seen = (position + 1) // RATES[kind]
            block = seen[:, None] * np.arange(half) // half
            codes[:, half:] = np.where(seen[:, None] >= half, -2 - block, -1)
            store["visible_blocks"][:, layer] = seen
            store["chosen_blocks"][:, layer] = np.minimum(seen, CHOSEN) if kind == "csa" else seen
        mass = np.where(codes == -1, 0, rng.random((tokens, sources)) + 0.1)
        mass *= 0.8 / mass.sum(axis=1, keepdims=True)
        store["code"][:, layer], store["mass"][:, layer] = codes, mass
        store["window"][:, layer] = np.where(codes >= 0, mass, 0).sum(axis=1)
        store["compressed"][:, layer] = np.where(codes < -1, mass, 0).sum(axis=1)
        store["rest"][:, layer], store["sink"][:, layer] = 0.05, 0.15
        store["window"][:, layer] += 0.05
    text = {"text": [WORDS[i % len(WORDS)] for i in range(tokens)], "position": position}
    experts = rng.integers(0, 4, (tokens, len(kinds), 1))
    meta = _meta(kinds, sources, None, WINDOW, "a model", 3)
    return make_trace(text, {"experts": experts}, meta, attention=store)


def loops(trace, layer, head=None):
    """Row → (sink, rest, [(start, stop, kind, mass)]), from the Dataset, number by number."""
    data = trace.attention.isel(layer=layer).load()
    apart = "head" in data.dims
    heads = [head] if head is not None else range(data.sizes["head"] if apart else 1)
    found = {}
    for row in range(len(trace)):
        sink = rest = 0.0
        sources = defaultdict(float)
        for number in heads:
            one = data.isel(token=row, head=number) if apart else data.isel(token=row)
            sink += float(one["sink"]) / len(heads)
            rest += float(one["rest"]) / len(heads)
            columns = (one[name].values.tolist() for name in ("start", "stop", "kind", "mass"))
            for start, stop, kind, mass in zip(*columns, strict=True):
                if kind >= 0:
                    sources[start, stop, kind] += mass / len(heads)
        if np.isfinite(sink):
            found[row] = (sink, rest, [(*key, mass) for key, mass in sources.items()])
    return found

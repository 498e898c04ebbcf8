"""Traces of random numbers whose hash layers follow from the ids, and loops that read them."""

import numpy as np

from v4kit.trace import make_trace

KINDS = ("hash", "dense", "topk", "topk", "hash")
EXPERTS, TOP_K, VOCABULARY = 12, 3, 20


def tables(seed=7):
    """The experts `[layer, id, slot]` of the hash layers, in the order of the table."""
    rng = np.random.default_rng(seed)
    shape = (len(KINDS), VOCABULARY, EXPERTS)
    return np.argsort(rng.random(shape), axis=2)[:, :, :TOP_K]


def made(
    ids, *, seed=0, document=None, holes=(), kinds=KINDS, texts=None, ranked=True, experts=None,
    columns=None, arrays=None,
):  # fmt: skip
    """A trace of these ids; rows in `holes` were never fed to the model."""
    ids = np.asarray(ids, int)
    rng = np.random.default_rng(seed)
    used = np.argsort(rng.random((len(ids), len(kinds), EXPERTS)), axis=2)[:, :, :TOP_K]
    for layer, kind in enumerate(kinds):
        if kind == "hash":
            used[:, layer] = tables()[layer][ids % VOCABULARY]
        if kind == "dense":
            used[:, layer] = -1
    if experts is not None:
        used[:] = experts
    used[list(holes)] = -1
    document = np.zeros(len(ids), int) if document is None else np.asarray(document)
    columns = (columns or {}) | {
        "id": ids,
        "text": [f"t{i} " for i in ids] if texts is None else texts,
        "document": document,
        "position": [int((document[:i] == document[i]).sum()) for i in range(len(ids))],
        "valid": [row not in holes for row in range(len(ids))],
    }
    layers = [{"routing": kind, "attention": "csa"} for kind in kinds]
    architecture = {"n_experts": EXPERTS, "top_k": TOP_K, "n_shared": 0, "weight_sum": 1.5}
    meta = {"model": "m", "ranked": ranked, "architecture": architecture | {"layers": layers}}
    return make_trace(columns, (arrays or {}) | {"experts": used}, meta)


def with_outputs(rows=200, *, full=True, **options):
    """A trace with weights, scores and outputs, as a recorder keeps them."""
    rng = np.random.default_rng(8)
    holes = (3, rows // 3, rows - 1)
    per_slot = ("weights", "scores", "output_norm", "output_max")
    arrays = {name: rng.random((rows, len(KINDS), TOP_K)) + 0.1 for name in per_slot}
    arrays |= {name: rng.random((rows, len(KINDS))) + 0.1
               for name in ("margin", "routed_norm", "shared_norm")}  # fmt: skip
    if full:
        arrays["router_scores"] = rng.random((rows, len(KINDS), EXPERTS))
    for array in arrays.values():
        array[list(holes)] = np.nan
        array[:, KINDS.index("dense")] = np.nan
    arrays["bias_flips"] = rng.integers(0, 3, (rows, len(KINDS)))
    for layer, kind in enumerate(KINDS):
        if kind != "topk":
            arrays["margin"][:, layer], arrays["bias_flips"][:, layer] = np.nan, -1
    return made(rng.integers(0, 20, rows), holes=holes, arrays=arrays, **options)


def used_by(trace, row, layer, top=None):
    """The set of experts of a row in a layer; empty where it was not routed."""
    if not trace.tokens["valid"].iloc[row]:
        return set()
    return {int(e) for e in trace.routing["experts"].values[row, layer][:top]} - {-1}

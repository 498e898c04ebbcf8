"""Whether attention still finds its sinks without an expert."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis import load_matched
from v4kit.analysis.results import described
from v4kit.analysis.used import whole_number
from v4kit.attention import decode
from v4kit.core import LAYER, Record
from v4kit.engines import Model
from v4kit.errors import InputError
from v4kit.experiments.documents import check_edits, check_pair, read_until
from v4kit.intervene import Edit, ablate
from v4kit.trace import Trace

_SHARES = {"sink": "goes to the heads' sinks", "first": "goes to sources that hold the first token"}
_RUNS = {
    "": "with the model as it is",
    "_without": "without the expert",
    "_control": "without one of like load, on average over the draws",
}


def sink_link(
    model: Model, trace: Trace, layer: int, expert: int, *, draws: int = 3, seed: int = 0
) -> xr.Dataset:
    """Return what attention does with its sinks when an expert is knocked out.

    Tokens that nobody needs to look at leave much attention at the first token or, in models that
    have them, at the heads' learned sinks; without a super expert that is said to end (arXiv
    2507.23279). The trace's texts are read again without the expert, its weight 0 and nobody in its
    place, and, as a control, without others of like load (`v4kit.analysis.load_matched`). A layer
    before the expert's own can't change; one behind it that does not either has no link.

    Args:
        model: The model.
        trace: A trace of it that holds whole documents, with token ids.
        layer: Index of the expert's layer.
        expert: Its id; `v4kit.analysis.super_experts` finds some.
        draws: How many controls are drawn.
        seed: Of the draws.

    Returns:
        Over `layer`: `sink`, the mean over tokens and heads of the share that goes to the heads'
        sinks (0 where there are none), and `first`, of the share that goes to the first token of
        the document or to blocks that hold it; each also `…_without` and `…_control`, and
        `…_control_std`, the deviation over the draws. Scalar `n`: the tokens counted, all but the
        first of each document. Coordinates `kind` and `attention_kind`; NaN where a layer's
        attention can't be read.

    Raises:
        InputError: No such layer or expert; the trace is of another model, of an edited one, or
            lacks the beginning of a document; the model returns no attention weights, or a text is
            too long for all of its own to be held.
        ModelBusy: Another thread is using the model.
    """
    check_pair(model, trace)
    check_edits(model, trace)
    if model.edits:
        raise InputError("sink_link compares with the model as it is: call it unedited.")
    draws, seed = whole_number("draws", draws, least=1), whole_number("seed", seed, least=0)
    texts = _texts(trace)
    gone = ablate(layer, expert, reroute=False)
    # Refused now, not after the first reading.
    model.editing([gone])
    base, counted = _shares(model, texts, None)
    without, _ = _shares(model, texts, gone)
    controls = []
    for draw in range(draws):
        other = load_matched(trace, layer, [expert], seed=seed + draw)
        controls.append(_shares(model, texts, ablate(layer, other, reroute=False))[0])
    data: dict[str, Any] = {"n": ((), counted)}
    meanings = {"n": "tokens that are counted: all but the first of each document"}
    for name, what in _SHARES.items():
        drawn = np.stack([found[name] for found in controls])
        values = dict(zip(_RUNS, (base[name], without[name], drawn.mean(axis=0)), strict=True))
        for ending, how in _RUNS.items():
            data[name + ending] = (LAYER, values[ending])
            meanings[name + ending] = f"mean share of attention that {what}, {how}"
        data[f"{name}_control_std"] = (LAYER, drawn.std(axis=0))
        meanings[f"{name}_control_std"] = "deviation of the control over the draws"
    kinds = {name: (LAYER, trace.routing[name].to_numpy()) for name in ("kind", "attention_kind")}
    found = described(data, meanings, expert_layer=int(layer), expert=int(expert))
    return found.assign_coords({LAYER: np.arange(len(trace.routing[LAYER])), **kinds})


def _texts(trace: Trace) -> list[list[int]]:
    """Return the ids of all documents of more than one token."""
    documents = trace.tokens["document"].to_numpy()
    last = np.flatnonzero(np.append(documents[1:] != documents[:-1], [True] * bool(len(trace))))
    texts = [ids for ids in (read_until(trace, int(row)) for row in last) if len(ids) > 1]
    if not texts:
        raise InputError("The trace has no text of two tokens or more, so nothing looks back.")
    return texts


def _shares(
    model: Model, texts: list[list[int]], edit: Edit | None
) -> tuple[dict[str, np.ndarray], int]:
    """Return the mean shares `[layer]` by name, and how many tokens they are of."""
    record = Record(routing="ids", attention="full")
    layers = model.architecture.n_layers
    sums, counted = {name: np.zeros(layers) for name in _SHARES}, 0
    # One text after the other: all masses of many would fill the memory.
    for ids in texts:
        read = model.read(ids, record=record, edits=[edit] if edit else ())
        attention = read.require_attention()
        sums["sink"] += attention.values["sink"].to_numpy()[1:].sum(axis=0, dtype=float)
        for layer in range(layers):
            codes, masses = attention.sources(layer)
            start, _, _ = decode(codes, attention.views[layer].rate, attention.views[layer].span)
            sums["first"][layer] += np.where(start == 0, masses, 0)[1:].sum(dtype=float)
        counted += len(ids) - 1
    return {name: total / counted for name, total in sums.items()}, counted

"""What the model would have said without an expert, beside what a control does."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from v4kit.analysis import expert_load
from v4kit.analysis.used import whole_number
from v4kit.core import HASH, LAYER, NONE, SLOT, TOKEN
from v4kit.engines import Model
from v4kit.errors import InputError
from v4kit.experiments.asked import layers_of, rows_of
from v4kit.experiments.branching import Swap, log_probabilities
from v4kit.experiments.documents import check_pair, chunk_of, read_until
from v4kit.experiments.kept import Kept
from v4kit.experiments.ranks import spearman
from v4kit.intervene import Edit, ablate
from v4kit.trace import Trace

ACTS = ("", "_reroute", "_control")
"""Endings of the variables: knocked out; chosen again without it; replaced by a control."""
STATISTICS = ("load", "weight", "norm", "margin")
_SAME = 0.5
"""Share of a token's experts below which the trace is not of what the model does."""
_NEAREST = 5
"""Experts with the nearest load that a control is drawn from."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """One expert of one token."""

    layer: int
    """Layer index."""
    slot: int
    """Slot in the trace."""
    act: int
    """Which of the acts."""
    expert: int
    """Its id."""
    edit: Edit
    """What is done."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is the same for all tokens."""

    layers: list[int]
    """Layer indices."""
    count: np.ndarray
    """Tokens of the trace that use each expert `[layer, expert]`."""
    seed: int
    """Of the controls."""


def causal_importance(
    model: Model,
    trace: Trace,
    *,
    tokens: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    batch: int = 64,
    seed: int = 0,
    save_to: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Return what taking out one expert of one token does to the model's next word.

    For each expert that a token uses, three runs that differ from the model's own in that one
    place: the expert is knocked out, its weight 0 and nothing in its place; the router chooses
    again without it (`…_reroute`; not in hash-routed layers); and, as a control, another expert
    gets its place and its weight (`…_control`), drawn at random among those with the nearest load
    in the trace that the token does not use. If the control does as much as the knock-out, what
    mattered was the weight, not who had it. The token's past is the model's own in all of them.

    Args:
        model: The model.
        trace: A trace of it, with token ids.
        tokens: Rows of the trace; all that are followed by a token if not given.
        layers: Layer indices; all with a router if not given.
        batch: Runs at once.
        seed: Of the controls.
        save_to: A file that what was found is kept in as the run goes. A run that is called again
            with the same arguments goes on from there.
        progress: Show a bar.

    Returns:
        Over `(token, layer, slot)`, in the slots of the trace: `expert`; `kl`, the divergence of
        the model's distribution of the next token from that without the expert, KL(base ‖ without)
        in nats; `delta_logprob`, by how much the log-probability of the token that did follow
        changes, negative if the expert helped; both also `…_reroute` and `…_control`; `control`,
        the expert that took the place. NaN and −1 where nothing was asked, or where the model,
        rounding otherwise in a batch, now used another expert than in the trace; and what was seen
        of the expert: its `load` in the trace, in tokens, its `weight`, the `norm` of its weighted
        output (recorded with `Record(outputs=True)`) and its layer's `margin`. Over
        `(statistic, effect)`: `spearman`, the rank correlation of these four with `kl` and
        `kl_reroute`, over all layers that choose; `spearman_n`, and `spearman_null_std`, its
        deviation by chance, where it is 0 on average. Coordinates: the rows of the tokens, `kind`
        of each layer. Interrupted, it returns what was done and warns.

    Raises:
        InputError: Tokens or layers that are not there; the trace is of another model, or its
            experts are not those that the model uses; the file is of another run, or has no folder.
    """
    check_pair(model, trace)
    batch = whole_number("batch", batch, least=1)
    if model.edits:
        raise InputError("causal_importance compares with the model as it is: call it unedited.")
    rows, chosen = rows_of(trace, tokens), layers_of(model, layers)
    shape = (len(rows), model.architecture.n_layers, model.architecture.top_k)
    seed = whole_number("seed", seed, least=0)
    kept = Kept.begin(save_to, shape, _about(model, trace, rows, chosen, seed))
    count = expert_load(trace)["count"].to_numpy()
    places = {row: place for place, row in enumerate(rows)}
    bar = tqdm(total=len(rows), initial=kept.done, unit="tok", disable=not progress)
    try:
        for row, cache in _pasts(model, trace, rows[kept.done :]):
            ids, after = read_until(trace, row), int(trace.tokens["id"].iloc[row + 1])
            cells = list(_cells(model, trace, row, _Asked(chosen, count, seed)))
            same: list[bool] = []
            for start in range(0, len(cells), batch):
                some = cells[start : start + batch]
                edits = [(cell.layer, cell.edit) for cell in some]
                logs, used = log_probabilities(model, ids[-1], len(ids) - 1, cache, edits)
                same += [cell.expert in used[cell.layer] for cell in some]
                logs[1:][~torch.tensor(same[start:])] = torch.nan
                _keep(kept, places[row], some, logs, after)
            _check_same(row, same)
            kept.step()
            bar.update(1)
    except KeyboardInterrupt:
        warnings.warn(
            f"Interrupted after {kept.done} of {len(rows)} tokens; the others are NaN.",
            stacklevel=2,
        )
    finally:
        bar.close()
        kept.write()
    return _result(trace, rows, kept, count)


def _cells(model: Model, trace: Trace, row: int, asked: _Asked) -> Iterator[_Cell]:
    """Yield what is done to each expert of a token."""
    rng, count = np.random.default_rng([asked.seed, row]), asked.count
    for layer in asked.layers:
        experts = trace.routing["experts"].isel(token=row, layer=layer).to_numpy()
        used = experts[experts != NONE]
        others = np.setdiff1d(np.arange(count.shape[1]), used)
        for slot in np.flatnonzero(experts != NONE):
            expert = int(experts[slot])
            near = np.argsort(np.abs(count[layer, others] - count[layer, expert]), kind="stable")
            gone = ablate(layer, [expert], reroute=False)
            acts = [(0, gone)]
            if model.architecture.layers[layer].routing != HASH:
                acts.append((1, ablate(layer, [expert])))
            if len(others):
                other = int(rng.choice(others[near[:_NEAREST]]))
                acts.append((2, Swap(layers=(layer,), expert=expert, other=other)))
            for act, edit in acts:
                yield _Cell(layer, int(slot), act, expert, edit)


def _check_same(row: int, same: list[bool]) -> None:
    """Refuse a trace of something else than what the model does.

    Raises:
        InputError: Most of the experts are others.
    """
    if sum(same) < _SAME * len(same):
        raise InputError(
            f"In row {row} the model uses other experts than the trace has. Record the trace anew "
            "with this model, in the same precision and without edits."
        )


def _keep(kept: Kept, place: int, cells: list[_Cell], logs: torch.Tensor, after: int) -> None:
    base, rest = logs[0], logs[1:]
    divergence = (base.exp() * (base - rest)).sum(-1).clamp(min=0)
    change = (rest[:, after] - base[after]).tolist()
    for cell, kl, delta in zip(cells, divergence.tolist(), change, strict=True):
        at = (cell.act, place, cell.layer, cell.slot)
        kept.kl[at], kept.delta[at] = kl, delta
        if isinstance(cell.edit, Swap) and not np.isnan(kl):
            kept.control[at[1:]] = cell.edit.other


def _pasts(model: Model, trace: Trace, rows: list[int]) -> Iterator[tuple[int, Any]]:
    """Yield rows, and the cache of what is before each; rows of a document are read once."""
    document, fed, cache = None, 0, None
    for row in rows:
        ids = read_until(trace, row)
        if trace.tokens["document"].iloc[row] != document:
            document, fed, cache = trace.tokens["document"].iloc[row], 0, None
        while fed < len(ids) - 1:
            stop = min(fed + chunk_of(trace), len(ids) - 1)
            _, cache = model.forward(ids[fed:stop], fed, cache, [])
            fed = stop
        yield row, cache


def _about(
    model: Model, trace: Trace, rows: list[int], layers: list[int], seed: int
) -> dict[str, Any]:
    """Return what makes two runs the same."""
    experts = np.ascontiguousarray(trace.routing["experts"].to_numpy())
    own = {name: model.meta[name] for name in ("model", "revision", "dtype", "router_dtype")}
    return {
        **own,
        "ids": [int(i) for i in trace.tokens["id"].to_numpy()],
        "documents": [int(i) for i in trace.tokens["document"].to_numpy()],
        "experts": hashlib.sha256(experts.tobytes()).hexdigest(),
        "rows": rows,
        "layers": layers,
        "seed": seed,
    }


def _result(trace: Trace, rows: list[int], kept: Kept, count: np.ndarray) -> xr.Dataset:
    axes = (TOKEN, LAYER, SLOT)
    asked = ~np.isnan(kept.kl[0])
    experts = np.where(asked, trace.routing["experts"].isel(token=rows).to_numpy(), NONE)
    data: dict[str, Any] = {"expert": (axes, experts), "control": (axes, kept.control)}
    for act, ending in enumerate(ACTS):
        data[f"kl{ending}"] = (axes, kept.kl[act])
        data[f"delta_logprob{ending}"] = (axes, kept.delta[act])
    told = _statistics(trace, rows, experts, count)
    data |= {name: (axes, values) for name, values in told.items()}
    # Hash-routed layers choose nothing, so nothing there can tell how sure a choice was.
    chosen = (trace.routing["kind"].to_numpy() != HASH)[None, :, None] & asked
    found = np.array([[spearman(told[name][chosen], kept.kl[act][chosen]) for act in (0, 1)]
                      for name in STATISTICS])  # fmt: skip
    pairs = ("statistic", "effect")
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(found[..., 1] > 1, 1 / np.sqrt(found[..., 1] - 1), np.nan)
    data |= {
        "spearman": (pairs, found[..., 0]),
        "spearman_n": (pairs, found[..., 1].astype(int)),
        "spearman_null_std": (pairs, spread),
    }
    kinds = trace.routing["kind"].to_numpy()
    coords = {TOKEN: rows, LAYER: np.arange(len(kinds)), "kind": (LAYER, kinds)}
    return xr.Dataset(data, coords=coords | {"statistic": list(STATISTICS),
                                             "effect": ["kl", "kl_reroute"]})  # fmt: skip


def _statistics(
    trace: Trace, rows: list[int], experts: np.ndarray, count: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what was observed of each expert of each token `[token, layer, slot]`."""
    part = trace.routing.isel(token=rows)
    missing = np.full(experts.shape, np.nan)
    weight = part["weights"].to_numpy().astype(float) if "weights" in part else missing
    norm = part["output_norm"].to_numpy() * weight if "output_norm" in part else missing
    margin = missing
    if "margin" in part:
        margin = np.broadcast_to(part["margin"].to_numpy()[..., None], experts.shape)
    layer = np.arange(experts.shape[1])[None, :, None]
    load = np.where(experts != NONE, count[layer, experts], np.nan)
    return {"load": load, "weight": weight, "norm": norm, "margin": margin}

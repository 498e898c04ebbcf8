"""What experts put out: how much each one matters by its size, and which are extreme."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.results import checked, dataset
from v4kit.analysis.used import BLOCK, recorded
from v4kit.core import EXPERT, LAYER, NONE, TOKEN
from v4kit.errors import InputError
from v4kit.trace import Trace

_ASK = "record=v4kit.Record(outputs=True)"
_SALIENCY = {
    "reap": "mean over the expert's tokens of weight × norm of its output",
    "ean": "sum over the expert's tokens of the norm of its output",
    "man": "mean over the expert's tokens of the norm of its output",
    "msan": "mean over the expert's tokens of the squared norm of its output",
    "frequency": "share of the routed tokens that use the expert",
    "weighted_frequency": "weight that goes to the expert, mean over the routed tokens",
    "count": "tokens that use the expert",
    "n": "tokens that were routed",
    "routed_share": "mean of ‖routed sum‖ ÷ (‖routed sum‖ + ‖shared‖)",
    "chance": "frequency under uniform routing: slots ÷ experts",
}
_SUPER = {
    "max_abs": "largest magnitude in any component of any of the expert's outputs",
    "is_super": "whether max_abs exceeds the threshold, in a layer that counts",
    "row": "token that produced max_abs; −1 if the expert was never used",
    "threshold": "what max_abs must exceed",
    "n": "experts that were used",
}


def saliency(trace: Trace) -> xr.Dataset:
    """Return what pruning methods rank experts by.

    With w the weight of an expert, as it is multiplied (it includes the routed scaling factor, 1.5
    on V4-Flash), and ‖E‖ the Euclidean norm of its output before that, over the tokens that use it:
    `reap` is the mean of w ‖E‖, `ean` the sum of ‖E‖ (both arXiv 2510.13999), `man` the mean of ‖E‖
    and `msan` of ‖E‖² (arXiv 2606.15716). Over all routed tokens: `frequency` is the share that use
    it, and `weighted_frequency` the mean of the weight that it gets, 0 from tokens that don't use
    it, so that it sums to the routed scaling factor over the experts. An expert that was never used
    has NaN in all of them: nothing is known of it, which is not the same as nothing. None of these
    says what the model would do without the expert: see `v4kit.experiments.causal_importance`.

    Args:
        trace: A trace recorded with `Record(outputs=True)`. Special tokens count, and the first
            one's outputs are often the largest; `trace[~trace.tokens["special"]]` leaves them out.

    Returns:
        Over `(layer, expert)`: `reap`, `ean`, `man`, `msan`, `frequency`, `weighted_frequency`, and
        `count`, the tokens that use it. Scalar `chance`: the frequency under uniform routing. Over
        `layer`: `n`, and `routed_share`, the mean over tokens of ‖routed sum‖ ÷ (‖routed sum‖ +
        ‖shared‖). Coordinate `kind`.

    Raises:
        InputError: It is no trace, or was recorded without outputs.
    """
    recorded(checked(trace), "output_norm", _ASK)
    recorded(trace, "weights", _ASK)
    size, k = (trace.meta["architecture"][name] for name in ("n_experts", "top_k"))
    layers = len(trace.meta["architecture"]["layers"])
    sums = {name: np.zeros((layers, size)) for name in ("reap", "ean", "msan", "weight", "count")}
    part, n = np.zeros(layers), np.zeros(layers)
    for start in range(0, len(trace), BLOCK):
        some = trace.routing.isel({TOKEN: slice(start, start + BLOCK)})
        experts = some["experts"].to_numpy()
        norm, weight = (some[name].to_numpy().astype(float) for name in ("output_norm", "weights"))
        known = norm * 0 + 1
        per_slot = {"reap": weight * norm, "ean": norm, "msan": norm**2, "weight": weight * known,
                    "count": known}  # fmt: skip
        for name, values in per_slot.items():
            _add(sums[name], experts, values)
        routed, shared = (some[name].to_numpy().astype(float)
                          for name in ("routed_norm", "shared_norm"))  # fmt: skip
        with np.errstate(invalid="ignore"):
            part += np.nansum(routed / (routed + np.nan_to_num(shared)), axis=0)
        n += (experts != NONE).any(axis=2).sum(axis=0)
    count = sums.pop("count")
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "reap": sums["reap"] / count,
            "ean": np.where(count > 0, sums["ean"], np.nan),
            "man": sums["ean"] / count,
            "msan": sums["msan"] / count,
            "frequency": np.where(count > 0, count / n[:, None], np.nan),
            "weighted_frequency": np.where(count > 0, sums["weight"] / n[:, None], np.nan),
        }
        share = part / n
    data: dict[str, Any] = {name: ((LAYER, EXPERT), value) for name, value in found.items()}
    data |= {
        "count": ((LAYER, EXPERT), count.astype(int)),
        "n": (LAYER, n.astype(int)),
        "routed_share": (LAYER, share),
        "chance": ((), k / size),
    }
    return dataset(trace, data, _SALIENCY).assign_coords({EXPERT: np.arange(size)})


def super_experts(trace: Trace, *, depth: float = 1.0) -> xr.Dataset:
    """Return experts whose outputs are extreme.

    Of the largest magnitude that any of an expert's outputs has in any component, over the trace:
    an expert is "super" if that is above the 99.5th percentile of all experts that were used, and
    above a tenth of the largest one, in all layers (arXiv 2507.23279). The percentile makes some
    expert stand out in most models; whether a model breaks without it is for an ablation to say
    (`v4kit.experiments.sink_link` tells what becomes of attention's sinks), and one token may be
    behind it: its row is told.

    Args:
        trace: A trace recorded with `Record(outputs=True)`. Special tokens count, and may be behind
            all of it: `trace.tokens["text"][row]` tells; `trace[~trace.tokens["special"]]` leaves
            them out.
        depth: Only layers in this first part of the model can have super experts; the paper takes
            0.75, because magnitudes grow towards the end.

    Returns:
        Over `(layer, expert)`: `max_abs` (NaN if never used), `is_super`, and `row`, the token that
        produced it (−1 if never used). Scalars `threshold`, which `max_abs` must exceed, and `n`,
        the experts that were used. Coordinate `kind`.

    Raises:
        InputError: It is no trace, was recorded without outputs, or has none; `depth` is no share.
    """
    recorded(checked(trace), "output_max", _ASK)
    part = _part(depth)
    size = trace.meta["architecture"]["n_experts"]
    layers = len(trace.meta["architecture"]["layers"])
    largest, row = np.full((layers, size), np.nan), np.full((layers, size), NONE)
    for start in range(0, len(trace), BLOCK):
        some = trace.routing.isel({TOKEN: slice(start, start + BLOCK)})
        _raise(largest, row, some["experts"].to_numpy(), some["output_max"].to_numpy(), start)
    used = largest[~np.isnan(largest)]
    if not used.size:
        raise InputError(f"No token of the trace has outputs of experts. Record some: {_ASK}.")
    threshold = max(float(np.quantile(used, 0.995)), float(used.max()) / 10)
    early = np.arange(layers)[:, None] < part * layers
    axes = (LAYER, EXPERT)
    data: dict[str, Any] = {
        "max_abs": (axes, largest),
        "is_super": (axes, (np.nan_to_num(largest) > threshold) & early),
        "row": (axes, row),
        "threshold": ((), threshold),
        "n": ((), used.size),
    }
    return dataset(trace, data, _SUPER).assign_coords({EXPERT: np.arange(size)})


def _part(depth: object) -> float:
    """Return a share of the layers, checked."""
    if not isinstance(depth, (int, float, np.number)) or not 0 < depth <= 1:
        raise InputError(f"depth is a share of the layers, above 0 to 1; given was {depth!r}.")
    return float(depth)


def _add(sums: np.ndarray, experts: np.ndarray, values: np.ndarray) -> None:
    """Add values `[token, layer, slot]` to their experts' sums `[layer, expert]`."""
    layers, size = sums.shape
    used = (experts != NONE) & ~np.isnan(values)
    cells = experts.astype(np.int64) + np.arange(layers)[:, None] * size
    sums += np.bincount(cells[used], values[used], sums.size).reshape(sums.shape)


def _raise(
    largest: np.ndarray, row: np.ndarray, experts: np.ndarray, values: np.ndarray, start: int
) -> None:
    """Take in larger values, and the first rows that have them."""
    size = largest.shape[1]
    token, layer, slot = np.nonzero((experts != NONE) & ~np.isnan(values))
    cell = layer * size + experts[token, layer, slot]
    value = values[token, layer, slot].astype(float)
    # By expert, then from the largest value down, then from the first token on.
    order = np.lexsort((token, -value, cell))
    cell, value, token = cell[order], value[order], token[order]
    first = np.append(True, cell[1:] != cell[:-1])[: len(cell)]
    cell, value, token = cell[first], value[first], token[first]
    flat, flat_row = largest.reshape(-1), row.reshape(-1)
    larger = ~(flat[cell] >= value)
    flat[cell[larger]], flat_row[cell[larger]] = value[larger], start + token[larger]

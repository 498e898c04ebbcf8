"""Which experts go with marked tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from v4kit.analysis.results import checked, dataset
from v4kit.analysis.used import array_of, learned_layers, uses, whole_number
from v4kit.core import EXPERT, LAYER
from v4kit.errors import InputError
from v4kit.trace import Trace

_MEANINGS = {
    "value": "normalised pointwise mutual information of expert and marker, from −1 to 1",
    "joint": "tokens that are marked and use the expert",
    "joint_null_mean": "tokens that would be both by chance, on average (hypergeometric)",
    "joint_null_std": "standard deviation of tokens that would be both by chance",
    "n": "tokens that were routed",
    "marked": "tokens that were routed and are marked",
    "chance": "value where expert and marker are independent: 0",
}


def npmi(trace: Trace, marker: npt.ArrayLike, *, min_count: int = 10) -> xr.Dataset:
    """Return how much each expert goes with marked tokens, from −1 to 1.

    Normalised pointwise mutual information, log₂[p(x, e) ÷ (p(x) p(e))] ÷ −log₂ p(x, e), over the
    tokens that were routed in the layer: −1 if they never meet, 0 if chance decides, 1 if they only
    occur together (as RICE, arXiv 2505.14681, ranks "cognitive experts"). Few meetings make large
    values by chance. So beside it stand how many there are, how many chance gives and with what
    standard deviation (hypergeometric), and meetings above 0 but below `min_count` are not rated.

    Args:
        trace: Any trace. Special tokens count; `trace[~trace.tokens["special"]]` leaves them out,
            and the marker is then one of its rows.
        marker: For each of its rows, whether it is marked: `(trace.tokens["text"] == "wait")`.
        min_count: The fewest tokens that are marked and use the expert, unless there is none.

    Returns:
        Over `(layer, expert)`: `value`, NaN where the expert is never used, where too few tokens
        meet, and in layers that do not choose; `joint`, the tokens that are marked and use it, and
        `joint_null_mean` and `joint_null_std`. Over `layer`: `n` and `marked`, tokens that were
        routed and those of them that are marked. Scalar `chance`: 0. Coordinate `kind`.

    Raises:
        InputError: It is no trace, or the marker does not mark some of its rows.
    """
    marks = _marks(checked(trace), marker)
    whole_number("min_count", min_count, least=1)
    every, both = uses(trace), uses(trace, marks)
    count, n, joint, marked = every.count, every.tokens, both.count, both.tokens
    if not marked.any():
        raise InputError(
            "The marker marks no token that was routed. Mark some: (trace.tokens['text'] == '…')."
        )
    total, some = n[:, None].astype(float), marked[:, None].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log2(joint * total / (some * count)) / -np.log2(joint / total)
        mean = some * count / total
        spread = mean * (1 - count / total) * (total - some) / (total - 1)
    # Where every token is marked and uses the expert, both logarithms are 0.
    value[(joint == total) & (total > 0)] = 1.0
    value[joint == 0] = -1.0
    value[(joint > 0) & (joint < min_count)] = np.nan
    value[(count == 0) | (some == 0)] = np.nan
    by_cell = {"value": value, "joint_null_mean": mean, "joint_null_std": np.sqrt(spread)}
    chosen = np.isin(np.arange(len(n)), learned_layers(trace))
    data: dict[str, Any] = {
        name: ((LAYER, EXPERT), np.where(chosen[:, None], array, np.nan))
        for name, array in by_cell.items()
    }
    data |= {"joint": ((LAYER, EXPERT), joint), "n": (LAYER, n), "marked": (LAYER, marked)}
    data |= {"chance": ((), 0.0)}
    found = dataset(trace, data, _MEANINGS)
    return found.assign_coords({EXPERT: np.arange(count.shape[1])})


def _marks(trace: Trace, marker: npt.ArrayLike) -> np.ndarray:
    """Return which rows are marked `[token]`.

    Raises:
        InputError: Not one boolean for each row.
    """
    marks = array_of(marker)
    if marks.shape != (len(trace),) or marks.dtype != bool:
        raise InputError(
            f"A marker is one boolean for each of the trace's {len(trace)} rows; given were "
            f"{marks.dtype} values of shape {marks.shape}."
        )
    return marks

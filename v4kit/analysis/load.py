"""How often experts are used, and how evenly a layer spreads its tokens over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from v4kit.analysis.bits import entropy
from v4kit.analysis.results import checked, dataset
from v4kit.analysis.used import expert_ids, generator, routed_layer, uses, whole_number
from v4kit.core import EXPERT, LAYER
from v4kit.errors import InputError
from v4kit.trace import Trace

ENOUGH = 10
"""Uses per expert, on average, below which evenness mostly tells how few tokens there are."""
_DRAWS = 200
_EVENNESS = {
    "entropy_bits": "entropy of the experts' shares of all uses, bits",
    "normalized_entropy": "that entropy ÷ log₂ of the experts, from 0 to 1",
    "effective_experts": "2 to the power of that entropy: as many equal experts have it",
    "gini": "Gini coefficient of the uses, from 0 (all alike) to 1",
    "cv": "standard deviation of the uses ÷ their mean",
    "max_violation": "largest uses ÷ mean uses − 1",
    "balancedness": "mean uses ÷ largest uses, from 0 to 1 (all alike)",
    "dead": "experts that no token used",
    "coverage_50": "fewest experts with half of the uses",
    "coverage_80": "fewest experts with four fifths of the uses",
}
_MEANINGS = {
    "count": "tokens that used the expert",
    "share": "share of the routed tokens that used the expert",
    "chance": "that share under uniform routing: slots ÷ experts",
    "n": "tokens that were routed",
    "uses_per_expert": "uses of an expert, on average",
    **_EVENNESS,
    **{
        f"{name}_null_{short}": f"{long} of {name} under uniform routing of as many tokens"
        for name in _EVENNESS
        for short, long in (("mean", "mean"), ("std", "standard deviation"))
    },
}


def expert_load(trace: Trace) -> xr.Dataset:
    """Return how many tokens used each expert.

    The field's usual count, the fraction of tokens that are sent to an expert (Switch Transformers,
    arXiv 2101.03961), here with k experts for each token. A token counts once for each of the
    experts that it used; one that was never fed to the model, or has no experts in a layer, does
    not count there. Shared experts, which take every token, are none of these. In hash-routed
    layers, which experts are used follows from the text's tokens alone.

    Args:
        trace: Any trace, also one that is opened from disk: it is read block by block. Special
            tokens count; `trace[~trace.tokens["special"]]` leaves them out.

    Returns:
        Over `(layer, expert)`: `count`, and `share` of the layer's routed tokens that use the
        expert (NaN where none was routed). Over `layer`: `n`, the tokens that were routed. And
        `chance`, the share under uniform routing: slots ÷ experts. Coordinate `kind`.

    Raises:
        InputError: It is no trace.
    """
    found = uses(checked(trace))
    with np.errstate(invalid="ignore"):
        share = found.count / found.tokens[:, None]
    architecture = trace.meta["architecture"]
    return dataset(
        trace,
        {
            "count": ((LAYER, EXPERT), found.count),
            "share": ((LAYER, EXPERT), share),
            "n": (LAYER, found.tokens),
            "chance": ((), architecture["top_k"] / architecture["n_experts"]),
        },
        _MEANINGS,
    ).assign_coords({EXPERT: np.arange(architecture["n_experts"])})


def load_statistics(trace: Trace) -> xr.Dataset:
    """Return how evenly each layer uses its experts, beside what uniform routing would give.

    The field's usual statistics. Of an expert's share p of all uses in a layer: `entropy_bits`
    H = −Σ p log₂ p, `normalized_entropy` H ÷ log₂ experts, `effective_experts` 2 to the power of H,
    the `gini` coefficient, `cv` (deviation ÷ mean), `max_violation` (largest ÷ mean − 1, as in
    arXiv 2408.15664), `balancedness` (mean ÷ largest; serving engines tell it of GPUs, here it is
    of experts), `dead` experts that no token used, and `coverage_50` and `coverage_80`, the fewest
    experts with half and four fifths of the uses. All of them change with the number of tokens, so
    each stands beside its mean and standard deviation under uniform routing of as many tokens
    (`…_null_mean`, `…_null_std`): 200 draws from a fixed seed, each expert's uses being binomial.

    Args:
        trace: A trace with 10 uses per expert or more, on average, in every routed layer. Special
            tokens count, as in `expert_load`.

    Returns:
        Over `layer`: the statistics and their nulls, NaN in dense layers; `n`, the tokens that were
        routed, and `uses_per_expert`. Coordinate `kind`: hash-routed layers tell about the text.

    Raises:
        InputError: It is no trace, or too short.
    """
    found = uses(checked(trace))
    n_experts = trace.meta["architecture"]["n_experts"]
    top_k = trace.meta["architecture"]["top_k"]
    mean = found.count.sum(axis=1) / n_experts
    few = np.flatnonzero((mean < ENOUGH) & (found.tokens > 0))
    if few.size or not found.tokens.any():
        least = float(mean[few].min()) if few.size else 0.0
        wanted = -(-ENOUGH * n_experts // top_k)
        raise InputError(
            f"Too few tokens to tell how evenly experts are used: {least:.1f} uses per expert, "
            f"{ENOUGH} are needed, so about {wanted:,} tokens. Read more text; "
            "v4kit.analysis.expert_load counts any."
        )
    routed = found.tokens > 0
    values = {name: np.full(len(mean), np.nan) for name in _EVENNESS}
    for name, value in evenness(found.count[routed]).items():
        values[name][routed] = value
    data: dict[str, Any] = {name: (LAYER, value) for name, value in values.items()}
    data |= _nulls(found.tokens, top_k / n_experts, n_experts)
    data |= {"n": (LAYER, found.tokens), "uses_per_expert": (LAYER, mean)}
    return dataset(trace, data, _MEANINGS)


def load_matched(
    trace: Trace, layer: int, experts: Sequence[int], *, seed: int = 0, among: int = 5
) -> list[int]:
    """Return as many other experts of a layer, drawn at random from those of like load.

    What is done to chosen experts is done to these as a control: experts that many tokens use do
    more than others whatever they are for. Load is that of `expert_load`.

    Args:
        trace: The trace that the load is counted in.
        layer: Index of a layer.
        experts: Their ids.
        seed: Of the draw.
        among: For each of them, how many of the experts with the nearest load are drawn from.

    Returns:
        One id for each expert, in their order; all different, and none of them given.

    Raises:
        InputError: The layer has no router, an expert is not there, or too few are left.
    """
    count = uses(checked(trace)).count[routed_layer(trace, layer)]
    given = expert_ids(experts, len(count))
    among = whole_number("among", among, least=1)
    if 2 * len(set(given)) > len(count) or len(set(given)) < len(given):
        raise InputError(
            f"{len(given)} of {len(count)} experts were given; a control needs as many others, and "
            "each expert once."
        )
    rng, left = generator(seed), np.setdiff1d(np.arange(len(count)), given)
    drawn = []
    for expert in given:
        nearest = left[np.argsort(np.abs(count[left] - count[expert]), kind="stable")]
        drawn.append(int(rng.choice(nearest[:among])))
        left = left[left != drawn[-1]]
    return drawn


def evenness(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the statistics of counts `[…, expert]`, one value for each row `[…]`."""
    n = counts.shape[-1]
    total = counts.sum(-1, keepdims=True)
    share = counts / total
    bits, largest = entropy(share), share.max(-1)
    ordered = np.sort(share, axis=-1)
    reached = np.cumsum(ordered[..., ::-1], axis=-1)
    rank = np.arange(1, n + 1)
    return {
        "entropy_bits": bits,
        # A single expert has all uses, and no entropy to be had.
        "normalized_entropy": bits / np.log2(n) if n > 1 else np.ones(bits.shape),
        "effective_experts": 2.0**bits,
        "gini": ((2 * rank - n - 1) * ordered).sum(-1) / n,
        "cv": share.std(-1) * n,
        "max_violation": largest * n - 1,
        "balancedness": 1 / (largest * n),
        "dead": (counts == 0).sum(-1).astype(float),
        # Sums of shares carry rounding: a hair below a bound counts as the bound.
        "coverage_50": (reached < 0.5 - 1e-12).sum(-1) + 1.0,
        "coverage_80": (reached < 0.8 - 1e-12).sum(-1) + 1.0,
    }


def _nulls(tokens: np.ndarray, chance: float, n_experts: int) -> dict[str, Any]:
    """Return mean and standard deviation of the statistics under uniform routing, by layer."""
    found = {f"{name}_null_{what}": np.full(len(tokens), np.nan)
             for name in _EVENNESS for what in ("mean", "std")}  # fmt: skip
    for n in np.unique(tokens[tokens > 0]):
        rng = np.random.default_rng(0)
        drawn = evenness(rng.binomial(n, chance, size=(_DRAWS, n_experts)))
        for name, values in drawn.items():
            found[f"{name}_null_mean"][tokens == n] = values.mean()
            found[f"{name}_null_std"][tokens == n] = values.std(ddof=1)
    return {name: (LAYER, values) for name, values in found.items()}

"""The functions that make edits.

Edits act on the score that a choice is made by (score + bias), never on logits that are scored
again: what is not asked to change stays as it is, to the bit. Several edits act in the order in
which they are given, each on what the ones before it left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import torch

from v4kit.core import NONE
from v4kit.errors import InputError
from v4kit.intervene.base import Edit, Tokens
from v4kit.intervene.router import RULES, Rule, Simpler
from v4kit.intervene.selecting import ON_HASH, Ablate, Nudge, OnHash, Steer
from v4kit.intervene.weighing import Budget, Replay, Scale

Layers = int | Sequence[int]


def ablate(
    layer: Layers | None = None,
    experts: Sequence[int] = (),
    *,
    reroute: bool = True,
    renorm: bool = False,
    on_hash: OnHash = "error",
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that takes experts out of use.

    Rerouted, the choice is made again without them and the weights add up to what they always do.
    Knocked out (`reroute=False`), their weights become 0 and nobody takes their place, unless
    `renorm` rescales the others. The two answer different questions; don't mix them in one table.

    Args:
        layer: Layer index or indices; None means all with a router.
        experts: Ids of the experts.
        reroute: Choose others in their place.
        renorm: Without rerouting, bring the other weights back to the sum.
        on_hash: For layers whose experts follow from the token id: "error", "drop" (weight 0),
            "drop_renorm", or "substitute" (the best others by score).
        tokens: Positions `(from, up to)`, or "prompt" or "generated".

    Raises:
        InputError: No experts, or an unknown policy.
    """
    if on_hash not in ON_HASH:
        raise InputError(f"on_hash is one of {', '.join(ON_HASH)}; given was {on_hash!r}.")
    return Ablate(
        layers=_layers(layer),
        tokens=_span(tokens),
        experts=_ids("ablate", experts),
        reroute=reroute,
        renorm=renorm,
        on_hash=on_hash,
    )


def ablate_router(
    layer: Layers | None = None,
    *,
    rule: Rule,
    seed: int = 0,
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that puts a simpler rule in the place of a router's.

    Each takes one thing away that routers do. "no_bias": the choice is made by the scores without
    the selection bias. "random": each token gets experts at random, weighed by their own scores.
    "uniform": the chosen experts' weights are all the same, with the sum that they had. "nothing":
    all weights are 0, so that only the shared experts are left.

    Args:
        layer: Layer index or indices; None means all that it can act on.
        rule: "no_bias" (only layers that choose by score), "random", "uniform" or "nothing".
        seed: Of the random experts, which depend on it, the layer and the position alone.
        tokens: Positions `(from, up to)`, or "prompt" or "generated".

    Raises:
        InputError: An unknown rule.
    """
    if rule not in RULES:
        raise InputError(f"rule is one of {', '.join(RULES)}; given was {rule!r}.")
    return Simpler(layers=_layers(layer), tokens=_span(tokens), rule=rule, seed=seed)


def steer(
    layer: Layers | None = None,
    *,
    prefer: Sequence[int] = (),
    avoid: Sequence[int] = (),
    weight: Literal["natural", "max"] = "natural",
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that has some experts chosen first, and others last.

    SteerMoE (arXiv 2509.09660) rewrites logits, which is neutral under softmax only; here the score
    of selection is moved, so that with nothing to prefer or avoid nothing changes at all.

    Args:
        layer: Layer index or indices; None means all that choose by score.
        prefer: Experts whose selection goes above all others.
        avoid: Experts whose selection goes below all others.
        weight: Preferred experts are weighed by their own score ("natural"), or by the largest of
            the token ("max"), which is nearest to the original.
        tokens: Positions `(from, up to)`, or "prompt" or "generated".

    Raises:
        InputError: An unknown weight.
    """
    if weight not in ("natural", "max"):
        raise InputError(f"weight is 'natural' or 'max'; given was {weight!r}.")
    return Steer(
        layers=_layers(layer),
        tokens=_span(tokens),
        prefer=_ids("steer", prefer, least=0),
        avoid=_ids("steer", avoid, least=0),
        weight=weight,
    )


def force(
    layer: Layers | None = None,
    experts: Sequence[int] = (),
    *,
    weight: Literal["natural", "max"] = "natural",
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that has some experts chosen always; as `steer(prefer=experts)`."""
    return steer(layer, prefer=_ids("force", experts), weight=weight, tokens=tokens)


def nudge(
    layer: Layers | None = None,
    experts: Sequence[int] = (),
    *,
    delta: float,
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that adds `delta` to some experts' score of selection, the bias's place."""
    return Nudge(
        layers=_layers(layer),
        tokens=_span(tokens),
        experts=_ids("nudge", experts),
        delta=_number("delta", delta),
    )


def scale(
    layer: Layers | None = None,
    experts: Sequence[int] = (),
    *,
    factor: float,
    renorm: bool = False,
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that multiplies some experts' weights, as RICE does (arXiv 2505.14681)."""
    return Scale(
        layers=_layers(layer),
        tokens=_span(tokens),
        experts=_ids("scale", experts),
        factor=_number("factor", factor),
        renorm=renorm,
    )


def budget(layer: Layers | None = None, *, k: int, tokens: Tokens = (0, None)) -> Edit:
    """Return an edit that leaves a token its `k` best experts; the weights keep their sum."""
    return Budget(layers=_layers(layer), tokens=_span(tokens), k=k)


def replay(trace: Any, layer: Layers | None = None, *, tokens: Tokens = (0, None)) -> Edit:
    """Return an edit that uses the experts of another run, position by position.

    Positions are all that is aligned: that both texts have the same tokens there is not checked.
    Positions where the trace has no experts keep their own. Weights come from the scores of the
    current pass; replaying a run's own routing changes nothing, to the bit.

    Raises:
        InputError: It is no trace, of several documents, or has no experts.
    """
    if not hasattr(trace, "routing") or trace.tokens["document"].nunique() != 1:
        raise InputError("replay takes a trace of one document. Slice it, or read one text.")
    experts = torch.from_numpy(trace.routing["experts"].to_numpy().astype("int64"))
    places = torch.from_numpy(trace.tokens["position"].to_numpy().astype("int64"))
    source = torch.full((int(places.max()) + 1, *experts.shape[1:]), NONE)
    source[places] = experts
    return Replay(layers=_layers(layer), tokens=_span(tokens), trace=trace, source=source)


def _layers(layer: Layers | None) -> tuple[int, ...] | None:
    """Return layer indices; None means all."""
    if layer is None:
        return None
    return (layer,) if isinstance(layer, int) else tuple(int(one) for one in layer)


def _ids(name: str, experts: int | Sequence[int], *, least: int = 1) -> tuple[int, ...]:
    """Return expert ids.

    Raises:
        InputError: Too few, or no whole numbers.
    """
    several = [experts] if isinstance(experts, int) else list(experts)
    if len(several) < least or not all(isinstance(one, Integral) for one in several):
        raise InputError(f"{name} takes ids of experts, such as [7, 90]; given was {experts!r}.")
    return tuple(int(one) for one in several)


def _span(tokens: Any) -> Tokens:
    """Return positions from, up to, or the name of a phase.

    Raises:
        InputError: They are none.
    """
    if tokens in ("prompt", "generated"):
        phase: Tokens = tokens
        return phase
    if isinstance(tokens, str) or not isinstance(tokens, Sequence) or len(tokens) != 2:
        raise InputError(
            'tokens=(start, stop) takes two positions, or "prompt" or "generated"; given was '
            f"{tokens!r}."
        )
    start, stop = tokens
    if not isinstance(start, Integral) or start < 0 or (stop is not None and stop <= start):
        raise InputError(f"tokens=(start, stop) runs forward from 0 or more; given was {tokens!r}.")
    return int(start), None if stop is None else int(stop)


def _number(name: str, value: Any) -> float:
    """Return a finite number.

    Raises:
        InputError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{name} is a finite number; given was {value!r}.")
    return float(value)

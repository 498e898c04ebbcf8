"""The functions that make edits.

Edits act on the score that a choice is made by (score + bias): what is not asked to change stays as
it is, to the bit. Several edits act together: first all that change who is chosen, in the order in
which they are given, then all that change weights, in theirs. So an expert that is taken out stays
out, and one that is switched off stays off, whatever else is edited.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from v4kit.analysis.used import whole_number
from v4kit.core import NONE
from v4kit.errors import InputError
from v4kit.intervene.arguments import (
    Experts,
    Layers,
    check_choosable,
    ids_of,
    layers_of,
    number_of,
    span_of,
)
from v4kit.intervene.base import Edit, Tokens
from v4kit.intervene.replaying import Replay
from v4kit.intervene.router import RULES, Rule, Simpler, Unshare
from v4kit.intervene.selecting import NUDGED, ON_HASH, Ablate, Nudge, Nudged, OnHash, Steer
from v4kit.intervene.weighing import Budget, Scale

_MOST_SEED = 2**32


def ablate(
    layer: Layers | None = None,
    experts: Experts = (),
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
        layer: Layer index or indices; None means all that it can act on: rerouted without a policy
            for hash layers, those that choose by score, else all with a router.
        experts: Ids of the experts.
        reroute: Choose others in their place.
        renorm: Without rerouting, bring the other weights back to the sum.
        on_hash: For layers whose experts follow from the token id, where nothing can be chosen
            again: "error", "drop" (weight 0), "drop_renorm", or "substitute" (the best others by
            score).
        tokens: Positions `(from, up to)`, or "prompt" or "generated".

    Raises:
        InputError: No experts, an unknown policy, or one that says nothing beside the rest.
    """
    if on_hash not in ON_HASH:
        raise InputError(f"on_hash is one of {', '.join(ON_HASH)}; given was {on_hash!r}.")
    if reroute and renorm:
        raise InputError(
            "renorm says what becomes of the other weights when nobody takes the place; rerouted, "
            "they always add up. Leave it out, or give reroute=False."
        )
    if not reroute and on_hash != "error":
        raise InputError(
            f"on_hash={on_hash!r} says what stands for a new choice; reroute=False makes none, and "
            "acts on hash layers as on all others. Leave on_hash out."
        )
    return Ablate(
        layers=layers_of(layer),
        tokens=span_of(tokens),
        experts=ids_of("ablate", experts),
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
    return Simpler(
        layers=layers_of(layer),
        tokens=span_of(tokens),
        rule=rule,
        seed=whole_number("seed", seed, least=0, most=_MOST_SEED),
    )


def ablate_shared(layer: Layers | None = None, *, tokens: Tokens = (0, None)) -> Edit:
    """Return an edit that takes the shared experts' output away, so that the routed ones are left.

    Its opposite is `ablate_router(rule="nothing")`.

    Args:
        layer: Layer index or indices; None means all with a router.
        tokens: Positions `(from, up to)`, or "prompt" or "generated".
    """
    return Unshare(layers=layers_of(layer), tokens=span_of(tokens))


def steer(
    layer: Layers | None = None,
    *,
    prefer: Experts = (),
    avoid: Experts = (),
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
        layers=layers_of(layer),
        tokens=span_of(tokens),
        prefer=ids_of("steer", prefer, least=0),
        avoid=ids_of("steer", avoid, least=0),
        weight=weight,
    )


def force(
    layer: Layers | None = None,
    experts: Experts = (),
    *,
    weight: Literal["natural", "max"] = "natural",
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that has some experts chosen always; as `steer(prefer=experts)`."""
    return steer(layer, prefer=ids_of("force", experts), weight=weight, tokens=tokens)


def nudge(
    layer: Layers | None = None,
    experts: Experts = (),
    *,
    delta: float,
    on: Nudged = "selection",
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that makes some experts likelier to be chosen, or less likely.

    Args:
        layer: Layer index or indices; None means all that choose by score.
        experts: Ids of the experts.
        delta: What is added to the score of selection, as a bias is, which leaves the weights' rule
            alone; or, with `on="logits"`, by how many times its own size each logit x grows:
            x + delta · |x| (arXiv 2510.04694 steers languages so), which moves weights too.
        on: "selection" or "logits".
        tokens: Positions `(from, up to)`, or "prompt" or "generated".

    Raises:
        InputError: No experts, no number, or neither of the two.
    """
    if on not in NUDGED:
        raise InputError(f"on is one of {', '.join(map(repr, NUDGED))}; given was {on!r}.")
    return Nudge(
        layers=layers_of(layer),
        tokens=span_of(tokens),
        experts=ids_of("nudge", experts),
        delta=number_of("delta", delta),
        on=on,
    )


def scale(
    layer: Layers | None = None,
    experts: Experts = (),
    *,
    factor: float,
    renorm: bool = False,
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that multiplies some experts' weights, as RICE does (arXiv 2505.14681).

    Args:
        layer: Layer index or indices; None means all with a router.
        experts: Ids of the experts.
        factor: What their weights are multiplied with; 0 is a knock-out.
        renorm: Bring the token's weights back to the sum that they had.
        tokens: Positions `(from, up to)`, or "prompt" or "generated".

    Raises:
        InputError: No experts, no number, or one below 0 that weights are to add up with.
    """
    if renorm and number_of("factor", factor) < 0:
        raise InputError(
            f"Weights of both signs can't be brought back to a sum; given was factor={factor}. "
            "Leave renorm out."
        )
    return Scale(
        layers=layers_of(layer),
        tokens=span_of(tokens),
        experts=ids_of("scale", experts),
        factor=number_of("factor", factor),
        renorm=renorm,
    )


def budget(layer: Layers | None = None, *, k: int, tokens: Tokens = (0, None)) -> Edit:
    """Return an edit that leaves a token its `k` best experts; the weights keep their sum.

    Args:
        layer: Layer index or indices; None means all with a router.
        k: How many, from 1 to as many as a token has: more would change the shape of what a router
            returns.
        tokens: Positions `(from, up to)`, or "prompt" or "generated".

    Raises:
        InputError: It is no number of experts.
    """
    return Budget(layers=layers_of(layer), tokens=span_of(tokens), k=whole_number("k", k, least=1))


def replay(
    trace: Any,
    layer: Layers | None = None,
    *,
    weights: bool = False,
    tokens: Tokens = (0, None),
) -> Edit:
    """Return an edit that uses the experts of another run, position by position.

    Positions are all that is aligned: that both texts have the same tokens there is not checked,
    nor that the trace is of a model of the same name, only that it has as many layers, experts and
    slots. Positions where the trace has no experts keep their own. Replaying a run's own routing
    changes nothing, to the bit.

    Args:
        trace: A trace of one document.
        layer: Layer index or indices; None means all with a router.
        weights: Use the trace's weights too; else they come from the scores of the current pass.
        tokens: Positions `(from, up to)`, or "prompt" or "generated".

    Raises:
        InputError: It is no trace, of several documents, has experts that no router can have
            chosen, or no weights that are wanted.
    """
    if not hasattr(trace, "routing") or trace.tokens["document"].nunique() != 1:
        raise InputError("replay takes a trace of one document. Slice it, or read one text.")
    if weights and "weights" not in trace.routing:
        raise InputError("The trace that is replayed has no weights. Replay its experts alone.")
    experts = torch.from_numpy(trace.routing["experts"].to_numpy().astype("int64"))
    asked, span = layers_of(layer), span_of(tokens)
    check_choosable(trace, asked, span)
    places = torch.from_numpy(trace.tokens["position"].to_numpy().astype("int64"))
    source = torch.full((int(places.max()) + 1, *experts.shape[1:]), NONE)
    source[places] = experts
    told = None
    if weights:
        told = torch.full(source.shape, torch.nan)
        told[places] = torch.from_numpy(trace.routing["weights"].to_numpy())
    return Replay(layers=asked, tokens=span, trace=trace, source=source, weights=told)

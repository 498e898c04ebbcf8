"""The barcode of one token: the experts it used in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.core import HASH, NONE, TOKEN, TOPK
from v4kit.figures.labels import caption
from v4kit.figures.reading import Facts, block, facts, row_of
from v4kit.figures.rows import (
    BOTTOM,
    TOP,
    Rows,
    headings,
    layer_axis,
    nothing,
    rail,
    rail_axis,
    rows,
    title,
)
from v4kit.figures.theme import Theme, ThemeName, colour_at, ink_on, scale, template, theme_of
from v4kit.trace import Trace

WIDE = 64
"""Up to so many experts, marks are wide enough to carry their rank."""


@dataclass(frozen=True, slots=True)
class _Token:
    """What one token used."""

    row: int
    """Its row in the trace."""
    experts: np.ndarray
    """`[layer, slot]`, −1 for none."""
    weights: np.ndarray
    """`[layer, slot]`, NaN for none."""
    scores: np.ndarray
    """`[layer, slot]`, NaN for none."""
    ranks: np.ndarray
    """`[layer, slot]`, from 1; 0 where slots have no order."""

    def columns(self, layers: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return the customdata of marks at layers and slots."""
        ids = self.experts[layers, slots]
        weights, scores = self.weights[layers, slots], self.scores[layers, slots]
        first = np.full(ids.shape, self.row)
        columns = [first, layers, ids, self.ranks[layers, slots], weights, scores]
        return np.stack(columns, 1).astype(np.float32)


def token_barcode(trace: Trace, token: int, *, theme: ThemeName = "light") -> go.Figure:
    """Return the experts that one token used in every layer, with their weights and ranks.

    At the left a mark per expert used, at its id; at the right the weights of each layer end to
    end, in order of rank. Hash-routed layers stand apart and, like all layers of a trace without
    ranks, keep the order in which they were recorded.

    Args:
        trace: Any trace.
        token: Row of the trace; negative ones count from the end.
        theme: "light" or "dark".

    Returns:
        A figure whose marks and bars carry the `customdata` columns token, layer, expert, rank
        (0: unranked), weight, score (NaN where not recorded).

    Raises:
        InputError: There is no such token or theme.
    """
    colours, known = theme_of(theme), facts(trace)
    if not len(trace):
        return nothing(template(colours), "Experts of one token", "The trace has no tokens.")
    row = row_of(trace, token)
    about = caption(trace, row)
    used = _token(trace, row, known)
    if not (used.experts != NONE).any():
        reason = "No experts: this token was never fed to the model."
        return nothing(template(colours), about, reason)
    place, top = rows(known), ceiling(known, used.weights)
    figure = go.Figure()
    for kind in (TOPK, HASH):
        if kind in known.kinds:
            figure.add_trace(_marks(used, known, place, kind, (colours, top)))
    if known.weighted:
        figure.add_traces(_stacks(used, known, place, colours))
    shared = rail(known, place, colours)
    figure.add_traces([] if shared is None else [shared])
    figure.update_layout(
        template=template(colours),
        title=title(
            f"Experts of {about}", known.model, f"{known.top_k} of {known.n_experts} per layer",
            f"chance {known.chance:.2%} per expert",
        ),
        height=place.height,
        margin={"l": 54, "r": 24, "t": TOP, "b": BOTTOM},
        annotations=headings(place, colours),
        showlegend=False,
        barmode="overlay",
        bargap=0.24,
        **_axes(known, place, colours, used.weights),
        **_scales(colours, top),
    )  # fmt: skip
    return figure


def ceiling(known: Facts, weights: np.ndarray) -> float:
    """Return the weight that gets the strongest colour: twice an even split, at most all."""
    whole = known.weight_sum
    if whole is None:
        sums = np.nansum(weights, axis=-1)
        whole = float(sums.max(initial=0.0)) or 1.0
    return min(whole, 2 * whole / known.top_k)


def _token(trace: Trace, row: int, known: Facts) -> _Token:
    part = block(trace, row, row + 1)
    experts = part.experts[0]
    missing = np.full(experts.shape, np.nan, np.float32)
    scores = missing
    if "scores" in trace.routing:
        scores = trace.routing["scores"].isel({TOKEN: row}).to_numpy()
    ranks = np.zeros(experts.shape, int)
    for layer in range(len(experts)):
        ranks[layer] = np.arange(1, known.top_k + 1) if known.ranks(layer) else 0
    return _Token(row, experts, missing if part.weights is None else part.weights[0], scores, ranks)


def _marks(
    used: _Token, known: Facts, place: Rows, kind: str, look: tuple[Theme, float]
) -> go.Scatter:
    """Return the marks of all layers of one kind."""
    colours, top = look
    layers, slots = np.nonzero(used.experts != NONE)
    own = np.array([known.kinds[layer] == kind for layer in layers], bool)
    layers, slots = layers[own], slots[own]
    ranked = known.ranked and kind == TOPK
    steps = colours.hash if kind == HASH else colours.learned
    weights = used.weights[layers, slots]
    tints = [colour_at(scale(steps[1:]), float(w) / top) for w in np.nan_to_num(weights)]
    return go.Scatter(
        name=kind,
        mode="markers+text" if ranked and known.n_experts <= WIDE else "markers",
        x=used.experts[layers, slots],
        y=np.array([place.position[layer] for layer in layers], np.int16),
        text=[str(rank or "") for rank in used.ranks[layers, slots]],
        textfont={"color": [ink_on(tint) for tint in tints] if known.weighted else colours.paper},
        customdata=used.columns(layers, slots),
        marker={
            "symbol": "line-ns-open",
            "size": place.pixels * 0.62,
            "line": {"width": max(3.0, min(17.0, 0.8 * 560 / known.n_experts))},
            **(
                {"color": weights, "coloraxis": "coloraxis2" if kind == HASH else "coloraxis"}
                if known.weighted
                else {"color": steps[4]}
            ),
        },
        hovertemplate=hover(known, kind, scored=bool(np.isfinite(used.scores).any())),
    )


def _stacks(used: _Token, known: Facts, place: Rows, colours: Theme) -> list[go.Bar]:
    """Return the weights of all layers, one trace per slot, end to end."""
    layers = np.array([i for i, kind in enumerate(known.kinds) if kind in (TOPK, HASH)], int)
    starts = np.nancumsum(used.weights, axis=1) - np.nan_to_num(used.weights)
    scored = bool(np.isfinite(used.scores).any())
    bars = []
    for slot in range(known.top_k):
        slots = np.full(len(layers), slot)
        tints = [_tint(known, i, slot, colours) for i in layers]
        bars.append(
            go.Bar(
                name=f"slot {slot}",
                orientation="h",
                x=used.weights[layers, slot],
                base=starts[layers, slot],
                y=np.array([place.position[layer] for layer in layers]),
                marker={"color": tints, "line": {"color": colours.paper, "width": 1}},
                customdata=used.columns(layers, slots),
                hovertemplate=[hover(known, known.kinds[i], scored=scored) for i in layers],
                xaxis="x3",
            )
        )
    return bars


def _tint(known: Facts, layer: int, slot: int, colours: Theme) -> str:
    """Return a bar's colour: paler with each rank, the same for all where there are none."""
    steps = colours.hash if known.kinds[layer] == HASH else colours.learned
    ranked = known.ranks(layer)
    return colour_at(scale(steps), 0.78 - 0.42 * slot / known.top_k if ranked else 0.56)


def hover(known: Facts, kind: str, *, scored: bool) -> str:
    """Return the hover text of a mark; ranks only where there are any."""
    how = "learned router" if kind == TOPK else "hash-routed"
    ranked = known.ranked and kind == TOPK
    lines = [
        f"token %{{customdata[0]}} · layer %{{customdata[1]}} ({how})",
        "expert %{customdata[2]}" + (" · rank %{customdata[3]}" if ranked else " · unranked"),
    ]
    lines += ["weight %{customdata[4]:.4f}"] if known.weighted else []
    lines += ["score %{customdata[5]:.4f}"] if scored else []
    return "<br>".join(lines) + "<extra></extra>"


def _scales(colours: Theme, top: float) -> dict[str, Any]:
    shared = {"cmin": 0, "cmax": top, "showscale": False}
    return {
        "coloraxis": {"colorscale": scale(colours.learned[1:]), **shared},
        "coloraxis2": {"colorscale": scale(colours.hash[1:]), **shared},
    }


def _axes(known: Facts, place: Rows, colours: Theme, weights: np.ndarray) -> dict[str, Any]:
    """Return the axes: experts, the rail of shared experts, weights."""
    right = 0.66 if known.weighted else 0.94
    whole = known.weight_sum or float(np.nansum(weights, axis=-1).max(initial=0)) or 1.0
    axes: dict[str, Any] = {
        "xaxis": {
            "title": {"text": "expert"},
            "domain": [0, right],
            "range": [-0.9, known.n_experts - 0.1],
            "dtick": max(1, 2 ** int(np.log2(max(known.n_experts / 8, 1)))),
            "tick0": 0,
        },
        "yaxis": {**layer_axis(known, place), "showgrid": True, "gridcolor": colours.grid},
    }
    if known.n_shared:
        axes["xaxis2"] = {**rail_axis(known), "domain": [right + 0.015, right + 0.04]}
    if known.weighted:
        sums = f" (sum {known.weight_sum:g})" if known.weight_sum else ""
        axes["xaxis3"] = {
            "title": {"text": f"weights{sums}" + (", by rank" if known.ranked else "")},
            "domain": [0.74, 1],
            "range": [0, whole * 1.01],
            "anchor": "y",
            "nticks": 5,
        }
    return axes

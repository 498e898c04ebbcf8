"""The layer × expert map of a span of tokens."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from v4kit.core import DENSE, HASH, TOPK
from v4kit.errors import InputError
from v4kit.figures.reading import Facts, Span, Tally, bounds, facts, tally
from v4kit.figures.rows import (
    BOTTOM,
    RAIL,
    TOP,
    Rows,
    grid,
    headings,
    layer_axis,
    nothing,
    rail,
    rail_axis,
    rows,
    title,
)
from v4kit.figures.theme import Theme, ThemeName, scale, template, theme_of
from v4kit.trace import Trace

Value = Literal["count", "weight", "share"]

_NAMES = {"count": "tokens", "share": "share of tokens", "weight": "weight per token"}
_SHORT = {"count": "tokens", "share": "share", "weight": "weight"}
_FORMATS = {"count": ",.0f", "share": ".1%", "weight": ".3f"}


def routing_map(
    trace: Trace, *, span: Span = None, value: Value = "count", theme: ThemeName = "light"
) -> go.Figure:
    """Return a map of how often each layer used each expert over a span of tokens.

    Columns are experts, rows are layers; hash-routed layers stand apart on top in a colour of their
    own, dense layers are grey, shared experts a rail at the side. The third step of each colour
    scale is chance, top-k ÷ experts: cells nearer to the background got less, stronger ones more.

    Args:
        trace: Any trace.
        span: Rows `(start, stop)`, the end excluded; all rows if not given.
        value: "count": tokens that used the expert. "share": these over all tokens of the span, so
            that a layer sums to top-k. "weight": sum of its weights over all tokens of the span.
        theme: "light" or "dark".

    Returns:
        A figure whose heatmaps carry the `customdata` columns token (−1: many), layer, expert (−1:
        shared or none), times used, tokens.

    Raises:
        InputError: A bad span, value or theme, or weights are asked for and not recorded.
    """
    colours, known = theme_of(theme), facts(trace)
    _check(value, known)
    start, stop = bounds(trace, span)
    where = f"rows {start:,}–{stop - 1:,}" if span is not None else ""
    return map_of(known, tally(trace, (start, stop)), colours, value=value, where=where)


def map_of(
    known: Facts, counted: Tally, colours: Theme, *, value: Value = "count", where: str = ""
) -> go.Figure:
    """Return the map of counts that are already there."""
    n = int(counted.tokens.max(initial=0))
    if not n:
        reason = "No token of this span was routed."
        return nothing(template(colours), "Experts used", reason)
    place = rows(known)
    cells, even = _cells(counted, known, value)
    figure = go.Figure()
    bars: dict[str, Any] = {}
    for kind, axis in ((TOPK, "coloraxis"), (HASH, "coloraxis2")):
        layers = [i for i, k in enumerate(known.kinds) if k == kind]
        if layers:
            figure.add_trace(
                _heat(cells, counted, known, place, layers, how=(value, axis, even[kind]))
            )
            bars[axis] = _bar(cells[layers], even[kind], kind, value, colours=colours, place=place)
    figure.add_traces(_side(known, place, colours))
    chance = f"chance {known.chance:.2%} of tokens"
    figure.update_layout(
        template=template(colours),
        title=title(
            f"Experts used by {n:,} token{'s' * (n != 1)}", known.model, where,
            f"{known.top_k} of {known.n_experts} experts per token", chance,
        ),
        height=place.height,
        margin={"l": 54, "r": 96, "t": TOP, "b": BOTTOM},
        xaxis=_expert_axis(known),
        yaxis=layer_axis(known, place),
        annotations=headings(place, colours),
        **({"xaxis2": rail_axis(known)} if known.n_shared else {}),
        **bars,
    )  # fmt: skip
    return figure


def _check(value: str, known: Facts) -> None:
    if value not in _NAMES:
        raise InputError(
            f"value is one of {', '.join(map(repr, _NAMES))}; given was {value!r}. "
            'Use "count" for plain numbers of tokens.'
        )
    if value == "weight" and not known.weighted:
        raise InputError(
            'value="weight" needs weights, and this trace was recorded without them. '
            'Use value="count", or record with weights.'
        )


def _cells(counted: Tally, known: Facts, value: Value) -> tuple[np.ndarray, dict[str, float]]:
    """Return the values `[layer, expert]` and, for each kind, what an even split would give."""
    tokens = np.maximum(counted.tokens, 1)[:, None]
    cells = counted.count if value == "count" else counted.count / tokens
    if value == "weight" and counted.weight is not None:
        cells = counted.weight / tokens
    even = {}
    for kind in (TOPK, HASH):
        routed = [i for i, k in enumerate(known.kinds) if k == kind and counted.tokens[i]]
        even[kind] = float(cells[routed].mean()) if routed else 0.0
    return cells.astype(np.float32), even


def _heat(
    cells: np.ndarray,
    counted: Tally,
    known: Facts,
    place: Rows,
    layers: list[int],
    *,
    how: tuple[Value, str, float],
) -> go.Heatmap:
    """Return the heatmap of one kind of layers."""
    value, axis, even = how
    band = np.arange(place.position[layers[0]], place.position[layers[-1]] + 1)
    marks = np.zeros((place.total, known.n_experts, 5), np.int32)
    for layer in layers:
        row = marks[place.position[layer]]
        row[:, 0], row[:, 1], row[:, 2] = -1, layer, np.arange(known.n_experts)
        row[:, 3], row[:, 4] = counted.count[layer], counted.tokens[layer]
    marks = marks[band]
    few = known.n_experts <= 96
    shown = f"<br>{_NAMES[value]} %{{z:{_FORMATS[value]}}}" if value != "count" else ""
    return go.Heatmap(
        name=known.kinds[layers[0]],
        z=grid(cells, place, layers)[band],
        x=np.arange(known.n_experts),
        y=band,
        customdata=marks if marks.max() > np.iinfo(np.int16).max else marks.astype(np.int16),
        coloraxis=axis,
        xgap=1 if few else 0,
        ygap=1,
        hoverongaps=False,
        hovertemplate=(
            "layer %{customdata[1]} (" + _router(known, layers[0]) + ")<br>"
            "expert %{customdata[2]}<br>used by %{customdata[3]:,} of %{customdata[4]:,} tokens"
            f"{shown}<br>an even split gives {_even(even, value)}<extra></extra>"
        ),
    )


def _even(even: float, value: Value) -> str:
    """Return the value of an even split as text; small counts with a decimal."""
    return f"{even:,.1f}" if value == "count" and even < 100 else f"{even:{_FORMATS[value]}}"


def _router(known: Facts, layer: int) -> str:
    return "learned router" if known.kinds[layer] == TOPK else "hash-routed"


def _bar(
    cells: np.ndarray, even: float, kind: str, value: Value, *, colours: Theme, place: Rows
) -> dict[str, Any]:
    """Return a colour axis from nothing to the most, with chance marked."""
    top = float(cells.max(initial=0)) or 1.0
    word = "even" if value == "weight" else "chance"
    ticks = {0.0: "0", top: f"{top:{_FORMATS[value]}}", even: f"{word} {_even(even, value)}"}
    crowded = [tick for tick in (0.0, top) if abs(tick - even) < 0.09 * top]
    for tick in crowded:
        del ticks[tick]
    hashed = kind == HASH
    plot = place.height - TOP - BOTTOM
    size = max(0.26, min(0.45, 120 / plot)) if hashed else 0.53
    return {
        "cmin": 0,
        "cmax": top,
        "colorscale": scale(colours.hash if hashed else colours.learned, even / top),
        "colorbar": {
            "title": {"text": ("hash: " if hashed else "") + _SHORT[value], "font": {"size": 11}},
            "tickmode": "array",
            "tickvals": list(ticks),
            "ticktext": list(ticks.values()),
            "tickfont": {"size": 10},
            "thickness": 11,
            "len": size,
            "y": 1 if hashed else 0,
            "yanchor": "top" if hashed else "bottom",
            "x": 1.005,
            "xpad": 6,
            "ypad": 0,
            "outlinewidth": 0,
        },
    }


def _side(known: Facts, place: Rows, colours: Theme) -> list[go.Heatmap]:
    """Return dense layers as grey rows, and the rail of shared experts."""
    drawn = []
    dense = [i for i, kind in enumerate(known.kinds) if kind == DENSE]
    if dense:
        marks = np.full((place.total, 1, 3), -1, np.int32)
        marks[[place.position[layer] for layer in dense], 0, 1] = dense
        drawn.append(
            go.Heatmap(
                name="dense",
                z=grid(np.ones((len(known.kinds), 1)), place, dense),
                x0=(known.n_experts - 1) / 2,
                dx=known.n_experts,
                y=np.arange(place.total),
                customdata=marks,
                colorscale=[(0, colours.dense), (1, colours.dense)],
                showscale=False,
                ygap=3,
                hoverongaps=False,
                hovertemplate="layer %{customdata[1]}<br>dense: no experts<extra></extra>",
            )
        )
    shared = rail(known, place, colours)
    return drawn if shared is None else [*drawn, shared]


def _expert_axis(known: Facts) -> dict[str, Any]:
    step = max(1, 2 ** int(np.log2(max(known.n_experts / 8, 1))))
    return {
        "title": {"text": "expert"},
        "range": [-0.5, known.n_experts - 0.5],
        "dtick": step,
        "tick0": 0,
        "domain": [0, RAIL[0] - 0.012 if known.n_shared else 1],
    }

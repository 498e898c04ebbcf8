"""How much attention goes to the sinks: to no token at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.core import LAYER, NONE, TOKEN
from v4kit.figures.attended import heads_of, kind_axis, kinds_of
from v4kit.figures.labels import escape
from v4kit.figures.reading import BLOCK, Span, bounds, facts
from v4kit.figures.rows import note, nothing, percent, title
from v4kit.figures.theme import Theme, ThemeName, scale, template, theme_of
from v4kit.trace import Trace

STEPS = 2_000
"""Steps between 0 and 1 in which quartiles are counted: they are exact to half a thousandth."""
_MAIN = "Attention that goes to no token: the sinks"
_TOP, _BOTTOM = 84, 96


@dataclass(frozen=True, slots=True)
class _Sinks:
    """The sinks' share over some tokens, by layer and head; one head where only the mean is."""

    mean: np.ndarray
    """Mean `[layer, head]`."""
    quartiles: np.ndarray
    """First quartile, median, third quartile `[3, layer, head]`."""
    tokens: int
    """Tokens that count."""


def sink_strength(trace: Trace, *, span: Span = None, theme: ThemeName = "light") -> go.Figure:
    """Return the share of each layer's attention that goes to no token, by head where recorded.

    Each head of V4 has a learned sink that takes part in its softmax without standing for a token.
    With heads apart: a map of layers and heads, the mean over the tokens, the quartiles over the
    tokens in the hover box, and the mean of all heads beside it. With the heads' mean: a bar per
    layer, with a line from the first to the third quartile and a mark at the median.

    Args:
        trace: A trace with attention.
        span: Rows `(start, stop)`, the end excluded; all rows if not given.
        theme: "light" or "dark".

    Returns:
        A figure whose cells or bars carry the `customdata` columns token (−1: many), layer, expert
        (−1), head (−1: the mean), mean, first quartile, median, third quartile, tokens.

    Raises:
        TraceError: Attention was not recorded.
        InputError: A bad span or theme.
    """
    colours, heads = theme_of(theme), heads_of(trace)
    start, stop = bounds(trace, span)
    sinks = _read(trace, (start, stop))
    if not sinks.tokens:
        return nothing(template(colours), _MAIN, "No token of this span was fed to the model.")
    if not trace.meta["architecture"].get("sinks", sinks.mean.any()):
        reason = "None of the layers has an attention sink: all attention goes to tokens."
        return nothing(template(colours), _MAIN, reason)
    pixels = max(13, min(32, 540 // len(sinks.mean)))
    figure = _bars(trace, sinks, colours) if heads is None else _map(trace, sinks, colours)
    where = f"rows {start:,}–{stop - 1:,}" if span is not None else ""
    spread = "quartiles over the tokens" + ("" if heads is None else " in the hover boxes")
    figure.update_layout(
        template=template(colours),
        title=title(
            _MAIN, facts(trace).model, where, f"mean over n = {sinks.tokens:,} tokens", spread
        ),
        height=len(sinks.mean) * pixels + _TOP + _BOTTOM,
        margin={"l": 92, "r": 92, "t": _TOP, "b": _BOTTOM},
        yaxis=kind_axis(trace, pixels),
        annotations=[note(*_words(heads), left=80)],
        showlegend=False,
    )
    return figure


def _words(heads: int | None) -> list[str]:
    if heads is not None:
        return ["Each cell is the mean over the tokens; at the right, of all heads together."]
    return [
        "Bar: mean. Line: first to third quartile of the tokens; mark: median. Mean of the heads:",
        'v4kit.Record(heads="each") keeps them apart.',
    ]


def _read(trace: Trace, rows: tuple[int, int]) -> _Sinks:
    values = trace.require_attention().values["sink"]
    layers, heads = values.sizes[LAYER], heads_of(trace) or 1
    total, count = np.zeros((layers, heads)), 0
    steps = np.zeros((layers * heads, STEPS + 1), np.int64)
    step = max(1, min(BLOCK, 2**22 // (layers * heads)))
    for first in range(rows[0], rows[1], step):
        some = values.isel({TOKEN: slice(first, min(first + step, rows[1]))}).to_numpy()
        some = some.reshape(len(some), layers, heads)
        some = some[np.isfinite(some).all(axis=(1, 2))]
        total += some.sum(axis=0, dtype=np.float64)
        count += len(some)
        place = np.rint(some.clip(0, 1) * STEPS).astype(np.int64).reshape(len(some), layers * heads)
        place += np.arange(layers * heads) * (STEPS + 1)
        steps += np.bincount(place.ravel(), minlength=steps.size).reshape(steps.shape)
    below = np.cumsum(steps, axis=1)
    ends = [(below < part * max(count, 1)).sum(axis=1) / STEPS for part in (0.25, 0.5, 0.75)]
    return _Sinks(total / max(count, 1), np.stack(ends).reshape(3, layers, heads), count)


def _columns(sinks: _Sinks, heads: np.ndarray) -> np.ndarray:
    """Return the customdata `[layer, head, column]`."""
    layers = len(sinks.mean)
    marks = np.full((layers, len(heads), 9), float(NONE), np.float32)
    marks[..., 1] = np.arange(layers)[:, None]
    marks[..., 3] = heads
    marks[..., 4] = sinks.mean
    marks[..., 5:8] = np.moveaxis(sinks.quartiles, 0, -1)
    marks[..., 8] = sinks.tokens
    return marks


def _hover(who: str) -> str:
    return (
        f"layer %{{customdata[1]}} (%{{text}}){who}<br>sink: %{{customdata[4]:.2%}} in the mean of "
        "%{customdata[8]:,} tokens<br>quartiles %{customdata[5]:.1%}, %{customdata[6]:.1%}, "
        "%{customdata[7]:.1%}<extra></extra>"
    )


def _bars(trace: Trace, sinks: _Sinks, colours: Theme) -> go.Figure:
    """Return a bar per layer."""
    layers = np.arange(len(sinks.mean))
    low, middle, high = sinks.quartiles[:, :, 0]
    names = [escape(kind) for kind in kinds_of(trace)]
    shared = {"customdata": _columns(sinks, np.array([NONE]))[:, 0], "text": names, "y": layers}
    figure = go.Figure(
        go.Bar(
            name="mean",
            orientation="h",
            x=sinks.mean[:, 0].astype(np.float32),
            textposition="none",
            marker={"color": colours.nowhere[2], "line": {"width": 0}},
            hovertemplate=_hover(""),
            **shared,
        )
    )
    figure.add_trace(
        go.Scatter(
            name="quartiles",
            mode="lines",
            x=np.stack([low, high, np.full(len(low), np.nan)], 1).ravel(),
            y=np.repeat(layers, 3),
            line={"color": colours.nowhere[4], "width": 3},
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            name="median",
            mode="markers",
            x=middle,
            marker={"color": colours.ink, "symbol": "line-ns-open", "size": 12, "line_width": 2},
            hovertemplate=_hover(""),
            **shared,
        )
    )
    top = max(float(high.max()), float(sinks.mean.max()))
    axis = {"title": {"text": "share of the attention"}, "tickformat": percent(top)}
    return figure.update_layout(
        xaxis={**axis, "range": [0, top * 1.05], "showgrid": True}, bargap=0.3
    )


def _map(trace: Trace, sinks: _Sinks, colours: Theme) -> go.Figure:
    """Return a cell per layer and head, and beside them the mean of all heads."""
    layers, heads = sinks.mean.shape
    names = [escape(kind) for kind in kinds_of(trace)]
    few = heads <= 96
    figure = go.Figure(
        go.Heatmap(
            name="heads",
            z=sinks.mean.astype(np.float32),
            x=np.arange(heads),
            y=np.arange(layers),
            text=[[name] * heads for name in names],
            customdata=_columns(sinks, np.arange(heads)),
            coloraxis="coloraxis",
            xgap=1 if few else 0,
            ygap=1,
            hovertemplate=_hover(", head %{customdata[3]}"),
        )
    )
    every = sinks.mean.mean(axis=1, keepdims=True)
    marks = np.full((layers, 1, 5), float(NONE), np.float32)
    marks[:, 0, 1], marks[:, 0, 4] = np.arange(layers), sinks.tokens
    figure.add_trace(
        go.Heatmap(
            name="all heads",
            z=every.astype(np.float32),
            x=[0],
            y=np.arange(layers),
            text=[[name] for name in names],
            customdata=marks,
            coloraxis="coloraxis",
            xaxis="x2",
            ygap=1,
            texttemplate="%{z:.0%}",
            textfont={"size": 10},
            hovertemplate="layer %{customdata[1]} (%{text}), all heads<br>sink: %{z:.2%} in the "
            "mean of %{customdata[4]:,} tokens<extra></extra>",
        )
    )
    top = float(sinks.mean.max())
    return figure.update_layout(
        xaxis={
            "title": {"text": "head"}, "domain": [0, 0.9], "range": [-0.5, heads - 0.5],
            "dtick": max(1, 2 ** int(np.log2(max(heads / 8, 1)))), "tick0": 0,
        },
        xaxis2={"domain": [0.92, 1], "tickvals": [0], "ticktext": ["all"], "ticks": "",
                "anchor": "y"},
        coloraxis=_scale(colours, top),
    )  # fmt: skip


def _scale(colours: Theme, top: float) -> dict[str, Any]:
    return {
        "cmin": 0, "cmax": top, "colorscale": scale(colours.nowhere),
        "colorbar": {
            "title": {"text": "sink", "font": {"size": 11}}, "tickfont": {"size": 10},
            "tickformat": percent(top), "nticks": 5, "thickness": 11, "outlinewidth": 0,
            "x": 1.005, "xpad": 6, "ypad": 0,
        },
    }  # fmt: skip

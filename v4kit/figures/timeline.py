"""One layer over time: which experts each token used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.core import HASH, NONE
from v4kit.figures.barcode import ceiling
from v4kit.figures.labels import token_label, visible
from v4kit.figures.reading import Facts, Span, block, blocks, bounds, facts, layer_of
from v4kit.figures.rows import nothing, title
from v4kit.figures.theme import Theme, ThemeName, scale, template, theme_of
from v4kit.trace import Trace

COLUMNS = 4_000
"""Up to so many tokens, every token has its own column."""
BINS = 250
"""Most columns of the aggregated picture."""
LABELLED = 48
"""Up to so many tokens, their texts stand below the columns."""
WIDTH = 780
"""Pixels that the plot is expected to be wide."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer over the rows of a span."""

    index: int
    """Its number."""
    start: int
    """First row of the span."""
    experts: np.ndarray
    """`[token, slot]`, −1 for none."""
    weights: np.ndarray | None
    """`[token, slot]`, NaN for none; None if the trace holds none."""


def layer_timeline(
    trace: Trace, layer: int, *, span: Span = None, theme: ThemeName = "light"
) -> go.Figure:
    """Return the experts of one layer, token after token.

    Columns are tokens in order, rows are experts, a mark is an expert used, its colour the weight.
    Beyond 4,000 tokens neighbouring tokens share a column, whose colour is the share of its tokens
    that used the expert; the axis title says how many share it.

    Args:
        trace: Any trace.
        layer: A layer with a router.
        span: Rows `(start, stop)`, the end excluded; all rows if not given.
        theme: "light" or "dark".

    Returns:
        A figure whose marks carry the `customdata` columns token (the first one of a shared
        column), layer, expert, and: rank (0: unranked), weight (NaN: not recorded), position and
        document, or, in shared columns, times used and tokens.

    Raises:
        InputError: There is no such layer, or a bad span or theme.
    """
    colours, known = theme_of(theme), facts(trace)
    part = _read(trace, layer_of(trace, layer), bounds(trace, span))
    routed = int((part.experts != NONE).any(axis=1).sum())
    main = f"Layer {part.index}, token by token"
    if not routed:
        return nothing(template(colours), main, f"None of {len(part.experts)} tokens was routed.")
    if len(part.experts) > COLUMNS:
        figure = _shared_columns(part, known, colours)
    else:
        figure = _marked(trace, part, known, colours)
    hashed = known.kinds[part.index] == HASH
    figure.update_layout(
        template=template(colours),
        title=title(
            main, known.model,
            "hash-routed: the token id alone decides" if hashed else "learned router",
            f"{routed:,} tokens", f"chance {known.chance:.2%} per expert",
        ),
        yaxis={
            "title": {"text": "expert"},
            "range": [known.n_experts - 0.5, -0.5],
            "tickmode": "array",
            "tickvals": list(range(0, known.n_experts, max(1, known.n_experts // 8))),
        },
        height=_height(known) + 80 + int(figure.layout.margin.b),
        showlegend=False,
    )  # fmt: skip
    return figure


def _read(trace: Trace, layer: int, rows: tuple[int, int]) -> _Layer:
    start, stop = rows
    parts = [block(trace, first, end, layer=layer) for first, end in blocks(start, stop)]
    if not parts:
        return _Layer(layer, start, np.zeros((0, facts(trace).top_k), int), None)
    weights = [part.weights for part in parts if part.weights is not None]
    experts = np.concatenate([part.experts for part in parts]).astype(int)
    return _Layer(layer, start, experts, np.concatenate(weights) if weights else None)


def _marked(trace: Trace, part: _Layer, known: Facts, colours: Theme) -> go.Figure:
    """Return one mark per token and expert used."""
    n = len(part.experts)
    rows, slots = np.nonzero(part.experts != NONE)
    steps = colours.hash if known.kinds[part.index] == HASH else colours.learned
    values = np.full(len(rows), np.nan) if part.weights is None else part.weights[rows, slots]
    texts = [token_label(text) for text in trace.tokens["text"].iloc[part.start : part.start + n]]
    height = _height(known)
    size = max(2.6, min(22.0, 0.86 * WIDTH / n, 1.4 * height / known.n_experts))
    coloured = {"color": values, "coloraxis": "coloraxis"}
    figure = go.Figure(
        go.Scatter(
            mode="markers",
            x=rows + part.start,
            y=part.experts[rows, slots],
            text=[texts[row] for row in rows],
            customdata=_columns(trace, part, known, (rows, slots), values),
            hovertemplate=_hover(trace, part, known),
            marker={
                "symbol": "square",
                "size": size,
                **({"color": steps[4]} if part.weights is None else coloured),
            },
        )
    )
    if part.weights is not None:
        axis = _bar(steps[1:], ceiling(known, part.weights), "weight", ".2f")
        figure.update_layout(coloraxis=axis)
    return figure.update_layout(**_token_axis(trace, part))


def _columns(
    trace: Trace,
    part: _Layer,
    known: Facts,
    marks: tuple[np.ndarray, np.ndarray],
    values: np.ndarray,
) -> np.ndarray:
    """Return the customdata of marks at rows and slots."""
    rows, slots = marks
    ranks = slots + 1 if known.ranks(part.index) else np.zeros(len(rows))
    tokens = trace.tokens.iloc[part.start + rows]
    columns = [
        rows + part.start,
        np.full(len(rows), part.index),
        part.experts[rows, slots],
        ranks,
        values,
        tokens["position"].to_numpy(),
        tokens["document"].to_numpy(),
    ]
    return np.stack(columns, 1).astype(np.float32)


def _hover(trace: Trace, part: _Layer, known: Facts) -> str:
    several = trace.tokens["document"].nunique() > 1
    where = ", position %{customdata[5]} of document %{customdata[6]}" if several else ""
    rank = "rank %{customdata[3]}" if known.ranks(part.index) else "unranked"
    lines = [
        "<b>“%{text}”</b> token %{customdata[0]}" + where,
        known.describe(part.index),
        "expert %{customdata[2]} · " + rank,
    ]
    lines += ["weight %{customdata[4]:.4f}"] if part.weights is not None else []
    return "<br>".join(lines) + "<extra></extra>"


def _height(known: Facts) -> int:
    return max(240, min(512, 12 * known.n_experts))


def _token_axis(trace: Trace, part: _Layer) -> dict[str, Any]:
    """Return the token axis: texts where they fit, row numbers elsewhere."""
    n = len(part.experts)
    axis: dict[str, Any] = {
        "title": {"text": "token"},
        "range": [part.start - 0.7, part.start + n - 0.3],
    }
    bottom = 52
    if n <= LABELLED:
        texts = trace.tokens["text"].iloc[part.start : part.start + n]
        room = 12 + 7 * min(14, max(len(visible(text)) for text in texts))
        axis |= {
            "tickmode": "array",
            "tickvals": list(range(part.start, part.start + n)),
            "ticktext": [token_label(text, limit=14) for text in texts],
            "tickangle": -90,
            "title": {"text": f"token, rows {part.start}–{part.start + n - 1}"},
        }
        bottom = room + 44
    return {"xaxis": axis, "margin": {"l": 60, "r": 88, "t": 80, "b": bottom}}


def _shared_columns(part: _Layer, known: Facts, colours: Theme) -> go.Figure:
    """Return a heatmap whose columns stand for several tokens each."""
    n = len(part.experts)
    width = -(-n // BINS)
    columns = -(-n // width)
    counts = np.zeros((known.n_experts, columns), np.int32)
    rows, slots = np.nonzero(part.experts != NONE)
    np.add.at(counts, (part.experts[rows, slots], rows // width), 1)
    routed = np.bincount(
        np.flatnonzero((part.experts != NONE).any(axis=1)) // width, minlength=columns
    )
    marks = np.zeros((*counts.shape, 5), np.int32)
    marks[..., 0] = part.start + np.arange(columns) * width
    marks[..., 1], marks[..., 2] = part.index, np.arange(known.n_experts)[:, None]
    marks[..., 3], marks[..., 4] = counts, routed
    share = (counts / np.maximum(routed, 1)).astype(np.float32)
    top = float(share.max(initial=0)) or 1.0
    steps = colours.hash if known.kinds[part.index] == HASH else colours.learned
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=part.start + np.arange(columns) * width + (width - 1) / 2,
            y=np.arange(known.n_experts),
            coloraxis="coloraxis",
            customdata=marks,
            hovertemplate=(
                f"{width} tokens from %{{customdata[0]:,}} on<br>{known.describe(part.index)}<br>"
                "expert %{customdata[2]} · used by %{customdata[3]} of %{customdata[4]} tokens"
                "<br>%{z:.1%} · " + f"chance {known.chance:.2%}<extra></extra>"
            ),
        )
    )
    axis = _bar(steps, top, "share", ".0%")
    axis["colorscale"] = scale(steps, known.chance / top)
    axis["colorbar"] |= {
        "tickmode": "array",
        "tickvals": [0, known.chance, top],
        "ticktext": ["0", f"chance {known.chance:.1%}", f"{top:.0%}"],
    }
    return figure.update_layout(
        coloraxis=axis,
        xaxis={"title": {"text": f"token, {width} to a column (aggregated: {n:,} tokens)"}},
        margin={"l": 60, "r": 96, "t": 80, "b": 52},
    )


def _bar(steps: tuple[str, ...], top: float, name: str, form: str) -> dict[str, Any]:
    return {
        "cmin": 0,
        "cmax": top,
        "colorscale": scale(steps),
        "colorbar": {
            "title": {"text": name, "font": {"size": 11}},
            "tickfont": {"size": 10},
            "tickformat": form,
            "thickness": 11,
            "outlinewidth": 0,
            "x": 1.005,
            "ypad": 0,
        },
    }

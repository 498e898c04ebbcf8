"""Which compressed blocks a layer's indexer chose, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.attention import View
from v4kit.core import NONE
from v4kit.errors import InputError
from v4kit.figures.attended import (
    attended_layer,
    describe,
    kept_sources,
    name_sources,
)
from v4kit.figures.labels import escape
from v4kit.figures.queries import Queries, queries_of
from v4kit.figures.reading import Span, bounds, facts
from v4kit.figures.rows import note, nothing, percent, title
from v4kit.figures.theme import Scale, Theme, ThemeName, scale, template, theme_of
from v4kit.figures.visible_blocks import Blocks, blocks_of
from v4kit.trace import Trace

_TOP, _BOTTOM = 112, 116
_NOTHING = 1e-7
"""Part of the strongest colour's mass below which a block counts as holding none."""
_MAIN = "Blocks that the indexer chose"


def chosen_blocks(
    trace: Trace,
    layer: int,
    *,
    span: Span = None,
    document: int | None = None,
    theme: ThemeName = "light",
) -> go.Figure:
    """Return which blocks each token of a document could see, and what the indexer chose.

    On top how many blocks a token sees and how many of them were chosen; below it chosen ÷ visible,
    and the share of the attention that goes to blocks. These are exact. In the map a column is a
    token, a row a block, a grey cell a block that the token sees, a coloured one a block that holds
    a known mass (the mean over the heads). Where all masses were kept, those are the chosen ones;
    where only the strongest sources were, a grey block may have been chosen too, and the figure
    says so. Beyond 320 tokens or blocks, neighbours share a column or row.

    Args:
        trace: A trace with attention.
        layer: A layer with an indexer: its attention kind is csa.
        span: Rows `(start, stop)` of tokens, the end excluded; all rows if not given.
        document: Its number; the first one of the span if not given.
        theme: "light" or "dark".

    Returns:
        A figure whose lines and heatmap carry the `customdata` columns token (the first one of a
        shared column), layer, expert (−1), its position; lines go on with visible blocks, chosen
        blocks and mass on blocks (means); the heatmap with first and last block (−1: none), pairs
        of token and block with a known mass, and visible pairs.

    Raises:
        TraceError: Attention was not recorded.
        InputError: The layer has no indexer; or there is no such document or theme, or a bad span.
    """
    colours, layer = theme_of(theme), _indexed(trace, layer)
    view = trace.require_attention().views[layer]
    main = f"{_MAIN}, {escape(describe(trace, layer))}"
    some = queries_of(trace, bounds(trace, span), document)
    found = blocks_of(trace, layer, some) if len(some.chosen) else None
    if found is None or not found.seeing:
        reason = "No token of this span was fed to the model."
        if found is not None:
            reason = "None of these tokens sees a block: blocks are visible once they are complete."
        return nothing(template(colours), main, reason)
    figure = go.Figure(_map(found, some, layer))
    figure.add_traces(_lines(found, some, layer, colours))
    every = kept_sources(trace) is None
    figure.update_layout(
        template=template(colours),
        title=title(main, facts(trace).model, some.name, name_sources(trace), "mean of the heads"),
        height=620,
        margin={"l": 64, "r": 92, "t": _TOP, "b": _BOTTOM},
        annotations=[note(*_words(view, every=every), shift=50, left=52)],
        legend={
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom",
            "font": {"size": 11}, "itemclick": False, "itemdoubleclick": False,
        },
        **_axes(found, some),
        coloraxis=_scale(found, colours),
    )  # fmt: skip
    return figure


def _indexed(trace: Trace, layer: int) -> int:
    """Return a layer that has an indexer, checked."""
    layer = attended_layer(trace, layer)
    kinds = [part["attention"] for part in trace.meta["architecture"]["layers"]]
    if kinds[layer] == "csa":
        return layer
    indexed = ", ".join(str(i) for i, kind in enumerate(kinds) if kind == "csa")
    raise InputError(
        f"Layer {layer} ({kinds[layer]}) has no indexer that chooses blocks. "
        f"Layers with one (csa): {indexed or 'none in this model'}."
    )


def _lines(found: Blocks, some: Queries, layer: int, colours: Theme) -> list[go.Scatter]:
    """Return counts on top, and below them chosen ÷ visible and the mass on blocks."""
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(found.visible > 0, found.chosen / found.visible, np.nan)
    first = found.queries.starts
    marks = np.stack(
        [
            some.chosen[first], np.full(len(first), layer), np.full(len(first), NONE),
            some.positions[first], found.visible, found.chosen, found.compressed,
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip
    hover = "<br>".join(
        [
            _who(found), "%{customdata[5]:,.1f} of %{customdata[4]:,.1f} visible blocks chosen",
            "blocks hold %{customdata[6]:.1%} of the attention<extra></extra>",
        ]
    )  # fmt: skip
    looks_of = (
        ("visible blocks", found.visible, "y2", {"color": colours.muted, "width": 1.5}),
        ("chosen blocks", found.chosen, "y2", {"color": colours.blocks[4], "width": 2.5}),
        ("chosen ÷ visible", part, "y3", {"color": colours.ink, "width": 1.5, "dash": "dot"}),
        ("attention on blocks", found.compressed, "y3", {"color": colours.blocks[3], "width": 2}),
    )
    return [
        go.Scatter(
            name=name,
            mode="lines" if len(values) > 1 else "markers",
            x=some.axis(found.queries).centres,
            y=values.astype(np.float32),
            line=line,
            marker={"color": line["color"]},
            yaxis=axis,
            customdata=marks,
            hovertemplate=f"{name}<br>{hover}",
        )
        for name, values, axis, line in looks_of
    ]


def _who(found: Blocks) -> str:
    width = found.queries.width
    if width == 1:
        return "token %{customdata[0]:,}, position %{customdata[3]:,}"
    return f"mean of {width} tokens from %{{customdata[0]:,}} on"


def _map(found: Blocks, some: Queries, layer: int) -> go.Heatmap:
    marks = np.zeros((*found.mass.shape, 8), np.int32)
    first = found.queries.starts
    marks[..., 0], marks[..., 1], marks[..., 2] = some.chosen[first], layer, NONE
    marks[..., 3] = some.positions[first]
    marks[..., 4] = found.blocks.starts[:, None]
    marks[..., 5] = found.blocks.stops[:, None] - 1
    marks[..., 6], marks[..., 7] = found.known, found.pairs
    marks[np.isnan(found.mass)] = 0  # nothing is drawn there, and zeros pack well
    small = marks.max() <= np.iinfo(np.int16).max
    single = found.blocks.width == found.queries.width == 1
    what = "block %{customdata[4]:,}"
    counts = "" if single else (
        "<br>%{customdata[6]:,} of %{customdata[7]:,} visible pairs have a known mass"
    )  # fmt: skip
    if found.blocks.width > 1:
        what = "blocks %{customdata[4]:,}–%{customdata[5]:,}"
    return go.Heatmap(
        name="mass",
        z=found.mass.astype(np.float32),
        x=some.axis(found.queries).centres,
        y=found.blocks.centres,
        customdata=marks.astype(np.int16) if small else marks,
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate=f"{_who(found)}<br>{what}: %{{z:.2%}}{counts}<extra></extra>",
    )


def _scale(found: Blocks, colours: Theme) -> dict[str, Any]:
    """Return the colours: grey for nothing, then pale to strong."""
    some = found.mass[np.nan_to_num(found.mass) > 0]
    top = float(np.quantile(some, 0.995)) if some.size else 1.0
    steps: Scale = [(0.0, colours.grid), *scale(colours.blocks[1:])]
    steps[1] = (_NOTHING, steps[1][1])
    over = "≥ " if some.size and some.max() > top else ""
    return {
        "cmin": 0, "cmax": top, "colorscale": steps,
        "colorbar": {
            "title": {"text": "mass", "font": {"size": 11}}, "tickfont": {"size": 10},
            "tickmode": "array", "tickvals": [0, top / 2, top],
            "ticktext": ["0", f"{top / 2:{percent(top)}}", f"{over}{top:{percent(top)}}"],
            "thickness": 11, "len": 0.58, "y": 0, "yanchor": "bottom", "x": 1.005, "xpad": 6,
            "ypad": 0, "outlinewidth": 0,
        },
    }  # fmt: skip


def _axes(found: Blocks, some: Queries) -> dict[str, Any]:
    places, blocks = some.axis(found.queries), found.blocks
    shared = f", {places.width} to a column" if places.width > 1 else ""
    rows = f" ({blocks.width} to a row)" if blocks.width > 1 else ""
    who = "position of the token" if some.in_a_row else "token, one after the other"
    return {
        "xaxis": {
            "title": {"text": who + shared},
            "range": [places.first - 0.5, places.first + places.size - 0.5],
        },
        "yaxis": {
            "domain": [0, 0.58],
            "range": [-0.5, blocks.size - 0.5],
            "title": {"text": "block" + rows},
        },
        "yaxis2": {
            "domain": [0.82, 1], "rangemode": "tozero", "title": {"text": "blocks"},
            "nticks": 4, "showgrid": True, "anchor": "x",
        },
        "yaxis3": {
            "domain": [0.62, 0.78], "range": [0, 1.02], "tickformat": ".0%", "nticks": 3,
            "showgrid": True, "title": {"text": "share"}, "anchor": "x",
        },
    }  # fmt: skip


def _words(view: View, *, every: bool) -> list[str]:
    covers = f"Block b covers positions {view.rate}b … {view.rate}b + {view.span - 1}"
    if view.span > view.rate:
        before = view.span - view.rate
        covers = (
            f"Block b covers positions {view.rate}b − {before} … {view.rate}b + {view.rate - 1}"
        )
    if every:
        known = (
            "All masses were kept: coloured blocks were chosen, grey ones visible and not chosen."
        )
    else:
        known = (
            "Only the strongest sources were kept: a grey block is visible, and may have been "
            "chosen too."
        )
    return [known, f"{covers}; it is visible from its last token on. The counts are exact."]

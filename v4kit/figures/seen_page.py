"""A page of text with what one token looks at, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.core import NONE
from v4kit.figures.labels import escape
from v4kit.figures.pages import COLUMNS, colour_key, page_layout, token_bars
from v4kit.figures.rows import note, percent
from v4kit.figures.seen import Seen
from v4kit.figures.stretches import Gap, Parts
from v4kit.figures.theme import Scale, Theme, colour_at, ink_on, scale
from v4kit.trace import Trace

LINE = 27
"""Pixels of a line: the text and, below it, a strip for the blocks."""
FAINT = 0.01
"""Share of a source below which it is never drawn strongly, be it the strongest there is."""
LEAST = 5
"""Lines that leave room for a colour key."""
_BAR, _GAP, _TOP, _BOTTOM = 22, 22, 104, 64


def attention_page(trace: Trace, seen: Seen, parts: Parts, colours: Theme) -> go.Figure:
    """Return the page, without its title: shares on top, then text, strips and what is left out."""
    figure = go.Figure(_shares(seen, colours))
    tints = scale((colours.paper, *colours.window[1:]))
    strips = scale((colours.paper, *colours.blocks[1:]))
    top, below = (float(mass.max(initial=0)) for mass in (seen.window, seen.compressed))
    span = trace.require_attention().views[seen.layer].span
    top, below = (top and max(top, FAINT)), (below and max(below, FAINT / span))
    figure.add_traces(_tokens(trace, seen, parts, colours, tints, top=top))
    if below:
        figure.add_trace(_strips(trace, seen, parts, strips, top=below))
    figure.add_traces(_left_out(seen, parts, colours))
    place = 0
    for name, steps, most in (("window", tints, top), ("blocks", strips, below)):
        if most:
            figure.add_trace(_key(seen, parts, steps, most, name, place=place))
            place += 1
    return figure.update_layout(**_layout(seen, parts, colours))


def _shares(seen: Seen, colours: Theme) -> list[go.Bar]:
    """Return the stacked bar of where attention goes."""
    lost = f" (window {seen.lost[0]:.1%}, blocks {seen.lost[1]:.1%})" if any(seen.lost) else ""
    looks = {
        "sink": ("sink", colours.nowhere[4], "goes to no token"),
        "window": ("window", colours.window[3], "single tokens"),
        "compressed": ("blocks", colours.blocks[3], "compressed blocks"),
        "rest": ("not kept", colours.nowhere[1], f"sources that were not kept{lost}"),
    }
    bars, done = [], 0.0
    for share, value in seen.shares.items():
        name, colour, meaning = looks[share]
        bars.append(
            go.Bar(
                name=f"{name} {value:.1%}{lost if share == 'rest' else ''}",
                orientation="h",
                x=[value],
                y=[0],
                base=[done],
                text=[f"{value:.0%}" if value > 0.05 else ""],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": ink_on(colour), "size": 11},
                marker={"color": colour, "line": {"width": 1, "color": colours.paper}},
                customdata=np.array([[NONE, seen.layer, NONE, value]], np.float32),
                hovertemplate=f"{value:.2%} {meaning}<extra></extra>",
                xaxis="x2",
                yaxis="y2",
            )
        )
        done += value
    return bars


def _tokens(
    trace: Trace, seen: Seen, parts: Parts, colours: Theme, tints: Scale, *, top: float
) -> list[go.Bar]:
    """Return the tokens, coloured by what they get as single tokens; later ones are muted."""
    bars = []
    groups = (
        ("seen", parts.shown < seen.token),
        ("the token itself", parts.shown == seen.token),
        ("later", parts.shown > seen.token),
    )
    for name, which in groups:
        if not which.any():
            continue
        tokens = parts.shown[which]
        fills = [colour_at(tints, float(m) / (top or 1.0)) for m in seen.window[tokens]]
        bar = token_bars(
            [parts.places[i] for i in np.flatnonzero(which)],
            fills,
            name=name,
            paper=colours.paper,
            customdata=_columns(trace, seen, tokens),
            hover=_hover(trace, seen),
            inks=[colours.muted] * len(tokens) if name == "later" else None,
            offset=-0.47,
            width=0.66,
            showlegend=False,
        )
        bars.append(bar)
    return bars


def _strips(trace: Trace, seen: Seen, parts: Parts, strips: Scale, *, top: float) -> go.Bar:
    """Return the strips below tokens, coloured by what they get by way of blocks."""
    masses = seen.compressed[parts.shown]
    some = np.flatnonzero(masses > 0)
    places = [parts.places[i] for i in some]
    return go.Bar(
        name="blocks",
        orientation="h",
        base=np.array([place.column for place in places], np.int16),
        x=np.array([place.width for place in places], np.int16),
        y=np.array([place.line for place in places], np.int32),
        marker={"color": [colour_at(strips, float(masses[i]) / top) for i in some]},
        text=[escape(place.text.replace(" ", "\u00a0")) for place in places],
        textposition="none",
        offset=0.2,
        width=0.2,
        customdata=_columns(trace, seen, parts.shown[some]),
        hovertemplate=_hover(trace, seen),
        showlegend=False,
    )


def _columns(trace: Trace, seen: Seen, tokens: np.ndarray) -> np.ndarray:
    """Return the customdata of some tokens of the text."""
    n = len(tokens)
    documents = np.full(n, trace.tokens["document"].iloc[seen.row])
    columns = [
        seen.rows[tokens], np.full(n, seen.layer), np.full(n, NONE), seen.positions[tokens],
        documents, seen.window[tokens], seen.compressed[tokens],
    ]  # fmt: skip
    return np.stack(columns, 1).astype(np.float32)


def _hover(trace: Trace, seen: Seen) -> str:
    where = "position %{customdata[3]:,}"
    if trace.tokens["document"].nunique() > 1:
        where += " of document %{customdata[4]}"
    lines = [f"<b>“%{{text}}”</b> {where}", "window: %{customdata[5]:.2%} of the attention"]
    if seen.compressed.any():
        lines.append("blocks: %{customdata[6]:.3%}, folded")
    return "<br>".join(lines) + "<extra></extra>"


def _left_out(seen: Seen, parts: Parts, colours: Theme) -> list[go.Bar]:
    """Return a grey line for each part that is left out, with what it holds."""
    if not parts.gaps:
        return []
    masses = [float(seen.mass[gap.first : gap.stop].sum()) for gap in parts.gaps]
    pairs = zip(parts.gaps, masses, strict=True)
    return [
        go.Bar(
            name="left out",
            orientation="h",
            base=0,
            x=np.full(len(masses), COLUMNS, np.int16),
            y=np.array([gap.line for gap in parts.gaps], np.int32),
            text=[_gap(gap, mass, seen) for gap, mass in pairs],
            textposition="inside",
            insidetextanchor="start",
            textangle=0,
            constraintext="none",
            insidetextfont={"size": 11, "color": colours.muted},
            marker={"color": colours.panel},
            offset=-0.36,
            width=0.6,
            customdata=np.array([[NONE, seen.layer, NONE, mass] for mass in masses], np.float32),
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    ]


def _gap(gap: Gap, mass: float, seen: Seen) -> str:
    first, last = seen.positions[gap.first], seen.positions[gap.stop - 1]
    if gap.first > seen.token:
        return f"… {gap.stop - gap.first:,} later tokens left out"
    return (
        f"… {gap.stop - gap.first:,} tokens left out, positions {first:,}–{last:,}: "
        f"{mass:.2%} of the attention"
    )


def _lines(seen: Seen, parts: Parts) -> int:
    return max(parts.lines, LEAST * (1 + int(seen.compressed.any())))


def _key(
    seen: Seen, parts: Parts, tints: Scale, top: float, name: str, *, place: int
) -> go.Scatter:
    """Return the colour key of the window or of the blocks."""
    whole = _lines(seen, parts) * LINE + _BAR + _GAP
    return colour_key(
        tints, top, name, length=124, tickformat=percent(top),
        y=1 - (_BAR + _GAP - 6 + 136 * place) / whole, nticks=4,
    )  # fmt: skip


def _layout(seen: Seen, parts: Parts, colours: Theme) -> dict[str, Any]:
    lines = _lines(seen, parts)
    begins: dict[int, int] = {}
    for token, place in zip(parts.shown.tolist(), parts.places, strict=True):
        begins.setdefault(place.line, int(seen.positions[token]))
    layout = page_layout(begins, lines, colours, top=_TOP, line=LINE)
    text = lines * LINE
    whole = text + _BAR + _GAP
    own = np.flatnonzero(parts.shown == seen.token)
    boxes = [
        {
            "type": "rect", "x0": place.column, "x1": place.column + place.width,
            "y0": place.line - 0.48, "y1": place.line + 0.42,
            "line": {"color": colours.accent, "width": 2},
        }
        for place in (parts.places[i] for i in own)
    ]  # fmt: skip
    words = ["Framed: the token that looks. Background: its attention to single tokens (window)."]
    if seen.compressed.any():
        words[0] += " Strip below: to compressed blocks,"
        words.append(f"folded onto tokens by the convention {seen.convention}.")
    layout["yaxis"]["domain"] = [0, text / whole]
    return {
        **layout,
        "height": whole + _TOP + _BOTTOM,
        "margin": {**layout["margin"], "t": _TOP, "b": _BOTTOM},
        "shapes": boxes,
        "annotations": [note(*words, shift=14)],
        "xaxis2": {"visible": False, "range": [0, 1], "domain": [0, COLUMNS / (COLUMNS + 1)],
                   "anchor": "y2", "fixedrange": True},
        "yaxis2": {"visible": False, "range": [-0.5, 0.5], "domain": [1 - _BAR / whole, 1],
                   "anchor": "x2", "fixedrange": True},
    }  # fmt: skip

"""Pages of text: tokens as bars that carry their text, line under line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.figures.labels import escape
from v4kit.figures.theme import MONO, Theme, ink_on, template
from v4kit.figures.wrap import Place

PAGE = 2_000
"""Tokens of one page."""
COLUMNS = 96
"""Cells of a line."""
CELL = 7.9
"""Pixels of a cell."""
LINE = 22
"""Pixels of a line."""
LEFT, RIGHT = 64, 84
"""Room beside the text, in pixels."""


def token_bars(
    places: Sequence[Place],
    fills: Sequence[str],
    *,
    name: str,
    paper: str,
    customdata: np.ndarray,
    hover: str,
    inks: Sequence[str] | None = None,
    **more: Any,
) -> go.Bar:
    """Return tokens as bars that carry their text.

    Args:
        places: Where each token stands.
        fills: Colour of each.
        name: What the legend calls them; not escaped.
        paper: Background, which also parts neighbours.
        customdata: One row per token.
        hover: Template of the hover box.
        inks: Colour of each text; black or white by the fill if not given.
        more: More properties of the bars.
    """
    inks = [ink_on(fill) for fill in fills] if inks is None else list(inks)
    same, alike = len(set(fills)) == 1, len(set(inks)) == 1
    return go.Bar(
        name=escape(name),
        orientation="h",
        base=np.array([place.column for place in places], np.int16),
        x=np.array([place.width for place in places], np.int16),
        y=np.array([place.line for place in places], np.int32),
        text=[escape(place.text.replace(" ", "\u00a0")) for place in places],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="none",
        insidetextfont={"family": MONO, "size": 13, "color": inks[0] if alike else inks},
        marker={"color": fills[0] if same else list(fills), "line": {"width": 1, "color": paper}},
        customdata=customdata,
        hovertemplate=hover,
        **more,
    )


def page_layout(
    begins: Mapping[int, int], lines: int, colours: Theme, *, top: int, line: int = LINE
) -> dict[str, Any]:
    """Return the layout of a page of fixed width.

    Args:
        begins: Number that stands at the left of each line.
        lines: Lines of the page.
        colours: The theme.
        top: Pixels above the text.
        line: Pixels of a line.
    """
    return {
        "template": template(colours),
        "height": lines * line + top + 20,
        "width": int(COLUMNS * CELL) + LEFT + RIGHT,
        "margin": {"l": LEFT, "r": RIGHT, "t": top, "b": 20},
        "barmode": "overlay",
        "bargap": 0.12,
        "xaxis": {"visible": False, "range": [0, COLUMNS + 1], "fixedrange": True},
        "yaxis": {
            "range": [lines - 0.5, -0.5],
            "tickmode": "array",
            "tickvals": list(begins),
            "ticktext": [f"{number:,}" for number in begins.values()],
            "tickfont": {"size": 10},
            "ticks": "outside",
            "ticklen": 7,
            "tickcolor": colours.paper,
            "fixedrange": True,
        },
        "legend": {
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
            "font": {"size": 11}, "itemclick": False, "itemdoubleclick": False,
        },
    }  # fmt: skip


def colour_key(
    tints: list[tuple[float, str]], top: float, text: str, *, length: int = 150, **bar: Any
) -> go.Scatter:
    """Return a colour bar for colours that are given one by one, as a trace without marks."""
    return go.Scatter(
        x=[None], y=[None], mode="markers", hoverinfo="skip", showlegend=False,
        marker={
            "color": [0], "cmin": 0, "cmax": top, "colorscale": tints, "showscale": True,
            "colorbar": {
                "title": {"text": text, "font": {"size": 11}}, "thickness": 11,
                "len": length, "lenmode": "pixels", "x": 1, "y": 1, "yanchor": "top",
                "ypad": 0, "tickfont": {"size": 10}, "outlinewidth": 0, "nticks": 5, **bar,
            },
        },
    )  # fmt: skip

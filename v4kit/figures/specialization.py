"""Whether experts prefer a kind of text: shares beside chance and shuffled labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from v4kit.core import NONE, TOPK
from v4kit.errors import InputError
from v4kit.figures.findings import result_of
from v4kit.figures.labels import escape
from v4kit.figures.rows import note, title
from v4kit.figures.theme import ThemeName, template, theme_of

_DRAWN = ("kind", "label", "share", "share_null_mean", "share_null_std", "mutual_information_bits",
          "null_mean", "null_std", "n", "documents", "chance")  # fmt: skip


def specialization(
    found: xr.Dataset, *, layer: int, label: str, theme: ThemeName = "light"
) -> go.Figure:
    """Return how many of a label's tokens use each expert of a layer, beside what chance gives.

    A bar per expert, the dashed line at chance (top-k ÷ experts), and a grey box around the mean of
    shuffled labels, two standard deviations to each side: a bar within its box is no preference
    for the label. Experts outside of it are stronger in colour; of as many experts, one in twenty
    lies there by chance.

    Args:
        found: What `v4kit.analysis.domain_specialization` returned.
        layer: Index of a layer that chooses.
        label: One of its labels.
        theme: "light" or "dark".

    Returns:
        A figure whose bars carry the `customdata` columns token (−1), layer, expert, shuffled mean,
        shuffled standard deviation.

    Raises:
        InputError: No such layer, label or theme, or the result of something else.
    """
    colours = theme_of(theme)
    found = result_of("v4kit.analysis.domain_specialization", found, _DRAWN)
    learned = np.flatnonzero(found["kind"].to_numpy() == TOPK).tolist()
    labels = found["label"].to_numpy().tolist()
    if layer not in learned or label not in labels:
        raise InputError(
            f"The analysis has the layers {', '.join(map(str, learned))} and the labels "
            f"{', '.join(labels)}; given was layer {layer!r}, label {label!r}."
        )
    part = found.sel(layer=layer, label=label)
    share, mean, std = (part[name].to_numpy() for name in ("share", "share_null_mean",
                                                           "share_null_std"))  # fmt: skip
    experts, outside = np.arange(len(share)), np.abs(share - mean) > 2 * std
    marks = np.column_stack([np.full(len(share), NONE), np.full(len(share), layer), experts])
    figure = go.Figure(
        go.Bar(
            x=experts,
            y=share,
            customdata=np.column_stack([marks, mean, std]),
            marker={"color": np.where(outside, colours.learned[4], colours.learned[2]).tolist()},
            hovertemplate=(
                f"layer {layer}, expert %{{customdata[2]}}<br>%{{y:.1%}} of the tokens of "
                f"{escape(label)}<br>shuffled labels: %{{customdata[3]:.1%}} ± "
                "%{customdata[4]:.1%}<extra></extra>"
            ),
        )
    )
    figure.add_traces(_boxes(experts, mean, std, colours.muted))
    chance = float(found["chance"])
    figure.update_layout(
        template=template(colours),
        title=_title(part, label, int(outside.sum())),
        height=380,
        margin={"l": 64, "r": 20, "t": 80, "b": 84},
        bargap=0.12 if len(share) <= 96 else 0,
        showlegend=False,
        xaxis={"title": {"text": "expert"}, "range": [-0.7, len(share) - 0.3]},
        yaxis={"title": {"text": "share of the label's tokens"}, "tickformat": ".0%",
               "rangemode": "tozero", "showgrid": True},
        shapes=[{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": chance, "y1": chance,
                 "line": {"color": colours.ink, "width": 1.4, "dash": "dash"}}],
        annotations=[note(f"dashed: chance, {chance:.1%}  ·  grey: mean of shuffled labels, two "
                          "deviations to each side", left=52)],
    )  # fmt: skip
    return figure


def _title(part: xr.Dataset, label: str, outside: int) -> dict[str, Any]:
    names = ("mutual_information_bits", "null_mean", "null_std")
    told, null, spread = (float(part[name]) for name in names)
    return title(
        f"Experts of layer {int(part['layer'])} on “{escape(label)}”",
        f"n = {int(part['n']):,} tokens of {int(part['documents'])} documents",
        f"{outside} of {part.sizes['expert']} experts outside two deviations",
        f"expert and label share {told:.3f} bits; shuffled {null:.3f} ± {spread:.3f}",
    )


def _boxes(experts: np.ndarray, mean: np.ndarray, std: np.ndarray, colour: str) -> list[go.Scatter]:
    """Return a line per expert from two deviations below the mean to two above."""
    edges = np.stack([np.maximum(mean - 2 * std, 0), mean + 2 * std, np.full(len(mean), np.nan)])
    return [
        go.Scatter(
            name="shuffled labels",
            x=np.repeat(experts, 3),
            y=edges.T.ravel(),
            mode="lines",
            line={"color": colour, "width": max(2, min(8, 400 // len(experts)))},
            opacity=0.55,
            hoverinfo="skip",
        )
    ]

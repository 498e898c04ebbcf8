"""Load per expert, with chance and the noise that uniform routing has at this n."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.core import DENSE, HASH, TOPK
from v4kit.figures.chance import ENOUGH, binomial_band, sorted_band
from v4kit.figures.reading import Facts, Tally, facts, layer_of, tally
from v4kit.figures.rows import nothing, title
from v4kit.figures.theme import Theme, ThemeName, colour_at, scale, template, theme_of
from v4kit.trace import Trace

ALL = "Load of the experts, every layer sorted by itself"


def expert_load(trace: Trace, *, layer: int | None = None, theme: ThemeName = "light") -> go.Figure:
    """Return the share of the tokens that used each expert, beside what chance would give.

    With a layer: a bar per expert, the dashed line at chance (top-k ÷ experts), and a grey band
    that holds 95 % of the experts if every token drew its experts uniformly and independently.
    Without: one curve per layer, its experts sorted from most to least used, over the band that
    sorted uniform routing makes; hash-routed layers in a panel of their own. With fewer than 10
    uses per expert on average the title says that n is too small.

    Args:
        trace: Any trace.
        layer: A layer with a router; all of them if not given.
        theme: "light" or "dark".

    Returns:
        A figure whose bars or points carry the `customdata` columns token (−1), layer, expert,
        times used, tokens.

    Raises:
        InputError: There is no such layer or theme.
    """
    colours, known = theme_of(theme), facts(trace)
    checked = None if layer is None else layer_of(trace, layer)
    return load_of(known, tally(trace), checked, colours)


def load_of(known: Facts, counted: Tally, layer: int | None, colours: Theme) -> go.Figure:
    """Return the load of counts that are already there."""
    routed = [i for i, kind in enumerate(known.kinds) if kind != DENSE]
    n = int(counted.tokens[routed if layer is None else [layer]].max(initial=0))
    if not n:
        main = ALL if layer is None else f"Load of the experts, layer {layer}"
        return nothing(template(colours), main, "No token was routed.")
    figure = (
        _curves(counted, known, n, colours)
        if layer is None
        else _bars(counted, known, layer, colours)
    )
    return figure.update_layout(template=template(colours))


def warning(n: int, known: Facts) -> str:
    """Return what the title says where n is too small, else nothing."""
    mean = n * known.chance
    return f"n too small ({mean:.1f} uses per expert, {ENOUGH} needed) – " if mean < ENOUGH else ""


def _bars(counted: Tally, known: Facts, layer: int, colours: Theme) -> go.Figure:
    n = int(counted.tokens[layer])
    low, high = binomial_band(n, known.chance)
    count = counted.count[layer]
    outside = (count < low) | (count > high)
    steps = colours.hash if known.kinds[layer] == HASH else colours.learned
    tints = [steps[4] if out else steps[2] for out in outside]
    figure = go.Figure(
        go.Bar(
            x=np.arange(len(count)),
            y=count / n,
            customdata=_columns(counted, layer, np.arange(len(count))),
            marker={"color": tints, "line": {"width": 0}},
            hovertemplate=(
                f"{known.describe(layer)}<br>expert %{{customdata[2]}}<br>used by "
                "%{customdata[3]:,} of %{customdata[4]:,} tokens (%{y:.2%})"
                f"<br>chance {n * known.chance:.1f}, band {low}–{high}<extra></extra>"
            ),
        )
    )
    router = "hash-routed: follows the frequency of tokens" if known.kinds[layer] == HASH else ""
    figure.update_layout(
        title=title(
            f"{warning(n, known)}Load of the experts, layer {layer}", known.model, router,
            f"n = {n:,} tokens",
            f"{int(outside.sum())} of {len(count)} experts outside the band, by chance at most 5 %",
        ),
        height=360,
        bargap=0.12 if known.n_experts <= 96 else 0,
        margin={"l": 64, "r": 20, "t": 80, "b": 76},
        xaxis={"title": {"text": "expert"}, "range": [-0.7, len(count) - 0.3]},
        yaxis=_share_axis(max(float(count.max()) / n, high / n)),
        shapes=[_band(low / n, high / n, colours), _line(known, colours)],
        annotations=[_legend(known)],
        meta={"inside": steps[2], "outside": steps[4]},
    )  # fmt: skip
    return figure


def _curves(counted: Tally, known: Facts, n: int, colours: Theme) -> go.Figure:
    figure = go.Figure()
    kinds = [kind for kind in (TOPK, HASH) if kind in known.kinds]
    for kind in kinds:
        axis = "x" if kind == kinds[0] else "x2"
        figure.add_traces(_envelope(known, n, axis, colours))
        layers = [i for i, k in enumerate(known.kinds) if k == kind]
        steps = colours.hash if kind == HASH else colours.learned
        for place, layer in enumerate(layers):
            depth = 0.42 + 0.52 * place / max(len(layers) - 1, 1)
            line = {"color": colour_at(scale(steps), depth), "width": 1.4, "shape": "hvh"}
            figure.add_trace(_curve(counted, known, layer, axis, line))
    two = len(kinds) == 2
    top = max(float((counted.count.max(axis=1) / np.maximum(counted.tokens, 1)).max()), 1e-9)
    figure.update_layout(
        title=title(
            warning(n, known) + ALL, known.model, f"n = {n:,} tokens per layer",
            f"chance {known.chance:.2%}",
        ),
        height=400,
        margin={"l": 64, "r": 20, "t": 80, "b": 76},
        showlegend=False,
        xaxis=_rank_axis(kinds[0], [0, 0.7] if two else [0, 1], known),
        yaxis=_share_axis(top),
        shapes=[_line(known, colours)],
        annotations=[_legend(known, ordered=True)],
        **({"xaxis2": _rank_axis(kinds[1], [0.74, 1], known)} if two else {}),
    )  # fmt: skip
    return figure


def _curve(counted: Tally, known: Facts, layer: int, axis: str, line: dict[str, Any]) -> go.Scatter:
    order = np.argsort(-counted.count[layer], kind="stable")
    count, n = counted.count[layer][order], int(counted.tokens[layer])
    return go.Scatter(
        name=f"layer {layer}",
        mode="lines",
        x=np.arange(1, len(order) + 1),
        y=(count / max(n, 1)).astype(np.float32),
        line=line,
        xaxis=axis,
        customdata=_columns(counted, layer, order),
        hovertemplate=(
            f"{known.describe(layer)}<br>expert %{{customdata[2]}}, place %{{x}}<br>used by "
            "%{customdata[3]:,} of %{customdata[4]:,} tokens (%{y:.2%})"
            f"<br>chance {known.chance:.2%}<extra></extra>"
        ),
    )


def _columns(counted: Tally, layer: int, experts: np.ndarray) -> np.ndarray:
    """Return the customdata of experts of a layer, in the smallest type that holds it."""
    columns = np.zeros((len(experts), 5), np.int32)
    columns[:, 0], columns[:, 1], columns[:, 2] = -1, layer, experts
    columns[:, 3], columns[:, 4] = counted.count[layer][experts], counted.tokens[layer]
    return columns if columns.max() > np.iinfo(np.int16).max else columns.astype(np.int16)


def _envelope(known: Facts, n: int, axis: str, colours: Theme) -> list[go.Scatter]:
    """Return the band of sorted uniform routing as two edges, the second filled to the first."""
    low, high = sorted_band(n, known.n_experts, known.chance)
    places = np.arange(1, known.n_experts + 1)
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "xaxis": axis}
    fill = {"fill": "tonexty", "fillcolor": _grey(colours)}
    return [
        go.Scatter(name="uniform, low", x=places, y=low / n, **edge),
        go.Scatter(name="uniform, high", x=places, y=high / n, **edge, **fill),
    ]


def _grey(colours: Theme) -> str:
    return "rgba(110,118,129,0.28)" if colours.name == "light" else "rgba(139,148,158,0.32)"


def _band(low: float, high: float, colours: Theme) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high,
        "fillcolor": _grey(colours), "line": {"width": 0}, "layer": "above",
    }  # fmt: skip


def _line(known: Facts, colours: Theme) -> dict[str, Any]:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": known.chance, "y1": known.chance,
        "line": {"color": colours.ink, "width": 1.4, "dash": "dash"},
    }  # fmt: skip


def _legend(known: Facts, *, ordered: bool = False) -> dict[str, Any]:
    grey = "the same, sorted, if routing were uniform" if ordered else "95 % of experts"
    tail = "" if ordered else " if routing were uniform; stronger bars lie outside"
    return {
        "text": (
            f"dashed: chance, {known.top_k} ÷ {known.n_experts} = {known.chance:.2%}"
            f"  ·  grey: {grey}{tail}"
        ),
        "xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": 0, "yanchor": "top",
        "yshift": -48, "showarrow": False, "font": {"size": 11},
    }  # fmt: skip


def _share_axis(top: float) -> dict[str, Any]:
    return {
        "title": {"text": "share of tokens"},
        "tickformat": ".1%" if top < 0.1 else ".0%",
        "range": [0, top * 1.06],
        "showgrid": True,
    }


def _rank_axis(kind: str, domain: list[float], known: Facts) -> dict[str, Any]:
    name = "hash-routed layers" if kind == HASH else "learned layers, deeper is stronger"
    return {
        "title": {"text": f"place, most used first – {name}"},
        "range": [0.5, known.n_experts + 0.5],
        "domain": domain,
    }

"""What was seen of experts against what the model does without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from v4kit.core import HASH
from v4kit.errors import InputError
from v4kit.figures.findings import result_of
from v4kit.figures.rows import note, nothing, title
from v4kit.figures.theme import ThemeName, template, theme_of

AXES = {
    "load": "tokens of the trace that use the expert",
    "weight": "weight of the expert",
    "norm": "norm of its weighted output",
    "margin": "margin by which the layer chose",
    "kl_control": "KL with a load-matched expert in its place, nats",
}
_FLOOR = 1e-9
"""Smaller divergences are rounding, and are drawn here."""
_DRAWN = (*AXES, "expert", "kl", "kl_reroute", "delta_logprob", "delta_logprob_reroute", "kind",
          "token", "statistic", "effect", "spearman", "spearman_null_std")  # fmt: skip


def importance(
    found: xr.Dataset, against: str = "load", *, effect: str = "kl", theme: ThemeName = "light"
) -> go.Figure:
    """Return a point per expert of a token: what was seen of it, and what happens without it.

    Up is what the knock-out (or the new choice) does to the next word, in nats on a logarithmic
    axis; to the right what a recording shows, or what the control does. Only layers that choose.
    The rank correlation stands in the title with its deviation by chance. Against "kl_control", the
    line is where the control does as much as the knock-out.

    Args:
        found: What `v4kit.experiments.causal_importance` returned.
        against: "load", "weight", "norm", "margin" or "kl_control".
        effect: "kl" (knocked out) or "kl_reroute" (chosen again without it).
        theme: "light" or "dark".

    Returns:
        A figure whose points carry the `customdata` columns token, layer, expert, effect, change of
        the log-probability of the word that followed.

    Raises:
        InputError: An unknown axis, effect or theme, or the result of something else.
    """
    colours = theme_of(theme)
    found = result_of("v4kit.experiments.causal_importance", found, _DRAWN)
    if against not in AXES or effect not in ("kl", "kl_reroute"):
        raise InputError(
            f"against is one of {', '.join(AXES)}, effect kl or kl_reroute; given were "
            f"{against!r} and {effect!r}."
        )
    seen, done = found[against].to_numpy(), found[effect].to_numpy()
    kept = ~np.isnan(seen) & ~np.isnan(done) & (found["kind"].to_numpy() != HASH)[None, :, None]
    what = "knocked out" if effect == "kl" else "the choice made again without it"
    main = f"What the model does without an expert: {what}"
    if not kept.any():
        return nothing(template(colours), main, f"There are no values of {against} to show.")
    marks = _marks(found, effect)[kept]
    x = np.maximum(seen[kept], _FLOOR) if against == "kl_control" else seen[kept]
    decades = {"type": "log", "exponentformat": "power", "dtick": 1}
    figure = go.Figure(
        go.Scattergl(
            x=x,
            y=np.maximum(done[kept], _FLOOR),
            mode="markers",
            customdata=marks,
            marker={"size": 5, "opacity": 0.55, "color": marks[:, 1],
                    "colorscale": [[0, colours.learned[2]], [1, colours.learned[4]]],
                    "colorbar": {"title": {"text": "layer"}, "thickness": 10, "tickformat": "d"}},
            hovertemplate=(
                "row %{customdata[0]}, layer %{customdata[1]}, expert %{customdata[2]}<br>KL "
                "%{customdata[3]:.2e} nats<br>log-probability of the word "
                "%{customdata[4]:+.3f}<extra></extra>"
            ),
        )
    )  # fmt: skip
    figure.update_layout(
        template=template(colours),
        title=title(main, _told(found, against, effect, kept)),
        height=460,
        margin={"l": 70, "r": 20, "t": 80, "b": 84},
        showlegend=False,
        xaxis={"title": {"text": AXES[against]}, "showgrid": True,
               **(decades if against in ("kl_control", "norm") else {})},
        yaxis={"title": {"text": "KL(model ‖ without it), nats"}, "showgrid": True, **decades},
        annotations=[note("one point per token, layer and used expert; hash-routed layers are left "
                          "out", left=58)],
    )  # fmt: skip
    if against == "kl_control":
        figure.add_shape(_level(float(x.min()), float(x.max()), colours.muted))
    return figure


def _marks(found: xr.Dataset, effect: str) -> np.ndarray:
    """Return the customdata of every cell `[token, layer, slot, column]`."""
    shape = found[effect].shape
    rows, layers, _ = np.meshgrid(found["token"], range(shape[1]), range(shape[2]), indexing="ij")
    change = found[effect.replace("kl", "delta_logprob")]
    return np.stack([rows, layers, found["expert"], found[effect], change], axis=-1)


def _told(found: xr.Dataset, against: str, effect: str, kept: np.ndarray) -> str:
    n = int(kept.sum())
    if against not in found["statistic"].to_numpy():
        less = (found[against].to_numpy() < found[effect].to_numpy())[kept].mean()
        return f"n = {n:,} · the control does less in {less:.0%} of the cases"
    cell = found.sel(statistic=against, effect=effect)
    return (
        f"n = {n:,} · rank correlation {float(cell['spearman']):+.2f}, by chance "
        f"0 ± {float(cell['spearman_null_std']):.2f}"
    )


def _level(low: float, high: float, colour: str) -> dict[str, Any]:
    line = {"color": colour, "dash": "dash", "width": 1.2}
    return {"type": "line", "x0": low, "x1": high, "y0": low, "y1": high, "line": line}

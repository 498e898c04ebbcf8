"""Who wrote a word: the parts of a logit, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from v4kit.core import NONE
from v4kit.errors import InputError
from v4kit.figures.findings import result_of
from v4kit.figures.labels import escape, visible
from v4kit.figures.rows import note, title
from v4kit.figures.theme import Theme, ThemeName, template, theme_of

_SHOWN = 14
_DRAWN = ("summands", "part", "layer", "expert", "hashed", "total", "logit", "residual")


def attribution(found: xr.Dataset, *, top: int = _SHOWN, theme: ThemeName = "light") -> go.Figure:
    """Return a logit as a sum: the parts that add most, the rest, the total beside the model's own.

    Each bar begins where the one before ended; blue is an expert that was chosen, orange one of a
    hash-routed layer, green a shared expert, violet attention, grey the embedding and the sum of
    all parts that are not shown. The residual, what is missing of the model's own logit, has a bar
    of its own, next to nothing in float32.

    Args:
        found: What `v4kit.experiments.attribution` returned.
        top: How many parts are shown by themselves, largest first.
        theme: "light" or "dark".

    Returns:
        A figure whose bars carry the `customdata` columns token, layer, expert (−1: none or
        several), value.

    Raises:
        InputError: `top` is no number from 1, there is no such theme, or it is the result of
            something else.
    """
    colours = theme_of(theme)
    found = result_of("v4kit.experiments.attribution", found, _DRAWN)
    values = found["summands"].to_numpy()
    order = _largest(values, top)
    total, logit = float(found["total"]), float(found["logit"])
    rest = total - float(values[order].sum())
    words = [_name(found, i) for i in order]
    layers, experts = (found[n].to_numpy() for n in ("layer", "expert"))
    steps = [*values[order].tolist(), rest, logit - total]
    words += [f"{len(values) - len(order)} other parts", "residual"]
    tints = [_tint(found, i, colours) for i in order] + [colours.dense, colours.ink]
    starts = np.concatenate([[0.0], np.cumsum(steps)[:-1]])
    marks = [[found.attrs["token"], layers[i], experts[i], values[i]] for i in order]
    marks += [[found.attrs["token"], NONE, NONE, value] for value in steps[-2:]]
    # Top to bottom, the logit last.
    figure = go.Figure(
        go.Bar(
            orientation="h",
            y=[*words, "the model's logit"],
            x=[*steps, logit],
            base=[*starts, 0.0],
            customdata=[*marks, [found.attrs["token"], NONE, NONE, logit]],
            marker={"color": [*tints, colours.accent]},
            text=[f"{value:+.2f}" for value in steps] + [f"{logit:.2f}"],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{customdata[3]:+.4f}<extra></extra>",
        )
    )
    figure.update_layout(
        template=template(colours),
        title=_title(found),
        height=130 + 24 * (len(words) + 1),
        margin={"l": 150, "r": 50, "t": 80, "b": 76},
        bargap=0.25,
        showlegend=False,
        xaxis={"title": {"text": "logits"}, "showgrid": True},
        yaxis={"autorange": "reversed", "ticks": ""},
        annotations=[note("direct effect: what each part wrote towards the word itself; what "
                          "later layers made of it counts as theirs", left=138)],
    )  # fmt: skip
    return figure


def _largest(values: np.ndarray, top: object) -> np.ndarray:
    """Return the places of the largest values, largest first."""
    whole = isinstance(top, (int, np.integer)) and not isinstance(top, bool)
    if not whole or top < 1:  # type: ignore[operator]
        raise InputError(f"top is a number of parts from 1; given was {top!r}.")
    return np.argsort(-np.abs(values), kind="stable")[:top]


def _title(found: xr.Dataset) -> dict[str, Any]:
    target = found.attrs["target_text"]
    several = isinstance(target, list)
    named = target if several else [target]
    word = " rather than ".join(f"“{escape(visible(one))}”" for one in named)
    logit, total = float(found["logit"]), float(found["total"])
    return title(
        f"Who wrote {word}?",
        f"after “{visible(found.attrs['text'])}” in row {found.attrs['token']}",
        f"logit {'difference ' if several else ''}{logit:.3f}, sum of the parts {total:.3f}",
        f"residual {float(found['residual']):.1e} of all that was added",
    )


def _name(found: xr.Dataset, place: int) -> str:
    part, layer, expert = (found[n].to_numpy()[place] for n in ("part", "layer", "expert"))
    if part == "embedding":
        return "embedding"
    what = f"expert {expert}" if part == "expert" else str(part)
    return f"layer {layer}: {what}"


def _tint(found: xr.Dataset, place: int, colours: Theme) -> Any:
    part, hashed = (found[n].to_numpy()[place] for n in ("part", "hashed"))
    steps = colours.hash if hashed else colours.learned
    tints = {"expert": steps[3], "shared": colours.shared, "attention": colours.window[3]}
    return tints.get(str(part), colours.dense)

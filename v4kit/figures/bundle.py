"""How a Trace shows itself in a notebook: text, HTML without script or style sheet, a PNG, data."""

from __future__ import annotations

import base64
import html
from typing import Any

from v4kit.core import HASH, NONE, TOPK
from v4kit.figures.colouring import Leaders, leaders, leading
from v4kit.figures.labels import plain, visible
from v4kit.figures.picture import caption, draw
from v4kit.figures.reading import Facts, block, facts, last_learned, tally
from v4kit.figures.theme import CATEGORIES, LIGHT
from v4kit.trace import Trace
from v4kit.trace.overview import overview_of

SHOWN = 300
"""Tokens of text that are shown."""
OVERVIEW = "application/vnd.v4kit.trace+json"
"""MIME type of an overview, which the JupyterLab extension shows."""


def mimebundle(trace: Trace) -> dict[str, Any]:
    """Return the trace as `text/plain`, `text/html`, base64 `image/png`, and its overview as JSON.

    JupyterLab with v4kit's extension shows the overview, all others the HTML or the picture. The
    HTML needs no script and reads well where styles are stripped; token text is escaped.
    """
    known, counted = facts(trace), tally(trace)
    image = base64.b64encode(draw(known, counted)).decode("ascii")
    lines = [visible(repr(trace)), *(f"  {name}: {value}" for name, value in summary(trace))]
    return {
        "text/plain": "\n".join(lines),
        "text/html": _html(trace, image, caption(known, counted)),
        "image/png": image,
        OVERVIEW: overview_of(trace),
    }


def summary(trace: Trace) -> list[tuple[str, str]]:
    """Return names and values of what a reader should know first; not escaped."""
    known = facts(trace)
    generated = int((trace.tokens["phase"] == "generated").sum())
    routed = int(trace.tokens["valid"].sum())
    kinds = {kind: known.kinds.count(kind) for kind in dict.fromkeys(known.kinds)}
    layers = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    always = f", {known.n_shared} shared" if known.n_shared else ""
    facts_of = [
        ("model", known.model),
        ("tokens", f"{len(trace):,} ({generated:,} generated, {routed:,} routed)"),
        ("layers", f"{len(known.kinds)} ({layers})"),
        ("experts", f"{known.n_experts} per layer, {known.top_k} per token{always}"),
        ("chance", f"{known.chance:.2%} of the tokens for each expert"),
    ]
    names = {"engine": "engine", "dtype": "computed in", "router_dtype": "routers computed in"}
    facts_of += [(text, plain(trace.meta[key])) for key, text in names.items() if key in trace.meta]
    return facts_of


def _html(trace: Trace, image: str, said: str) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in summary(trace)
    )
    return (
        '<div style="max-width:1000px">'
        f"<p><b>{html.escape(visible(repr(trace)))}</b></p><table>{rows}</table>"
        f'<p><img alt="{html.escape(said)}" src="data:image/png;base64,{image}"></p>'
        f"{_text(trace)}</div>"
    )


def _text(trace: Trace) -> str:
    """Return the first tokens, coloured by the last learned layer."""
    known, layer = facts(trace), last_learned(trace)
    if not len(trace) or layer is None:
        return "<p>No text: no token was routed.</p>"
    found = leaders(trace, known, layer)
    shown = min(SHOWN, len(trace))
    experts = leading(block(trace, 0, shown, layer=layer))
    colours = dict(zip(found.top, CATEGORIES, strict=False))
    table = trace.tokens.iloc[:shown]
    fresh = table["document"].diff().fillna(0).ne(0)
    spans = [
        "\n\n" * begins + _span(text, colours.get(int(expert), LIGHT.other), routed=expert != NONE)
        for text, expert, begins in zip(table["text"], experts, fresh, strict=True)
    ]
    rest = f" The first {shown} of {len(trace):,} tokens." if len(trace) > shown else ""
    by = f"Text by the {found.how} of {known.describe(layer)}."
    if not found.how:
        by = f"Text without colours: the experts of {known.describe(layer)} have no order."
    return (
        f"<p>{by}{rest}</p>"
        f'<pre style="white-space:pre-wrap;line-height:1.7">{"".join(spans)}</pre>'
        f"<p>{_legend(found, known, layer)}</p>"
    )


def _span(text: str, colour: str, *, routed: bool) -> str:
    shown = html.escape(visible(text, limit=60)) + ("\n" if "\n" in text else "")
    if not routed:
        return shown
    return f'<span style="background:{colour};color:#000;border-radius:2px">{shown}</span>'


def _legend(found: Leaders, known: Facts, layer: int) -> str:
    marks = [
        f'<span style="background:{colour};color:#000">&nbsp;expert {expert}&nbsp;</span> '
        f"{count / max(found.tokens, 1):.0%}"
        for expert, count, colour in zip(found.top, found.counts, CATEGORIES, strict=False)
    ]
    rest = 1 - found.covered
    if rest > 0 and found.how and known.kinds[layer] in (TOPK, HASH):
        other = f'<span style="background:{LIGHT.other};color:#000">&nbsp;all others&nbsp;</span>'
        marks.append(f"{other} {rest:.0%}")
    return " · ".join(marks)


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")

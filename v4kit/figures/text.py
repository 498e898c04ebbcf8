"""The text itself, coloured by the experts of a layer or by the weight of one expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from v4kit.core import HASH, NONE
from v4kit.figures.barcode import ceiling
from v4kit.figures.colouring import Leaders, leaders, leading
from v4kit.figures.pages import COLUMNS, PAGE, colour_key, page_layout, token_bars
from v4kit.figures.reading import (
    Block,
    Facts,
    block,
    expert_of,
    facts,
    last_learned,
    layer_of,
    page_of,
)
from v4kit.figures.rows import nothing, title
from v4kit.figures.theme import (
    CATEGORIES,
    Theme,
    ThemeName,
    colour_at,
    scale,
    template,
    theme_of,
)
from v4kit.figures.wrap import Place, wrap
from v4kit.trace import Trace


@dataclass(frozen=True, slots=True)
class _Page:
    """The tokens of one page in one layer."""

    start: int
    """Row of the first token."""
    layer: int
    """The layer."""
    routing: Block
    """Experts and weights `[token, slot]`."""
    places: list[Place]
    """Where each token stands."""
    known: Facts
    """What is known of the model."""


def routing_text(
    trace: Trace,
    *,
    layer: int | None = None,
    expert: int | None = None,
    page: int = 0,
    theme: ThemeName = "light",
) -> go.Figure:
    """Return the text, coloured by a layer's leading experts or by the weight of one expert.

    By layer: a token has the colour of its heaviest expert (without weights, the first one). The
    eight experts that lead most often in the whole trace have a colour each, so that one colour is
    one expert; all others are grey, and the legend says how many tokens that are. By expert: the
    stronger, the heavier; tokens that did not use it stay blank.

    Args:
        trace: Any trace.
        layer: A layer with a router; the last learned one if not given.
        expert: Colour by this expert alone.
        page: Which 2,000 tokens; the title says how many pages there are.
        theme: "light" or "dark".

    Returns:
        A figure of fixed width whose bars, one per token, carry the `customdata` columns token,
        layer, leading expert (or the chosen one), position, document, then the experts of all slots
        and their weights.

    Raises:
        InputError: There is no such layer, expert, page or theme.
    """
    colours, known = theme_of(theme), facts(trace)
    last = last_learned(trace)
    if not len(trace) or last is None:
        reason = "The trace has no tokens." if not len(trace) else "No layer has a router."
        return nothing(template(colours), "Text by expert", reason)
    layer = last if layer is None else layer_of(trace, layer)
    part = _page(trace, known, layer, page)
    figure = go.Figure()
    if expert is None:
        found = leaders(trace, known, layer)
        _by_layer(figure, trace, part, found, colours)
        main = f"Text by the {found.how} of layer {layer}"
        detail = f"the {len(found.top)} that lead most often have a colour ({found.covered:.0%})"
        if not found.how:
            main = f"Text of layer {layer}, whose experts have no order"
            detail = "expert=… shows where one is used"
    else:
        _by_expert(figure, trace, part, expert_of(trace, expert), colours)
        main = f"Text by expert {expert} of layer {layer}"
        detail = f"chance {known.chance:.2%} of tokens"
    if not (part.routing.experts != NONE).any():
        detail = "none of these tokens was routed"
    stop = part.start + len(part.places)
    pages = -(-len(trace) // PAGE)
    rows = f"tokens {part.start:,}–{stop - 1:,} of {len(trace):,}"
    if pages > 1:
        rows += f", page {page} of 0–{pages - 1}"
    kind = "hash-routed layer" if known.kinds[layer] == HASH else ""
    figure.update_layout(
        title=title(main, known.model, kind, rows, detail),
        **_layout(part, colours, legend=expert is None),
    )
    return figure


def _page(trace: Trace, known: Facts, layer: int, page: int) -> _Page:
    start, stop = page_of(len(trace), page, size=PAGE)
    tokens = trace.tokens.iloc[start:stop]
    documents = tokens["document"].to_numpy()
    breaks = np.flatnonzero(np.diff(documents)) + 1
    places = wrap(tokens["text"].tolist(), columns=COLUMNS, breaks=breaks.tolist())
    return _Page(start, layer, block(trace, start, stop, layer=layer), places, known)


def _by_layer(figure: go.Figure, trace: Trace, part: _Page, found: Leaders, colours: Theme) -> None:
    """Add one trace of bars per colour, so that the legend can say what it means."""
    first = leading(part.routing)
    groups = [
        (f"expert {expert}: {count:,} ({count / found.tokens:.0%})", colour, first == expert)
        for expert, count, colour in zip(found.top, found.counts, CATEGORIES, strict=False)
    ]
    rest = found.tokens - sum(found.counts)
    grey = (first != NONE) & ~np.isin(first, found.top)
    groups.append(
        (f"all others: {rest:,} ({rest / max(found.tokens, 1):.0%})", colours.other, grey)
    )
    groups.append(("not routed", colours.paper, first == NONE))
    for name, colour, chosen in groups:
        rows, look = np.flatnonzero(chosen), (name, colours.paper)
        if len(rows):
            figure.add_trace(_bars(trace, part, rows, first, [colour] * len(rows), look=look))


def _by_expert(figure: go.Figure, trace: Trace, part: _Page, expert: int, colours: Theme) -> None:
    """Add one trace of bars coloured by the weight of an expert, and its colour bar."""
    known, routing = part.known, part.routing
    used = routing.experts == expert
    steps = colours.hash if known.kinds[part.layer] == HASH else colours.learned
    tints = scale((colours.paper, *steps[1:]))
    rows, look = np.arange(len(part.places)), (f"expert {expert}", colours.paper)
    chosen = np.where(used.any(axis=1), expert, NONE)
    if routing.weights is None:
        fills = [steps[3] if hit else colours.paper for hit in used.any(axis=1)]
        figure.add_trace(_bars(trace, part, rows, chosen, fills, look=look))
        return
    top = ceiling(known, routing.weights)
    weights = np.where(used, np.nan_to_num(routing.weights), 0).sum(axis=1)
    fills = [colour_at(tints, float(weight) / top) for weight in weights]
    figure.add_trace(_bars(trace, part, rows, chosen, fills, look=look))
    figure.add_trace(colour_key(tints, top, "weight"))


def _bars(
    trace: Trace,
    part: _Page,
    rows: np.ndarray,
    chosen: np.ndarray,
    fills: list[str],
    *,
    look: tuple[str, str],
) -> go.Bar:
    """Return tokens as bars that carry their text."""
    name, paper = look
    return token_bars(
        [part.places[row] for row in rows],
        fills,
        name=name,
        paper=paper,
        customdata=_columns(trace, part, rows, chosen),
        hover=_hover(trace, part),
        showlegend=name != "not routed",
    )


def _columns(trace: Trace, part: _Page, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    tokens = trace.tokens.iloc[part.start + rows]
    columns = [
        part.start + rows,
        np.full(len(rows), part.layer),
        chosen[rows],
        tokens["position"].to_numpy(),
        tokens["document"].to_numpy(),
        *part.routing.experts[rows].T,
    ]
    if part.routing.weights is not None:
        columns += list(part.routing.weights[rows].T)
    return np.stack(columns, 1).astype(np.float32)


def _hover(trace: Trace, part: _Page) -> str:
    """Return the hover text: the token, then every expert of the layer with rank and weight."""
    known = part.known
    lines = ["<b>“%{text}”</b> token %{customdata[0]}"]
    if trace.tokens["document"].nunique() > 1:
        lines[0] += ", position %{customdata[3]} of document %{customdata[4]}"
    lines.append(known.describe(part.layer) + ("" if known.ranks(part.layer) else ", unranked"))
    for slot in range(known.top_k):
        line = f"rank {slot + 1}: " if known.ranks(part.layer) else ""
        line += f"expert %{{customdata[{5 + slot}]}}"
        if part.routing.weights is not None:
            line += f" · weight %{{customdata[{5 + known.top_k + slot}]:.4f}}"
        lines.append(line)
    return "<br>".join(lines) + "<extra></extra>"


def _layout(part: _Page, colours: Theme, *, legend: bool) -> dict[str, Any]:
    lines = max(part.places[-1].line + 1, 1 if legend else 8)
    begins: dict[int, int] = {}
    for index, place in enumerate(part.places):
        begins.setdefault(place.line, part.start + index)
    look = page_layout(begins, lines, colours, top=140 if legend else 80)
    return {**look, "showlegend": legend}

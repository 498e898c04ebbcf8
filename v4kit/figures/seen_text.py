"""The text, with what one token looks at."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from v4kit.figures.attended import (
    attended_layer,
    describe,
    head_of,
    looks,
    name_heads,
    name_sources,
)
from v4kit.figures.labels import caption
from v4kit.figures.reading import facts, row_of
from v4kit.figures.rows import nothing, title
from v4kit.figures.seen import Seen, seen_by
from v4kit.figures.seen_page import attention_page
from v4kit.figures.stretches import Parts, parts_of
from v4kit.figures.theme import ThemeName, template, theme_of
from v4kit.trace import Trace

_MAIN = "What one token looks at"


def attention_text(
    trace: Trace,
    token: int,
    *,
    layer: int | None = None,
    head: int | None = None,
    convention: str = "uniform",
    page: int | None = None,
    theme: ThemeName = "light",
) -> go.Figure:
    """Return the text of a token's document, with what the token looks at highlighted.

    The stronger a token's background, the more attention it gets as a single token of the window;
    the strip below it is what it gets by way of compressed blocks, whose mass is folded onto tokens
    by a convention that the figure names. The two have scales of their own. The bar on top says
    how the attention is shared between the sink, window, blocks and sources that were not kept.

    Up to 2,000 tokens the whole document is shown. Of a longer one, the parts are shown that hold
    most of the mass; what is left out is named where it stood, with the mass it holds.

    Args:
        trace: A trace with attention.
        token: Row of the trace; negative ones count from the end.
        layer: A layer; the last one with blocks if not given, else the last.
        head: One head, where they were recorded apart; their mean if not given.
        convention: How a block's mass is folded: see `Trace.attention_to_tokens`.
        page: Of a long document, these 2,000 tokens instead of the strongest parts.
        theme: "light" or "dark".

    Returns:
        A figure of fixed width. Bars of tokens carry the `customdata` columns token, layer, expert
        (−1), position, document, mass in the window, mass by way of blocks; those of what is left
        out, and of the shares on top, −1, layer, −1, and the mass.

    Raises:
        TraceError: Attention was not recorded.
        InputError: There is no such token, layer, head, page, convention or theme.
    """
    colours = theme_of(theme)
    layer, head = attended_layer(trace, layer), head_of(trace, head)
    if not len(trace):
        return nothing(template(colours), _MAIN, "The trace has no tokens.")
    row = row_of(trace, token)
    found = next(looks(trace, (row, row + 1), [layer], head=head))
    if not len(found.rows):
        reason = "No attention: this token was never fed to the model."
        return nothing(template(colours), caption(trace, row), reason)
    seen = seen_by(trace, row, found, head=head, convention=convention)
    texts = trace.tokens["text"].iloc[seen.rows].tolist()
    parts = parts_of(texts, seen.mass, seen.token, page=page)
    figure = attention_page(trace, seen, parts, colours)
    figure.update_layout(
        title=title(
            f"What {caption(trace, row)} looks at", facts(trace).model, describe(trace, layer),
            name_heads(trace, head), name_sources(trace), _where(seen, parts),
        )
    )  # fmt: skip
    return figure


def _where(seen: Seen, parts: Parts) -> str:
    """Return what is shown of the document, and how much attention lies elsewhere."""
    n, shown = len(seen.rows), len(parts.shown)
    left = float(np.delete(seen.mass, parts.shown).sum())
    text = f"all {n:,} tokens" if shown == n else f"{shown:,} of {n:,} tokens"
    if shown < n:
        known = " that was kept" if any(seen.lost) else ""
        text += f", {left:.1%} of the attention{known} lies on the others"
    if seen.absent > 5e-4:
        text += f", {seen.absent:.1%} on tokens that the trace does not hold"
    return text

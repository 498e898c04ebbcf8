"""A page of headings, sentences, tables and figures, for reports that are no trace's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from v4kit.figures.page import asset, fill_page, name_of, save_page
from v4kit.figures.payload import to_json


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a head; the first column names the rows."""

    head: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[str]]
    """Cells, as text."""
    caption: str = ""
    """What stands above it, such as a unit."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it, in this order."""

    title: str
    """The heading, plain text."""
    lines: Sequence[str] = ()
    """Sentences."""
    text: str = ""
    """A text whose spaces and lines count."""
    tables: Sequence[Table] = ()
    """Tables."""
    figures: Sequence[go.Figure] = ()
    """Figures."""
    wrong: bool = False
    """Whether it tells of something that is not as it should be."""


def write_sections(sections: Sequence[Section], path: str | Path, *, title: str) -> Path:
    """Write sections as one self-contained page; return its path.

    The page makes no request of any kind. A file that exists is replaced at once or not at all.

    Args:
        sections: What is shown, in order.
        path: The file to write; missing folders are made.
        title: Heading of the page, plain text.

    Raises:
        TraceWriteError: The disk is full or the place can't be written.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    figures = [figure for section in sections for figure in section.figures]
    data = to_json({"figures": [json.loads(figure.to_json()) for figure in figures]})
    page = fill_page(
        "sections.html",
        [get_plotlyjs(), asset("page.js")],
        title=title,
        theme="light",
        sections=_numbered(sections),
        data=Markup(data),  # noqa: S704 - escaped by to_json
    )
    return save_page(page, Path(path))


def _numbered(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return sections with the number and the name of each figure, counted through the page."""
    found, count = [], 0
    for section in sections:
        named = [(count + at, name_of(figure)) for at, figure in enumerate(section.figures)]
        count += len(named)
        found.append({"part": section, "figures": named})
    return found

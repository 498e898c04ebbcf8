"""HTML pages that stand alone: only our scripts run, nothing is fetched, a file is never half."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import plotly.graph_objects as go

from v4kit.figures.payload import to_json
from v4kit.figures.theme import ThemeName, css, theme_of
from v4kit.trace.writer import writing

_DRAW = "page.js"


def write_page(
    figures: Sequence[go.Figure], path: str | Path, *, title: str, theme: ThemeName = "light"
) -> Path:
    """Write figures below one another as one self-contained page; return its path.

    The page makes no request of any kind. A file that exists is replaced at once or not at all.

    Args:
        figures: What is shown, in order.
        path: The file to write; missing folders are made.
        title: Heading of the page, plain text.
        theme: Colours around the figures, "light" or "dark": give that of the figures.

    Raises:
        InputError: There is no such theme.
        TraceWriteError: The disk is full or the place can't be written.
    """
    return save_page(_render(figures, title=title, theme=theme_of(theme).name), Path(path))


def save_page(page: str, path: Path) -> Path:
    """Write a page beside its place and move it there when it is whole; return its path.

    Raises:
        TraceWriteError: The disk is full or the place can't be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        try:
            with beside.open("x", encoding="utf-8", newline="\n") as file:
                file.write(page)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    return path


def fill_page(template: str, scripts: Sequence[str], **parts: object) -> str:
    """Return a template of ours as a page that runs these scripts alone.

    Args:
        template: File of the templates folder; it gets `scripts`, `policy`, `style` and the parts.
        scripts: JavaScript, in the order in which it runs.
        parts: Further values; those that are no Markup are escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("v4kit.figures"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template(template).render(
        policy=policy(scripts),
        style=Markup(css() + asset("report.css")),  # noqa: S704 - our own style sheets
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own scripts
        **parts,
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def asset(name: str) -> str:
    """Return a file of the templates folder."""
    return files("v4kit.figures").joinpath("templates", name).read_text(encoding="utf-8")


def policy(scripts: Sequence[str]) -> str:
    """Return a content policy: these scripts alone may run, and nothing may be fetched."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _render(figures: Sequence[go.Figure], *, title: str, theme: str) -> str:
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    data = to_json({"figures": [json.loads(figure.to_json()) for figure in figures]})
    return fill_page(
        "page.html",
        [get_plotlyjs(), asset(_DRAW)],
        title=title,
        theme=theme,
        names=[name_of(figure) for figure in figures],
        data=Markup(data),  # noqa: S704 - escaped by to_json
    )


def name_of(figure: go.Figure) -> str:
    """Return a figure's title as plain text."""
    return html.unescape(re.sub(r"<[^>]*>", "", figure.layout.title.text or "figure"))

"""One HTML file that shows a trace offline, to whoever it is sent."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

from v4kit.figures.bundle import data_uri
from v4kit.figures.payload import payload, to_json
from v4kit.figures.picture import caption, draw
from v4kit.figures.reading import facts, tally
from v4kit.figures.theme import css
from v4kit.trace import Trace
from v4kit.trace.writer import writing

SCRIPTS = ("report-data.js", "report-figures.js", "report.js")


def write(trace: Trace, path: str | Path, *, title: str | None = None) -> Path:
    """Write a self-contained report of a trace; return its path.

    The page makes no request of any kind. The text and the details of the first 5,000 tokens are
    embedded; map and load count all of them. A file that exists is replaced at once or not at all.

    Args:
        trace: Any trace.
        path: The file to write; missing folders are made.
        title: Heading of the page; the model's name if not given.

    Raises:
        TraceWriteError: The disk is full or the place can't be written.
    """
    path = Path(path)
    page = render(trace, title=title)
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


def render(trace: Trace, *, title: str | None = None) -> str:
    """Return the report as one HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    known, counted = facts(trace), tally(trace)
    heading = known.model if title is None else title
    scripts = [get_plotlyjs(), "\n".join(map(asset, SCRIPTS))]
    environment = Environment(
        loader=PackageLoader("v4kit.figures"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        title=heading,
        policy=policy(scripts),
        style=Markup(css() + asset("report.css")),  # noqa: S704 - our own style sheets
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own scripts
        data=Markup(to_json(payload(trace, counted, title=heading))),  # noqa: S704 - escaped by to_json
        picture=data_uri(draw(known, counted)),
        caption=caption(known, counted),
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def asset(name: str) -> str:
    """Return a file of the templates folder."""
    return files("v4kit.figures").joinpath("templates", name).read_text(encoding="utf-8")


def policy(scripts: list[str]) -> str:
    """Return a content policy: these scripts alone may run, and nothing may be fetched."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )

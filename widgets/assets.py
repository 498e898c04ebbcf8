"""What a page needs to draw views, sent to it once: our scripts, style sheet and plotly.js."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

from ipywidgets import Widget
from plotly.offline import get_plotlyjs
from traitlets import Bytes, Unicode

from v4kit.figures.page import asset
from v4kit.figures.theme import CATEGORIES, MONO, SANS, THEMES, variables

MODULES = (
    "dom",
    "scope",
    "link",
    "tape",
    "tokens",
    "heatmap",
    "grid",
    "token-panel",
    "expert-panel",
    "routing",
    "edit-list",
    "playground",
    "attended",
    "block-bands",
    "layer-table",
    "attention-key",
    "source-list",
    "attention",
    "two-texts",
    "overlap-plot",
    "pair-table",
    "difference-list",
    "compare",
    "main",
)
"""Our scripts; each may import those before it, and all may import the report's colours."""


class Assets(Widget):  # type: ignore[misc]
    """Scripts as the state of one widget, because state reaches a page while a cell still runs."""

    version = Unicode().tag(sync=True)
    app = Bytes().tag(sync=True)
    plotly = Bytes().tag(sync=True)


_shared: list[Assets] = []


def assets() -> Assets:
    """Return the one widget that all views of this kernel take their scripts from."""
    if not _shared or _shared[0].comm is None:
        packed = app()
        version = hashlib.sha256(packed + plotly()).hexdigest()[:16]
        _shared[:] = [Assets(version=version, app=packed, plotly=plotly())]
    return _shared[0]


def loader() -> str:
    """Return the small module that each view carries: it takes everything else from the page."""
    return _file("loader.js")


@cache
def app() -> bytes:
    """Return our scripts, style sheet and colours, as deflated JSON."""
    bundle = {
        "modules": [
            ["colours", asset("colours.js") + "export { inkOn, mix, percent, rgb };\n"],
            *([name, _file(f"{name}.js")] for name in MODULES),
        ],
        "style": style(),
        "look": look(),
    }
    return zlib.compress(json.dumps(bundle).encode("utf-8"), 9)


@cache
def plotly() -> bytes:
    """Return plotly.js out of the installed plotly package, deflated."""
    return zlib.compress(get_plotlyjs().encode("utf-8"), 6)


def look() -> dict[str, Any]:
    """Return the colours that scripts need, by theme."""
    return {
        "categories": CATEGORIES,
        "themes": {name: asdict(theme) for name, theme in THEMES.items()},
        "sans": SANS,
    }


def style() -> str:
    """Return the style sheet: the colours of both themes, then the rules."""
    colours = "".join(
        f'.v4kit[data-theme="{name}"] {{ color-scheme: {name}; {variables(theme)} }}\n'
        for name, theme in THEMES.items()
    )
    return f".v4kit {{ --sans: {SANS}; --mono: {MONO}; }}\n{colours}{_file('style.css')}"


def _file(name: str) -> str:
    return files("v4kit.widgets").joinpath("static", name).read_text(encoding="utf-8")

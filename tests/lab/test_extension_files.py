"""What the extension's files must have in common with the library."""

import json
import re

import pytest

import v4kit
from tests.lab.server import EXTENSION
from v4kit.figures.theme import DARK, LIGHT, Theme

SCALES = ("learned", "hash", "window", "blocks", "nowhere")


def test_versions_agree() -> None:
    package = json.loads((EXTENSION / "package.json").read_text(encoding="utf-8"))
    build = package["jupyterlab"]["_build"]
    assert package["version"] == v4kit.__version__
    assert build["load"] == f"static/remoteEntry.js?v4kit={v4kit.__version__}"
    assert (EXTENSION / "static" / "remoteEntry.js").is_file()


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_are_those_of_the_figures(theme: Theme) -> None:
    style = (EXTENSION / "static" / "style.css").read_text(encoding="utf-8")
    block = style.split("{")[1 if theme.name == "light" else 2]
    colours = dict(re.findall(r"--v4kit-([\w-]+): (#\w+);", block))
    assert len(colours) >= 19
    for name, colour in colours.items():
        word, _, step = name.partition("-")
        expected = getattr(theme, word)
        assert colour == (expected[int(step)] if word in SCALES else expected), name


def test_nothing_is_parsed_as_html() -> None:
    scripts = [path.read_text(encoding="utf-8") for path in EXTENSION.rglob("*.js")]
    assert scripts
    parsing = re.compile(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|srcdoc")
    assert not [script for script in scripts if parsing.search(script)]
    assert not [script for script in scripts if re.search(r"https?://(?!www\.w3\.org/)", script)]

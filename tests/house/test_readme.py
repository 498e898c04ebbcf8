"""The README's Python runs, top to bottom, and prints what the README says it prints."""

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house.sources import ROOT

README = ROOT / "README.md"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n"  # a Python block,
    r"(?:\s*^```text\n(?P<output>.*?)^```$)?",  # and its output, if that follows at once
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Example:
    """One Python block of a Markdown text."""

    code: str
    """What runs."""
    output: str | None
    """What it must print; None if the text does not say."""
    line: int
    """Where the code starts, counted from 1."""


def examples(markdown: str) -> Iterator[Example]:
    """All Python blocks, in order."""
    for match in BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start("code")) + 1
        yield Example(match["code"], match["output"], line)


def run(found: list[Example], name: str) -> None:
    """Run examples in one namespace and compare what they print."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for example in found:
        # Leading lines put the block where it stands in the file, for tracebacks.
        code = compile("\n" * (example.line - 1) + example.code, name, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        if example.output is not None:
            assert printed.getvalue() == example.output, f"{name}:{example.line}"


def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(examples(README.read_text(encoding="utf-8")))
    assert found, "README.md shows no Python."
    monkeypatch.chdir(tmp_path)
    run(found, str(README))


def test_wrong_output_is_caught() -> None:
    text = "```python\nx = 1\n```\n\n```python\nprint(x)\n```\n\n```text\n1\n```\n"
    found = list(examples(text))
    assert [example.output for example in found] == [None, "1\n"]
    assert [example.line for example in found] == [2, 6]
    run(found, "good.md")
    with pytest.raises(AssertionError, match=r"bad\.md:6"):
        run(list(examples(text.replace("text\n1", "text\n2"))), "bad.md")

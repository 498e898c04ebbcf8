"""Labels: what can't be seen is shown, what plotly would read is escaped."""

import html

import pytest

from tests.figures.traces import NASTY, routed
from v4kit.figures.labels import EMPTY, caption, escape, token_label, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", EMPTY),
        ("\n", "⏎"),
        ("\t", "⇥"),
        ("a\r\nb", "a␍⏎b"),
        ("\x00", "␀"),
        ("\x7f", "␡"),
        ("\u202e", "⟦U+202E⟧"),
        ("\u200b", "⟦U+200B⟧"),
        ("\u0085", "⟦U+0085⟧"),
        ("\ud800", "⟦U+D800⟧"),
        ("\u0301x", "◌\u0301x"),
        (" fox", " fox"),
        ("床", "床"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown


def test_limit():
    assert visible("abcdef", limit=4) == "abc…"
    assert visible("abcd", limit=4) == "abcd"
    assert len(visible("x" * 10**6, limit=60)) == 60


@pytest.mark.parametrize("text", NASTY)
def test_escape_is_undone_by_entities_alone(text):
    escaped = escape(text)
    assert not set("<>$") & set(escaped)
    assert html.unescape(escaped) == text or "&#" in text


def test_labels_keep_blanks():
    assert token_label("  if") == "\u00a0\u00a0if"


def test_caption_names_document_and_position():
    trace = routed()
    assert caption(trace, 31) == "<b>“\u00a0time”</b> token 31, position 1 of document 1 (code)"
    assert caption(routed(documents=1), 0) == "<b>“Once”</b> token 0"

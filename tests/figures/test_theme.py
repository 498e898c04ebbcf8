"""The theme: readable, and told apart by lightness too."""

import pytest

from v4kit.errors import InputError
from v4kit.figures.theme import (
    CATEGORIES,
    DARK,
    LIGHT,
    colour_at,
    css,
    ink_on,
    rgb,
    scale,
    theme_of,
)


def luminance(colour):
    channels = [c / 255 for c in rgb(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_is_readable(theme):
    for ground in (theme.paper, theme.panel):
        assert contrast(theme.ink, ground) >= 7
        assert contrast(theme.muted, ground) >= 4.5
        assert contrast(theme.accent, ground) >= 4.5
    for fill in (*CATEGORIES, theme.other, *theme.learned, *theme.hash):
        assert contrast(ink_on(fill), fill) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_scales_are_ordered_by_lightness(theme):
    for steps in (theme.learned, theme.hash):
        levels = [luminance(step) for step in steps]
        ordered = sorted(levels, reverse=theme is LIGHT)
        assert levels == ordered
        assert contrast(steps[0], steps[-1]) > 8


def test_anchor_puts_chance_on_the_third_step():
    places = scale(LIGHT.learned, 0.1)
    assert places[2] == (0.1, LIGHT.learned[2])
    assert colour_at(places, 0.1) == LIGHT.learned[2]
    assert [place for place, _ in places] == sorted(place for place, _ in places)
    assert (places[0][0], places[-1][0]) == (0.0, 1.0)
    for anchor in (None, 0.0, 1.0, 5.0):
        assert [place for place, _ in scale(LIGHT.hash, anchor)] == pytest.approx(
            [0, 0.2, 0.4, 0.6, 0.8, 1]
        )


def test_css_holds_both_themes():
    sheet = css()
    assert f"--paper: {LIGHT.paper};" in sheet
    assert sheet.count(f"--paper: {DARK.paper};") == 2
    assert "prefers-color-scheme: dark" in sheet


def test_unknown_theme():
    with pytest.raises(InputError, match="sepia"):
        theme_of("sepia")

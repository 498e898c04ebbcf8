"""The report in a real Chromium: offline, no error, no request, an answer to every gesture."""

import pytest

from tests.figures.traces import NASTY, flash, routed
from v4kit.figures.report import write

pytestmark = pytest.mark.browser


def opened(page, trace, folder, width=1280, height=1000):
    """The page with the report of a trace, ready; whatever it asks for is blocked and listed."""
    path = write(trace, folder / "report.html")
    page.route(
        lambda url: not url.startswith(("file:", "data:", "blob:")), lambda route: route.abort()
    )
    page.set_viewport_size({"width": width, "height": height})
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    return page


def check_quiet(page):
    assert page.errors == []
    foreign = [u for u in page.requests if not u.startswith(("data:", "blob:"))]
    assert len(foreign) == 1
    assert foreign[0].startswith("file:")


def wait(page, expression):
    """Wait until an expression is true; the page's policy forbids playwright's own way to wait."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{expression} did not become true.")


def paper(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def background(page, row):
    return page.evaluate(f"getComputedStyle(document.getElementById('t{row}')).backgroundColor")


def marks(page, name):
    """Customdata of a named trace of the barcode."""
    return page.evaluate(
        "name => document.getElementById('barcode').data.find(d => d.name === name).customdata",
        name,
    )


@pytest.fixture
def trace():
    return routed(120)


def test_opens_without_error_or_request(page, trace, tmp_path):
    opened(page, trace, tmp_path)
    for name in ("map", "barcode", "load"):
        assert page.locator(f"#{name} .main-svg").count() >= 1
    assert page.locator("#tokens span").count() == 120
    titles = page.eval_on_selector_all(
        ".modebar-btn", "all => all.map(b => b.getAttribute('data-title'))"
    )
    assert titles
    assert not any("hare" in title or "loud" in title for title in titles)
    assert page.locator(".plotlyjsicon").count() == 0
    check_quiet(page)


def test_click_on_a_token(page, trace, tmp_path):
    opened(page, trace, tmp_path).locator("#t7").click()
    ids = trace.routing["experts"].values[7]
    assert "chosen" in page.locator("#t7").get_attribute("class")
    panel = page.locator("#panel")
    assert "token 7 · position 7" in panel.inner_text()
    buttons = panel.locator("td button").all_inner_texts()
    assert [int(text) for text in buttons] == ids[5].tolist()
    rows = panel.locator("table").first.locator("tr").all_inner_texts()
    weights = trace.routing["weights"].values[7, 5]
    assert [row.split()[0] for row in rows[1:]] == ["1", "2", "3"]
    for row, weight in zip(rows[1:], weights, strict=True):
        assert float(row.split()[2]) == pytest.approx(weight, abs=1e-4)
    drawn = marks(page, "topk")
    assert {(m[1], m[2]) for m in drawn} == {(i, e) for i in range(1, 6) for e in ids[i].tolist()}
    assert {m[0] for m in drawn} == {7}
    assert "Token 7" in page.locator("#barcode-note").inner_text()
    assert "token 7" in page.locator("#spoken").inner_text()
    check_quiet(page)


def test_hover_shows_and_leaves(page, trace, tmp_path):
    opened(page, trace, tmp_path).locator("#t3").click()
    page.locator("#t9").hover()
    assert "token 9" in page.locator("#panel").inner_text()
    page.locator("h1").hover()
    assert "token 3" in page.locator("#panel").inner_text()


def test_switching_the_layer(page, trace, tmp_path):
    opened(page, trace, tmp_path).locator("#t7").click()
    page.locator("h1").hover()
    before = [background(page, row) for row in range(40)]
    page.locator("#layer").select_option("0")
    panel = page.locator("#panel").inner_text()
    assert "layer 0 (hash-routed), unranked" in panel
    assert page.locator("#panel th").all_inner_texts()[0] == "slot"
    ids = trace.routing["experts"].values[7, 0].tolist()
    assert [int(t) for t in page.locator("#panel td button").all_inner_texts()] == ids
    assert [background(page, row) for row in range(40)] != before
    assert "hash-routed" in page.locator("#load-note").inner_text()
    page.locator("#tokens").focus()
    page.keyboard.press("]")
    assert page.locator("#layer").input_value() == "1"
    page.keyboard.press("[")
    page.locator("#next").click()
    page.locator("#next").click()
    assert page.locator("#layer").input_value() == "2"
    check_quiet(page)


def test_colour_by_an_expert(page, trace, tmp_path):
    opened(page, trace, tmp_path).locator("#t7").click()
    page.locator("#panel td button").first.click()
    expert = int(trace.routing["experts"].values[7, 5, 0])
    assert f"coloured by expert {expert}" in page.locator("#mode").inner_text()
    used = (trace.routing["experts"].values[:, 5] == expert).any(axis=1)
    for row in range(40):
        assert (background(page, row) != "rgba(0, 0, 0, 0)") == used[row]
    page.locator("#reset").click()
    assert "heaviest" in page.locator("#mode").inner_text()
    page.locator("#legend button").first.click()
    assert "coloured by expert" in page.locator("#mode").inner_text()


def test_click_on_the_map(page, trace, tmp_path):
    opened(page, trace, tmp_path)
    box = page.locator("#map .nsewdrag").first
    box.scroll_into_view_if_needed()
    size = box.bounding_box()
    page.mouse.move(size["x"] + size["width"] * 0.5, size["y"] + size["height"] * 0.6)
    page.wait_for_selector("#map .hovertext", timeout=5_000)
    shown = page.locator("#map .hovertext").text_content()
    page.mouse.click(size["x"] + size["width"] * 0.5, size["y"] + size["height"] * 0.6)
    wait(page, "document.getElementById('mode').textContent.includes('by expert')")
    layer = page.locator("#layer").input_value()
    expert = page.locator("#mode").inner_text().split("expert ")[1].split(":")[0]
    assert f"layer {layer}" in shown
    assert f"expert {expert}" in shown
    check_quiet(page)


def test_keyboard_alone(page, trace, tmp_path):
    opened(page, trace, tmp_path)
    page.locator("#tokens").focus()
    for key, row in (("ArrowRight", 1), ("End", 119), ("ArrowLeft", 118), ("Home", 0)):
        page.keyboard.press(key)
        assert page.locator("#tokens").get_attribute("aria-activedescendant") == f"t{row}"
    page.keyboard.press("ArrowDown")
    assert page.locator("#tokens").get_attribute("aria-activedescendant") not in {"t0", "t119"}
    assert page.locator("[aria-selected=true]").count() == 1


def test_themes(page, trace, tmp_path):
    page.emulate_media(color_scheme="light")
    opened(page, trace, tmp_path)
    assert paper(page) == "rgb(255, 255, 255)"
    page.locator("#theme").select_option("dark")
    assert paper(page) == "rgb(20, 23, 28)"
    ground = page.evaluate("document.getElementById('map')._fullLayout.paper_bgcolor")
    assert ground == "#14171c"
    page.locator("#theme").select_option("auto")
    assert paper(page) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    wait(page, "document.getElementById('load')._fullLayout.paper_bgcolor === '#14171c'")
    assert paper(page) == "rgb(20, 23, 28)"
    check_quiet(page)


@pytest.mark.parametrize("make", [lambda: routed(120), lambda: flash(200)], ids=["tiny", "flash"])
def test_narrow_page_does_not_scroll_sideways(page, make, tmp_path):
    opened(page, make(), tmp_path, width=700)
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    check_quiet(page)


def test_hostile_tokens_stay_text(page, tmp_path):
    hostile = routed(60, texts=NASTY, meta={"model": NASTY[2]})
    page.on("dialog", lambda dialog: page.errors.append(dialog.message))
    opened(page, hostile, tmp_path)
    assert page.locator("#t2").inner_text() == "</script><img src=x onerror=alert(1)>"
    assert page.locator("h1").inner_text() == NASTY[2]
    assert page.locator("#tokens img, #tokens a, #tokens b").count() == 0
    for row in range(len(NASTY)):
        page.locator(f"#t{row}").click()
    assert page.evaluate("window.alerted") is None
    check_quiet(page)


def test_plotly_shows_escaped_labels_as_text(page, tmp_path):
    from v4kit.figures import layer_timeline

    figure = layer_timeline(routed(12, texts=NASTY, documents=1), 2)
    figure.write_html(tmp_path / "figure.html", include_plotlyjs=True)
    page.goto((tmp_path / "figure.html").as_uri())
    page.wait_for_selector(".xtick")
    ticks = page.eval_on_selector_all(".xtick", "all => all.map(tick => tick.textContent)")
    assert ticks[0] == "<b>bold</b>"
    assert ticks[3] == "&lt;i&gt;"
    assert ticks[4] == "$x^2$"
    assert page.locator(".xtick a, .xtick [style*=bold]").count() == 0


def test_empty_trace_says_so(page, tmp_path):
    opened(page, routed(5)[:0], tmp_path)
    assert page.locator("#empty").is_visible()
    assert not page.locator("#main").is_visible()
    check_quiet(page)

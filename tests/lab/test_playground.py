"""A playground by clicks and keys: typing, watching, stopping, going on, waiting, interrupting."""

import json

import nbformat
import pytest
from playwright.sync_api import Locator

from tests.lab.lab import Lab
from tests.lab.views import (
    MODEL,
    SPANS,
    button,
    check_text,
    check_totals,
    grid,
    opened,
    state,
    wait_for_grid,
    wait_for_state,
    wait_for_tokens,
)
from v4kit.figures.theme import DARK, LIGHT, rgb

pytestmark = pytest.mark.browser

MEASURE = """
from v4kit.widgets.runs import Run
times, plain_stop = {}, Run.stop
def stop(run):
    times.setdefault("asked", time.monotonic())
    plain_stop(run)
Run.stop = stop
def measure(playground):
    note = lambda change: times.__setitem__(change.new, time.monotonic())
    playground.observe(note, "status")
    return playground
def taken():
    result = times["idle"] - times.pop("asked")
    return result
"""
LONG = "max_new_tokens=15_000, temperature=0.7"
IDLE_HANDLER = """
handlers = []
def look():
    handlers.append(str(signal.getsignal(signal.SIGINT)))
asyncio.get_running_loop().call_later(0.3, look)
"""


def write(lab: Lab, cell: int, text: str, key: str = "Control+Enter") -> None:
    """Type into the box and press a key."""
    lab.cell(cell).locator("textarea").click()
    lab.page.keyboard.press("Control+a")
    lab.page.keyboard.type(text)
    lab.page.keyboard.press(key)


def fill_in(box: Locator, text: str, key: str = "Enter") -> None:
    """Type into a small box, as a person does: by keys, and one that ends it."""
    box.press("Control+a")
    box.press_sequentially(text)
    box.press(key)


def wait_for_idle(lab: Lab, cell: int) -> None:
    lab.cell(cell).locator(".v4-form[aria-busy=false]").wait_for(timeout=60_000)


def running(lab: Lab, cell: int) -> bool:
    return lab.cell(cell).locator(".v4-form").get_attribute("aria-busy") == "true"


def focus_by_tab(lab: Lab, name: str) -> None:
    """Press Tab until a button of this name has the focus."""
    for _ in range(12):
        if lab.page.evaluate("document.activeElement.textContent") == name:
            return
        lab.page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {name}.")


def test_type_run_stop_continue_and_retry(lab: Lab) -> None:
    source = f"playground = measure(Playground(model, {LONG}, seed=1))\nplayground"
    opened(lab, source, first=MODEL + MEASURE)
    write(lab, 1, "Once upon a time")
    wait_for_tokens(lab, 1, 20)
    assert running(lab, 1)
    assert state(lab, 1).startswith("Running")
    button(lab, 1, "■ Stop").click()
    wait_for_idle(lab, 1)
    assert lab.value("taken()") < 1
    assert "Once upon a time" in lab.value("playground.trace.text")
    check_text(lab, 1, "playground.trace")
    check_totals(lab, 1, "playground.trace")
    assert state(lab, 1).startswith("Stopped.")
    first = lab.value("shown(playground.trace)")

    focus_by_tab(lab, "Continue")
    lab.page.keyboard.press("Enter")
    lab.cell(1).locator(".v4-form[aria-busy=true]").wait_for()
    wait_for_tokens(lab, 1, len(first) + 20)
    lab.page.keyboard.press("Escape")
    wait_for_idle(lab, 1)
    assert lab.value("taken()") < 1
    check_text(lab, 1, "playground.trace")
    assert lab.value("shown(playground.trace)")[: len(first)] == first
    lab.check("[playground.seed, len(playground.traces)]", [1, 1])

    focus_by_tab(lab, "Retry")
    lab.page.keyboard.press("Enter")
    lab.cell(1).locator(".v4-form[aria-busy=true]").wait_for()
    wait_for_tokens(lab, 1, 10)
    lab.page.keyboard.press("Escape")
    wait_for_idle(lab, 1)
    check_text(lab, 1, "playground.trace")
    lab.check("[playground.seed, len(playground.traces)]", [2, 2])
    assert lab.value("shown(playground.trace)") != first

    lab.cell(1).get_by_label("Length").fill("12")
    write(lab, 1, "def add(a, b):")
    wait_for_state(lab, 1, "Done: the length is reached.")
    check_text(lab, 1, "playground.trace")
    wanted = "sum(playground.trace.tokens['phase'] == 'generated')"
    lab.check(f"int({wanted})", 12)
    lab.check("playground.max_new_tokens", 12)
    lab.page.keyboard.press("Alt+ArrowUp")
    assert lab.cell(1).locator("textarea").input_value() == "Once upon a time"
    assert lab.value("[ours(), hooks()]")[1] == 0
    lab.check_quiet()


def test_what_is_wrong_is_said_on_the_page(lab: Lab) -> None:
    opened(lab, "playground = Playground(model, max_new_tokens=5)\nplayground")
    button(lab, 1, "▶ Run").click()
    notice = lab.cell(1).locator(".v4-form > [role=alert]")
    notice.get_by_text("The prompt is empty").wait_for()
    write(lab, 1, "Hello")
    wait_for_state(lab, 1, "Done: the length is reached.")
    assert notice.is_hidden()
    assert button(lab, 1, "Retry").is_disabled()
    lab.cell(1).get_by_label("Prompt is").select_option("chat")
    write(lab, 1, "Tell me <b>a story</b>")
    lab.cell(1).locator(".v4-talk p").nth(1).wait_for()
    talk = lab.cell(1).locator(".v4-talk p").all_inner_texts()
    said = lab.value("[one['content'] for one in playground.messages]")
    assert talk == [f"user: {said[0]}", f"assistant: {said[1]}"]
    assert said[0] == "Tell me <b>a story</b>"
    check_text(lab, 1, "playground.trace")
    button(lab, 1, "New chat").click()
    lab.wait("document.querySelector('.v4-talk').hidden")
    lab.check("playground.messages", [])
    # A number that is only typed counts when the run is begun from its box.
    fill_in(lab.cell(1).get_by_label("Length"), "3", key="Control+Enter")
    wait_for_state(lab, 1, "Done: the length is reached.")
    lab.check("int(sum(playground.trace.tokens['phase'] == 'generated'))", 3)
    lab.check_quiet()


def test_interrupting_the_kernel_stops_whatever_runs(lab: Lab) -> None:
    opened(lab, f"playground = Playground(model, {LONG})\nplayground")
    lab.run(2, IDLE_HANDLER)
    before = lab.value("handlers") or (lab.page.wait_for_timeout(500), lab.value("handlers"))[1]

    write(lab, 1, "Once upon a time")
    wait_for_tokens(lab, 1, 20)
    assert running(lab, 1)
    lab.page.wait_for_timeout(500)
    lab.interrupt()
    wait_for_idle(lab, 1)
    check_text(lab, 1, "playground.trace")
    assert lab.value("playground._ended").startswith("Stopped.")

    lab.run(2, "trace = await playground.run('def add(a, b):')", wait=False)
    lab.cell(1).locator(".v4-form[aria-busy=true]").wait_for()
    wait_for_tokens(lab, 1, 25)
    lab.interrupt()
    lab.wait_for_cell(2)
    wait_for_idle(lab, 1)
    check_text(lab, 1, "playground.trace")
    assert "def add(a, b):" in lab.value("playground.trace.text")

    loop = "view = RoutingView(stream)\ndisplay(view)\nfor step in stream: pass"
    begin = "view = RoutingView(playground.trace)\ndisplay(view)\n"
    for source in (
        f"{begin}model.generate('Sync one', {LONG}, on_step=view)",
        f"stream = model.stream('Sync two', {LONG})\n{loop}",
    ):
        lab.run(3, source, wait=False)
        wait_for_tokens(lab, 3, 30)
        lab.interrupt()
        lab.wait_for_cell(3)
        assert "KeyboardInterrupt" in lab.output(3)
        check_text(lab, 3, "view.trace")
        lab.check("[view.running, 'Sync' in view.trace.text]", [False, True])

    lab.run(2, IDLE_HANDLER)
    lab.page.wait_for_timeout(600)
    lab.check("handlers", before)
    lab.cell(1).get_by_label("Length").fill("9")
    write(lab, 1, "And again")
    wait_for_state(lab, 1, "Done: the length is reached.")
    check_text(lab, 1, "playground.trace")
    assert lab.value("hooks()") == 0
    lab.check_quiet()


def test_two_playgrounds_take_turns(lab: Lab) -> None:
    opened(
        lab,
        f"one = Playground(model, {LONG})\none",
        f"two = Playground(model, {LONG})\ntwo",
    )
    lab.cell(1).evaluate("cell => cell.scrollIntoView()")
    write(lab, 1, "Once upon a time")
    wait_for_tokens(lab, 1, 10)
    write(lab, 2, "def fib(n):")
    wait_for_state(lab, 2, "Waiting: the model is in use by another run.")
    assert running(lab, 1)
    lab.page.keyboard.press("Escape")
    wait_for_idle(lab, 2)
    lab.check("[two.status, int(two.trace.tokens['valid'].sum())]", ["idle", 0])
    assert running(lab, 1)
    lab.cell(2).locator("textarea").click()
    lab.page.keyboard.press("Control+Enter")
    wait_for_state(lab, 2, "Waiting")
    button(lab, 1, "■ Stop").click()
    wait_for_idle(lab, 1)
    wait_for_tokens(lab, 2, 25)
    button(lab, 2, "■ Stop").click()
    wait_for_idle(lab, 2)
    for cell, name, text in ((1, "one", "Once upon a time"), (2, "two", "def fib(n):")):
        check_text(lab, cell, f"{name}.trace")
        check_totals(lab, cell, f"{name}.trace")
        assert text in lab.value(f"{name}.trace.text")
    lab.check_quiet()


def test_a_notebook_keeps_a_small_picture(lab: Lab) -> None:
    opened(lab, "playground = Playground(model, max_new_tokens=60)\nplayground")
    write(lab, 1, "Once upon a time")
    wait_for_state(lab, 1, "Done")
    lab.value("1")
    lab.command("docmanager:save")
    path = lab.folder / "test.ipynb"
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for output in notebook.cells[1].outputs if "data" in output]
    pictures = [output.data for output in outputs if "image/png" in output.data]
    assert len(pictures) == 1
    assert {"text/html", "image/png", "application/vnd.v4kit.trace+json"} <= pictures[0].keys()
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in notebook.metadata
    assert "Plotly" not in json.dumps(notebook)
    lab.check_quiet()


def test_clearing_reloading_and_restarting(lab: Lab) -> None:
    opened(lab, f"playground = Playground(model, {LONG})\nplayground")
    write(lab, 1, "Once upon a time")
    wait_for_tokens(lab, 1, 20)
    lab.command("docmanager:save")
    lab.reload()
    lab.wait_for_kernel()
    wait_for_tokens(lab, 1, 30)
    wait_for_grid(lab, 1)
    button(lab, 1, "■ Stop").click()
    wait_for_idle(lab, 1)
    check_text(lab, 1, "playground.trace")
    check_totals(lab, 1, "playground.trace")

    write(lab, 1, "def add(a, b):")
    wait_for_tokens(lab, 1, 20)
    lab.value("globals().update(stream=playground._run.stream)")
    lab.page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 1")
    lab.command("notebook:clear-cell-output")
    lab.wait(f"({SPANS})(1).length === 0")
    lab.run(2, "time.sleep(2)")
    still = ["idle", 0, [], 0]
    lab.check("[playground.status, len(stream._watchers), ours(), hooks()]", still)

    lab.run(1)
    wait_for_grid(lab, 1)
    lab.check("playground.trace.text", "")
    lab.restart()
    notice = lab.cell(1).locator(".v4kit > .v4-notice")
    notice.wait_for()
    assert "has ended" in notice.inner_text()
    lab.check_quiet()


EDITS = "[v4kit.scale(4, [3], factor=10), v4kit.steer(3, prefer=[1], avoid=[2])]"


def test_narrow_and_dark(lab: Lab) -> None:
    opened(lab, f"playground = Playground(model, max_new_tokens=40, edits={EDITS})\nplayground")
    # What Python gave is shown as it is, beyond the slider's end too, and what no row can say.
    lab.cell(1).locator(".v4-edits output").get_by_text("10", exact=True).wait_for()
    assert lab.cell(1).locator(".v4-edits input[type=range]").first.input_value() == "10"
    lab.cell(1).get_by_text("steer(layers=[3], prefer=[1], avoid=[2]").wait_for()
    write(lab, 1, "Once upon a time")
    wait_for_state(lab, 1, "Done")
    root = lab.cell(1).locator(".v4kit")
    for colours in (DARK, LIGHT):
        theme = colours.name
        lab.theme(theme)
        lab.page.locator(f".v4kit[data-theme={theme}]").wait_for()
        shown = root.evaluate("node => getComputedStyle(node).backgroundColor")
        assert shown == f"rgb({', '.join(map(str, rgb(colours.paper)))})"
        drawn = f"document.querySelector('.v4-plot').layout.plot_bgcolor === '{colours.paper}'"
        lab.wait(drawn)
    lab.resize(700)
    lab.page.wait_for_timeout(600)
    assert root.evaluate("node => node.scrollWidth <= node.clientWidth")
    inner = "node => [...node.querySelectorAll('.v4-bar, .v4-left, .v4-grid, .v4-panel')]"
    over = "(one) => one.scrollWidth > one.clientWidth + 1"
    wide = f"{inner}.filter({over}).map((one) => one.className)"
    assert root.evaluate(wide) == []
    width = lab.page.evaluate("innerWidth")
    for control in root.locator("button:visible, select:visible, input:visible").all():
        control.scroll_into_view_if_needed()
        box = control.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    nameless = """node => [...node.querySelectorAll("button, select, input, textarea, [tabindex]")]
      .filter((one) => one.tabIndex >= 0 && !(one.ariaLabel || one.textContent.trim() && one.tagName
        === "BUTTON" || one.labels?.length)).map((one) => one.outerHTML.slice(0, 80))"""
    assert root.evaluate(nameless) == []
    assert grid(lab, 1)["all"].keys() == set(range(6))
    lab.screenshot("playground-narrow")
    lab.resize(1400)
    lab.check_quiet()


def test_edits_by_clicks(lab: Lab) -> None:
    """Added, changed by slider and keys, run, compared with a control, switched off, removed."""
    opened(lab, "playground = Playground(model, max_new_tokens=24)\nplayground")
    cell = lab.cell(1)
    write(lab, 1, "Once upon a time")
    wait_for_state(lab, 1, "Done: the length is reached.")
    plain = lab.value("ids(playground.trace)")
    cell.get_by_text("Edit the routing").click()
    cell.locator(".v4-routing").get_by_label("Layer").first.select_option("4")
    button(lab, 1, "Add an edit").click()
    row = cell.locator(".v4-edits li")
    fill_in(row.get_by_label("experts"), "3, 5")
    row.get_by_label("What it does").select_option("force")
    lab.check("playground.edits == [v4kit.force(4, [3, 5])]", wanted=True)
    write(lab, 1, "Once upon a time")
    cell.get_by_text("tokens other experts").wait_for()
    check_text(lab, 1, "playground.trace")
    check_totals(lab, 1, "playground.trace")
    used = lab.value("ids(playground.trace)")
    assert all({3, 5} <= set(layers[4]) for layers in used[:-1])
    assert not all({3, 5} <= set(layers[4]) for layers in plain[:-1])
    moved = "(playground.trace.routing['displaced'][:, 4] != -1).any('slot').values"
    cell.locator(".v4-tokens span").nth(lab.value(f"int({moved}.argmax())")).click()
    cell.get_by_text("instead of").first.wait_for()
    lab.screenshot("playground-edits")

    row.get_by_label("What it does").select_option("scale")
    slider = row.locator("input[type=range]")
    slider.focus()
    for _ in range(4):
        lab.page.keyboard.press("ArrowLeft")
    lab.check("[edit.factor for edit in playground.edits]", [0.3])
    row.get_by_label("Tokens that it acts on").select_option("generated")
    button(lab, 1, "Control").click()
    row.nth(1).wait_for()
    lab.check("[row['on'] for row in playground._rows]", [False, True])
    drawn = set(lab.value("playground.edits[0].experts"))
    assert len(drawn) == 2
    assert not drawn & {3, 5}
    write(lab, 1, "Once upon a time")
    wait_for_state(lab, 1, "Done")
    lab.check("playground.trace.meta['edits'][0]['tokens']", "generated")

    fill_in(row.nth(1).get_by_label("experts"), "99")
    cell.get_by_text("Edit 2: There is no expert 99").wait_for()
    row.nth(1).get_by_label("Remove this edit").click()
    row.nth(1).wait_for(state="detached")
    assert lab.page.evaluate("document.activeElement.textContent") == "Add an edit"
    lab.check("[playground.edits, playground._refused]", [[], {}])
    row.get_by_label("This edit acts").click()
    lab.check("[edit.factor for edit in playground.edits]", [0.3])
    lab.check_quiet()

"""`RoutingView` without a page: what it sends, answers, checks, links, and lets go of."""

import json

import numpy as np
import pytest
import traitlets

import v4kit
from tests import zoo
from tests.engines.alike import assert_alike
from tests.figures.traces import imported, routed
from tests.references import hook_count
from tests.widgets.pages import Page, eventually, rows_of, sums_of, threads, totals_of
from tests.widgets.test_experts import told_by_loops
from v4kit.errors import InputError
from v4kit.figures.labels import visible
from v4kit.widgets import RoutingView, routing, rows
from v4kit.widgets.sender import SENDER

PROMPT = "Count to ten: one, two, three,"
OPTIONS = {"max_new_tokens": 30, "temperature": 1.0, "seed": 4}


def stream_of(name="small", **options):
    return zoo.model(name).stream(PROMPT, **{**OPTIONS, **options})


def still(view):
    """Wait until all that is new has been sent."""
    eventually(lambda: not view.running)
    eventually(lambda: threads("v4kit-sender") == 0)


class TestTraces:
    @pytest.mark.parametrize(
        "trace", [routed(60), routed(60, dense=1, weights=False), imported(), routed(1)], ids=repr
    )
    def test_a_snapshot_is_the_trace(self, trace):
        view = RoutingView(trace)
        content, buffers = Page(view).ask("snapshot")
        rows = rows_of(view, content, buffers)
        texts, experts = trace.tokens["text"].tolist(), trace.routing["experts"].values
        assert list(rows) == list(range(len(trace)))
        for row, told in rows.items():
            assert told["text"] == visible(texts[row])
            np.testing.assert_array_equal(told["experts"], experts[row])
        counts, leads, tokens = totals_of(trace)
        assert sums_of(view, buffers) == (counts, leads, tokens)
        assert content["counted"] == int(trace.tokens["valid"].sum())
        assert view.trace is trace
        assert not view.running

    def test_a_long_trace_comes_by_the_page(self):
        trace = routed(1_200, layers=2, experts=8, top_k=2)
        view = RoutingView(trace, token=700)
        page, whole = Page(view), {}
        content, buffers = page.ask("snapshot")
        assert content["start"] <= 700 < content["start"] + len(content["texts"])
        assert sums_of(view, buffers) == totals_of(trace)
        for row in (0, *range(99, 1_200, 100)):
            content, buffers = page.ask("page", {"row": row})
            found = rows_of(view, content, buffers)
            assert row in found
            assert len(found) <= 512
            whole |= found
        assert sorted(whole) == list(range(1_200))
        experts = trace.routing["experts"].values
        for row, told in whole.items():
            np.testing.assert_array_equal(told["experts"], experts[row])

    def test_answers_about_expert_and_token(self):
        trace = routed(60)
        page = Page(RoutingView(trace))
        told, _ = page.ask("expert", {"layer": 3, "expert": 6})
        mine, fed, weight, *_ = told_by_loops(trace, 3, 6)
        assert (told["count"], told["tokens"]) == (len(mine), fed)
        assert told["weight"] == pytest.approx(weight, rel=1e-6)
        told, _ = page.ask("details", {"row": 41})
        assert told["id"] == trace.tokens["id"].iloc[41]
        assert told["document"] == 1

    def test_from_disk(self, tmp_path):
        trace = routed(80)
        view = RoutingView(v4kit.open_trace(trace.save(tmp_path / "a.v4trace")))
        content, buffers = Page(view).ask("snapshot")
        assert sums_of(view, buffers) == totals_of(trace)
        assert content["rows"] == 80

    def test_another_trace_keeps_what_it_has_of_the_choice(self):
        view = RoutingView(routed(60), token=50, layer=3, expert=30)
        page = Page(view)
        view.trace = routed(55, seed=3)
        assert (view.token, view.layer, view.expert) == (50, 3, 30)
        view.trace = routed(40, seed=4)
        assert (view.token, view.layer, view.expert) == (None, 3, 30)
        view.trace = imported()
        assert (view.token, view.layer, view.expert) == (None, 3, None)
        assert page.events == ["snapshot"] * 3
        assert sums_of(view, page.messages[-1][1]) == totals_of(imported())

    def test_a_report(self, tmp_path):
        path = RoutingView(routed(20)).to_html(tmp_path / "a.html")
        assert path.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")

    @pytest.mark.parametrize("wrong", [5, "trace", None, [1, 2], object()])
    def test_what_is_no_trace(self, wrong):
        with pytest.raises(InputError, match=f"shows a Trace.*given was {type(wrong).__name__}"):
            RoutingView(wrong)


class TestChoice:
    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("token", 60, "has 60 tokens; there is no token 60"),
            ("token", -61, "no token -61"),
            ("layer", 6, "has 6 layers; there is no layer 6"),
            ("layer", -1, "no layer -1"),
            ("expert", 32, "has 32 experts; there is no expert 32"),
        ],
    )
    def test_what_is_not_there(self, name, value, said):
        with pytest.raises(InputError, match=said):
            RoutingView(routed(60), **{name: value})
        view = RoutingView(routed(60))
        before = getattr(view, name)
        with pytest.raises(InputError, match=said):
            setattr(view, name, value)
        assert getattr(view, name) == before

    @pytest.mark.parametrize("name", ["token", "layer", "expert", "theme", "running"])
    def test_of_another_kind(self, name):
        with pytest.raises(traitlets.TraitError):
            setattr(RoutingView(routed(60)), name, "blue")

    def test_tokens_count_from_the_end_too(self):
        view = RoutingView(routed(60), token=-1)
        assert view.token == 59

    def test_the_last_learned_layer_colours(self):
        assert RoutingView(routed(9)).layer == 5
        assert RoutingView(routed(9, hashed=6)).layer == 5
        assert RoutingView(routed(9, dense=6, hashed=0)).layer is None

    def test_while_it_runs(self):
        stream = stream_of()
        view = RoutingView(stream)
        for _ in range(10):
            next(stream)
        rows = len(stream.trace)
        view.token = rows - 1
        assert view.token == rows - 1
        view.token = -1
        assert view.token == rows - 1
        for wrong in (rows, 1_000_000, -rows - 1):
            with pytest.raises(InputError, match=f"{rows} tokens; there is no token {wrong}"):
                view.token = wrong
        view.close()

    def test_observing_and_linking(self):
        one, other, heard = RoutingView(routed(60)), RoutingView(routed(60, seed=1)), []
        other.observe(lambda change: heard.append((change.name, change.new)), ["token", "layer"])
        links = [
            traitlets.link((one, name), (other, name)) for name in ("token", "layer", "expert")
        ]
        one.token, one.layer = 5, 2
        assert heard == [("token", 5), ("layer", 2)]
        other.expert = 7
        assert one.expert == 7
        for link in links:
            link.unlink()
        one.token = 8
        assert other.token == 5

    def test_a_page_that_chooses(self, caplog):
        view = RoutingView(routed(60))
        choose = lambda state: view._handle_msg(  # noqa: E731
            {"content": {"data": {"method": "update", "state": state}}, "buffers": []}
        )
        choose({"token": 7, "expert": 3})
        assert (view.token, view.expert) == (7, 3)
        # What is not there is refused, and not kept.
        choose({"token": 70, "expert": 4})
        assert "there is no token 70" in caplog.text
        assert (view.token, view.expert) == (7, 3)


class TestStreams:
    @pytest.mark.parametrize("name", ["small", "mixtral", "tiny"])
    def test_a_page_that_only_listens_has_it_all(self, name):
        stream = stream_of(name)
        view = RoutingView(stream)
        page = Page(view)
        assert view.running
        trace = stream.finish().trace
        still(view)
        page.check(trace)
        assert page.events.count("snapshot") <= 6
        assert_alike(view.trace, trace)

    def test_rows_between_snapshots_are_told_once_and_in_order(self, monkeypatch):
        # This test flushes; the sender's thread would come between.
        monkeypatch.setattr(SENDER, "mark", lambda _: None)
        stream = stream_of(max_new_tokens=60)
        view = RoutingView(stream)

        def while_a_step_comes(*args):
            message = rows.page(*args)
            next(stream, None)
            return message

        monkeypatch.setattr(routing, "page", while_a_step_comes)
        page = Page(view)
        counted, told = 0, 0
        for step in stream:
            if step.row % 10 == 0:
                view._flush()
        view._flush()
        for content, buffers in page.messages:
            if content["event"] == "snapshot":
                *_, routed_rows = sums_of(view, buffers)
                assert set(routed_rows) == {content["counted"]}
            if content["event"] == "rows":
                # It begins with the row that had no experts yet, and leaves no gap.
                assert content["start"] == told - 1
                counted += 1
            told = content["rows"]
        assert counted >= 3
        page.check(stream.trace)

    def test_generate_shows_itself(self):
        model, view = zoo.model("small"), RoutingView(routed(10))
        page = Page(view)
        trace = model.generate(PROMPT, **OPTIONS, on_step=view)
        still(view)
        assert_alike(view.trace, trace)
        assert_alike(trace, model.generate(PROMPT, **OPTIONS))
        _, buffers = page.ask("snapshot")
        assert sums_of(view, buffers) == totals_of(trace)
        assert list(view._about["kinds"]) == ["hash", "hash", *["topk"] * 4]
        assert hook_count(model.hf) == 0

    def test_a_stream_that_has_begun_or_ended(self):
        stream = stream_of()
        for _ in range(5):
            next(stream)
        view = RoutingView(stream)
        page = Page(view)
        stream.finish()
        still(view)
        page.check(stream.trace)
        late = RoutingView(stream)
        assert not late.running
        _, buffers = Page(late).ask("snapshot")
        assert sums_of(late, buffers) == totals_of(stream.trace)
        assert not stream._watchers

    def test_a_stream_that_was_left(self):
        stream = stream_of()
        view = RoutingView(stream)
        for _ in range(7):
            next(stream)
        assert len(view.trace) == stream.prompt_tokens + 7
        assert_alike(view.trace, stream.trace)
        view.close()

    def test_an_interrupt_is_its_end(self):
        model, stream = zoo.model("small"), stream_of()
        view = RoutingView(stream)
        page = Page(view)
        for _ in range(6):
            next(stream)

        def stop(_):
            raise KeyboardInterrupt

        with model.tap("router", stop, layers=[3]), pytest.raises(KeyboardInterrupt):
            next(stream)
        still(view)
        page.check(stream.trace)
        assert not stream._watchers

    def test_several_views_of_one_stream(self):
        stream = stream_of()
        views = [RoutingView(stream) for _ in range(3)]
        pages = [Page(view) for view in views]
        stream.finish()
        for view, page in zip(views, pages, strict=True):
            still(view)
            page.check(stream.trace)

    def test_questions_while_it_runs(self):
        stream = stream_of()
        view = RoutingView(stream)
        for _ in range(9):
            next(stream)
        trace, page = stream.trace, Page(view)
        content, buffers = page.ask("snapshot")
        assert sums_of(view, buffers) == totals_of(trace)
        assert content["counted"] == len(trace) - 1
        told, _ = page.ask("expert", {"layer": 4, "expert": 2})
        assert told["count"] == totals_of(trace)[0][4][2]
        told, _ = page.ask("details", {"row": len(trace) - 1})
        assert "error" not in told
        view.close()


class TestLettingGo:
    def test_closing(self):
        stream = stream_of()
        view = RoutingView(stream)
        page = Page(view)
        next(stream)
        view.close()
        assert not stream._watchers
        eventually(lambda: threads("v4kit-sender") == 0)
        page.messages.clear()
        stream.finish()
        assert page.messages == []
        assert threads("v4kit-sender") == 0
        view.close()

    @pytest.mark.parametrize("what", ["stream", "trace"])
    def test_another_source(self, what):
        first, second = stream_of(), stream_of(seed=9)
        view = RoutingView(first)
        page = Page(view)
        next(first)
        if what == "stream":
            view.attach(second)
        else:
            view.trace = routed(20)
        assert not first._watchers
        first.finish()
        trace = second.finish().trace if what == "stream" else routed(20)
        still(view)
        _, buffers = page.ask("snapshot")
        assert sums_of(view, buffers) == totals_of(trace)
        assert not second._watchers

    def test_a_run_that_begins_while_the_last_one_is_told(self):
        first, second = stream_of(max_new_tokens=3), stream_of(seed=9)
        view = RoutingView(first)
        begun = []

        def begin(*_):
            if not begun and not first._watchers:
                begun.append(second)
                view.attach(second)

        view.send = begin
        first.finish()
        eventually(lambda: begun)
        eventually(lambda: threads("v4kit-sender") == 0)
        assert view.running
        second.finish()
        still(view)

    def test_a_closed_view_is_not_the_end_of_others(self):
        stream = stream_of()
        closed, other = RoutingView(stream), RoutingView(stream)
        page = Page(other)
        for i, _ in enumerate(stream):
            if i == 4:
                closed.close()
        still(other)
        page.check(stream.trace)


HOSTILE = [
    {},
    {"question": "nothing", "id": "7"},
    {"question": None, "id": "7"},
    {"question": ["page"], "id": "7"},
    {"question": {}, "id": "7"},
    {"question": "page", "id": "7", "about": {"line": 3}},
    {"question": "page", "id": "7", "about": {}},
    {"question": "page", "id": "7", "about": [3]},
    {"question": "page", "id": "7", "about": 5},
    {"question": "page", "about": {"row": 1}},
    {"question": "page", "id": {"a": []}, "about": {"row": 1}},
    *(
        {"question": "page", "id": "7", "about": {"row": row}}
        for row in (-9, 10**30, 1.5, "x", None)
    ),
    *({"question": "details", "id": "7", "about": {"row": row}} for row in (-9, 10**30, 1.5, "x")),
    *(
        {"question": "expert", "id": "7", "about": {"layer": layer, "expert": expert}}
        for layer, expert in [(-1, 0), (99, 0), (1, -1), (1, 99), ("1", 2), (1.5, 2), (None, None)]
    ),
    {"question": "_snapshot", "id": "7"},
    {"question": "__class__", "id": "7"},
    {"shown": "many"},
    {"shown": None},
    {"shown": -3},
    {"shown": 10**30},
]


@pytest.mark.parametrize("content", HOSTILE, ids=str)
def test_whatever_a_page_sends_is_answered_or_ignored(content, caplog):
    view = RoutingView(routed(60))
    page = Page(view)
    page.say(content)
    assert not caplog.records, caplog.text
    for answer, _ in page.messages:
        json.dumps(answer, allow_nan=False)
    if content.get("id") == "7" and content["question"] in ("page", "details", "expert"):
        assert len(page.messages) == 1
        wrong = "error" in page.messages[0][0]
        far = content["about"] in ({"row": -9}, {"row": 10**30})
        assert wrong or far
    else:
        assert all("error" in answer or "rows" in answer for answer, _ in page.messages)
    # It goes on as if nothing had been.
    answer, buffers = page.ask("snapshot")
    assert sums_of(view, buffers) == totals_of(view.trace)


def test_the_handler_would_complain(caplog):
    """The test above can fail."""
    view = RoutingView(routed(10))
    view.on_msg(lambda *_: 1 / 0)
    Page(view).say({})
    assert "ZeroDivisionError" in caplog.text

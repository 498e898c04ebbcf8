"""`Playground` without a kernel: runs, settings, stopping and going on, chats, what it keeps."""

import threading

import numpy as np
import pytest
import traitlets

import v4kit
from tests import zoo
from tests.engines.alike import assert_alike
from tests.engines.served import VLLM
from tests.engines.stand_in import StandIn
from tests.references import hook_count
from tests.widgets.pages import Held, Page, awaited, eventually, sums_of, threads, totals_of
from v4kit.errors import EngineError, InputError
from v4kit.widgets import AttentionView, Playground, RoutingView

PROMPT = "Count to ten: one, two, three,"
OPTIONS = {"max_new_tokens": 12, "temperature": 1.0, "seed": 4}


@pytest.fixture
def model():
    return zoo.model("small")


@pytest.fixture
def playground(model):
    playground = Playground(model, **OPTIONS)
    yield playground
    playground.close()
    eventually(lambda: threads("v4kit-run") == threads("v4kit-sender") == 0)
    assert hook_count(model.hf) == 0


def generated(trace):
    return trace.tokens["text"][trace.tokens["phase"] == "generated"].tolist()


def plain(model, prompt=PROMPT, **changes):
    return model.generate(prompt, **{**OPTIONS, **changes})


def stop_after(playground, count):
    """Stop the run from its own thread, after so many tokens; return the texts that were told."""
    told = []

    def look(step):
        told.append(step.text)
        if len(told) == count:
            playground.stop()

    playground._stream.watch(look)
    return told


def paused(playground, begin, count):
    """Begin a run that is stopped after so many tokens; return its trace and what was told."""
    with Held(playground.model):
        run = begin()
        told = stop_after(playground, count)
    return run.wait(60), told


class TestRuns:
    def test_a_run_is_an_undisturbed_generation(self, playground, model):
        trace = playground.run(PROMPT).wait(60)
        assert_alike(trace, plain(model))
        assert_alike(playground.trace, trace)
        assert [len(one) for one in playground.traces] == [len(trace)]
        assert (playground.status, playground.message) == ("idle", "")
        assert playground._ended.startswith("Done: the length is reached.")
        eventually(lambda: not playground.running)

    def test_runs_follow_each_other_at_once(self, playground):
        """What a run leaves is there when the wait for it is over."""
        for i in range(30):
            trace = playground.run(f"{PROMPT} {i}", max_new_tokens=2).wait(60)
            assert playground.traces[-1] is playground.trace
            assert_alike(playground.trace, trace)
            assert trace.text.count(f"three, {i}") == 1
            assert playground.status == "idle"
        assert len(playground.traces) == 20
        assert [t.text.split("three, ")[1][:2].strip() for t in playground.traces] == [
            str(i) for i in range(10, 30)
        ]

    def test_awaiting_a_run(self, playground, model):
        async def work():
            return await playground.run(PROMPT)

        assert_alike(awaited(work()), plain(model))

    def test_a_page_has_every_row(self, playground):
        page = Page(playground)
        for seed in (4, 5):
            trace = playground.run(PROMPT, seed=seed, max_new_tokens=40).wait(60)
            eventually(lambda: not playground.running)
            content, buffers = page.messages[-1]
            assert content["event"] == "snapshot"
            assert sums_of(playground, buffers) == totals_of(trace)
            page.rows = {row: told for row, told in page.rows.items() if row < len(trace)}
            page.check(trace)

    def test_settings_stay(self, playground):
        playground.run(PROMPT, max_new_tokens=3, temperature=0.0, top_p=0.5, seed=9).wait(60)
        assert (playground.prompt, playground.max_new_tokens) == (PROMPT, 3)
        assert (playground.temperature, playground.top_p, playground.seed) == (0.0, 0.5, 9)
        trace = playground.run().wait(60)
        sampling = trace.meta["sampling"]
        expected = {"max_new_tokens": 3, "temperature": 0.0, "top_p": 0.5}
        assert {name: sampling[name] for name in expected} == expected
        assert trace.meta["seed"] == 9

    def test_what_is_recorded_can_be_chosen(self, model):
        playground = Playground(model, record=v4kit.Record(routing="ids"), **OPTIONS)
        trace = playground.run(PROMPT).wait(60)
        assert list(trace.routing.data_vars) == ["experts"] or "scores" not in trace.routing
        playground.close()

    def test_before_the_first_run(self, playground):
        assert len(playground.trace) == 0
        assert playground.traces == []
        content, buffers = Page(playground).ask("snapshot")
        assert content["rows"] == 0
        assert sum(map(sum, sums_of(playground, buffers)[0])) == 0
        playground.stop()

    def test_earlier_prompts_stand_once_each(self, playground):
        for prompt in ("One", "Two", "One", *map(str, range(25))):
            playground.run(prompt, max_new_tokens=1).wait(60)
        assert playground._prompts == list(map(str, range(5, 25)))
        playground.run("10", max_new_tokens=1).wait(60)
        assert playground._prompts[-1] == "10"
        assert len(set(playground._prompts)) == len(playground._prompts) == 20

    def test_retry_takes_the_next_seed(self, playground, model):
        playground.run(PROMPT).wait(60)
        playground.prompt = "Another text in the box"
        trace = playground.retry().wait(60)
        assert playground.seed == 5
        assert_alike(trace, plain(model, seed=5))
        playground.seed = None
        seeds = {playground.retry().wait(60).meta["seed"] for _ in range(3)}
        assert len(seeds) == 3
        assert playground.seed is None


class TestStopping:
    @pytest.mark.parametrize("count", [1, 5, 11])
    def test_the_trace_has_the_tokens_told(self, playground, model, count):
        trace, told = paused(playground, lambda: playground.run(PROMPT), count)
        assert generated(trace) == told
        assert len(told) == count
        assert generated(playground.trace) == told
        assert playground._ended.startswith("Stopped.")
        assert playground._open
        whole = plain(model).routing["experts"].values
        rows = int(trace.tokens["valid"].sum())
        assert trace.routing["experts"].values[:rows].tolist() == whole[:rows].tolist()

    def test_stop_then_go_on_is_one_long_run(self, playground, model):
        paused(playground, lambda: playground.run(PROMPT), 5)
        trace = playground.go_on().wait(60)
        assert_alike(trace, plain(model))
        assert len(playground.traces) == 1
        assert_alike(playground.traces[0], trace)

    def test_stopped_again_and_again(self, playground, model):
        paused(playground, lambda: playground.run(PROMPT), 2)
        for count in (1, 3, 2):
            paused(playground, playground.go_on, count)
        assert_alike(playground.go_on().wait(60), plain(model))

    def test_go_on_after_the_length_is_one_long_run(self, playground, model):
        playground.run(PROMPT).wait(60)
        trace = playground.go_on().wait(60)
        assert_alike(trace, plain(model, max_new_tokens=24))
        playground.max_new_tokens = 3
        assert_alike(playground.go_on().wait(60), plain(model, max_new_tokens=27))
        assert len(playground.traces) == 1

    def test_while_another_waits_for_the_model(self, playground, model):
        other = Playground(model, **OPTIONS)
        with Held(model):
            first = playground.run(PROMPT)
            eventually(lambda: playground.status == "waiting")
            second = other.run("Two")
            eventually(lambda: other.status == "waiting")
            other.stop()
            assert generated(second.wait(60)) == []
            assert other.status == "idle"
            assert not first.done
        assert_alike(first.wait(60), plain(model))
        assert_alike(other.go_on().wait(60), plain(model, "Two"))
        other.close()

    def test_two_at_once_mix_nothing(self, playground, model):
        other = Playground(model, **OPTIONS)
        expected = plain(model), plain(model, "Two")
        runs = playground.run(PROMPT), other.run("Two")
        for run, trace in zip(runs, expected, strict=True):
            assert_alike(run.wait(60), trace)
        assert_alike(playground.trace, runs[0].stream.trace)
        assert_alike(other.trace, runs[1].stream.trace)
        other.close()

    @pytest.mark.parametrize("how", ["close", "hidden"])
    def test_nobody_looks_any_more(self, model, how):
        playground = Playground(model, **OPTIONS)
        page = Page(playground)
        page.say({"shown": 1})
        page.say({"shown": 1})
        with Held(model):
            run = playground.run(PROMPT)
            eventually(lambda: playground.status == "waiting")
            page.say({"shown": -1})
            assert not run.stopped
            if how == "close":
                playground.close()
            else:
                page.say({"shown": -1})
            assert run.stopped
        assert len(generated(run.wait(60))) <= 1
        eventually(lambda: not run.stream._watchers)
        playground.close()

    def test_a_page_that_is_loaded_anew_stops_nothing(self, playground, model):
        page = Page(playground)
        page.say({"shown": 1})
        with Held(model):
            run = playground.run(PROMPT)
            page.say({"left": True})
            assert not run.stopped
            page.say({"shown": 1})
            page.say({"shown": -1})
            assert run.stopped
        run.wait(60)

    def test_never_shown_it_runs_to_its_end(self, playground):
        assert len(generated(playground.run(PROMPT).wait(60))) == 12


class TestWhatCantBe:
    @pytest.mark.parametrize("prompt", ["", "  ", "\n\t"])
    def test_an_empty_prompt(self, playground, prompt):
        with pytest.raises(InputError, match="The prompt is empty"):
            playground.run(prompt)
        assert playground._prompts == []
        assert playground.status == "idle"

    def test_too_long_a_prompt(self, playground):
        with pytest.raises(InputError, match="the model's context holds 400"):
            playground.run("word " * 400)
        assert playground.status == "idle"
        assert len(generated(playground.run(PROMPT).wait(60))) == 12

    def test_an_unknown_setting(self, playground):
        with pytest.raises(InputError, match="no setting 'heat'; it has"):
            playground.run(PROMPT, heat=3)
        assert playground.prompt == ""

    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ({"max_new_tokens": 0}, "max_new_tokens is a whole number, 1 or more"),
            ({"temperature": -1.0}, "temperature is 0"),
            ({"top_p": 0.0}, "top_p lies above 0"),
            ({"seed": -1}, "seed is a whole number"),
        ],
    )
    def test_a_setting_out_of_range(self, playground, setting, said):
        with pytest.raises(InputError, match=said):
            playground.run(PROMPT, **setting)
        assert playground.status == "idle"
        assert not playground.running

    @pytest.mark.parametrize(
        "setting", [{"seed": "x"}, {"temperature": None}, {"prompt": 5}], ids=str
    )
    def test_a_setting_of_another_kind(self, playground, setting):
        with pytest.raises((InputError, traitlets.TraitError)):
            playground.run(**{"prompt": PROMPT, **setting})

    def test_while_a_run_goes_on(self, playground, model):
        with Held(model):
            run = playground.run(PROMPT)
            for action in (playground.run, playground.retry, playground.go_on, playground.clear):
                with pytest.raises(InputError, match="A run is going on"):
                    action()
        assert_alike(run.wait(60), plain(model))
        assert len(playground.traces) == 1

    def test_before_there_was_a_run(self, playground):
        for action in (playground.retry, playground.go_on):
            with pytest.raises(InputError, match="There is no run yet"):
                action()

    def test_going_on_where_the_text_ended_by_itself(self, playground, model):
        with Held(model):
            run = playground.run(PROMPT)
            run.stream._model.stop_ids, before = set(range(320)), run.stream._model.stop_ids
        try:
            trace = run.wait(60)
        finally:
            model.stop_ids = before
        assert trace.meta["stop_reason"] == "stop token"
        assert not playground._open
        model.stop_ids = set(range(320))
        try:
            with pytest.raises(InputError, match="the model ended its text"):
                playground.go_on()
        finally:
            model.stop_ids = before
        assert len(playground.traces) == 1
        assert_alike(playground.trace, trace)

    def test_a_model_that_fails_says_so(self, playground, model):
        passes = []

        def fail(_):
            passes.append(1)
            if len(passes) == 3:
                raise LookupError("mine")

        with model.tap("router", fail, layers=[3]):
            run = playground.run(PROMPT)
            with pytest.raises(LookupError, match="mine"):
                run.wait(60)
        assert playground.message == "LookupError: mine"
        assert playground.status == "idle"
        assert generated(playground.trace) == generated(plain(model))[:2]
        assert_alike(playground.run(PROMPT).wait(60), plain(model))
        assert playground.message == ""

    def test_what_is_no_model(self):
        with pytest.raises(InputError, match=r"given was int\. Make one with v4kit\.load"):
            Playground(5)

    def test_clicks_say_it_on_the_page(self, playground):
        page = Page(playground)
        page.ask("do", {"action": "run"})
        assert playground.message.startswith("The prompt is empty.")
        page.ask("do", {"action": "retry"})
        assert playground.message.startswith("There is no run yet")
        for wrong in ("close", "__init__", "", None, ["run"]):
            answer, _ = page.ask("do", {"action": wrong})
            assert "error" in answer
        page.ask("do", {"action": "run", "settings": {"prompt": PROMPT, "max_new_tokens": "x"}})
        assert "max_new_tokens" in playground.message
        assert playground.traces == []
        settings = {"prompt": PROMPT, "max_new_tokens": 3, "model": None, "edits": 5}
        page.ask("do", {"action": "run", "settings": settings})
        eventually(lambda: len(playground.traces) == 1)
        assert len(generated(playground.trace)) == 3
        eventually(lambda: playground.status == "idle")
        assert playground.message == ""

    @pytest.mark.parametrize(
        "setting", [{"temperature": -1.0}, {"thinking": "huge", "chat": True}], ids=str
    )
    def test_clicks_with_a_wrong_setting(self, setting):
        playground = Playground(zoo.tiny(), prompt="Hello", **setting)
        Page(playground).ask("do", {"action": "run"})
        assert next(iter(setting)) in playground.message
        assert playground.status == "idle"
        playground.close()


class TestChats:
    def said(self, trace):
        """What the assistant said, by a plain loop over the trace."""
        return "".join(
            token["text"]
            for token in trace.tokens.to_dict("records")
            if token["phase"] == "generated" and not token["special"]
        )

    def test_messages_grow(self):
        playground = Playground(zoo.tiny(), max_new_tokens=24, chat=True)
        first = playground.run("Tell me a story.").wait(60)
        assert first.tokens["role"].tolist().count("user") > 0
        assert playground.messages == [
            {"role": "user", "content": "Tell me a story."},
            {"role": "assistant", "content": self.said(first)},
        ]
        second = playground.run("And then?").wait(60)
        assert [one["role"] for one in playground.messages] == ["user", "assistant"] * 2
        asked = [*playground.messages[:3]]
        assert asked[2] == {"role": "user", "content": "And then?"}
        plain = zoo.tiny().generate(asked, max_new_tokens=24)
        assert second.tokens["id"].tolist() == plain.tokens["id"].tolist()
        playground.clear()
        assert playground.messages == []
        playground.run("Again").wait(60)
        assert len(playground.messages) == 2
        playground.close()

    def test_retry_and_go_on_answer_the_same_message(self):
        playground = Playground(zoo.tiny(), max_new_tokens=5, chat=True, temperature=1.0, seed=3)
        playground.run("Tell me a story.").wait(60)
        trace = playground.go_on().wait(60)
        assert len(playground.messages) == 2
        assert playground.messages[1]["content"] == self.said(trace)
        trace = playground.retry().wait(60)
        assert len(playground.messages) == 2
        assert playground.messages[1]["content"] == self.said(trace)
        assert len(playground.traces) == 2
        playground.close()

    def test_reasoning_stands_apart(self):
        playground = Playground(zoo.tiny(), max_new_tokens=10, chat=True)
        trace = playground.run("Tell me a story.", thinking="high").wait(60)
        roles = trace.tokens["role"][trace.tokens["phase"] == "generated"].tolist()
        answer = playground.messages[1]
        if "reasoning" in roles:
            assert answer["reasoning"]
        assert answer["content"] + answer.get("reasoning", "") == self.said(trace)
        playground.close()

    def test_an_unknown_effort(self):
        playground = Playground(zoo.tiny(), chat=True)
        with pytest.raises(InputError, match="huge"):
            playground.run("Hello", thinking="huge")
        assert playground.messages == []
        playground.close()

    def test_a_text_after_a_chat_leaves_it(self):
        playground = Playground(zoo.tiny(), max_new_tokens=2, chat=True)
        playground.run("Hello").wait(60)
        before = playground.messages
        trace = playground.run("Once upon", chat=False).wait(60)
        assert playground.messages == before
        assert "user" not in trace.tokens["role"].tolist()
        playground.close()

    def test_a_model_without_chat(self):
        playground = Playground(zoo.model("mixtral"))
        assert playground._chats is False, "mixtral's tokenizer has no chat template"
        playground.close()


def test_its_end_leaves_no_thread(model):
    before = threading.active_count()
    playground = Playground(model, **OPTIONS)
    run = playground.run(PROMPT)
    run.wait(60)
    playground.close()
    playground.close()
    eventually(lambda: threading.active_count() == before)
    assert not run.stream._watchers


class TestOnAnEngine:
    @pytest.fixture
    def engine(self, model):
        with StandIn(VLLM(model, wait=0.005)) as server:
            yield v4kit.connect(server.url, model=model)

    @pytest.fixture
    def remote(self, engine):
        playground = Playground(engine, max_new_tokens=12)
        yield playground
        playground.close()
        eventually(lambda: threads("v4kit-run") == threads("v4kit-sender") == 0)

    def test_it_writes_and_then_tells_the_experts(self, remote, model) -> None:
        told = []
        run = remote.run(PROMPT)
        remote._stream.watch(lambda step: told.append(step.text))
        trace = run.wait(20)
        own = model.generate(PROMPT, max_new_tokens=12)
        assert trace.tokens["id"].tolist() == own.tokens["id"].tolist()
        assert (
            np.sort(trace.routing["experts"][:-1]) == np.sort(own.routing["experts"][:-1])
        ).all()
        assert trace.tokens["valid"].all()
        eventually(lambda: remote.status == "idle")
        assert remote._ended == "Done: the length is reached."
        assert "ids of experts only" in remote._lacks

    def test_stop_and_go_on(self, remote, model) -> None:
        remote.max_new_tokens = 40
        run = remote.run(PROMPT)
        stop_after(remote, 4)
        stopped = run.wait(20)
        assert stopped.tokens["valid"].all()
        assert len(generated(stopped)) < 40
        eventually(lambda: remote.status == "idle")
        assert remote._open
        trace = remote.go_on().wait(20)
        own = model.generate(PROMPT, max_new_tokens=40)
        assert trace.tokens["id"].tolist()[: len(own)] == own.tokens["id"].tolist()

    def test_an_engine_that_fails(self, model) -> None:
        with StandIn(VLLM(model, change=lambda _: None)) as server:
            playground = Playground(v4kit.connect(server.url, model=model), max_new_tokens=3)
            run = playground.run(PROMPT)
            with pytest.raises(EngineError):
                run.wait(20)
            eventually(lambda: playground.status == "idle")
            assert "--enable-return-routed-experts" in playground.message
            assert generated(playground.trace) == generated(
                model.generate(PROMPT, max_new_tokens=3)
            )
            playground.close()

    def test_views_of_its_trace(self, engine) -> None:
        trace = engine.generate(PROMPT, max_new_tokens=4)
        assert not RoutingView(trace)._about["weighted"]
        assert "ids of experts only" in AttentionView(trace)._about["why"]

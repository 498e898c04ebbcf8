"""A run in a thread: it waits for its turn, stops, tells, fails aloud, and leaves nothing."""

import asyncio
import threading

import pytest

from tests import zoo
from tests.engines.alike import assert_alike
from tests.references import hook_count
from tests.widgets.pages import Held, awaited, eventually, threads
from v4kit.widgets.runs import Run

PROMPT = "Count to ten: one, two, three,"
OPTIONS = {"max_new_tokens": 12, "temperature": 1.0, "seed": 4}


@pytest.fixture
def model():
    return zoo.model("small")


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    eventually(lambda: threads("v4kit-run") == 0)
    assert hook_count(zoo.model("small").hf) == 0


def nobody(_run, _state):
    """Who hears nothing."""


def teller(states):
    """Who notes the states that a run tells."""
    return lambda _, state: states.append(state)


def begin(model, **options):
    """A run, and what it tells."""
    states = []
    return Run(model, model.stream(PROMPT, **{**OPTIONS, **options}), teller(states)), states


class TestOne:
    def test_its_trace_is_an_undisturbed_one(self, model):
        run, states = begin(model)
        assert_alike(run.wait(), model.generate(PROMPT, **OPTIONS))
        assert run.done
        eventually(lambda: states == ["running", None])
        # It can be asked again, and stopped too late.
        run.stop()
        assert_alike(run.wait(0), run.stream.trace)

    def test_awaiting_it(self, model):
        async def work():
            return await begin(model)[0]

        assert_alike(awaited(work()), model.generate(PROMPT, **OPTIONS))

    def test_many_may_wait_for_it(self, model):
        async def work():
            run, _ = begin(model)
            return await asyncio.gather(run._awaited(), run._awaited())

        one, other = awaited(work())
        assert_alike(one, other)

    def test_what_is_told_is_told_when_the_wait_is_over(self, model):
        for _ in range(20):
            run, states = begin(model, max_new_tokens=1)
            run.wait()
            assert states[-1] is None

    def test_waiting_has_a_limit(self, model):
        with Held(model):
            run, _ = begin(model)
            with pytest.raises(TimeoutError, match=r"has not ended within 0\.01 seconds"):
                run.wait(0.01)
            assert not run.done
        assert len(run.wait(30)) > 12


class TestStopping:
    def test_in_a_long_prompt_after_its_chunk(self, model):
        """Of 43 passes for the prompt only those until it is stopped are run."""
        passes, made = [], threading.Event()

        def look(_):
            passes.append(1)
            assert made.wait(30)
            if len(passes) == 3:
                run.stop()

        stream = model.stream([7] * 300, **OPTIONS, prefill_chunk=7)
        with model.tap("router", look, layers=[2]):
            run = Run(model, stream, nobody)
            made.set()
            trace = run.wait(30)
        assert len(passes) == 3
        assert trace.tokens["valid"].tolist() == [True] * 21 + [False] * 279

    def test_after_a_token(self, model):
        run, seen = None, []
        stream = model.stream(PROMPT, **OPTIONS)

        def look(step):
            seen.append(step.token)
            if len(seen) == 5:
                run.stop()

        stream.watch(look)
        with Held(model):
            run = Run(model, stream, nobody)
        trace = run.wait(30)
        assert trace.tokens["id"].tolist()[-5:] == seen
        assert len(trace) == stream.prompt_tokens + 5
        assert stream.stop_reason is None

    def test_before_anything_was_done(self, model):
        with Held(model):
            run, states = begin(model)
            eventually(lambda: states == ["waiting"])
            run.stop()
            trace = run.wait(30)
        assert not trace.tokens["valid"].any()
        assert states == ["waiting", None]

    def test_a_stopped_stream_goes_on_in_another_run(self, model):
        run = None
        stream = model.stream(PROMPT, **OPTIONS)
        stream.watch(lambda _: run.stop())
        for _ in range(12):
            with Held(model):
                run = Run(model, stream, nobody)
            run.wait(30)
        assert_alike(stream.trace, model.generate(PROMPT, **OPTIONS))

    def test_who_is_cancelled_while_awaiting_stops_it(self, model):
        async def work():
            with Held(model):
                run, _ = begin(model)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(run, 0.05)
                assert run.stopped
            return run

        run = awaited(work())
        assert not run.wait(30).tokens["valid"].any()


class TestTurns:
    def test_runs_of_one_model_follow_each_other(self, model):
        """Whoever was first begins, and no two advance in turn."""
        order, runs = [], []
        plain = model.generate(PROMPT, **OPTIONS)
        with Held(model):
            for name in range(4):
                stream = model.stream(PROMPT, **OPTIONS)
                stream.watch(lambda _, name=name: order.append(name))
                runs.append(Run(model, stream, nobody))
                if name == 0:
                    eventually(lambda: runs[0]._state == "waiting")
            eventually(lambda: all(run._state == "waiting" for run in runs))
        for run in runs:
            assert_alike(run.wait(30), plain)
        changes = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
        assert changes[0] == 0
        assert sorted(changes) == [0, 1, 2, 3]

    def test_models_do_not_wait_for_each_other(self, model):
        with Held(model):
            waiting, _ = begin(model)
            other, _ = begin(zoo.model("mixtral"))
            assert len(other.wait(30)) > 12
            assert not waiting.done
            waiting.stop()
        waiting.wait(30)

    def test_stop_while_waiting_for_a_turn(self, model):
        with Held(model):
            first, _ = begin(model)
            eventually(first._turn.locked)
            second, states = begin(model)
            eventually(lambda: states == ["waiting"])
            second.stop()
            assert not second.wait(30).tokens["valid"].any()
            assert not first.done
        assert_alike(first.wait(30), model.generate(PROMPT, **OPTIONS))

    def test_a_model_in_use_elsewhere_is_waited_for(self, model):
        """Before and in the middle of a run: the trace is that of one that was left alone."""
        stream, states, seen = model.stream(PROMPT, **OPTIONS), [], []
        reached, taken = threading.Event(), threading.Event()

        def look(step):
            seen.append(step)
            if len(seen) == 3:
                reached.set()
                assert taken.wait(30)

        stream.watch(look)
        with Held(model):
            run = Run(model, stream, teller(states))
            eventually(lambda: states == ["waiting"])
        assert reached.wait(30)
        with Held(model):
            taken.set()
            eventually(lambda: states == ["waiting", "running", "waiting"])
            assert len(seen) == 3
        assert_alike(run.wait(30), model.generate(PROMPT, **OPTIONS))
        assert states[3] == "running"


class TestErrors:
    def fails(self, model):
        """A run whose third pass fails."""
        passes = []

        def fail(_):
            passes.append(1)
            if len(passes) == 3:
                raise LookupError("mine")

        states = []
        with model.tap("router", fail, layers=[3]):
            run = Run(model, model.stream(PROMPT, **OPTIONS), teller(states))
            eventually(lambda: run.done)
        return run, states

    def test_come_out_of_waiting_and_awaiting(self, model):
        run, states = self.fails(model)
        with pytest.raises(LookupError, match="mine"):
            run.wait()

        async def work():
            await run

        with pytest.raises(LookupError, match="mine"):
            awaited(work())
        eventually(lambda: states == ["running", None])
        # What there is of it can be had all the same.
        assert len(run.stream.trace) == run.stream.prompt_tokens + 2

    def test_leave_the_turn_to_others(self, model):
        self.fails(model)
        assert_alike(begin(model)[0].wait(30), model.generate(PROMPT, **OPTIONS))

    def test_of_whoever_watches_end_the_run(self, model):
        stream = model.stream(PROMPT, **OPTIONS)

        def fail(_):
            raise LookupError("mine")

        unwatch = stream.watch(fail)
        run = Run(model, stream, nobody)
        with pytest.raises(LookupError, match="mine"):
            run.wait(30)
        unwatch()
        assert_alike(Run(model, stream, nobody).wait(30), model.generate(PROMPT, **OPTIONS))

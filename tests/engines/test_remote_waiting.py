"""Nobody is kept waiting for the network: a trace is there at once, and who stops has stopped."""

import gc
import threading
import time

import pytest

import v4kit
from tests.engines.served import VLLM, SGLang
from tests.engines.serving import BOTH, TEXT, V4, local, own, told
from tests.engines.stand_in import Reply
from tests.widgets.pages import eventually, threads
from v4kit.engines.remote.calls import Call, Fetched
from v4kit.errors import EngineError, InputError
from v4kit.widgets import Playground

SOON = 5.0
"""Seconds within which something is at once, on a machine that others use."""


class Queue:
    """Events that come once somebody opens it, `first` of them at once."""

    def __init__(self, first: int = 0) -> None:
        self.opened = threading.Event()
        self._first = first

    def __call__(self, events):
        events = list(events)
        yield from events[: self._first]
        assert self.opened.wait(60)
        yield from events[self._first :]


@pytest.fixture(params=[0, 2])
def queue(request):
    """An engine's queue; opened at the end, so that its server's threads end."""
    queue = Queue(request.param)
    yield queue
    queue.opened.set()


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    gc.collect()
    eventually(lambda: threads("v4kit-fetch") == 0)


def begun(stream, count):
    """Advance a stream in a thread until it waits for what is queued; return the thread."""
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(stream))
    thread.start()
    eventually(lambda: len(stream.trace) == stream.prompt_tokens + count)
    time.sleep(0.1)
    assert thread.is_alive()
    return thread, seen


class Quick:
    """Asserts that its block takes no time."""

    def __enter__(self):
        self._began = time.monotonic()

    def __exit__(self, kind, *_):
        assert kind is not None or time.monotonic() - self._began < SOON


class TestWhileATokenIsWaitedFor:
    @BOTH
    def test_the_trace_is_there(self, serve, kind, queue) -> None:
        engine, _ = serve(kind, events=queue)
        stream = engine.stream(TEXT, max_new_tokens=5)
        thread, seen = begun(stream, queue._first)
        for _ in range(3):
            with Quick():
                assert len(stream.trace) == stream.prompt_tokens + queue._first
        queue.opened.set()
        thread.join(30)
        assert len(seen) == 5
        assert stream.trace.tokens["id"].tolist() == local(5).tokens["id"].tolist()
        assert (told(stream.trace) == own(V4, stream.trace)).all()

    @BOTH
    def test_leaving_from_elsewhere(self, serve, kind, queue) -> None:
        engine, server = serve(kind, events=queue)
        stream = engine.stream(TEXT, max_new_tokens=5)
        thread, seen = begun(stream, queue._first)
        with Quick():
            stream.leave()
            thread.join(30)
        assert stream.stop_reason is None
        assert len(seen) == queue._first
        queue.opened.set()
        asked = next(one for one in server.asked if one.body.get("stream"))
        assert asked.closed.wait(5), "the request was not cancelled"
        trace = stream.trace
        # Of a text that was never begun nothing is asked either.
        assert trace.meta["replayed"] is bool(queue._first)
        assert len(server.asked) - server.asked.index(asked) == 1 + bool(queue._first)
        assert trace.tokens["valid"].all() == bool(queue._first)
        stream.finish()
        assert stream.trace.tokens["id"].tolist() == local(5).tokens["id"].tolist()

    @BOTH
    def test_hanging_up_from_elsewhere(self, serve, kind, queue) -> None:
        engine, server = serve(kind, events=queue)
        stream = engine.stream(TEXT, max_new_tokens=5)
        thread, _ = begun(stream, queue._first)
        with Quick():
            stream.hang_up()
            thread.join(30)
        assert stream.trace.meta["replayed"] is False
        assert sum(bool(one.body) for one in server.asked) == 1

    @BOTH
    def test_before_an_answer_begins(self, serve, kind) -> None:
        """A gateway may send nothing at all until it is one's turn."""
        engine, server = serve(kind)
        before = len(server.asked)
        server.served.first = [Reply({}, wait=30.0)]
        stream = engine.stream(TEXT, max_new_tokens=5)
        assert stream.advance() is None
        with Quick():
            assert len(stream.trace) == stream.prompt_tokens
            stream.leave()
        eventually(lambda: threads("v4kit-fetch") == 0, seconds=5)
        assert len(server.asked) == before + 1

    @BOTH
    def test_between_two_attempts(self, serve, kind, monkeypatch) -> None:
        monkeypatch.setattr("v4kit.engines.remote.http._PAUSE", 60.0)
        engine, server = serve(kind)
        server.served.first = [Reply({}, status=503)]
        stream = engine.stream(TEXT, max_new_tokens=5)
        stream.advance()
        eventually(lambda: not server.served.first)
        stream.leave()
        eventually(lambda: threads("v4kit-fetch") == 0, seconds=5)

    @BOTH
    def test_a_stream_that_nobody_has_any_more(self, serve, kind, queue) -> None:
        engine, server = serve(kind, events=queue)
        stream = engine.stream(TEXT, max_new_tokens=5)
        while len(stream.trace) < stream.prompt_tokens + queue._first:
            stream.advance()
        stream.advance()
        assert threads("v4kit-fetch") == 1
        del stream
        gc.collect()
        eventually(lambda: threads("v4kit-fetch") == 0, seconds=5)
        queue.opened.set()
        asked = next(one for one in server.asked if one.body.get("stream"))
        assert asked.closed.wait(5), "the request was not cancelled"

    def test_two_that_advance_it_get_each_token_once(self, serve) -> None:
        engine, _ = serve(VLLM, wait=0.002)
        stream = engine.stream(TEXT, max_new_tokens=40)
        seen = []

        def take():
            while stream.stop_reason is None:
                step = stream.advance()
                seen.extend([] if step is None else [step.row])

        workers = [threading.Thread(target=take) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert sorted(seen) == list(range(stream.prompt_tokens - 1, stream.prompt_tokens + 39))
        assert stream.trace.tokens["id"].tolist() == local(40).tokens["id"].tolist()


def slow_replay(served):
    """Let a server answer at once while it streams, and only when told where it does not."""
    go, whole = threading.Event(), served.answer

    def answer(asked):
        if not asked.body.get("stream"):
            assert go.wait(60)
        return whole(asked)

    served.answer = answer
    return go


class TestWhileExpertsAreWaitedFor:
    @BOTH
    def test_the_trace_is_there(self, serve, kind) -> None:
        engine, server = serve(kind)
        go = slow_replay(server.served)
        stream = engine.stream(TEXT, max_new_tokens=3)
        thread, seen = begun(stream, 3)
        with Quick():
            assert stream.trace.completion == local(3).completion
            assert stream.trace.meta["replayed"] is False
        go.set()
        thread.join(30)
        assert len(seen) == 3
        assert (told(stream.trace) == own(V4, stream.trace)).all()

    @BOTH
    def test_hanging_up(self, serve, kind) -> None:
        engine, server = serve(kind)
        go = slow_replay(server.served)
        stream = engine.stream(TEXT, max_new_tokens=3)
        thread, _ = begun(stream, 3)
        with Quick():
            stream.hang_up()
            thread.join(30)
        assert stream.stop_reason == stream.trace.meta["stop_reason"] == "interrupted"
        assert (told(stream.trace) == -1).all()
        go.set()
        stream.leave()
        assert stream.stop_reason == "length"
        assert (told(stream.trace) == own(V4, stream.trace)).all()

    @BOTH
    def test_an_interrupt(self, serve, kind, monkeypatch) -> None:
        engine, _ = serve(kind)
        completion = local(3).completion
        stream = engine.stream(TEXT, max_new_tokens=3)
        whole = Fetched.next

        def interrupted(fetched, *patience):
            if len(stream.trace) == stream.prompt_tokens + 3:
                raise KeyboardInterrupt
            return whole(fetched, *patience)

        with monkeypatch.context() as patch:
            patch.setattr(Fetched, "next", interrupted)
            with pytest.raises(KeyboardInterrupt):
                stream.finish()
        assert stream.stop_reason == "interrupted"
        assert stream.trace.completion == completion
        stream.leave()
        assert stream.stop_reason == "length"
        assert (told(stream.trace) == own(V4, stream.trace)).all()

    def test_a_text_that_ended_by_itself_does_not_go_on(self, serve) -> None:
        wanted = local(3).tokens["text"].iloc[-1]
        engine, server = serve(VLLM)
        server.served.first = [Reply({}, status=400)]
        whole = server.served.answer
        server.served.answer = lambda asked: (
            whole(asked) if asked.body.get("stream") else Reply({}, status=400)
        )
        server.served.first = []
        stream = engine.stream(TEXT, max_new_tokens=9, stop=wanted)
        with pytest.raises(EngineError):
            stream.finish()
        assert stream.stop_reason == "engine error"
        with pytest.raises(InputError, match="ended with 'stop string'"):
            stream.extend(4)


def broken_off(events):
    """A stream in which the engine says, with its third token, that it stops for no good reason."""
    events = list(events)[:3]
    events[-1]["choices"][0]["finish_reason"] = "abort"
    return events


class TestWhatTheEngineBrokeOff:
    def test_its_experts_come_if_it_is_left(self, serve) -> None:
        engine, server = serve(VLLM, events=broken_off)
        before = len(server.asked)
        stream = engine.stream(TEXT, max_new_tokens=5).finish()
        assert stream.stop_reason == "interrupted"
        assert len(server.asked) == before + 1
        assert stream.trace.completion == local(3).completion
        stream.leave()
        assert (told(stream.trace) == own(V4, stream.trace)).all()
        assert stream.stop_reason == "interrupted"

    def test_in_a_playground(self, serve) -> None:
        engine, _ = serve(VLLM, events=broken_off)
        playground = Playground(engine, max_new_tokens=5)
        trace = playground.run(TEXT).wait(30)
        assert trace.completion == local(3).completion
        assert trace.tokens["valid"].all()
        eventually(lambda: playground.status == "idle")
        assert playground._ended == "Interrupted."
        playground.close()


class TestAPlayground:
    @pytest.fixture
    def playground(self, serve, queue):
        """A playground on an engine that has others to serve first."""
        engine, server = serve(VLLM, events=queue)
        playground = Playground(engine, max_new_tokens=5)
        playground.server = server.served
        yield playground
        queue.opened.set()
        playground.close()
        eventually(lambda: threads("v4kit-run") == 0)

    def test_stop(self, playground, queue) -> None:
        run = playground.run(TEXT)
        eventually(lambda: len(run.stream.trace) == run.stream.prompt_tokens + queue._first)
        time.sleep(0.1)
        with Quick():
            assert len(playground.trace) == len(run.stream.trace)
            playground.stop()
            trace = run.wait(30)
        assert len(trace) == run.stream.prompt_tokens + queue._first
        assert trace.tokens["valid"].all() == bool(queue._first)
        eventually(lambda: playground.status == "idle")
        assert playground._ended == "Stopped."
        queue.opened.set()
        going_on = playground.go_on().wait(30)
        assert going_on.tokens["id"].tolist() == local(5).tokens["id"].tolist()

    def test_stopped_twice_it_does_not_wait_for_the_experts(self, playground, queue) -> None:
        queue.opened.set()
        go = slow_replay(playground.server)
        run = playground.run(TEXT)
        eventually(lambda: len(run.stream.trace) == run.stream.prompt_tokens + 5)
        playground.stop()
        time.sleep(0.2)
        assert not run.done
        with Quick():
            playground.stop()
            trace = run.wait(30)
        assert trace.completion == local(5).completion
        assert not trace.tokens["valid"].any()
        eventually(lambda: playground.status == "idle")
        go.set()


class TestFetching:
    def test_it_fetches_no_more_than_a_few_ahead(self) -> None:
        made = []

        def endless(_call):
            while True:
                made.append(1)
                yield len(made)

        fetched = Fetched(endless)
        assert fetched.next(5) == 1
        time.sleep(0.2)
        assert len(made) < 300
        fetched.close()
        assert fetched.next() is None
        assert fetched.ended

    def test_what_it_ends_with(self) -> None:
        def failing(_call):
            yield 1
            raise OSError("no more")

        fetched = Fetched(failing)
        assert fetched.next(5) == 1
        with pytest.raises(OSError, match="no more"):
            fetched.next(5)
        assert fetched.ended

    def test_who_breaks_off_wakes_who_pauses(self) -> None:
        call = Call()
        threading.Timer(0.05, call.break_off).start()
        with Quick():
            assert call.pause(60)


@BOTH
def test_a_replay_that_fails_when_it_is_left_keeps_the_text(serve, kind) -> None:
    engine, _ = serve(kind, change=lambda _: None)
    stream = engine.stream(TEXT, max_new_tokens=9)
    for _ in range(3):
        next(stream)
    with pytest.raises(EngineError, match="returned no experts") as caught:
        stream.leave()
    assert caught.value.trace.completion == stream.trace.completion == local(3).completion
    assert stream.stop_reason is None


def test_the_last_token_is_not_lost_with_a_replay_that_fails(serve) -> None:
    for kind in (VLLM, SGLang):
        engine, _ = serve(kind, change=lambda _: None)
        seen = []

        def follow(engine=engine, seen=seen):
            for step in engine.stream(TEXT, max_new_tokens=3):
                seen.append(step.token)

        with pytest.raises(EngineError, match="returned no experts") as caught:
            follow()
        assert seen == local(3).tokens["id"].tolist()[-3:]
        assert isinstance(caught.value.trace, v4kit.Trace)
        assert caught.value.trace.meta["stop_reason"] == "engine error"

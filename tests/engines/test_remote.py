"""Engines on loopback: what their answers become, what is refused, and what is kept."""

import threading
import time

import numpy as np
import pytest

import v4kit
from tests import zoo
from tests.engines.served import VLLM, SGLang
from tests.engines.serving import BOTH, TEXT, V4, own, told
from tests.engines.stand_in import Reply
from v4kit.errors import EngineError, InputError


class TestTraces:
    @BOTH
    @pytest.mark.parametrize("name", [V4, "wide", "mixtral", "qwen3_moe"])
    def test_every_token_but_the_last(self, serve, kind, name) -> None:
        engine, _ = serve(kind, name)
        trace = engine.generate(TEXT, max_new_tokens=5)
        local = zoo.random_model(name).generate(TEXT, max_new_tokens=5)
        assert trace.tokens["id"].tolist() == local.tokens["id"].tolist()
        assert (told(trace)[:-1] == own(name, trace)[:-1]).all()
        assert (told(trace)[-1] == -1).all()
        for column in ("text", "role", "phase", "special", "valid", "position"):
            assert trace.tokens[column].tolist() == local.tokens[column].tolist(), column
        assert trace.meta["stop_reason"] == local.meta["stop_reason"]

    @BOTH
    def test_reading(self, serve, kind) -> None:
        engine, _ = serve(kind)
        trace = engine.read(zoo.TEXT)
        assert (told(trace) == own(V4, trace)).all()
        assert trace.tokens["valid"].all()

    @BOTH
    def test_nothing_is_ranked_or_weighed(self, serve, kind) -> None:
        engine, _ = serve(kind)
        trace = engine.generate(TEXT, max_new_tokens=3)
        assert trace.meta["ranked"] is False
        assert set(trace.routing) == {"experts"}
        assert trace.tokens["logprob"].isna().all()
        with pytest.raises(v4kit.errors.TraceError, match="ids of experts only"):
            _ = trace.attention

    @BOTH
    def test_it_saves_draws_and_compares(self, serve, kind, tmp_path) -> None:
        engine, _ = serve(kind)
        trace = engine.generate(TEXT, max_new_tokens=5)
        again = v4kit.open_trace(trace.save(tmp_path / "remote.v4trace"))
        assert (again.routing["experts"] == trace.routing["experts"]).all()
        for figure in ("routing_text", "routing_map", "expert_load"):
            assert getattr(v4kit.figures, figure)(again).data
        assert "unranked" in again.to_html(tmp_path / "page.html").read_text("utf-8")
        local = zoo.random_model(V4).generate(TEXT, max_new_tokens=5)
        found = v4kit.analysis.overlap(trace, local)
        layers = zoo.random_model(V4).architecture.routed
        assert found["value"].to_numpy()[list(layers)] == pytest.approx(1.0)

    @BOTH
    def test_from_a_start(self, serve, kind) -> None:
        engine, server = serve(kind)
        trace = engine.generate(TEXT, max_new_tokens=4, start=6)
        assert (told(trace)[:6] == -1).all()
        assert (told(trace)[6:-1] == own(V4, trace)[6:-1]).all()
        assert server.asked[-1].body.get("routed_experts_prompt_start", 6) == 6

    @BOTH
    def test_several_continuations(self, serve, kind) -> None:
        engine, _ = serve(kind)
        trace = engine.generate(TEXT, max_new_tokens=4, n=3, temperature=1.0, seed=1)
        assert trace.tokens["document"].unique().tolist() == [0, 1, 2]

    @BOTH
    def test_a_draw_tells_its_seed(self, serve, kind) -> None:
        engine, server = serve(kind)
        trace = engine.generate(TEXT, max_new_tokens=2, temperature=0.8)
        body = server.asked[-1].body
        sent = body.get("seed", body.get("sampling_params", {}).get("sampling_seed"))
        assert trace.meta["seed"] == sent
        assert isinstance(sent, int)

    @BOTH
    def test_a_stop_string(self, serve, kind) -> None:
        engine, _ = serve(kind)
        plain = engine.generate(TEXT, max_new_tokens=8)
        wanted = next(text for text in plain.tokens["text"].iloc[-6:] if text.strip())
        trace = engine.generate(TEXT, max_new_tokens=8, stop=wanted)
        assert trace.meta["stop_reason"] == "stop string"
        assert wanted in trace.completion

    def test_sglang_through_a_gateway(self, serve) -> None:
        """Where `/generate` is closed, OpenAI's path gives the same; both spellings are read."""
        for spelling in ("sglext", "sgl_ext"):
            closed = {"/generate": Reply({"detail": "no"}, status=403)}
            engine, server = serve(SGLang, other=closed, spelling=spelling)
            trace = engine.generate(TEXT, max_new_tokens=4)
            assert (told(trace)[:-1] == own(V4, trace)[:-1]).all()
            engine.read(TEXT)
            stream = engine.stream(TEXT, max_new_tokens=4).finish()
            assert (told(stream.trace) == own(V4, stream.trace)).all()
            assert len(server.of("/generate")) == 1
            other, _ = serve(SGLang, other=closed, spelling=spelling)
            assert len(list(other.stream(TEXT, max_new_tokens=4))) == 4
            with pytest.raises(InputError, match="one continuation only"):
                engine.generate(TEXT, n=2, temperature=1.0)


class TestWhatIsNotCaptured:
    def test_hash_layers_by_their_table(self, serve) -> None:
        engine, _ = serve(SGLang, hash_zeros=True)
        trace = engine.generate(TEXT, max_new_tokens=4)
        assert (told(trace)[:-1] == own(V4, trace)[:-1]).all()
        assert trace.meta["routes"]["layers"][:3] == ["table", "table", "captured"]

    def test_hash_layers_by_the_table_in_a_folder(self, serve, tmp_path) -> None:
        zoo.fresh(V4).save_pretrained(tmp_path)
        zoo.tokenizer().save_pretrained(tmp_path)
        engine, _ = serve(SGLang, hash_zeros=True, model=tmp_path)
        trace = engine.generate(TEXT, max_new_tokens=4)
        assert (told(trace)[:-1] == own(V4, trace)[:-1]).all()

    def test_hash_layers_without_a_table(self, serve) -> None:
        engine, _ = serve(SGLang, hash_zeros=True)
        engine.tables.clear()
        with pytest.warns(UserWarning, match="no experts in layers 0, 1. Start the server"):
            trace = engine.generate(TEXT, max_new_tokens=4)
        assert (told(trace)[:, :2] == -1).all()
        assert (told(trace)[:-1, 2:] == own(V4, trace)[:-1, 2:]).all()
        assert trace.meta["routes"]["layers"][:3] == ["missing", "missing", "captured"]
        assert "captured no experts in layers 0, 1." in trace.meta["routes"]["gaps"]
        engine.read(TEXT)  # It was said once.
        assert "captured no experts in layers 0, 1." in engine.check().advice

    @BOTH
    def test_all_zeros_are_not_expert_0(self, serve, kind) -> None:
        engine, _ = serve(kind, change=np.zeros_like)
        engine.tables.clear()
        with pytest.warns(UserWarning, match="captured no experts"):
            trace = engine.generate(TEXT, max_new_tokens=4)
        assert (told(trace) == -1).all()
        assert set(trace.meta["routes"]["layers"]) == {"missing"}
        assert not trace.tokens["valid"].any()
        advice = engine.check().advice
        assert "captured no experts in layers 0, 1, 2, 3, 4, 5." in advice
        assert kind is VLLM or "--moe-runner-backend" in advice

    @BOTH
    def test_some_tokens_without_experts(self, serve, kind) -> None:
        """A gateway that drops a prefill's routes leaves zeros there."""

        def dropped(rows):
            rows[:4] = 0
            return rows

        engine, _ = serve(kind, change=dropped)
        with pytest.warns(UserWarning, match="of some tokens only in layers 2, 3, 4, 5. Start"):
            trace = engine.generate(TEXT, max_new_tokens=4)
        assert trace.meta["routes"]["layers"] == ["table"] * 2 + ["partly"] * 4
        assert "some tokens only" in trace.meta["routes"]["gaps"]
        scored = trace.routing["experts"].to_numpy()[:, 2:]
        assert (scored[:4] == -1).all()
        assert (scored[4:-1] >= 0).all()
        assert (told(trace)[:-1, :2] == own(V4, trace)[:-1, :2]).all()

    @BOTH
    def test_an_extra_row_is_dropped(self, serve, kind) -> None:
        engine, _ = serve(kind, change=lambda rows: np.concatenate([rows, rows[-1:]]))
        trace = engine.generate(TEXT, max_new_tokens=4)
        assert (told(trace)[:-1] == own(V4, trace)[:-1]).all()
        assert (told(trace)[-1] == -1).all()

    @BOTH
    def test_dense_layers(self, serve, kind) -> None:
        engine, _ = serve(kind, "qwen3_moe")
        trace = engine.read(TEXT)
        assert trace.meta["routes"]["layers"] == ["captured", "dense", "captured", "captured"]
        assert (told(trace)[:, 1] == -1).all()

    @BOTH
    def test_flag_off(self, serve, kind) -> None:
        engine, _ = serve(kind, change=lambda _: None)
        served = engine.check()
        assert served.routed_experts is False
        assert "--enable-return-routed-experts" in served.advice
        with pytest.raises(EngineError, match="--enable-return-routed-experts") as caught:
            engine.generate(TEXT, max_new_tokens=4)
        local = zoo.random_model(V4).generate(TEXT, max_new_tokens=4)
        assert caught.value.trace.completion == local.completion


class TestTrouble:
    @BOTH
    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_busy_then_well(self, serve, kind, status) -> None:
        engine, server = serve(kind)
        before = len(server.asked)
        server._server.answer.first = [Reply({"message": "later"}, status=status)]
        assert len(engine.read(TEXT))
        assert len(server.asked) == before + 2

    @BOTH
    def test_broken_for_good(self, serve, kind) -> None:
        engine, server = serve(kind)
        before = len(server.asked)
        server._server.answer.first = [Reply({"message": "out of memory"}, status=500)] * 9
        with pytest.raises(EngineError, match="answered 500: out of memory") as caught:
            engine.read(TEXT)
        assert caught.value.status == 500
        assert len(server.asked) == before + 3

    @BOTH
    def test_forbidden_is_not_asked_again(self, serve, kind) -> None:
        engine, server = serve(kind, other={"/v1/completions": Reply({}, status=403)})
        if kind is SGLang:
            server._server.answer.other["/generate"] = Reply({}, status=403)
        with pytest.raises(EngineError, match="403"):
            engine.read(TEXT)
        assert len(server.of("/v1/completions")) == 1

    @BOTH
    def test_hung_up_before_an_answer(self, serve, kind) -> None:
        """As a server does with a connection that was idle for long: asked again, it answers."""
        engine, server = serve(kind)
        before = len(server.asked)
        server._server.answer.first = [Reply(hang_up=True)]
        assert len(engine.read(TEXT))
        assert len(server.asked) == before + 2

    @BOTH
    def test_cut_off(self, serve, kind) -> None:
        engine, server = serve(kind)
        server._server.answer.first = [Reply({"some": "answer"}, cut=True)]
        with pytest.raises(EngineError, match="cut the connection off"):
            engine.read(TEXT)

    def test_slow(self, serve) -> None:
        _, server = serve(VLLM)
        engine = v4kit.connect(server.url, model=zoo.random_model(V4), timeout=0.3)
        server._server.answer.first = [Reply({}, wait=2.0)]
        began = time.monotonic()
        with pytest.raises(EngineError, match="did not answer in time"):
            engine.read(TEXT)
        assert time.monotonic() - began < 1.5

    @BOTH
    def test_more_than_is_allowed(self, serve, kind) -> None:
        _, server = serve(kind)
        engine = v4kit.connect(server.url, model=zoo.random_model(V4), max_bytes=8_000)
        with pytest.raises(InputError, match=r"experts of 350 tokens are 0\.0\d+ MB on the way"):
            engine.read([0] + [40] * 349)
        server._server.answer.first = [Reply({"text": "x" * 20_000})]
        with pytest.raises(EngineError, match=r"answered more than 0\.008 MB"):
            engine.read(TEXT)

    @BOTH
    def test_bad_input_is_refused_here(self, serve, kind) -> None:
        engine, server = serve(kind)
        before = len(server.asked)
        for call, words in {
            lambda: engine.generate(""): "prompt is empty",
            lambda: engine.generate([5, 999]): "Token id 999 lies outside",
            lambda: engine.generate([0] * 400): "The prompt has 400 tokens",
            lambda: engine.generate(TEXT, n=0): "n is a whole number",
            lambda: engine.generate(TEXT, start=1000): "start is a whole number",
            lambda: engine.generate(TEXT, temperature=-1): "temperature",
            lambda: engine.generate(TEXT, record=v4kit.Record(attention=4)): "ids of experts only",
            lambda: engine.generate(TEXT, record=v4kit.Record(routing="full")): "ids of experts",
            lambda: engine.generate(TEXT, n=2, on_step=print): "one continuation",
        }.items():
            with pytest.raises(InputError, match=words):
                call()
        assert len(server.asked) == before


class TestStreams:
    @BOTH
    @pytest.mark.parametrize("incremental", [False, True])
    def test_text_first_then_all_experts(self, serve, kind, incremental) -> None:
        options = {"incremental": incremental} if kind is SGLang else {}
        engine, _ = serve(kind, **options)
        local = zoo.random_model(V4).generate(TEXT, max_new_tokens=6)
        stream = engine.stream(TEXT, max_new_tokens=6)
        empty = stream.trace
        assert (told(empty) == -1).all()
        assert empty.meta["replayed"] is False
        steps = list(stream)
        assert [step.row for step in steps] == local_rows(local)
        assert "".join(step.text for step in steps) == local.completion
        assert all((step.experts == -1).all() and step.weights is None for step in steps)
        trace = stream.trace
        assert trace.tokens["id"].tolist() == local.tokens["id"].tolist()
        assert (told(trace) == own(V4, trace)).all()
        assert trace.meta["replayed"] is True
        assert stream.stop_reason == trace.meta["stop_reason"] == "length"

    @BOTH
    def test_generate_that_is_watched(self, serve, kind) -> None:
        engine, _ = serve(kind)
        seen = []
        trace = engine.generate(TEXT, max_new_tokens=4, on_step=seen.append)
        assert len(seen) == 4
        assert (told(trace) == own(V4, trace)).all()

    @BOTH
    def test_leaving_cancels_and_replays(self, serve, kind) -> None:
        engine, server = serve(kind, wait=0.02)
        stream = engine.stream(TEXT, max_new_tokens=300)
        for _ in range(3):
            next(stream)
        stream.leave()
        asked = next(one for one in server.asked if one.body.get("stream"))
        assert asked.closed.wait(5), "the request was not cancelled"
        trace = stream.trace
        assert stream.stop_reason is None
        assert len(trace) == stream.prompt_tokens + 3
        assert (told(trace) == own(V4, trace)).all()

    @BOTH
    def test_going_on(self, serve, kind) -> None:
        engine, _ = serve(kind)
        stream = engine.stream(TEXT, max_new_tokens=3).finish()
        stream.extend(4)
        stream.finish()
        local = zoo.random_model(V4).generate(TEXT, max_new_tokens=7)
        assert stream.trace.tokens["id"].tolist() == local.tokens["id"].tolist()
        assert (told(stream.trace) == own(V4, stream.trace)).all()

    @BOTH
    def test_left_with_the_end_already_told(self, serve, kind) -> None:
        """Tokens that came in one piece with the end, and were not taken, come when it goes on."""
        engine, server = serve(kind)
        served = server._server.answer
        whole = served.answer

        def at_once(asked):
            reply = whole(asked)
            if reply.events is not None:
                events = list(reply.events)
                if kind is VLLM:
                    last = events[-1]["choices"][0]
                    tokens = [e["choices"][0]["token_ids"][0] for e in events]
                    events = [{"choices": [last | {"token_ids": tokens}]}]
                reply.events = events[-1:]
            return reply

        served.answer = at_once
        stream = engine.stream(TEXT, max_new_tokens=6)
        next(stream)
        next(stream)
        stream.leave()
        assert len(stream.trace) == stream.prompt_tokens + 2
        assert stream.stop_reason is None
        stream.finish()
        local = zoo.random_model(V4).generate(TEXT, max_new_tokens=6)
        assert stream.trace.tokens["id"].tolist() == local.tokens["id"].tolist()
        assert stream.stop_reason == "length"

    @BOTH
    def test_a_limit_that_is_raised_on_the_way(self, serve, kind) -> None:
        engine, _ = serve(kind)
        stream = engine.stream(TEXT, max_new_tokens=3)
        next(stream)
        stream.extend(4)
        stream.finish()
        local = zoo.random_model(V4).generate(TEXT, max_new_tokens=7)
        assert stream.trace.tokens["id"].tolist() == local.tokens["id"].tolist()
        assert stream.stop_reason == "length"

    @BOTH
    def test_a_limit_that_is_raised_too_far(self, serve, kind) -> None:
        _, server = serve(kind)
        engine = v4kit.connect(server.url, model=zoo.random_model(V4), max_bytes=8_000)
        stream = engine.stream(TEXT, max_new_tokens=3).finish()
        with pytest.raises(InputError, match="MB on the way"):
            stream.extend(300)

    @BOTH
    def test_a_stream_that_breaks_off_keeps_its_text(self, serve, kind) -> None:
        engine, server = serve(kind)
        local = zoo.random_model(V4).generate(TEXT, max_new_tokens=3)
        served = server._server.answer
        whole = served.answer

        def broken(asked):
            reply = whole(asked)
            if reply.events is not None:
                reply.events, reply.done = list(reply.events)[:3], False
            return reply

        served.answer = broken
        stream = engine.stream(TEXT, max_new_tokens=8)
        ended = []
        stream.watch(lambda _: None, lambda s: ended.append(s.stop_reason))
        with pytest.raises(EngineError, match="without saying that it is done") as caught:
            stream.finish()
        assert stream.stop_reason == "engine error"
        assert ended == ["engine error"]
        assert stream.trace.completion == caught.value.trace.completion == local.completion

    @BOTH
    def test_a_replay_that_fails_keeps_the_text(self, serve, kind) -> None:
        engine, _ = serve(kind, change=lambda _: None)
        stream = engine.stream(TEXT, max_new_tokens=3)
        with pytest.raises(EngineError, match="returned no experts"):
            stream.finish()
        local = zoo.random_model(V4).generate(TEXT, max_new_tokens=3)
        assert stream.trace.completion == local.completion
        assert stream.stop_reason == "engine error"

    @BOTH
    def test_interrupt(self, serve, kind) -> None:
        engine, server = serve(kind, wait=0.02)
        stream = engine.stream(TEXT, max_new_tokens=300)

        def interrupt(step):
            if step.row == stream.prompt_tokens + 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stream.finish(interrupt)
        assert stream.stop_reason == "interrupted"
        asked = next(one for one in server.asked if one.body.get("stream"))
        assert asked.closed.wait(5)
        assert len(stream.trace) >= stream.prompt_tokens + 3

    @BOTH
    def test_to_the_end_of_the_context(self, serve, kind) -> None:
        """A text that fills the context can't be read whole: there is no room for an answer."""
        engine, _ = serve(kind)
        ids = [0] + [40 + n % 200 for n in range(394)]
        stream = engine.stream(ids, max_new_tokens=5).finish()
        trace = stream.trace
        assert len(trace) == 400
        assert (told(trace)[:-1] == own(V4, trace)[:-1]).all()
        assert (told(trace)[-1] == -1).all()

    @BOTH
    def test_no_more_than_the_context_holds(self, serve, kind) -> None:
        engine, _ = serve(kind)
        ids = [0] + [40 + n % 200 for n in range(394)]
        trace = engine.generate(ids, max_new_tokens=50)
        stream = engine.stream(ids, max_new_tokens=50).finish()
        local = zoo.random_model(V4).generate(ids, max_new_tokens=50)
        for found in (trace, stream.trace):
            assert found.tokens["id"].tolist() == local.tokens["id"].tolist()
            assert found.meta["stop_reason"] == local.meta["stop_reason"] == "context"
        with pytest.raises(InputError, match="'context'"):
            stream.extend(5)

    @BOTH
    def test_its_trace_is_read_by_another_thread(self, serve, kind) -> None:
        engine, _ = serve(kind, wait=0.01)
        stream = engine.stream(TEXT, max_new_tokens=20)
        lengths = []

        def look():
            while stream.stop_reason is None:
                lengths.append(len(stream.trace))

        reader = threading.Thread(target=look)
        reader.start()
        stream.finish()
        reader.join(10)
        assert lengths == sorted(lengths)
        assert len(stream.trace) == stream.prompt_tokens + 20


def local_rows(trace: v4kit.Trace) -> list[int]:
    """The rows that steps complete: each one before a sampled token."""
    first = int((trace.tokens["phase"] == "prompt").sum())
    return list(range(first - 1, len(trace) - 1))

"""Engines that answer what can't be right: refused in words, and what was written is kept."""

import base64
import io
import json
import struct

import numpy as np
import pytest

import v4kit
from tests import zoo
from tests.engines.served import VLLM, SGLang
from tests.engines.serving import BOTH, TEXT, V4, local, own, told
from tests.engines.stand_in import Reply, StandIn
from v4kit.errors import EngineError

LIES = {
    "another model's layers": (lambda rows: rows[:, :-1], "not 6 layers of 3 experts"),
    "another model's slots": (lambda rows: rows[..., :-1], "not 6 layers of 3 experts"),
    "too few rows": (lambda rows: rows[:-2], "experts of .* tokens, but .* were read"),
    "too many rows": (lambda rows: np.concatenate([rows, rows[:2]]), "experts of .* tokens"),
    "an expert that is not there": (lambda rows: np.where(rows == 5, 16, rows), "16 experts"),
    "an expert twice": (lambda rows: rows[..., [0, 0, 1]], "twice for one token|hash layer"),
    "another tokenisation": (lambda rows: rows[::-1].copy(), "not those of its table"),
    "no base64": (lambda _: "%%%", "no base64"),
}


class TestLies:
    @BOTH
    @pytest.mark.parametrize("lie", LIES)
    def test_an_array_that_cant_be_right(self, serve, kind, lie) -> None:
        change, words = LIES[lie]
        engine, _ = serve(kind, change=change)
        with pytest.raises(EngineError, match=words) as caught:
            engine.generate(TEXT, max_new_tokens=4)
        kept = caught.value.trace
        assert kept.completion == zoo.random_model(V4).generate(TEXT, max_new_tokens=4).completion
        assert (kept.routing["experts"] == -1).all()

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.zeros((3, 6, 3), np.float32), "integers were expected"),
            (np.array([{"a": 1}], dtype=object), "integers were expected"),
        ],
    )
    def test_an_array_of_something_else(self, serve, array, words) -> None:
        engine, _ = serve(VLLM, change=lambda _: array)
        with pytest.raises(EngineError, match=words):
            engine.read(TEXT)

    def test_a_header_that_promises_more_than_comes(self, serve) -> None:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)}
        )
        packed = base64.b64encode(file.getvalue()).decode()
        engine, _ = serve(VLLM, change=lambda _: packed)
        with pytest.raises(EngineError, match=r"in 0 bytes"):
            engine.read(TEXT)

    def test_dense_layer_with_experts(self, serve) -> None:
        def filled(rows):
            rows[:, 1] = [1, 2, 3, 4]
            return rows

        engine, _ = serve(VLLM, "qwen3_moe", change=filled)
        with pytest.raises(EngineError, match="layer 1, which is dense"):
            engine.read(TEXT)

    def test_raw_integers_of_another_size(self, serve) -> None:
        engine, _ = serve(SGLang, change=lambda rows: rows.ravel()[:-1])
        with pytest.raises(EngineError, match="not 6 layers of 3 experts"):
            engine.read(TEXT)

    @BOTH
    def test_other_tokens_than_were_sent(self, serve, kind) -> None:
        def spoil(answer):
            if kind is VLLM:
                answer["choices"][0]["prompt_token_ids"] = [0, 1, 2]
            else:
                answer["meta_info"]["prompt_tokens"] += 1
            return answer

        engine, _ = serve(kind, spoil=spoil)
        with pytest.raises(EngineError, match=r"other tokens than were sent|were sent\."):
            engine.read(TEXT)

    @BOTH
    def test_no_token_ids(self, serve, kind) -> None:
        def spoil(answer):
            (answer if kind is SGLang else answer["choices"][0]).pop(
                "output_ids" if kind is SGLang else "token_ids"
            )
            return answer

        engine, _ = serve(kind, spoil=spoil)
        with pytest.raises(EngineError, match="did not return the tokens it wrote"):
            engine.read(TEXT)

    @BOTH
    def test_fewer_continuations(self, serve, kind) -> None:
        spoil = (lambda a: a[:1]) if kind is SGLang else (lambda a: {"choices": a["choices"][:1]})
        engine, _ = serve(kind, spoil=spoil)
        with pytest.raises(EngineError, match="returned 1 continuations; asked were 2"):
            engine.generate(TEXT, n=2, temperature=1.0)


class TestStarts:
    """One row more than was asked for is behind them, or before them."""

    @BOTH
    @pytest.mark.parametrize("start", [1, 2, 5])
    def test_an_engine_that_does_not_heed_it(self, serve, kind, start) -> None:
        class Heedless(kind):
            def rows(self, ids, written, _):
                return super().rows(ids, written, 0)

        engine, _ = serve(Heedless, "mixtral")
        with pytest.raises(EngineError, match=f"can't begin at {start}"):
            engine.read(TEXT, start=start)
        trace = engine.read(TEXT)
        assert (told(trace) == own("mixtral", trace)).all()

    @BOTH
    def test_an_extra_row_after_a_start(self, serve, kind) -> None:
        engine, _ = serve(kind, change=lambda rows: np.concatenate([rows, rows[-1:]]))
        with pytest.raises(EngineError, match="Ask from start=0"):
            engine.generate(TEXT, max_new_tokens=3, start=1)


def npy_of(header: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> str:
    """What claims to be a `.npy` file, in base64."""
    text = header.encode("latin1")
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return base64.b64encode(b"\x93NUMPY" + bytes(version) + size + text + body).decode()


def header(shape: str, dtype: str = "|u1") -> str:
    """The header of a `.npy` file."""
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n"


PACKED = {
    "negative": npy_of(header("(-2, -3, 4)"), b"\0" * 24),
    "negative in one": npy_of(header("(-1, 6, 3)"), b"\0" * 18),
    "nothing of much": npy_of(header(f"(0, {10**30}, 3)")),
    "nothing of a lot": npy_of(header(f"(0, {2**62}, 3)")),
    "a truth for a number": npy_of(header("(True, 6, 3)"), b"\0" * 18),
    "half a header": npy_of("{'descr': '|u1', 'shape': ("),
    "half a text": npy_of("{'descr': '''"),
    "a program": npy_of("if 1:\n  a\n b"),
    "many brackets": npy_of("(" * 5000),
    "many signs": npy_of("-" * 9000 + "1"),
    "much space": npy_of("{" + " " * 60_000 + "}"),
    "a version to come": npy_of(header("(1,)"), b"\0", (9, 0)),
    "its beginning": base64.b64encode(b"\x93NUMPY\x01").decode(),
    "nothing": "",
    "objects": npy_of(header("(1,)", "|O"), b"\0" * 8),
    "times": npy_of(header("(1, 6, 3)", "<m8"), b"\0" * 144),
    "beyond": npy_of(header("(4, 6, 3)", "<i8"), (b"\xff" * 7 + b"\x7f") * 72),
    "zeros of NUL": npy_of("\0\0\0"),
    "letters": "é" * 8,
    "a list": [1, 2],
    "an object": {"a": 1},
    "a number": 5,
}


@pytest.mark.parametrize("packed", PACKED)
def test_packed_experts_that_are_none(serve, packed) -> None:
    def spoil(answer):
        answer["choices"][0]["routed_experts"] = PACKED[packed]
        return answer

    engine, _ = serve(VLLM, spoil=spoil)
    with pytest.raises(EngineError) as caught:
        engine.generate(TEXT, max_new_tokens=2)
    assert caught.value.trace.completion == local(2).completion
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_versions_of_npy(serve, version) -> None:
    def packed(rows):
        array = np.ascontiguousarray(rows, np.uint8)
        return npy_of(header(str(array.shape)), array.tobytes(), version)

    engine, _ = serve(VLLM, change=packed)
    trace = engine.read(TEXT)
    assert (told(trace) == own(V4, trace)).all()


def without(answer, *names):
    """JSON data without some of its fields."""
    return {name: value for name, value in answer.items() if name not in names}


def changed(**fields):
    """Change what is told of a continuation, where it is told."""

    def change(answer):
        place = answer["choices"][0] if "choices" in answer else answer
        names = {"token_ids": "output_ids"} if "choices" not in answer else {}
        for name, value in fields.items():
            place[names.get(name, name)] = value
        return answer

    return change


WRITTEN = {
    "far outside": [10**12, 10**400],
    "negative": [-5, -5],
    "outside": [99_999, 1],
    "truths": [True, False],
    "texts": ["a", "b"],
    "none": None,
    "a text": "ab",
    "an object": {"a": 1},
}


class TestWhatWasWritten:
    @BOTH
    @pytest.mark.parametrize("lie", WRITTEN)
    def test_ids_that_are_none_keep_the_text(self, serve, kind, lie) -> None:
        engine, _ = serve(kind, spoil=changed(token_ids=WRITTEN[lie]))
        with pytest.raises(EngineError, match="tokens it wrote") as caught:
            engine.generate(TEXT, max_new_tokens=4)
        assert caught.value.trace.completion == local(4).completion
        assert len(str(caught.value)) < 400

    def test_a_prompt_that_was_changed(self, serve) -> None:
        engine, _ = serve(VLLM, spoil=changed(prompt_token_ids=[0, 40]))
        with pytest.raises(EngineError, match="other tokens than were sent") as caught:
            engine.generate(TEXT, max_new_tokens=4)
        kept = caught.value.trace
        assert kept.tokens["id"].tolist()[:2] == [0, 40]
        assert kept.completion == local(4).completion

    @pytest.mark.parametrize("told", [None, [], [[]], "x", [99_999]])
    def test_a_prompt_that_is_none(self, serve, told) -> None:
        engine, _ = serve(VLLM, spoil=changed(prompt_token_ids=told, token_ids=[], text=""))
        with pytest.raises(EngineError) as caught:
            engine.generate(TEXT, max_new_tokens=4)
        assert caught.value.trace.completion == ""

    @BOTH
    def test_half_a_character(self, serve, kind) -> None:
        engine, _ = serve(kind, spoil=changed(token_ids=None, text="ab\ud83d"))
        with pytest.raises(EngineError) as caught:
            engine.generate(TEXT, max_new_tokens=4)
        assert caught.value.trace.completion == "ab?"

    @BOTH
    def test_one_of_several(self, serve, kind) -> None:
        """All texts are kept, and the experts that could be read."""

        def spoil(answer):
            if kind is VLLM:
                answer["choices"][2]["routed_experts"] = "%%%"
            else:
                answer[2]["meta_info"]["routed_experts"] = "%%%"
            return answer

        engine, _ = serve(kind, spoil=spoil)
        with pytest.raises(EngineError, match="no base64") as caught:
            engine.generate(TEXT, max_new_tokens=2, n=3, temperature=1.0)
        kept = caught.value.trace
        assert kept.tokens["document"].unique().tolist() == [0, 1, 2]
        known = kept.tokens.groupby("document")["valid"].any()
        assert known.tolist() == [True, True, False]

    @BOTH
    def test_another_number_of_them(self, serve, kind) -> None:
        def spoil(answer):
            return answer[:2] if kind is SGLang else {"choices": answer["choices"][:2]}

        engine, _ = serve(kind, spoil=spoil)
        with pytest.raises(EngineError, match="returned 2 continuations; asked were 3") as caught:
            engine.generate(TEXT, max_new_tokens=2, n=3, temperature=1.0)
        assert caught.value.trace.tokens["document"].unique().tolist() == [0, 1]

    def test_the_engine_broke_off(self, serve) -> None:
        def spoil(answer):
            meta = without(answer["meta_info"], "routed_experts")
            meta["finish_reason"] = {"type": "abort", "message": "kv cache full"}
            return answer | {"meta_info": meta}

        engine, _ = serve(SGLang, spoil=spoil)
        with pytest.raises(EngineError, match="broke off: kv cache full") as caught:
            engine.generate(TEXT, max_new_tokens=4)
        assert caught.value.trace.completion == local(4).completion
        assert caught.value.trace.meta["stop_reason"] == "interrupted"


ANSWERS = {
    "no object": [1],
    "nothing": None,
    "a text": "x",
    "choices that are text": {"choices": "abc"},
    "choices that are an object": {"choices": {"0": {}}},
    "choices that are numbers": {"choices": [1]},
    "no choices": {"choices": []},
    "meta that is text": {"output_ids": "x", "meta_info": "x"},
    "a number of read tokens that is text": {
        "output_ids": [1],
        "meta_info": {"prompt_tokens": "7"},
    },
    "a reason that is no word": {
        "choices": [{"finish_reason": {"a": 1}}],
        "meta_info": {"finish_reason": [1]},
    },
    "an error": {"error": {"message": "boom"}},
    "an error of another form": {"error": "boom"},
}


class TestAnswers:
    @BOTH
    @pytest.mark.parametrize("lie", ANSWERS)
    def test_that_are_none(self, serve, kind, lie) -> None:
        engine, server = serve(kind)
        for ask in (engine.check, lambda: engine.generate(TEXT, max_new_tokens=2)):
            server.served.first = [Reply(ANSWERS[lie])]
            with pytest.raises(EngineError, match="boom" if "error" in lie else "engine"):
                ask()

    @BOTH
    @pytest.mark.parametrize("status", [200, 400])
    def test_that_are_nested_without_end(self, serve, kind, status) -> None:
        engine, server = serve(kind)
        server.served.first = [Reply(b"[" * 200_000, status=status)]
        with pytest.raises(EngineError, match=r"begins with '\[\[|answered 400: \[\["):
            engine.read(TEXT)

    @pytest.mark.parametrize("charset", ["rot13", "zlib_codec", "utf-16", "none-such"])
    @pytest.mark.parametrize("status", [200, 400])
    def test_that_name_another_charset(self, serve, charset, status) -> None:
        engine, server = serve(VLLM)
        said = {"Content-Type": f"application/json; charset={charset}"}
        server.served.first = [Reply({"error": {"message": "boom"}}, status=status, headers=said)]
        with pytest.raises(EngineError, match="boom"):
            engine.read(TEXT)


class TestCards:
    @pytest.mark.parametrize("told", ["400", -5, 0, 1.5, True, [400], None])
    def test_a_context_that_is_none(self, told) -> None:
        served = VLLM(zoo.random_model(V4))
        served.card = lambda: {"id": "m", "owned_by": "vllm", "max_model_len": told}
        with StandIn(served) as server:
            engine = v4kit.connect(server.url, model=zoo.random_model(V4))
            assert engine.context == zoo.CONTEXT
            assert len(engine.read(TEXT))

    @pytest.mark.parametrize(
        "data", [{"data": [{"id": ["m"]}]}, {"data": "x"}, {"data": [5]}, {"data": {}}, {}]
    )
    def test_no_model(self, serve, data) -> None:
        with pytest.raises(EngineError, match="lists no model"):
            serve(VLLM, other={"/v1/models": Reply(data)})

    def test_an_owner_that_is_no_word(self, serve) -> None:
        card = {"id": "m", "owned_by": ["vllm"]}
        engine, _ = serve(VLLM, other={"/v1/models": Reply({"data": [card]})})
        assert engine.adapter.name == "vllm"


def lost(events):
    """A stream without its third event."""
    return [*events[:2], *events[3:]]


def stripped(name):
    """Events without a field of their meta."""

    def strip(events):
        return [event | {"meta_info": without(event["meta_info"], name)} for event in events]

    return strip


def with_total(total):
    """Events that tell a number of tokens of their own."""

    def change(events):
        return [e | {"meta_info": e["meta_info"] | {"completion_tokens": total}} for e in events]

    return change


class TestStreams:
    def check(self, engine, words, kept):
        """Assert that a stream ends with an error in these words, and so many tokens."""
        stream = engine.stream(TEXT, max_new_tokens=5)
        with pytest.raises(EngineError, match=words) as caught:
            stream.finish()
        assert stream.stop_reason == "engine error"
        for trace in (stream.trace, caught.value.trace):
            assert (
                trace.tokens["id"].tolist() == local(5).tokens["id"].tolist()[: -5 + kept or None]
            )

    @BOTH
    @pytest.mark.parametrize("lie", WRITTEN)
    def test_ids_that_are_none(self, serve, kind, lie) -> None:
        def change(events):
            for event in events[2:]:
                place = event["choices"][0] if kind is VLLM else event
                place["text"] = "hello"
                place["token_ids" if kind is VLLM else "output_ids"] = WRITTEN[lie]
            return events

        engine, _ = serve(kind, events=change)
        self.check(engine, "tokens it wrote|has written 3 tokens", 2)

    def test_text_without_ids_from_the_beginning(self, serve) -> None:
        """As old versions answer, and gateways that know nothing of ids."""

        def change(events):
            return [
                {"choices": [without(event["choices"][0], "token_ids") | {"text": "hello"}]}
                for event in events
            ]

        engine, _ = serve(VLLM, events=change)
        self.check(engine, "did not return the tokens it wrote", 0)

    def test_an_end_that_comes_alone(self, serve) -> None:
        def change(events):
            events[-1]["choices"][0]["finish_reason"] = None
            ends = [{"index": 0, "text": "", "finish_reason": "length"}]
            return [*events, {"choices": ends}, {"choices": [], "usage": {}}]

        engine, _ = serve(VLLM, events=change)
        stream = engine.stream(TEXT, max_new_tokens=5).finish()
        assert stream.stop_reason == "length"
        assert stream.trace.tokens["id"].tolist() == local(5).tokens["id"].tolist()

    @pytest.mark.parametrize("incremental", [False, True])
    @pytest.mark.parametrize(
        ("change", "kept"),
        [(stripped("completion_tokens"), 0), (with_total("x"), 0), (with_total(7), 0)],
    )
    def test_how_many_is_not_told(self, serve, incremental, change, kept) -> None:
        engine, _ = serve(SGLang, incremental=incremental, events=change)
        self.check(engine, "has written .* tokens", kept)

    def test_an_event_that_was_lost(self, serve) -> None:
        engine, _ = serve(SGLang, incremental=True, events=lost)
        self.check(engine, "has written 4 tokens, but 2 came before and 1 with this", 2)

    def test_one_of_all_tokens_may_be_lost(self, serve) -> None:
        engine, _ = serve(SGLang, incremental=False, events=lost)
        stream = engine.stream(TEXT, max_new_tokens=5).finish()
        assert stream.trace.tokens["id"].tolist() == local(5).tokens["id"].tolist()

    def test_more_than_was_asked_for(self, serve) -> None:
        def change(events):
            events[-1]["choices"][0]["finish_reason"] = None
            return [*events, *events]

        engine, _ = serve(VLLM, events=change)
        self.check(engine, "1 tokens more than it was asked for", 5)

    def test_the_engine_broke_off(self, serve) -> None:
        def change(events):
            reason = {"type": "abort", "message": "kv cache full"}
            events[2]["meta_info"]["finish_reason"] = reason
            return events[:3]

        engine, _ = serve(SGLang, events=change)
        self.check(engine, "broke off: kv cache full", 3)

    def test_an_error_on_the_way(self, serve) -> None:
        engine, _ = serve(VLLM, events=lambda e: [*e[:2], {"error": {"message": "CUDA OOM"}}])
        self.check(engine, "reports an error: CUDA OOM", 2)

    @pytest.mark.parametrize("event", [{"choices": ["x"]}, {"choices": "x"}, [1], 5, None])
    def test_events_that_are_none(self, serve, event) -> None:
        engine, _ = serve(VLLM, events=lambda events: [*events[:2], event])
        self.check(engine, "did not return|no JSON object", 2)


class TestSizes:
    @pytest.mark.parametrize("incremental", [False, True])
    def test_a_long_stream_may_be_larger_than_its_largest_event(self, serve, incremental) -> None:
        """By default SGLang repeats all ids with each event."""
        engine, _ = serve(SGLang, incremental=incremental, max_bytes=60_000)
        stream = engine.stream(TEXT, max_new_tokens=300).finish()
        assert len(stream.trace) == stream.prompt_tokens + 300
        assert stream.stop_reason == "length"

    @BOTH
    @pytest.mark.parametrize("part", [b"x", b"data: ", b"\x85"])
    def test_a_line_without_end(self, serve, kind, part) -> None:
        sent = []

        def endless(_):
            for _ in range(1000):
                sent.append(1)
                yield part * (100_000 // len(part))

        engine, _ = serve(kind, events=endless, max_bytes=1_000_000)
        stream = engine.stream(TEXT, max_new_tokens=3)
        with pytest.raises(EngineError, match="answered more than 1 MB"):
            stream.finish()
        # What the sockets hold comes on top.
        assert len(sent) < 200


class TestLines:
    @pytest.mark.parametrize("between", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "é", "😀"])
    def test_what_unicode_takes_for_the_end_of_one(self, serve, between) -> None:
        def change(events):
            for event in events:
                event["choices"][0]["text"] = f"a{between}b"
                yield f"data: {json.dumps(event, ensure_ascii=between < ' ')}\n\n".encode()

        engine, _ = serve(VLLM, events=change)
        stream = engine.stream(TEXT, max_new_tokens=5).finish()
        assert stream.trace.tokens["id"].tolist() == local(5).tokens["id"].tolist()

    def test_however_they_are_cut(self, serve) -> None:
        def change(events):
            lines = [b": ping", b"", b"event: message"]
            for event in events:
                event["choices"][0]["text"] = "é😀"
                lines += [b"data:" + json.dumps(event, ensure_ascii=False).encode(), b""]
            content = b"\r\n".join(lines)
            yield from (content[at : at + 1] for at in range(len(content)))
            yield b"\r\n\r\n"

        engine, _ = serve(VLLM, events=change)
        stream = engine.stream(TEXT, max_new_tokens=5).finish()
        assert stream.trace.tokens["id"].tolist() == local(5).tokens["id"].tolist()

"""Recorded attention is what the model's own queries, keys, masks and sinks give in float64."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import v4kit
from tests import zoo
from tests.attention_reference import NAMES, Listener, Rows, compare_attention, eager, ids_of
from tests.recording.test_record import batch, document
from tests.references import hook_count, spans
from v4kit import Record
from v4kit.errors import InputError
from v4kit.recording import attention_rows

EXACT = 1e-5
"""In float32; measured: 5e-7 for masses, 2e-6 for entropies."""

KEPT = {
    "one": Record(attention=1),
    "five of each head": Record(attention=5, heads="each"),
    "more than there are": Record(attention=300),
    "more than there are, each head": Record(attention=150, heads="each"),
    "full": Record(attention="full"),
    "full, each head": Record(attention="full", heads="each"),
}


def interrupt(*_: object, **__: object) -> None:
    """What Ctrl-C does, at a place of one's choice."""
    raise KeyboardInterrupt


def first(rows: Rows, count: int) -> Rows:
    """The rows at positions below `count`."""
    return {
        layer: {position: row for position, row in some.items() if position < count}
        for layer, some in rows.items()
    }


class TestReading:
    @pytest.mark.parametrize(
        ("name", "chunk"),
        [*((name, chunk) for name in NAMES for chunk in (None, 9, 64)), ("mixtral", 1)],
    )
    def test_chunks(self, name, chunk) -> None:
        """Longer than every window, the last blocks incomplete; 64 single tokens are settled."""
        model = eager(name)
        ids = ids_of(model, 66 if chunk == 1 else 99)
        with Listener(model.hf) as heard:
            trace = model.read(ids, prefill_chunk=chunk)
        assert trace.meta["attention"] == {"sources": 16, "heads": "mean", "why": None}
        compare_attention(trace, heard.rows(spans(len(ids), chunk)), tolerance=EXACT)

    @pytest.mark.parametrize(
        ("name", "kept"),
        [*((name, kept) for name in ("small", "gpt_oss") for kept in KEPT),
         *((name, "full, each head") for name in ("tiny", "wide", "mixtral", "olmoe"))],
    )  # fmt: skip
    def test_what_is_kept(self, name, kept) -> None:
        model = eager(name)
        ids = ids_of(model, 70)
        with Listener(model.hf) as heard:
            trace = model.read(ids, prefill_chunk=23, record=KEPT[kept])
        compare_attention(trace, heard.rows(spans(len(ids), 23)), tolerance=EXACT)

    @pytest.mark.parametrize("length", [1, 4, 16])
    @pytest.mark.parametrize("name", NAMES)
    def test_short_documents(self, name, length) -> None:
        """Shorter than the windows, with no block or with one that has just been completed."""
        model = eager(name)
        ids = ids_of(model, length)
        for chunk, record in ((None, Record()), (1, Record(attention="full"))):
            with Listener(model.hf) as heard:
                trace = model.read(ids, prefill_chunk=chunk, record=record)
            compare_attention(trace, heard.rows(spans(length, chunk)), tolerance=EXACT)

    @pytest.mark.parametrize("record", [Record(), Record(attention=9, heads="each")], ids=str)
    @pytest.mark.parametrize("name", NAMES)
    def test_bfloat16(self, name, record) -> None:
        """What the module returned, to float32's last digits; the truth, as far as it rounds."""
        model = eager(name, torch.bfloat16)
        ids = ids_of(model, 90)
        with Listener(model.hf) as heard:
            trace = model.read(ids, prefill_chunk=40, record=record)
        passes = spans(len(ids), 40)
        compare_attention(trace, heard.rows(passes, returned=True), tolerance=EXACT)
        rows = heard.rows(passes)
        # An entropy moves by more than the masses, and a single head by more than their mean.
        errors = compare_attention(trace, rows, tolerance=0.08)
        errors.pop("entropy_bits")
        assert max(errors.values()) < (5e-3 if record.heads == "mean" else 1.5e-2), errors

    @pytest.mark.parametrize("name", ["small", "wide", "gpt_oss"])
    def test_every_chunking_tells_the_same(self, name) -> None:
        model = eager(name)
        ids = ids_of(model, 50)
        whole, *others = (
            model.read(ids, prefill_chunk=chunk, record=Record(attention="full")).attention.load()
            for chunk in (None, 4, 11, 49)
        )
        for other in others:
            for variable in ("start", "stop", "kind", "visible_blocks", "chosen_blocks"):
                np.testing.assert_array_equal(other[variable], whole[variable])
            for variable in ("mass", "sink", "window", "compressed", "entropy_bits"):
                np.testing.assert_allclose(other[variable], whole[variable], atol=3e-5)

    def test_the_indexer_leaves_blocks_out(self) -> None:
        """The comparisons above are of models whose indexer has something to choose."""
        for name in ("tiny", "small", "wide"):
            model = eager(name)
            attention = model.read(ids_of(model, 99)).attention.isel(token=98)
            csa = attention["attention_kind"] == "csa"
            top = model.hf.config.index_topk
            assert (attention["visible_blocks"][csa] == 24).all()
            assert (attention["chosen_blocks"][csa] == top).all()
            assert top < 24


class TestGenerating:
    def compare(self, trace, heard, chunk) -> None:
        prompt = int((trace.tokens["phase"] == "prompt").sum())
        passes = spans(len(trace) - 1, chunk, prompt)
        compare_attention(trace, heard.rows(passes), tolerance=EXACT)
        last = trace.attention.isel(token=-1)
        for name in ("start", "stop", "kind", "visible_blocks", "chosen_blocks"):
            assert (last[name] == -1).all(), name
        for name in ("mass", "sink", "window", "compressed", "rest", "entropy_bits"):
            assert last[name].isnull().all(), name

    @pytest.mark.parametrize("name", NAMES)
    def test_many_tokens(self, name) -> None:
        """More than wait together, so that some are reduced by the way and some in the end."""
        model = eager(name)
        with Listener(model.hf) as heard:
            trace = model.generate(
                ids_of(model, 19), max_new_tokens=68, prefill_chunk=7, temperature=1, seed=1
            )
        self.compare(trace, heard, 7)

    @pytest.mark.parametrize(
        ("name", "kept"),
        [("small", "five of each head"), ("small", "full, each head"), ("gpt_oss", "full")],
    )
    def test_many_tokens_kept_otherwise(self, name, kept) -> None:
        model = eager(name)
        with Listener(model.hf) as heard:
            trace = model.generate(
                ids_of(model, 10), max_new_tokens=67, temperature=1, seed=1, record=KEPT[kept]
            )
        self.compare(trace, heard, None)

    @pytest.mark.parametrize(
        ("name", "kept"),
        [
            *((name, "full") for name in NAMES),
            *(("small", kept) for kept in KEPT if kept != "full"),
        ],
    )
    def test_few_tokens(self, name, kept) -> None:
        """Single tokens wait, more of them follow, and a trace in between changes nothing."""
        model = eager(name)
        with Listener(model.hf) as heard:
            stream = model.stream(
                ids_of(model, 9), max_new_tokens=5, prefill_chunk=8, record=KEPT[kept]
            )
            next(stream)
            assert len(stream.trace.attention["sink"]) == 10
            next(stream)
            list(stream)
        self.compare(stream.trace, heard, 8)

    @pytest.mark.parametrize("kept", ["five of each head", "full"])
    def test_stream_left_early(self, kept) -> None:
        model = eager("small")
        stream = model.stream(ids_of(model, 21), max_new_tokens=30, record=KEPT[kept])
        with Listener(model.hf) as heard:
            for _ in range(6):
                next(stream)
        trace = stream.trace
        assert len(trace) == 27
        self.compare(trace, heard, None)
        with Listener(model.hf) as rest:
            list(stream)
        heard.calls = {layer: heard.calls[layer] + calls for layer, calls in rest.calls.items()}
        heard.chosen = {layer: heard.chosen[layer] + some for layer, some in rest.chosen.items()}
        self.compare(stream.trace, heard, None)


class TestEnding:
    """An error in the middle of a pass leaves the rows before it, whole, and nothing else."""

    @pytest.mark.parametrize(
        ("position", "layer", "kept"),
        [(13, 0, "full"), (13, 3, "five of each head"), (26, 0, "one"), (26, 3, "full"),
         (26, 5, "five of each head"), (90, 4, "one"), (90, 5, "full")],
    )  # fmt: skip
    def test_raised_in_a_layer(self, position, layer, kept) -> None:
        """In the second chunk of the prompt, in the sixth token, after many of them."""
        model = eager("small")

        def fail(event: v4kit.recording.RouterEvent) -> None:
            if event.layer == layer and int(event.positions[-1]) >= position:
                raise LookupError("mine")

        stream = model.stream(
            ids_of(model, 21), max_new_tokens=80, prefill_chunk=10, record=KEPT[kept]
        )
        with (
            Listener(model.hf) as heard,
            pytest.raises(LookupError, match="mine"),
            model.tap("router", fail),
        ):
            list(stream)
        trace = stream.trace
        fed = 10 if position == 13 else position
        assert trace.tokens["valid"].sum() == fed
        passes = spans(fed, 10, min(fed, 21))
        heard.calls = {layer: calls[: len(passes)] for layer, calls in heard.calls.items()}
        heard.chosen = {layer: some[: len(passes)] for layer, some in heard.chosen.items()}
        compare_attention(trace, heard.rows(passes), tolerance=EXACT)
        assert trace.attention["sink"][fed:].isnull().all()
        assert (trace.attention["start"][fed:] == -1).all()
        assert hook_count(model.hf) == 0

    @pytest.mark.parametrize(
        ("fed", "kept"), [(63, "five of each head"), (63, "full"), (7, "one"), (7, "full")]
    )
    def test_interrupted_while_rows_are_reduced(self, fed, kept, monkeypatch) -> None:
        """Rows that were complete are not lost: by the 64th token, and by a trace in between."""
        model = eager("small")
        stream = model.stream([0, 20, 30], max_new_tokens=70, prefill_chunk=1, record=KEPT[kept])
        heard = Listener(model.hf)
        with heard:
            for _ in range(fed - 2):
                next(stream)
        with monkeypatch.context() as patch:
            patch.setattr(attention_rows, "reduce_attention", interrupt)
            # Where every mass is kept, nothing waits, and only the next pass is interrupted.
            if fed == 63 or kept == "full":
                with pytest.raises(KeyboardInterrupt):
                    next(stream)
            else:
                with pytest.raises(KeyboardInterrupt):
                    stream.trace  # noqa: B018 - making it is what is interrupted
        trace = stream.trace
        assert trace.tokens["valid"].sum() == fed
        compare_attention(trace, heard.rows(spans(fed, 1)), tolerance=EXACT)

    def test_going_on_after_an_interrupted_trace(self, monkeypatch) -> None:
        """A live view may be stopped while it draws; the rows after it stay in their places."""
        model = eager("small")
        with Listener(model.hf) as heard:
            stream = model.stream([0, 20, 30], max_new_tokens=12, prefill_chunk=1)
            for _ in range(5):
                next(stream)
            with monkeypatch.context() as patch:
                patch.setattr(attention_rows, "reduce_attention", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    stream.trace  # noqa: B018 - making it is what is interrupted
            list(stream)
        compare_attention(stream.trace, heard.rows(spans(14, 1)), tolerance=EXACT)


class TestRecord:
    """`record(hf_model)`: transformers' own calls."""

    @pytest.mark.parametrize("kept", ["one", "full, each head"])
    @pytest.mark.parametrize("name", NAMES)
    def test_batch_in_generate(self, name, kept) -> None:
        hf, ids = eager(name).hf, batch(3, 21)
        options = {"attention_mask": torch.ones_like(ids), "eos_token_id": -1, "do_sample": False}
        with Listener(hf) as heard, v4kit.record(hf, KEPT[kept]) as recording:
            hf.generate(ids, max_new_tokens=6, prefill_chunk_size=8, **options)
        for row in range(3):
            rows = heard.rows(spans(26, 8, 21), batch=row)
            compare_attention(document(recording.trace, row), rows, tolerance=EXACT)

    @pytest.mark.parametrize(
        ("name", "kept"),
        [("small", "five of each head"), ("small", "full, each head"), ("gpt_oss", "full")],
    )
    def test_right_padding(self, name, kept) -> None:
        hf, ids = eager(name).hf, batch(3, 41)
        mask = torch.ones_like(ids)
        mask[1, 18:] = 0
        mask[2, 35:] = 0
        with (
            Listener(hf) as heard,
            v4kit.record(hf, KEPT[kept]) as recording,
            torch.no_grad(),
        ):
            hf(ids, attention_mask=mask)
        assert len(recording.trace) == 41 + 18 + 35
        for row, length in enumerate((41, 18, 35)):
            alone = eager(name).read(ids[row, :length].tolist(), record=KEPT[kept])
            rows = first(heard.rows([(0, 41)], batch=row), length) if length == 41 else None
            part = document(recording.trace, row)
            if rows:
                compare_attention(part, rows, tolerance=EXACT)
            for variable in ("mass", "sink", "window", "compressed", "rest", "entropy_bits"):
                found, expected = part.attention[variable], alone.attention[variable]
                np.testing.assert_allclose(found, expected, atol=3e-5)
            for variable in ("visible_blocks", "chosen_blocks"):
                np.testing.assert_array_equal(part.attention[variable], alone.attention[variable])

    @pytest.mark.parametrize("kept", ["one", "full"])
    def test_two_caches_in_turns(self, kept) -> None:
        """Their rows wait together, and stand with their documents in the end."""
        hf = eager("small").hf
        ids = [batch(1, 50, seed=1), batch(2, 45, seed=2)]
        heard, caches = [Listener(hf), Listener(hf)], [None, None]
        with v4kit.record(hf, KEPT[kept]) as recording, torch.no_grad():
            for start in range(9, 45):
                for i in (0, 1):
                    begin = 0 if start == 9 else start
                    with heard[i]:
                        out = hf(ids[i][:, begin : start + 1], past_key_values=caches[i])
                    caches[i] = out.past_key_values
            with heard[0]:
                hf(ids[0][:, 45:], past_key_values=caches[0])
        steps = [(0, 10), *((t, t + 1) for t in range(10, 45))]
        trace = recording.trace
        assert trace.tokens["document"].tolist() == [0] * 50 + [1] * 45 + [2] * 45
        one = heard[0].rows([*steps, (45, 50)])
        compare_attention(document(trace, 0), one, tolerance=EXACT)
        for row in (0, 1):
            rows = heard[1].rows(steps, batch=row)
            compare_attention(document(trace, 1 + row), rows, tolerance=EXACT)

    @pytest.mark.parametrize(
        ("name", "kept"), [("tiny", "full"), ("wide", "five of each head"), ("gpt_oss", "full")]
    )
    def test_cache_from_before_the_block(self, name, kept) -> None:
        hf, ids = eager(name).hf, batch(1, 60)
        with torch.no_grad():
            cache = hf(ids[:, :37]).past_key_values
            with Listener(hf) as heard, v4kit.record(hf, KEPT[kept]) as recording:
                hf(ids[:, 37:50], past_key_values=cache)
                for t in range(50, 60):
                    hf(ids[:, t : t + 1], past_key_values=cache)
        rows = heard.rows([(37, 50), *((t, t + 1) for t in range(50, 60))])
        compare_attention(recording.trace, rows, tolerance=EXACT)

    @pytest.mark.parametrize("use_cache", [True, False])
    def test_calls_without_a_cache(self, use_cache) -> None:
        hf = eager("small").hf
        first_ids, second_ids = batch(1, 30), batch(2, 17, seed=1)
        heard = [Listener(hf), Listener(hf)]
        with v4kit.record(hf) as recording, torch.no_grad():
            with heard[0]:
                hf(first_ids, use_cache=use_cache)
            with heard[1]:
                hf(second_ids, use_cache=use_cache)
        compare_attention(document(recording.trace, 0), heard[0].rows([(0, 30)]), tolerance=EXACT)
        for row in (0, 1):
            rows = heard[1].rows([(0, 17)], batch=row)
            compare_attention(document(recording.trace, 1 + row), rows, tolerance=EXACT)

    @pytest.mark.parametrize("kept", ["five of each head", "full"])
    @pytest.mark.parametrize("whole", [True, False])
    def test_caches_that_keep_more(self, whole, kept) -> None:
        """A cache may keep tokens that left the window; they are masked, not seen."""
        hf = zoo.fresh("mixtral", attn_implementation="eager", sliding_window=9)
        ids = batch(1, 40)
        cache = DynamicCache() if whole else DynamicCache(config=hf.config)
        with Listener(hf) as heard, v4kit.record(hf, KEPT[kept]) as recording, torch.no_grad():
            for start, stop in spans(40, 12, 30):
                hf(ids[:, start:stop], past_key_values=cache)
        assert heard.calls[0][-1].key.shape[2] == (40 if whole else 9)
        compare_attention(recording.trace, heard.rows(spans(40, 12, 30)), tolerance=EXACT)

    def test_interrupted_while_rows_are_reduced(self, monkeypatch) -> None:
        """By the 64th single token: the rows before it are in the trace, in their places."""
        hf, ids = eager("small").hf, batch(1, 64)
        cache = DynamicCache(config=hf.config)
        with v4kit.record(hf) as recording, torch.no_grad():
            with Listener(hf) as heard:
                for t in range(63):
                    hf(ids[:, t : t + 1], past_key_values=cache)
            with monkeypatch.context() as patch:
                patch.setattr(attention_rows, "reduce_attention", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    hf(ids[:, 63:], past_key_values=cache)
        trace = recording.trace
        assert len(trace) in {63, 64}
        compare_attention(trace[:63], heard.rows(spans(63, 1)), tolerance=EXACT)

    def test_error_in_the_block(self) -> None:
        """A call that failed leaves no row; the next one counts."""
        hf, ids = eager("small").hf, batch(2, 20)
        heard = Listener(hf)
        with v4kit.record(hf) as recording, torch.no_grad():
            cache = hf(ids[:, :9]).past_key_values
            mask = torch.ones(2, 10)
            mask[0, 2] = 0
            with pytest.raises(InputError, match="left padding"):
                hf(ids[:, 9:10], past_key_values=cache, attention_mask=mask)
            with heard:
                hf(ids)
        assert (
            recording.trace.tokens["document"].tolist() == [0] * 9 + [1] * 9 + [2] * 20 + [3] * 20
        )
        for row in (0, 1):
            rows = heard.rows([(0, 20)], batch=row)
            compare_attention(document(recording.trace, 2 + row), rows, tolerance=EXACT)


class TestManyDocuments:
    @pytest.mark.parametrize("kept", ["five of each head", "full"])
    def test_read_many_in_memory_and_on_disk(self, kept, tmp_path) -> None:
        model = eager("wide")
        texts = [ids_of(model, length) for length in (50, 3, 37)]
        with Listener(model.hf) as heard:
            options = {"prefill_chunk": 20, "record": KEPT[kept], "progress": False}
            traces = [model.read_many(texts, **options)]
        traces.append(model.read_many(texts, save_to=tmp_path / "run", **options))
        traces.append(v4kit.open_trace(traces[0].save(tmp_path / "run.v4trace")))
        passes = [spans(len(ids), 20) for ids in texts]
        start = 0
        for number, some in enumerate(passes):
            own = Listener(model.hf)
            stop = start + len(some)
            own.calls = {layer: calls[start:stop] for layer, calls in heard.calls.items()}
            own.chosen = {layer: chosen[start:stop] for layer, chosen in heard.chosen.items()}
            rows, start = own.rows(some), stop
            for trace in traces:
                compare_attention(document(trace, number), rows, tolerance=EXACT)
            part = document(traces[0][::-1], number)
            assert part.tokens["position"].tolist() == list(range(len(texts[number])))[::-1]
            compare_attention(part, rows, tolerance=EXACT)

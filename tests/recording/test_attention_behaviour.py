"""Recording attention changes nothing, keeps little, refuses clearly, and works under offload."""

import copy
import gc
import re
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload

import v4kit
from tests import zoo
from tests.attention_reference import NAMES, Listener, compare_attention, eager, ids_of
from tests.recording.test_record import batch
from tests.references import bare_run, hook_count, spans
from v4kit import Record
from v4kit.errors import InputError, TraceError
from v4kit.recording import recorded_bytes
from v4kit.recording.attention import AttentionRecorder
from v4kit.recording.attention_rows import Reduced

RECORDS = {
    "default": Record(),
    "each": Record(attention=3, heads="each"),
    "full": Record(attention="full", pooling=True),
    "full, each": Record(attention="full", heads="each"),
    "pooling": Record(pooling=True),
}


def alike(one: v4kit.Trace, other: v4kit.Trace, *, pooled: bool = False) -> None:
    """Assert that two traces hold the same attention to the bit."""
    assert one.attention.load().equals(other.attention.load())
    if pooled:
        assert one.stored_attention.values.equals(other.stored_attention.values)


class TestNothingChanges:
    @pytest.mark.parametrize("chunk", [None, 9])
    @pytest.mark.parametrize("name", NAMES)
    def test_logits(self, name, chunk) -> None:
        """The same to the bit, read in the kit and called from outside."""
        model = eager(name)
        ids = ids_of(model, 32)
        passes = [*spans(30, chunk), (30, 31), (31, 32)]
        bare = bare_run_of(model.hf, ids, passes)
        for record in (Record(attention=None), *RECORDS.values()):
            with v4kit.record(model.hf, record):
                np.testing.assert_array_equal(bare_run_of(model.hf, ids, passes), bare)
        np.testing.assert_array_equal(bare_run_of(model.hf, ids, passes), bare)
        assert hook_count(model.hf) == 0

    @pytest.mark.parametrize("name", ["small", "mixtral"])
    def test_generated_tokens_and_likelihoods(self, name) -> None:
        model = eager(name)
        traces = [
            model.generate(
                ids_of(model, 20), max_new_tokens=8, temperature=1, seed=4, record=record
            )
            for record in (Record(attention=None), *RECORDS.values())
        ]
        for trace in traces[1:]:
            assert trace.tokens.equals(traces[0].tokens)
            assert trace.routing.equals(traces[0].routing)

    def test_gradients(self) -> None:
        """A recorded training step has the same gradients, and its record holds no graph."""
        hf, ids = zoo.fresh("small"), batch(2, 20)
        hf(ids, labels=ids).loss.backward()
        expected = {name: p.grad.clone() for name, p in hf.named_parameters() if p.grad is not None}
        for record in RECORDS.values():
            hf.zero_grad()
            with v4kit.record(hf, record) as recording:
                hf(ids, labels=ids).loss.backward()
                for t in range(3):
                    hf(ids[:, t : t + 1])
            for name, parameter in hf.named_parameters():
                if name in expected:
                    assert torch.equal(parameter.grad, expected[name]), name
            assert recording.trace.attention["sink"].notnull().all()

    @pytest.mark.parametrize("kept", RECORDS)
    def test_modes_may_change_between_calls(self, kept) -> None:
        """Grad mode, none and inference mode in turn, through one cache."""
        hf, ids = eager("small").hf, batch(1, 12)
        modes = (torch.no_grad, torch.inference_mode, torch.enable_grad)
        heard = Listener(hf)
        with heard, v4kit.record(hf, RECORDS[kept]) as recording:
            for mode in modes:
                with mode():
                    hf(ids)
            with torch.no_grad():
                hf(ids)
        parts = [recording.trace[12 * i : 12 * i + 12].attention.load() for i in range(4)]
        for part in parts[1:]:
            assert part.equals(parts[0])

    @pytest.mark.parametrize("kept", RECORDS)
    @pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
    def test_nothing_is_left(self, kept, error) -> None:
        model = eager("small")

        def fail(event: v4kit.recording.RouterEvent) -> None:
            if event.layer == 4:
                raise error

        with pytest.raises(error), model.tap("router", fail):
            model.read("Hello", record=RECORDS[kept])
        with (
            pytest.raises(error),
            v4kit.record(model.hf, RECORDS[kept]),
            model.tap("router", fail),
        ):
            model.read("Hello")
        assert hook_count(model.hf) == 0
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        model.read("Hello", record=RECORDS[kept])
        assert hook_count(model.hf) == 0


def bare_run_of(hf, ids: list[int], passes: list[tuple[int, int]]) -> np.ndarray:
    """Logits of plain forward calls; gpt-oss has no gates where the others do."""
    if hf.config.model_type != "gpt_oss":
        return bare_run(hf, ids, passes).logits
    cache, logits = None, []
    with torch.no_grad():
        for start, stop in passes:
            out = hf(torch.tensor([ids[start:stop]]), past_key_values=cache)
            cache = out.past_key_values
            logits.append(out.logits[0])
    return torch.cat(logits).numpy()


class TestMemory:
    """Of [head, query, key], there is never more than one layer's."""

    LENGTH = 90

    @pytest.mark.parametrize("kept", RECORDS)
    def test_weights_are_gone_when_the_next_layer_runs(self, kept) -> None:
        model = eager("small")
        returned: list[weakref.ref] = []
        alive: list[int] = []

        def before(*_: object) -> None:
            alive.append(sum(ref() is not None for ref in returned))

        def after(_module, _inputs, output) -> None:
            returned.append(weakref.ref(output[1]))

        self._watch(model, before, after, RECORDS[kept])
        assert len(returned) == 6
        assert alive == [0] * 6
        assert not any(ref() is not None for ref in returned)

    @pytest.mark.parametrize("kept", RECORDS)
    def test_no_copies_of_them_either(self, kept) -> None:
        """What is alive when the last layer runs holds no other layer's weights."""
        model = eager("small")
        # type() and not isinstance(), which asks lazy modules for their class.
        known = {id(x) for x in gc.get_objects() if type(x) is torch.Tensor}
        calls: list[int] = []
        large: list[tuple[int, ...]] = []

        def before(*_: object) -> None:
            calls.append(1)
            if len(calls) == 6:
                tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor]
                several = [x for x in tensors if id(x) not in known and self.LENGTH in x.shape]
                large.extend(x.shape for x in several if x.numel() >= 4 * self.LENGTH**2)

        self._watch(model, before, lambda *_: None, RECORDS[kept])
        assert len(calls) == 6
        assert not large

    def _watch(self, model: v4kit.Model, before, after, record: Record) -> None:
        handles = []
        for decoder in model.hf.model.layers:
            handles.append(decoder.self_attn.register_forward_pre_hook(before))
            handles.append(decoder.self_attn.register_forward_hook(after))
        try:
            model.read(ids_of(model, self.LENGTH), prefill_chunk=None, record=record)
        finally:
            for handle in handles:
                handle.remove()

    @pytest.mark.parametrize("kept", RECORDS)
    def test_a_stream_keeps_no_weights(self, kept) -> None:
        """What waits to be reduced are copies of single tokens, which die when they are."""
        model = eager("small")
        returned: list[weakref.ref] = []

        def after(_module, _inputs, output) -> None:
            returned.append(weakref.ref(output[1]))

        handles = [x.self_attn.register_forward_hook(after) for x in model.hf.model.layers]
        try:
            stream = model.stream(ids_of(model, 30), max_new_tokens=6, record=RECORDS[kept])
            for _ in stream:
                pass
            trace = stream.trace
        finally:
            for handle in handles:
                handle.remove()
        gc.collect()
        assert len(returned) == 36
        assert not any(ref() is not None for ref in returned)
        assert len(trace) == 36

    @pytest.mark.parametrize("kept", RECORDS)
    def test_what_waits_shares_no_memory_with_them(self, kept) -> None:
        """Weights that are written over once their layer has run: the trace does not notice."""
        model, record = eager("small"), RECORDS[kept]
        ids = ids_of(model, 20)
        expected = model.generate(ids, max_new_tokens=5, prefill_chunk=7, record=record)
        weights: list[torch.Tensor] = []
        handles = []

        def wipe(*_: object) -> None:
            weights.pop().zero_()

        for decoder in model.hf.model.layers:
            attention = decoder.self_attn
            handles.append(
                attention.register_forward_hook(lambda _m, _i, output: weights.append(output[1]))
            )
            handles.append(decoder.register_forward_hook(wipe))
        try:
            trace = model.generate(ids, max_new_tokens=5, prefill_chunk=7, record=record)
        finally:
            for handle in handles:
                handle.remove()
        alike(trace, expected, pooled=True)

    @pytest.mark.parametrize("kept", RECORDS)
    @pytest.mark.parametrize("name", ["small", "mixtral"])
    def test_size_said_beforehand(self, name, kept) -> None:
        """The bytes that are announced are those of the arrays that come out."""
        model = eager(name)
        trace = model.read(ids_of(model, 61), record=RECORDS[kept])
        stored = trace.stored_attention
        arrays = [v.to_numpy() for v in stored.values.data_vars.values()]
        arrays += [np.asarray(layer.flat()) for layer in stored.masses]
        attention = sum(array.nbytes for array in arrays)
        record = RECORDS[kept]
        said = recorded_bytes(model.architecture, record, 61)
        nothing = Record(attention=None, pooling=record.pooling)
        assert said - recorded_bytes(model.architecture, nothing, 61) == attention


class TestBadInput:
    @pytest.mark.parametrize(
        "attention", [0, -1, 1.5, 16.0, True, False, "all", "", (16,), [16], np.bool_(1), np.nan]
    )
    def test_sources(self, attention) -> None:
        with pytest.raises(InputError, match=re.escape(repr(attention))):
            Record(attention=attention)

    @pytest.mark.parametrize("attention", [1, 10_000, np.int64(3), "auto", "full", None])
    def test_sources_that_are_fine(self, attention) -> None:
        assert Record(attention=attention).attention == attention

    @pytest.mark.parametrize("heads", ["both", None, 4, True, ""])
    def test_heads(self, heads) -> None:
        with pytest.raises(InputError, match=f'"mean" or "each".*{re.escape(repr(heads))}'):
            Record(heads=heads)

    @pytest.mark.parametrize("pooling", [2, None, "yes"])
    def test_pooling(self, pooling) -> None:
        with pytest.raises(InputError, match=re.escape(repr(pooling))):
            Record(pooling=pooling)

    def test_numbers_of_numpy(self) -> None:
        """They are recorded and saved as any other."""
        model = eager("small")
        trace = model.read("Hello", record=Record(attention=np.int64(3)))
        assert trace.attention.sizes["source"] == 3
        assert type(trace.meta["attention"]["sources"]) is int


class TestModelsWithoutWeights:
    @pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
    @pytest.mark.parametrize("name", ["mixtral", "olmoe"])
    def test_auto_says_why(self, name, implementation) -> None:
        hf = zoo.fresh(name, attn_implementation="sdpa")
        hf.config._attn_implementation = implementation
        with v4kit.record(hf) as recording:
            pass
        why = recording.trace.meta["attention"]["why"]
        assert repr(implementation) in why
        assert 'attn_implementation="eager"' in why

    def test_auto_goes_on_without(self, tmp_path) -> None:
        model = v4kit.wrap(zoo.fresh("mixtral", attn_implementation="sdpa"), zoo.tokenizer())
        trace = model.read(zoo.TEXT[:60], record=Record(pooling=True))
        again = v4kit.open_trace(trace.save(tmp_path / "run.v4trace"))
        twice = v4kit.concat([trace, again])
        for one in (trace, again, twice, trace[3:9]):
            assert (one.routing["experts"] >= 0).all()
            why = one.meta["attention"]["why"]
            with pytest.raises(TraceError, match=re.escape(why)):
                one.attention  # noqa: B018 - reading it is what fails
            with pytest.raises(TraceError, match=r"sdpa.*eager"):
                one.attention_to_tokens()

    @pytest.mark.parametrize("attention", [16, 1, "full"])
    def test_asked_for(self, attention) -> None:
        hf = zoo.fresh("mixtral", attn_implementation="sdpa")
        model = v4kit.wrap(hf, zoo.tokenizer())
        ran = []
        handle = hf.register_forward_pre_hook(lambda *_: ran.append(1))
        record = Record(attention=attention)
        try:
            for call in (
                lambda: model.read("Hello", record=record),
                lambda: model.generate("Hello", record=record),
                lambda: model.stream("Hello", record=record),
                lambda: model.read_many(["Hello"], record=record, progress=False),
                lambda: v4kit.record(hf, record).__enter__(),
            ):
                with pytest.raises(InputError, match=r"'sdpa'.*attn_implementation=\"eager\""):
                    call()
        finally:
            handle.remove()
        assert not ran
        assert hook_count(hf) == 0

    def test_not_asked_for(self) -> None:
        trace = eager("small").read("Hello", record=Record(attention=None))
        assert trace.meta["attention"] == {
            "sources": None, "heads": "mean", "why": "it was not asked for.",
        }  # fmt: skip
        with pytest.raises(TraceError, match="not asked for"):
            trace.attention  # noqa: B018 - reading it is what fails

    @pytest.mark.parametrize("attention", ["auto", 16])
    def test_weights_that_do_not_come(self, attention) -> None:
        """An attention that returns None, whatever its name says."""
        hf = zoo.fresh("mixtral", attn_implementation="eager")
        inner = hf.model.layers[1].self_attn
        inner.register_forward_hook(lambda _module, _inputs, output: (output[0], None))
        model = v4kit.wrap(hf, zoo.tokenizer())
        record = Record(attention=attention)
        if attention == 16:
            with pytest.raises(InputError, match="returns no attention weights"):
                model.read("Hello", record=record)
        else:
            trace = model.generate("Hello", max_new_tokens=3, record=record)
            assert "returns no attention weights" in trace.meta["attention"]["why"]
            assert trace.stored_attention is None
        assert hook_count(hf) == 1

    def test_implementation_that_changes(self) -> None:
        """The same model, before and after it was told to be eager."""
        hf = zoo.fresh("mixtral", attn_implementation="sdpa")
        model = v4kit.wrap(hf, zoo.tokenizer())
        assert model.read("Hello").stored_attention is None
        hf.set_attn_implementation("eager")
        assert model.read("Hello").attention["sink"].notnull().all()


class TestTooLarge:
    def test_before_any_pass(self, monkeypatch) -> None:
        model = eager("small")
        record = Record(attention="full", heads="each")
        ids = ids_of(model, 120)
        needed = recorded_bytes(model.architecture, record, 120)
        ran = []
        handle = model.hf.register_forward_pre_hook(lambda *_: ran.append(1))

        def available(free: int) -> None:
            monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))

        try:
            available(needed - 1)
            with pytest.raises(InputError, match=f"120 tokens.*{needed:,} bytes"):
                model.read(ids, record=record)
            with pytest.raises(InputError, match=f"{needed:,} bytes"):
                model.stream(ids[:100], max_new_tokens=20, record=record)
            with pytest.raises(InputError, match=f"{needed:,} bytes"):
                model.generate(ids[:100], max_new_tokens=20, record=record)
            with pytest.raises(InputError, match=f"{needed:,} bytes"):
                model.read_many([ids], record=record, progress=False)
            assert not ran
            model.read(ids, record=Record())
            available(needed)
            model.read(ids, record=record)
            assert len(ran) == 2
        finally:
            handle.remove()

    def test_more_takes_more(self) -> None:
        architecture = eager("small").architecture
        records = [
            Record(attention=None),
            Record(attention=1),
            Record(attention=1, pooling=True),
            Record(attention=16),
            Record(attention=16, heads="each"),
            Record(attention=60, heads="each"),
        ]
        sizes = [recorded_bytes(architecture, record, 300) for record in records]
        assert sizes == sorted(set(sizes))


class TestLeftPadding:
    @pytest.mark.parametrize("kept", RECORDS)
    def test_refused(self, kept) -> None:
        hf, ids = eager("small").hf, batch(2, 12)
        mask = torch.ones_like(ids)
        mask[1, :3] = 0
        with v4kit.record(hf, RECORDS[kept]) as recording, torch.no_grad():
            hf(ids)
            with pytest.raises(InputError, match="left padding"):
                hf(ids, attention_mask=mask)
        assert len(recording.trace.attention["sink"]) == 24
        assert hook_count(hf) == 0


class TestOffload:
    """Weights that come and go: the same attention as with the model in memory."""

    @pytest.mark.parametrize("kept", ["each", "full", "pooling"])
    @pytest.mark.parametrize("where", ["cpu", "disk"])
    @pytest.mark.parametrize("name", ["small", "gpt_oss"])
    def test_by_accelerate(self, name, where, kept, tmp_path) -> None:
        ids = ids_of(eager(name), 40)
        record = RECORDS[kept]
        expected = eager(name).read(ids, prefill_chunk=30, record=record)
        hf = zoo.fresh(name, attn_implementation="eager")
        if where == "cpu":
            cpu_offload(hf, execution_device="cpu")
        else:
            disk_offload(hf, tmp_path / "weights", execution_device="cpu")
        assert hf.model.layers[0].self_attn.sinks.device.type == "meta"
        model = v4kit.wrap(hf, zoo.tokenizer())
        trace = model.read(ids, prefill_chunk=30, record=record)
        alike(trace, expected, pooled=True)
        stream = model.stream(ids, max_new_tokens=4, prefill_chunk=30, record=record)
        list(stream)
        part = stream.trace[:40]
        alike(part, expected, pooled=kept != "pooling")

    def test_by_device_map(self, tmp_path) -> None:
        """Every other layer on the disk."""
        folder = tmp_path / "model"
        zoo.fresh("wide").save_pretrained(folder)
        zoo.tokenizer().save_pretrained(folder)
        places = {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(5)}
        resident = v4kit.load(folder)
        named = dict(resident.hf.model.named_children())
        places |= {f"model.{name}": "cpu" for name in named if name != "layers"}
        places["lm_head"] = "cpu"
        offloaded = v4kit.load(folder, device_map=places, offload_folder=tmp_path / "off")
        ids = ids_of(resident, 70)
        record = Record(attention=5, heads="each", pooling=True)
        with Listener(offloaded.hf) as heard:
            trace = offloaded.read(ids, prefill_chunk=33, record=record)
        alike(trace, resident.read(ids, prefill_chunk=33, record=record), pooled=True)
        compare_attention(trace, heard.rows(spans(70, 33)), tolerance=1e-5)


class TestDeepCopies:
    @pytest.mark.parametrize("kept", RECORDS)
    def test_copy_of_a_recorded_model(self, kept) -> None:
        model, record = eager("small"), RECORDS[kept]
        ids = ids_of(model, 30)
        expected = model.read(ids, record=record)
        other = v4kit.wrap(copy.deepcopy(model.hf), zoo.tokenizer())
        assert hook_count(other.hf) == 0
        alike(other.read(ids, record=record), expected, pooled=True)

    def test_of_its_own(self) -> None:
        """The copy's parameters are what its attention tells; the model's trace stays its own."""
        model = eager("small")
        ids = ids_of(model, 30)
        other = v4kit.wrap(copy.deepcopy(model.hf), zoo.tokenizer())
        with torch.no_grad():
            for decoder in other.hf.model.layers:
                decoder.self_attn.sinks.add_(3)
        before = model.read(ids)
        with v4kit.record(model.hf) as recording, torch.no_grad():
            other.read(ids)
            assert len(recording.trace) == 0
            model.hf(torch.tensor([ids]))
        alike(recording.trace, before)
        shifted = other.read(ids)
        assert (shifted.attention["sink"][:, 0] > before.attention["sink"][:, 0]).all()


def test_rows_that_left_a_device_stay_with_those_that_come_from_it() -> None:
    """Prompts are reduced at once and leave the device; single tokens after them wait on it."""
    model, away = zoo.random_model("small"), torch.device("cuda", 0)
    recorder = AttentionRecorder(model.hf, model.family, model.architecture, Record())
    part = Reduced({"sink": torch.zeros(3, 1)}, (), away)
    recorder._reduced = {2: part, 4: part}
    (prompt,) = recorder._groups_of_pass()
    recorder.discard()
    recorder._pending = {2: SimpleNamespace(device=away), 4: SimpleNamespace(device=away)}
    (single,) = recorder._groups_of_pass()
    assert prompt is single
    assert prompt.layers == (2, 4)

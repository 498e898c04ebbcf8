"""However a run ends, the model is left as it was, and what was recorded until then is whole."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.references import bare_run, compare_likelihood, compare_routing, hook_count, spans

PROMPT = "Count to ten: one, two, three,"


def untouched(model: v4kit.Model) -> None:
    """Assert that nothing is left on the model: no hook, no lock, no grad mode, no tap."""
    assert hook_count(model.hf) == 0
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    done = []
    thread = threading.Thread(target=lambda: done.append(model.read("Still there?")))
    thread.start()
    thread.join(30)
    assert len(done) == 1


class Interrupt:
    """Raises out of the middle of a forward pass: in one layer, in its nth pass."""

    def __init__(self, model: v4kit.Model, *, layer: int, at: int, error: type) -> None:
        self._module = model.hf.model.layers[layer].mlp.experts
        self._left, self._error = at, error

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_hook(self._hook)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _hook(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            raise self._error


def whole(trace: v4kit.Trace, model: v4kit.Model, fed: int, passes: list, tmp_path) -> None:
    """Assert that the first rows are true, the others empty, and that it can be saved."""
    assert trace.tokens["valid"].tolist() == [row < fed for row in range(len(trace))]
    assert (trace.routing["experts"][fed:] == -1).all()
    assert trace.routing["weights"][fed:].isnull().all()
    run = bare_run(model.hf, trace.tokens["id"].tolist(), passes)
    compare_routing(trace, model.hf, run)
    compare_likelihood(trace.tokens[: fed + 1], run.logits)
    again = v4kit.open_trace(trace.save(tmp_path / "run.v4trace"))
    assert again.routing.equals(trace.routing)
    assert again.tokens.equals(trace.tokens)
    assert again.meta == trace.meta


@pytest.mark.parametrize("name", ["small", "wide", "mixtral"])
def test_normal_end(name) -> None:
    model = zoo.model(name)
    model.generate(PROMPT, max_new_tokens=3)
    model.read(PROMPT)
    model.read_many([PROMPT, "a"], progress=False)
    untouched(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
@pytest.mark.parametrize("layer", [0, 3, 5])
def test_interrupted_while_generating(error, layer, tmp_path) -> None:
    model = zoo.model("small")
    stream = model.stream(PROMPT, max_new_tokens=20, prefill_chunk=10, temperature=1, seed=5)
    prompt = len(stream.trace)
    passes = spans(prompt + 4, 10, prompt)
    with Interrupt(model, layer=layer, at=len(passes) + 1, error=error), pytest.raises(error):
        list(stream)
    trace = stream.trace
    assert len(trace) == prompt + 5
    assert trace.meta["stop_reason"] == "interrupted"
    whole(trace, model, prompt + 4, passes, tmp_path)
    assert list(stream) == []
    untouched(model)


def test_interrupted_while_reading_the_prompt(tmp_path) -> None:
    model = zoo.model("wide")
    stream = model.stream(PROMPT, prefill_chunk=6)
    with Interrupt(model, layer=2, at=3, error=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        next(stream)
    whole(stream.trace, model, 12, [(0, 6), (6, 12)], tmp_path)
    untouched(model)


def test_trace_before_the_first_pass(tmp_path) -> None:
    model = zoo.model("small")
    trace = model.stream(PROMPT).trace
    assert not trace.tokens["valid"].any()
    assert (trace.routing["experts"] == -1).all()
    assert trace.text.endswith(PROMPT)
    assert trace.meta["stop_reason"] == "left"
    assert len(v4kit.open_trace(trace.save(tmp_path / "empty.v4trace"))) == len(trace)


def test_exception_in_a_tap() -> None:
    model = zoo.model("small")

    def fail(event: v4kit.recording.RouterEvent) -> None:
        if event.layer == 3:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"), model.tap("router", fail):
        model.generate(PROMPT)
    untouched(model)


def test_exception_in_on_step() -> None:
    model = zoo.model("small")

    def fail(_: v4kit.Step) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        model.generate(PROMPT, on_step=fail)
    untouched(model)


def test_abandoned_stream(tmp_path) -> None:
    model = zoo.model("small")
    stream = model.stream(PROMPT, max_new_tokens=20)
    steps = [next(stream) for _ in range(3)]
    untouched(model)
    trace = stream.trace
    prompt = len(trace) - 3
    assert trace.meta["stop_reason"] == "left"
    whole(trace, model, prompt + 2, spans(prompt + 2, None, prompt), tmp_path)
    assert [step.row for step in steps] == [prompt - 1, prompt, prompt + 1]
    assert [step.token for step in steps] == trace.tokens["id"].tolist()[prompt:]
    for step in steps:
        np.testing.assert_array_equal(step.experts, trace.routing["experts"][step.row])
    # It may also be taken up again.
    assert len(list(stream)) <= 17
    assert stream.trace[: len(trace) - 1].routing.equals(trace[:-1].routing)


def test_garbage_collected_stream() -> None:
    model = zoo.model("small")
    stream = model.stream(PROMPT)
    next(stream)
    gone = weakref.ref(stream)
    del stream
    gc.collect()
    assert gone() is None
    untouched(model)


def test_two_streams_take_turns() -> None:
    """A stream holds nothing between its steps, so others may run in between."""
    model = zoo.model("small")
    texts = [PROMPT, "def fib(n):"]
    alone = [model.generate(text, max_new_tokens=6, temperature=1, seed=1) for text in texts]
    streams = [model.stream(text, max_new_tokens=6, temperature=1, seed=1) for text in texts]
    for _ in range(6):
        for stream in streams:
            next(stream, None)
    for trace, stream in zip(alone, streams, strict=True):
        assert stream.trace.tokens.equals(trace.tokens)
        assert stream.trace.routing.equals(trace.routing)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_interrupted_record(error) -> None:
    hf = zoo.random_model("small").hf
    ids = torch.arange(20, 50).unsqueeze(0)
    with v4kit.record(hf) as recording, torch.no_grad():
        hf(ids)
        with (
            Interrupt(zoo.random_model("small"), layer=3, at=1, error=error),
            pytest.raises(error),
        ):
            hf(ids)
        hf(ids + 1)
    assert hook_count(hf) == 0
    trace = recording.trace
    assert trace.tokens["id"].tolist() == [*range(20, 50), *range(21, 51)]
    compare_routing(trace[:30], hf, bare_run(hf, ids[0].tolist(), [(0, 30)]))
    compare_routing(trace[30:], hf, bare_run(hf, (ids[0] + 1).tolist(), [(0, 30)]))
    with pytest.raises(LookupError), v4kit.record(hf):
        raise LookupError
    untouched(zoo.random_model("small"))


@pytest.mark.parametrize("twice", [False, True], ids=["stored", "stored twice"])
def test_interrupted_when_rows_are_stored_but_do_not_count(twice, monkeypatch) -> None:
    """An interrupt between storing a pass and counting it leaves no trace of that pass."""
    model = zoo.model("small")
    stream = model.stream(PROMPT, max_new_tokens=9, temperature=1, seed=5)
    for _ in range(3):
        next(stream)
    before = stream.trace
    recorder = stream._session._recorder
    commit = recorder.commit

    def commit_and_stop() -> None:
        parts = [
            getattr(room, name)
            for room, names in (
                (recorder.routing, ["_pending"]),
                (recorder.attention, ["_pending", "_chosen"]),
            )
            for name in names
        ]
        pending = [dict(part) for part in parts]
        commit()
        if twice:
            for part, kept in zip(parts, pending, strict=True):
                part.update(kept)
            commit()
        raise KeyboardInterrupt

    monkeypatch.setattr(recorder, "commit", commit_and_stop)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    after = stream.trace
    assert after.routing.identical(before.routing)
    assert after.attention.identical(before.attention)
    assert after.tokens["valid"].tolist() == before.tokens["valid"].tolist()

"""Sinks without an expert: against taps on the attention, loops, and what can't change."""

import numpy as np
import pytest

import v4kit
from tests import zoo
from v4kit.errors import InputError
from v4kit.experiments import sink_link

TEXTS = ["Once upon a time, a 🙂 sat by 春 and sang. ", "def fib(n): return n", "x"]


def by_taps(model, texts, *edits):
    """The mean shares of sinks and of what holds the first token, from live weights."""
    layers = range(model.architecture.n_layers)
    sink, first, n = [0.0 for _ in layers], [0.0 for _ in layers], 0
    for ids in texts:
        seen = {}

        def look(event, seen=seen):
            weights = event.weights.double().mean(0).numpy()
            sinks = event.sink.double().mean(0).numpy()
            holds = [column for column, start in enumerate(event.start) if start == 0]
            for row, position in enumerate(event.positions.tolist()):
                seen[event.layer, position] = (sinks[row], sum(weights[row, c] for c in holds))

        with model.tap("attention", look):
            model.read(ids, edits=edits)
        for layer in layers:
            for position in range(1, len(ids)):
                sink[layer] += seen[layer, position][0]
                first[layer] += seen[layer, position][1]
        n += len(ids) - 1
    return np.array(sink) / n, np.array(first) / n, n


@pytest.mark.parametrize("name", ["small", "gpt_oss"])
def test_it_is_what_the_attention_did(name) -> None:
    model = zoo.model(name)
    trace = model.read_many(TEXTS, progress=False)
    documents = trace.tokens["document"]
    texts = [trace.tokens["id"][documents == d].tolist() for d in range(3)]
    layer, expert = 1, int(trace.routing["experts"][4, 1, 0])
    found = sink_link(model, trace, layer, expert, draws=2, seed=3)
    gone = v4kit.ablate(layer, [expert], reroute=False)
    drawn = []
    for seed in (3, 4):
        other = v4kit.analysis.load_matched(trace, layer, [expert], seed=seed)
        drawn.append(by_taps(model, texts, v4kit.ablate(layer, other, reroute=False)))
    base, without = by_taps(model, texts), by_taps(model, texts, gone)
    for place, share in enumerate(("sink", "first")):
        control = np.stack([one[place] for one in drawn])
        expected = {"": base[place], "_without": without[place], "_control": control.mean(axis=0)}
        for ending, values in expected.items():
            np.testing.assert_allclose(found[share + ending], values, rtol=1e-4, atol=1e-6)
        std = found[f"{share}_control_std"]
        np.testing.assert_allclose(std, control.std(axis=0), rtol=1e-2, atol=1e-6)
    assert int(found["n"]) == base[2]
    assert all(found[name].attrs["meaning"] for name in found)
    # What lies before the expert can't know of it; what lies behind does.
    for share in ("sink", "first"):
        differ = (found[share] != found[f"{share}_without"]).to_numpy()
        assert not differ[: layer + 1].any()
        assert differ[layer + 1 :].any()


def test_an_expert_that_nobody_uses() -> None:
    model = zoo.model("small")
    trace = model.read("Once upon")
    used = set(trace.routing["experts"][:, 3].to_numpy().ravel().tolist())
    idle = next(e for e in range(16) if e not in used)
    found = sink_link(model, trace, 3, idle, draws=1)
    for share in ("sink", "first"):
        np.testing.assert_array_equal(found[share], found[f"{share}_without"])


def test_refusals() -> None:
    model = zoo.model("small")
    trace = model.read(TEXTS[0])
    for call, message in (
        ({"expert": 16}, "no expert 16"),
        ({"layer": 9}, "Layer 9 has no router"),
        ({"draws": 0}, "draws is a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            sink_link(model, trace, **{"layer": 3, "expert": 2, **call})
    with pytest.raises(InputError, match="lacks tokens before"):
        sink_link(model, trace[4:], 3, 2)
    with pytest.raises(InputError, match="no text of two tokens"):
        sink_link(model, trace[:1], 3, 2)
    with pytest.raises(InputError, match="no text of two tokens"):
        sink_link(model, trace[:0], 3, 2)
    with model.edit(v4kit.force(3, [1])), pytest.raises(InputError, match="call it unedited"):
        sink_link(model, trace, 3, 2)
    with pytest.raises(InputError, match="do not act now"):
        sink_link(model, model.read(TEXTS[0], edits=[v4kit.force(3, [1])]), 3, 2)

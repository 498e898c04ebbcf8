"""Attribution: complete in every family, right summand by summand, and refused where it is not."""

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.references import bare_run, decoder_layers, spans
from v4kit.errors import InputError, UnsupportedModel
from v4kit.experiments import attribution
from v4kit.recording import streams

TEXT = "Once upon a time, a 🙂 sat by 春 and sang. "


@pytest.mark.parametrize("name", ["small", "wide", "tiny", *zoo.EVERY])
def test_the_summands_are_the_logit(name) -> None:
    model = zoo.model(name)
    trace = model.generate(TEXT * 2, max_new_tokens=5, prefill_chunk=7)
    ids = trace.tokens["id"].tolist()
    for token in (0, 5, 20, len(ids) - 2):
        found = attribution(model, trace, token)
        run = bare_run(model.hf, ids[: token + 1], spans(token + 1, 7))
        logits = run.logits[-1]
        assert float(found["logit"]) == pytest.approx(float(logits[ids[token + 1]]), abs=2e-4)
        assert float(found["total"]) == pytest.approx(float(found["summands"].sum()))
        assert float(found["residual"]) < 1e-5
    layers = model.architecture.layers
    parts = found["part"].to_numpy().tolist()
    routed, dense = len(model.architecture.routed), len(layers) - len(model.architecture.routed)
    assert parts.count("embedding") == 1
    assert parts.count("attention") == len(layers)
    assert parts.count("expert") == routed * model.architecture.top_k
    assert parts.count("shared") == routed * bool(model.architecture.n_shared)
    assert parts.count("dense") == dense
    for layer in model.architecture.routed:
        own = (found["part"] == "expert") & (found["layer"] == layer)
        used = trace.routing["experts"].values[len(ids) - 2, layer]
        assert sorted(found["expert"].values[own]) == sorted(used)


def test_over_two_hundred_tokens_of_the_shipped_model() -> None:
    model = v4kit.load()
    trace = model.generate("Once upon a time", max_new_tokens=200, temperature=1.0, seed=2)
    # Every ninth: all of them are in the benchmark.
    found = [attribution(model, trace, token) for token in range(0, 200, 9)]
    assert max(float(one["residual"]) for one in found) < 1e-5


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_rounding_is_an_error_bar_in_bfloat16(name) -> None:
    if name == "tiny":
        model = v4kit.load(dtype="bfloat16")
    else:
        model = v4kit.wrap(zoo.fresh(name, dtype=torch.bfloat16), zoo.tokenizer())
    trace = model.read(TEXT)
    found = [float(attribution(model, trace, row)["residual"]) for row in range(0, len(trace), 3)]
    assert 1e-6 < max(found) < 2e-2


@torch.no_grad()
def test_a_summand_is_what_the_logit_loses_without_it() -> None:
    """With divisor and factors held, taking a vector out of the state lowers the logit by it."""
    model = zoo.model("small")
    trace, token = model.read(TEXT), 12
    found = attribution(model, trace, token, target=9)
    layer = model.architecture.n_layers - 1
    part = found.isel(summand=((found["part"] == "shared") & (found["layer"] == layer)).values)
    seen = {}

    def keep(name):
        return lambda _, inputs, output: seen.update({name: (inputs, output)})

    decoder = decoder_layers(model.hf)[layer]
    modules = {"shared": decoder.mlp.shared_experts, "mix": decoder.ffn_hc,
               "head": model.hf.model.hc_head, "norm": model.hf.model.norm}  # fmt: skip
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    ids = trace.tokens["id"].tolist()[: token + 1]
    model.hf(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    # The last block's output goes to each stream by `post`, and from there through the head.
    written = seen["shared"][1].flatten(0, -2)[-1].double()
    post = seen["mix"][1][0][0, -1].double()
    head = modules["head"]
    states = seen["head"][0][0][0, -1].double()
    flat = states.flatten() * (states.square().mean() + head.input_norm.eps).rsqrt()
    pre = torch.sigmoid(head.hc_fn.double() @ flat * head.hc_scale + head.hc_base) + head.eps
    final = seen["norm"][0][0][0, -1].double()
    norm = modules["norm"]
    scale = (final.square().mean() + norm.variance_epsilon).rsqrt()
    toward = model.hf.lm_head.weight[9].double() * norm.weight.double() * scale
    expected = float((pre * post).sum() * (written @ toward))
    assert float(part["summands"][0]) == pytest.approx(expected, rel=1e-5)


def test_a_pair_is_the_difference() -> None:
    model = zoo.model("small")
    trace = model.read(TEXT)
    one, other = (attribution(model, trace, 7, target=t) for t in (5, 11))
    both = attribution(model, trace, 7, target=(5, 11))
    np.testing.assert_allclose(both["summands"], one["summands"] - other["summands"], atol=1e-12)
    assert float(both["logit"]) == pytest.approx(float(one["logit"] - other["logit"]))
    assert both.attrs["target"] == [5, 11]


def test_targets() -> None:
    model = v4kit.load()
    trace = model.generate("Once upon a time", max_new_tokens=6)
    last = len(trace) - 1
    assert attribution(model, trace, 3).attrs["target"] == [int(trace.tokens["id"][4])]
    by_text = attribution(model, trace, 3, target=" time")
    assert by_text.attrs["target_text"] == " time"
    read = model.read("Once upon a time")
    at_end = attribution(model, read, -1)
    assert at_end.attrs["target"] == [int(read.tokens["predicted"].iloc[-1])]
    with pytest.raises(InputError, match="No token follows row"):
        attribution(model, trace, last)


def test_edits_act() -> None:
    model = zoo.model("small")
    trace = model.read(TEXT)
    layer, row = model.architecture.n_layers - 1, 9
    gone = int(trace.routing["experts"].values[row, layer, 0])
    with model.edit(v4kit.ablate(layer, [gone], reroute=False)):
        found = attribution(model, trace, row)
    own = (found["layer"] == layer) & (found["expert"] == gone)
    assert found["summands"].values[own].tolist() == [0.0]
    assert float(found["residual"]) < 1e-5


@pytest.mark.parametrize("phase", ["prompt", "generated"])
def test_edits_of_a_phase_act_on_it(phase) -> None:
    """What is attributed are the experts that the edited run used, not those of another phase."""
    model = zoo.model("small")
    edit = v4kit.force(5, [7], tokens=phase)
    with model.edit(edit):
        trace = model.generate(TEXT, max_new_tokens=8, prefill_chunk=7)
        assert trace.tokens["phase"].iloc[-2] == "generated"
        for row in (5, len(trace) - 2):
            found = attribution(model, trace, row)
            own = (found["part"] == "expert") & (found["layer"] == 5)
            used = trace.routing["experts"].values[row, 5]
            assert sorted(found["expert"].values[own]) == sorted(used)
    with pytest.raises(InputError, match=r"recorded under edits \(steer\) that do not act now"):
        attribution(model, trace, 5)
    alone = model.generate(TEXT, max_new_tokens=8, prefill_chunk=7, edits=[edit])
    with pytest.raises(InputError, match="do not act now"):
        attribution(model, alone, 5)


def test_an_empty_trace() -> None:
    model = zoo.model("small")
    with pytest.raises(InputError, match="trace is empty"):
        attribution(model, model.read(TEXT)[:0], 0)


def test_documents_and_slices() -> None:
    model = zoo.model("small")
    many = model.read_many([TEXT, "def fib(n): return n"], progress=False)
    start = int((many.tokens["document"] == 0).sum())
    alone = attribution(model, model.read("def fib(n): return n"), 4)
    np.testing.assert_allclose(attribution(model, many, start + 4)["summands"], alone["summands"])
    with pytest.raises(InputError, match="lacks tokens before row"):
        attribution(model, many[5:], 2)


def test_the_wrong_way_round_is_refused(monkeypatch) -> None:
    """Streams mixed by comb instead of its transpose look nearly right; the residual tells."""
    model = zoo.model("small")
    trace = model.read(TEXT)
    right = streams.alphas
    monkeypatch.setattr(
        "v4kit.experiments.writing.alphas",
        lambda post, comb, head: right(post, comb.transpose(-1, -2), head),
    )
    # The first token's streams are all alike, so that any mixture of them is right.
    for row in range(1, len(trace)):
        with pytest.raises(UnsupportedModel, match="add up to"):
            attribution(model, trace, row)
    monkeypatch.setattr(
        "v4kit.experiments.writing.alphas", lambda post, comb, head: right(2 * post, comb, head)
    )
    with pytest.raises(UnsupportedModel, match="add up to"):
        attribution(model, trace, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"token": 999}, "token is a row"),
        ({"token": 1.5}, "token is a row"),
        ({"token": 3, "target": 10**6}, "an id below"),
        ({"token": 3, "target": "two words and more"}, "is [0-9]+ tokens"),
        ({"token": 3, "target": (1, 2, 3)}, "one token, or a pair"),
        ({"token": 3, "target": ()}, "one token, or a pair"),
        ({"token": 3, "target": (5, 5)}, "two different ones"),
        ({"token": 3, "target": 1.5}, "text or an id"),
    ],
)
def test_refusals(call, message) -> None:
    model = zoo.model("small")
    with pytest.raises(InputError, match=message):
        attribution(model, model.read(TEXT), **call)


def test_another_model() -> None:
    with pytest.raises(InputError, match="trace is of another model"):
        attribution(zoo.model("small"), zoo.model("mixtral").read(TEXT), 3)
    with pytest.raises(InputError, match="takes a Model and a Trace"):
        attribution(zoo.model("small"), TEXT, 3)

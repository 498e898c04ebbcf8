"""A tap sees what the router returned, and what it changes is what the model uses."""

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.references import bare_run, hook_count, scores_of, spans
from v4kit.errors import InputError

IDS = [0, *range(20, 50)]


class TestLooking:
    def test_event(self) -> None:
        model = zoo.model("small")
        run = bare_run(model.hf, IDS, spans(len(IDS), 8))
        events = []
        with model.tap("router", events.append):
            assert hook_count(model.hf) == 0
            model.read(IDS, prefill_chunk=8)
        assert [event.layer for event in events] == [0, 1, 2, 3, 4, 5] * 4
        for layer, (logits, weights, experts) in run.gates.items():
            mine = [event for event in events if event.layer == layer]
            positions = torch.cat([event.positions for event in mine])
            assert positions.tolist() == list(range(len(IDS)))
            for name, expected in zip(
                ("logits", "weights", "experts"), (logits, weights, experts), strict=True
            ):
                seen = torch.cat([getattr(event, name) for event in mine])
                np.testing.assert_array_equal(seen, expected)
            scores = [scores_of(model.hf)(row.astype(np.float64).tolist()) for row in logits]
            np.testing.assert_allclose(torch.cat([e.scores for e in mine]), scores, rtol=1e-5)

    def test_tensors_are_the_routers_own(self) -> None:
        model = zoo.model("small")
        own, seen = [], []
        gate = model.hf.model.layers[3].mlp.gate
        handle = gate.register_forward_hook(lambda _m, _i, output: own.append(output))
        try:
            with model.tap("router", seen.append, layers=[3]):
                model.read(IDS)
        finally:
            handle.remove()
        ((logits, weights, experts),) = own
        (event,) = seen
        assert event.logits is logits
        assert event.weights is weights
        assert event.experts is experts

    def test_only_while_the_block_runs(self) -> None:
        model = zoo.model("small")
        events = []
        stream = model.stream("Hello", max_new_tokens=4)
        with model.tap("router", events.append, layers=[5, 2]):
            next(stream)
        assert [event.layer for event in events] == [2, 5]
        list(stream)
        assert len(events) == 2


class TestChanging:
    @pytest.mark.parametrize("name", zoo.ALL)
    def test_weights(self, name) -> None:
        """The model goes on with the change, and the trace tells it."""
        model = zoo.model(name)
        layer = model.architecture.n_layers - 1
        base = bare_run(model.hf, IDS, spans(len(IDS), None))

        def own(_module, _inputs, output):
            logits, weights, experts = output
            return logits, weights * 0.25, experts

        gate = model.hf.model.layers[layer].mlp.gate
        handle = gate.register_forward_hook(own)
        try:
            expected = bare_run(model.hf, IDS, spans(len(IDS), None))
        finally:
            handle.remove()
        outputs = []
        handle = model.hf.register_forward_hook(lambda _m, _i, o: outputs.append(o.logits[0]))
        try:
            with model.tap("router", lambda e: e.change(weights=e.weights * 0.25), layers=[layer]):
                trace = model.read(IDS)
        finally:
            handle.remove()
        np.testing.assert_array_equal(outputs[0], expected.logits)
        assert np.abs(expected.logits - base.logits).max() > 1e-6
        recorded = np.sort(trace.routing["weights"].sel(layer=layer), axis=-1)
        np.testing.assert_array_equal(recorded, np.sort(base.gates[layer][1] * 0.25, axis=-1))

    def test_experts(self) -> None:
        """Other experts compute, and are recorded in the order of their scores."""
        model = zoo.model("small")
        base = bare_run(model.hf, IDS, spans(len(IDS), None))
        with model.tap("router", lambda e: e.change(experts=(e.experts + 1) % 16), layers=[4]):
            trace = model.read(IDS, record=v4kit.Record(routing="full"))
        routing = trace.routing.sel(layer=4)
        experts = routing["experts"].to_numpy()
        expected = np.sort((base.gates[4][2] + 1) % 16, axis=-1)
        np.testing.assert_array_equal(np.sort(experts, axis=-1), expected)
        bias = model.hf.model.layers[4].mlp.gate.e_score_correction_bias.numpy()
        selection = routing["router_scores"].to_numpy() + bias
        chosen = np.take_along_axis(selection, experts.astype(int), axis=-1)
        assert (np.diff(chosen, axis=-1) <= 0).all()
        assert (routing["margin"] < 0).any()
        assert not np.array_equal(model.read(IDS).tokens["logprob"], trace.tokens["logprob"])

    def test_two_taps(self) -> None:
        """The second sees what the first made of it."""
        model = zoo.model("small")
        seen = []
        with (
            model.tap("router", lambda e: e.change(weights=e.weights * 2), layers=[3]),
            model.tap("router", seen.append, layers=[3]),
        ):
            model.read(IDS)
        plain = bare_run(model.hf, IDS, spans(len(IDS), None)).gates[3][1]
        np.testing.assert_array_equal(seen[0].weights, plain * 2)

    def test_unchanged_event_passes_the_tensors_through(self) -> None:
        model = zoo.model("small")
        own, used = [], []
        block = model.hf.model.layers[3].mlp
        handles = [
            block.gate.register_forward_hook(lambda _m, _i, output: own.append(output)),
            block.experts.register_forward_pre_hook(lambda _m, inputs: used.append(inputs)),
        ]
        try:
            for tap in (lambda _: None, lambda e: e, lambda e: e.change()):
                with model.tap("router", tap):
                    model.read(IDS)
        finally:
            for handle in handles:
                handle.remove()
        assert len(own) == len(used) == 3
        for (_, weights, experts), (_, used_experts, used_weights) in zip(own, used, strict=True):
            assert used_weights is weights
            assert used_experts is experts

    def test_single_layer(self) -> None:
        model = zoo.model("small")
        seen = []
        with model.tap("router", seen.append, layers=3):
            model.read(IDS)
        assert [event.layer for event in seen] == [3]


class TestRefusals:
    @pytest.mark.parametrize("kind", ["attentions", "routers", None])
    def test_kind(self, kind) -> None:
        model = zoo.model("small")
        with (
            pytest.raises(InputError, match=r"knows the kinds 'router', 'attention', 'indexer'"),
            model.tap(kind, print),
        ):
            pass

    @pytest.mark.parametrize("layers", [[6], [-1], [2, 99], 6, ["2"]])
    def test_layer(self, layers) -> None:
        model = zoo.model("small")
        with (
            pytest.raises(InputError, match=r"the layers with one are 0, 1, 2, 3, 4, 5"),
            model.tap("router", print, layers=layers),
        ):
            pass

    @pytest.mark.parametrize(
        ("tap", "message"),
        [
            (lambda e: e.weights, r"returned Tensor\. Return None to look"),
            (lambda _: 0, r"returned int"),
            (lambda e: e.change(weights=e.weights[:, :2]), r"Keep the shape"),
            (lambda e: e.change(experts=e.experts[:3]), r"Keep the shape"),
            (lambda e: e.change(experts=e.experts + 16), r"lie in 0 … 15"),
            (lambda e: e.change(experts=e.experts * 0 - 1), r"weight of 0 switches an expert off"),
        ],
    )
    def test_return_value(self, tap, message) -> None:
        model = zoo.model("small")
        before = model.read(IDS)
        with pytest.raises(InputError, match=message), model.tap("router", tap):
            model.read(IDS)
        assert hook_count(model.hf) == 0
        assert model.read(IDS).routing.equals(before.routing)

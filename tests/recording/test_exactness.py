"""A trace holds what the routers did, to the bit; and recording changes nothing."""

import numpy as np
import pytest
import torch
import transformers

import v4kit
from tests import zoo
from tests.references import bare_run, compare_likelihood, compare_routing, spans

SHORT = "Once upon a time, a 🙂 sat by 春 and sang."


def long_ids(model: v4kit.Model) -> list[int]:
    """Ids of a document that is longer than the windows and than 256 tokens."""
    ids = model.tokenizer(zoo.TEXT * 8)["input_ids"]
    return [0, *ids[:289]]


class TestReading:
    """Whole and in chunks, against a bare run with the same chunks."""

    @pytest.mark.parametrize("chunk", [None, 256, 64])
    @pytest.mark.parametrize("name", zoo.ALL)
    def test_long_document(self, name, chunk) -> None:
        model = zoo.model(name)
        ids = long_ids(model)
        run = bare_run(model.hf, ids, spans(len(ids), chunk))
        trace = model.read(ids, prefill_chunk=chunk)
        compare_routing(trace, model.hf, run)
        assert trace.tokens["valid"].all()

    @pytest.mark.parametrize("chunk", [1, 7])
    @pytest.mark.parametrize("name", zoo.ALL)
    def test_small_chunks(self, name, chunk) -> None:
        model = zoo.model(name)
        ids = long_ids(model)[: 24 if chunk == 1 else 60]
        run = bare_run(model.hf, ids, spans(len(ids), chunk))
        trace = model.read(ids, prefill_chunk=chunk)
        compare_routing(trace, model.hf, run)
        compare_likelihood(trace.tokens, run.logits)

    def test_long_pass_followed_by_short_ones(self) -> None:
        """Passes of more than 1,024 tokens are reduced layer by layer, shorter ones together."""
        model = v4kit.wrap(zoo.fresh("mixtral", max_position_embeddings=1200), zoo.tokenizer())
        ids = np.random.default_rng(0).integers(7, 320, 1030)
        trace = model.generate(ids, max_new_tokens=4, prefill_chunk=None)
        passes = spans(len(trace) - 1, None, prompt=len(ids))
        compare_routing(trace, model.hf, bare_run(model.hf, trace.tokens["id"].tolist(), passes))


class TestGenerating:
    """Prompt in chunks and then token by token."""

    @pytest.mark.parametrize("chunk", [None, 7])
    @pytest.mark.parametrize("name", zoo.ALL)
    def test_rows(self, name, chunk) -> None:
        model = zoo.model(name)
        trace = model.generate(SHORT, max_new_tokens=9, prefill_chunk=chunk, temperature=1, seed=3)
        ids = trace.tokens["id"].tolist()
        prompt = int((trace.tokens["phase"] == "prompt").sum())
        assert ids[:prompt] == [0, *model.tokenizer(SHORT)["input_ids"]][-prompt:]
        assert len(ids) - prompt == 9 or trace.meta["stop_reason"] == "stop token"
        run = bare_run(model.hf, ids, spans(len(ids) - 1, chunk, prompt))
        compare_routing(trace, model.hf, run)
        compare_likelihood(trace.tokens, run.logits)

    @pytest.mark.parametrize("name", zoo.ALL)
    def test_last_sampled_row_is_empty(self, name) -> None:
        model = zoo.model(name)
        trace = model.generate(SHORT, max_new_tokens=2, record=v4kit.Record(routing="full"))
        last = trace.routing.isel(token=-1)
        assert trace.tokens["valid"].tolist() == [True] * (len(trace) - 1) + [False]
        assert trace.tokens["predicted"].iloc[-1] == -1
        assert trace.tokens["logprob"].notna().tolist() == [False] + [True] * (len(trace) - 1)
        for variable in ("experts", "runner_up", "bias_flips"):
            assert (last[variable] == -1).all(), variable
        for variable in ("weights", "scores", "margin", "router_scores"):
            assert last[variable].isnull().all(), variable

    @pytest.mark.parametrize("chunk", [None, 1, 7, 256])
    @pytest.mark.parametrize("name", zoo.ALL)
    def test_greedy_equals_transformers(self, name, chunk) -> None:
        model = zoo.model(name)
        prompts = {1: ["def fib(n):"], 256: [long_ids(model)]}.get(chunk, [SHORT, zoo.TEXT[:40]])
        new = 10 if chunk in {None, 7} else 5
        for prompt in prompts:
            trace = model.generate(prompt, max_new_tokens=new, prefill_chunk=chunk)
            ids = trace.tokens["id"].tolist()
            start = int((trace.tokens["phase"] == "prompt").sum())
            inputs = torch.tensor([ids[:start]])
            expected = model.hf.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=new,
                do_sample=False,
                prefill_chunk_size=chunk,
            )
            assert ids == expected[0].tolist()


class TestNothingChanges:
    """Logits are the same to the bit with recording, without it, and under a tap that looks."""

    @pytest.mark.parametrize("name", zoo.ALL)
    @pytest.mark.parametrize("chunk", [None, 7])
    def test_logits(self, name, chunk) -> None:
        model = zoo.model(name)
        ids = long_ids(model)[:28]
        bare = bare_run(model.hf, ids, spans(len(ids), chunk)).logits
        seen: list[torch.Tensor] = []

        def keep(_module, _inputs, output) -> None:
            seen.append(output.logits[0].clone())

        looked = []
        handle = model.hf.register_forward_hook(keep)
        try:
            for routing in ("ids", "scores", "full"):
                model.read(ids, prefill_chunk=chunk, record=v4kit.Record(routing=routing))
                with v4kit.record(model.hf, v4kit.Record(routing=routing)):
                    bare_run(model.hf, ids, spans(len(ids), chunk))
            with model.tap("router", looked.append):
                model.read(ids, prefill_chunk=chunk)
            with model.tap("router", lambda event: event.change()):
                model.read(ids, prefill_chunk=chunk)
        finally:
            handle.remove()
        logits = torch.cat(seen).numpy().reshape(-1, *bare.shape)
        assert len(logits) == 8
        assert len(looked) == len(model.routers) * len(spans(len(ids), chunk))
        for one in logits:
            np.testing.assert_array_equal(one, bare)

    @pytest.mark.parametrize("grad", [True, False])
    def test_grad_mode_and_training_mode(self, grad) -> None:
        model = zoo.model("small")
        with torch.set_grad_enabled(grad):
            model.generate("Hi", max_new_tokens=2)
            for _ in model.stream("Hi", max_new_tokens=3):
                assert torch.is_grad_enabled() is grad
                assert not torch.is_inference_mode_enabled()
            assert torch.is_grad_enabled() is grad
        assert not model.hf.training


class TestLevels:
    """`Record(routing=…)` keeps what it says."""

    @pytest.mark.parametrize("name", zoo.ALL)
    @pytest.mark.parametrize("routing", ["ids", "scores", "full"])
    def test_variables(self, name, routing) -> None:
        model = zoo.model(name)
        ids = long_ids(model)[:40]
        trace = model.read(ids, record=v4kit.Record(routing=routing))
        expected = {"experts", "weights"}
        if routing != "ids":
            expected |= {"scores", "margin", "runner_up", "bias_flips"}
        if routing == "full":
            expected |= {"router_scores"}
        if model.hf.config.model_type == "deepseek_v4":
            expected |= {"bias"}
        assert set(trace.routing.data_vars) == expected
        compare_routing(trace, model.hf, bare_run(model.hf, ids, spans(len(ids), None)))

    def test_bias(self) -> None:
        model = zoo.model("wide")
        bias = model.read("Hi").routing["bias"].to_numpy()
        for index, layer in enumerate(model.hf.model.layers):
            if hasattr(layer.mlp.gate, "tid2eid"):
                assert np.isnan(bias[index]).all()
            else:
                expected = layer.mlp.gate.e_score_correction_bias.numpy()
                np.testing.assert_array_equal(bias[index], expected)

    @pytest.mark.parametrize("routing", ["everything", None, 3])
    def test_unknown_level(self, routing) -> None:
        with pytest.raises(v4kit.errors.InputError, match=r"takes one of 'ids', 'scores', 'full'"):
            v4kit.Record(routing=routing)


class TestTies:
    """Equal scores: slots and the runner-up go by the lower id, whatever the router did."""

    @pytest.mark.parametrize("family", ["small", "mixtral"])
    def test_experts_in_pairs(self, family) -> None:
        hf = zoo.fresh(family)
        for layer in hf.model.layers:
            gate = layer.mlp.gate
            with torch.no_grad():
                gate.weight[1::2] = gate.weight[::2]
                if hasattr(gate, "e_score_correction_bias"):
                    gate.e_score_correction_bias[1::2] = gate.e_score_correction_bias[::2]
        model = v4kit.wrap(hf, zoo.tokenizer())
        ids = long_ids(model)[:60]
        run = bare_run(hf, ids, spans(len(ids), None))
        trace = model.read(ids)
        compare_routing(trace, hf, run)
        experts = trace.routing["experts"].isel(layer=-1).to_numpy()
        scores = trace.routing["scores"].isel(layer=-1).to_numpy()
        tied = scores[:, 0] == scores[:, 1]
        assert tied.sum() > 20
        assert (experts[tied, 0] < experts[tied, 1]).all()
        if family == "mixtral":
            assert (trace.routing["bias_flips"] == 0).all()

    def test_no_other_expert(self) -> None:
        """Where every expert is chosen there is no runner-up and no margin, and no flip."""
        model = v4kit.wrap(zoo.fresh("small", num_experts_per_tok=16), zoo.tokenizer())
        routing = model.read("Hi there").routing.sel(layer=[2, 3, 4, 5])
        assert (routing["runner_up"] == -1).all()
        assert routing["margin"].isnull().all()
        assert (routing["bias_flips"] == 0).all()
        assert (np.sort(routing["experts"], axis=-1) == np.arange(16)).all()


class TestMeta:
    """A trace says what it is a trace of."""

    def test_facts(self) -> None:
        model = zoo.model("wide")
        meta = model.generate("Hi", max_new_tokens=2, temperature=0.5, top_p=0.9, stop="zzz").meta
        assert meta["model"] == "DeepseekV4ForCausalLM"
        assert meta["engine"] == "transformers"
        assert meta["dtype"] == meta["router_dtype"] == "float32"
        assert meta["prefill_chunk"] == 256
        assert meta["stop_reason"] in {"length", "stop token"}
        assert meta["sampling"]["temperature"] == 0.5
        assert meta["sampling"]["top_p"] == 0.9
        assert meta["sampling"]["stop"] == ["zzz"]
        assert meta["versions"]["transformers"] == transformers.__version__
        architecture = meta["architecture"]
        assert architecture["n_experts"] == 40
        assert architecture["top_k"] == 5
        assert architecture["weight_sum"] == 2.5
        assert [layer["routing"] for layer in architecture["layers"]] == [
            "topk", "hash", "topk", "topk", "hash",
        ]  # fmt: skip
        assert [layer["attention"] for layer in architecture["layers"]] == [
            "hca", "csa", "sliding", "csa", "hca",
        ]  # fmt: skip

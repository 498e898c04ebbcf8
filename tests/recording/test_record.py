"""`record(hf_model)`: calls of transformers itself, recorded from outside."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.references import Run, Spy, compare_likelihood, compare_routing, hook_count, log_softmax
from v4kit.errors import InputError, UnsupportedModel

FAMILIES = ("small", "wide", *zoo.OTHERS)


def batch(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random ids `[row, token]`, special tokens left out."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(len(zoo.SPECIAL), 320, (rows, length), generator=generator)


def document(trace: v4kit.Trace, number: int) -> v4kit.Trace:
    """The rows of one document."""
    return trace[(trace.tokens["document"] == number).to_numpy()]


def compare(
    trace: v4kit.Trace, hf, runs: list[Run], ids: torch.Tensor | list[torch.Tensor]
) -> None:
    """Assert that every row of a batch is a document that holds what its own hooks saw."""
    assert trace.tokens["document"].nunique() == len(runs)
    for number, run in enumerate(runs):
        part = document(trace, number)
        length = len(next(iter(run.gates.values()))[0])
        assert part.tokens["id"].tolist() == ids[number].flatten()[:length].tolist()
        assert part.tokens["position"].tolist() == list(range(length))
        compare_routing(part, hf, run)


@pytest.mark.parametrize("name", FAMILIES)
class TestCalls:
    def test_batch_of_equal_lengths(self, name) -> None:
        hf, ids = zoo.random_model(name).hf, batch(3, 40)
        with Spy(hf) as spy, v4kit.record(hf) as recording, torch.no_grad():
            hf(ids)
        trace = recording.trace
        compare(trace, hf, spy.runs(), ids)
        for number, run in enumerate(spy.runs()):
            compare_likelihood(document(trace, number).tokens, run.logits)
        assert (trace.tokens["phase"] == "prompt").all()
        assert trace.tokens["valid"].all()

    @pytest.mark.parametrize(
        "options",
        [
            {"do_sample": False},
            {"do_sample": False, "prefill_chunk_size": 5},
            {"do_sample": True, "temperature": 1.0},
            {"do_sample": True, "num_return_sequences": 3, "prefill_chunk_size": 7},
        ],
        ids=["greedy", "chunked", "sampled", "several"],
    )
    def test_generate(self, name, options) -> None:
        hf, ids = zoo.random_model(name).hf, batch(2, 17)
        options |= {"max_new_tokens": 8, "attention_mask": torch.ones_like(ids), "eos_token_id": -1}
        torch.manual_seed(0)
        plain = hf.generate(ids, **options)
        torch.manual_seed(0)
        with Spy(hf) as spy, v4kit.record(hf) as recording:
            recorded = hf.generate(ids, **options, return_dict_in_generate=True, output_logits=True)
        assert recorded.sequences.tolist() == plain.tolist()
        trace = recording.trace
        compare(trace, hf, spy.runs(), plain)
        logits = torch.stack(recorded.logits, dim=1).numpy()
        for number in range(len(plain)):
            tokens = document(trace, number).tokens
            assert tokens["phase"].tolist() == ["prompt"] * 17 + ["generated"] * 7
            for step in range(7):
                logp = log_softmax(logits[number, step].astype(np.float64).tolist())
                expected = logp[int(plain[number, 17 + step])]
                np.testing.assert_allclose(tokens["logprob"].iloc[17 + step], expected, atol=2e-5)

    def test_right_padding(self, name) -> None:
        hf, ids = zoo.random_model(name).hf, batch(2, 20)
        mask = torch.ones_like(ids)
        mask[1, 13:] = 0
        with Spy(hf) as spy, v4kit.record(hf) as recording, torch.no_grad():
            out = hf(ids, attention_mask=mask)
        trace = recording.trace
        whole, cut = spy.runs()
        cut = Run(cut.logits[:13], {i: tuple(p[:13] for p in g) for i, g in cut.gates.items()})
        compare(trace, hf, [whole, cut], ids)
        compare_likelihood(document(trace, 0).tokens, whole.logits)
        compare_likelihood(document(trace, 1).tokens, cut.logits)
        longer = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], dim=1)
        for options in ({"attention_mask": longer}, {}):
            with v4kit.record(hf) as recording, torch.no_grad():
                cache = hf(ids, attention_mask=mask).past_key_values
                with pytest.raises(InputError, match=r"left padding|padded, cut or rearranged"):
                    hf(ids[:, :1], past_key_values=cache, **options)
            assert len(recording.trace) == 33
        assert out.logits.shape[1] == 20

    def test_two_calls(self, name) -> None:
        hf = zoo.random_model(name).hf
        first, second = batch(1, 12), batch(1, 15, seed=1)
        with torch.no_grad():
            with v4kit.record(hf) as recording:
                hf(first)
                hf(second)
            with Spy(hf) as one:
                hf(first)
            with Spy(hf) as two:
                hf(second)
        trace = recording.trace
        compare_routing(document(trace, 0), hf, one.runs()[0])
        compare_routing(document(trace, 1), hf, two.runs()[0])
        assert trace.tokens["position"].tolist() == [*range(12), *range(15)]
        compare_likelihood(document(trace, 1).tokens, two.runs()[0].logits)

    def test_cache_of_the_block(self, name) -> None:
        hf, ids = zoo.random_model(name).hf, batch(2, 30)
        with Spy(hf) as spy, v4kit.record(hf) as recording, torch.no_grad():
            cache = hf(ids[:, :20]).past_key_values
            hf(ids[:, 20:29], past_key_values=cache)
            hf(ids[:, 29:], past_key_values=cache)
        trace = recording.trace
        compare(trace, hf, spy.runs(), ids)
        for number, run in enumerate(spy.runs()):
            tokens = document(trace, number).tokens
            compare_likelihood(tokens, run.logits)
            assert tokens["phase"].tolist() == ["prompt"] * 29 + ["generated"]

    def test_cache_from_before_the_block(self, name) -> None:
        hf, ids = zoo.random_model(name).hf, batch(1, 25)
        with torch.no_grad():
            cache = hf(ids[:, :20]).past_key_values
            with Spy(hf) as spy, v4kit.record(hf) as recording:
                for position in range(20, 25):
                    hf(ids[:, position : position + 1], past_key_values=cache)
        trace = recording.trace
        assert trace.tokens["position"].tolist() == [20, 21, 22, 23, 24]
        assert (trace.tokens["phase"] == "generated").all()
        compare_routing(trace, hf, spy.runs()[0])
        compare_likelihood(trace.tokens, spy.runs()[0].logits)


class TestRefusals:
    """What can't be recorded truly is refused, and leaves the model usable."""

    @pytest.mark.parametrize("pads", [1, 5])
    def test_left_padding(self, pads) -> None:
        hf, ids = zoo.random_model("small").hf, batch(2, 12)
        mask = torch.ones_like(ids)
        mask[0, :pads] = 0
        with v4kit.record(hf) as recording, torch.no_grad():
            with pytest.raises(InputError, match="left padding"):
                hf(ids, attention_mask=mask)
            with pytest.raises(InputError, match="left padding"):
                hf.generate(ids, attention_mask=mask, max_new_tokens=2)
            hf(ids)
        assert len(recording.trace) == 24
        assert hook_count(hf) == 0

    def test_inputs_embeds(self) -> None:
        hf = zoo.random_model("mixtral").hf
        embeds = hf.get_input_embeddings()(batch(1, 9))
        with v4kit.record(hf), pytest.raises(InputError, match="inputs_embeds"):
            hf(inputs_embeds=embeds)
        hf(inputs_embeds=embeds)

    @pytest.mark.parametrize("name", ["small", "mixtral"])
    def test_beam_search(self, name) -> None:
        hf, ids = zoo.random_model(name).hf, batch(1, 9)
        options = {"max_new_tokens": 4, "num_beams": 3, "attention_mask": torch.ones_like(ids)}
        with v4kit.record(hf), pytest.raises(InputError, match="beam search"):
            hf.generate(ids, **options)
        assert hook_count(hf) == 0

    def test_beam_search_after_the_block(self) -> None:
        """A cache that was once recorded may be rearranged later."""
        hf, ids = zoo.random_model("mixtral").hf, batch(2, 9)
        with v4kit.record(hf), torch.no_grad():
            cache = hf(ids).past_key_values
            with pytest.raises(InputError, match="beam search"):
                cache.reorder_cache(torch.tensor([1, 0]))
        cache.reorder_cache(torch.tensor([1, 0]))

    def test_rearranged_cache(self) -> None:
        hf, ids = zoo.random_model("mixtral").hf, batch(2, 9)
        with v4kit.record(hf), torch.no_grad():
            cache = hf(ids).past_key_values
            cache.crop(-4)
            with pytest.raises(InputError, match="padded, cut or rearranged"):
                hf(ids[:, :1], past_key_values=cache)
            cache = hf(ids).past_key_values
            cache.batch_repeat_interleave(2)
            with pytest.raises(InputError, match="padded, cut or rearranged"):
                hf(ids[:, :1].repeat_interleave(2, 0), past_key_values=cache)

    def test_dense_model(self) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1,
        )  # fmt: skip
        with (
            pytest.raises(
                UnsupportedModel, match=r"'llama'.*deepseek_v4, .*gpt_oss, .*mixtral, olmoe"
            ),
            v4kit.record(LlamaForCausalLM(config)),
        ):
            pass


class TestTheModelIsLeftAlone:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_native_to_the_bit(self, name) -> None:
        hf, ids = zoo.random_model(name).hf, batch(2, 30)
        with torch.no_grad():
            before = hf(ids).logits
            with v4kit.record(hf):
                during = hf(ids).logits
            after = hf(ids).logits
        assert torch.equal(before, during)
        assert torch.equal(before, after)
        assert hook_count(hf) == 0
        assert not any("forward" in vars(module) for module in hf.modules())

    @pytest.mark.parametrize("routing", ["ids", "full"])
    def test_gradients(self, routing) -> None:
        """A recorded training step has the same gradients, and its record holds no graph."""
        hf, ids = zoo.fresh("small"), batch(2, 20)
        hf(ids, labels=ids).loss.backward()
        expected = {name: p.grad.clone() for name, p in hf.named_parameters() if p.grad is not None}
        hf.zero_grad()
        with v4kit.record(hf, v4kit.Record(routing=routing)) as recording:
            hf(ids, labels=ids).loss.backward()
        assert expected
        for name, parameter in hf.named_parameters():
            if name in expected:
                assert torch.equal(parameter.grad, expected[name]), name
        assert len(recording.trace) == 40

    @pytest.mark.parametrize("length", [10, 100])
    def test_modes_may_change_between_calls(self, length) -> None:
        hf, ids = zoo.random_model("small").hf, batch(1, length)
        with v4kit.record(hf) as recording:
            with torch.inference_mode():
                hf(ids)
            with torch.no_grad():
                hf(ids)
            hf(ids)
        experts = recording.trace.routing["experts"].to_numpy().reshape(3, length, 6, 3)
        assert (experts == experts[0]).all()

    def test_short_and_long_calls(self) -> None:
        """Rows keep their order, however a call's length changes the way it is stored."""
        hf = zoo.fresh("mixtral", max_position_embeddings=1200)
        calls = [batch(1, length, seed=length) for length in (10, 1030, 5, 90, 3)]
        expected = []
        with torch.no_grad():
            for ids in calls:
                with Spy(hf) as spy:
                    hf(ids)
                expected += spy.runs()
        with v4kit.record(hf) as recording:
            for ids in calls:
                hf(ids)
        compare(recording.trace, hf, expected, calls)

    def test_plain_tuples(self) -> None:
        hf, ids = zoo.random_model("small").hf, batch(1, 10)
        with v4kit.record(hf) as recording, torch.no_grad():
            hf(ids, return_dict=False)
        assert len(recording.trace) == 10

    def test_caches_are_not_kept(self) -> None:
        """Many calls under one record do not pile up their caches."""
        hf, ids = zoo.random_model("small").hf, batch(1, 10)
        with v4kit.record(hf) as recording, torch.no_grad():
            gone = weakref.ref(hf(ids).past_key_values)
            gc.collect()
            assert gone() is None
            hf(ids)
        assert recording.trace.tokens["document"].nunique() == 2

    def test_deep_copy_is_free(self) -> None:
        """Under a block, a copy carries hooks along; after it, none."""
        hf = zoo.random_model("small").hf
        with v4kit.record(hf):
            pass
        assert hook_count(copy.deepcopy(hf)) == 0


class TestWhatItSays:
    def test_text_needs_a_tokenizer(self) -> None:
        model = zoo.random_model("small")
        ids = torch.tensor([[0, *model.tokenizer("A 🙂 day")["input_ids"]]])
        with v4kit.record(model.hf) as bare, torch.no_grad():
            model.hf(ids)
        with v4kit.record(model.hf, tokenizer=model.tokenizer) as told, torch.no_grad():
            model.hf(ids)
        assert bare.trace.text == ""
        assert told.trace.text == zoo.SPECIAL[0] + "A 🙂 day"
        assert told.trace.tokens["special"].tolist() == [True] + [False] * (ids.shape[1] - 1)

    def test_nothing_yet(self) -> None:
        with v4kit.record(zoo.random_model("small").hf) as recording:
            pass
        assert len(recording.trace) == 0

    def test_router_dtype(self) -> None:
        """The trace tells how gates ran, also if the kit changed them earlier."""
        hf, ids = zoo.fresh("small", dtype=torch.bfloat16), batch(1, 10)
        with v4kit.record(hf) as native, torch.no_grad():
            hf(ids)
        v4kit.wrap(hf, zoo.tokenizer(), router_dtype="float32")
        with v4kit.record(hf) as raised, torch.no_grad():
            hf(ids)
        assert native.trace.meta["router_dtype"] == "bfloat16"
        assert raised.trace.meta["router_dtype"] == "float32"
        assert v4kit.wrap(hf, zoo.tokenizer()).meta["router_dtype"] == "float32"

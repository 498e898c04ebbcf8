"""Families and architectures are data: a row of a table makes a model readable."""

import dataclasses

import pytest
from transformers import MixtralConfig, MixtralForCausalLM

import v4kit
from tests import zoo
from tests.references import bare_run, compare_routing, spans
from v4kit.arch import FAMILIES, Family, describe
from v4kit.errors import UnsupportedModel


class TestDescriptions:
    @pytest.mark.parametrize("name", zoo.ALL)
    def test_agrees_with_the_config(self, name) -> None:
        model = zoo.model(name)
        config, architecture = model.hf.config, model.architecture
        assert architecture.family == config.model_type
        assert architecture.n_layers == len(model.hf.model.layers)
        assert architecture.top_k == config.num_experts_per_tok
        assert architecture.vocabulary == config.vocab_size
        assert architecture.context == config.max_position_embeddings
        for layer in architecture.layers:
            gate = model.hf.model.layers[layer.index].mlp.gate
            assert architecture.n_experts == gate.weight.shape[0]
            assert (layer.routing == "hash") is hasattr(gate, "tid2eid")
            assert (layer.index in architecture.hash_layers) is hasattr(gate, "tid2eid")
            assert model.routers[layer.index] is gate
        assert architecture.routed == tuple(range(architecture.n_layers))

    def test_attention_kinds(self) -> None:
        kinds = [layer.attention for layer in describe(zoo.v4_config("small")).layers]
        assert kinds == ["sliding", "sliding", "csa", "hca", "csa", "hca"]
        assert {layer.attention for layer in zoo.model("mixtral").architecture.layers} == {"full"}

    def test_weight_sums(self) -> None:
        sums = {name: zoo.model(name).architecture.weight_sum for name in zoo.ALL}
        assert sums == {"small": 1.5, "wide": 2.5, "tiny": 1.5, "mixtral": 1.0, "olmoe": None}

    def test_shared_experts(self) -> None:
        assert zoo.model("small").architecture.n_shared == 1
        assert zoo.model("mixtral").architecture.n_shared == 0

    def test_records_are_frozen(self) -> None:
        architecture = zoo.model("small").architecture
        with pytest.raises(dataclasses.FrozenInstanceError):
            architecture.family = "other"
        with pytest.raises(dataclasses.FrozenInstanceError):
            architecture.layers[0].index = 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            FAMILIES["mixtral"].router = "mlp.switch"


class FakeConfig(MixtralConfig):
    """A family that the table lacks, built like Mixtral."""

    model_type = "fake_moe"


def fake_model() -> MixtralForCausalLM:
    """Mixtral under another name, its gates at another place."""
    hf = zoo.fresh("mixtral")
    fields = hf.config.to_dict()
    del fields["model_type"]
    hf.config = FakeConfig(**fields)
    return hf


class TestTheTable:
    def test_unknown_family(self) -> None:
        with pytest.raises(
            UnsupportedModel, match=r"'fake_moe'.*deepseek_v4, gpt_oss, mixtral, olmoe"
        ):
            v4kit.wrap(fake_model(), zoo.tokenizer())

    def test_one_row_makes_a_family(self, monkeypatch) -> None:
        row = Family(
            "fake_moe",
            router="mlp.gate",
            scoring="softmax",
            bias=None,
            experts="num_local_experts",
            weight_sum=1.0,
        )
        monkeypatch.setitem(FAMILIES, "fake_moe", row)
        hf = fake_model()
        model = v4kit.wrap(hf, zoo.tokenizer())
        assert v4kit.validate(model).ok.all()
        ids = [0, *range(30, 60)]
        trace = model.read(ids, prefill_chunk=7, record=v4kit.Record(routing="full"))
        compare_routing(trace, hf, bare_run(hf, ids, spans(len(ids), 7)))
        assert trace.meta["architecture"]["family"] == "fake_moe"

    def test_row_with_a_wrong_place(self, monkeypatch) -> None:
        row = dataclasses.replace(FAMILIES["mixtral"], router="mlp.switch")
        monkeypatch.setitem(FAMILIES, "mixtral", row)
        with pytest.raises(UnsupportedModel, match=r"Layer 0 .* has no router at mlp\.switch"):
            v4kit.wrap(zoo.fresh("mixtral"), zoo.tokenizer())

    @pytest.mark.parametrize("wrong", [{"bias": None}, {"scoring": "softmax"}], ids=str)
    def test_row_with_a_wrong_rule(self, monkeypatch, wrong) -> None:
        """`validate` sees that the rule does not give the experts that were used."""
        row = dataclasses.replace(FAMILIES["deepseek_v4"], **wrong)
        monkeypatch.setitem(FAMILIES, "deepseek_v4", row)
        table = v4kit.validate(v4kit.wrap(zoo.fresh("small"), zoo.tokenizer()))
        assert not table.set_index("layer").experts[[2, 3, 4, 5]].any()

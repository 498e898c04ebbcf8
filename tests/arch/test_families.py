"""Families and architectures are data: a row of a table makes a model readable."""

import dataclasses

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import v4kit
from tests import zoo
from tests.references import bare_run, compare_routing, decoder_layers, gate_of, spans
from v4kit.arch import FAMILIES, Family, describe
from v4kit.errors import UnsupportedModel


class TestDescriptions:
    @pytest.mark.parametrize("name", [*zoo.ALL, *zoo.EVERY])
    def test_agrees_with_the_model(self, name) -> None:
        model = zoo.model(name)
        config, architecture = model.hf.config, model.architecture
        text, layers = config.get_text_config(), decoder_layers(model.hf)
        assert architecture.family == config.model_type
        assert architecture.n_layers == len(layers)
        assert architecture.top_k == text.num_experts_per_tok
        assert architecture.vocabulary == text.vocab_size
        assert architecture.context == text.max_position_embeddings
        gates = {i: gate_of(layer) for i, layer in enumerate(layers)}
        assert architecture.routed == tuple(i for i, gate in gates.items() if gate is not None)
        assert architecture.hash_layers == tuple(
            i for i, gate in gates.items() if hasattr(gate, "tid2eid")
        )
        for index, router in model.routers.items():
            assert router is gates[index]
            assert router.weight.shape[0] == architecture.n_experts

    def test_dense_layers(self) -> None:
        kinds = {
            name: [layer.routing for layer in zoo.model(name).architecture.layers]
            for name in ("deepseek_v3", "glm_moe_dsa", "qwen3_moe")
        }
        assert kinds == {
            "deepseek_v3": ["dense", "topk", "topk", "topk"],
            "glm_moe_dsa": ["dense", "topk", "topk", "topk"],
            "qwen3_moe": ["topk", "dense", "topk", "topk"],
        }

    def test_layers_by_a_step(self) -> None:
        config = Qwen3MoeConfig(num_hidden_layers=5, decoder_sparse_step=2, mlp_only_layers=[3])
        with torch.device("meta"):
            layers = Qwen3MoeForCausalLM(config).model.layers
        routed = tuple(i for i, layer in enumerate(layers) if gate_of(layer) is not None)
        assert describe(config).routed == routed == (1,)

    def test_groups(self) -> None:
        grouped, whole = zoo.model("deepseek_v3").architecture, zoo.model("kimi_k25").architecture
        assert (grouped.n_groups, grouped.top_groups) == (4, 2)
        assert (whole.n_groups, whole.top_groups) == (1, 1)

    def test_attention_kinds(self) -> None:
        kinds = [layer.attention for layer in describe(zoo.v4_config("small")).layers]
        assert kinds == ["sliding", "sliding", "csa", "hca", "csa", "hca"]
        assert {layer.attention for layer in zoo.model("mixtral").architecture.layers} == {"full"}
        indexed = zoo.model("deepseek_v32").architecture.layers
        assert {(layer.attention, layer.chosen) for layer in indexed} == {("dsa", 6)}

    def test_weight_sums(self) -> None:
        sums = {name: zoo.model(name).architecture.weight_sum for name in (*zoo.ALL, *zoo.EVERY)}
        assert sums == {
            "small": 1.5,
            "wide": 2.5,
            "tiny": 1.5,
            "flash": 1.5,
            "pro": 2.5,
            **dict.fromkeys(("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "kimi_k25"), 2.5),
            "minimax_m2": 1.0,
            "mixtral": 1.0,
            "qwen3_moe": 1.0,
            "gpt_oss": 1.0,
            "olmoe": None,
        }

    def test_weights_that_are_scaled_but_not_normalized(self) -> None:
        hf = zoo.fresh("deepseek_v3", norm_topk_prob=False)
        model = v4kit.wrap(hf, zoo.tokenizer())
        assert (model.architecture.weight_sum, model.architecture.scale) == (None, 2.5)
        assert v4kit.validate(model).ok.all()

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
            UnsupportedModel, match=r"'fake_moe'.*deepseek_v4, .*gpt_oss, .*mixtral, olmoe"
        ):
            v4kit.wrap(fake_model(), zoo.tokenizer())

    def test_one_row_makes_a_family(self, monkeypatch) -> None:
        row = Family(
            "fake_moe",
            router="mlp.gate",
            scoring="softmax",
            bias=None,
            experts="num_local_experts",
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

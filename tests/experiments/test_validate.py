"""`validate` finds sound models sound, and planted faults where they were planted."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.families_page import PAGE, page
from tests.references import hook_count
from v4kit.errors import UnsupportedModel
from v4kit.recording import RoutingRecorder

FACTS = ["fires", "shapes", "ids", "experts", "weights", "matters"]


@pytest.mark.parametrize("name", zoo.ALL)
def test_sound_models(name) -> None:
    model = zoo.model(name)
    before = model.read("Hello there")
    table = v4kit.validate(model)
    assert table.layer.tolist() == list(range(model.architecture.n_layers))
    assert table[FACTS].all(axis=None)
    assert table.ok.all()
    assert hook_count(model.hf) == 0
    assert model.read("Hello there").routing.equals(before.routing)


@pytest.mark.parametrize("name", zoo.EVERY)
def test_every_family(name) -> None:
    """Nothing is false, and a fact is missing only where a dense layer has no router."""
    model = zoo.eager(name)
    table = v4kit.validate(model).set_index("layer")
    assert table.ok.all()
    everywhere = ["found", "unchanged", "visible", "sums"]
    assert table[everywhere].notna().all(axis=None)
    routed = table.routing != "dense"
    assert table.index[routed].tolist() == list(model.routers)
    assert table.loc[routed, [*FACTS, "recorded"]].notna().all(axis=None)
    assert table.loc[~routed, [*FACTS, "recorded"]].isna().all(axis=None)


def test_without_attention_weights() -> None:
    hf = zoo.fresh("mixtral", attn_implementation="sdpa")
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer()))
    assert table.ok.all()
    assert table[["visible", "sums"]].isna().all(axis=None)


@pytest.mark.parametrize("name", ["small", "mixtral", "olmoe", "deepseek_v3", "minimax_m2"])
@pytest.mark.parametrize("router_dtype", ["native", "float32"])
def test_bfloat16(name, router_dtype) -> None:
    hf = zoo.fresh(name, dtype=torch.bfloat16)
    model = v4kit.wrap(hf, zoo.tokenizer(), router_dtype=router_dtype)
    assert v4kit.validate(model).ok.all()


def plant(hf, layer: int, change: Callable) -> None:
    """Let one layer's router return something else."""
    gate = hf.model.layers[layer].mlp.gate
    own = gate.forward
    gate.forward = lambda *inputs: change(*own(*inputs))


def leak(weights: torch.Tensor) -> torch.Tensor:
    """Attention weights of which the first token gives some to the last."""
    changed = weights.clone()
    changed[..., 0, 0] -= 0.25
    changed[..., 0, -1] += 0.25
    return changed


FAULTS = {
    "other experts": (lambda x, w, e: (x, w, (e + 1) % 16), "experts"),
    "experts of the unbiased scores": (lambda x, w, _: (x, w, x.topk(3).indices), "experts"),
    "an expert twice": (lambda x, w, e: (x, w, e[:, [0, 0, 2]]), "ids"),
    "weights in another order": (lambda x, w, e: (x, w.flip(-1), e), "weights"),
    "weights doubled": (lambda x, w, e: (x, w * 2, e), "weights"),
    "weights that do not add up": (lambda x, w, e: (x, w * 1.2, e), "weights"),
    "weights without the scaling factor": (lambda x, w, e: (x, w / 1.5, e), "weights"),
    "a missing weight": (lambda x, w, e: (x, w[:, :2], e), "shapes"),
    "a missing expert": (lambda x, w, e: (x, w, e[:, :2]), "shapes"),
    "a missing score": (lambda x, w, e: (x[:, :15], w, e), "shapes"),
}


@pytest.mark.parametrize("layer", [2, 4])
@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_router(fault, layer) -> None:
    change, fact = FAULTS[fault]
    hf = zoo.fresh("small")
    plant(hf, layer, change)
    if fact == "shapes":
        hf.model.layers[layer].mlp.experts.forward = lambda flat, _e, _w: torch.zeros_like(flat)
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer())).set_index("layer")
    assert not table[fact][layer]
    assert not table.ok[layer]
    assert table.ok.drop(layer).all()


def test_hash_layer_that_does_not_follow_its_table() -> None:
    hf = zoo.fresh("small")
    plant(hf, 1, lambda x, w, e: (x, w, e.flip(0)))
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer())).set_index("layer")
    assert table.ok.tolist() == [True, False, True, True, True, True]
    assert not table.experts[1]


def test_bypassed_router() -> None:
    """A layer that gets its experts past the router: nothing is seen there, and nothing matters."""
    hf = zoo.fresh("small")
    block = hf.model.layers[3].mlp

    def forward(hidden, input_ids=None):
        flat = hidden.view(-1, hidden.shape[-1])
        _, weights, experts = type(block.gate).forward(block.gate, hidden)
        return block.experts(flat, experts, weights).view_as(hidden) + block.shared_experts(hidden)

    block.forward = forward
    model = v4kit.wrap(hf, zoo.tokenizer())
    table = v4kit.validate(model).set_index("layer")
    assert not table.loc[3, FACTS].any()
    assert table.ok.drop(3).all()
    with pytest.raises(UnsupportedModel, match="router of layer 3 was not called"):
        model.read("Hello there")


def test_ignored_router() -> None:
    """A router that runs while its layer uses other weights does not matter to the logits."""
    hf = zoo.fresh("small")
    experts = hf.model.layers[3].mlp.experts
    own = experts.forward
    experts.forward = lambda flat, ids, weights: own(flat, ids, torch.ones_like(weights) / 2)
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer())).set_index("layer")
    assert table.fires.all()
    assert not table.matters[3]
    assert table.ok.drop(3).all()


def test_expert_that_is_not_there() -> None:
    hf = zoo.fresh("small")
    plant(hf, 3, lambda x, w, e: (x, w, torch.where(e == e.max(), 16, e)))
    hf.model.layers[3].mlp.experts.forward = lambda flat, _e, _w: torch.zeros_like(flat)
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer())).set_index("layer")
    assert table.shapes.all()
    assert not table.ids[3]


@pytest.mark.parametrize("fault", ["groups", "unbiased"])
def test_choice_among_groups(fault) -> None:
    """The rule is checked with its groups: a router that forgets them, or the bias, is found."""
    hf = zoo.fresh("deepseek_v3")
    gate = hf.model.layers[2].mlp.gate
    if fault == "groups":
        gate.num_group = gate.topk_group = 1
    else:
        plant(hf, 2, lambda x, w, _: (x, w, x.topk(3).indices))
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer())).set_index("layer")
    assert not table.experts[2]
    assert table.ok.drop(2).all()


def test_layer_that_the_config_calls_dense() -> None:
    hf = zoo.fresh("qwen3_moe")
    hf.config.mlp_only_layers = [1, 2]
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer())).set_index("layer")
    assert table.routing.tolist() == ["topk", "dense", "dense", "topk"]
    assert table.found.tolist() == [True, True, False, True]
    assert table.ok.tolist() == [True, True, False, True]


def test_second_router_in_a_layer() -> None:
    """A router that the table does not name, and that nothing would record."""
    hf = zoo.fresh("mixtral")
    block = hf.model.layers[1].mlp
    block.other = type(block.gate)(hf.config)
    own = block.forward
    block.forward = lambda hidden: (block.other(hidden), own(hidden))[1]
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer()))
    assert table.found.tolist() == table.ok.tolist() == [True, False, True]


def test_recording_that_changes_the_model(monkeypatch) -> None:
    def hook(self, layer):
        def halve(_module, _inputs, output):
            self._pending[layer] = output
            return output[0], output[1] / 2, output[2]

        return halve

    monkeypatch.setattr(RoutingRecorder, "_hook", hook)
    table = v4kit.validate(v4kit.wrap(zoo.fresh("mixtral"), zoo.tokenizer()))
    assert not table.unchanged.any()
    assert not table.ok.any()


def test_recording_that_keeps_something_else(monkeypatch) -> None:
    arrays = RoutingRecorder.arrays

    def shifted(self, length, **options):
        found = arrays(self, length, **options)
        found["experts"][:, 1] = np.roll(found["experts"][:, 1], 1, axis=0)
        return found

    monkeypatch.setattr(RoutingRecorder, "arrays", shifted)
    table = v4kit.validate(v4kit.wrap(zoo.fresh("mixtral"), zoo.tokenizer()))
    assert table.recorded.tolist() == table.ok.tolist() == [True, False, True]
    assert table.unchanged.all()


@pytest.mark.parametrize("chosen", [4, 9])
def test_indexer_that_chooses_another_number_of_tokens(chosen) -> None:
    hf = zoo.fresh("deepseek_v32", attn_implementation="eager")
    hf.model.layers[2].self_attn.indexer.index_topk = chosen
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer())).set_index("layer")
    assert table.visible.tolist() == [True, True, False, True]


@pytest.mark.parametrize(("change", "fact"), [(lambda w: w * 1.1, "sums"), (leak, "visible")])
def test_attention_that_is_not_what_it_should_be(change, fact) -> None:
    """Mass that does not add up, and mass on a token of the future."""
    hf = zoo.fresh("minimax_m2", attn_implementation="eager")
    attention = hf.model.layers[1].self_attn
    own = attention.forward

    def forward(*inputs, **options):
        out, weights = own(*inputs, **options)
        return out, change(weights)

    attention.forward = forward
    table = v4kit.validate(v4kit.wrap(hf, zoo.tokenizer())).set_index("layer")
    assert not table[fact][1]
    assert table.ok.tolist() == [True, False, True]


def test_the_page_says_what_the_experiments_give() -> None:
    assert PAGE.read_text("utf-8") == page(), "Run: python -m tests.families_page"

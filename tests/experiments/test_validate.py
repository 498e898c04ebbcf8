"""`validate` finds sound models sound, and planted faults where they were planted."""

from collections.abc import Callable

import pytest
import torch

import v4kit
from tests import zoo
from tests.references import hook_count
from v4kit.errors import UnsupportedModel

FACTS = ["fires", "shapes", "experts", "weights", "matters"]


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


@pytest.mark.parametrize("name", ["small", "mixtral", "olmoe"])
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


FAULTS = {
    "other experts": (lambda x, w, e: (x, w, (e + 1) % 16), "experts"),
    "experts of the unbiased scores": (lambda x, w, _: (x, w, x.topk(3).indices), "experts"),
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

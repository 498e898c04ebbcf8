"""What `record` would record wrongly is refused, with the reason."""

import pytest
import torch

import v4kit
from tests import zoo
from v4kit.errors import InputError, UnsupportedModel

IDS = torch.arange(20, 50)[None]


@pytest.mark.parametrize(
    "positions",
    [torch.arange(30)[None] + 7, torch.cat([torch.arange(15), torch.arange(15)])[None]],
    ids=["shifted", "packed"],
)
def test_other_positions(positions) -> None:
    hf = zoo.random_model("small").hf
    with v4kit.record(hf), pytest.raises(InputError, match="position_ids other than 0 … 29"):
        hf(IDS, position_ids=positions)


def test_masks_of_four_axes() -> None:
    """What they hide is not known; routing does not depend on it."""
    hf = zoo.fresh("mixtral", attn_implementation="eager")
    mask = torch.zeros(1, 1, 30, 30)
    with v4kit.record(hf) as recording:
        hf(IDS, attention_mask=mask)
    assert "(1, 1, 30, 30)" in recording.trace.meta["attention"]["why"]
    assert (recording.trace.routing["experts"] >= 0).all()
    with (
        v4kit.record(hf, v4kit.Record(attention="full")),
        pytest.raises(InputError, match=r"mask of shape \(1, 1, 30, 30\)"),
    ):
        hf(IDS, attention_mask=mask)


def test_own_positions_that_are_those_that_come_next() -> None:
    hf = zoo.random_model("small").hf
    with v4kit.record(hf) as recording:
        cache = hf(IDS, position_ids=torch.arange(30)[None], use_cache=True).past_key_values
        hf(IDS[:, :3], position_ids=torch.arange(30, 33)[None], past_key_values=cache)
    assert recording.trace.tokens["position"].tolist() == list(range(33))


def test_what_is_no_transformers_model() -> None:
    with pytest.raises(InputError, match=r"Pass model\.hf"), v4kit.record(zoo.model("small")):
        pass


def test_a_static_cache() -> None:
    """Its columns are padded: attention is left out and the trace says why, unless asked for."""
    hf = zoo.fresh("mixtral", attn_implementation="eager")
    options = {"max_new_tokens": 3, "cache_implementation": "static", "do_sample": False}
    with v4kit.record(hf) as recording:
        hf.generate(IDS, attention_mask=torch.ones_like(IDS), **options)
    trace = recording.trace
    assert trace.stored_attention is None
    assert "static" in trace.meta["attention"]["why"]
    assert (trace.routing["experts"] >= 0).all()
    with (
        v4kit.record(hf, v4kit.Record(attention=4)),
        pytest.raises(InputError, match="Record\\(attention=None\\)"),
    ):
        hf.generate(IDS, attention_mask=torch.ones_like(IDS), **options)


def test_a_router_that_is_passed_by() -> None:
    """As kernels for quantized experts do, which multiply with its weight themselves."""
    hf = zoo.fresh("mixtral")
    block = hf.model.layers[1].mlp
    gate = block.gate
    own = block.forward

    def forward(hidden):
        hooks, gate._forward_hooks = gate._forward_hooks, {}
        try:
            return own(hidden)
        finally:
            gate._forward_hooks = hooks

    block.forward = forward
    with (
        v4kit.record(hf),
        pytest.raises(UnsupportedModel, match="router of layer 1 was not called"),
    ):
        hf(IDS)


def test_dropout_in_training_mode() -> None:
    hf = zoo.fresh("small", attention_dropout=0.5).train()
    with pytest.raises(InputError, match="dropout"), v4kit.record(hf, v4kit.Record(attention=4)):
        pass
    with v4kit.record(hf) as recording:
        hf(IDS)
    assert "dropout" in recording.trace.meta["attention"]["why"]


def test_nothing_recorded_yet() -> None:
    hf = zoo.random_model("small").hf
    with v4kit.record(hf, v4kit.Record(pooling=True)) as recording:
        pass
    assert len(recording.trace) == 0
    assert recording.trace.attention.sizes["token"] == 0


def test_length_is_bounded_by_the_context() -> None:
    """A recording can't be longer than the model's context, however many tokens are allowed."""
    stream = zoo.random_model("small").stream("a", max_new_tokens=10**9)
    assert next(stream).row == 1

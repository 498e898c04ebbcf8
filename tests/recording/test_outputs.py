"""Norms of experts' outputs and factors of the streams: against loops over the parameters."""

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.references import decoder_layers
from v4kit.errors import InputError
from v4kit.recording.outputs import each_expert

TEXT = "Once upon a time, a 🙂 sat by 春 and sang."
RECORD = v4kit.Record(outputs=True, attention=None)
STREAMS = v4kit.Record(streams=True, attention=None)


class Spy:
    """Inputs and outputs of modules, pass after pass, joined."""

    def __init__(self, modules):
        self.modules, self.seen = modules, {name: [] for name in modules}

    def __enter__(self):
        self.handles = [
            module.register_forward_hook(
                lambda _, inputs, output, name=name: self.seen[name].append((inputs, output))
            )
            for name, module in self.modules.items()
        ]
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def joined(self, name, pick):
        return torch.cat([pick(*one) for one in self.seen[name]]).double()


@torch.no_grad()
def expert_by_hand(hf, experts, hidden, expert):
    """What one expert puts out for one token, from its matrices in float64."""
    family = hf.config.get_text_config().model_type
    gate_up, down = (getattr(experts, n)[expert].double() for n in ("gate_up_proj", "down_proj"))
    if family == "gpt_oss":
        both = hidden @ gate_up + experts.gate_up_proj_bias[expert].double()
        gate, up = (
            both[::2].clamp(max=experts.limit),
            both[1::2].clamp(-experts.limit, experts.limit),
        )
        inner = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
        return inner @ down + experts.down_proj_bias[expert].double()
    gate, up = (gate_up @ hidden).chunk(2)
    if family == "deepseek_v4":
        gate, up = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
    return down @ (torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize("name", ["small", "wide", "tiny", *zoo.EVERY])
def test_norms_are_those_of_the_parameters(name) -> None:
    model = zoo.model(name)
    layers = decoder_layers(model.hf)
    routed = model.architecture.routed
    blocks = {layer: layers[layer].mlp.experts for layer in routed}
    shared = {-1 - layer: layers[layer].mlp.shared_experts for layer in routed
              if model.architecture.n_shared}  # fmt: skip
    with Spy(blocks | shared) as spy:
        trace = model.generate(TEXT, max_new_tokens=4, prefill_chunk=7, record=RECORD)
    routing, last = trace.routing, len(trace) - 1
    for layer in routed:
        hidden = spy.joined(layer, lambda inputs, _: inputs[0])
        total = spy.joined(layer, lambda _, output: output)
        ids = routing["experts"].values[:, layer]
        # The recording's own calls of the experts do not go through hooks.
        assert len(hidden) == last
        for row in range(last):
            for slot, expert in enumerate(ids[row]):
                own = expert_by_hand(model.hf, blocks[layer], hidden[row], expert)
                cell = {"token": row, "layer": layer, "slot": slot}
                norm, most = (float(routing[n][cell]) for n in ("output_norm", "output_max"))
                assert norm == pytest.approx(float(own.norm()), rel=2e-5)
                assert most == pytest.approx(float(own.abs().max()), rel=2e-5)
        norms = total.norm(dim=-1).numpy()
        np.testing.assert_allclose(routing["routed_norm"].values[:last, layer], norms, rtol=1e-5)
        if shared:
            beside = spy.joined(-1 - layer, lambda _, out: out.flatten(0, -2)).norm(dim=-1).numpy()
            np.testing.assert_allclose(routing["shared_norm"][:last, layer], beside, rtol=1e-5)
        else:
            assert routing["shared_norm"][:, layer].isnull().all()
    for variable in ("output_norm", "output_max", "routed_norm", "shared_norm"):
        assert routing[variable][last].isnull().all()
        assert routing[variable][:, ~np.isin(range(len(layers)), routed)].isnull().all()


@pytest.mark.parametrize("name", zoo.EVERY)
def test_weighted_outputs_add_up_to_what_the_block_returns(name) -> None:
    model = zoo.model(name)
    layer = model.architecture.routed[-1]
    experts = decoder_layers(model.hf)[layer].mlp.experts
    with Spy({0: experts}) as spy:
        model.read(TEXT)
    (hidden, ids, weights), output = spy.seen[0][0]
    with torch.no_grad():
        each = each_expert(experts, hidden, ids)
    assert each.shape == (*ids.shape, hidden.shape[-1])
    torch.testing.assert_close((weights[..., None] * each).sum(1), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["small", "mixtral"])
def test_nothing_changes(name, dtype) -> None:
    model = v4kit.wrap(zoo.fresh(name, dtype=dtype), zoo.tokenizer())
    full = v4kit.Record(outputs=True, streams=name == "small", routing="full")
    with Spy({0: model.hf.lm_head}) as bare:
        plain = model.generate(TEXT, max_new_tokens=6, prefill_chunk=7)
    with Spy({0: model.hf.lm_head}) as recorded:
        trace = model.generate(TEXT, max_new_tokens=6, prefill_chunk=7, record=full)
    for (_, one), (_, other) in zip(bare.seen[0], recorded.seen[0], strict=True):
        assert torch.equal(one, other)
    for variable in plain.routing.data_vars:
        np.testing.assert_array_equal(plain.routing[variable], trace.routing[variable])


def test_many_tokens_at_once() -> None:
    model = v4kit.wrap(zoo.fresh("mixtral", max_position_embeddings=1200), zoo.tokenizer())
    ids = np.random.default_rng(0).integers(7, 320, 1100).tolist()
    whole = model.read(ids, prefill_chunk=None, record=RECORD).routing["output_norm"].values
    parts = model.read(ids, prefill_chunk=50, record=RECORD).routing["output_norm"].values
    assert not np.isnan(whole).any()
    np.testing.assert_allclose(whole, parts, rtol=1e-3)


def test_edits_are_what_is_measured() -> None:
    """An expert that an edit brings in is computed; one that has weight 0 keeps its norm."""
    model = zoo.model("small")
    layer = model.architecture.n_layers - 1
    with model.edit(v4kit.force(layer, [5])):
        trace = model.read(TEXT, record=RECORD)
    used = trace.routing["experts"].values[:, layer] == 5
    assert used.any(axis=1).all()
    assert (trace.routing["output_norm"].values[:, layer][used] > 0).all()


def tensor_of(_, output):
    """What a module returns `[token, hidden]`; the first of several."""
    return (output[0] if isinstance(output, tuple) else output).flatten(0, 1)


def states_of(model, run):
    """The state before the final norm, and every summand by its factor's name, in float64."""
    layers = decoder_layers(model.hf)
    modules = {("alpha_attention", i): layer.self_attn for i, layer in enumerate(layers)}
    modules |= {("alpha_experts", i): layer.mlp for i, layer in enumerate(layers)}
    modules |= {"embedding": model.hf.model.embed_tokens, "final": model.hf.model.norm}
    with Spy(modules) as spy:
        trace = run()
    parts = {name: spy.joined(name, tensor_of) for name in modules if name != "final"}
    final = spy.joined("final", lambda inputs, _: inputs[0].flatten(0, 1))
    return trace, parts, final


@pytest.mark.parametrize("name", zoo.V4)
def test_the_final_state_is_the_sum_of_what_was_written(name) -> None:
    model = zoo.model(name)
    trace, parts, final = states_of(
        model, lambda: model.generate(TEXT, max_new_tokens=5, prefill_chunk=7, record=STREAMS)
    )
    rows, routing = len(trace) - 1, trace.routing
    total = torch.zeros_like(final)
    for key, values in parts.items():
        factor = routing["alpha_embedding"] if key == "embedding" else routing[key[0]][:, key[1]]
        total += torch.tensor(factor.values[:rows].astype(float))[:, None] * values
    error = (total - final).abs().max() / final.abs().max()
    assert float(error) < 1e-5
    for variable in ("alpha_attention", "alpha_experts", "alpha_embedding"):
        assert routing[variable][-1].isnull().all()


def test_batches_and_files(tmp_path) -> None:
    """`v4kit.record` over a batch, written and read, cut and joined, is what documents give."""
    model = zoo.model("small")
    ids = [model.tokenizer(zoo.TEXT)["input_ids"][start : start + 70] for start in (0, 30)]
    wanted = v4kit.Record(outputs=True, streams=True, attention=None)
    with v4kit.record(model.hf, wanted) as recording, torch.no_grad():
        model.hf(torch.tensor(ids))
    batch = recording.trace
    alone = [model.read(one, record=wanted, prefill_chunk=None) for one in ids]
    names = ("output_norm", "output_max", "routed_norm", "shared_norm", "alpha_attention",
             "alpha_experts", "alpha_embedding")  # fmt: skip
    joined = v4kit.concat([batch[:70], batch[70:]])
    opened = v4kit.open_trace(batch.save(tmp_path / "batch.v4trace"))
    for variable in names:
        expected = np.concatenate([trace.routing[variable].values for trace in alone])
        assert not np.isnan(expected).any()
        np.testing.assert_allclose(batch.routing[variable].values, expected, rtol=2e-4, atol=1e-5)
        for other in (joined, opened):
            np.testing.assert_array_equal(other.routing[variable], batch.routing[variable])


def test_one_stream_has_no_factors() -> None:
    with pytest.raises(InputError, match="one residual stream"):
        zoo.model("mixtral").read(TEXT, record=STREAMS)


@pytest.mark.parametrize("name", ["outputs", "streams"])
def test_what_is_neither_true_nor_false(name) -> None:
    with pytest.raises(InputError, match=f"{name}=…\\) is True or False"):
        v4kit.Record(**{name: "yes"})

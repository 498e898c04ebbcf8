"""Gates in float32: what they compute, and what they leave alone."""

import copy

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import remove_hook_from_module
from safetensors.torch import load_file

import v4kit
from tests import zoo
from tests.references import Spy, softmax, sqrt_softplus

PROMPT = zoo.TEXT[:70]


@pytest.fixture(scope="module", params=["small", "wide", "mixtral", "olmoe"])
def folder(request, tmp_path_factory):
    """A saved random model, in float32."""
    path = tmp_path_factory.mktemp(request.param)
    zoo.fresh(request.param).save_pretrained(path)
    zoo.tokenizer().save_pretrained(path)
    return path


def gates_of(model: v4kit.Model) -> list:
    return [layer.mlp.gate for layer in model.hf.model.layers]


def offloaded_map(model: v4kit.Model) -> dict[str, str]:
    """Every other layer on the disk, all else in memory."""
    places = {"lm_head": "cpu"}
    for name, child in model.hf.model.named_children():
        if name == "layers":
            layers = range(len(child))
            places |= {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in layers}
        else:
            places[f"model.{name}"] = "cpu"
    return places


def gate_inputs(model: v4kit.Model, prompt: str) -> tuple[v4kit.Trace, dict[int, np.ndarray]]:
    """A trace, and what went into each gate `[token, hidden]`, caught by own hooks."""
    caught: dict[int, list[torch.Tensor]] = {}
    handles = []
    for index, gate in enumerate(gates_of(model)):

        def keep(_module, inputs, index: int = index) -> None:
            caught.setdefault(index, []).append(inputs[0].flatten(0, -2).clone())

        handles.append(gate.register_forward_pre_hook(keep))
    try:
        trace = model.read(prompt)
    finally:
        for handle in handles:
            handle.remove()
    return trace, {index: torch.cat(parts) for index, parts in caught.items()}


def expected_experts(gate, hidden: torch.Tensor, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sets of experts and their weights, in float64 from bfloat16 inputs; one token at a time."""
    weight = gate.weight.detach().double().numpy()
    bias = getattr(gate, "e_score_correction_bias", torch.zeros(len(weight))).double().numpy()
    v4 = hasattr(gate, "score_fn")
    experts, weights = [], []
    for token, row in zip(ids, hidden.double().numpy(), strict=True):
        scores = (sqrt_softplus if v4 else softmax)((weight @ row).tolist())
        order = sorted(range(len(scores)), key=lambda e: -(scores[e] + bias[e]))
        chosen = order[: gate.top_k]
        if hasattr(gate, "tid2eid"):
            chosen = gate.tid2eid[token].tolist()
        total = sum(scores[e] for e in chosen) / getattr(gate, "routed_scaling_factor", 1.0)
        if not v4 and not getattr(gate, "norm_topk_prob", True):
            total = 1.0
        experts.append(chosen)
        weights.append([scores[e] / total for e in chosen])
    return np.array(experts), np.array(weights)


class TestArithmetic:
    def test_float32_of_a_bfloat16_model(self, folder) -> None:
        model = v4kit.load(folder, dtype="bfloat16")
        trace, hidden = gate_inputs(model, PROMPT)
        assert trace.meta["dtype"] == "bfloat16"
        assert trace.meta["router_dtype"] == "float32"
        for layer, gate in enumerate(gates_of(model)):
            assert hidden[layer].dtype == gate.weight.dtype == torch.bfloat16
            experts, weights = expected_experts(gate, hidden[layer], trace.tokens["id"].tolist())
            routing = trace.routing.sel(layer=layer)
            np.testing.assert_array_equal(routing["experts"], experts)
            np.testing.assert_allclose(routing["weights"], weights, rtol=1e-4)

    def test_native(self, folder) -> None:
        """`wrap` leaves gates in bfloat16, where other experts win."""
        hf = v4kit.load(folder, dtype="bfloat16", router_dtype="native").hf
        model = v4kit.wrap(hf, zoo.tokenizer())
        assert not any("forward" in vars(gate) for gate in gates_of(model))
        dtypes = []
        with model.tap("router", lambda event: dtypes.append(event.logits.dtype)), Spy(hf) as spy:
            trace, hidden = gate_inputs(model, zoo.TEXT)
        assert set(dtypes) == {torch.bfloat16}
        assert trace.meta["router_dtype"] == "bfloat16"
        differ = 0
        for layer, gate in enumerate(gates_of(model)):
            experts, _ = expected_experts(gate, hidden[layer], trace.tokens["id"].tolist())
            used = np.sort(trace.routing["experts"].sel(layer=layer), axis=-1)
            np.testing.assert_array_equal(used, np.sort(spy.runs()[0].gates[layer][2], axis=-1))
            differ += (used != np.sort(experts, axis=-1)).any(-1).sum()
        assert differ > 0 or folder.name.startswith(("olmoe", "mixtral"))

    def test_wrap_can_ask_for_float32(self) -> None:
        model = v4kit.wrap(
            zoo.fresh("small", dtype=torch.bfloat16), zoo.tokenizer(), router_dtype="float32"
        )
        dtypes = []
        with model.tap("router", lambda event: dtypes.append(event.logits.dtype)):
            assert model.read("Hello").meta["router_dtype"] == "float32"
        assert set(dtypes) == {torch.float32}

    def test_autocast_does_not_undo_it(self) -> None:
        model = v4kit.wrap(zoo.fresh("small"), zoo.tokenizer(), router_dtype="float32")
        dtypes = []
        with (
            torch.autocast("cpu", torch.bfloat16),
            model.tap("router", lambda event: dtypes.append(event.logits.dtype)),
        ):
            model.read("Hello")
        assert set(dtypes) == {torch.float32}

    def test_unknown_dtype(self) -> None:
        with pytest.raises(v4kit.errors.InputError, match=r"'float32' or 'native'.*'float64'"):
            v4kit.wrap(zoo.fresh("mixtral"), zoo.tokenizer(), router_dtype="float64")


class TestWhatIsLeftAlone:
    def test_parameters_and_files(self, folder, tmp_path) -> None:
        model = v4kit.load(folder, dtype="bfloat16")
        native = v4kit.load(folder, dtype="bfloat16", router_dtype="native")
        model.generate("Hello", max_new_tokens=2)
        for gate in gates_of(model):
            assert gate.weight.dtype == torch.bfloat16
            assert isinstance(gate.weight, torch.nn.Parameter)
        for one, name in ((model, "raised"), (native, "native")):
            one.hf.save_pretrained(tmp_path / name)
        raised, plain = (
            load_file(tmp_path / name / "model.safetensors") for name in ("raised", "native")
        )
        assert raised.keys() == plain.keys()
        for name, tensor in raised.items():
            assert tensor.dtype == plain[name].dtype
            assert torch.equal(tensor, plain[name])

    def test_deep_copy_has_its_own_gates(self) -> None:
        model = v4kit.wrap(zoo.fresh("small"), zoo.tokenizer(), router_dtype="float32")
        before = model.read(PROMPT)
        other = v4kit.wrap(copy.deepcopy(model.hf), zoo.tokenizer())
        assert other.meta["router_dtype"] == "float32"
        with torch.no_grad():
            for gate in gates_of(other):
                gate.weight.neg_()
        assert not other.read(PROMPT).routing.equals(before.routing)
        assert model.read(PROMPT).routing.equals(before.routing)


class TestOffload:
    """Weights that come and go: the same routing as with the model in memory."""

    def test_disk_map(self, folder, tmp_path) -> None:
        resident = v4kit.load(folder)
        model = v4kit.load(folder, device_map=offloaded_map(resident), offload_folder=tmp_path)
        assert {gate.weight.device.type for gate in gates_of(model)} == {"cpu", "meta"}
        self.compare(model, resident)

    def test_bfloat16_on_disk(self, folder, tmp_path) -> None:
        """Compared with the gates' own inputs: on disk, transformers rounds other parameters."""
        resident = v4kit.load(folder, dtype="bfloat16")
        places = offloaded_map(resident)
        model = v4kit.load(folder, dtype="bfloat16", device_map=places, offload_folder=tmp_path)
        trace, hidden = gate_inputs(model, PROMPT)
        assert trace.meta["router_dtype"] == "float32"
        for layer, gate in enumerate(gates_of(resident)):
            experts, _ = expected_experts(gate, hidden[layer], trace.tokens["id"].tolist())
            np.testing.assert_array_equal(trace.routing["experts"].sel(layer=layer), experts)

    @pytest.mark.parametrize("first", ["offload", "float32"])
    @pytest.mark.parametrize("where", ["cpu", "disk"])
    @pytest.mark.parametrize("family", ["small", "mixtral"])
    def test_offloaded_by_accelerate(self, family, where, first, tmp_path) -> None:
        """Whichever comes first, offloading or float32 gates."""
        dtype = torch.bfloat16
        resident = v4kit.wrap(
            zoo.fresh(family, dtype=dtype), zoo.tokenizer(), router_dtype="float32"
        )
        hf = zoo.fresh(family, dtype=dtype)
        if first == "float32":
            v4kit.wrap(hf, zoo.tokenizer(), router_dtype="float32")
        if where == "cpu":
            cpu_offload(hf, execution_device="cpu")
        else:
            disk_offload(hf, tmp_path / "weights", execution_device="cpu")
        dtype = "float32" if first == "offload" else "native"
        model = v4kit.wrap(hf, zoo.tokenizer(), router_dtype=dtype)
        assert model.hf.model.layers[0].mlp.gate.weight.device.type == "meta"
        self.compare(model, resident)
        if where == "cpu":
            remove_hook_from_module(hf, recurse=True)
            self.compare(v4kit.wrap(hf, zoo.tokenizer()), resident)

    def test_native_under_offload(self) -> None:
        resident = zoo.fresh("small", dtype=torch.bfloat16)
        hf = zoo.fresh("small", dtype=torch.bfloat16)
        cpu_offload(hf, execution_device="cpu")
        model = v4kit.wrap(hf, zoo.tokenizer())
        self.compare(model, v4kit.wrap(resident, zoo.tokenizer()), dtype="bfloat16")

    @staticmethod
    def compare(model: v4kit.Model, resident: v4kit.Model, dtype: str = "float32") -> None:
        mine = model.generate(PROMPT, max_new_tokens=3, prefill_chunk=9)
        other = resident.generate(PROMPT, max_new_tokens=3, prefill_chunk=9)
        assert mine.tokens.equals(other.tokens)
        assert mine.routing.equals(other.routing)
        assert mine.meta["router_dtype"] == other.meta["router_dtype"] == dtype

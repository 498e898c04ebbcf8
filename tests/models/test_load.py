"""Loading: what is refused, and how it says so."""

import json
import shutil

import pytest
import torch

import v4kit
from tests import zoo
from v4kit.errors import InputError, ModelError, ModelNotFound, UnsupportedModel

FAMILIES = "deepseek_v3.*deepseek_v4.*gpt_oss.*mixtral.*olmoe"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder that holds a whole model."""
    folder = tmp_path_factory.mktemp("whole")
    zoo.fresh("small").save_pretrained(folder)
    zoo.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "model")


class TestTheShippedModel:
    def test_default(self) -> None:
        model = zoo.tiny()
        assert model.meta["dtype"] == model.meta["router_dtype"] == "float32"
        assert next(model.hf.parameters()).device.type == "cpu"
        assert not model.hf.training
        kinds = {layer.attention for layer in model.architecture.layers}
        assert kinds == {"sliding", "csa", "hca"}
        assert {layer.routing for layer in model.architecture.layers} == {"hash", "topk"}
        assert model.architecture.context >= 16_384
        assert len(repr(model)) <= 120
        assert len(repr(model.architecture)) <= 120


class TestLoading:
    def test_folder(self, whole) -> None:
        model = v4kit.load(whole)
        assert model.meta["model"] == str(whole)
        assert model.hf.dtype == torch.float32
        again = v4kit.load(str(whole), device_map="cpu")
        assert again.read("Hello").routing.equals(model.read("Hello").routing)

    @pytest.mark.parametrize("family", zoo.OTHERS)
    def test_every_family(self, family, tmp_path) -> None:
        """All weights are found, the plan counts them, and the model is the one that was saved."""
        hf = zoo.fresh(family, attn_implementation="eager")
        hf.save_pretrained(tmp_path)
        zoo.tokenizer().save_pretrained(tmp_path)
        model = v4kit.load(tmp_path)
        tensors = [*model.hf.parameters(), *model.hf.buffers()]
        assert v4kit.plan(tmp_path).bytes == sum(t.numel() * t.element_size() for t in tensors)
        ids = torch.arange(30, 70)[None]
        with torch.no_grad():
            assert torch.equal(model.hf(ids).logits, hf(ids).logits)
        assert model.meta["architecture"]["family"] == family

    def test_equals_wrapping(self, whole) -> None:
        loaded = v4kit.load(whole).generate("Hello", max_new_tokens=3)
        wrapped = zoo.random_model("small").generate("Hello", max_new_tokens=3)
        assert loaded.tokens["id"].equals(wrapped.tokens["id"])
        assert loaded.routing["experts"].equals(wrapped.routing["experts"])

    @pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16)])
    def test_dtype(self, whole, dtype, expected) -> None:
        model = v4kit.load(whole, dtype=dtype)
        assert model.hf.dtype == v4kit.load(whole, dtype=expected).hf.dtype == expected
        assert model.meta["dtype"] == dtype


class TestRefusals:
    @pytest.mark.parametrize("dtype", ["float16", torch.float16, "int8", "fp32", None])
    def test_dtype(self, whole, dtype) -> None:
        with pytest.raises(InputError, match=r"'auto', 'bfloat16' or 'float32'.*float16 fails"):
            v4kit.load(whole, dtype=dtype)

    @pytest.mark.parametrize("name", ["deepseek-ai/No-Such-Model", "no-such-model", "a b/c/d!"])
    def test_unknown_name(self, name) -> None:
        with pytest.raises(ModelNotFound, match=r"Give \"tiny\", a folder .* or a hub id"):
            v4kit.load(name)

    @pytest.mark.parametrize("name", ["./nowhere", "~/no/where/at/all"])
    def test_missing_folder(self, name, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelNotFound, match="There is no folder"):
            v4kit.load(name)
        with pytest.raises(ModelNotFound, match="There is no folder"):
            v4kit.load(tmp_path / "gone")

    def test_file(self, whole) -> None:
        with pytest.raises(ModelNotFound, match="There is no folder"):
            v4kit.load(whole / "config.json")

    def test_folder_without_a_model(self, tmp_path) -> None:
        with pytest.raises(ModelNotFound, match=r"holds no model: it has no config\.json"):
            v4kit.load(tmp_path)

    def test_repo_that_is_out_of_reach(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ModelNotFound, match=r"'no/such' could not be loaded.*: nothing\."):
            v4kit.load("no/such")
        snapshot = tmp_path / "models--some--model" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        with pytest.raises(ModelNotFound, match=r"in part: some/model\."):
            v4kit.load("no/such")

    def test_config_that_is_no_json(self, folder) -> None:
        (folder / "config.json").write_text("{")
        with pytest.raises(ModelNotFound, match="not a valid JSON"):
            v4kit.load(folder)

    @pytest.mark.parametrize("model_type", ["llama", "gpt2"])
    def test_dense_model(self, folder, model_type) -> None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        with pytest.raises(UnsupportedModel, match=f"'{model_type}'.*{FAMILIES}"):
            v4kit.load(folder)

    @pytest.mark.parametrize(
        ("config", "why"),
        [
            ({"model_type": "deepseek_v41"}, "V4.1 is a new architecture.*transformers 5"),
            ({"model_type": "nova"}, "'nova': transformers can't read the config"),
            ({}, "None: transformers can't read the config.*Unrecognized model"),
            (
                {"model_type": "deepseek_v4", "compress_ratios": [2]},
                "'deepseek_v4': transformers can't read the config",
            ),
        ],
    )
    def test_config_that_transformers_does_not_know(self, folder, config, why) -> None:
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UnsupportedModel, match=f"type .*{why}.*{FAMILIES}"):
            v4kit.load(folder)

    def test_config_without_experts(self, folder) -> None:
        (folder / "config.json").write_text(
            json.dumps({"model_type": "mixtral", "num_local_experts": 0})
        )
        with pytest.raises(UnsupportedModel, match=r"no routed experts.*num_local_experts"):
            v4kit.load(folder)

    def test_code_in_a_checkpoint_is_not_run(self, folder) -> None:
        (folder / "config.json").write_text(
            json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
        )
        (folder / "mine.py").write_text("raise SystemExit('ran')")
        with pytest.raises((UnsupportedModel, ModelNotFound)):
            v4kit.load(folder)

    def test_missing_weights(self, folder) -> None:
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelNotFound, match=r"model\.safetensors"):
            v4kit.load(folder)

    @pytest.mark.parametrize("length", [0, 4, 5_000])
    def test_cut_weights(self, folder, length) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:length])
        with pytest.raises(ModelError, match=r"model\.safetensors .*Fetch it again"):
            v4kit.load(folder)

    def test_weights_of_another_size(self, folder) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"moe_intermediate_size": 25}))
        with pytest.raises(ModelError, match="belong to the config"):
            v4kit.load(folder)

    @pytest.mark.parametrize("content", [None, "{"])
    def test_tokenizer(self, folder, content) -> None:
        for file in folder.glob("tokenizer*"):
            file.unlink()
        if content is not None:
            (folder / "tokenizer.json").write_text(content)
        with pytest.raises(ModelNotFound, match="tokenizer"):
            v4kit.load(folder)

    def test_device_map(self, whole) -> None:
        with pytest.raises(InputError, match=r"can't be placed as asked.*banana"):
            v4kit.load(whole, device_map="banana")

    def test_disk_without_a_folder(self, whole) -> None:
        with pytest.raises(InputError, match="offload_folder"):
            v4kit.load(whole, device_map="auto", max_memory={"cpu": "500KB"})

    def test_disk_by_max_memory(self, whole, tmp_path) -> None:
        model = v4kit.load(
            whole, device_map="auto", max_memory={"cpu": "1MB"}, offload_folder=tmp_path
        )
        assert "meta" in {p.device.type for p in model.hf.parameters()}
        expected = v4kit.load(whole).read("Hello")
        assert model.read("Hello").routing.equals(expected.routing)


@pytest.mark.parametrize("implementation", ["sdpa", "flash_attention_2", "nonsense"])
def test_attention_implementation_that_can_not_be(implementation) -> None:
    with pytest.raises(InputError, match=f"attn_implementation='{implementation}' can't be used"):
        v4kit.load(attn_implementation=implementation)

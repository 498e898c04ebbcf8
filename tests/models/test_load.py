"""Loading: what is refused, and how it says so."""

import json
import re
import shutil

import psutil
import pytest
import torch

import v4kit
from tests import checkpoints, zoo
from v4kit.errors import InputError, ModelError, ModelNotFound, UnsupportedModel
from v4kit.models.hardware import limits_of
from v4kit.models.place import Place
from v4kit.models.precision import peak_memory

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

    def test_repo_of_which_a_part_is_here(self, tmp_path, monkeypatch) -> None:
        """Config alone, and then no weights: what is missing is said, and what is here."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        repo = tmp_path / "models--some--model"
        snapshot = repo / "snapshots" / ("0" * 40)
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("0" * 40)
        zoo.random_model("small").hf.config.save_pretrained(snapshot)
        with pytest.raises(ModelNotFound, match=r"no tokenizer .* in part: some/model\."):
            v4kit.load("some/model")
        zoo.tokenizer().save_pretrained(snapshot)
        with pytest.raises(ModelNotFound, match=r"model\.safetensors.* in part: some/model\."):
            v4kit.load("some/model")

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
            ({"model_type": ["deepseek_v4"]}, "transformers can't read the config"),
            ([], "None: transformers can't read the config"),
            (5, "None: transformers can't read the config"),
            (None, "None: transformers can't read the config"),
        ],
    )
    def test_config_that_transformers_does_not_know(self, folder, config, why) -> None:
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UnsupportedModel, match=f"type .*{why}.*{FAMILIES}"):
            v4kit.load(folder)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"hidden_size": None}, "Field 'hidden_size' expected int, got NoneType"),
            ({"num_hidden_layers": "4"}, "Field 'num_hidden_layers' expected int, got str"),
            ({"n_routed_experts": None}, "Field 'n_routed_experts' expected int, got NoneType"),
            ({"max_position_embeddings": None}, "'max_position_embeddings' expected int"),
            ({"head_dim": 0}, "transformers can't read the config"),
            ({"num_attention_heads": 0}, "config can't be read: num_attention_heads is 0"),
            ({"num_experts_per_tok": 9}, "config can't be read: num_experts_per_tok is 9 of 8"),
            ({"quantization_config": {}}, "how this checkpoint is quantized: .*quant_method"),
            ({"quantization_config": {"quant_method": "x"}}, "quantized: Unknown quantization"),
            ({"expert_dtype": "fp3"}, "quantized: expert_dtype must be 'fp8' or 'fp4'; got 'fp3'"),
        ],
    )
    def test_config_with_a_field_that_can_not_be(self, change, words, tmp_path) -> None:
        checkpoints.write(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UnsupportedModel, match=words):
            v4kit.load(tmp_path)
        with pytest.raises(UnsupportedModel, match=words):
            v4kit.plan(tmp_path, gpus="H100")

    def test_config_without_a_field(self, folder) -> None:
        config = json.loads((folder / "config.json").read_text())
        del config["num_hidden_layers"]
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UnsupportedModel, match=r"`num_hidden_layers` \(43\) must equal"):
            v4kit.load(folder)

    def test_what_is_no_name(self) -> None:
        for model in (5, {}, zoo.random_model("small"), zoo.random_model("small").hf):
            with pytest.raises(InputError, match="named by a folder or a hub id; given was a "):
                v4kit.load(model)

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
        with pytest.raises(ModelError, match="have another shape than the config says: "):
            v4kit.load(folder)

    @pytest.mark.parametrize("content", [None, "{"])
    def test_tokenizer(self, folder, content) -> None:
        for file in folder.glob("tokenizer*"):
            file.unlink()
        if content is not None:
            (folder / "tokenizer.json").write_text(content)
        with pytest.raises(ModelNotFound, match="tokenizer"):
            v4kit.load(folder)

    @pytest.mark.parametrize(
        ("device_map", "words"),
        [
            (0, "'everything' on 0, which is not there; there are cpu, disk"),
            ({"": 0}, "'everything' on 0, which is not there"),
            ("cuda", "'everything' on 'cuda', which is not there"),
            ("cuda:9", "'everything' on 'cuda:9', which is not there"),
            ("banana", "'everything' on 'banana', which is not there"),
            ("meta", "'everything' on 'meta', which is not there"),
            (True, "'everything' on True, which is not there"),
            ([], r"'everything' on \[\], which is not there"),
            ({}, "device_map names no module"),
            ({"": "cpu", "model.layers.0": 1}, "'model.layers.0' on 1, which is not there"),
            ({"banana": "cpu"}, "device_map names 'banana', which this model has not"),
            ({"model.layers.0": "cpu"}, r"no place for 'model\.embed_tokens\.weight' and 143 more"),
        ],
    )
    def test_device_map(self, whole, device_map, words) -> None:
        with pytest.raises(InputError, match=words):
            v4kit.load(whole, device_map=device_map)

    def test_an_accelerator_of_another_kind_is_there(self, monkeypatch) -> None:
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
        assert Place.of("mps", None, None).device_map == {"": "mps"}
        plan = v4kit.plan("tiny", device_map="mps")
        assert [(one.device.key, one.weights) for one in plan.placements] == [("mps", plan.bytes)]

    @pytest.mark.parametrize(
        ("max_memory", "words"),
        [
            ("80GB", "max_memory gives memory by device, such as .* given was '80GB'"),
            (["80GB"], r"given was \['80GB'\]"),
            ({}, r"given was \{\}"),
            ({0: "24GB"}, "max_memory names the device '0', which is not there; there are cpu"),
            ({"cpu": "some"}, "A size is bytes or a text .* given was 'some'"),
            ({"cpu": -1}, "given was -1"),
        ],
    )
    def test_max_memory(self, whole, max_memory, words) -> None:
        with pytest.raises(InputError, match=words):
            v4kit.load(whole, max_memory=max_memory)
        with pytest.raises(InputError, match=words):
            v4kit.plan(whole, max_memory=max_memory)

    def test_offload_folder(self, whole, tmp_path) -> None:
        (tmp_path / "file").write_text("x")
        limits = {"cpu": "500KB"}
        for folder, words in (("file", "is a file"), ("file/in", "can't be made: Not a directory")):
            with pytest.raises(InputError, match=words):
                v4kit.load(whole, max_memory=limits, offload_folder=tmp_path / folder)
        with pytest.raises(InputError, match="a folder's path; given was 5"):
            v4kit.load(whole, max_memory=limits, offload_folder=5)

    def test_what_was_given_is_left_as_it_was(self, whole, tmp_path) -> None:
        limits = {"cpu": "1MB"}
        v4kit.load(whole, max_memory=limits, offload_folder=tmp_path)
        assert limits == {"cpu": "1MB"}

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


@pytest.mark.parametrize("device_map", ["cpu", None, torch.device("cpu")])
def test_the_cpu_alone_wakes_no_gpu(device_map, monkeypatch) -> None:
    monkeypatch.setattr("v4kit.models.hardware._cards", lambda _: pytest.fail("asked for GPUs"))
    assert v4kit.load(device_map=device_map).meta["model"] == "tiny"


def test_names_of_devices() -> None:
    """A command line gives texts, transformers takes numbers."""
    place = Place.of({"": "cpu"}, {"cpu": "1KB", "disk": 7}, None)
    assert place.options() == {"device_map": {"": "cpu"}, "max_memory": {"cpu": 1000, "disk": 7}}
    assert limits_of({"0": "1KB", "cuda:1": "2KB", 2: 3}) == {0: 1000, 1: 2000, 2: 3}


def test_the_most_memory_is_remembered() -> None:
    size = 400 * 10**6
    now = psutil.Process().memory_info().rss
    block = bytearray(b"x") * size
    del block
    (peak,) = re.findall(r"([\d.]+) GB of the process", peak_memory())
    assert float(peak) * 1e9 > now + 0.9 * size


@pytest.mark.parametrize("implementation", ["sdpa", "flash_attention_2", "nonsense"])
def test_attention_implementation_that_can_not_be(implementation) -> None:
    with pytest.raises(InputError, match=f"attn_implementation='{implementation}' can't be used"):
        v4kit.load(attn_implementation=implementation)

"""Checkpoints as they are published: loaded exactly, on every placement, or refused in time."""

import json
import os

import pytest
import torch

import v4kit
from tests import checkpoints, zoo
from v4kit.core.plan import Device
from v4kit.errors import InputError, ModelError
from v4kit.models import foresee, hardware
from v4kit.models.plan import _source
from v4kit.models.precision import check_scales, precisions

PROMPT = "The quick brown fox jumps over the lazy dog. def fib(n): return"
SHAPES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


@pytest.fixture(scope="module", params=["native", "fp8"])
def published(request, tmp_path_factory):
    """A folder in one of DeepSeek's layouts, and the values of its weights."""
    folder = tmp_path_factory.mktemp("published")
    return folder, checkpoints.write(folder, request.param, shards=3)


@pytest.fixture
def shards(tmp_path):
    """A folder of three shards, to be damaged."""
    checkpoints.write(tmp_path / "model", shards=3)
    return tmp_path / "model"


class TestValues:
    def test_every_kind_of_weight_is_exact(self, published) -> None:
        folder, values = published
        hf = v4kit.load(folder).hf
        experts = hf.model.layers[1].mlp.experts
        for number in (0, checkpoints.EXPERTS - 1):
            names = [f"layers.1.ffn.experts.{number}.{part}.weight" for part in ("w1", "w3", "w2")]
            first, second, down = (values[name] for name in names)
            assert torch.equal(experts.gate_up_proj[number], torch.cat([first, second]))
            assert torch.equal(experts.down_proj[number], down)
        layer = hf.model.layers[1]
        pairs = {
            "layers.1.attn.wq_a.weight": layer.self_attn.q_a_proj.weight,
            "layers.1.attn.indexer.wq_b.weight": layer.self_attn.compressor.indexer.q_b_proj.weight,
            "layers.1.attn.compressor.ape": layer.self_attn.compressor.position_bias,
            "layers.1.attn.attn_sink": layer.self_attn.sinks,
            "layers.1.ffn.gate.bias": layer.mlp.gate.e_score_correction_bias,
            "layers.1.hc_attn_fn": layer.attn_hc.fn,
            "layers.0.ffn.gate.tid2eid": hf.model.layers[0].mlp.gate.tid2eid,
            "embed.weight": hf.model.embed_tokens.weight,
        }
        for name, loaded in pairs.items():
            wanted = values[name].to(torch.float64)
            assert torch.equal(loaded.to(torch.float64), wanted), name

    def test_it_says_what_it_was(self, published) -> None:
        folder, _ = published
        trace = v4kit.load(folder).generate(PROMPT, max_new_tokens=4)
        assert trace.meta["stored"] in ("FP4 experts + FP8", "FP8")
        assert trace.meta["dtype"] == "bfloat16"
        assert len(trace) > 5

    def test_another_dtype_is_refused(self, published) -> None:
        with pytest.raises(InputError, match="'float32' can't be used with a quantized"):
            v4kit.load(published[0], dtype="float32")

    def test_the_plan_counts_the_same(self, published) -> None:
        folder, values = published
        plan = v4kit.plan(folder, gpus="H100")
        assert plan.precision == plan.stored
        wanted = sum(v.numel() for k, v in values.items() if not k.startswith("mtp"))
        buffers = sum(v.numel() for k, v in values.items() if "tid2eid" in k or "gate.bias" in k)
        buffers -= sum(v.numel() for k, v in values.items() if k == "mtp.0.ffn.gate.bias")
        assert plan.parameters == wanted - buffers
        sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
        assert plan.bytes < sum(sizes)


class TestPlacements:
    """Without a GPU: memory and disk. Several GPUs are planned on meta devices only."""

    @pytest.mark.parametrize("memory", ["2MB", "6MB"])
    def test_the_same_trace_everywhere(self, published, memory, tmp_path) -> None:
        folder, _ = published
        resident = v4kit.load(folder)
        apart = v4kit.load(folder, max_memory={"cpu": memory}, offload_folder=tmp_path)
        assert "disk" in {str(device) for device in apart.hf.hf_device_map.values()}
        check_alike(resident, apart)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
    def test_a_plain_checkpoint_as_well(self, dtype, tmp_path) -> None:
        hf = zoo.fresh("small").to(torch.bfloat16)
        hf.save_pretrained(tmp_path / "model")
        zoo.tokenizer().save_pretrained(tmp_path / "model")
        resident = v4kit.load(tmp_path / "model", dtype=dtype)
        apart = v4kit.load(
            tmp_path / "model",
            dtype=dtype,
            max_memory={"cpu": "100KB"},
            offload_folder=tmp_path / "disk",
        )
        assert "disk" in {str(device) for device in apart.hf.hf_device_map.values()}
        check_alike(resident, apart)

    def test_what_must_stay_in_float32_does(self, published) -> None:
        folder, _ = published
        hf = v4kit.load(folder).hf
        assert set(precisions(hf)) == {"bfloat16", "float32"}
        for name, parameter in hf.named_parameters():
            if any(part in name for part in ("sinks", "_hc.", "hc_head", "position_bias")):
                assert parameter.dtype == torch.float32, name


def check_alike(model, other):
    """Assert that two models are one: bit-identical logits, the same trace."""
    ids = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
    with torch.inference_mode():
        assert torch.equal(model.hf(ids).logits, other.hf(ids).logits)
    one, two = (each.generate(PROMPT, max_new_tokens=6) for each in (model, other))
    assert one.tokens["id"].tolist() == two.tokens["id"].tolist()
    assert one.routing["experts"].equals(two.routing["experts"])
    assert one.routing["weights"].equals(two.routing["weights"])


class TestDamage:
    def test_a_missing_shard(self, shards) -> None:
        (shards / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(ModelError, match=r"1 of 3 files .* the first is model-00002-of-00003"):
            v4kit.load(shards)

    def test_a_shard_that_is_cut_off(self, shards) -> None:
        path = shards / "model-00003-of-00003.safetensors"
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(ModelError, match=r"00003\.safetensors has [\d,]+ bytes of [\d,]+"):
            v4kit.load(shards)

    def test_no_index(self, shards) -> None:
        (shards / "model.safetensors.index.json").unlink()
        with pytest.raises(ModelError, match=r"holds 3 files of weights, but no .*index\.json"):
            v4kit.load(shards)

    @pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 5}'])
    def test_an_index_that_is_none(self, shards, text) -> None:
        (shards / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ModelError, match=r"index\.json can't be read"):
            v4kit.load(shards)

    @pytest.mark.parametrize(
        ("layout", "part", "memory"),
        [
            ("native", "attn.wq_a", None),
            ("native", "attn.wo_a", "2MB"),
            ("fp8", "ffn.shared_experts.w1", None),
            ("fp8", "attn.indexer.wq_b", "2MB"),
        ],
    )
    def test_a_missing_scale(self, layout, part, memory, tmp_path) -> None:
        """In memory the first pass would fail; from disk it would run, with other numbers."""
        checkpoints.write(tmp_path / "model", layout, shards=2)
        checkpoints.drop(tmp_path / "model", f"layers.1.{part}.scale")
        limits = memory and {"cpu": memory}
        with pytest.raises(ModelError, match=r"1 quantized weights have no scales .*layers\.1\."):
            v4kit.load(tmp_path / "model", max_memory=limits, offload_folder=tmp_path / "disk")

    @pytest.mark.usefixtures("keeping")
    def test_a_missing_scale_where_fp8_is_kept(self, shards) -> None:
        checkpoints.drop(shards, "layers.1.attn.wq_a.scale")
        with pytest.raises(ModelError, match=r"are missing.*q_a_proj\.weight_scale_inv"):
            v4kit.load(shards)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"num_hidden_layers": 5, "compress_ratios": [0, 4, 128, 4, 4, 0]}, "are missing, and"),
            ({"num_hidden_layers": 3, "compress_ratios": [0, 4, 128, 0]}, "belong to no part"),
            ({"n_routed_experts": 9}, "15 weights .* have another shape than the config says: "),
        ],
    )
    def test_weights_of_another_config(self, shards, change, words) -> None:
        config = json.loads((shards / "config.json").read_text())
        (shards / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=words):
            v4kit.load(shards)

    def test_pickles(self, tmp_path) -> None:
        config = zoo.random_model("small").hf.config
        config.save_pretrained(tmp_path)
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
        with pytest.raises(ModelError, match=r"pickles .* could run code"):
            v4kit.load(tmp_path)


class TestKept:
    """FP8 and FP4 as a GPU would keep them, here in the CPU's memory, where nothing runs them."""

    @pytest.mark.usefixtures("keeping")
    @pytest.mark.parametrize("memory", [None, "2MB"])
    def test_quantized_layers_are_counted(self, published, memory, tmp_path) -> None:
        limits = memory and {"cpu": memory}
        hf = v4kit.load(published[0], max_memory=limits, offload_folder=tmp_path).hf
        # Five projections of attention, three shared ones, all experts; two layers have an indexer.
        assert check_scales(hf) == 4 * 9 + 2

    def test_dequantized_there_are_none(self, published) -> None:
        assert check_scales(v4kit.load(published[0]).hf) == 0


class TestForesight:
    """With a threshold so low that small models count as large."""

    @pytest.fixture(autouse=True)
    def _large(self, monkeypatch) -> None:
        monkeypatch.setattr(foresee, "SMALL", 1)
        monkeypatch.setattr("v4kit.models.load.SMALL", 1)

    def test_dequantizing_is_refused_before_it_happens(self, published) -> None:
        folder, _ = published
        with pytest.raises(InputError, match=r"transformers makes .* load knowingly with anyway"):
            v4kit.load(folder)
        assert v4kit.load(folder, anyway=True).meta["dtype"] == "bfloat16"

    def test_layers_on_disk_want_a_folder(self, tmp_path) -> None:
        zoo.fresh("small").save_pretrained(tmp_path / "model")
        zoo.tokenizer().save_pretrained(tmp_path / "model")
        options = {"max_memory": {"cpu": "100KB"}}
        with pytest.raises(InputError, match=r"layers stay on disk .* Give an offload_folder"):
            v4kit.load(tmp_path / "model", **options)
        v4kit.load(tmp_path / "model", **options, offload_folder=tmp_path / "disk")

    def test_too_large_for_memory(self, tmp_path, monkeypatch) -> None:
        zoo.fresh("small").save_pretrained(tmp_path)
        zoo.tokenizer().save_pretrained(tmp_path)
        monkeypatch.setattr("v4kit.models.hardware._free_memory", lambda: 100_000)
        with pytest.raises(ModelError, match="Does not fit on the CPU: CPU has"):
            v4kit.load(tmp_path)
        v4kit.load(tmp_path, anyway=True)

    @pytest.mark.parametrize("anyway", [False, True])
    def test_a_device_that_is_not_there(self, published, anyway) -> None:
        folder, _ = published
        with pytest.raises(InputError, match="'cuda:3', which is not there"):
            v4kit.load(folder, device_map={"": "cuda:3"}, anyway=anyway)

    @pytest.mark.parametrize("anyway", [False, True])
    def test_too_little_disk_for_layers(self, tmp_path, monkeypatch, anyway) -> None:
        zoo.fresh("small").save_pretrained(tmp_path / "model")
        zoo.tokenizer().save_pretrained(tmp_path / "model")
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
        folder = tmp_path / "disk"
        options = {"max_memory": {"cpu": "100KB"}, "offload_folder": folder, "anyway": anyway}
        with pytest.raises(ModelError, match=r"needs [\d.]+ GB more on disk, and .*disk has 0.001"):
            v4kit.load(tmp_path / "model", **options)
        assert not folder.exists()
        # What an earlier load has written there is written over.
        folder.mkdir()
        (folder / "lm_head.weight.safetensors").write_bytes(bytes(2 * 10**6))
        v4kit.load(tmp_path / "model", **options)

    @pytest.mark.parametrize("anyway", [False, True])
    def test_too_little_disk_for_a_download(self, monkeypatch, tmp_path, anyway) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**9}))
        with pytest.raises(ModelError, match=r"needs 160 GB more on disk, and .* has 1 GB free"):
            expect(None, download=True, anyway=anyway)


class TestForesightOfTheLargeModel:
    """DeepSeek-V4-Flash on a machine that is told."""

    @pytest.fixture(autouse=True)
    def _machine(self, monkeypatch) -> None:
        """One GPU of 150 GB, of which someone else has 130; 23 GB of memory, 83 GB of disk."""
        gpu = Device("0", "H200 (130 GB taken)", 20 * 10**9, 20 * 10**9, 4e12, 64e9)
        monkeypatch.setattr(hardware, "_cards", lambda _: ((gpu,), (9, 0), True))
        monkeypatch.setattr(hardware, "_free_memory", lambda: 23 * 10**9)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 83 * 10**9}))

    def test_memory_that_others_hold_is_not_free(self, tmp_path) -> None:
        with pytest.raises(
            ModelError, match=r"H200 \(130 GB taken\) has 20 GB, and 1\d\d GB would"
        ):
            expect({0: "140GB", "cpu": "20GB"}, folder=tmp_path)

    def test_memory_that_is_not_there(self) -> None:
        with pytest.raises(ModelError, match=r"CPU has 23 GB, and 1\d\d GB would go there"):
            expect({0: "15GB", "cpu": "180GB"})
        plan = v4kit.plan("deepseek-ai/DeepSeek-V4-Flash", max_memory={0: "15GB", "cpu": "180GB"})
        assert plan.fits, "who gives more than there is plans for another machine"

    def test_it_may_be_tried_knowingly(self) -> None:
        assert not expect({0: "15GB", "cpu": "180GB"}, anyway=True).fits

    def test_layers_are_written_to_disk_once_more(self, tmp_path) -> None:
        with pytest.raises(
            ModelError, match=r"needs 1[34]\d GB more on disk, and .* has 83 GB free"
        ):
            expect({0: "15GB", "cpu": "10GB"}, folder=tmp_path)
        with (tmp_path / "layers.safetensors").open("wb") as file:
            os.truncate(file.fileno(), 65 * 10**9)
        assert "stay on disk" in expect({0: "15GB", "cpu": "10GB"}, folder=tmp_path).verdict

    def test_a_download_takes_of_the_same_disk(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2 * 10**11}))
        limits = {0: "15GB", "cpu": "10GB"}
        with pytest.raises(ModelError, match=r"needs [23]\d\d GB more on disk, and .* has 200 GB"):
            expect(limits, folder=tmp_path / "disk", download=True)
        expect(limits, folder=tmp_path / "disk")


def expect(max_memory, *, folder=None, download=False, anyway=False):
    """The plan of loading DeepSeek-V4-Flash here."""
    config = _source("deepseek-ai/DeepSeek-V4-Flash").config
    config.name_or_path = "deepseek-ai/DeepSeek-V4-Flash"
    here = hardware.machine(None, max_memory, here=True, disk=folder)
    return foresee.foresee(
        config,
        here,
        download=download,
        dtype="auto",
        device_map="auto",
        offload_folder=folder,
        anyway=anyway,
    )
